/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From what a product stored to y, by way of a ring of stages in shared memory: a block's first
 * thread keeps the copy engine busy both ways, FINISHERS others turn a stage into y in its place.
 *
 *     stage       copies in -> full -> [ act(a (v - c) + b), in place ] -> finished -> copies out
 *
 * A stage is some rows of a pair of feature tiles: of u in float, or packed in 16 bits
 * (hopper_moments.cuh). Which, and in what order, a WALK says:
 *
 *     bool there() const    there is one more
 *     int pair, row         its pair, its first row
 *     int tile() const      the product's tile of rows that it is in
 *     void next()
 */
#ifndef FBNI_CUDA_HOPPER_STAGES_CUH
#define FBNI_CUDA_HOPPER_STAGES_CUH

#include "activations.cuh"
#include "features.cuh"
#include "hopper_moments.cuh"
#include "hopper_product.cuh"

namespace fbni
{

/* ---- configuration ---- */

constexpr int PAIR = FBNI_HOPPER_PAIR, FINISHERS = 2 * GROUP, FINISHING_WARPS = FINISHERS / 32;
constexpr int STAGES = 6, STAGE_BYTES = FBNI_HOPPER_STAGE;
constexpr int BEHIND = STAGES - 2; /* stages from a load to the store of the same */
constexpr int AHEAD = 4;           /* stages from the fetch of moments to their use */
/* after the stages: barriers full and finished; two sets of three coefficients a feature; moments */
constexpr int STAGE_BARRIERS = STAGES * STAGE_BYTES, STAGE_BARRIER_BYTES = 128;
constexpr int STAGE_COEFFICIENTS = STAGE_BARRIERS + STAGE_BARRIER_BYTES;
constexpr int STAGE_MOMENTS = STAGE_COEFFICIENTS + 2 * 3 * PAIR * (int)sizeof(float);
constexpr int STAGED_BYTES = STAGE_MOMENTS + AHEAD * 2 * PAIR * (int)sizeof(float);
static_assert(TILE_FEATURES * CLUSTER == FINISHERS, "a thread has one feature of a pair");

/* Rows of a pair, of entries of SIZE bytes, in a stage. */
template <int SIZE>
struct stage_of {
    static constexpr int ROWS = STAGE_BYTES / (PAIR * SIZE);
    static constexpr int COUNT = 16 / SIZE, LANES = PAIR / COUNT; /* of a thread; of a row */
};

/* Once, by one thread. */
__device__ inline void init_stages(uint32_t base)
{
    for (int i = 0; i < STAGES; i++) {
        barrier_init(base + STAGE_BARRIERS + (uint32_t)i * 8, 1);
        barrier_init(base + STAGE_BARRIERS + (uint32_t)(STAGES + i) * 8, FINISHING_WARPS);
    }
    barrier_init_fence();
}

/* ---- load and store: one thread ---- */

/* stored(walk): the thread waits until the stage is stored. */
template <typename WALK, typename STORED>
__device__ inline void carry_stages(uint32_t base, WALK in, const CUtensorMap *from,
                                    const CUtensorMap *to, const STORED &stored)
{
    const uint32_t full = base + STAGE_BARRIERS, finished = full + STAGES * 8;
    WALK out = in;

    for (int k = 0; out.there(); k++) {
        if (in.there()) {
            const uint32_t barrier = full + (uint32_t)(k % STAGES * 8);
            stored(in);
            store_wait<STAGES - 1 - BEHIND>(); /* what was in the stage has been read */
            barrier_expect(barrier, STAGE_BYTES);
            copy_box(base + (uint32_t)(k % STAGES * STAGE_BYTES), from, barrier, in.pair * PAIR,
                     in.row);
            in.next();
        }
        if (k >= BEHIND) {
            const int index = (k - BEHIND) % STAGES;
            barrier_wait(finished + (uint32_t)(index * 8), (uint32_t)((k - BEHIND) / STAGES & 1));
            store_box(to, base + (uint32_t)(index * STAGE_BYTES), out.pair * PAIR, out.row);
            store_commit();
            out.next();
        }
    }
    store_finish();
}

/* ---- coefficients: a feature a thread ---- */

/* y = act(alpha (u - c) + shift). */
struct feature_scale {
    float alpha, c, shift;

    __device__ explicit feature_scale(const fbni_affine &a)
        : alpha((float)a.alpha), c((float)a.c), shift((float)a.shift)
    {
    }
    __device__ feature_scale(const fbni_cuda_affine &a, int64_t j)
        : alpha(((const float *)a.alpha)[j]), c(((const float *)a.c)[j]),
          shift(((const float *)a.shift)[j])
    {
    }
    __device__ feature_scale() : alpha(0), c(0), shift(0)
    {
    }
};

/* y = act(a (v - c) + b) of a stored value v. */
struct stage_coefficients {
    float a, c, b;

    __device__ explicit stage_coefficients(const feature_scale &of)
        : a(of.alpha), c(of.c), b(of.shift)
    {
    }
    __device__ explicit stage_coefficients(const unpacking &of) : a(of.a), c(0), b(of.b)
    {
    }
};

/* Packed values are relative to moments of their tile: a thread has those of its feature fetched
 * AHEAD stages before they are needed, each into its own place. */
struct fetched_moments {
    uint32_t at;       /* the thread's: shift and power, AHEAD times */
    const float *from; /* its chunk of the last tile, which is the first */
    int64_t O;
    int last; /* tile */

    /* Stage k, of this tile. */
    __device__ void fetch(int k, int tile) const
    {
        const uint32_t to = at + (uint32_t)(k % AHEAD * 2 * PAIR * 4);
        const float *p = from + (int64_t)(last - tile) * 4 * O;

        copy_word(to, p);
        copy_word(to + PAIR * 4, p + 3 * O);
    }
    __device__ stage_coefficients take(int k, const feature_scale &of) const
    {
        const uint32_t there = at + (uint32_t)(k % AHEAD * 2 * PAIR * 4);
        const float shift = load_shared<float>(there), power = load_shared<float>(there + PAIR * 4);

        return stage_coefficients(unpacking(shift, (int)power + 10, of.alpha, of.c, of.shift));
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
    uint32_t pairs[4];
    memcpy(pairs, &words, sizeof pairs);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float2 pair = unpack_pair<__half>(pairs[k]);
        v[2 * k] = pair.x;
        v[2 * k + 1] = pair.y;
    }
}

/* A thread's values of every row, and what they become. */
template <typename T>
struct stage_values {
    static constexpr int COUNT = stage_of<(int)sizeof(T)>::COUNT;
    static constexpr int ROWS = STAGE_BYTES / (FINISHERS * 16);
    static constexpr bool PACKED = sizeof(T) == 2;
    float a[COUNT], c[COUNT], b[COUNT];

    __device__ void take(const float *set, int lane)
    {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            a[i] = set[lane * COUNT + i];
            c[i] = set[PAIR + lane * COUNT + i];
            b[i] = set[2 * PAIR + lane * COUNT + i];
        }
    }
    template <fbn_activation ACT>
    __device__ void finish_as(char *at) const
    {
        uint4 words[ROWS]; /* all on their way before the first is needed */

#pragma unroll
        for (int i = 0; i < ROWS; i++)
            words[i] = *(const uint4 *)(const void *)(at + i * (FINISHERS * 16));
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
            *(uint4 *)(void *)(at + i * (FINISHERS * 16)) = words[i];
        }
    }
    /* at: the thread's place in the stage's first row. */
    __device__ void finish(fbn_activation activation, char *at) const
    {
        switch (activation) {
        case FBN_ACT_RELU:
            return finish_as<FBN_ACT_RELU>(at);
        case FBN_ACT_GELU:
            return finish_as<FBN_ACT_GELU>(at);
        case FBN_ACT_SILU:
            return finish_as<FBN_ACT_SILU>(at);
        default:
            return finish_as<FBN_ACT_NONE>(at);
        }
    }
};

/* The FINISHERS, pair by pair: they wait until what the walk has of it is stored, stored(pair), and
 * for its features, ready(pair); scale_of(j): those of feature j. */
template <typename T, typename WALK, typename STORED, typename READY, typename OF>
__device__ inline void finish_stages(char *memory, uint32_t base, WALK walk,
                                     fbn_activation activation, const fbni_cuda_packed &packed,
                                     int64_t O, const STORED &stored, const READY &ready,
                                     const OF &scale_of)
{
    using values = stage_values<T>;
    const int t = (int)threadIdx.x - GROUP, lane = t % stage_of<(int)sizeof(T)>::LANES;
    const uint32_t full = base + STAGE_BARRIERS, finished = full + STAGES * 8;
    float *const shared = (float *)(void *)(memory + STAGE_COEFFICIENTS);
    int k = 0, turn = 0;

    while (walk.there()) {
        const int pair = walk.pair;
        const int64_t j = (int64_t)pair * PAIR + t;
        const fetched_moments moments = {base + STAGE_MOMENTS + (uint32_t)t * 4,
                                         packed.partials + j, O, (int)packed.tiles - 1};
        const bool fetching = values::PACKED && j < O;
        WALK ahead = walk;
        const auto fetch = [&](int stage) {
            if (fetching && ahead.there() && ahead.pair == pair)
                moments.fetch(stage, ahead.tile());
            copy_commit();
            ahead.next();
        };

        stored(pair);
        for (int i = 0; values::PACKED && i < AHEAD; i++)
            fetch(k + i);
        ready(pair);
        const feature_scale scale = j < O ? scale_of(j) : feature_scale();
        values all;

        for (int tile = -1; walk.there() && walk.pair == pair; k++) {
            const int now = walk.tile(), index = k % STAGES;
            walk.next();
            if (values::PACKED)
                copy_wait<AHEAD - 1>();
            if (tile < 0 || (values::PACKED && now != tile)) {
                float *const set = shared + turn * 3 * PAIR;
                const stage_coefficients mine =
                    fetching ? moments.take(k, scale) : stage_coefficients(scale);
                set[t] = mine.a;
                set[PAIR + t] = mine.c;
                set[2 * PAIR + t] = mine.b;
                named_wait(ALONE, FINISHERS);
                all.take(set, lane);
                turn ^= 1; /* who is slow may still read this one when the next is written */
            }
            if (values::PACKED)
                fetch(k + AHEAD);
            tile = now;
            barrier_wait(full + (uint32_t)(index * 8), (uint32_t)(k / STAGES & 1));
            all.finish(activation, memory + index * STAGE_BYTES + t * 16);
            copy_fence();
            __syncwarp();
            if (threadIdx.x % 32 == 0)
                barrier_arrive(finished + (uint32_t)(index * 8));
        }
        copy_wait<0>();
    }
}

} // namespace fbni

#endif
