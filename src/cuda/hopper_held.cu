/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The product of the half types for layers that are no deeper than FBNI_HOPPER_HELD and much longer
 * than wide: a block keeps its features of W in registers and goes down the batch.
 *
 *                 batch rows n               Two blocks make a cluster, as in hopper_product.cuh:
 *            +-----+-----+-----+---          each holds 128 features, and they share the rows of
 *   block 0  |  0  |  1  |  2  | ...         x, of which each fetches half for both. Warpgroup g
 *            +-----+-----+-----+---          of a block holds 64 of its features, 128 registers a
 *   block 1  |  0  |  1  |  2  | ...         thread; its tile is 64 x 128 rows, 64 registers.
 *            +-----+-----+-----+---
 *
 * So of the operands nothing but x comes through shared memory, and the warpgroups can take turns: one
 * finishes a tile while the other's products run, which take 2,050 cycles. Both need the same rows, a
 * tile's time apart: the ring has more slots than a tile has. Two warps beside the one that loads
 * store what they finish: by the time that the next tile is finished the buffer is free again.
 *
 * A cluster stays with its pair of feature tiles; so a block adds up the moments of its tiles, and
 * few sets of them are left to merge.
 *
 * 65536 x 512 -> 512 bf16 on an H200, us: packed u 63, y 59 where it is launched alone, and its start
 * counts (floor: 32 for the bytes, 38 for the products); the whole layer 97 in training, with what
 * begins before it ends (hopper_held_finish.cu), and 56 in inference, where the product that does not
 * hold W made them 108 and 63. Two tiles side by side take 5,000 cycles, 4,096 of them products: what
 * the other warpgroup issues costs the tensor cores as many cycles. The versions are in
 * bench/results/h200-hopper.txt, part 13.
 */
#include "hopper_held.cuh"
#include "hopper_variants.cuh"

namespace
{

using namespace fbni;
using namespace fbni::held;

/* ---- load ---- */

/* W's blocks, in the ring's first slots, and then x's. */
__device__ void load(held_ring r, const share &s, const product_arguments &a, const CUtensorMap *w,
                     const CUtensorMap *x)
{
    constexpr int SHARE = ROWS / CLUSTER;
    const int rank = (int)cluster_rank();

    for (int block = 0; block < a.blocks; block++, r.next()) {
        barrier_wait(r.empty(), r.phase ^ 1);
        barrier_expect(r.full(), SLOT_BYTES);
        copy_box(r.slot(), w, r.full(), block * TILE_DEPTH, s.feature(), 0);
    }
    for (int tile = s.first; tile < a.tiles; tile += a.holders) {
        for (int block = 0; block < a.blocks; block++, r.next()) {
            barrier_wait(r.empty(), r.phase ^ 1);
            barrier_expect(r.full(), SLOT_BYTES);
            copy_box_to(r.slot() + (uint32_t)(rank * SHARE * ROW_BYTES), x, r.full(),
                        block * TILE_DEPTH, tile * ROWS + rank * SHARE, 0, (1 << CLUSTER) - 1);
        }
    }
}

/* ---- compute ---- */

/* Gives the slot of this barrier back to those who fill it: both blocks. */
__device__ inline void give_back(uint32_t empty)
{
    if (threadIdx.x % GROUP < CLUSTER)
        barrier_arrive_at(empty, threadIdx.x % GROUP);
}

/* What a warpgroup keeps of W, as wgmma wants it. */
struct held_weights {
    uint32_t at[BLOCKS][STEPS][4];

    /* Walks over the slots in which it comes. */
    __device__ void load(held_ring &r, int blocks)
    {
        const int group = (int)threadIdx.x / GROUP - 1, lane = (int)threadIdx.x % 32;
        const int row = ((int)threadIdx.x / 32 - 4) * 16 + lane % 16;

#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
            if (block < blocks) {
                barrier_wait(r.full(), r.phase);
#pragma unroll
                for (int step = 0; step < STEPS; step++)
                    load_lines(at[block][step],
                               r.slot() + swizzled(row, step * 32 + lane / 16 * 16));
                named_wait(ALONE + group, GROUP); /* all have read */
                give_back(r.empty());
                r.next();
            }
        }
    }
};

/* d: the products over the whole depth. */
template <half_type TYPE>
__device__ inline void multiply_depth(float (&d)[COUNT], const held_weights &w, held_ring &r,
                                      int blocks)
{
    const int group = (int)threadIdx.x / GROUP - 1;
    uint32_t before = 0; /* the barrier of the slot before */

    named_wait(TURN + group, 2 * GROUP);
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
        if (block < blocks) {
            const uint64_t x = operand_descriptor(r.slot());
            barrier_wait(r.full(), r.phase);
            wgmma_begin();
#pragma unroll
            for (int step = 0; step < STEPS; step++)
                wgmma_registers<TYPE, ROWS>::multiply(d, w.at[block][step], x + 2 * step,
                                                      block > 0 || step > 0);
            wgmma_commit();
            if (block > 0) {
                wgmma_wait<1>(); /* the block before is done */
                give_back(before);
            }
            before = r.empty();
            r.next();
        }
    }
    named_arrive(TURN + 1 - group, 2 * GROUP);
    wgmma_wait<0>();
    give_back(before);
    pin(d);
}

/* ---- a warpgroup ---- */

template <typename T, half_type TYPE, fbni_hopper_result STORED>
__device__ inline void consume(held_ring r, const share &s, const product_arguments &a, outbox o)
{
    const int group = (int)threadIdx.x / GROUP - 1;
    held_weights w;

    if (group == 1)
        named_arrive(TURN, 2 * GROUP);
    w.load(r, a.blocks);
    for (int tile = s.first; tile < a.tiles; tile += a.holders) {
        float d[COUNT];

        multiply_depth<TYPE>(d, w, r, a.blocks);
        const place p(a, s, tile);
        if constexpr (STORED == FBNI_HOPPER_Y) {
            store_y<T>(d, a, p, o);
        } else {
            if (p.rows == ROWS)
                store_u<STORED == FBNI_HOPPER_PACKED, true>(d, p, o);
            else
                store_u<STORED == FBNI_HOPPER_PACKED, false>(d, p, o);
        }
    }
    if (group == 0)
        named_wait(TURN, 2 * GROUP);
}

/* ---- kernel ---- */

struct layout {
    static constexpr int BUFFERS = SLOTS * SLOT_BYTES;
    static constexpr int OUTBOXES = BUFFERS + 2 * BUFFER_BYTES;
    static constexpr int BARRIERS = OUTBOXES + 2 * outbox::BYTES;
    static constexpr int BYTES = BARRIERS + SLOTS * 16 + SHARED_ALIGN;
};
static_assert(layout::BYTES <= SHARED_MOST, "all of it fits");

constexpr int IDLE_WARP = 3;

/* The thread's warpgroup of the two that multiply; or, of warps 1 and 2, the one that they store
 * for: 0 and 1. Warps 0, which loads, and 3 have none: -1 and 2. */
__device__ inline int group_of()
{
    return (int)threadIdx.x / (threadIdx.x < GROUP ? 32 : GROUP) - 1;
}

/* STORED: a.stored, with registers for what that needs alone. */
template <typename T, half_type TYPE, fbni_hopper_result STORED>
__device__ inline void run(const held_ring &r, const share &s, const product_arguments &a,
                           const outbox &o, const CUtensorMap *w, const CUtensorMap *x,
                           const CUtensorMap *out)
{
    const int group = group_of();

    if (threadIdx.x < GROUP) {
        keep_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0)
            load(r, s, a, w, x);
        if (group == 0 || group == 1)
            store_pieces<STORED>(a, s, out, o, s.feature() + group * GROUP_FEATURES);
    } else {
        take_registers<CONSUMER_REGISTERS>();
        consume<T, TYPE, STORED>(r, s, a, o);
    }
}

template <typename T, half_type TYPE>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    hopper_held(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x,
                const __grid_constant__ CUtensorMap, const __grid_constant__ CUtensorMap out,
                const __grid_constant__ fbni_hopper_follow,
                const __grid_constant__ product_arguments a)
{
    extern __shared__ char dynamic[];
    const uint32_t base = aligned_address(dynamic);
    const held_ring r(base, base + layout::BARRIERS);
    const share s(a);
    const int group = group_of();
    const outbox o = {base + layout::BUFFERS + (uint32_t)(group * BUFFER_BYTES),
                      base + layout::OUTBOXES + (uint32_t)(group * outbox::BYTES), 0};

    if (threadIdx.x == 0) {
        prefetch_map(&w);
        prefetch_map(&x);
        r.init_barriers(CLUSTER * (THREADS / GROUP - 1));
        barrier_init_fence();
    }
    if (threadIdx.x % GROUP == 0 && threadIdx.x > 0) {
        o.init_barriers();
        barrier_init_fence();
    }
    __syncthreads();
    cluster_arrive_relaxed();
    cluster_wait();
    wait_for_kernels();
    if (threadIdx.x / 32 == IDLE_WARP) {
        if (a.held && threadIdx.x % 32 == 0 && cluster_rank() == 0)
            begin_count(s.done(a));
        __syncwarp();
        let_kernels_ahead(); /* the first thread to say so speaks for the block */
    }
    if (a.stored == FBNI_HOPPER_PACKED)
        run<T, TYPE, FBNI_HOPPER_PACKED>(r, s, a, o, &w, &x, &out);
    else if (a.stored == FBNI_HOPPER_Y)
        run<T, TYPE, FBNI_HOPPER_Y>(r, s, a, o, &w, &x, &out);
    else
        run<T, TYPE, FBNI_HOPPER_U>(r, s, a, o, &w, &x, &out);
    __syncwarp();
    cluster_arrive(); /* the other block may still be writing to this one's shared memory */
    cluster_wait();
}

} // namespace

const product_variant fbni::held_variants[] = {
    {FBNI_HOPPER_F16, ROWS, HOLDING, CLUSTER, layout::BYTES, hopper_held<__half, half_type::F16>},
    {FBNI_HOPPER_BF16, ROWS, HOLDING, CLUSTER, layout::BYTES,
     hopper_held<__nv_bfloat16, half_type::BF16>},
    {},
};
