/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The product of f32 in TF32's accuracy where W is the larger operand: W is read as it is, as float,
 * and becomes f16 on its way from shared memory to wgmma's registers. So what a split of W would
 * read and write (8192 x 8192: 403 MB, 117 us with x's) is neither read nor written.
 *
 *              batch rows n                   A cluster of four blocks, each with 128 features x
 *          +---------+---------+              256 batch rows as in hopper_product.cuh: two share
 *     o    | block 0 | block 2 |  W's rows    their features, of which each fetches half for
 *          +---------+---------+              both, and two share their rows of x, likewise. So a
 *          | block 1 | block 3 |              block fetches as many bytes as of 16-bit operands.
 *          +---------+---------+
 *             rows of x
 *
 *     W's slots:  depth 0 to 31: 128 rows x 128 bytes | depth 32 to 63, likewise
 *     x's slots:  256 rows x 128 bytes
 *
 * W's slot is free as soon as it is in registers, a block of the depth before x's.
 *
 * A thread reads 16 bytes of W at a time, entries 8 t + 4 b + (0 to 3) of 32, t = lane % 4, for
 * block b of 16 of the depth: conflict-free in the swizzled rows, whereas wgmma wants a thread to
 * have entries 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of 16. The order of the depth is free, if x has the
 * same: entry 8 t + 4 b + 2 h + e of x lies at 16 b + 8 h + 2 t + e (hopper_split.cu).
 *
 * W's exponents are from a sample (hopper_sample.cu). Whether f16 holds W's entries is seen here:
 * columns with entries beyond it are marked, and those with some that lose bits; the judge knows
 * what that means, and the call that finds f16 wanting multiplies again. A minimum and a maximum of
 * the magnitudes tell nearly always that there is nothing to mark: of 8192 x 8192 normal entries some
 * 60 lose bits. The tiles of rows, which all need the same W, share the work.
 *
 * 1024 x 8192 -> 8192 on an H200, by ncu, us:
 *     the largest entry of each column, by shuffles and atomics, of one ring of slots   485
 *     two rings                                                                         265
 *     what W's next block needs between the products of this one                        297
 *     the largest entries by two warps of their own                                     346
 *     nothing noted: 227; so, its next block before waiting for the last: 265; four
 *         slots of W and two of x: 294; two and four: 232
 *     columns marked                                                                    239
 * (bench/results/h200-hopper.txt, part 11, says what limits it.)
 */
#include "device.cuh"
#include "hopper_variants.cuh"

namespace
{

using namespace fbni;

constexpr int CLUSTER_BLOCKS = FBNI_HOPPER_DIRECT_CLUSTER, COLUMNS = 256;
constexpr int HALF_BYTES = TILE_FEATURES * 128; /* of W's slot: 32 of the depth */
constexpr int SLOTS = 3, W_BYTES = 2 * HALF_BYTES, X_BYTES = tile_of<COLUMNS>::B_BYTES;
constexpr int SHARED_BYTES =
    SLOTS * (W_BYTES + X_BYTES) + tile_of<COLUMNS>::STORE_BYTES + tile_of<COLUMNS>::FIXED;
static_assert(SHARED_BYTES <= SHARED_MOST, "all of it fits");
constexpr int STEPS = TILE_DEPTH / 16, WARPS = 2 * GROUP / 32;
constexpr float LEAST = 0x1p-13f, MOST = 65504; /* f16 has all of its 11 bits between them */
constexpr int SHARERS = 2;                      /* blocks that fetch an operand for each other */
using w_ring = walk<W_BYTES, SLOTS>;
using x_ring = walk<X_BYTES, SLOTS>;

/* ---- shared memory ---- */

struct rings {
    w_ring w;
    x_ring x;
    uint32_t store;

    __device__ rings(uint32_t base)
        : w(base, base + BARRIERS), x(base + SLOTS * W_BYTES, base + BARRIERS + SLOTS * 16),
          store(base + STORE)
    {
    }

  private:
    static constexpr int STORE = SLOTS * (W_BYTES + X_BYTES);
    static constexpr int BARRIERS = STORE + tile_of<COLUMNS>::STORE_BYTES;
};

/* ---- load: a thread for each operand ---- */

/* A block's place in its cluster, and the tile that it has of what the cluster has. */
struct place {
    int half, rows; /* features; batch rows */

    __device__ place() : half((int)cluster_rank() % 2), rows((int)cluster_rank() / 2)
    {
    }
    __device__ void tile_of_step(const schedule &s, int *feature_tile, int *batch_tile) const
    {
        int pair, step;
        s.where(&pair, &step);
        *feature_tile = pair * 2 + half;
        *batch_tile = step * 2 + rows;
    }
};

__device__ void load_w(w_ring r, schedule s, const CUtensorMap *w, int blocks)
{
    const place p;
    const uint16_t sharers = (uint16_t)(5 << p.half);
    const int share = p.rows * (TILE_FEATURES / 2);

    for (; s.more(); s.next()) {
        int feature_tile, batch_tile;
        p.tile_of_step(s, &feature_tile, &batch_tile);
        for (int block = 0; block < blocks; block++, r.next()) {
            barrier_wait(r.empty(), r.phase ^ 1);
            barrier_expect(r.full(), W_BYTES);
            for (int half = 0; half < 2; half++)
                copy_box_to(r.slot() + (uint32_t)(half * HALF_BYTES + share * 128), w, r.full(),
                            block * TILE_DEPTH + half * 32, feature_tile * TILE_FEATURES + share, 0,
                            sharers);
        }
    }
}

__device__ void load_x(x_ring r, schedule s, const CUtensorMap *x, int blocks)
{
    const place p;
    const uint16_t sharers = (uint16_t)(3 << 2 * p.rows);
    const int share = p.half * (COLUMNS / 2);

    for (; s.more(); s.next()) {
        int feature_tile, batch_tile;
        p.tile_of_step(s, &feature_tile, &batch_tile);
        for (int block = 0; block < blocks; block++, r.next()) {
            barrier_wait(r.empty(), r.phase ^ 1);
            barrier_expect(r.full(), X_BYTES);
            copy_box_to(r.slot() + (uint32_t)(share * 128), x, r.full(), block * TILE_DEPTH,
                        batch_tile * COLUMNS + share, 0, sharers);
        }
    }
}

/* ---- W, to f16 ---- */

__device__ inline float scale_of(const product_arguments &a, int64_t feature)
{
    return feature < a.O ? power_of_two(a.w_exponents[feature]) : 0;
}

/* A warp is through with a slot, which goes back to those who fill it. */
__device__ inline void release_w(w_ring &r)
{
    const uint32_t lane = threadIdx.x % 32;
    if (lane < SHARERS)
        barrier_arrive_at(r.empty(), cluster_rank() ^ lane * 2);
}

/* The rows of W that a thread has: t / 4 and t / 4 + 8 of its warp's 16. */
struct w_rows {
    uint32_t place; /* of the first in a slot, of the thread's 16 bytes in it */
    float scale[2];

    __device__ w_rows(const product_arguments &a, int feature_tile)
    {
        const int t = (int)threadIdx.x - GROUP, row = t / 32 * 16 + t % 32 / 4;
        const int64_t feature = (int64_t)feature_tile * TILE_FEATURES + row;

        place = (uint32_t)(row * 128 + (t % 4 * 2 ^ row % 8) * 16);
        for (int h = 0; h < 2; h++)
            scale[h] = scale_of(a, feature + 8 * h);
    }
};

/* 64 of the depth as wgmma's operands. */
__device__ inline void to_registers(uint32_t (&to)[STEPS][4], uint32_t slot, const w_rows &rows)
{
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const uint32_t from =
            slot + (rows.place ^ (uint32_t)(step % 2 * 16)) + (uint32_t)(step / 2 * HALF_BYTES);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float4 v = load_shared(from + (uint32_t)(h * 8 * 128));
            const __half2 pairs[2] = {__floats2half2_rn(v.x * rows.scale[h], v.y * rows.scale[h]),
                                      __floats2half2_rn(v.z * rows.scale[h], v.w * rows.scale[h])};
#pragma unroll
            for (int k = 0; k < 2; k++)
                memcpy(&to[step][2 * k + h], &pairs[k], sizeof pairs[k]);
        }
    }
}

/* ---- what f16 does not hold ---- */

/* Marks the columns of a thread's entries of a block of W, from `column` on. */
__device__ inline void mark_columns(uint32_t slot, const w_rows &rows, const product_arguments &a,
                                    int64_t column)
{
    const float infinity = __int_as_float(0x7f800000);

    column += threadIdx.x % 4 * 8;
    for (int step = 0; step < STEPS; step++) {
        for (int h = 0; h < 2; h++) {
            const float4 v = load_shared(slot + (rows.place ^ (uint32_t)(step % 2 * 16)) +
                                         (uint32_t)(step / 2 * HALF_BYTES + h * 8 * 128));
            const float entries[4] = {v.x, v.y, v.z, v.w};
            for (int k = 0; k < 4; k++) {
                const float magnitude = fabsf(entries[k] * rows.scale[h]);
                const int64_t at = column + step / 2 * 32 + step % 2 * 4 + k;
                if (at >= a.columns)
                    continue;
                if (magnitude > MOST && fabsf(entries[k]) < infinity)
                    (void)atomicOr(a.columns_of_w + at, FBNI_HOPPER_BEYOND);
                if (magnitude > 0 && magnitude < LEAST)
                    (void)atomicOr(a.columns_of_w + at, FBNI_HOPPER_BELOW);
            }
        }
    }
}

/* Whether some of a thread's entries are beyond f16's range, or below where it has all of its bits;
 * zeros may be. */
__device__ inline bool is_doubtful(const uint32_t (&w)[STEPS][4])
{
    __half2 least = __float2half2_rn(1), most = least;

#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            __half2 pair;
            memcpy(&pair, &w[step][k], sizeof pair);
            least = __hmin2(least, __habs2(pair));
            most = __hmax2(most, __habs2(pair));
        }
    }
    return fminf(__low2float(least), __high2float(least)) < LEAST ||
           fmaxf(__low2float(most), __high2float(most)) > MOST;
}

/* ---- compute ---- */

/* The products of one block of the depth. w: not to be changed until they are done. */
__device__ inline void multiply_block(float (&d)[COLUMNS / 2], uint32_t (&w)[STEPS][4], rings &read,
                                      const w_rows &rows, const product_arguments &a, int block,
                                      bool looking)
{
    const uint64_t x = operand_descriptor(read.x.slot());

    barrier_wait(read.w.full(), read.w.phase);
    to_registers(w, read.w.slot(), rows);
    barrier_wait(read.x.full(), read.x.phase);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < STEPS; step++)
        wgmma_registers<half_type::F16, COLUMNS>::multiply(d, w[step], x + 2 * step,
                                                           block > 0 || step > 0);
    wgmma_commit();
    if (looking && is_doubtful(w))
        mark_columns(read.w.slot(), rows, a, (int64_t)block * TILE_DEPTH);
    __syncwarp();
    release_w(read.w);
    read.w.next();
    read.x.next();
}

/* x's slot goes back to those who fill it. */
__device__ inline void release_x(x_ring &r)
{
    if (threadIdx.x % GROUP < SHARERS)
        barrier_arrive_at(r.empty(), cluster_rank() ^ threadIdx.x % GROUP);
    r.next();
}

/* d: the products over the whole depth. Each of the tiles of rows looks at its part of W. */
__device__ inline void multiply_depth(float (&d)[COLUMNS / 2], rings &read, x_ring &freed,
                                      const w_rows &rows, const product_arguments &a,
                                      int batch_tile)
{
    uint32_t w[2][STEPS][4];
    int mine = batch_tile;

    for (int block = 0; block < a.blocks; block += 2) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const bool looking = block + i == mine;
            if (block + i >= a.blocks)
                break;
            multiply_block(d, w[i], read, rows, a, block + i, looking);
            mine += looking ? a.tiles : 0;
            if (block + i > 0) {
                wgmma_wait<1>(); /* the block before is done */
                release_x(freed);
            }
        }
    }
    wgmma_wait<0>();
    release_x(freed);
    pin(d);
}

__device__ void consume(rings read, schedule s, const product_arguments &a, const CUtensorMap *out)
{
    const place p;
    x_ring freed = read.x;
    float d[COLUMNS / 2];

    for (; s.more(); s.next()) {
        int feature_tile, batch_tile;
        p.tile_of_step(s, &feature_tile, &batch_tile);
        multiply_depth(d, read, freed, w_rows(a, feature_tile), a, batch_tile);
        if (batch_tile < a.tiles)
            finish<float, COLUMNS>(d, a, out, read.store, feature_tile, batch_tile, true);
    }
    if (threadIdx.x % GROUP == 0)
        store_wait<0>();
}

/* ---- kernel ---- */

__global__ void __cluster_dims__(CLUSTER_BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
    hopper_direct(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x,
                  const __grid_constant__ CUtensorMap, const __grid_constant__ CUtensorMap out,
                  const __grid_constant__ fbni_hopper_follow,
                  const __grid_constant__ product_arguments a)
{
    extern __shared__ char dynamic[];
    const uint32_t base = aligned_address(dynamic);
    const rings r(base);
    const schedule s = {
        a.before, a.pairs, (a.tiles + 1) / 2, a.band, (int)blockIdx.x / CLUSTER_BLOCKS, a.clusters};

    if (threadIdx.x == 0) {
        prefetch_map(&w);
        prefetch_map(&x);
        r.w.init_barriers(SHARERS * WARPS);
        r.x.init_barriers(SHARERS * (THREADS / GROUP - 1));
        barrier_init_fence();
    }
    __syncthreads();
    cluster_arrive();
    cluster_wait();
    wait_for_kernels();
    let_kernels_ahead(); /* one may multiply beside this one */
    if (threadIdx.x < GROUP) {
        keep_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0)
            load_w(r.w, s, &w, a.blocks);
        if (threadIdx.x == 32)
            load_x(r.x, s, &x, a.blocks);
    } else {
        take_registers<CONSUMER_REGISTERS>();
        consume(r, s, a, &out);
    }
    __syncwarp();
    cluster_arrive(); /* the other blocks may still be writing to this one's shared memory */
    cluster_wait();
}

} // namespace

const product_variant fbni::direct_variants[] = {
    {FBNI_HOPPER_DIRECT, COLUMNS, PLAIN, CLUSTER_BLOCKS, SHARED_BYTES, hopper_direct},
    {},
};

cudaError_t fbni_hopper_direct_clusters(int *clusters)
{
    cudaLaunchAttribute cluster = {};
    cudaLaunchConfig_t config = {};
    const cudaError_t error = cudaFuncSetAttribute(
        hopper_direct, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);

    if (error != cudaSuccess)
        return error;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {CLUSTER_BLOCKS, 1, 1};
    config.gridDim = CLUSTER_BLOCKS;
    config.blockDim = THREADS;
    config.dynamicSmemBytes = SHARED_BYTES;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return cudaOccupancyMaxActiveClusters(clusters, hopper_direct, &config);
}
