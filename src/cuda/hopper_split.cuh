/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the splits share, along rows (hopper_split.cu) and across them (hopper_transpose.cu): one
 * entry in parts, and the judge of whether f16 will do.
 *
 *     f16:   x = 2^-e (hi + lo), e such that a row's largest finite entry is 2^14 to 2^15 times 2^-e;
 *            hi = x 2^e rounded, lo = x 2^e - hi rounded: 22 bits where |x| >= 2^-17 of the
 *            largest, and an error of at most 2^-25 there, 2^-39 of the largest, everywhere
 *     bf16:  x = p_0 + p_1 (+ p_2), each what truncation leaves of the rest: float's whole range
 *
 * ("Row" is a row of parts: what the product takes together.) An error of 2^-39 of the largest is
 * lost in the noise unless the entries that matter are the small ones: where x's column k is small
 * throughout, and W's column k large. With X_k and W_k the largest entries of the columns (of the
 * scaled operands times 2^-15, at most 1), the errors of a row's products add up to at most 2^-40
 * sum (X_k + W_k), and the products to about |X W|_2 / 16 (entries' rms is about a quarter of the
 * largest). f16 will do where the first is at most 2^-24 of the second. (A bound of the worst case
 * by an estimate of the usual one; for f16's hi alone, with errors of 2^-11 relative or 2^-39 of
 * the largest, it is 2^-12. A half type is hi alone, with all of its bits down to 2^-31, bf16, or
 * 2^-28, f16, of the largest.) And a row of x, which activations have made, may have zeros where W
 * is large: the same must hold for each column alone, which is for W_k of 2^-12 or more; of 2^-24
 * where W is hi alone.
 *
 * Where W is not split before the product (hopper_direct.cu) W_k is that of a sample of its column,
 * at most the true one, and the product says of which columns some entries are beyond f16, which is
 * never all right, and of which some lose bits, so that W_k matters; f16 has all of them from
 * W_k = 2^-28 on.
 */
#ifndef FBNI_CUDA_HOPPER_SPLIT_CUH
#define FBNI_CUDA_HOPPER_SPLIT_CUH

#include "device.cuh"
#include "hopper_kernels.h"

namespace fbni
{

constexpr int TOP = 14; /* exponent of a row's largest entry */

__device__ inline float finite_magnitude(float v)
{
    const float magnitude = fabsf(v);
    return magnitude < __int_as_float(0x7f800000) ? magnitude : 0;
}

struct largest_magnitude {
    __device__ float operator()(float a, float b) const
    {
        return a > b ? a : b;
    }
};

/* e with magnitude 2^e in [2^top, 2^(top+1)); 0 for 0. At most 126: 2^-e is a float too, and what
 * is left to scale are multiples of 2^-23, which f16 has. */
__device__ inline int exponent_for(float magnitude, int top = TOP)
{
    const int bits = __float_as_int(magnitude), e = top + 127 - (bits >> 23);
    return bits == 0 ? 0 : e > 126 ? 126 : e;
}

/* hi of v scaled, and (LOW) lo. */
template <bool LOW>
__device__ inline void split_entry(float scaled, uint16_t *hi, uint16_t *lo)
{
    const __half h = __float2half_rn(scaled);
    *hi = __half_as_ushort(h);
    if (LOW) {
        const float rest = scaled - __half2float(h);
        *lo = __half_as_ushort(__float2half_rn(fabsf(rest) < 1e30f ? rest : 0));
    }
}

__device__ inline __half2 and_pair(__half2 v, unsigned mask)
{
    unsigned bits;
    memcpy(&bits, &v, sizeof bits);
    bits &= mask;
    memcpy(&v, &bits, sizeof bits);
    return v;
}

/* The same of two entries. */
template <bool LOW>
__device__ inline void split_pair(float a, float b, __half2 *hi, __half2 *lo)
{
    *hi = __floats2half2_rn(a, b);
    if (LOW) {
        const __half2 rest = __floats2half2_rn(a - __low2float(*hi), b - __high2float(*hi));
        *lo = and_pair(rest, __heq2_mask(rest, rest)); /* of infinities and NaNs: 0 */
    }
}

/* What truncation to bf16 leaves in place: the rest is exact. */
__device__ inline uint16_t truncate(float *rest)
{
    const int bits = __float_as_int(*rest);
    if ((bits & 0x7f800000) == 0x7f800000) { /* an infinity, or a NaN of any bits */
        const bool nan = (bits & 0x7fffff) != 0;
        *rest = 0;
        return nan ? 0x7fff : (uint16_t)((unsigned)bits >> 16);
    }
    *rest -= __int_as_float(bits & (int)0xffff0000);
    return (uint16_t)((unsigned)bits >> 16);
}

/* ---- 8 entries of f16 ---- */

struct vector16 {
    __half2 pair[4];
};

__device__ inline vector16 load_vector16(const uint16_t *from)
{
    const uint4 w = *(const uint4 *)(const void *)from;
    vector16 v;
    memcpy(&v, &w, sizeof v);
    return v;
}

__device__ inline void store_vector16(uint16_t *to, const vector16 &v)
{
    uint4 w;
    memcpy(&w, &v, sizeof w);
    *(uint4 *)(void *)to = w;
}

__device__ inline vector16 largest_of(const vector16 &a, const vector16 &b)
{
    vector16 most;
#pragma unroll
    for (int k = 0; k < 4; k++)
        most.pair[k] = __hmax2(a.pair[k], b.pair[k]);
    return most;
}

/* ---- the judge ---- */

/* Its blocks, where somebody adds them up. */
__host__ __device__ inline int judges_of(int64_t ld)
{
    const int64_t blocks = (ld + FBNI_HOPPER_JUDGED - 1) / FBNI_HOPPER_JUDGED;
    return blocks < FBNI_HOPPER_JUDGES ? (int)blocks : FBNI_HOPPER_JUDGES;
}

/* Whether the f16 parts lose what the product needs, by the judges' sums: a whole warp. */
__device__ inline bool needs_rescue(fbni_hopper_kind kind, int64_t ld, fbni_hopper_control *control)
{
    const float most = kind == FBNI_HOPPER_DIRECT || kind == FBNI_HOPPER_TF32 ? 0x1p-12f : 0x1p-24f;
    float sum = 0, squares = 0;

#pragma unroll
    for (int i = 0; i < FBNI_HOPPER_JUDGES / 32; i++) {
        const int judge = (int)threadIdx.x % 32 + i * 32;
        if (judge < judges_of(ld)) {
            sum += control->sums[judge][0];
            squares += control->sums[judge][1];
        }
    }
    sum = warp_reduce(sum, add_up());
    squares = warp_reduce(squares, add_up());
    const bool rescue = 0x1p-40f * sum > most * (sqrtf(squares) / 16);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        control->rescue = rescue;
    return rescue;
}

} // namespace fbni

#endif
