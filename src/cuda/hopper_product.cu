/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernel and the launcher of the Hopper product; hopper_product.cuh has the tile's picture.
 */
#include "device.cuh"
#include "hopper_epilogue.cuh"
#include "hopper_follow.cuh"
#include "hopper_product.cuh"

namespace
{

using namespace fbni;

/* The kernel's arguments beside the maps. */
struct arguments {
    int64_t N, O;
    int blocks; /* of the depth */
    int pairs, tiles, band;
    const int *w_exponents, *x_exponents, *rescue;
    void *out; /* NULL: the copy engine stores, by the map */
    int64_t ldout;
    fbni_hopper_result stored;
    float *partials;
    fbni_cuda_finish finish; /* of FBNI_HOPPER_Y, and of what follows */
    int clusters;            /* that multiply */
    int followed;            /* the pairs whose tiles are counted */
    unsigned *done;
};

template <typename T, int COLUMNS>
__device__ void store(const float (&d)[COLUMNS / 2], const arguments &a, const fragment &f,
                      const outlet &o)
{
    if (a.out)
        store_tile(d, f, (T *)a.out, a.ldout);
    else
        copy_tile<T, tile_of<COLUMNS>::template PIECE<T>>(d, o);
}

/* Packed, and the moments, in one pass if that will do. */
template <int COLUMNS>
__device__ void store_packed(tile_moments (&m)[2], float (&d)[COLUMNS / 2], const arguments &a,
                             const fragment &f, const outlet &o)
{
    constexpr int PIECE = tile_of<COLUMNS>::template PIECE<__half>;
    const int rows = rows_of<COLUMNS / 2>(f);

    if (!a.out && rows == COLUMNS && pack_tile<PIECE>(m, d, o))
        return;
    pack_registers(m, d, rows);
    store<__half, COLUMNS>(d, a, f, o);
}

template <typename T, int COLUMNS>
__device__ void finish(float (&d)[COLUMNS / 2], const arguments &a, const CUtensorMap *out,
                       uint32_t buffers, int pair, int batch_tile, bool scaled)
{
    const int group = (int)threadIdx.x / GROUP - 1, t = (int)threadIdx.x % GROUP;
    const int feature =
                  (pair * CLUSTER + (int)cluster_rank()) * TILE_FEATURES + group * GROUP_FEATURES,
              row = batch_tile * COLUMNS;
    fragment f;
    f.feature = feature + t / 32 * 16 + t % 32 / 4;
    f.row = row + t % 4 * 2;
    f.features = a.O;
    f.rows = a.N;

    const outlet o = {out,     buffers + (uint32_t)(group * tile_of<COLUMNS>::STORE_BYTES / 2),
                      feature, row,
                      t,       ALONE + group};
    tile_moments m[2];

    if (scaled)
        unscale(d, f, a.w_exponents, a.x_exponents);
    if (a.stored == FBNI_HOPPER_Y) {
        finish_registers(d, f, a.finish);
        store<T, COLUMNS>(d, a, f, o);
    } else if (sizeof(T) == 2 && a.stored == FBNI_HOPPER_PACKED) {
        store_packed<COLUMNS>(m, d, a, f, o);
    } else {
        if (a.partials)
            take_moments(m, d, rows_of<COLUMNS / 2>(f));
        store<float, COLUMNS>(d, a, f, o);
    }
    if (a.partials)
        store_moments(m, f, a.partials + (int64_t)(a.tiles - 1 - batch_tile) * 4 * a.O);
}

/* T: of y. */
template <typename T, half_type TYPE, int PARTS, int W_PARTS, bool PROMOTE, bool FOLLOW,
          int COLUMNS>
__device__ void consume(ring<COLUMNS> read, schedule s, const arguments &a, const CUtensorMap *out,
                        bool scaled)
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
            multiply_promoted<TYPE, PARTS, W_PARTS>(d, read, freed, mine, a.blocks);
        else
            multiply_depth<TYPE, PARTS, W_PARTS>(d, read, freed, mine, a.blocks, before);
        before.make();
        s.where(&pair, &batch_tile);
        finish<T, COLUMNS>(d, a, out, read.store, pair, batch_tile, scaled);
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

/* RESCUE: parts of bf16 where *a.rescue says so; 0: never. w has W_PARTS and W_RESCUE of them.
 * FOLLOW: other blocks may follow; kernels of their own, since the code alone costs the others 5 us
 * of 125 (65536 x 512 -> 512, bf16). */
template <int COLUMNS, half_type TYPE, int PARTS, int W_PARTS, bool PROMOTE, int RESCUE,
          int W_RESCUE, bool FOLLOW>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    hopper_product(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x,
                   const __grid_constant__ CUtensorMap w_rescue,
                   const __grid_constant__ CUtensorMap out,
                   const __grid_constant__ fbni_hopper_follow follow,
                   const __grid_constant__ arguments a)
{
    using tile = tile_of<COLUMNS>;
    using T = typename result_of<TYPE, RESCUE>::type;
    extern __shared__ char dynamic[];
    const uint32_t base =
        (shared_address(dynamic) + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
    ring<COLUMNS> r(base);
    const int cluster = (int)blockIdx.x / CLUSTER;
    schedule s = {a.pairs, a.tiles, a.band, cluster, a.clusters};

    if (threadIdx.x == 0) {
        prefetch_map(&w);
        prefetch_map(&x);
        for (int i = 0; i < tile::SLOTS; i++) {
            barrier_init(r.barriers + (uint32_t)i * 8, 1);
            barrier_init(r.barriers + (uint32_t)(tile::SLOTS + i) * 8,
                         CLUSTER * (THREADS / GROUP - 1));
        }
        barrier_init_fence();
    }
    __syncthreads();
    cluster_arrive();
    cluster_wait();
    wait_for_kernels();
    const bool rescue = RESCUE > 0 && *a.rescue != 0;

    if (FOLLOW && cluster >= a.clusters) {
        if constexpr (FOLLOW)
            follow_product<T>(dynamic + (base - shared_address(dynamic)), base,
                              (int)blockIdx.x - a.clusters * CLUSTER, follow, a.tiles, COLUMNS,
                              a.partials, a.finish.activation);
    } else if (threadIdx.x < GROUP) {
        keep_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0)
            load_tiles(r, s, rescue ? &w_rescue : &w, &x, a.blocks, rescue ? RESCUE : PARTS,
                       rescue ? W_RESCUE : W_PARTS);
    } else {
        take_registers<CONSUMER_REGISTERS>();
        if (RESCUE > 0 && rescue)
            consume<T, half_type::BF16, (RESCUE > 0 ? RESCUE : 1), W_RESCUE, PROMOTE, FOLLOW>(
                r, s, a, &out, false);
        else
            consume<T, TYPE, PARTS, W_PARTS, PROMOTE, FOLLOW>(r, s, a, &out, a.w_exponents != NULL);
    }
    __syncwarp();
    cluster_arrive(); /* the other block may still be writing to this one's shared memory */
    cluster_wait();
}

/* Before a product that others follow: nothing is stored yet. */
constexpr int CLEAR_BLOCK = 128;

__global__ void __launch_bounds__(CLEAR_BLOCK) clear_counts(unsigned *counts, int count)
{
    let_kernels_ahead();
    wait_for_kernels();
    for (int i = (int)threadIdx.x; i < count; i += CLEAR_BLOCK)
        counts[i] = 0;
}

typedef void kernel(const CUtensorMap, const CUtensorMap, const CUtensorMap, const CUtensorMap,
                    const fbni_hopper_follow, const arguments);

/* The kernels that there are. */
const struct variant {
    fbni_hopper_kind kind;
    int columns;
    bool follow;
    int shared;
    kernel *function;
} variants[] = {
#define VARIANT(KIND, COLUMNS, TYPE, PARTS, W_PARTS, PROMOTE, RESCUE, W_RESCUE, FOLLOW)            \
    {                                                                                              \
        FBNI_HOPPER_##KIND, COLUMNS, FOLLOW, tile_of<COLUMNS>::SHARED_BYTES,                       \
            hopper_product<COLUMNS, half_type::TYPE, PARTS, W_PARTS, PROMOTE, RESCUE, W_RESCUE,    \
                           FOLLOW>                                                                 \
    }
    VARIANT(F16, 256, F16, 1, 1, false, 0, 0, false),
    VARIANT(F16, 256, F16, 1, 1, false, 0, 0, true),
    VARIANT(F16, 128, F16, 1, 1, false, 0, 0, false),
    VARIANT(BF16, 256, BF16, 1, 1, false, 0, 0, false),
    VARIANT(BF16, 256, BF16, 1, 1, false, 0, 0, true),
    VARIANT(BF16, 128, BF16, 1, 1, false, 0, 0, false),
    VARIANT(TF32, 256, F16, 1, 1, false, 2, 2, false),
    VARIANT(TF32, 256, F16, 1, 1, false, 2, 2, true),
    VARIANT(TF32, 128, F16, 1, 1, false, 2, 2, false),
    VARIANT(FP32, 192, F16, 2, 2, true, 3, 3, false),
    VARIANT(FP32, 176, F16, 2, 2, true, 3, 3, false),
    VARIANT(FP32, 128, F16, 2, 2, true, 3, 3, false),
    VARIANT(HALF, 192, F16, 2, 1, true, 3, 2, false),
    VARIANT(HALF, 176, F16, 2, 1, true, 3, 2, false),
    VARIANT(HALF, 128, F16, 2, 1, true, 3, 2, false),
#undef VARIANT
};

const variant *find_variant(fbni_hopper_kind kind, int columns, bool follow)
{
    for (const variant &v : variants)
        if (v.kind == kind && v.columns == columns && v.follow == follow)
            return &v;
    return NULL;
}

} // namespace

int fbni_hopper_tile_columns(fbni_hopper_kind kind, int index)
{
    for (const variant &v : variants)
        if (v.kind == kind && !v.follow && index-- == 0)
            return v.columns;
    return 0;
}

int fbni_hopper_may_follow(fbni_hopper_kind kind, int columns)
{
    return find_variant(kind, columns, true) != NULL;
}

cudaError_t fbni_hopper_allow_product(fbni_hopper_kind kind)
{
    cudaError_t error = cudaSuccess;

    for (const variant &v : variants)
        if (v.kind == kind && error == cudaSuccess)
            error = cudaFuncSetAttribute(v.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         v.shared);
    return error;
}

cudaError_t fbni_hopper_multiply(const fbni_cuda_queue *queue, const fbni_hopper_product *p)
{
    const variant *v = find_variant(p->kind, p->columns, p->follow.clusters > 0);
    arguments a = {};

    if (!v)
        return cudaErrorInvalidValue;
    a.N = p->N;
    a.O = p->O;
    a.blocks = (int)ceil_div(p->I, TILE_DEPTH);
    a.pairs = (int)ceil_div(p->O, TILE_FEATURES * CLUSTER);
    a.tiles = (int)ceil_div(p->N, p->columns);
    a.band = p->band;
    a.w_exponents = p->w_exponents;
    a.x_exponents = p->x_exponents;
    a.rescue = p->rescue;
    a.out = p->out;
    a.ldout = p->ldout;
    a.partials = p->partials;
    a.stored = p->stored;
    a.finish = p->finish;
    a.clusters = p->clusters;
    if (p->follow.clusters > 0) {
        const cudaError_t error =
            launch_ahead(clear_counts, 1, CLEAR_BLOCK, queue, 0, p->follow.done, p->follow.pairs);
        if (error != cudaSuccess)
            return error;
        a.followed = p->follow.pairs;
        a.done = p->follow.done;
    }
    return launch_ahead(v->function, (unsigned)((p->clusters + p->follow.clusters) * CLUSTER),
                        THREADS, queue, (size_t)v->shared, p->w, p->x, p->w_rescue, p->result,
                        p->follow, a);
}
