/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Vectors of one real type: the few operations that the CPU kernels are written in.
 *
 * A template without include guard: kernels.c includes it (through kernels_real.h) once with
 * FBNI_REAL_BITS 32 and once with 64. FBNI_VEC_BYTES is the vector's size. After inclusion
 *   real, real_int, real_uint   the element type and the integers of its size,
 *   vreal, vint, vuint          vectors of VLEN of them,
 *   X(name)                     the name of a function or type in this real type: name_f32, name_f64.
 * Arithmetic and comparison are GCC's vector extensions, which Clang has too: a comparison yields a
 * vint, all ones where true. Intrinsics serve where the extensions have no word: MM(op) is x86's op
 * for this vector.
 *
 * Operations that move data take a count n of lanes, 1..VLEN: the rest is neither read nor written,
 * and reads as 0. A constant n = VLEN is one plain move.
 */
#define X(name) FBNI_CAT(name, FBNI_CAT(_f, FBNI_REAL_BITS))

#if FBNI_REAL_BITS == 32
#define real float
#define real_int int32_t
#define real_uint uint32_t
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#else
#define real double
#define real_int int64_t
#define real_uint uint64_t
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#endif
#define VLEN (FBNI_VEC_BYTES * 8 / FBNI_REAL_BITS)

#define vreal X(vreal)
#define vint X(vint)
#define vuint X(vuint)
typedef real vreal __attribute__((vector_size(FBNI_VEC_BYTES)));
typedef real_int vint __attribute__((vector_size(FBNI_VEC_BYTES)));
typedef real_uint vuint __attribute__((vector_size(FBNI_VEC_BYTES)));

#if FBNI_X86 && FBNI_REAL_BITS == 32
#define MM(op) FBNI_CAT(FBNI_MM_PREFIX, FBNI_CAT(op, _ps))
#elif FBNI_X86
#define MM(op) FBNI_CAT(FBNI_MM_PREFIX, FBNI_CAT(op, _pd))
#endif

static FBNI_INLINE vreal X(splat)(real s)
{
    return s - (vreal){0}; /* s - 0 is s for every s, -0 too; 0 + s is not */
}

/* Bits chosen from a where mask is ones, from b where it is zeros. */
static FBNI_INLINE vreal X(select)(vint mask, vreal a, vreal b)
{
    return (vreal)((mask & (vint)a) | (~mask & (vint)b));
}

/* Ones in lanes 0..n-1. */
static FBNI_INLINE vint X(first_lanes)(int n)
{
    static const real_int number[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vint lane;
    memcpy(&lane, number, sizeof lane);
    return lane < (real_int)n;
}

static FBNI_INLINE vreal X(load)(const real *p, int n)
{
    vreal v = {0};
    if (n == VLEN) {
        memcpy(&v, p, sizeof v);
        return v;
    }
#if FBNI_VEC_BYTES == 64
    return MM(maskz_loadu)((1u << n) - 1, p);
#elif FBNI_VEC_BYTES == 32
    return MM(maskload)(p, (__m256i)X(first_lanes)(n));
#else
    for (int k = 0; k < VLEN; k++) {
        if (k < n)
            v[k] = p[k];
    }
    return v;
#endif
}

static FBNI_INLINE void X(store)(real *p, vreal v, int n)
{
    if (n == VLEN) {
        memcpy(p, &v, sizeof v);
        return;
    }
#if FBNI_VEC_BYTES == 64
    MM(mask_storeu)(p, (1u << n) - 1, v);
#elif FBNI_VEC_BYTES == 32
    MM(maskstore)(p, (__m256i)X(first_lanes)(n), v);
#else
    for (int k = 0; k < VLEN; k++) {
        if (k < n)
            p[k] = v[k];
    }
#endif
}

/* v in lanes 0..n-1, fill in the others. */
static FBNI_INLINE vreal X(keep)(vreal v, int n, real fill)
{
    return n == VLEN ? v : X(select)(X(first_lanes)(n), v, X(splat)(fill));
}

/* a * b + c, rounded once where the instruction set can. */
static FBNI_INLINE vreal X(fma)(vreal a, vreal b, vreal c)
{
#ifdef __FMA__
    return MM(fmadd)(a, b, c);
#else
    return a * b + c;
#endif
}

/* The larger of a and b; b where either is a NaN. */
static FBNI_INLINE vreal X(max)(vreal a, vreal b)
{
#if FBNI_X86
    return MM(max)(a, b);
#else
    return X(select)(a > b, a, b);
#endif
}

/* The smaller of a and b; b where either is a NaN. */
static FBNI_INLINE vreal X(min)(vreal a, vreal b)
{
#if FBNI_X86
    return MM(min)(a, b);
#else
    return X(select)(a < b, a, b);
#endif
}

static FBNI_INLINE vreal X(abs)(vreal v)
{
    return (vreal)((vuint)v & ((real_uint)-1 >> 1));
}

/* The sum of the lanes: halves added to halves. */
static FBNI_INLINE real X(lane_sum)(vreal v)
{
    real s[VLEN];
    memcpy(s, &v, sizeof s);
    for (int width = VLEN / 2; width >= 1; width /= 2) {
        for (int k = 0; k < width; k++)
            s[k] += s[k + width];
    }
    return s[0];
}

/* The largest lane of a vector without NaN. */
static FBNI_INLINE real X(lane_max)(vreal v)
{
    real s[VLEN];
    memcpy(s, &v, sizeof s);
    for (int width = VLEN / 2; width >= 1; width /= 2) {
        for (int k = 0; k < width; k++)
            s[k] = s[k] > s[k + width] ? s[k] : s[k + width];
    }
    return s[0];
}
