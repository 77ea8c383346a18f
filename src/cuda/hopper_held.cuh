/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What becomes of a tile of the product that holds W (hopper_held.cu): its warpgroup finishes it in
 * registers and puts it, with the sums of its features, where a warp that does nothing else stores it
 * and adds the sums to those of the tiles before.
 */
#ifndef FBNI_CUDA_HOPPER_HELD_CUH
#define FBNI_CUDA_HOPPER_HELD_CUH

#include "device.cuh"
#include "hopper_finish.cuh"

#include <type_traits>

namespace fbni
{

namespace held
{

constexpr int ROWS = FBNI_HOPPER_HELD_ROWS; /* of a tile */
constexpr int BLOCKS = FBNI_HOPPER_HELD / TILE_DEPTH, STEPS = TILE_DEPTH / 16, COUNT = ROWS / 2;
constexpr int ROW_BYTES = TILE_DEPTH * 2, SLOT_BYTES = ROWS * ROW_BYTES, SLOTS = 11;
constexpr int BUFFER_BYTES = ROWS * 128; /* of a warpgroup: 64 features of 16 bits, or 32 floats */
static_assert(ROWS == TILE_FEATURES, "a slot has place for a block of W too");

using held_ring = walk<SLOT_BYTES, SLOTS>;

/* A cluster's tiles: of its pair of feature tiles every a.holders-th. */
struct share {
    int pair, first;

    __device__ share(const product_arguments &a)
    {
        const int cluster = (int)blockIdx.x / CLUSTER;
        pair = cluster % a.pairs;
        first = cluster / a.pairs;
    }
    /* What says that the cluster is done. */
    __device__ unsigned *done(const product_arguments &a) const
    {
        return a.held + pair * a.holders + first;
    }
    __device__ int feature() const /* the block's first */
    {
        return (pair * CLUSTER + (int)cluster_rank()) * TILE_FEATURES;
    }
};

/* ---- moments ---- */

/* Of a feature over a tile, about shift: sums of (u - shift) 2^-power and of its square. */
struct tile_sums {
    float shift, sum, squares;
    int power;
};

/* Of a feature over a block's tiles, about the shift of the first. */
struct merged_sums {
    double sum, squares;
    float shift;

    __device__ void add(const tile_sums &tile, int rows, bool first)
    {
        const double unit = double_power_of_two(tile.power), n = (double)rows;
        const double tile_sum = (double)tile.sum * unit;

        shift = first ? tile.shift : shift;
        const double by = (double)tile.shift - (double)shift;
        squares += (double)tile.squares * (unit * unit) + by * (2 * tile_sum + n * by);
        sum += tile_sum + n * by;
    }

    /* As a chunk of fbni_hopper_product.merged, in a unit in which its squares are floats. */
    __device__ void store(float *to, int64_t O, int rows) const
    {
        const int exponent = (int)((unsigned long long)__double_as_longlong(squares) >> 52 & 2047);
        const int power = exponent > 0 && exponent < 2047 ? (exponent - 1023) / 2 : 0;
        const double unit = double_power_of_two(-power), near = (double)__frcp_rn((float)rows);
        const double m2 = squares - sum * (near * (2 - (double)rows * near)) * sum;

        to[0] = shift;
        to[O] = (float)(sum * unit);
        to[2 * O] = (float)((m2 < 0 ? 0 : m2) * unit * unit);
        to[3 * O] = (float)power;
    }
};

/* ---- a warpgroup's tile: 64 features x ROWS, a thread's as hopper_moments.cuh says ---- */

struct place {
    int thread;    /* of the warpgroup */
    int feature;   /* the warpgroup's first */
    int features;  /* O */
    int row, rows; /* the tile's first; those that are there */

    /* Worked out for each tile: there are no registers to keep it in. */
    __device__ place(const product_arguments &a, const share &s, int tile)
    {
        const int64_t left = a.N - (int64_t)tile * ROWS;

        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
        feature = s.feature() + (thread / GROUP - 1) * GROUP_FEATURES;
        features = (int)a.O;
        thread %= GROUP;
        row = tile * ROWS;
        rows = left < ROWS ? (int)left : ROWS;
    }
    __device__ int feature_of(int h) const
    {
        return feature + thread / 32 * 16 + thread % 32 / 4 + 8 * h;
    }
    __device__ bool has(int j, int e) const
    {
        return 8 * j + 2 * (thread % 4) + e < rows;
    }
};

/* ---- what is stored: from a warpgroup to the warp that stores it ---- */

/* A warpgroup's buffer for some rows; and what the two tell each other: the sums of its features, the
 * first row in the buffer, and how many rows the sums are of, 0: they are not there. */
struct outbox {
    static constexpr int SUMS = 0, ROW = GROUP_FEATURES * (int)sizeof(tile_sums), OF = ROW + 4;
    static constexpr int FULL = ROW + 16, EMPTY = FULL + 8, BYTES = FULL + 16;
    uint32_t buffer, control;
    uint32_t phase;

    __device__ void init_barriers() const
    {
        barrier_init(control + FULL, GROUP / 32);
        barrier_init(control + EMPTY, 1);
    }

    /* Until what was sent is stored. */
    __device__ void open() const
    {
        barrier_wait(control + EMPTY, phase ^ 1);
    }
    /* 16 rows of the tile from row `at`, of 16 bits. */
    __device__ void put(int at, const uint32_t (&words)[4])
    {
        store_matrices(matrices_place(buffer) + (uint32_t)(at * 128), words);
    }
    /* Floats: half of the tile's rows are sent, the others are left to send. */
    __device__ void put(const place &p, const float (&d)[COUNT])
    {
        constexpr int PIECE = ROWS / 2;

#pragma unroll
        for (int at = 0; at < ROWS; at += PIECE) {
            if (at > 0)
                send(p.row, 0);
            open();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int h = k % 2, e = k / 2, column = p.feature_of(h) - p.feature;
                const uint32_t to = buffer + (uint32_t)(column / 32 * (PIECE * 128)) +
                                    swizzled(2 * (p.thread % 4) + e, column % 32 * 4);
#pragma unroll
                for (int j = 0; j < PIECE / 8; j++) /* every 8 rows are swizzled alike */
                    store_shared(to + (uint32_t)(8 * j * 128), d[4 * (at / 8 + j) + 2 * h + e]);
            }
        }
    }
    __device__ void put(const place &p, const tile_sums (&m)[2])
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint4 words;
            memcpy(&words, &m[h], sizeof words);
            if (p.thread % 4 == h)
                store_shared(control + SUMS + (uint32_t)((p.feature_of(h) - p.feature) * 16),
                             words);
        }
    }
    /* of: rows that the sums are of. */
    __device__ void send(int row, int of)
    {
        copy_fence();
        __syncwarp();
        if (threadIdx.x % GROUP == 0) {
            store_shared(control + ROW, (uint32_t)row);
            store_shared(control + OF, (uint32_t)of);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            barrier_arrive(control + FULL);
        phase ^= 1;
    }
};

/* By hand, where the copy engine cannot: rows and features that are there. */
template <typename T>
__device__ inline void copy_rows(const product_arguments &a, uint32_t buffer, int row, int feature)
{
    constexpr int WIDTH = 128 / (int)sizeof(T),
                  PIECE = BUFFER_BYTES / (GROUP_FEATURES * (int)sizeof(T));

    for (int r = 0; r < PIECE && row + r < a.N; r++)
        for (int k = (int)threadIdx.x % 32; k < GROUP_FEATURES && feature + k < a.O; k += 32)
            ((T *)a.out)[(row + r) * a.ldout + feature + k] =
                load_shared<T>(buffer + (uint32_t)(k / WIDTH * (PIECE * 128)) +
                               swizzled(r, k % WIDTH * (int)sizeof(T)));
}

/* Two features a thread. */
constexpr int MINE = GROUP_FEATURES / 32;

/* A tile's shifts and powers, parts 0 and 3 of partials, for those who unpack. */
__device__ inline void store_packing(const product_arguments &a, const tile_sums (&m)[MINE],
                                     int feature, int tile)
{
    float *to = a.partials + (int64_t)(a.tiles - 1 - tile) * 4 * a.O + feature + threadIdx.x % 32;

#pragma unroll
    for (int i = 0; i < MINE; i++, to += 32) {
        if (feature + (int)threadIdx.x % 32 + 32 * i < a.O) {
            to[0] = m[i].shift;
            to[3 * a.O] = (float)m[i].power;
        }
    }
}

/* A warp: all that its warpgroup sends. feature: the warpgroup's first. */
template <fbni_hopper_result STORED>
__device__ inline void store_pieces(const product_arguments &a, const share &s,
                                    const CUtensorMap *out, outbox o, int feature)
{
    using T = std::conditional_t<STORED == FBNI_HOPPER_U, uint32_t, uint16_t>;
    const int lane = (int)threadIdx.x % 32;
    merged_sums merged[MINE] = {};
    int rows = 0;

    for (bool last = false; !last; o.phase ^= 1) {
        barrier_wait(o.control + outbox::FULL, o.phase);
        const int row = (int)load_shared<uint32_t>(o.control + outbox::ROW);
        const int of = (int)load_shared<uint32_t>(o.control + outbox::OF);
        last = row / ROWS + a.holders >= a.tiles && (sizeof(T) == 2 || row % ROWS > 0);
        if (a.out) {
            copy_rows<T>(a, o.buffer, row, feature);
        } else if (lane == 0) {
            store_box(out, o.buffer, feature, row);
            if (sizeof(T) == 4)
                store_box(out, o.buffer + BUFFER_BYTES / 2, feature + 32, row);
            store_commit();
        }
        tile_sums m[MINE];
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            const float4 words = load_shared(o.control + outbox::SUMS + (lane + 32 * i) * 16);
            memcpy(&m[i], &words, sizeof m[i]);
        }
        store_wait<0>();
        __syncwarp();
        if (lane == 0)
            barrier_arrive(o.control + outbox::EMPTY);
        /* The rest is not waited for: added up before, 65536 x 512 -> 512 took 8 us more. */
        if (STORED == FBNI_HOPPER_Y || of == 0)
            continue;
        if (STORED == FBNI_HOPPER_PACKED)
            store_packing(a, m, feature, row / ROWS);
#pragma unroll
        for (int i = 0; i < MINE; i++)
            merged[i].add(m[i], of, rows == 0);
        rows += of;
    }
    if (STORED == FBNI_HOPPER_Y || !a.merged)
        return;
    float *to =
        a.merged + (int64_t)((a.tiles - 1 - s.first) % a.holders) * 4 * a.O + feature + lane;
#pragma unroll
    for (int i = 0; i < MINE; i++, to += 32)
        if (feature + lane + 32 * i < a.O)
            merged[i].store(to, a.O, rows);
    if (a.held) {
        if (lane == 0)
            store_finish();
        __syncwarp();
        if (lane == 0) {
            copy_fence_all();
            count_up(s.done(a));
        }
    }
}

/* ---- finishing a tile ---- */

/* The spread by all rows, the largest of which becomes 2^14 to 2^15. */
template <bool WHOLE>
__device__ inline int spread_of_all(const float (&d)[COUNT], const place &p, int h, float shift)
{
    float most = 0;

#pragma unroll
    for (int j = 0; j < COUNT / 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (WHOLE || p.has(j, e))
                most = fmaxf(most, fabsf(d[4 * j + 2 * h + e] - shift));
    return spread_by(most, shift, -4);
}

/* Puts u, packed or as it is, and adds it up. */
template <bool PACKED, bool WHOLE>
__device__ inline void put_u(tile_sums (&m)[2], const float (&d)[COUNT], const place &p, outbox &o)
{
    const packing by[2] = {packing(m[0].shift, m[0].power + 10),
                           packing(m[1].shift, m[1].power + 10)};

    m[0].sum = m[0].squares = m[1].sum = m[1].squares = 0;
#pragma unroll
    for (int at = 0; at < ROWS; at += 16) {
        uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int h = k % 2, j = at / 8 + k / 2;
            float v = fmaf(d[4 * j + 2 * h], by[h].scale, by[h].minus);
            float w = fmaf(d[4 * j + 2 * h + 1], by[h].scale, by[h].minus);
            const __half2 pair = __floats2half2_rn(v, w);
            memcpy(&words[k], &pair, sizeof pair);
            v = WHOLE || p.has(j, 0) ? v : 0;
            w = WHOLE || p.has(j, 1) ? w : 0;
            m[h].sum += v + w;
            m[h].squares = fmaf(v, v, fmaf(w, w, m[h].squares));
        }
        if constexpr (PACKED)
            o.put(at, words);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h].sum = add_quad(m[h].sum);
        m[h].squares = add_quad(m[h].squares);
    }
}

/* With the spread of 16 rows, and where others are too far away from those again; or of those that
 * are there. */
template <bool PACKED, bool WHOLE>
__device__ inline void store_u(const float (&d)[COUNT], const place &p, outbox &o)
{
    constexpr float MOST = 0x1p30f; /* of squares: none is more than 2^15 */
    tile_sums m[2];

#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h].shift = shift_of<WHOLE>(d, h, p.rows, p.rows - 2 * (p.thread % 4));
        m[h].power =
            (WHOLE ? spread_of_few(d, h, m[h].shift) : spread_of_all<false>(d, p, h, m[h].shift)) -
            10;
    }
    if (PACKED)
        o.open();
    for (bool again = !WHOLE;; again = true) {
        put_u<PACKED, WHOLE>(m, d, p, o);
        const bool fits = m[0].squares < MOST && m[1].squares < MOST;
        if (again || !__any_sync(0xffffffffu, !fits))
            break;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            asm volatile("" : "+f"(m[h].shift)); /* or it is worked out for every tile */
            m[h].power = spread_of_all<true>(d, p, h, m[h].shift) - 10;
        }
    }
    if (!PACKED)
        o.put(p, d);
    o.put(p, m);
    o.send(p.row + (PACKED ? 0 : ROWS / 2), p.rows);
}

template <typename T>
__device__ inline void store_y(float (&d)[COUNT], const product_arguments &a, const place &p,
                               outbox &o)
{
    finish_registers(d, p, a.finish);
    o.open();
#pragma unroll
    for (int at = 0; at < ROWS; at += 16) {
        uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int i = 4 * (at / 8 + k / 2) + 2 * (k % 2);
            const pack<T, 2> pair = {from_real<T>(d[i]), from_real<T>(d[i + 1])};
            memcpy(&words[k], &pair, sizeof pair);
        }
        o.put(at, words);
    }
    o.send(p.row, 0);
}

} // namespace held

} // namespace fbni

#endif
