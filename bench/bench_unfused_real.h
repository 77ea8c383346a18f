/* SPDX-License-Identifier: BSD-3-Clause
 * The passes of the unfused computation; included by bench_unfused.c once for each real type, with
 * REAL (float, double), NAME(name) and EXP defined. No include guard.
 *
 * Matrices are rows x columns without gaps. Each pass is written so that the compiler vectorises it
 * and CLONES lets it do so for the machine at hand. Passes over many elements are shared among
 * threads by rows; sums over rows are kept by each thread and then added.
 */

/* z = s (u + b), in place of u where z == u. b, s: one per column, or s NULL. */
CLONES static void NAME(add_and_scale)(int64_t rows, int64_t columns, const REAL *u, const REAL *b,
                                       const REAL *s, REAL *z)
{
    for (int64_t i = 0; i < rows; i++, u += columns, z += columns) {
        if (s != NULL) {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                z[j] = s[j] * (u[j] + b[j]);
        } else {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                z[j] = u[j] + b[j];
        }
    }
}

/* sum[j] = sum over rows of z. */
CLONES static void NAME(sum_rows)(int64_t rows, int64_t columns, const REAL *z, REAL *sum)
{
    memset(sum, 0, (size_t)columns * sizeof *sum);
    for (int64_t i = 0; i < rows; i++, z += columns) {
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            sum[j] += z[j];
    }
}

/* sum[j] = sum over rows of (z - mean)^2. */
CLONES static void NAME(sum_squares)(int64_t rows, int64_t columns, const REAL *z, const REAL *mean,
                                     REAL *sum)
{
    memset(sum, 0, (size_t)columns * sizeof *sum);
    for (int64_t i = 0; i < rows; i++, z += columns) {
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            sum[j] += (z[j] - mean[j]) * (z[j] - mean[j]);
    }
}

/* y = (z - mean) factor + shift, then, with t, y = softmax(t y) row by row. */
CLONES static void NAME(normalise)(int64_t rows, int64_t columns, const REAL *z, const REAL *mean,
                                   const REAL *factor, const REAL *shift, const REAL *t, REAL *y)
{
    for (int64_t i = 0; i < rows; i++, z += columns, y += columns) {
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            y[j] = (z[j] - mean[j]) * factor[j] + shift[j];
        if (t == NULL)
            continue;
        REAL largest = *t * y[0], sum = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t j = 0; j < columns; j++)
            largest = *t * y[j] > largest ? *t * y[j] : largest;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < columns; j++) {
            y[j] = EXP(*t * y[j] - largest);
            sum += y[j];
        }
        const REAL inverse = 1 / sum;
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            y[j] *= inverse;
    }
}

/* The softmax's backward: g = y (dy - sum dy y), row by row. */
CLONES static void NAME(softmax_gradient)(int64_t rows, int64_t columns, const REAL *y,
                                          const REAL *dy, REAL *g)
{
    for (int64_t i = 0; i < rows; i++, y += columns, dy += columns, g += columns) {
        REAL dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < columns; j++)
            dot += dy[j] * y[j];
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            g[j] = y[j] * (dy[j] - dot);
    }
}

/* sum[j] = sum over rows of g, sum[columns + j] = sum of g (z - mean). */
CLONES static void NAME(sum_gradient)(int64_t rows, int64_t columns, const REAL *g, const REAL *z,
                                      const REAL *mean, REAL *sum)
{
    REAL *product = sum + columns;
    memset(sum, 0, 2 * (size_t)columns * sizeof *sum);
    for (int64_t i = 0; i < rows; i++, g += columns, z += columns) {
#pragma omp simd
        for (int64_t j = 0; j < columns; j++) {
            sum[j] += g[j];
            product[j] += g[j] * (z[j] - mean[j]);
        }
    }
}

/* dz = a g + b (z - mean) + c: the gradient through the normalisation. */
CLONES static void NAME(normalise_gradient)(int64_t rows, int64_t columns, const REAL *g,
                                            const REAL *z, const REAL *mean, const REAL *a,
                                            const REAL *b, const REAL *c, REAL *dz)
{
    for (int64_t i = 0; i < rows; i++, g += columns, z += columns, dz += columns) {
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            dz[j] = a[j] * g[j] + b[j] * (z[j] - mean[j]) + c[j];
    }
}

/* The gradient through z = s (u + b): du = s dz in place; sum[j] = sum over rows of du,
 * sum[columns + j] = sum of dz (u + b). s NULL: 1. */
CLONES static void NAME(scale_gradient)(int64_t rows, int64_t columns, const REAL *u, const REAL *b,
                                        const REAL *s, REAL *dz, REAL *sum)
{
    REAL *product = sum + columns;
    memset(sum, 0, 2 * (size_t)columns * sizeof *sum);
    for (int64_t i = 0; i < rows; i++, u += columns, dz += columns) {
        if (s == NULL) {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                sum[j] += dz[j];
            continue;
        }
#pragma omp simd
        for (int64_t j = 0; j < columns; j++) {
            product[j] += dz[j] * (u[j] + b[j]);
            dz[j] *= s[j];
            sum[j] += dz[j];
        }
    }
}

/* ------------------------------------------------------------------------ passes among threads */

/* Adds the threads' sums of `width` columns; the result is in the first one's. */
static void NAME(add_partial)(const struct unfused_runner *r, int threads, int64_t width)
{
    REAL *sum = r->partial;
    for (int t = 1; t < threads; t++) {
        const REAL *other = sum + t * partial_stride(r->bench_case);
#pragma omp simd
        for (int64_t j = 0; j < width; j++)
            sum[j] += other[j];
    }
}

/* Mean and population variance of z, in two passes; the running ones move as PyTorch's. */
static void NAME(batch_statistics)(struct unfused_runner *r, REAL *mean, REAL *var)
{
    const struct bench_case *c = r->bench_case;
    const int64_t n = c->batch, o = c->out;
    const int threads = threads_for(c);
    const REAL *z = r->z;
    REAL *sum = r->partial;

#pragma omp parallel num_threads(threads)
    {
        const struct share s = share_of(c);
        NAME(sum_rows)(s.rows, o, z + s.at, sum + s.sums);
    }
    NAME(add_partial)(r, threads, o);
    for (int64_t j = 0; j < o; j++)
        mean[j] = sum[j] / (REAL)n;

#pragma omp parallel num_threads(threads)
    {
        const struct share s = share_of(c);
        NAME(sum_squares)(s.rows, o, z + s.at, mean, sum + s.sums);
    }
    NAME(add_partial)(r, threads, o);
    REAL *running_mean = r->real.data[T_MEAN], *running_var = r->real.data[T_VAR];
    for (int64_t j = 0; j < o; j++) {
        var[j] = sum[j] / (REAL)n;
        running_mean[j] = (REAL)0.9 * running_mean[j] + (REAL)0.1 * mean[j];
        running_var[j] = (REAL)0.9 * running_var[j] + (REAL)0.1 * (sum[j] / (REAL)(n - 1));
    }
}

static void NAME(forward)(struct unfused_runner *r)
{
    const struct bench_case *c = r->bench_case;
    const int64_t o = c->out;
    const bool softmax = c->chain == CHAIN_BN_SCALE_SOFTMAX;
    const REAL *scale = r->real.data[T_SCALE], *bias = r->real.data[T_BIAS];
    const REAL *gamma = r->real.data[T_GAMMA], *beta = r->real.data[T_BETA];
    REAL *u = r->u, *z = r->z, *y = r->real.data[T_Y];
    REAL *mean = r->columns, *var = mean + o, *factor = var + o;

    product_forward(c, &r->real, u);
#pragma omp parallel num_threads(threads_for(c))
    {
        const struct share s = share_of(c);
        NAME(add_and_scale)(s.rows, o, u + s.at, bias, softmax ? NULL : scale, z + s.at);
    }
    if (case_trains(c)) {
        NAME(batch_statistics)(r, mean, var);
    } else {
        memcpy(mean, r->real.data[T_MEAN], (size_t)o * sizeof(REAL));
        memcpy(var, r->real.data[T_VAR], (size_t)o * sizeof(REAL));
    }
    for (int64_t j = 0; j < o; j++)
        factor[j] = gamma[j] / (REAL)sqrt((double)(var[j] + (REAL)EPS));
#pragma omp parallel num_threads(threads_for(c))
    {
        const struct share s = share_of(c);
        NAME(normalise)(s.rows, o, z + s.at, mean, factor, beta, softmax ? scale : NULL, y + s.at);
    }
}

/* The gradients by gamma, beta and t, and the coefficients of dz = a g + b (z - mean) + c, from
 * sum = (sum g, sum g (z - mean)). g is the gradient by v = t (gamma zhat + beta). */
static void NAME(norm_coefficients)(struct unfused_runner *r, const REAL *sum, REAL *a, REAL *b,
                                    REAL *shift)
{
    const struct bench_case *c = r->bench_case;
    const int64_t o = c->out;
    const bool softmax = c->chain == CHAIN_BN_SCALE_SOFTMAX;
    const REAL t = softmax ? *(const REAL *)r->real.data[T_SCALE] : 1;
    const REAL *gamma = r->real.data[T_GAMMA], *beta = r->real.data[T_BETA];
    const REAL *var = (const REAL *)r->columns + o;
    REAL *dgamma = r->real.data[T_DGAMMA], *dbeta = r->real.data[T_DBETA];
    REAL dt = 0;

    for (int64_t j = 0; j < o; j++) {
        const REAL rstd = 1 / (REAL)sqrt((double)(var[j] + (REAL)EPS));
        const REAL kappa = rstd * sum[o + j];
        dgamma[j] = t * kappa;
        dbeta[j] = t * sum[j];
        dt += gamma[j] * kappa + beta[j] * sum[j];
        a[j] = t * gamma[j] * rstd;
        b[j] = -a[j] * rstd * kappa / (REAL)c->batch;
        shift[j] = -a[j] * sum[j] / (REAL)c->batch;
    }
    if (softmax)
        *(REAL *)r->real.data[T_DSCALE] = dt;
}

static void NAME(backward)(struct unfused_runner *r)
{
    const struct bench_case *c = r->bench_case;
    const int64_t o = c->out;
    const int threads = threads_for(c);
    const bool softmax = c->chain == CHAIN_BN_SCALE_SOFTMAX;
    const REAL *dy = r->real.data[T_DY], *y = r->real.data[T_Y], *z = r->z, *u = r->u;
    const REAL *bias = r->real.data[T_BIAS], *scale = softmax ? NULL : r->real.data[T_SCALE];
    const REAL *mean = r->columns, *g = softmax ? r->gradient : dy;
    REAL *a = (REAL *)r->columns + 3 * o, *b = a + o, *shift = b + o;
    REAL *dz = r->gradient, *sum = r->partial;

#pragma omp parallel num_threads(threads)
    {
        const struct share s = share_of(c);
        if (softmax)
            NAME(softmax_gradient)(s.rows, o, y + s.at, dy + s.at, dz + s.at);
        NAME(sum_gradient)(s.rows, o, g + s.at, z + s.at, mean, sum + s.sums);
    }
    NAME(add_partial)(r, threads, 2 * o);
    NAME(norm_coefficients)(r, sum, a, b, shift);
#pragma omp parallel num_threads(threads)
    {
        const struct share s = share_of(c);
        NAME(normalise_gradient)(s.rows, o, g + s.at, z + s.at, mean, a, b, shift, dz + s.at);
    }
#pragma omp parallel num_threads(threads)
    {
        const struct share s = share_of(c);
        NAME(scale_gradient)(s.rows, o, u + s.at, bias, scale, dz + s.at, sum + s.sums);
    }
    NAME(add_partial)(r, threads, 2 * o);
    memcpy(r->real.data[T_DBIAS], sum, (size_t)o * sizeof *sum);
    if (!softmax)
        memcpy(r->real.data[T_DSCALE], sum + o, (size_t)o * sizeof *sum);
    product_backward(c, &r->real, dz, r->real.data[T_DX], r->real.data[T_DW]);
}
