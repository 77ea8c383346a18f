/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernel of the Hopper product; hopper_product.cuh has the tile's picture. It is compiled in two
 * files, which take a core minutes each: hopper_product_single.cu for one part of each operand, and
 * hopper_product_parts.cu for several.
 */
#ifndef FBNI_CUDA_HOPPER_PRODUCT_KERNEL_CUH
#define FBNI_CUDA_HOPPER_PRODUCT_KERNEL_CUH

#include "device.cuh"
#include "hopper_follow.cuh"
#include "hopper_variants.cuh"

namespace fbni
{

/* T: of y. */
template <typename T, half_type TYPE, int PARTS, bool PROMOTE, bool FOLLOW, int COLUMNS>
__device__ inline void consume(ring<COLUMNS> read, schedule s, const product_arguments &a,
                               const CUtensorMap *out, bool scaled)
{
    const int group = (int)threadIdx.x / GROUP - 1;
    const uint32_t mine = (uint32_t)(group * GROUP_FEATURES * tile_of<COLUMNS>::ROW_BYTES);
    ring<COLUMNS> freed = read;
    announcement<FOLLOW> before = {a.done, -1};
    float d[COLUMNS / 2];

    if (PROMOTE && group == 1)
        named_arrive(TURN, 2 * GROUP);
    for (; s.more(); s.next()) {
        int pair, batch_tile;
        if (PROMOTE)
            multiply_promoted<TYPE, PARTS>(d, read, freed, mine, a.blocks);
        else
            multiply_depth<TYPE, PARTS>(d, read, freed, mine, a.blocks, before);
        before.make();
        s.where(&pair, &batch_tile);
        finish<T, COLUMNS>(d, a, out, read.store, pair * CLUSTER + (int)cluster_rank(), batch_tile,
                           scaled);
        if (FOLLOW && pair < a.followed) {
            named_wait(ALONE + group, GROUP); /* all of its threads have stored the moments */
            before.pair = pair;
        }
    }
    before.make();
    if (PROMOTE && group == 0)
        named_wait(TURN, 2 * GROUP);
    if (threadIdx.x % GROUP == 0)
        store_wait<0>();
}

template <half_type TYPE, int RESCUE>
struct result_of {
    using type = float;
};
template <>
struct result_of<half_type::F16, 0> {
    using type = __half;
};
template <>
struct result_of<half_type::BF16, 0> {
    using type = __nv_bfloat16;
};

/* RESCUE: parts of bf16 where *a.rescue says so; 0: never.
 * FOLLOW: other blocks may follow; kernels of their own, since the code alone costs the others 5 us
 * of 125 (65536 x 512 -> 512, bf16). */
template <int COLUMNS, half_type TYPE, int PARTS, bool PROMOTE, int RESCUE, bool FOLLOW>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    hopper_product(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x,
                   const __grid_constant__ CUtensorMap w_rescue,
                   const __grid_constant__ CUtensorMap out,
                   const __grid_constant__ fbni_hopper_follow follow,
                   const __grid_constant__ product_arguments a)
{
    using T = typename result_of<TYPE, RESCUE>::type;
    extern __shared__ char dynamic[];
    const uint32_t base = aligned_address(dynamic);
    ring<COLUMNS> r(base);
    const int cluster = (int)blockIdx.x / CLUSTER;
    schedule s = {a.before, a.pairs, a.tiles, a.band, cluster, a.clusters};

    if (threadIdx.x == 0) {
        prefetch_map(&w);
        prefetch_map(&x);
        r.init_barriers(CLUSTER * (THREADS / GROUP - 1));
        barrier_init_fence();
    }
    __syncthreads();
    cluster_arrive();
    cluster_wait();
    if (!a.beside)
        wait_for_kernels();
    let_kernels_ahead();
    const bool rescue = RESCUE > 0 && a.rescue && *a.rescue != 0;
    if (RESCUE > 0 && a.rescues && !rescue)
        s.tile = s.pairs * s.tiles;

    if (FOLLOW && cluster >= a.clusters) {
        if constexpr (FOLLOW)
            follow_product<T>(dynamic + (base - shared_address(dynamic)), base,
                              (int)blockIdx.x - a.clusters * CLUSTER, follow, a.tiles, COLUMNS,
                              a.partials, a.finish.activation);
    } else if (threadIdx.x < GROUP) {
        keep_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0)
            load_tiles(r, s, rescue ? &w_rescue : &w, &x, a.blocks, a.count,
                       rescue ? RESCUE : PARTS);
    } else {
        take_registers<CONSUMER_REGISTERS>();
        if (RESCUE > 0 && rescue)
            consume<T, half_type::BF16, (RESCUE > 0 ? RESCUE : 1), PROMOTE, FOLLOW>(r, s, a, &out,
                                                                                    false);
        else
            consume<T, TYPE, PARTS, PROMOTE, FOLLOW>(r, s, a, &out, a.w_exponents != NULL);
    }
    __syncwarp();
    cluster_arrive(); /* the other block may still be writing to this one's shared memory */
    cluster_wait();
    if (a.beside)
        wait_for_kernels(); /* whoever waits for this one waits for that too */
}

#define FBNI_VARIANT(KIND, COLUMNS, TYPE, PARTS, PROMOTE, RESCUE, FOLLOW)                          \
    {                                                                                              \
        FBNI_HOPPER_##KIND, COLUMNS, FOLLOW ? FOLLOWED : PLAIN, CLUSTER,                           \
            tile_of<COLUMNS>::SHARED_BYTES,                                                        \
            hopper_product<COLUMNS, half_type::TYPE, PARTS, PROMOTE, RESCUE, FOLLOW>               \
    }

} // namespace fbni

#endif
