/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The product of hopper_small.cu: a block's part of u, 40 features and all rows, over a part of the
 * depth. Eight warps share the tile: a warp has 32 rows of it, and where there are fewer rows than
 * 8 × 32, several warps have the same rows and share each stage's depth.
 *
 * FP32: operands are split in registers, x = hi + lo, both TF32 and so of float's range; lo.hi and
 * hi.lo come first, then hi.hi. Tensor cores truncate what they add to an accumulator, to its own
 * size: so it begins anew after every 16 of the depth, and the sums are added by ordinary
 * additions. A warp multiplies again, without tensor cores, what the parts do not give: where an
 * entry is not finite or rounds to an infinity; and a row of x or W with nothing above TF32's last
 * denormals.
 */
#ifndef FBNI_CUDA_HOPPER_SMALL_CUH
#define FBNI_CUDA_HOPPER_SMALL_CUH

#include "hopper_small_load.cuh"

namespace fbni
{
namespace small
{

/* ---- multiply ---- */

/* A float as a tensor core takes it, which drops all but 11 bits: to the nearest, halves away from
 * zero, where the sum does not become an infinity, or a NaN a number. */
__device__ inline uint32_t to_tf32(uint32_t bits)
{
    const float limit = 0x1.ffep127f;
    return fabsf(__uint_as_float(bits)) < limit ? bits + 0x1000 : bits;
}

/* A word of an operand, as an mma takes it. FP32: to the nearest 11 bits, and what is left, of 12.
 * What rounds to an infinity gives a NaN, as infinities do: see warp_part::fails. */
template <fbni_hopper_kind KIND>
__device__ void split(uint32_t &hi, uint32_t &lo)
{
    if (KIND == FBNI_HOPPER_TF32)
        hi = to_tf32(hi);
    if (KIND == FBNI_HOPPER_FP32) {
        const float all = __uint_as_float(hi);
        hi = (hi + 0x1000) & 0xffffe000u;
        lo = __float_as_uint(all - __uint_as_float(hi));
    }
}

template <fbni_hopper_kind KIND>
__device__ void multiply(float (&d)[4], const uint32_t (&x)[4], const uint32_t (&w)[2])
{
    if (KIND == FBNI_HOPPER_F16)
        mma_f16(d, x, w);
    else if (KIND == FBNI_HOPPER_BF16)
        mma_bf16(d, x, w);
    else
        mma_tf32(d, x, w);
}

constexpr int STEPS = SPAN / STEP, WARP_MS = WARP_ROWS / 16, WARP_NS = FEATURES_OF / 8;

/* What a warp multiplies at once: two steps of its rows and of all features. */
template <fbni_hopper_kind KIND>
struct span_words {
    uint32_t x[STEPS][WARP_MS][4], w[STEPS][WARP_NS][2];
    uint32_t x_lo[STEPS][WARP_MS][4], w_lo[STEPS][WARP_NS][2]; /* FP32 alone */

    __device__ void split_all()
    {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int n = 0; n < WARP_NS; n++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    split<KIND>(w[step][n][i], w_lo[step][n][i]);
#pragma unroll
            for (int m = 0; m < WARP_MS; m++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    split<KIND>(x[step][m][i], x_lo[step][m][i]);
        }
    }
};

/* A warp's part of u, 32 rows × 40 features, and its part of the depth. With g = lane / 4 and t =
 * lane % 4 a thread holds of tile (m, n) rows 16 m + g and + 8 of features 8 n + 2 t and + 1. */
template <fbni_hopper_kind KIND, int ROWS>
struct warp_part {
    using tile = tile_of<ROWS>;
    using T = typename element_of<KIND>::type;
    float u[WARP_MS][WARP_NS][4];
    uint32_t seen_x[2 * WARP_MS], seen_w[WARP_NS]; /* bits set in any entry of a row */
    int row, group;
    uint32_t x_line, w_line, w_last; /* where this lane's lines of the first step lie in a panel */

    __device__ warp_part() : u(), seen_x(), seen_w()
    {
        const int warp = (int)threadIdx.x / 32, part = (int)threadIdx.x % 32 / 8;
        const int line = (int)threadIdx.x % 8;
        row = warp % tile::ROW_GROUPS * WARP_ROWS;
        group = warp / tile::ROW_GROUPS;
        /* rows, 8 more, then the other half of the step; features the other way round; and of the
         * last 8 both steps at once */
        x_line = (uint32_t)place(row + part % 2 * 8 + line, part / 2);
        w_line = (uint32_t)place(ROWS + part / 2 * 8 + line, part % 2);
        w_last = (uint32_t)place(ROWS + (WARP_NS - 1) * 8 + line, part);
    }

    __device__ void add_stage(uint32_t slot)
    {
#pragma unroll
        for (int i = 0; i < tile::SPANS; i++) {
            const int span = group * tile::SPANS + i;
            add_span(slot + span / 2 * tile::PANEL_BYTES, span % 2 * SPAN);
        }
    }

    __device__ void add_span(uint32_t panel, uint32_t at)
    {
        span_words<KIND> words;
        load(words, panel, at);
        if (KIND == FBNI_HOPPER_FP32)
            look_at(words);
        words.split_all();
        add_products(words);
    }

    /* The swizzle is an exclusive or with bits of the line: so are another span and step. */
    __device__ void load(span_words<KIND> &words, uint32_t panel, uint32_t at) const
    {
        static_assert(STEPS == 2 && WARP_NS % 2 == 1, "");
        uint32_t two[4];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const uint32_t x_at = panel + (x_line ^ (at + step * STEP));
            const uint32_t w_at = panel + (w_line ^ (at + step * STEP));
#pragma unroll
            for (int m = 0; m < WARP_MS; m++)
                load_lines(words.x[step][m], x_at + 16 * m * PANEL);
#pragma unroll
            for (int n = 0; n < WARP_NS - 1; n += 2) {
                load_lines(two, w_at + 8 * n * PANEL);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    words.w[step][n + i / 2][i % 2] = two[i];
            }
        }
        load_lines(two, panel + (w_last ^ at));
#pragma unroll
        for (int i = 0; i < 4; i++)
            words.w[i / 2][WARP_NS - 1][i % 2] = two[i];
    }

    __device__ void look_at(const span_words<KIND> &words)
    {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int i = 0; i < 2 * WARP_MS; i++)
                seen_x[i] |= words.x[step][i / 2][i % 2] | words.x[step][i / 2][i % 2 + 2];
#pragma unroll
            for (int n = 0; n < WARP_NS; n++)
                seen_w[n] |= words.w[step][n][0] | words.w[step][n][1];
        }
    }

    /* Neighbours in the order of the products are of different tiles. */
    __device__ void add_products(const span_words<KIND> &words)
    {
        float fresh[WARP_MS][WARP_NS][4] = {};
#pragma unroll
        for (int product = KIND == FBNI_HOPPER_FP32 ? 0 : 2; product < 3; product++)
#pragma unroll
            for (int step = 0; step < STEPS; step++)
#pragma unroll
                for (int n = 0; n < WARP_NS; n++)
#pragma unroll
                    for (int m = 0; m < WARP_MS; m++)
                        multiply<KIND>(KIND == FBNI_HOPPER_FP32 ? fresh[m][n] : u[m][n],
                                       product == 1 ? words.x_lo[step][m] : words.x[step][m],
                                       product == 0 ? words.w_lo[step][n] : words.w[step][n]);
        if (KIND == FBNI_HOPPER_FP32)
#pragma unroll
            for (int n = 0; n < WARP_NS; n++)
#pragma unroll
                for (int m = 0; m < WARP_MS; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        u[m][n][i] += fresh[m][n][i];
    }

    /* Whether some row has entries, but none above 2^-111, below which lo runs out of bits. */
    __device__ static bool is_tiny(uint32_t seen)
    {
        return (seen & 0x7fffffffu) - 1 < 0x07ffffffu;
    }
    __device__ static bool is_tiny_row(uint32_t seen)
    {
        seen |= __shfl_xor_sync(0xffffffffu, seen, 1);
        seen |= __shfl_xor_sync(0xffffffffu, seen, 2);
        return is_tiny(seen);
    }
    __device__ bool any_tiny() const
    {
        bool any = false;
#pragma unroll
        for (int i = 0; i < 2 * WARP_MS; i++)
            any |= is_tiny(seen_x[i]);
#pragma unroll
        for (int n = 0; n < WARP_NS; n++)
            any |= is_tiny(seen_w[n]);
        if (!__any_sync(0xffffffffu, any)) /* of what a lane saw of a row, and so of no row */
            return false;
        any = false;
#pragma unroll
        for (int i = 0; i < 2 * WARP_MS; i++)
            any |= is_tiny_row(seen_x[i]);
#pragma unroll
        for (int n = 0; n < WARP_NS; n++)
            any |= is_tiny_row(seen_w[n]);
        return __any_sync(0xffffffffu, any);
    }

    /* Whether the parts of the entries do not give u: where an entry is not finite or rounds to an
     * infinity, u is a NaN. */
    __device__ bool fails() const
    {
        float sum[4] = {};
#pragma unroll
        for (int m = 0; m < WARP_MS; m++)
#pragma unroll
            for (int n = 0; n < WARP_NS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sum[i] += fabsf(u[m][n][i]);
        const bool finite = isfinite((sum[0] + sum[1]) + (sum[2] + sum[3]));
        return __any_sync(0xffffffffu, !finite) || any_tiny();
    }

    /* To parts[group][feature][row]. */
    __device__ void store(float *parts) const
    {
        const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
        float *mine = parts + (group * FEATURES_OF + 2 * t) * tile::PITCH + row + g;
#pragma unroll
        for (int m = 0; m < WARP_MS; m++)
#pragma unroll
            for (int n = 0; n < WARP_NS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    mine[(8 * n + i % 2) * tile::PITCH + 16 * m + i / 2 * 8] = u[m][n][i];
    }

    /* The same without tensor cores, out of global memory: a row a lane. */
    __device__ void store_plain(float *parts, const operands &a, depth_range range,
                                int64_t first_feature) const
    {
        constexpr int COUNT = SPAN / (int)sizeof(T); /* entries of a span */
        const int64_t at = row + (int)threadIdx.x % 32;
        const T *w = (const T *)a.weight + first_feature * a.ldw, *x = (const T *)a.x + at * a.ldx;
        float sum[FEATURES_OF] = {};
#pragma unroll 1
        for (int i = 0; i < (range.to - range.from) * tile::SPANS * COUNT; i++) {
            const int stage = range.from + i / (tile::SPANS * COUNT);
            const int64_t k = ((int64_t)stage * 2 * tile::PANELS + group * tile::SPANS) * COUNT +
                              i % (tile::SPANS * COUNT);
            const float value = k < a.I && at < a.N ? to_real(x[k]) : 0;
#pragma unroll
            for (int f = 0; f < FEATURES_OF; f++)
                if (k < a.I && first_feature + f < a.O)
                    sum[f] = fmaf(to_real(w[f * a.ldw + k]), value, sum[f]);
        }
#pragma unroll
        for (int f = 0; f < FEATURES_OF; f++)
            parts[(group * FEATURES_OF + f) * tile::PITCH + at] = sum[f];
    }
};

template <fbni_hopper_kind KIND, int ROWS>
__device__ void multiply_stages(warp_part<KIND, ROWS> &part, const operands &a, uint32_t slots,
                                uint32_t full, depth_range range, int64_t first_feature)
{
    using T = typename element_of<KIND>::type;
    int slot = 0;
    uint32_t phase = 0;

#pragma unroll 1
    for (int stage = range.from; stage < range.to; stage++) {
        const uint32_t at = slots + slot * tile_of<ROWS>::SLOT_BYTES;
        if (a.has_maps)
            barrier_wait(full + 8 * slot, phase);
        else
            gather_stage<T, ROWS>({a.x, a.weight, a.ldx, a.ldw, a.N, a.O, a.I}, at, stage,
                                  first_feature);
        part.add_stage(at);
        if (a.has_maps && stage + a.slots < range.to) {
            __syncthreads(); /* the slot has been read */
            if (threadIdx.x == 0)
                fetch_stage<T, ROWS>(a, at, full + 8 * slot, stage + a.slots, first_feature);
        }
        if (++slot == a.slots) {
            slot = 0;
            phase ^= 1;
        }
    }
}

} // namespace small
} // namespace fbni

#endif
