/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The naive layer for one real type: included by oracle.c once per type, which defines REAL (the
 * type), NAME(x) (x with the type's suffix) and MATH(f) (the C library's function of that type).
 * Reads like the formula; every operation is one operation in REAL, in the order of the layers.
 */

/* A value of a trace or a problem, in REAL: exact, since it was computed in REAL or stored there. */
#define AT(array, index) ((REAL)(array)[index])
#define PARAM(array, index, absent) ((array) ? (REAL)(array)[index] : (REAL)(absent))
#define SCALE(array, kind, j) ((array) ? (REAL)(array)[(kind) == FBN_SCALE_FEATURE ? (j) : 0] : 1)

/* c = a b, with a [rows,depth], b [depth,cols], c [rows,cols]. Every entry is the plain sum over
 * depth, in order; the loops stand so that the compiler can work on many entries at once. */
static void NAME(product)(int64_t rows, int64_t cols, int64_t depth, const REAL *a, const REAL *b,
                          long double *c)
{
    REAL *row = malloc((size_t)cols * sizeof *row);
    if (!row)
        abort();
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < cols; j++)
            row[j] = 0;
        for (int64_t d = 0; d < depth; d++)
            for (int64_t j = 0; j < cols; j++)
                row[j] += a[r * depth + d] * b[d * cols + j];
        for (int64_t j = 0; j < cols; j++)
            c[r * cols + j] = row[j];
    }
    free(row);
}

/* A matrix of doubles or long doubles (exactly one of them given) in REAL, rounded to TF32's 11 bits
 * if asked, and transposed if asked; the caller frees. */
static REAL *NAME(pack)(const double *narrow, const long double *wide, int64_t rows, int64_t cols,
                        bool tf32, bool transposed)
{
    REAL *packed = calloc((size_t)(rows * cols + 1), sizeof *packed);
    if (!packed)
        abort();
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            packed[transposed ? c * rows + r : r * cols + c] =
                narrow ? AT(narrow, r * cols + c) : AT(wide, r * cols + c);
    for (int64_t e = 0; e < rows * cols && tf32; e++)
        packed[e] = (REAL)oracle_tf32((double)packed[e]);
    return packed;
}

/* Phi(v) = erfc(-v / sqrt 2) / 2 and phi(v) = exp(-v^2 / 2) / sqrt(2 pi). */
static REAL NAME(normal_distribution)(REAL v)
{
    return MATH(erfc)(-v * (REAL)0.70710678118654752440084436210484904L) / 2;
}

static REAL NAME(normal_density)(REAL v)
{
    return MATH(exp)(-v * v / 2) * (REAL)0.39894228040143267793994605993438187L;
}

static void NAME(activate)(fbn_activation activation, int64_t o, const long double *v,
                           long double *y)
{
    REAL largest = AT(v, 0), sum = 0;
    for (int64_t j = 0; j < o; j++)
        if (!(AT(v, j) <= largest)) /* NaN wins */
            largest = AT(v, j);
    for (int64_t j = 0; j < o; j++)
        sum += MATH(exp)(AT(v, j) - largest);

    for (int64_t j = 0; j < o; j++) {
        REAL a = AT(v, j);
        switch (activation) {
        case FBN_ACT_NONE:
            y[j] = a;
            break;
        case FBN_ACT_RELU:
            y[j] = a < 0 ? 0 : a;
            break;
        case FBN_ACT_GELU:
            y[j] = (REAL)(a * NAME(normal_distribution)(a));
            break;
        case FBN_ACT_SILU:
            y[j] = (REAL)(a / (1 + MATH(exp)(-a)));
            break;
        case FBN_ACT_SOFTMAX:
            y[j] = (REAL)(MATH(exp)(a - largest) / sum);
            break;
        case FBN_ACT_LOG_SOFTMAX:
            y[j] = (REAL)((a - largest) - MATH(log)(sum));
            break;
        }
    }
}

/* mean and population variance of column j, in two passes. */
static void NAME(moments)(const trace *t, int64_t j, REAL *mean, REAL *var)
{
    REAL sum = 0, squares = 0;
    for (int64_t n = 0; n < t->n; n++)
        sum += AT(t->z, n * t->o + j);
    *mean = sum / (REAL)t->n;
    for (int64_t n = 0; n < t->n; n++) {
        REAL d = AT(t->z, n * t->o + j) - *mean;
        squares += d * d;
    }
    *var = squares / (REAL)t->n;
}

static void NAME(update_running)(const problem *p, trace *t, int64_t j, REAL mean, REAL var)
{
    REAL m = (REAL)oracle_momentum(p, &t->batches);
    REAL old_mean = AT(p->running_mean, j), old_var = AT(p->running_var, j);
    bool skip = (p->flags & FBN_SKIP_NONFINITE) && !(isfinite(mean) && isfinite(var));
    if (!(p->flags & FBN_BIASED_RUNNING_VAR))
        var = var * (REAL)p->n / (REAL)(p->n - 1);
    t->out[OUT_RUNNING_MEAN][j] = skip ? old_mean : (REAL)((1 - m) * old_mean + m * mean);
    t->out[OUT_RUNNING_VAR][j] = skip ? old_var : (REAL)((1 - m) * old_var + m * var);
}

static void NAME(forward)(const problem *p, trace *t)
{
    const bool tf32 = p->tf32 && sizeof(REAL) == sizeof(float);
    REAL *x = NAME(pack)(p->x, NULL, p->n, p->i, tf32, false);
    REAL *w = NAME(pack)(p->w, NULL, p->o, p->i, tf32, true);
    NAME(product)(p->n, p->o, p->i, x, w, t->u); /* u = x W^T */
    free(x);
    free(w);
    for (int64_t n = 0; n < p->n; n++)
        for (int64_t j = 0; j < p->o; j++)
            t->z[n * p->o + j] = (REAL)(SCALE(p->pre, p->pre_scale, j) *
                                        (REAL)(AT(t->u, n * p->o + j) + PARAM(p->bias, j, 0)));
    for (int64_t j = 0; j < p->o; j++) {
        REAL mean, var;
        if (p->training) {
            NAME(moments)(t, j, &mean, &var);
            t->out[OUT_BATCH_MEAN][j] = mean;
            t->out[OUT_BATCH_VAR][j] = var;
            if (p->running_mean)
                NAME(update_running)(p, t, j, mean, var);
        } else {
            mean = AT(p->running_mean, j);
            var = AT(p->running_var, j);
        }
        t->mean[j] = mean;
        t->var[j] = var;
        t->rstd[j] = (REAL)(1 / MATH(sqrt)(var + (REAL)p->eps));
        for (int64_t n = 0; n < p->n; n++) {
            int64_t e = n * p->o + j;
            t->zhat[e] = (REAL)((AT(t->z, e) - mean) * AT(t->rstd, j));
            t->h[e] = (REAL)(PARAM(p->gamma, j, 1) * AT(t->zhat, e) + PARAM(p->beta, j, 0));
            t->v[e] = (REAL)(SCALE(p->post, p->post_scale, j) * AT(t->h, e));
        }
    }
    for (int64_t n = 0; n < p->n; n++)
        NAME(activate)(p->activation, p->o, t->v + n * p->o, t->out[OUT_Y] + n * p->o);
}

static void NAME(activate_backward)(fbn_activation activation, int64_t o, const long double *v,
                                    const long double *y, const double *dy, long double *g)
{
    REAL sum = 0; /* softmax: of dy y; log_softmax: of dy */
    for (int64_t j = 0; j < o; j++)
        sum += activation == FBN_ACT_SOFTMAX ? AT(dy, j) * AT(y, j) : AT(dy, j);

    for (int64_t j = 0; j < o; j++) {
        REAL a = AT(v, j), d = AT(dy, j), logistic = 1 / (1 + MATH(exp)(-a));
        switch (activation) {
        case FBN_ACT_NONE:
            g[j] = d;
            break;
        case FBN_ACT_RELU:
            g[j] = a <= 0 ? 0 : d;
            break;
        case FBN_ACT_GELU:
            g[j] = (REAL)(d * (NAME(normal_distribution)(a) + a * NAME(normal_density)(a)));
            break;
        case FBN_ACT_SILU:
            g[j] = (REAL)(d * (logistic + a * logistic * (1 / (1 + MATH(exp)(a)))));
            break;
        case FBN_ACT_SOFTMAX:
            g[j] = (REAL)(AT(y, j) * (d - sum));
            break;
        case FBN_ACT_LOG_SOFTMAX:
            g[j] = (REAL)(d - MATH(exp)(AT(y, j)) * sum);
            break;
        }
    }
}

/* The normalisation's, both scales' and the bias's backward, for feature j. */
static void NAME(feature_backward)(const problem *p, trace *t, int64_t j)
{
    REAL s = SCALE(p->pre, p->pre_scale, j), post = SCALE(p->post, p->post_scale, j);
    REAL gamma = PARAM(p->gamma, j, 1), rstd = AT(t->rstd, j);
    REAL dpost = 0, dgamma = 0, dbeta = 0, dpre = 0, dbias = 0, mean = 0, meanz = 0;

    for (int64_t n = 0; n < p->n; n++) {
        int64_t e = n * p->o + j;
        REAL g = AT(t->g, e), dh = post * g, dzhat = gamma * dh;
        dpost += g * AT(t->h, e);
        dgamma += dh * AT(t->zhat, e);
        dbeta += dh;
        mean += dzhat;
        meanz += dzhat * AT(t->zhat, e);
        t->dzhat[e] = dzhat;
    }
    mean /= (REAL)p->n;
    meanz /= (REAL)p->n;
    t->mean_dzhat[j] = mean;
    t->mean_dzhatz[j] = meanz;
    for (int64_t n = 0; n < p->n; n++) {
        int64_t e = n * p->o + j;
        REAL dzhat = AT(t->dzhat, e);
        REAL dz = rstd * (p->training ? dzhat - mean - AT(t->zhat, e) * meanz : dzhat);
        dpre += dz * (REAL)(AT(t->u, e) + PARAM(p->bias, j, 0));
        dbias += s * dz;
        t->dz[e] = dz;
        t->du[e] = (REAL)(s * dz);
    }
    int64_t pre_j = p->pre_scale == FBN_SCALE_FEATURE ? j : 0;
    int64_t post_j = p->post_scale == FBN_SCALE_FEATURE ? j : 0;
    if (p->pre)
        t->out[OUT_DPRE][pre_j] = (REAL)(AT(t->out[OUT_DPRE], pre_j) + dpre);
    if (p->post)
        t->out[OUT_DPOST][post_j] = (REAL)(AT(t->out[OUT_DPOST], post_j) + dpost);
    t->out[OUT_DGAMMA][j] = dgamma;
    t->out[OUT_DBETA][j] = dbeta;
    t->out[OUT_DBIAS][j] = dbias;
}

static void NAME(backward)(const problem *p, trace *t)
{
    for (int k = OUT_DX; k < OUTPUTS; k++)
        for (int64_t e = 0; e < t->size[k]; e++)
            t->out[k][e] = 0;
    for (int64_t n = 0; n < p->n; n++)
        NAME(activate_backward)
    (p->activation, p->o, t->v + n * p->o, t->out[OUT_Y] + n * p->o, p->dy + n * p->o,
     t->g + n * p->o);
    for (int64_t j = 0; j < p->o; j++)
        NAME(feature_backward)(p, t, j);

    const bool tf32 = p->tf32 && sizeof(REAL) == sizeof(float);
    REAL *x = NAME(pack)(p->x, NULL, p->n, p->i, tf32, false);
    REAL *w = NAME(pack)(p->w, NULL, p->o, p->i, tf32, false);
    REAL *du = NAME(pack)(NULL, t->du, p->n, p->o, tf32, false);
    REAL *du_transposed = NAME(pack)(NULL, t->du, p->n, p->o, tf32, true);
    NAME(product)(p->n, p->i, p->o, du, w, t->out[OUT_DX]);            /* dx = du W */
    NAME(product)(p->o, p->i, p->n, du_transposed, x, t->out[OUT_DW]); /* dW = du^T x */
    free(x);
    free(w);
    free(du);
    free(du_transposed);
}

#undef AT
#undef PARAM
#undef SCALE
#undef REAL
#undef NAME
#undef MATH
