/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernels for one real type; the formulas are in cpu_kernels.h. Included twice by kernels.c,
 * with FBNI_REAL_BITS 32 and 64; vec.h tells what real, vreal, VLEN and X(name) are.
 *
 * A column loop moves whole vectors and then at most one partial one, of n lanes. Functions that
 * take counts which are constants at every call are inlined into loops of registers.
 */
#include "vec.h"
#include "vecmath.h"

/* ---- Storage types ---- */

static void X(copy)(int64_t n, const void *src, void *dst)
{
    memcpy(dst, src, (size_t)n * sizeof(real));
}

#if FBNI_REAL_BITS == 32
static FBNI_INLINE void X(load_halves)(int64_t n, const uint16_t *src, real *dst,
                                       vreal (*convert)(vhalf))
{
    for (int64_t j = 0; j < n; j += VLEN) {
        int lanes = n - j < VLEN ? (int)(n - j) : VLEN;
        vhalf h = {0};
        if (lanes == VLEN)
            memcpy(&h, src + j, sizeof h);
        else
            memcpy(&h, src + j, (size_t)lanes * sizeof *src);
        X(store)(dst + j, convert(h), lanes);
    }
}

static FBNI_INLINE void X(store_halves)(int64_t n, const real *src, uint16_t *dst,
                                        vhalf (*convert)(vreal))
{
    for (int64_t j = 0; j < n; j += VLEN) {
        int lanes = n - j < VLEN ? (int)(n - j) : VLEN;
        vhalf h = convert(X(load)(src + j, lanes));
        if (lanes == VLEN)
            memcpy(dst + j, &h, sizeof h);
        else
            memcpy(dst + j, &h, (size_t)lanes * sizeof *dst);
    }
}

static void X(load_bf16)(int64_t n, const void *src, void *dst)
{
    X(load_halves)(n, src, dst, X(from_bf16));
}

static void X(store_bf16)(int64_t n, const void *src, void *dst)
{
    X(store_halves)(n, src, dst, X(to_bf16));
}

static void X(load_f16)(int64_t n, const void *src, void *dst)
{
    X(load_halves)(n, src, dst, X(from_f16));
}

static void X(store_f16)(int64_t n, const void *src, void *dst)
{
    X(store_halves)(n, src, dst, X(to_f16));
}
#endif

/* ---- Sums over rows ---- */

/* A group of rows joins the rows before it: 1 / before, and before * group / (before + group), the
 * factor of the squared difference of their means. */
#define merge X(merge)
typedef struct merge {
    bool first;
    real per_before, factor;
} merge;

/* Until all rows are in, dev holds the sum of the differences: a sum of few-digit numbers is exact
 * where a mean of them is not. */
static FBNI_INLINE void X(moments_cell)(int rows, int n, merge with, const real *u, int64_t ldu,
                                        const real *shift, real *dev, real *m2)
{
    vreal d[MOMENT_ROWS], s = X(load)(shift, n), sum = {0}, squares = {0};
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        d[i] = X(load)(u + i * ldu, n) - s;
        sum += d[i];
    }
    vreal mean = sum * ((real)1 / (real)rows); /* rows: a power of two */
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        vreal e = d[i] - mean;
        squares = X(fma)(e, e, squares);
    }
    if (!with.first) {
        vreal before = X(load)(dev, n), delta = mean - before * with.per_before;
        sum += before;
        squares = X(fma)(delta * delta, X(splat)(with.factor), X(load)(m2, n) + squares);
    }
    X(store)(dev, sum, n);
    X(store)(m2, squares, n);
}

/* One group of rows; before: the rows already taken. */
static FBNI_INLINE void X(moments_group)(int rows, int64_t before, int64_t cols, const real *u,
                                         int64_t ldu, const real *shift, real *dev, real *m2)
{
    const double share = (double)rows / (double)(before + rows);
    const merge with = {before == 0, (real)(before ? 1 / (double)before : 0),
                        (real)((double)before * share)};
    int64_t j = 0;
    for (; j + VLEN <= cols; j += VLEN)
        X(moments_cell)(rows, VLEN, with, u + j, ldu, shift + j, dev + j, m2 + j);
    if (j < cols)
        X(moments_cell)(rows, (int)(cols - j), with, u + j, ldu, shift + j, dev + j, m2 + j);
}

static FBNI_INLINE vreal X(group_mean)(int rows, int n, const real *u, int64_t ldu)
{
    vreal first = X(load)(u, n), sum = {0};
    FBNI_UNROLL
    for (int i = 1; i < rows; i++)
        sum += X(load)(u + i * ldu, n) - first;
    return X(fma)(sum, X(splat)((real)1 / (real)rows), first);
}

/* Near the mean, so that little is left to sum and to round; and equal values leave nothing. A
 * group with an outlier is not the median of three. */
static FBNI_INLINE void X(shift_of_groups)(int group, int64_t rows, int64_t cols, const real *u,
                                           int64_t ldu, real *shift)
{
    const real *middle = u + (rows - group) / 2 * ldu, *last = u + (rows - group) * ldu;
    for (int64_t j = 0; j < cols; j += VLEN) {
        const int n = cols - j < VLEN ? (int)(cols - j) : VLEN;
        vreal a = X(group_mean)(group, n, u + j, ldu), b = X(group_mean)(group, n, middle + j, ldu);
        vreal c = X(group_mean)(group, n, last + j, ldu);
        vreal low = X(select)(b < a, b, a), high = X(select)(b < a, a, b);
        vreal rest = X(select)(c < high, c, high);
        X(store)(shift + j, X(select)(rest < low, low, rest), n);
    }
}

static FBNI_INLINE void X(moments_shift)(int64_t rows, int64_t cols, const real *u, int64_t ldu,
                                         real *shift)
{
    if (rows >= 12)
        X(shift_of_groups)(4, rows, cols, u, ldu, shift);
    else if (rows >= 6)
        X(shift_of_groups)(2, rows, cols, u, ldu, shift);
    else
        X(shift_of_groups)(1, rows, cols, u, ldu, shift);
}

static void X(moments)(int64_t rows, int64_t cols, const void *u_, int64_t ldu, void *shift,
                       void *dev, void *m2)
{
    const real *u = u_;
    int64_t i = 0;
    X(moments_shift)(rows, cols, u, ldu, shift);
    for (; i + MOMENT_ROWS <= rows; i += MOMENT_ROWS)
        X(moments_group)(MOMENT_ROWS, i, cols, u + i * ldu, ldu, shift, dev, m2);
    for (; i + 4 <= rows; i += 4)
        X(moments_group)(4, i, cols, u + i * ldu, ldu, shift, dev, m2);
    for (; i < rows; i++)
        X(moments_group)(1, i, cols, u + i * ldu, ldu, shift, dev, m2);
    for (int64_t j = 0; j < cols; j++)
        ((real *)dev)[j] /= (real)rows;
}

static FBNI_INLINE void X(sums_cell)(int rows, int n, bool first, const real *g, int64_t ldg,
                                     const real *u, int64_t ldu, const real *m, real *sum_g,
                                     real *sum_gu)
{
    vreal mean = X(load)(m, n), sum = {0}, product = {0};
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        vreal gi = X(load)(g + i * ldg, n);
        sum += gi;
        product = X(fma)(gi, X(load)(u + i * ldu, n) - mean, product);
    }
    X(store)(sum_g, first ? sum : X(load)(sum_g, n) + sum, n);
    X(store)(sum_gu, first ? product : X(load)(sum_gu, n) + product, n);
}

static FBNI_INLINE void X(sums_group)(int rows, bool first, int64_t cols, const real *g,
                                      int64_t ldg, const real *u, int64_t ldu, const real *m,
                                      real *sum_g, real *sum_gu)
{
    int64_t j = 0;
    for (; j + VLEN <= cols; j += VLEN)
        X(sums_cell)(rows, VLEN, first, g + j, ldg, u + j, ldu, m + j, sum_g + j, sum_gu + j);
    const int n = (int)(cols - j);
    if (n > 0)
        X(sums_cell)(rows, n, first, g + j, ldg, u + j, ldu, m + j, sum_g + j, sum_gu + j);
}

static void X(gradient_sums)(int64_t rows, int64_t cols, const void *g_, int64_t ldg,
                             const void *u_, int64_t ldu, const void *m, void *sum_g, void *sum_gu)
{
    const real *g = g_, *u = u_;
    int64_t i = 0;
    for (; i + SUM_ROWS <= rows; i += SUM_ROWS)
        X(sums_group)(SUM_ROWS, i == 0, cols, g + i * ldg, ldg, u + i * ldu, ldu, m, sum_g, sum_gu);
    for (; i < rows; i++)
        X(sums_group)(1, i == 0, cols, g + i * ldg, ldg, u + i * ldu, ldu, m, sum_g, sum_gu);
}

/* ---- Elementwise: the arrays of a strip of rows ---- */

#define strip X(strip)
typedef struct strip {
    const real *u, *g; /* g: the gradient that comes in */
    real *y;           /* what goes out: y, g or du; may be u or g */
    int64_t ldu, ldg, ldy;
    const real *a, *m, *b, *c;
} strip;

static FBNI_INLINE vreal X(affine)(const strip *s, int64_t row, int64_t j, int n, vreal a, vreal m,
                                   vreal b)
{
    return X(fma)(a, X(load)(s->u + row * s->ldu + j, n) - m, b);
}

/* A cell is the strip's rows at columns j .. j + n - 1. */
#define map X(map)
#define cell X(cell)
typedef vreal map(vreal v);
typedef void cell(const strip *s, int rows, int64_t j, int n, map *act);

static FBNI_INLINE void X(forward_cell)(const strip *s, int rows, int64_t j, int n, map *act)
{
    vreal a = X(load)(s->a + j, n), m = X(load)(s->m + j, n), b = X(load)(s->b + j, n);
    FBNI_UNROLL
    for (int i = 0; i < rows; i++)
        X(store)(s->y + i * s->ldy + j, act(X(affine)(s, i, j, n, a, m, b)), n);
}

static FBNI_INLINE void X(backward_cell)(const strip *s, int rows, int64_t j, int n, map *slope)
{
    vreal a = X(load)(s->a + j, n), m = X(load)(s->m + j, n), b = X(load)(s->b + j, n);
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        vreal dy = X(load)(s->g + i * s->ldg + j, n);
        X(store)(s->y + i * s->ldy + j, dy * slope(X(affine)(s, i, j, n, a, m, b)), n);
    }
}

/* Of its own, since 0 * dy is not 0 for every dy. */
static FBNI_INLINE void X(relu_backward_cell)(const strip *s, int rows, int64_t j, int n, map *none)
{
    (void)none;
    vreal a = X(load)(s->a + j, n), m = X(load)(s->m + j, n), b = X(load)(s->b + j, n);
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        vreal dy = X(load)(s->g + i * s->ldg + j, n), v = X(affine)(s, i, j, n, a, m, b);
        X(store)(s->y + i * s->ldy + j, X(select)(v <= 0, (vreal){0}, dy), n);
    }
}

static FBNI_INLINE void X(input_cell)(const strip *s, int rows, int64_t j, int n, map *none)
{
    (void)none;
    vreal a = X(load)(s->a + j, n), m = X(load)(s->m + j, n);
    vreal b = X(load)(s->b + j, n), c = X(load)(s->c + j, n);
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        vreal g = X(load)(s->g + i * s->ldg + j, n);
        X(store)(s->y + i * s->ldy + j, a * (g + X(affine)(s, i, j, n, c, m, b)), n);
    }
}

static FBNI_INLINE void X(each_cell)(const strip *s, int rows, int64_t cols, cell *body, map *act)
{
    int64_t j = 0;
    for (; j + VLEN <= cols; j += VLEN)
        body(s, rows, j, VLEN, act);
    if (j < cols)
        body(s, rows, j, (int)(cols - j), act);
}

static FBNI_INLINE void X(each_strip)(strip s, int64_t rows, int64_t cols, cell *body, map *act)
{
    for (int64_t i = 0; i < rows;) {
        const int taken = rows - i < STRIP_ROWS ? 1 : STRIP_ROWS;
        if (taken == STRIP_ROWS)
            X(each_cell)(&s, STRIP_ROWS, cols, body, act);
        else
            X(each_cell)(&s, 1, cols, body, act);
        i += taken, s.u += taken * s.ldu, s.g += taken * s.ldg, s.y += taken * s.ldy;
    }
}

#define ELEMENTWISE(name)                                                                          \
    static void X(affine_##name)(int64_t rows, int64_t cols, const void *u, int64_t ldu,           \
                                 const void *a, const void *m, const void *b, void *y,             \
                                 int64_t ldy, void *lse)                                           \
    {                                                                                              \
        const strip s = {u, u, y, ldu, ldu, ldy, a, m, b, NULL};                                   \
        (void)lse;                                                                                 \
        X(each_strip)(s, rows, cols, X(forward_cell), X(name));                                    \
    }

#define ELEMENTWISE_BACKWARD(name, body, slope)                                                    \
    static void X(backward_##name)(int64_t rows, int64_t cols, const void *u, int64_t ldu,         \
                                   const void *a, const void *m, const void *b, const void *lse,   \
                                   const void *dy, int64_t lddy, void *g, int64_t ldg)             \
    {                                                                                              \
        const strip s = {u, dy, g, ldu, lddy, ldg, a, m, b, NULL};                                 \
        (void)lse;                                                                                 \
        X(each_strip)(s, rows, cols, X(body), X(slope));                                           \
    }

ELEMENTWISE(identity)
ELEMENTWISE(relu)
ELEMENTWISE(gelu)
ELEMENTWISE(silu)
ELEMENTWISE_BACKWARD(relu, relu_backward_cell, relu)
ELEMENTWISE_BACKWARD(gelu, backward_cell, gelu_slope)
ELEMENTWISE_BACKWARD(silu, backward_cell, silu_slope)

static void X(backward_identity)(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                 const void *a, const void *m, const void *b, const void *lse,
                                 const void *dy, int64_t lddy, void *g, int64_t ldg)
{
    (void)u, (void)ldu, (void)a, (void)m, (void)b, (void)lse;
    for (int64_t i = 0; i < rows && g != dy; i++)
        X(copy)(cols, (const real *)dy + i * lddy, (real *)g + i * ldg);
}

static void X(input_gradient)(int64_t rows, int64_t cols, const void *g, int64_t ldg, const void *u,
                              int64_t ldu, const void *m, const void *a, const void *c,
                              const void *b, void *du, int64_t lddu)
{
    const strip s = {u, g, du, ldu, ldg, lddu, a, m, b, c};
    X(each_strip)(s, rows, cols, X(input_cell), NULL);
}

#include "kernels_softmax.h"

/* ---- The set: fbni_cpu_f32_<isa> or fbni_cpu_f64_<isa> ---- */

const fbni_cpu_kernels FBNI_CAT(fbni_cpu, FBNI_CAT(X(), FBNI_CAT(_, FBNI_ISA))) = {
    .name = "cpu_f" FBNI_TEXT(FBNI_REAL_BITS) "_" FBNI_TEXT(FBNI_ISA),
    .real_size = sizeof(real),
#if FBNI_REAL_BITS == 32
    .load = {[FBN_F32] = X(copy), [FBN_BF16] = X(load_bf16), [FBN_F16] = X(load_f16)},
    .store = {[FBN_F32] = X(copy), [FBN_BF16] = X(store_bf16), [FBN_F16] = X(store_f16)},
#else
    .load = {[FBN_F64] = X(copy)},
    .store = {[FBN_F64] = X(copy)},
#endif
    .moments = X(moments),
    .affine = {[FBN_ACT_NONE] = X(affine_identity),
               [FBN_ACT_RELU] = X(affine_relu),
               [FBN_ACT_GELU] = X(affine_gelu),
               [FBN_ACT_SILU] = X(affine_silu),
               [FBN_ACT_SOFTMAX] = X(affine_softmax),
               [FBN_ACT_LOG_SOFTMAX] = X(affine_log_softmax)},
    .act_backward = {[FBN_ACT_NONE] = X(backward_identity),
                     [FBN_ACT_RELU] = X(backward_relu),
                     [FBN_ACT_GELU] = X(backward_gelu),
                     [FBN_ACT_SILU] = X(backward_silu),
                     [FBN_ACT_SOFTMAX] = X(backward_softmax),
                     [FBN_ACT_LOG_SOFTMAX] = X(backward_log_softmax)},
    .gradient_sums = X(gradient_sums),
    .input_gradient = X(input_gradient),
};

#undef X
#undef map
#undef cell
#undef merge
#undef scaled
#undef strip
#undef term
#undef MM
#undef real
#undef real_int
#undef real_uint
#undef vreal
#undef vint
#undef vuint
#undef VLEN
#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUND_MAGIC
#undef LOG2_E
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_MIN
#undef GELU_END
#undef SILU_END
#undef HIGH_BITS
#undef SCALE_SPLIT
#undef SCALE_REST
#undef COUNT
#undef ELEMENTWISE
#undef ELEMENTWISE_BACKWARD
