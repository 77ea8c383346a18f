/* SPDX-License-Identifier: BSD-3-Clause
 *
 * exp, and what the activations need of it, on vectors. Included after vec.h, once per real type.
 *
 * Coefficients: minimax fits by Remez exchange in 50-digit arithmetic, rounded to the real type.
 * The errors given with them are relative, of the function in exact arithmetic.
 *
 * Largest errors measured against long double, in ulp of the result down to underflow, over 10^7
 * bit patterns and dense grids (float) and 8 * 10^5 random arguments (double), the worst of the
 * three instruction sets and both types: exp 1.05, gelu 4.9, silu 3.0; slopes for v < -2: gelu 3.6,
 * silu 5.9; slopes everywhere, in ulp of 1: gelu 1.4, silu 1.0 (each has a zero, near which an error
 * relative to the result means nothing).
 */
#if FBNI_REAL_BITS == 32
#define ROUND_MAGIC 0x1.8p23F /* adding it rounds to an integer, kept in the low mantissa bits */
#define LOG2_E 0x1.715476p0F
#define LN2_HIGH 0x1.63p-1F /* 9 bits, so that n * LN2_HIGH is exact */
#define LN2_LOW (-0x1.bd0106p-13F)
#define EXP_MIN (-104.0F) /* exp rounds to 0 up to here */
#define GELU_END 14.75F   /* t phi(t) and t Phi(-t) round to 0 from here on */
#define SILU_END 110.0F   /* t exp(-t) rounds to 0 from here on */
#define SCALE_SPLIT 64    /* 2^n = 2^(n + 64) * 2^-64, n >= -160 */
#define SCALE_REST 0x1p-64F
#define HIGH_BITS 0xfffff000u
/* (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2; error of exp 1.1e-8. */
static const real X(exp_coefficients)[] = {0x1p-1F, 0x1.5554dcp-3F, 0x1.5554b8p-5F, 0x1.120bacp-7F,
                                           0x1.6d759p-10F};
/* (t + 4) exp(t^2/2) Phi(-t) in s = (t - 4)/(t + 4) for 0 <= t <= GELU_END; error 8.6e-9. */
static const real X(tail_coefficients)[] = {
    0x1.82b4bcp-1F,  -0x1.373e38p-1F, 0x1.8c6d9ep-2F,  -0x1.7ep-3F,     0x1.eed404p-5F,
    -0x1.ed2d1ap-8F, -0x1.cc65eap-9F, 0x1.9b8ba4p-10F, 0x1.78240ep-13F, -0x1.14c276p-13F};
#else
#define ROUND_MAGIC 0x1.8p52
#define LOG2_E 0x1.71547652b82fep0
#define LN2_HIGH 0x1.62e42feep-1 /* 32 bits */
#define LN2_LOW 0x1.a39ef35793c76p-33
#define EXP_MIN (-746.0)
#define GELU_END 38.75
#define SILU_END 753.0
#define SCALE_SPLIT 128 /* n >= -1088 */
#define SCALE_REST 0x1p-128
#define HIGH_BITS 0xfffffffff8000000u
/* As above: errors 1.8e-17 and 2.0e-17. */
static const real X(exp_coefficients)[] = {
    0x1.0000000000001p-1,  0x1.5555555555558p-3,  0x1.5555555553d4ep-5,  0x1.111111110f7efp-7,
    0x1.6c16c17893ef5p-10, 0x1.a01a01b015fc1p-13, 0x1.a019b8edfffe2p-16, 0x1.71ddf69834cdap-19,
    0x1.2891aa37e5c96p-22, 0x1.af635f16ead2dp-26};
static const real X(tail_coefficients)[] = {
    0x1.82b4bb8c94dcep-1,  -0x1.373e3a893c28ap-1,  0x1.8c6dbf2cfc307p-2,   -0x1.7dff2bff684ap-3,
    0x1.eec4cc3e4456bp-5,  -0x1.ee27610434ef5p-8,  -0x1.c81719c97dd12p-9,  0x1.ab825fafb0856p-10,
    0x1.17a4a60ebf33ap-13, -0x1.e4a42175c4cdp-13,  -0x1.001123112a69cp-19, 0x1.26d05e40decf4p-15,
    0x1.7fdaebde11b7ep-21, -0x1.8d487e3e4419dp-18, -0x1.4fad2d77cc85p-21,  0x1.124933c791f57p-20,
    0x1.1ba5b3fa5599dp-22, -0x1.501c503c8fabbp-23, -0x1.4b96bf9bd5a6bp-24, 0x1.131e4ad6dee7fp-26,
    0x1.f5bec7b7211d9p-27, -0x1.6269b8f2d6a92p-32, -0x1.46cafed225e6ep-30};
#endif
#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* A positive number p * 2^n in two parts, so that a product with it can be formed before it
 * underflows. n is kept as n + ROUND_MAGIC. */
#define scaled X(scaled)
typedef struct scaled {
    vreal p, n;
} scaled;

/* sum_k c[k] x^k by Horner's rule. */
static FBNI_INLINE vreal X(polynomial)(const real *c, int count, vreal x)
{
    vreal sum = X(splat)(c[count - 1]);
    FBNI_UNROLL
    for (int k = count - 2; k >= 0; k--)
        sum = X(fma)(sum, x, X(splat)(c[k]));
    return sum;
}

/* v * 2^n of a scaled's n <= 0, rounded once. Without an instruction for it, 2^n is two factors,
 * since it may be below the real's range: v times the first is exact. */
static FBNI_INLINE vreal X(scale)(vreal v, vreal n)
{
#if FBNI_VEC_BYTES == 64
    return MM(scalef)(v, n - ROUND_MAGIC);
#else
    vuint first = ((vuint)n + (real_uint)(EXPONENT_BIAS + SCALE_SPLIT)) << MANTISSA_BITS;
    return v * (vreal)first * SCALE_REST;
#endif
}

/* exp(high + low): x = n ln 2 + r, exp(x) = 2^n exp(r), with |low| small enough for high + low to
 * give n. */
static FBNI_INLINE scaled X(exp_of_sum)(vreal high, vreal low)
{
    scaled e;
    e.n = X(fma)(high + low, X(splat)(LOG2_E), X(splat)(ROUND_MAGIC));
    vreal n = e.n - ROUND_MAGIC;
    vreal r = X(fma)(n, X(splat)(-LN2_HIGH), high);
    r = X(fma)(n, X(splat)(-LN2_LOW), r) + low;
    vreal q = X(polynomial)(X(exp_coefficients), COUNT(X(exp_coefficients)), r);
    e.p = X(fma)(r * r, q, r) + (real)1;
    return e;
}

/* exp(x) for EXP_MIN <= x <= 0; the low part is the constant -0, whose addition is dropped. */
static FBNI_INLINE scaled X(exp_scaled)(vreal x)
{
    return X(exp_of_sum)(x, X(splat)(-(real)0));
}

/* exp(x) for x <= 0, which is all that is needed: 0 for -infinity, NaN for NaN. */
static FBNI_INLINE vreal X(exp)(vreal x)
{
    scaled e = X(exp_scaled)(X(max)(X(splat)(EXP_MIN), x));
    return X(scale)(e.p, e.n);
}

#ifndef __FMA__
/* v to half its bits, so that the product of two such is exact. */
static FBNI_INLINE vreal X(high_part)(vreal v)
{
    return (vreal)((vuint)v & (real_uint)HIGH_BITS);
}
#endif

/* exp(-t^2/2) for 0 <= t <= GELU_END. The square needs more than a real's bits: its rounding
 * error, up to 2^-24 * 105 in f32, would be exp's relative error. */
static FBNI_INLINE scaled X(gauss)(vreal t)
{
#ifdef __FMA__
    vreal square = t * t, rest = X(fma)(t, t, -square);
#else
    vreal th = X(high_part)(t);
    vreal square = th * th, rest = (t - th) * (t + th);
#endif
    return X(exp_of_sum)((real)-0.5 * square, (real)-0.5 * rest);
}

/* 1 - a * b for a * b near 1, with hardly an error of its own. */
static FBNI_INLINE vreal X(residual)(vreal a, vreal b)
{
#ifdef __FMA__
    return X(fma)(-a, b, X(splat)(1));
#else
    vreal ah = X(high_part)(a), bh = X(high_part)(b);
    return (((real)1 - ah * bh) - ah * (b - bh)) - (a - ah) * b;
#endif
}

/* exp(t^2/2) Phi(-t) for 0 <= t <= GELU_END. The map of t onto s in [-1, 1) for the complementary
 * error function is that of M. M. Shepherd and J. G. Laframboise, Math. Comp. 36 (1981). The
 * polynomial is steep at s = -1, so s gets the rounding errors of t + 4 and of its reciprocal
 * back. */
static FBNI_INLINE vreal X(tail_over_gauss)(vreal t)
{
    vreal d = t + (real)4, r = (real)1 / d;
    vreal error = X(residual)(r, d) - r * (t - (d - (real)4)); /* 1 - r (t + 4) */
    vreal s = X(fma)(X(splat)((real)-8), r, X(splat)(1));
    s = X(fma)((real)-8 * r, error, s);
    return X(polynomial)(X(tail_coefficients), COUNT(X(tail_coefficients)), s) * r;
}

/* v where it is positive; else 0, signed as v, and a NaN for -infinity and for a NaN. */
static FBNI_INLINE vreal X(positive_part)(vreal v)
{
    return X(select)(v > 0, v, v * (real)0);
}

/* v Phi(v) = max(v, 0) - t Phi(-t) with t = |v|: nothing cancels for v < 0, and for v > 0 at most
 * half is taken away. -infinity * 0 is a NaN. */
static FBNI_INLINE vreal X(gelu)(vreal v)
{
    vreal t = X(min)(X(splat)(GELU_END), X(abs)(v));
    scaled e = X(gauss)(t);
    return X(positive_part)(v) - X(scale)(e.p * (t * X(tail_over_gauss)(t)), e.n);
}

/* Phi(v) + v phi(v), which is 1 minus itself at -v; so it is formed for v <= 0. */
static FBNI_INLINE vreal X(gelu_slope)(vreal v)
{
    const vreal root = X(splat)((real)0.39894228040143267793994605993438); /* 1/sqrt(2 pi) */
    vreal t = X(min)(X(splat)(GELU_END), X(abs)(v));
    scaled e = X(gauss)(t);
    vreal left = X(scale)(e.p * X(fma)(-t, root, X(tail_over_gauss)(t)), e.n);
    return X(select)(v > 0, (real)1 - left, left) + v * (real)0; /* infinity * 0 is a NaN */
}

/* v / (1 + exp(-v)) = max(v, -t exp(-t)) / (1 + exp(-t)) with t = |v|: exp cannot overflow. */
static FBNI_INLINE vreal X(silu)(vreal v)
{
    vreal t = X(min)(X(splat)(SILU_END), X(abs)(v));
    scaled e = X(exp_scaled)(-t);
    vreal left = v * (real)0 - X(scale)(e.p * t, e.n);
    return X(select)(v > 0, v, left) / (X(scale)(e.p, e.n) + (real)1);
}

/* s + v s (1 - s) with s = 1/(1 + exp(-v)), which is 1 minus itself at -v. */
static FBNI_INLINE vreal X(silu_slope)(vreal v)
{
    vreal t = X(min)(X(splat)(SILU_END), X(abs)(v));
    scaled e = X(exp_scaled)(-t);
    vreal s = (real)1 / (X(scale)(e.p, e.n) + (real)1); /* at t */
    vreal left = X(scale)(e.p * s * X(fma)(-t, s, X(splat)(1)), e.n);
    return X(select)(v > 0, (real)1 - left, left) + v * (real)0; /* infinity * 0 is a NaN */
}

/* max(v, 0); NaN and -0 stay. */
static FBNI_INLINE vreal X(relu)(vreal v)
{
    return X(max)(X(splat)(0), v);
}

static FBNI_INLINE vreal X(identity)(vreal v)
{
    return v;
}

#if FBNI_REAL_BITS == 32
/* The two halves-precision formats. VLEN of them make a vhalf. */
typedef uint16_t vhalf __attribute__((vector_size(FBNI_VEC_BYTES / 2)));

static FBNI_INLINE vuint X(select_bits)(vint mask, vuint a, vuint b)
{
    return ((vuint)mask & a) | (~(vuint)mask & b);
}

static FBNI_INLINE vreal X(from_bf16)(vhalf h)
{
    return (vreal)(__builtin_convertvector(h, vuint) << 16);
}

/* Half of the last kept place is added, less one ulp of the source where the kept part is even. */
static FBNI_INLINE vhalf X(to_bf16)(vreal v)
{
    vuint bits = (vuint)v;
    vuint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(X(select_bits)(v == v, rounded, (bits >> 16) | 0x40), vhalf);
}

#if defined(__F16C__) && FBNI_VEC_BYTES == 64
static FBNI_INLINE vreal X(from_f16)(vhalf h)
{
    return _mm512_cvtph_ps((__m256i)h);
}

static FBNI_INLINE vhalf X(to_f16)(vreal v)
{
    return (vhalf)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__F16C__) && FBNI_VEC_BYTES == 32
static FBNI_INLINE vreal X(from_f16)(vhalf h)
{
    return _mm256_cvtph_ps((__m128i)h);
}

static FBNI_INLINE vhalf X(to_f16)(vreal v)
{
    return (vhalf)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}
#else
/* The exponent is rebiased by an addition; a subnormal h is read as 2^-14 (1 + m/1024), and the
 * 2^-14 taken off. */
static FBNI_INLINE vreal X(from_f16)(vhalf h)
{
    vuint wide = __builtin_convertvector(h, vuint);
    vuint bits = (wide & 0x7fff) << 13, exponent = bits & 0x0f800000;
    const vreal least = X(splat)(0x1p-14F);
    vuint normal = bits + ((127 - 15) << 23);
    vuint special = bits | 0x7f800000 | ((vuint)((wide & 0x3ff) != 0) & 0x400000);
    vuint subnormal = (vuint)((vreal)(bits | (vuint)least) - least);
    vuint magnitude = X(select_bits)(exponent == 0x0f800000, special, normal);
    magnitude = X(select_bits)(exponent == 0, subnormal, magnitude);
    return (vreal)(magnitude | (wide & 0x8000) << 16);
}

/* Below 2^-14 the sum with 0.5 leaves the result's bits at the bottom of the mantissa, rounded by
 * the addition; above, as to_bf16; from 65536 on it is an infinity. */
static FBNI_INLINE vhalf X(to_f16)(vreal v)
{
    const vreal half = X(splat)(0.5F);
    vreal size = X(abs)(v);
    vuint bits = (vuint)size;
    vuint subnormal = (vuint)(size + half) - (vuint)half;
    vuint normal = (bits - ((127 - 15) << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
    vuint magnitude = X(select_bits)(size < 0x1p-14F, subnormal, normal);
    vuint nan = 0x7e00 | ((bits >> 13) & 0x3ff);
    magnitude = X(select_bits)(size >= 65536.0F, (vuint){0} + 0x7c00, magnitude);
    magnitude = X(select_bits)(v == v, magnitude, nan);
    return __builtin_convertvector(magnitude | ((vuint)v >> 16 & 0x8000), vhalf);
}
#endif
#endif
