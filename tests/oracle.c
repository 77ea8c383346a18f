/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The naive layer in three precisions. See oracle.h.
 */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>

const char *const output_names[OUTPUTS] = {
    [OUT_Y] = "y",
    [OUT_BATCH_MEAN] = "batch_mean",
    [OUT_BATCH_VAR] = "batch_var",
    [OUT_RUNNING_MEAN] = "running_mean",
    [OUT_RUNNING_VAR] = "running_var",
    [OUT_DX] = "dx",
    [OUT_DW] = "weight gradient",
    [OUT_DBIAS] = "bias gradient",
    [OUT_DPRE] = "pre_scale gradient",
    [OUT_DPOST] = "post_scale gradient",
    [OUT_DGAMMA] = "gamma gradient",
    [OUT_DBETA] = "beta gradient",
};

double oracle_momentum(const problem *p, int64_t *batches_after)
{
    *batches_after = p->batches == INT64_MAX ? INT64_MAX : p->batches + 1;
    if (!(p->flags & FBN_CUMULATIVE_AVERAGE))
        return p->momentum;
    return *batches_after < 1 ? 1 : 1 / (double)*batches_after;
}

/* To nearest in 11 significant bits. */
static double oracle_tf32(double value)
{
    int exponent;
    double fraction = frexp(value, &exponent);
    return isfinite(value) ? ldexp(nearbyint(ldexp(fraction, 11)), exponent - 11) : value;
}

#define REAL float
#define NAME(x) x##_float
#define MATH(function) function##f
#include "oracle_real.h"

#define REAL double
#define NAME(x) x##_double
#define MATH(function) function
#include "oracle_real.h"

#define REAL long double
#define NAME(x) x##_long_double
#define MATH(function) function##l
#include "oracle_real.h"

void oracle_forward(real_kind kind, const problem *p, trace *t)
{
    t->batches = p->batches;
    if (p->training && p->n > 0)
        oracle_momentum(p, &t->batches);
    if (kind == REAL_FLOAT)
        forward_float(p, t);
    else if (kind == REAL_DOUBLE)
        forward_double(p, t);
    else
        forward_long_double(p, t);
}

void oracle_backward(real_kind kind, const problem *p, trace *t)
{
    if (kind == REAL_FLOAT)
        backward_float(p, t);
    else if (kind == REAL_DOUBLE)
        backward_double(p, t);
    else
        backward_long_double(p, t);
}

static int64_t scale_size(fbn_scale scale, int64_t o)
{
    return scale == FBN_SCALE_NONE ? 0 : scale == FBN_SCALE_SCALAR ? 1 : o;
}

/* Room for `count` values, zeroed; the tests have nothing to do without memory. */
static long double *values(int64_t count)
{
    long double *p = calloc((size_t)(count > 0 ? count : 1), sizeof *p);
    if (!p)
        abort();
    return p;
}

trace *trace_create(const problem *p)
{
    trace *t = calloc(1, sizeof *t);
    if (!t)
        abort();
    t->n = p->n, t->i = p->i, t->o = p->o;
    int64_t no = p->n * p->o, o = p->o;
    t->u = values(no), t->z = values(no), t->zhat = values(no), t->h = values(no);
    t->v = values(no), t->g = values(no), t->dzhat = values(no), t->dz = values(no);
    t->du = values(no);
    t->mean = values(o), t->var = values(o), t->rstd = values(o);
    t->mean_dzhat = values(o), t->mean_dzhatz = values(o);

    bool running = p->training && p->running_mean;
    t->size[OUT_Y] = no;
    t->size[OUT_BATCH_MEAN] = t->size[OUT_BATCH_VAR] = p->training ? o : 0;
    t->size[OUT_RUNNING_MEAN] = t->size[OUT_RUNNING_VAR] = running ? o : 0;
    t->size[OUT_DX] = p->n * p->i;
    t->size[OUT_DW] = o * p->i;
    t->size[OUT_DBIAS] = t->size[OUT_DGAMMA] = t->size[OUT_DBETA] = o;
    t->size[OUT_DPRE] = scale_size(p->pre_scale, o);
    t->size[OUT_DPOST] = scale_size(p->post_scale, o);
    for (int k = 0; k < OUTPUTS; k++)
        t->out[k] = values(t->size[k]);
    return t;
}

void trace_destroy(trace *t)
{
    if (!t)
        return;
    long double *arrays[] = {t->u,     t->z,   t->zhat,       t->h,          t->v,
                             t->mean,  t->var, t->rstd,       t->g,          t->dz,
                             t->dzhat, t->du,  t->mean_dzhat, t->mean_dzhatz};
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++)
        free(arrays[k]);
    for (int k = 0; k < OUTPUTS; k++)
        free(t->out[k]);
    free(t);
}
