/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The library's gradients against central differences of the library's own forward, in f64, as
 * PyTorch's gradcheck does it: every combination of options, training and frozen, eps = 1e-5 and
 * eps as large as var (the pre-scale's gradient is proportional to eps: at 1e-5 alone its check
 * could hardly fail).
 */
#include "formats.h"
#include "harness.h"
#include "trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static case_table table;

typedef struct check {
    trial t;
    double *dy, *y;
    long double noise; /* what rounding in y may add to the loss */
} check;

/* sum dy y, by the library's forward. */
static long double loss(check *c)
{
    long double sum = 0;
    HARNESS_OK(trial_forward(&c->t));
    array_get(&c->t.a[ARG_Y], c->y);
    for (int64_t e = 0; e < c->t.c.n * c->t.c.o; e++)
        sum += (long double)c->dy[e] * c->y[e];
    return sum;
}

static long double difference(check *c, argument which, double *values, int64_t e, double h)
{
    array *a = &c->t.a[which];
    double centre = values[e];
    values[e] = centre + h;
    array_set(a, values);
    long double above = loss(c);
    values[e] = centre - h;
    array_set(a, values);
    long double below = loss(c);
    values[e] = centre;
    array_set(a, values);
    return (above - below) / (2 * (long double)h);
}

/* Differences of two widths: the extrapolated one errs by less than the two differ, and by the
 * noise. The analytic gradient has the error that test_backward.c allows it. */
static void check_gradient(check *c, argument which, argument gradient, output k)
{
    const double h = 0x1p-13;
    const reference *r = c->t.expected;
    array *a = &c->t.a[which];
    if (!a->memory)
        return;
    double *values = calloc((size_t)(a->rows * a->cols), sizeof *values);
    double *analytic = calloc((size_t)(a->rows * a->cols), sizeof *analytic);
    ck_assert(values && analytic);
    array_get(a, values);
    array_get(&c->t.a[gradient], analytic);
    for (int64_t e = 0; e < a->rows * a->cols; e++) {
        long double wide = difference(c, which, values, e, h);
        long double narrow = difference(c, which, values, e, h / 2);
        long double best = narrow + (narrow - wide) / 3;
        long double allowed = fabsl(narrow - wide) + 4 * c->noise / h +
                              2 * (long double)r->factor[k] * r->condition[k][e] +
                              4 * format_ulp(FBN_F64, analytic[e]);
        if (!(fabsl(analytic[e] - best) <= allowed))
            harness_fail("%s[%lld] is %.17g, by differences %.17Lg +- %.3Lg", output_names[k],
                         (long long)e, analytic[e], best, allowed);
    }
    free(values);
    free(analytic);
}

static void prepare(check *c, const test_case *tc)
{
    trial_create(&c->t, tc, harness_seed(), NULL, true);
    const reference *r = c->t.expected;
    int64_t no = tc->n * tc->o;
    c->dy = malloc((size_t)no * sizeof *c->dy);
    c->y = malloc((size_t)no * sizeof *c->y);
    c->noise = 0;
    ck_assert(c->dy && c->y);
    memcpy(c->dy, r->in.dy, (size_t)no * sizeof *c->dy);
    for (int64_t e = 0; e < no; e++) {
        if (tc->activation == FBN_ACT_RELU && fabsl(r->exact->v[e]) < 0.02)
            c->dy[e] = 0; /* relu's kink: no derivative there */
        c->noise += fabs(c->dy[e]) * (2 * r->factor[OUT_Y] * r->condition[OUT_Y][e] +
                                      (double)format_ulp(FBN_F64, r->exact->out[OUT_Y][e]) * 4);
    }
    array_set(&c->t.a[ARG_DY], c->dy);
}

START_TEST(test_gradients)
{
    check c;
    char name[CASE_NAME_SIZE];
    harness_enter(case_name(&table.cases[_i], name, sizeof name));
    prepare(&c, &table.cases[_i]);
    HARNESS_OK(trial_forward(&c.t));
    HARNESS_OK(trial_backward(&c.t));
    check_gradient(&c, ARG_X, ARG_DX, OUT_DX);
    check_gradient(&c, ARG_W, ARG_DW, OUT_DW);
    check_gradient(&c, ARG_BIAS, ARG_DBIAS, OUT_DBIAS);
    check_gradient(&c, ARG_PRE, ARG_DPRE, OUT_DPRE);
    check_gradient(&c, ARG_POST, ARG_DPOST, OUT_DPOST);
    check_gradient(&c, ARG_GAMMA, ARG_DGAMMA, OUT_DGAMMA);
    check_gradient(&c, ARG_BETA, ARG_DBETA, OUT_DBETA);
    free(c.dy);
    free(c.y);
    trial_destroy(&c.t);
}
END_TEST

static void add(Suite *suite)
{
    const case_factor options[] = {factor_activation, factor_pre_scale, factor_post_scale,
                                   factor_bias,       factor_gamma,     factor_beta,
                                   factor_eps};
    enum { COUNT = sizeof options / sizeof *options };
    for (int training = 0; training < 2; training++) {
        test_case base = case_default(training);
        base.dtype = FBN_F64;
        base.n = 5, base.i = 3, base.o = 4;
        if (harness_tier() == TIER_SHORT)
            table_add_pairs(&table, &base, options, COUNT);
        else
            table_add_product(&table, &base, options, COUNT);
    }
    harness_finish(&table);
    harness_add(suite, "gradients", test_gradients, table.count);
}

int main(void)
{
    int status = harness_main("test_gradients", add);
    table_clear(&table);
    return status;
}
