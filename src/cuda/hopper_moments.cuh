/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The column moments of one tile of the Hopper product from the registers of a warpgroup, and the
 * tile in 16 bits, relative to them.
 *
 * Thread t of a warpgroup holds features 16 (t / 32) + (t % 32) / 4 + {0, 8} and batch rows
 * 8 j + 2 (t % 4) + {0, 1} (PTX ISA, register fragment D of wgmma): value d[4 j + 2 h + e] is
 * feature h, row 2 j + e.
 *
 * Packed, u is a 16-bit float w with
 *
 *     u = shift + w 2^(spread - 10),      2^spread <= the root of the mean of (u - shift)^2 < 2^(spread + 1)
 *
 * for shift and spread of the tile and feature. Of COLUMNS <= 256 rows none is more than 16 times the
 * root: w is less than 2^15. What is lost is 2^-12 of |u - shift| at most (2^-35 of the root where that is
 * little), whatever the mean.
 */
#ifndef FBNI_CUDA_HOPPER_MOMENTS_CUH
#define FBNI_CUDA_HOPPER_MOMENTS_CUH

#include "device.cuh"

#include <float.h>

namespace fbni
{

/* Of a feature over a tile: sum and m2 (about shift + sum / rows) are of (u - shift) 2^-power. */
struct tile_moments {
    float shift, sum, m2;
    int power;
};

__device__ inline float add_quad(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* About what the moments are taken: the mean of up to 16 rows. Near enough to the mean that the squares
 * about that are what is left of those about it, and the same as every one in a column of equal
 * values. mine: rows 8 j + e < mine are there. */
template <bool WHOLE, int COUNT>
__device__ inline float shift_of(const float (&d)[COUNT], int h, int rows, int mine)
{
    constexpr int FEW = 2; /* of j */
    const float first = __shfl_sync(0xffffffffu, d[2 * h], 0, 4);
    const float part_of_few = 1 / (float)(WHOLE || rows > 8 * FEW ? 8 * FEW : rows);
    float near = 0;

#pragma unroll
    for (int j = 0; j < FEW; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            near += WHOLE || 8 * j + e < mine /* divided first: the sum might overflow */
                        ? __fmul_rn(d[4 * j + 2 * h + e], part_of_few) -
                              __fmul_rn(first, part_of_few) /* alike: 0 of equal values */
                        : 0;
    const float mean = first + add_quad(near);
    return fabsf(mean) <= FLT_MAX ? mean : first;
}

/* Sum and sum of squares of (d - shift) scale; not SCALED: scale is 1. */
template <bool WHOLE, bool SCALED, int COUNT>
__device__ inline void add_up_feature(const float (&d)[COUNT], int h, int mine, float shift,
                                      float scale, float *sum, float *squares)
{
    const float minus = -shift * scale;
    float s = 0, q = 0;

#pragma unroll
    for (int j = 0; j < COUNT / 4; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float u = d[4 * j + 2 * h + e];
            const float centred = SCALED ? fmaf(u, scale, minus) : u - shift;
            const float v = WHOLE || 8 * j + e < mine ? centred : 0;
            s += v;
            q = fmaf(v, v, q);
        }
    }
    *sum = add_quad(s);
    *squares = add_quad(q);
}

/* The moments of the tile's first `rows` rows of feature h, the same in all four threads of a quad.
 * Where float's range does not hold the squares they are taken in another unit. */
template <bool WHOLE, int COUNT>
__device__ inline tile_moments moments_of(const float (&d)[COUNT], int h, int rows)
{
    constexpr float LEAST = 0x1p-90f; /* below, squares of what matters may underflow */
    constexpr int UP = 80, DOWN = -100;
    const int mine = rows - 2 * (int)(threadIdx.x % 4);
    tile_moments m = {shift_of<WHOLE>(d, h, rows, mine), 0, 0, 0};
    float squares;

    add_up_feature<WHOLE, false>(d, h, mine, m.shift, 1, &m.sum, &squares);
    if (!(squares >= LEAST && squares <= FLT_MAX)) {
        m.power = squares < LEAST ? DOWN : UP;
        add_up_feature<WHOLE, true>(d, h, mine, m.shift, power_of_two(-m.power), &m.sum, &squares);
    }
    const float m2 = squares - m.sum * (m.sum / (float)rows);
    m.m2 = m2 < 0 ? 0 : m2; /* a NaN stays */
    return m;
}

template <int COUNT>
__device__ inline void take_moments(tile_moments (&m)[2], const float (&d)[COUNT], int rows)
{
#pragma unroll
    for (int h = 0; h < 2; h++)
        m[h] =
            rows >= 2 * COUNT ? moments_of<true>(d, h, 2 * COUNT) : moments_of<false>(d, h, rows);
}

/* ---- in 16 bits ---- */

/* The spread of packed values; from what is stored of the moments. */
__device__ inline int spread_of(const tile_moments &m, float rows)
{
    constexpr int LEAST = -110; /* below, what is lost is nothing in float */
    const float mean = m.sum / rows, square = m.m2 / rows + mean * mean;
    const int exponent = m.power + ((int)(__float_as_uint(square) >> 23 & 255) - 127 >> 1);
    return square > 0 && exponent > LEAST ? exponent : LEAST;
}

/* Of a feature of a tile: packed as rounded(scale u + minus). */
struct packing {
    float scale, minus;

    __device__ packing(float shift, int spread)
    {
        scale = power_of_two(10 - spread);
        minus = -shift * scale;
    }
};

/* u's two values of feature h at j. */
template <int COUNT>
__device__ inline uint32_t pack_pair(const float (&d)[COUNT], int j, int h, const packing &p)
{
    const __half2 pair = __floats2half2_rn(fmaf(d[4 * j + 2 * h], p.scale, p.minus),
                                           fmaf(d[4 * j + 2 * h + 1], p.scale, p.minus));
    uint32_t word;
    memcpy(&word, &pair, sizeof word);
    return word;
}

/* y = act(alpha (u - c) + t) of packed u is act(a w + b). */
struct unpacking {
    float a, b;

    __device__ unpacking(float shift, int spread, float alpha, float c, float t)
    {
        a = alpha * power_of_two(spread - 10);
        b = fmaf(0.5f * shift - 0.5f * c, 2 * alpha, t); /* halves: the difference might overflow */
    }
};

} // namespace fbni

#endif
