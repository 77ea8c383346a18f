/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a warpgroup of the Hopper product does with a finished tile in its registers.
 *
 * Thread t of a warpgroup holds features 16 (t / 32) + (t % 32) / 4 + {0, 8} and batch rows
 * 8 j + 2 (t % 4) + {0, 1} (PTX ISA, register fragment D of wgmma): value d[4 j + 2 h + e] is
 * feature h, row 2 j + e.
 */
#ifndef FBNI_CUDA_HOPPER_EPILOGUE_CUH
#define FBNI_CUDA_HOPPER_EPILOGUE_CUH

#include "hopper_kernels.h"
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

/* 2^-e for -127 < e < 127. */
__device__ inline float scale_of(int e)
{
    return __int_as_float((127 - e) << 23);
}

/* d times 2^-(exponent of its row of w + exponent of its row of x). FAR: in two steps, that together
 * do not leave float's range where the result does not; else one for each is as good. */
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
                d[4 * j + 2 * h + e] *= scale_of(FAR ? half : of_row);
                d[4 * j + 2 * h + e] *= scale_of(FAR ? all - half : of_feature[h]);
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

__device__ inline float add_quad(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* The moments of the tile's first `rows` rows of feature h, about the mean of up to 16 of them: near
 * enough that the squares about the mean itself are what is left of those about it, and the same as
 * every one in a column of equal values. */
template <bool WHOLE, int COUNT>
__device__ inline void store_feature_moments(const float (&d)[COUNT], int h, int rows, float *to,
                                             int64_t part)
{
    constexpr int FEW = 2;                              /* of j */
    const int mine = rows - 2 * (int)(threadIdx.x % 4); /* rows 8 j + e < mine are there */
    const float first = __shfl_sync(0xffffffffu, d[2 * h], 0, 4);
    const int few = WHOLE || rows > 8 * FEW ? 8 * FEW : rows;
    float near = 0, sum = 0, squares = 0;

#pragma unroll
    for (int j = 0; j < FEW; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            near += WHOLE || 8 * j + e < mine ? d[4 * j + 2 * h + e] - first : 0;
    const float shift = first + add_quad(near) / (float)few;
#pragma unroll
    for (int j = 0; j < COUNT / 4; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float v = WHOLE || 8 * j + e < mine ? d[4 * j + 2 * h + e] - shift : 0;
            sum += v;
            squares = fmaf(v, v, squares);
        }
    }
    sum = add_quad(sum);
    squares = add_quad(squares);
    if (threadIdx.x % 4 == 0 && to) {
        to[0] = shift;
        to[part] = sum;
        to[2 * part] = fmaxf(squares - sum * (sum / (float)rows), 0);
    }
}

template <int COUNT>
__device__ inline void store_moments(const float (&d)[COUNT], const fragment &f, float *partials)
{
    const int64_t left = f.rows - (f.row - 2 * (threadIdx.x % 4));

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *to = f.feature_of(h) < f.features ? partials + f.feature_of(h) : NULL;
        if (left >= 2 * COUNT)
            store_feature_moments<true>(d, h, 2 * COUNT, to, f.features);
        else
            store_feature_moments<false>(d, h, (int)left, to, f.features);
    }
}

/* Threads 4 apart hold neighbouring features: each gives the other one of its two rows, and stores
 * two features of the other. */
template <bool WHOLE, int COUNT>
__device__ inline void store_rows(const float (&d)[COUNT], const fragment &f, float *out,
                                  int64_t ld, bool wide)
{
    const int odd = threadIdx.x / 4 % 2;
    const int64_t row = f.row_of(0, odd), feature = f.feature_of(0) - odd;
    float *to = out + row * ld + feature;

#pragma unroll
    for (int j = 0; j < COUNT / 4; j++, to += 8 * ld) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float give = odd ? d[4 * j + 2 * h] : d[4 * j + 2 * h + 1];
            const float got = __shfl_xor_sync(0xffffffffu, give, 4);
            const float2 pair =
                odd ? make_float2(got, d[4 * j + 2 * h + 1]) : make_float2(d[4 * j + 2 * h], got);
            if (WHOLE) {
                *(float2 *)(to + 8 * h) = pair;
            } else if (row + 8 * j < f.rows) {
                if (wide && feature + 8 * h + 1 < f.features) {
                    *(float2 *)(to + 8 * h) = pair;
                } else {
                    if (feature + 8 * h < f.features)
                        to[8 * h] = pair.x;
                    if (feature + 8 * h + 1 < f.features)
                        to[8 * h + 1] = pair.y;
                }
            }
        }
    }
}

template <int COUNT>
__device__ inline void store_tile(const float (&d)[COUNT], const fragment &f, float *out,
                                  int64_t ld)
{
    const bool wide = ld % 2 == 0 && (uintptr_t)out % 8 == 0;
    const bool mine = wide && f.row - threadIdx.x % 4 * 2 + 2 * COUNT <= f.rows &&
                      f.feature_of(1) + 1 < f.features;

    if (__all_sync(0xffffffffu, mine))
        store_rows<true>(d, f, out, ld, wide);
    else
        store_rows<false>(d, f, out, ld, wide);
}

/* The same by the copy engine, through two buffers a warpgroup of PIECE rows × 2 × 32 features: 128
 * bytes a row, whose 16-byte chunks are swizzled as the map says, so that the 32 values that a warp
 * writes lie in different banks. thread: of the warpgroup; barrier: a named one of its own. */
template <int PIECE, int COUNT>
__device__ inline void copy_tile(const float (&d)[COUNT], const CUtensorMap *out, uint32_t buffers,
                                 int feature, int row, int thread, int barrier)
{
    constexpr int HALF = PIECE * 128, BUFFER = 2 * HALF;
    const int column = thread / 32 * 16 + thread % 32 / 4; /* of h = 0, in the 64 */

#pragma unroll
    for (int piece = 0; piece < 2 * COUNT / PIECE; piece++) {
        const uint32_t buffer = buffers + (uint32_t)(piece % 2 * BUFFER);
        if (thread == 0)
            store_wait<2>();
        named_wait(barrier, 128);
#pragma unroll
        for (int i = 0; i < PIECE / 8; i++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int at = column + 8 * h, r = 8 * i + thread % 4 * 2 + e;
                    const uint32_t to =
                        buffer + (uint32_t)(at / 32 * HALF + r * 128 +
                                            ((at % 32 / 4) ^ (r % 8)) * 16 + at % 4 * 4);
                    store_shared(to, d[4 * (piece * (PIECE / 8) + i) + 2 * h + e]);
                }
            }
        }
        copy_fence();
        named_wait(barrier, 128);
        if (thread == 0) {
            store_box(out, buffer, feature, row + piece * PIECE);
            store_box(out, buffer + HALF, feature + 32, row + piece * PIECE);
        }
    }
}

} // namespace fbni

#endif
