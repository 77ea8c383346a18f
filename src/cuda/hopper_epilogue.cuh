/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a warpgroup of the Hopper product does with a finished tile in its registers, of which a
 * thread has what hopper_moments.cuh says.
 */
#ifndef FBNI_CUDA_HOPPER_EPILOGUE_CUH
#define FBNI_CUDA_HOPPER_EPILOGUE_CUH

#include "activations.cuh"
#include "hopper_kernels.h"
#include "hopper_moments.cuh"
#include "hopper_ptx.cuh"

namespace fbni
{

/* Where a thread's values belong. */
struct fragment {
    int64_t feature, row;   /* of d[0] */
    int64_t features, rows; /* O and N */

    __device__ int64_t feature_of(int h) const
    {
        return feature + 8 * h;
    }
    __device__ int64_t row_of(int j, int e) const
    {
        return row + 8 * j + e;
    }
};

/* d times 2^-(exponent of its row of w + exponent of its row of x). FAR: in two steps, that
 * together do not leave float's range where the result does not; else one for each is as good. */
template <bool FAR, int COUNT>
__device__ inline void unscale_by(float (&d)[COUNT], const int (&of_feature)[2], const int *of_rows,
                                  int rows)
{
#pragma unroll
    for (int j = 0; j < COUNT / 4; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int row = 8 * j + (int)(threadIdx.x % 4) * 2 + e;
            const int of_row = of_rows[row < rows ? row : 0];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int all = of_row + of_feature[h], half = all / 2;
                d[4 * j + 2 * h + e] *= power_of_two(-(FAR ? half : of_row));
                d[4 * j + 2 * h + e] *= power_of_two(-(FAR ? all - half : of_feature[h]));
            }
        }
    }
}

template <int COUNT>
__device__ inline void unscale(float (&d)[COUNT], const fragment &f, const int *w_exponents,
                               const int *x_exponents)
{
    constexpr int NEAR = 60; /* two of them, and the sums, are far from the ends of float's range */
    const int64_t first = f.row - threadIdx.x % 4 * 2;
    const int rows = f.rows - first < 2 * COUNT ? (int)(f.rows - first) : 2 * COUNT;
    const int *of_rows = x_exponents + first;
    int of_feature[2];
    bool far = false;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        of_feature[h] = f.feature_of(h) < f.features ? w_exponents[f.feature_of(h)] : 0;
        far = far || abs(of_feature[h]) > NEAR;
    }
    for (int row = threadIdx.x % 32; row < rows; row += 32)
        far = far || abs(of_rows[row]) > NEAR;
    if (__any_sync(0xffffffffu, far))
        unscale_by<true>(d, of_feature, of_rows, rows);
    else
        unscale_by<false>(d, of_feature, of_rows, rows);
}

/* The tile's rows that are there. */
template <int COUNT>
__device__ inline int rows_of(const fragment &f)
{
    const int64_t left = f.rows - (f.row - 2 * (threadIdx.x % 4));
    return left >= 2 * COUNT ? 2 * COUNT : (int)left;
}

/* Four reals for each feature, as features.cuh reads them. */
__device__ inline void store_moments(const tile_moments (&m)[2], const fragment &f, float *partials)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *to = partials + f.feature_of(h);
        if (threadIdx.x % 4 == 0 && f.feature_of(h) < f.features) {
            to[0] = m[h].shift;
            to[f.features] = m[h].sum;
            to[2 * f.features] = m[h].m2;
            to[3 * f.features] = (float)m[h].power;
        }
    }
}

/* The tile packed, but for the rounding, and its moments. */
template <int COUNT>
__device__ inline void pack_registers(tile_moments (&m)[2], float (&d)[COUNT], int rows)
{
    take_moments(m, d, rows);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int spread = spread_of(m[h], (float)rows);
        const packing p(m[h].shift, spread);
        change_unit(m[h], spread);
#pragma unroll
        for (int j = 0; j < COUNT / 4; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                d[4 * j + 2 * h + e] = fmaf(d[4 * j + 2 * h + e], p.scale, p.minus);
    }
}

/* y = act(alpha (u - c) + shift), with frozen statistics: nothing to wait for. */
template <fbn_activation ACT, typename PLACE, int COUNT>
__device__ inline void normalise_registers(float (&d)[COUNT], const PLACE &f,
                                           const fbni_cuda_affine &affine)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int64_t feature = f.feature_of(h) < f.features ? f.feature_of(h) : 0;
        const float alpha = ((const float *)affine.alpha)[feature];
        const float c = ((const float *)affine.c)[feature];
        const float shift = ((const float *)affine.shift)[feature];
#pragma unroll
        for (int j = 0; j < COUNT / 4; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                d[4 * j + 2 * h + e] = activate<ACT>(fmaf(alpha, d[4 * j + 2 * h + e] - c, shift));
    }
}

template <typename PLACE, int COUNT>
__device__ inline void finish_registers(float (&d)[COUNT], const PLACE &f,
                                        const fbni_cuda_finish &finish)
{
    switch (finish.activation) {
    case FBN_ACT_RELU:
        normalise_registers<FBN_ACT_RELU>(d, f, finish.affine);
        break;
    case FBN_ACT_GELU:
        normalise_registers<FBN_ACT_GELU>(d, f, finish.affine);
        break;
    case FBN_ACT_SILU:
        normalise_registers<FBN_ACT_SILU>(d, f, finish.affine);
        break;
    default:
        normalise_registers<FBN_ACT_NONE>(d, f, finish.affine);
        break;
    }
}

/* ---- storing ---- */

/* Threads 4 apart hold neighbouring features: each gives the other one of its two rows, and has two
 * features of the other: those of h, of row 8 j + odd. */
template <typename T, int COUNT>
__device__ inline pack<T, 2> exchange(const float (&d)[COUNT], int j, int h, int odd)
{
    const float give = odd ? d[4 * j + 2 * h] : d[4 * j + 2 * h + 1];
    const float keep = odd ? d[4 * j + 2 * h + 1] : d[4 * j + 2 * h];
    const float got = __shfl_xor_sync(0xffffffffu, give, 4);
    pack<T, 2> pair;

    pair.at[0] = from_real<T>(odd ? got : keep);
    pair.at[1] = from_real<T>(odd ? keep : got);
    return pair;
}

/* Any matrix: a column and a row at a time are looked after. */
template <typename T, int COUNT>
__device__ inline void store_tile(const float (&d)[COUNT], const fragment &f, T *out, int64_t ld)
{
    const int odd = threadIdx.x / 4 % 2;
    const int64_t feature = f.feature_of(0) - odd;
    T *to = out + f.row_of(0, odd) * ld + feature;

#pragma unroll
    for (int j = 0; j < COUNT / 4; j++, to += 8 * ld) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const pack<T, 2> pair = exchange<T>(d, j, h, odd);
            if (f.row_of(j, odd) >= f.rows)
                continue;
            if (feature + 8 * h < f.features)
                to[8 * h] = pair.at[0];
            if (feature + 8 * h + 1 < f.features)
                to[8 * h + 1] = pair.at[1];
        }
    }
}

/* Rows of a buffer have 128 bytes: 32 floats, or 64 half entries. Their 16-byte chunks are swizzled
 * as the copy engine's map says, so that what a warp writes lies in 32 different banks. */
__device__ inline uint32_t swizzled(int row, int byte)
{
    return (uint32_t)(row * 128 + ((byte / 16) ^ (row % 8)) * 16 + byte % 16);
}

/* The rows [row, row + PIECE) of the warpgroup's tile into a buffer. column: the thread's first
 * feature in the 64. */
template <int PIECE, int COUNT>
__device__ inline void fill_buffer(const float (&d)[COUNT], int row, uint32_t buffer, int column,
                                   const float *)
{
#pragma unroll
    for (int i = 0; i < PIECE / 8; i++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int at = column + 8 * h, r = 8 * i + (int)(threadIdx.x % 4) * 2 + e;
                store_shared(buffer + (uint32_t)(at / 32 * PIECE * 128) + swizzled(r, at % 32 * 4),
                             d[4 * (row / 8 + i) + 2 * h + e]);
            }
        }
    }
}

/* Where a thread gives the store of matrices the place of a row of 16-bit entries: in four
 * matrices, features {0, 8} of the warp's by rows {0, 8}, row lane % 8 of matrix lane / 8. */
__device__ inline uint32_t matrices_place(uint32_t buffer)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4;
    return buffer + swizzled(lane / 16 * 8 + lane % 8, warp * 32 + lane / 8 % 2 * 16);
}

/* Of 16 bits: a row's 8 features, which 8 threads hold, come to one place. */
template <int PIECE, typename T, int COUNT>
__device__ inline void fill_buffer(const float (&d)[COUNT], int row, uint32_t buffer, int,
                                   const T *)
{
    const uint32_t to = matrices_place(buffer);

#pragma unroll
    for (int i = 0; i < PIECE / 8; i += 2) {
        uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int at = 4 * (row / 8 + i + k / 2) + 2 * (k % 2);
            const pack<T, 2> pair = {from_real<T>(d[at]), from_real<T>(d[at + 1])};
            memcpy(&words[k], &pair, sizeof pair);
        }
        store_matrices(to + (uint32_t)(8 * i * 128), words);
    }
}

/* What a warpgroup's threads know of its tile's way to the copy engine. */
struct outlet {
    const CUtensorMap *map;
    uint32_t buffers;
    int feature, row;    /* of the tile */
    int thread, barrier; /* of the warpgroup; a named one of its own */
};

/* Before a piece is put into a buffer: what was there is gone but for the last PENDING. */
template <int PENDING>
__device__ inline void open_buffer(const outlet &o)
{
    if (o.thread == 0)
        store_wait<PENDING>();
    named_wait(o.barrier, 128);
}

/* PIECE rows of the buffer, from row `at` of the tile, go on their way. */
template <typename T, int PIECE>
__device__ inline void send_buffer(const outlet &o, uint32_t buffer, int at)
{
    constexpr int WIDTH = 128 / (int)sizeof(T), BOXES = 64 / WIDTH;

    copy_fence();
    named_wait(o.barrier, 128);
    if (o.thread == 0) {
        for (int box = 0; box < BOXES; box++)
            for (int r = 0; r < PIECE; r += FBNI_HOPPER_PIECE)
                store_box(o.map, buffer + (uint32_t)((box * PIECE + r) * 128),
                          o.feature + box * WIDTH, o.row + at + r);
        store_commit();
    }
}

/* By the copy engine, through two buffers a warpgroup of PIECE rows × 64 entries of T. Where the
 * pieces are odd in number, the tile before ended in the first buffer too. */
template <typename T, int PIECE, int COUNT>
__device__ inline void copy_tile(const float (&d)[COUNT], const outlet &o)
{
    constexpr int BUFFER = PIECE * 64 * (int)sizeof(T);
    constexpr bool ODD = 2 * COUNT / PIECE % 2 == 1;
    const int column = o.thread / 32 * 16 + o.thread % 32 / 4;

#pragma unroll
    for (int at = 0; at < 2 * COUNT; at += PIECE) {
        const uint32_t buffer = o.buffers + (uint32_t)(at / PIECE % 2 * BUFFER);
        if (ODD && at == 0)
            open_buffer<0>(o);
        else
            open_buffer<1>(o);
        fill_buffer<PIECE>(d, at, buffer, column, (const T *)NULL);
        send_buffer<T, PIECE>(o, buffer, at);
    }
}

/* ---- packed ---- */

/* Packs, stores and takes the moments of a whole tile in one pass, with the spread of 16 of its
 * rows. False where others are too far away from those: then nothing has been done that matters. */
template <int PIECE, int COUNT>
__device__ inline bool pack_tile(tile_moments (&m)[2], const float (&d)[COUNT], const outlet &o)
{
    constexpr int ROWS = 2 * COUNT, BUFFER = PIECE * 128;
    constexpr float MOST = 0x1p30f; /* of squares: none is more than 2^15 */
    packing p[2] = {{0, 0}, {0, 0}};
    float squares[2] = {0, 0};

#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h].shift = shift_of<true>(d, h, ROWS, ROWS);
        const int spread = spread_of_few(d, h, m[h].shift);
        m[h].power = spread - 10;
        m[h].sum = 0;
        p[h] = packing(m[h].shift, spread);
    }
#pragma unroll
    for (int at = 0; at < ROWS; at += PIECE) {
        const uint32_t buffer = o.buffers + (uint32_t)(at / PIECE % 2 * BUFFER);
        uint32_t words[PIECE / 16][4];
#pragma unroll
        for (int i = 0; i < PIECE / 8; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int k = 4 * (at / 8 + i) + 2 * h;
                const float v = fmaf(d[k], p[h].scale, p[h].minus);
                const float w = fmaf(d[k + 1], p[h].scale, p[h].minus);
                const __half2 pair = __floats2half2_rn(v, w);
                memcpy(&words[i / 2][i % 2 * 2 + h], &pair, sizeof pair);
                m[h].sum += v;
                m[h].sum += w;
                squares[h] = fmaf(v, v, squares[h]);
                squares[h] = fmaf(w, w, squares[h]);
            }
        }
        open_buffer<1>(o);
#pragma unroll
        for (int i = 0; i < PIECE / 16; i++)
            store_matrices(matrices_place(buffer) + (uint32_t)(16 * i * 128), words[i]);
        send_buffer<__half, PIECE>(o, buffer, at);
    }
    bool fits = true;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h].sum = add_quad(m[h].sum);
        squares[h] = add_quad(squares[h]);
        const float m2 = squares[h] - m[h].sum * (m[h].sum / (float)ROWS);
        m[h].m2 = m2 < 0 ? 0 : m2;
        fits = fits && squares[h] < MOST;
    }
    if (!named_wait_any(o.barrier, 128, !fits))
        return true;
    if (o.thread == 0)
        store_finish(); /* before the same place is written again */
    return false;
}

} // namespace fbni

#endif
