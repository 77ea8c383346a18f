/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Our own product for sm_90a, out[n, o] = sum over k of b[n, k] a[o, k], on 16-bit operands by TMA,
 * mbarriers and wgmma. Forward: a is W [O,I], b is x [N,I]. Features are the tile's rows, so that a
 * thread holds 2 features × COLUMNS / 4 batch rows: their moments are sums in its own registers.
 *
 *                    batch rows n           A block has 128 features × COLUMNS batch rows: two
 *               +--------------------+      warpgroups of 64 features each, and one thread of a
 *     features  | block 0: 64 | WG 0 |      third that keeps the copy engine busy. Two blocks
 *        o      |          64 | WG 1 |      make a cluster: they share the batch rows, of which
 *               +--------------------+      each fetches half for both.
 *               | block 1            |
 *               +--------------------+
 *
 * Operands may come in parts, x = 2^-e (x_0 + x_1 + ...), each 16-bit (hopper_split.cu). A slot of
 * shared memory holds 64 of the depth of one part of both operands.
 * The products of parts i and j with i + j < PARTS are taken, the smallest first.
 *
 * The tensor cores truncate what they add to an accumulator, to its own size. PROMOTE: after every
 * 64 of the depth the accumulator is added to a second set of registers, rounded to nearest, and
 * begins anew; so the many small products meet a small accumulator, and the large ones are four
 * instructions. The warpgroups take turns: one adds while the other's products run.
 */
#ifndef FBNI_CUDA_HOPPER_PRODUCT_CUH
#define FBNI_CUDA_HOPPER_PRODUCT_CUH

#include "hopper_kernels.h"
#include "hopper_ptx.cuh"

namespace fbni
{

/* ---- configuration ---- */

constexpr int TILE_FEATURES = FBNI_HOPPER_FEATURES, CLUSTER = FBNI_HOPPER_CLUSTER;
constexpr int TILE_DEPTH = 64, GROUP_FEATURES = 64;
constexpr int GROUP = 128, THREADS = 3 * GROUP; /* a warpgroup; a producer and two consumers */
/* together those that the launch bounds give: 3 × 168 */
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
constexpr int SHARED_MOST = 227 * 1024, SHARED_ALIGN = 1024;

template <int COLUMNS>
struct tile_of {
    static constexpr int ROW_BYTES = TILE_DEPTH * 2;
    static constexpr int A_BYTES = TILE_FEATURES * ROW_BYTES;
    static constexpr int B_BYTES = COLUMNS * ROW_BYTES;
    static constexpr int SLOT_BYTES = A_BYTES + B_BYTES;
    /* beside the slots: what is stored, two warpgroups × two buffers of some rows × 64 features */
    static constexpr int BARRIER_BYTES = 256, FIXED = SHARED_ALIGN + BARRIER_BYTES;
    static constexpr int BUFFER_LEAST = FBNI_HOPPER_PIECE * GROUP_FEATURES * 4;
    static constexpr int FIT = (SHARED_MOST - FIXED - 4 * BUFFER_LEAST) / SLOT_BYTES;
    static constexpr int SLOTS = FIT < 8 ? FIT : 8;
    static constexpr int LEFT = SHARED_MOST - FIXED - SLOTS * SLOT_BYTES;
    static constexpr int BUFFER_BYTES =
        COLUMNS % 128 == 0 && LEFT >= 8 * BUFFER_LEAST ? 2 * BUFFER_LEAST : BUFFER_LEAST;
    static constexpr int STORE_BYTES = 4 * BUFFER_BYTES;
    static constexpr int SHARED_BYTES = SLOTS * SLOT_BYTES + STORE_BYTES + FIXED;

    /* Rows of a buffer of T. */
    template <typename T>
    static constexpr int PIECE = BUFFER_BYTES / (GROUP_FEATURES * (int)sizeof(T));
};

/* ---- shared memory: a ring of slots ---- */

/* Where what the copy engine fills may begin. */
__device__ inline uint32_t aligned_address(const char *dynamic)
{
    return (shared_address(dynamic) + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
}

/* A walk over COUNT slots, of the producer or of consumers. */
template <int BYTES, int COUNT>
struct walk {
    uint32_t slots, barriers; /* full, then empty */
    int index;
    uint32_t phase;

    __device__ walk(uint32_t slots, uint32_t barriers)
        : slots(slots), barriers(barriers), index(0), phase(0)
    {
    }
    __device__ uint32_t slot() const
    {
        return slots + (uint32_t)index * BYTES;
    }
    __device__ uint32_t full() const
    {
        return barriers + (uint32_t)index * 8;
    }
    __device__ uint32_t empty() const
    {
        return barriers + (uint32_t)(COUNT + index) * 8;
    }
    __device__ void next()
    {
        if (++index == COUNT) {
            index = 0;
            phase ^= 1;
        }
    }
    /* Once, by one thread: `emptied` arrivals give a slot back. */
    __device__ void init_barriers(uint32_t emptied) const
    {
        for (int i = 0; i < COUNT; i++) {
            barrier_init(barriers + (uint32_t)i * 8, 1);
            barrier_init(barriers + (uint32_t)(COUNT + i) * 8, emptied);
        }
    }
};

/* Slots of both operands. */
template <int COLUMNS>
struct ring : walk<tile_of<COLUMNS>::SLOT_BYTES, tile_of<COLUMNS>::SLOTS> {
    using tile = tile_of<COLUMNS>;
    static constexpr int STORE = tile::SLOTS * tile::SLOT_BYTES;
    uint32_t store; /* what is stored on its way */

    __device__ ring(uint32_t base)
        : walk<tile::SLOT_BYTES, tile::SLOTS>(base, base + STORE + tile::STORE_BYTES),
          store(base + STORE)
    {
    }
};

/* ---- the order of tiles ---- */

/* Bands of `band` pairs of feature tiles; within a band batch tile by batch tile. So what runs at
 * the same time shares a band of W and a stretch of x, and a band is complete before the next. */
struct schedule {
    int before, pairs, tiles; /* pairs of feature tiles: not taken, taken; batch tiles */
    int band;
    int tile, step;

    __device__ bool more() const
    {
        return tile < pairs * tiles;
    }
    __device__ void next()
    {
        tile += step;
    }
    __device__ void where(int *pair, int *batch_tile) const
    {
        const int whole = band * tiles, at = tile % whole, first = tile / whole * band;
        const int width = pairs - first < band ? pairs - first : band;
        *pair = before + first + at % width;
        *batch_tile = at / width;
    }
};

/* ---- load ---- */

/* blocks: of the depth, or of a slice of it, which has `count` batch tiles. */
template <int COLUMNS>
__device__ inline void load_tiles(ring<COLUMNS> r, schedule s, const CUtensorMap *a,
                                  const CUtensorMap *b, int blocks, int count, int parts)
{
    using tile = tile_of<COLUMNS>;
    constexpr int SHARE = COLUMNS / CLUSTER;
    const int rank = (int)cluster_rank();

    for (; s.more(); s.next()) {
        int pair, batch_tile;
        s.where(&pair, &batch_tile);
        const int slice = batch_tile / count, first = slice * blocks;
        const int feature = (pair * CLUSTER + rank) * TILE_FEATURES;
        const int row = (batch_tile - slice * count) * COLUMNS + rank * SHARE;
        for (int block = first; block < first + blocks; block++) {
            for (int part = 0; part < parts; part++, r.next()) {
                barrier_wait(r.empty(), r.phase ^ 1);
                barrier_expect(r.full(), tile::SLOT_BYTES);
                copy_box(r.slot(), a, r.full(), block * TILE_DEPTH, feature, part);
                copy_box_to(r.slot() + tile::A_BYTES + (uint32_t)(rank * SHARE * tile::ROW_BYTES),
                            b, r.full(), block * TILE_DEPTH, row, part, (1 << CLUSTER) - 1);
            }
        }
    }
}

/* ---- compute ---- */

/* Gives `count` slots back to the producers of both blocks, whose copies fill this block's. */
template <int COLUMNS>
__device__ inline void release(ring<COLUMNS> &r, int count)
{
    for (int i = 0; i < count; i++, r.next())
        if (threadIdx.x % GROUP < CLUSTER)
            barrier_arrive_at(r.empty(), threadIdx.x % GROUP);
}

/* The products of one block of the depth, from the smallest to the largest. */
template <half_type TYPE, int PARTS, int COLUMNS>
__device__ inline void multiply_block(float (&d)[COLUMNS / 2], ring<COLUMNS> &read, uint32_t mine,
                                      bool fresh)
{
    using instruction = wgmma<TYPE, COLUMNS>;
    uint64_t a[PARTS], b[PARTS];

#pragma unroll
    for (int part = 0; part < PARTS; part++, read.next()) {
        a[part] = operand_descriptor(read.slot() + mine);
        b[part] = operand_descriptor(read.slot() + tile_of<COLUMNS>::A_BYTES);
        barrier_wait(read.full(), read.phase);
    }
    wgmma_begin();
#pragma unroll
    for (int order = PARTS - 1; order >= 0; order--)
#pragma unroll
        for (int i = 0; i <= order; i++)
#pragma unroll
            for (int k = 0; k < TILE_DEPTH / 16; k++)
                instruction::multiply(d, a[i] + 2 * k, b[order - i] + 2 * k,
                                      order < PARTS - 1 || i > 0 || k > 0 || !fresh);
    wgmma_commit();
}

/* Tells those that follow (hopper_follow.cuh) of a tile that the warpgroup has stored: some blocks
 * of the depth later, when the copy engine is through with it. */
template <bool FOLLOW>
struct announcement {
    static constexpr int LATER = 6;
    unsigned *done; /* of all pairs */
    int pair;       /* of the tile; -1: nothing to tell */

    __device__ void make()
    {
        if (FOLLOW && pair >= 0 && threadIdx.x % GROUP == 0) {
            store_finish();
            copy_fence_all();
            count_up(done + pair);
        }
        pair = -1;
    }
    __device__ void at(int block)
    {
        if (FOLLOW && block == LATER)
            make();
    }
};

/* d: the products over the whole depth. read and freed: walks of the same ring. */
template <half_type TYPE, int PARTS, bool FOLLOW, int COLUMNS>
__device__ inline void multiply_depth(float (&d)[COLUMNS / 2], ring<COLUMNS> &read,
                                      ring<COLUMNS> &freed, uint32_t mine, int blocks,
                                      announcement<FOLLOW> &before)
{
    multiply_block<TYPE, PARTS>(d, read, mine, true);
    for (int block = 1; block < blocks; block++) {
        multiply_block<TYPE, PARTS>(d, read, mine, false);
        before.at(block);
        wgmma_wait<1>(); /* the block before is done */
        release(freed, PARTS);
    }
    wgmma_wait<0>();
    release(freed, PARTS);
    pin(d);
}

/* Named barriers: of warpgroup 0's turn, and the next of 1's; of a warpgroup alone, likewise. */
enum { TURN = 1, ALONE = 3 };

/* sum: the same, block by block. */
template <half_type TYPE, int PARTS, int COLUMNS>
__device__ inline void multiply_promoted(float (&sum)[COLUMNS / 2], ring<COLUMNS> &read,
                                         ring<COLUMNS> &freed, uint32_t mine, int blocks)
{
    const int group = (int)threadIdx.x / GROUP - 1;
    float d[COLUMNS / 2];

#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++)
        sum[i] = 0;
    for (int block = 0; block < blocks; block++) {
        named_wait(TURN + group, 2 * GROUP);
        multiply_block<TYPE, PARTS>(d, read, mine, true);
        named_arrive(TURN + 1 - group, 2 * GROUP);
        wgmma_wait<0>();
        pin(d);
        release(freed, PARTS);
#pragma unroll
        for (int i = 0; i < COLUMNS / 2; i++)
            sum[i] += d[i];
    }
}

} // namespace fbni

#endif
