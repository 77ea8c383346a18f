/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernels of softmax and log_softmax: one row at a time, which stays in the first-level cache
 * from pass to pass. A part of kernels_real.h.
 *
 * Forward: y = v and the row's maximum; then the exponentials about it and their sum; then the
 * scaling. Backward: the sum that the formula needs, then the gradient; exp(v - top - log_sum) is
 * computed in both passes, since g may be dy and there is no third array to keep it in.
 */

static FBNI_INLINE int X(lanes)(int64_t left)
{
    return left < VLEN ? (int)left : VLEN;
}

static FBNI_INLINE vreal X(row_v)(const strip *s, int64_t j, int n)
{
    return X(affine)(s, 0, j, n, X(load)(s->a + j, n), X(load)(s->m + j, n), X(load)(s->b + j, n));
}

/* y = v; returns the largest v, NaN passed over: its row becomes NaN by the sum. */
static FBNI_INLINE real X(row_affine)(const strip *s, int64_t cols)
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
#define term X(term)
typedef vreal term(const strip *s, int64_t j, int n, vreal top, vreal log_sum);

/* exp(y - top), which replaces y. */
static FBNI_INLINE vreal X(exp_stored)(const strip *s, int64_t j, int n, vreal top, vreal log_sum)
{
    (void)log_sum;
    vreal e = X(exp)(X(load)(s->y + j, n) - top);
    X(store)(s->y + j, e, n);
    return e;
}

static FBNI_INLINE vreal X(exp_only)(const strip *s, int64_t j, int n, vreal top, vreal log_sum)
{
    (void)log_sum;
    return X(exp)(X(load)(s->y + j, n) - top);
}

/* In this order v - top is exact for the probabilities that count: their sum stays 1. */
static FBNI_INLINE vreal X(probability)(const strip *s, int64_t j, int n, vreal top, vreal log_sum)
{
    return X(exp)(X(row_v)(s, j, n) - top - log_sum);
}

static FBNI_INLINE vreal X(dy_times_probability)(const strip *s, int64_t j, int n, vreal top,
                                                 vreal log_sum)
{
    return X(load)(s->g + j, n) * X(probability)(s, j, n, top, log_sum);
}

static FBNI_INLINE vreal X(dy_only)(const strip *s, int64_t j, int n, vreal top, vreal log_sum)
{
    (void)top, (void)log_sum;
    return X(load)(s->g + j, n);
}

static FBNI_INLINE real X(sum_columns)(const strip *s, int64_t j, int64_t end, term *of, vreal top,
                                       vreal log_sum)
{
    vreal sum[SPLIT] = {{0}};
    for (; j + SPLIT * VLEN <= end; j += SPLIT * VLEN) {
        FBNI_UNROLL
        for (int k = 0; k < SPLIT; k++)
            sum[k] += of(s, j + k * VLEN, VLEN, top, log_sum);
    }
    for (; j < end; j += VLEN) {
        int n = X(lanes)(end - j);
        sum[0] += X(keep)(of(s, j, n, top, log_sum), n, 0);
    }
    return X(lane_sum)((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static FBNI_INLINE double X(row_sum)(const strip *s, int64_t cols, term *of, real top, real log_sum)
{
    double sum = 0;
    for (int64_t j = 0; j < cols; j += SUM_COLUMNS) {
        int64_t end = cols - j < SUM_COLUMNS ? cols : j + SUM_COLUMNS;
        sum += (double)X(sum_columns)(s, j, end, of, X(splat)(top), X(splat)(log_sum));
    }
    return sum;
}

static FBNI_INLINE void X(store_lse)(void *lse, int64_t row, real top, double log_sum)
{
    ((real *)lse)[2 * row] = top;
    ((real *)lse)[2 * row + 1] = (real)log_sum;
}

static void X(affine_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu, const void *a,
                              const void *m, const void *b, void *y, int64_t ldy, void *lse)
{
    for (int64_t i = 0; i < rows; i++) {
        real *yi = (real *)y + i * ldy;
        const strip s = {(const real *)u + i * ldu, NULL, yi, 0, 0, 0, a, m, b, NULL};
        real top = X(row_affine)(&s, cols);
        double sum = X(row_sum)(&s, cols, X(exp_stored), top, 0);
        vreal scale = X(splat)((real)(1 / sum));
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            X(store)(yi + j, X(load)(yi + j, n) * scale, n);
        }
        if (lse)
            X(store_lse)(lse, i, top, log(sum));
    }
}

static void X(affine_log_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                  const void *a, const void *m, const void *b, void *y, int64_t ldy,
                                  void *lse)
{
    for (int64_t i = 0; i < rows; i++) {
        real *yi = (real *)y + i * ldy;
        const strip s = {(const real *)u + i * ldu, NULL, yi, 0, 0, 0, a, m, b, NULL};
        real top = X(row_affine)(&s, cols);
        double log_sum = log(X(row_sum)(&s, cols, X(exp_only), top, 0));
        vreal largest = X(splat)(top), rest = X(splat)((real)log_sum);
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            X(store)(yi + j, X(load)(yi + j, n) - largest - rest, n);
        }
        if (lse)
            X(store_lse)(lse, i, top, log_sum);
    }
}

static void X(backward_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                const void *a, const void *m, const void *b, const void *lse,
                                const void *dy, int64_t lddy, void *g, int64_t ldg)
{
    for (int64_t i = 0; i < rows; i++) {
        const strip s = {(const real *)u + i * ldu,
                         (const real *)dy + i * lddy,
                         (real *)g + i * ldg,
                         0,
                         0,
                         0,
                         a,
                         m,
                         b,
                         NULL};
        const real top = ((const real *)lse)[2 * i], log_sum = ((const real *)lse)[2 * i + 1];
        vreal mean = X(splat)((real)X(row_sum)(&s, cols, X(dy_times_probability), top, log_sum));
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            vreal p = X(probability)(&s, j, n, X(splat)(top), X(splat)(log_sum));
            X(store)(s.y + j, p * (X(load)(s.g + j, n) - mean), n);
        }
    }
}

static void X(backward_log_softmax)(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                    const void *a, const void *m, const void *b, const void *lse,
                                    const void *dy, int64_t lddy, void *g, int64_t ldg)
{
    for (int64_t i = 0; i < rows; i++) {
        const strip s = {(const real *)u + i * ldu,
                         (const real *)dy + i * lddy,
                         (real *)g + i * ldg,
                         0,
                         0,
                         0,
                         a,
                         m,
                         b,
                         NULL};
        const real top = ((const real *)lse)[2 * i], log_sum = ((const real *)lse)[2 * i + 1];
        vreal sum = X(splat)((real)X(row_sum)(&s, cols, X(dy_only), 0, 0));
        for (int64_t j = 0; j < cols; j += VLEN) {
            int n = X(lanes)(cols - j);
            vreal p = X(probability)(&s, j, n, X(splat)(top), X(splat)(log_sum));
            X(store)(s.y + j, X(fma)(-p, sum, X(load)(s.g + j, n)), n);
        }
    }
}
