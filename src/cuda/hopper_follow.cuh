/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Normalisation behind the product, in the same launch. Where the tiles of a product fill its waves
 * without all multiprocessors (16 waves of 64 clusters at 16384 x 4096 -> 4096, of an H200's 66),
 * the clusters left over take the pairs of feature tiles that the others have completed: they merge
 * the moments, make the features, and turn u into y, while the others multiply the next pairs. What
 * is complete too late is left to the kernels that come after (cuda_hopper_plan.c says how much).
 *
 *     blocks that multiply       band 0 | band 1 | band 2 | band 3 |
 *     blocks that follow                | y of 0 | y of 1 | y of 2 |
 *     kernels after                                                | y of 3
 *
 * A block takes every so many pairs, all rows of 256 features: its first thread keeps the copy
 * engine busy both ways through a ring of stages, 256 others turn a stage into y in its place.
 *
 *     stage       copies in -> full -> [ act(a (v - c) + b), in place ] -> ready -> copies out
 *
 * On an H100, whose L2 cache the product keeps busy, a block moves 38 GB/s either way, 0.85 us a
 * stage; what the 256 do is hidden behind that: all loads of a stage before its arithmetic, or one
 * row after the other, made no difference. y stored by them took 1.13 us, boxes of 128 bytes x 16
 * rows, 32 a stage, 1.7.
 */
#ifndef FBNI_CUDA_HOPPER_FOLLOW_CUH
#define FBNI_CUDA_HOPPER_FOLLOW_CUH

#include "activations.cuh"
#include "features.cuh"
#include "hopper_epilogue.cuh"
#include "hopper_product.cuh"

namespace fbni
{

/* ---- configuration ---- */

constexpr int PAIR = FBNI_HOPPER_PAIR, FOLLOWERS = 2 * GROUP, FOLLOW_WARPS = FOLLOWERS / 32;
constexpr int STAGES = 6, STAGE_BYTES = FBNI_HOPPER_STAGE;
constexpr int BEHIND = STAGES - 2; /* stages from a load to the store of the same */
/* after the stages: barriers full and ready; two sets of three coefficients a feature */
constexpr int FOLLOW_BARRIERS = STAGES * STAGE_BYTES, FOLLOW_BARRIER_BYTES = 128;
constexpr int FOLLOW_COEFFICIENTS = FOLLOW_BARRIERS + FOLLOW_BARRIER_BYTES;
constexpr int FOLLOW_BYTES = FOLLOW_COEFFICIENTS + 2 * 3 * PAIR * (int)sizeof(float);
static_assert(FOLLOW_BYTES <= tile_of<176>::SHARED_BYTES - SHARED_ALIGN, "the smallest of tiles");
static_assert(TILE_FEATURES * CLUSTER == FOLLOWERS, "a thread has one feature of a pair");

/* Rows of a pair, of entries of SIZE bytes, in a stage. */
template <int SIZE>
struct stage_of {
    static constexpr int ROWS = STAGE_BYTES / (PAIR * SIZE);
    static constexpr int COUNT = 16 / SIZE, LANES = PAIR / COUNT; /* of a thread; of a row */
};

/* What the blocks know of the product that they follow. */
struct followed {
    int pairs, tiles, tile_rows;
    const unsigned *done;
    const float *partials;
    const fbni_cuda_features &features;

    __device__ void wait(int pair) const
    {
        wait_for_count(done + pair, (unsigned)(2 * CLUSTER * tiles)); /* warpgroups */
    }
};

/* ---- load and store: one thread ---- */

/* Stages in the order of rows, and of the block's pairs. */
struct follow_walk {
    int pair, step, rows, height;
    int64_t row;

    __device__ bool starts() const
    {
        return row == 0;
    }
    __device__ void next()
    {
        row += height;
        if (row >= rows) {
            row = 0;
            pair += step;
        }
    }
};

__device__ inline void carry_stages(uint32_t base, follow_walk in, const followed &f,
                                    const CUtensorMap *from, const CUtensorMap *to)
{
    const uint32_t full = base + FOLLOW_BARRIERS, ready = full + STAGES * 8;
    follow_walk out = in;

    for (int k = 0; out.pair < f.pairs; k++) {
        if (in.pair < f.pairs) {
            const uint32_t barrier = full + (uint32_t)(k % STAGES * 8);
            if (in.starts())
                f.wait(in.pair);
            store_wait<STAGES - 1 - BEHIND>(); /* what was in the stage has been read */
            barrier_expect(barrier, STAGE_BYTES);
            copy_box(base + (uint32_t)(k % STAGES * STAGE_BYTES), from, barrier, in.pair * PAIR,
                     (int)in.row);
            in.next();
        }
        if (k >= BEHIND) {
            const int index = (k - BEHIND) % STAGES;
            barrier_wait(ready + (uint32_t)(index * 8), (uint32_t)((k - BEHIND) / STAGES & 1));
            store_box(to, base + (uint32_t)(index * STAGE_BYTES), out.pair * PAIR, (int)out.row);
            store_commit();
            out.next();
        }
    }
    store_finish();
}

/* ---- features and coefficients: a thread each ---- */

/* y = act(a (v - c) + b) of a stored value v. */
struct follow_coefficients {
    float a, c, b;
};

/* A thread's feature, from stored values to y: of packed ones, by tiles, whose moments are fetched
 * a tile before they are needed. */
template <bool PACKED>
struct follow_scale {
    float alpha, c, shift;   /* the feature's */
    const float *moments;    /* packed: of the next tile; or NULL */
    float tile_shift, power; /* of this one */

    __device__ follow_scale(const followed &f, int64_t j)
    {
        alpha = c = shift = 0;
        moments = NULL;
        if (j < f.features.O) {
            const trained of = train_of_tiles(f.features, f.partials, f.tiles, f.tile_rows, j);
            keep_tiles_feature(f.features, j, of);
            alpha = (float)of.affine.alpha;
            c = (float)of.affine.c;
            shift = (float)of.affine.shift;
            moments = f.partials + (int64_t)(f.tiles - 1) * 4 * f.features.O + j;
        }
        fetch(f);
    }
    __device__ void fetch(const followed &f)
    {
        tile_shift = power = 0;
        if (PACKED && moments && moments >= f.partials) {
            tile_shift = moments[0];
            power = moments[3 * f.features.O];
            moments -= 4 * f.features.O;
        }
    }
    __device__ follow_coefficients next(const followed &f)
    {
        if (!PACKED)
            return {alpha, c, shift};
        const unpacking u(tile_shift, (int)power + 10, alpha, c, shift);
        fetch(f);
        return {u.a, 0, u.b};
    }
};

/* ---- y, in a stage's place ---- */

/* A thread's values of a row of a stage: 4 floats, or 8 packed ones of a half type. */
__device__ inline void unpack_words(float (&v)[4], const uint4 &words)
{
    memcpy(v, &words, sizeof v);
}

__device__ inline void unpack_words(float (&v)[8], const uint4 &words)
{
    __half2 pairs[4];
    memcpy(pairs, &words, sizeof pairs);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float2 pair = __half22float2(pairs[k]);
        v[2 * k] = pair.x;
        v[2 * k + 1] = pair.y;
    }
}

template <typename T, fbn_activation ACT>
__device__ inline void finish_stages(char *memory, uint32_t base, follow_walk walk,
                                     const followed &f)
{
    constexpr int SIZE = (int)sizeof(T);
    constexpr bool PACKED = SIZE == 2;
    using stage = stage_of<SIZE>;
    constexpr int COUNT = stage::COUNT, ROWS = STAGE_BYTES / (FOLLOWERS * 16);
    const int t = (int)threadIdx.x - GROUP, lane = t % stage::LANES;
    const uint32_t full = base + FOLLOW_BARRIERS, ready = full + STAGES * 8;
    float *const shared = (float *)(void *)(memory + FOLLOW_COEFFICIENTS);
    int k = 0, turn = 0;

    while (walk.pair < f.pairs) {
        if (t == 0)
            f.wait(walk.pair);
        named_wait(ALONE, FOLLOWERS);
        follow_scale<PACKED> scale(f, (int64_t)walk.pair * PAIR + t);
        float a[COUNT], c[COUNT], b[COUNT];

        for (const int pair = walk.pair; walk.pair == pair; walk.next(), k++) {
            if (PACKED ? walk.row % f.tile_rows == 0 : walk.starts()) {
                float *const set = shared + turn * 3 * PAIR;
                const follow_coefficients mine = scale.next(f);
                set[t] = mine.a;
                set[PAIR + t] = mine.c;
                set[2 * PAIR + t] = mine.b;
                named_wait(ALONE, FOLLOWERS);
#pragma unroll
                for (int i = 0; i < COUNT; i++) {
                    a[i] = set[lane * COUNT + i];
                    c[i] = set[PAIR + lane * COUNT + i];
                    b[i] = set[2 * PAIR + lane * COUNT + i];
                }
                turn ^= 1; /* who is slow may still read this one when the next is written */
            }
            char *const mine = memory + k % STAGES * STAGE_BYTES + t * 16;
            barrier_wait(full + (uint32_t)(k % STAGES * 8), (uint32_t)(k / STAGES & 1));
            uint4 words[ROWS]; /* all on their way before the first is needed */
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                words[i] = *(const uint4 *)(const void *)(mine + i * (FOLLOWERS * 16));
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                float v[COUNT];
                pack<T, COUNT> y;
                unpack_words(v, words[i]);
#pragma unroll
                for (int n = 0; n < COUNT; n++)
                    y.at[n] =
                        from_real<T>(activate<ACT>(fmaf(a[n], PACKED ? v[n] : v[n] - c[n], b[n])));
                memcpy(&words[i], &y, sizeof y);
                *(uint4 *)(void *)(mine + i * (FOLLOWERS * 16)) = words[i];
            }
            copy_fence();
            __syncwarp();
            if (threadIdx.x % 32 == 0)
                barrier_arrive(ready + (uint32_t)(k % STAGES * 8));
        }
    }
}

/* ---- a block that follows ---- */

/* follower: the block's number among those that follow. T: of y. */
template <typename T>
__device__ void follow_product(char *memory, uint32_t base, int follower,
                               const fbni_hopper_follow &of, int tiles, int tile_rows,
                               const float *partials, fbn_activation activation)
{
    const followed f = {of.pairs, tiles, tile_rows, of.done, partials, of.features};
    const follow_walk walk = {follower, of.clusters * CLUSTER, (int)of.features.batch,
                              stage_of<(int)sizeof(T)>::ROWS, 0};

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(base + FOLLOW_BARRIERS + (uint32_t)i * 8, 1);
            barrier_init(base + FOLLOW_BARRIERS + (uint32_t)(STAGES + i) * 8, FOLLOW_WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        if (threadIdx.x == 0)
            carry_stages(base, walk, f, &of.from, &of.to);
        return;
    }
    switch (activation) {
    case FBN_ACT_RELU:
        finish_stages<T, FBN_ACT_RELU>(memory, base, walk, f);
        break;
    case FBN_ACT_GELU:
        finish_stages<T, FBN_ACT_GELU>(memory, base, walk, f);
        break;
    case FBN_ACT_SILU:
        finish_stages<T, FBN_ACT_SILU>(memory, base, walk, f);
        break;
    default:
        finish_stages<T, FBN_ACT_NONE>(memory, base, walk, f);
        break;
    }
}

} // namespace fbni

#endif
