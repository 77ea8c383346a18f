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
 *     u = shift + w 2^(spread - 10)
 *
 * for shift and spread of the tile and feature, such that w is less than 2^15. What is lost is
 * 2^-11 of |u - shift| at most, whatever the mean, or 2^-27 of the root of the mean of
 * (u - shift)^2 over the tile where that is more. The spread is that root's exponent (of COLUMNS <=
 * 256 rows none is more than 16 times the root), or comes from the first 16 rows.
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

/* About what the moments are taken: the mean of up to 16 rows. Near enough to the mean that the
 * squares about that are what is left of those about it, and the same as every one in a column of
 * equal values. mine: rows 8 j + e < mine are there. */
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

/* The moments of the tile's first `rows` rows, the same in all four threads of a quad. Where
 * float's range does not hold the squares they are taken in another unit. Both features together:
 * their sums do not wait for each other. */
template <bool WHOLE, int COUNT>
__device__ inline void moments_of(tile_moments (&m)[2], const float (&d)[COUNT], int rows)
{
    /* Below, squares of what matters may underflow; about a SHIFT none do, floats are too coarse
     * there. */
    constexpr float LEAST = 0x1p-90f, SHIFT = 0x1p-20f;
    constexpr int UP = 80, DOWN = -100;
    const int mine = rows - 2 * (int)(threadIdx.x % 4);
    float squares[2];

#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h].shift = shift_of<WHOLE>(d, h, rows, mine);
        m[h].power = 0;
        add_up_feature<WHOLE, false>(d, h, mine, m[h].shift, 1, &m[h].sum, &squares[h]);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const bool fits =
            squares[h] <= FLT_MAX && (squares[h] >= LEAST || fabsf(m[h].shift) >= SHIFT);
        if (__any_sync(0xffffffffu, !fits)) { /* all take part; those that fit get the same */
            m[h].power = fits ? 0 : squares[h] < LEAST ? DOWN : UP;
            add_up_feature<WHOLE, true>(d, h, mine, m[h].shift, power_of_two(-m[h].power),
                                        &m[h].sum, &squares[h]);
        }
        const float m2 = squares[h] - m[h].sum * (m[h].sum / (float)rows);
        m[h].m2 = m2 < 0 ? 0 : m2; /* a NaN stays */
    }
}

template <int COUNT>
__device__ inline void take_moments(tile_moments (&m)[2], const float (&d)[COUNT], int rows)
{
    if (rows >= 2 * COUNT)
        moments_of<true>(m, d, 2 * COUNT);
    else
        moments_of<false>(m, d, rows);
}

/* ---- in 16 bits ---- */

/* Below it, what is lost is nothing in float; and shift 2^(10 - spread) does not overflow where the
 * values are equal. */
__device__ inline int least_spread(float shift)
{
    const int exponent = (int)(__float_as_uint(shift) >> 23 & 255) - 127;
    return exponent - 100 > -110 ? exponent - 100 : -110;
}

/* The spread of packed values, from their moments. */
__device__ inline int spread_of(const tile_moments &m, float rows)
{
    const float mean = __fdiv_rn(m.sum, rows);
    const float square = __fmaf_rn(mean, mean, __fdiv_rn(m.m2, rows));
    const int least = least_spread(m.shift);
    const int exponent = m.power + ((int)(__float_as_uint(square) >> 23 & 255) - 127 >> 1);
    return square > 0 && exponent > least ? exponent : least;
}

/* The moments in the unit of w, 2^(spread - 10). */
__device__ inline void change_unit(tile_moments &m, int spread)
{
    const float unit = power_of_two(m.power - (spread - 10));

    m.sum *= unit;
    m.m2 = m.m2 * unit * unit; /* the unit's square may be beyond float's range, where m2 is 0 */
    m.power = spread - 10;
}

/* The spread by which the values of a quad that are up to `most` away from shift become less than
 * 2^(11 - room), and not less than half of that. */
__device__ inline int spread_by(float most, float shift, int room)
{
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
    const int spread = (int)(__float_as_uint(most) >> 23 & 255) - 127 + room;
    const int least = least_spread(shift);
    return spread > least ? spread : least;
}

/* The spread by the first 16 rows of the tile, the largest of which becomes 2^6 to 2^7. */
template <int COUNT>
__device__ inline int spread_of_few(const float (&d)[COUNT], int h, float shift)
{
    float most = 0;

#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            most = fmaxf(most, fabsf(d[4 * j + 2 * h + e] - shift));
    return spread_by(most, shift, 4);
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

/* y = act(alpha (u - c) + t) of packed u is act(a w + b). */
struct unpacking {
    float a, b;

    /* Of feature j in a tile, whose moments are in the unit of w. */
    __device__ unpacking(const fbni_cuda_finish &f, int64_t tile, int64_t j)
    {
        const float *from = f.packed.partials + (f.packed.tiles - 1 - tile) * 4 * f.O + j;
        *this = unpacking(from[0], (int)from[3 * f.O] + 10, ((const float *)f.affine.alpha)[j],
                          ((const float *)f.affine.c)[j], ((const float *)f.affine.shift)[j]);
    }

    __device__ unpacking(float shift, int spread, float alpha, float c, float t)
    {
        a = alpha * power_of_two(spread - 10);
        b = fmaf(0.5f * shift - 0.5f * c, 2 * alpha, t); /* halves: the difference might overflow */
    }
};

} // namespace fbni

#endif
