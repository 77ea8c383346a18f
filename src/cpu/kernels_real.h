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

/* A group of rows joins the rows before it: the group's share of all rows, and
 * before * group / (before + group), the factor of the squared difference of their means. */
typedef struct X(merge) {
    bool first;
    real share, factor;
} X(merge);

static FBNI_INLINE void X(moments_cell)(int rows, int n, X(merge) merge, const real *u, int64_t ldu,
                                        const real *shift, real *dev, real *m2)
{
    vreal d[FBNI_GROUP], s = X(load)(shift, n), sum = {0}, squares = {0};
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
    if (!merge.first) {
        vreal before = X(load)(dev, n), delta = mean - before;
        mean = X(fma)(delta, X(splat)(merge.share), before);
        squares = X(fma)(delta * delta, X(splat)(merge.factor), X(load)(m2, n) + squares);
    }
    X(store)(dev, mean, n);
    X(store)(m2, squares, n);
}

/* One group of rows; before: the rows already taken. */
static FBNI_INLINE void X(moments_group)(int rows, int64_t before, int64_t cols, const real *u,
                                         int64_t ldu, const real *shift, real *dev, real *m2)
{
    const double share = (double)rows / (double)(before + rows);
    const X(merge) merge = {before == 0, (real)share, (real)((double)before * share)};
    int64_t j = 0;
    for (; j + VLEN <= cols; j += VLEN)
        X(moments_cell)(rows, VLEN, merge, u + j, ldu, shift + j, dev + j, m2 + j);
    if (j < cols)
        X(moments_cell)(rows, (int)(cols - j), merge, u + j, ldu, shift + j, dev + j, m2 + j);
}

static void X(moments)(int64_t rows, int64_t cols, const void *u_, int64_t ldu, void *shift,
                       void *dev, void *m2)
{
    const real *u = u_;
    int64_t i = 0;
    memcpy(shift, u, (size_t)cols * sizeof(real));
    for (; i + FBNI_GROUP <= rows; i += FBNI_GROUP)
        X(moments_group)(FBNI_GROUP, i, cols, u + i * ldu, ldu, shift, dev, m2);
    for (; i + 4 <= rows; i += 4)
        X(moments_group)(4, i, cols, u + i * ldu, ldu, shift, dev, m2);
    for (; i < rows; i++)
        X(moments_group)(1, i, cols, u + i * ldu, ldu, shift, dev, m2);
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
    if (j < cols)
        X(sums_cell)
    (rows, (int)(cols - j), first, g + j, ldg, u + j, ldu, m + j, sum_g + j, sum_gu + j);
}

static void X(gradient_sums)(int64_t rows, int64_t cols, const void *g_, int64_t ldg,
                             const void *u_, int64_t ldu, const void *m, void *sum_g, void *sum_gu)
{
    const real *g = g_, *u = u_;
    int64_t i = 0;
    for (; i + SUMS <= rows; i += SUMS)
        X(sums_group)(SUMS, i == 0, cols, g + i * ldg, ldg, u + i * ldu, ldu, m, sum_g, sum_gu);
    for (; i + 4 <= rows; i += 4)
        X(sums_group)(4, i == 0, cols, g + i * ldg, ldg, u + i * ldu, ldu, m, sum_g, sum_gu);
    for (; i < rows; i++)
        X(sums_group)(1, i == 0, cols, g + i * ldg, ldg, u + i * ldu, ldu, m, sum_g, sum_gu);
}

/* ---- Elementwise: the arrays of a strip of rows ---- */

typedef struct X(strip) {
    const real *u, *g; /* g: the gradient that comes in */
    real *y;           /* what goes out: y, g or du; may be u or g */
    int64_t ldu, ldg, ldy;
    const real *a, *m, *b, *c;
} X(strip);

static FBNI_INLINE vreal X(affine)(const X(strip) * s, int64_t row, int64_t j, int n, vreal a,
                                   vreal m, vreal b)
{
    return X(fma)(a, X(load)(s->u + row * s->ldu + j, n) - m, b);
}

typedef vreal X(map)(vreal v);
typedef vreal X(slope)(vreal v, vreal dy);

/* A cell is the strip's rows at columns j .. j + n - 1. */
typedef void X(cell)(const X(strip) * s, int rows, int64_t j, int n, X(map) * act,
                     X(slope) * slope);

static FBNI_INLINE void X(forward_cell)(const X(strip) * s, int rows, int64_t j, int n,
                                        X(map) * act, X(slope) * slope)
{
    (void)slope;
    vreal a = X(load)(s->a + j, n), m = X(load)(s->m + j, n), b = X(load)(s->b + j, n);
    FBNI_UNROLL
    for (int i = 0; i < rows; i++)
        X(store)(s->y + i * s->ldy + j, act(X(affine)(s, i, j, n, a, m, b)), n);
}

static FBNI_INLINE void X(backward_cell)(const X(strip) * s, int rows, int64_t j, int n,
                                         X(map) * act, X(slope) * slope)
{
    (void)act;
    vreal a = X(load)(s->a + j, n), m = X(load)(s->m + j, n), b = X(load)(s->b + j, n);
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        vreal dy = X(load)(s->g + i * s->ldg + j, n);
        X(store)(s->y + i * s->ldy + j, slope(X(affine)(s, i, j, n, a, m, b), dy), n);
    }
}

static FBNI_INLINE void X(input_cell)(const X(strip) * s, int rows, int64_t j, int n, X(map) * act,
                                      X(slope) * slope)
{
    (void)act, (void)slope;
    vreal a = X(load)(s->a + j, n), m = X(load)(s->m + j, n);
    vreal b = X(load)(s->b + j, n), c = X(load)(s->c + j, n);
    FBNI_UNROLL
    for (int i = 0; i < rows; i++) {
        vreal g = X(load)(s->g + i * s->ldg + j, n);
        X(store)(s->y + i * s->ldy + j, X(fma)(a, g, X(affine)(s, i, j, n, c, m, b)), n);
    }
}

static FBNI_INLINE void X(each_cell)(const X(strip) * s, int rows, int64_t cols, X(cell) * cell,
                                     X(map) * act, X(slope) * slope)
{
    int64_t j = 0;
    for (; j + VLEN <= cols; j += VLEN)
        cell(s, rows, j, VLEN, act, slope);
    if (j < cols)
        cell(s, rows, j, (int)(cols - j), act, slope);
}

static FBNI_INLINE void X(each_strip)(X(strip) s, int64_t rows, int64_t cols, X(cell) * cell,
                                      X(map) * act, X(slope) * slope)
{
    int64_t i = 0;
    for (; i + STRIP <= rows; i += STRIP) {
        X(each_cell)(&s, STRIP, cols, cell, act, slope);
        s.u += STRIP * s.ldu, s.g += STRIP * s.ldg, s.y += STRIP * s.ldy;
    }
    for (; i < rows; i++) {
        X(each_cell)(&s, 1, cols, cell, act, slope);
        s.u += s.ldu, s.g += s.ldg, s.y += s.ldy;
    }
}

#define ELEMENTWISE(name)                                                                          \
    static void X(affine_##name)(int64_t rows, int64_t cols, const void *u, int64_t ldu,           \
                                 const void *a, const void *m, const void *b, void *y,             \
                                 int64_t ldy, void *lse)                                           \
    {                                                                                              \
        const X(strip) s = {u, u, y, ldu, ldu, ldy, a, m, b, NULL};                                \
        (void)lse;                                                                                 \
        X(each_strip)(s, rows, cols, X(forward_cell), X(name), NULL);                              \
    }

#define ELEMENTWISE_BACKWARD(name)                                                                 \
    static void X(backward_##name)(int64_t rows, int64_t cols, const void *u, int64_t ldu,         \
                                   const void *a, const void *m, const void *b, const void *lse,   \
                                   const void *dy, int64_t lddy, void *g, int64_t ldg)             \
    {                                                                                              \
        const X(strip) s = {u, dy, g, ldu, lddy, ldg, a, m, b, NULL};                              \
        (void)lse;                                                                                 \
        X(each_strip)(s, rows, cols, X(backward_cell), NULL, X(name##_gradient));                  \
    }

static FBNI_INLINE vreal X(relu_gradient)(vreal v, vreal dy)
{
    return X(select)(v <= 0, (vreal){0}, dy);
}

static FBNI_INLINE vreal X(gelu_gradient)(vreal v, vreal dy)
{
    return dy * X(gelu_slope)(v);
}

static FBNI_INLINE vreal X(silu_gradient)(vreal v, vreal dy)
{
    return dy * X(silu_slope)(v);
}

ELEMENTWISE(identity)
ELEMENTWISE(relu)
ELEMENTWISE(gelu)
ELEMENTWISE(silu)
ELEMENTWISE_BACKWARD(relu)
ELEMENTWISE_BACKWARD(gelu)
ELEMENTWISE_BACKWARD(silu)

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
    const X(strip) s = {u, g, du, ldu, ldg, lddu, a, m, b, c};
    X(each_strip)(s, rows, cols, X(input_cell), NULL, NULL);
}

/* ---- Softmax and its logarithm: one row at a time ---- */

static FBNI_INLINE int X(lanes)(int64_t left)
{
    return left < VLEN ? (int)left : VLEN;
}

static FBNI_INLINE vreal X(row_v)(const X(strip) * s, int64_t j, int n)
{
    return X(affine)(s, 0, j, n, X(load)(s->a + j, n), X(load)(s->m + j, n), X(load)(s->b + j, n));
}

/* y = v; returns the largest v, NaN passed over: its row becomes NaN by the sum. */
static FBNI_INLINE real X(row_affine)(const X(strip) * s, int64_t cols)
{
    vreal most[SPLIT];
    int64_t j = 0;
    for (int k = 0; k < SPLIT; k++)
        most[k] = X(splat)(-(real)INFINITY);
    for (; j + SPLIT * VLEN <= cols; j += SPLIT * VLEN) {
        FBNI_UNROLL
        for (int k = 0; k < SPLIT; k++) {
            vreal v = X(row_v)(s, j + k * VLEN, VLEN);
            most[k] = X(max)(v, most[k]);
            X(store)(s->y + j + k * VLEN, v, VLEN);
        }
    }
    for (; j < cols; j += VLEN) {
        int n = X(lanes)(cols - j);
        vreal v = X(row_v)(s, j, n);
        most[0] = X(max)(X(keep)(v, n, -(real)INFINITY), most[0]);
        X(store)(s->y + j, v, n);
    }
    return X(lane_max)(X(max)(X(max)(most[0], most[1]), X(max)(most[2], most[3])));
}

/* The terms of a sum along a row. */
typedef vreal X(term)(const X(strip) * s, int64_t j, int n, vreal row_constant);

/* exp(y - top), which replaces y. */
static FBNI_INLINE vreal X(exp_stored)(const X(strip) * s, int64_t j, int n, vreal top)
{
    vreal e = X(exp)(X(load)(s->y + j, n) - top);
    X(store)(s->y + j, e, n);
    return e;
}

static FBNI_INLINE vreal X(exp_only)(const X(strip) * s, int64_t j, int n, vreal top)
{
    return X(exp)(X(load)(s->y + j, n) - top);
}

static FBNI_INLINE vreal X(probability)(const X(strip) * s, int64_t j, int n, vreal lse)
{
    return X(exp)(X(row_v)(s, j, n) - lse);
}

static FBNI_INLINE vreal X(dy_times_probability)(const X(strip) * s, int64_t j, int n, vreal lse)
{
    return X(load)(s->g + j, n) * X(probability)(s, j, n, lse);
}

static FBNI_INLINE vreal X(dy_only)(const X(strip) * s, int64_t j, int n, vreal lse)
{
    (void)lse;
    return X(load)(s->g + j, n);
}

static FBNI_INLINE real X(sum_columns)(const X(strip) * s, int64_t j, int64_t end, X(term) * term,
                                       vreal constant)
{
    vreal sum[SPLIT] = {{0}};
    for (; j + SPLIT * VLEN <= end; j += SPLIT * VLEN) {
        FBNI_UNROLL
        for (int k = 0; k < SPLIT; k++)
            sum[k] += term(s, j + k * VLEN, VLEN, constant);
    }
    for (; j < end; j += VLEN) {
        int n = X(lanes)(end - j);
        sum[0] += X(keep)(term(s, j, n, constant), n, 0);
    }
    return X(lane_sum)((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static FBNI_INLINE double X(row_sum)(const X(strip) * s, int64_t cols, X(term) * term,
                                     real constant)
{
    double sum = 0;
    for (int64_t j = 0; j < cols; j += SUM_COLUMNS) {
        int64_t end = cols - j < SUM_COLUMNS ? cols : j + SUM_COLUMNS;
        sum += (double)X(sum_columns)(s, j, end, term, X(splat)(constant));
    }
    return sum;
}

static void X(affine_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu, const void *a,
                              const void *m, const void *b, void *y, int64_t ldy, void *lse)
{
    for (int64_t i = 0; i < rows; i++) {
        real *yi = (real *)y + i * ldy;
        const X(strip) s = {(const real *)u + i * ldu, NULL, yi, 0, 0, 0, a, m, b, NULL};
        real top = X(row_affine)(&s, cols);
        double sum = X(row_sum)(&s, cols, X(exp_stored), top);
        vreal scale = X(splat)((real)(1 / sum));
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            X(store)(yi + j, X(load)(yi + j, n) * scale, n);
        }
        if (lse)
            ((real *)lse)[i] = (real)((double)top + log(sum));
    }
}

static void X(affine_log_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                  const void *a, const void *m, const void *b, void *y, int64_t ldy,
                                  void *lse)
{
    for (int64_t i = 0; i < rows; i++) {
        real *yi = (real *)y + i * ldy;
        const X(strip) s = {(const real *)u + i * ldu, NULL, yi, 0, 0, 0, a, m, b, NULL};
        real top = X(row_affine)(&s, cols);
        double log_sum = log(X(row_sum)(&s, cols, X(exp_only), top));
        vreal largest = X(splat)(top), rest = X(splat)((real)log_sum);
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            X(store)(yi + j, X(load)(yi + j, n) - largest - rest, n);
        }
        if (lse)
            ((real *)lse)[i] = (real)((double)top + log_sum);
    }
}

static void X(backward_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                const void *a, const void *m, const void *b, const void *lse,
                                const void *dy, int64_t lddy, void *g, int64_t ldg)
{
    for (int64_t i = 0; i < rows; i++) {
        const X(strip) s = {(const real *)u + i * ldu,
                            (const real *)dy + i * lddy,
                            (real *)g + i * ldg,
                            0,
                            0,
                            0,
                            a,
                            m,
                            b,
                            NULL};
        const real lse_i = ((const real *)lse)[i];
        vreal mean = X(splat)((real)X(row_sum)(&s, cols, X(dy_times_probability), lse_i));
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            vreal p = X(probability)(&s, j, n, X(splat)(lse_i));
            X(store)(s.y + j, p * (X(load)(s.g + j, n) - mean), n);
        }
    }
}

static void X(backward_log_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                    const void *a, const void *m, const void *b, const void *lse,
                                    const void *dy, int64_t lddy, void *g, int64_t ldg)
{
    for (int64_t i = 0; i < rows; i++) {
        const X(strip) s = {(const real *)u + i * ldu,
                            (const real *)dy + i * lddy,
                            (real *)g + i * ldg,
                            0,
                            0,
                            0,
                            a,
                            m,
                            b,
                            NULL};
        const real lse_i = ((const real *)lse)[i];
        vreal sum = X(splat)((real)X(row_sum)(&s, cols, X(dy_only), 0));
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            vreal p = X(probability)(&s, j, n, X(splat)(lse_i));
            X(store)(s.y + j, X(fma)(-p, sum, X(load)(s.g + j, n)), n);
        }
    }
}

/* ---- The set ---- */

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
