/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inputs with a rule of their own: constant columns, infinities and NaN, eps = 0, no rows at all,
 * thin, wide and deep shapes.
 */
#include "formats.h"
#include "harness.h"
#include "trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static case_table constant, nonfinite, gradients, shapes, empty, rounding;

/* ---- constant columns ------------------------------------------------------------------------ */

static void add_constant(case_table *cases, const test_case *base)
{
    case_factor options[] = {factor_shape,      factor_activation, factor_pre_scale,
                             factor_post_scale, factor_bias,       factor_gamma,
                             factor_beta,       factor_padded,     factor_threads};
    test_case c = *base;
    c.input = INPUT_CONSTANT;
    c.batch_stats = true;
    if (harness_tier() != TIER_LONG)
        options[0].levels = FEW_SHAPES;
    table_add_pairs(cases, &c, options, sizeof options / sizeof *options);
}

/* Where u's column is constant bit for bit (here by integers, whose products and sums are exact),
 * y is act(t beta) exactly: for the activations that are exact themselves that is one known value,
 * for the others all rows are the same, bit for bit. */
START_TEST(test_constant)
{
    trial t;
    char name[CASE_NAME_SIZE];
    const test_case *c = &constant.cases[_i];
    fbn_dtype real = format_param(c->dtype);
    harness_enter(case_name(c, name, sizeof name));
    trial_create(&t, c, harness_seed(), NULL, false);
    HARNESS_OK(trial_forward(&t));
    trial_check_forward(&t);

    double *y = malloc((size_t)(c->n * c->o) * sizeof *y);
    double *var = malloc((size_t)c->o * sizeof *var);
    ck_assert(y && var);
    array_get(&t.a[ARG_Y], y);
    array_get(&t.a[ARG_BATCH_VAR], var);
    const inputs *in = &t.expected->in;
    for (int64_t j = 0; j < c->o; j++) {
        double post = in->post ? in->post[c->post_scale == FBN_SCALE_FEATURE ? j : 0] : 1;
        double v = post * (in->beta ? in->beta[j] : 0); /* exact for floats, rounded for doubles */
        double expected = (double)format_round(c->dtype, format_round(real, v));
        if (c->activation == FBN_ACT_RELU && expected < 0)
            expected = 0;
        if (c->activation > FBN_ACT_RELU)
            expected = y[j];
        for (int64_t n = 0; n < c->n; n++)
            if (y[n * c->o + j] != expected)
                harness_fail("y[%lld][%lld] is %.17g, but exactly %.17g is due", (long long)n,
                             (long long)j, y[n * c->o + j], expected);
        if (var[j] != 0)
            harness_fail("batch_var[%lld] of a constant column is %g", (long long)j, var[j]);
    }
    free(y);
    free(var);
    trial_destroy(&t);
}
END_TEST

/* eps = 0 and no variance: 0/0, as IEEE arithmetic has it. */
START_TEST(test_constant_without_eps)
{
    trial t;
    test_case c = case_default(true);
    double y[17 * 33];
    harness_enter("constant without eps");
    c.dtype = (fbn_dtype)_i;
    c.input = INPUT_CONSTANT;
    c.gamma = c.beta = true;
    c.eps = 0;
    trial_create(&t, &c, harness_seed(), NULL, false);
    HARNESS_OK(trial_forward(&t));
    array_get(&t.a[ARG_Y], y);
    for (int64_t e = 0; e < 17 * 33; e++)
        if (!isnan(y[e]))
            harness_fail("dtype %d: y[%lld] is %g, but 0/0 is due", _i, (long long)e, y[e]);
    trial_destroy(&t);
}
END_TEST

/* ---- infinities and NaN ---------------------------------------------------------------------- */

static void set_nonfinite(test_case *c, int level)
{
    c->input = (input_kind)(INPUT_INF_X + level);
}

static void add_nonfinite(case_table *cases, const test_case *base)
{
    const case_factor kinds = {"nonfinite", 4, set_nonfinite};
    const case_factor options[] = {kinds,
                                   factor_activation,
                                   factor_pre_scale,
                                   factor_post_scale,
                                   factor_bias,
                                   factor_gamma,
                                   factor_beta,
                                   factor_running,
                                   factor_biased_var,
                                   factor_skip_nonfinite,
                                   factor_batch_stats,
                                   factor_momentum,
                                   factor_threads};
    test_case c = *base;
    c.tracked = TRACKED_41;
    table_add_pairs(cases, &c, options, sizeof options / sizeof *options);
}

/* The same outputs are non-finite as in the oracle, and the finite ones as accurate as ever; with
 * FBN_SKIP_NONFINITE the running statistics of such features stay as they were. */
START_TEST(test_nonfinite)
{
    trial_run(&nonfinite.cases[_i], true);
}
END_TEST

/* ---- sizes of dy ------------------------------------------------------------------------------ */

/* Columns of dy that differ, all small or all large. */
static void add_gradients(case_table *cases, const test_case *base)
{
    const case_factor options[] = {factor_activation, factor_accumulate, factor_weight_f32};
    test_case c = *base;
    c.input = INPUT_GRADIENTS;
    c.gamma = true;
    table_add_pairs(cases, &c, options, sizeof options / sizeof *options);
}

START_TEST(test_gradients)
{
    trial_run(&gradients.cases[_i], true);
}
END_TEST

/* Finite data whose variance is beyond the parameter type: the mean alone is finite. With
 * FBN_SKIP_NONFINITE nothing moves but the count; without, the variance becomes an infinity. */
START_TEST(test_variance_overflows)
{
    static const fbn_dtype types[] = {FBN_F32, FBN_BF16, FBN_F64};
    trial t;
    int64_t batches;
    test_case c = case_default(true);
    harness_enter("variance overflows");
    c.dtype = types[_i % 3];
    c.skip_nonfinite = _i < 3;
    c.running = true;
    c.tracked = TRACKED_41;
    trial_create_unchecked(&t, &c, harness_seed(), NULL);
    double x[17 * 5], mean[33], var[33];
    for (int e = 0; e < 17 * 5; e++)
        x[e] = t.expected->in.x[e] * (c.dtype == FBN_F64 ? 0x1p600 : 0x1p80);
    array_set(&t.a[ARG_X], x);
    HARNESS_OK(trial_forward(&t));
    if (c.skip_nonfinite &&
        !(array_unchanged(&t.a[ARG_RUNNING_MEAN]) && array_unchanged(&t.a[ARG_RUNNING_VAR])))
        harness_fail("running statistics moved though the variance is not finite");
    array_get(&t.a[ARG_RUNNING_MEAN], mean);
    array_get(&t.a[ARG_RUNNING_VAR], var);
    for (int j = 0; j < 33; j++)
        if (!isfinite(mean[j]) || isinf(var[j]) != !c.skip_nonfinite)
            harness_fail("running_mean[%d] is %g, running_var[%d] is %g", j, mean[j], j, var[j]);
    array_get_bytes(&t.a[ARG_BATCHES], &batches, sizeof batches);
    if (batches != 42)
        harness_fail("num_batches_tracked is %lld, expected 42", (long long)batches);
    trial_destroy(&t);
}
END_TEST

/* ---- the half types' rounding ---------------------------------------------------------------- */

/* Products that float holds exactly, many of them ties: y = x w is rounded once, ties to even, and
 * is then known bit for bit. A NaN of any bits stays one. */
START_TEST(test_rounding)
{
    enum { N = 128, O = 19 };
    trial t;
    double x[N], w[O], zero[O] = {0}, one[O], y[N * O];
    test_case c = case_default(false);
    harness_enter("rounding");
    c.dtype = rounding.cases[_i].dtype;
    c.math = rounding.cases[_i].math;
    c.kernel = rounding.cases[_i].kernel;
    c.n = N, c.i = 1, c.o = O;
    c.eps = 0;
    c.beta = true;
    trial_create_unchecked(&t, &c, harness_seed(), NULL);
    for (int n = 0; n < N; n++)
        x[n] = (n % 2 ? -1 : 1) * (1 + n / 128.0);
    for (int j = 0; j < O; j++)
        w[j] = ldexp(j % 4 * 0.25 + 1, j * 2 - 20),
        one[j] = 1; /* subnormal in f16 at the low end */
    array_set(&t.a[ARG_X], x);
    array_set(&t.a[ARG_W], w);
    array_set(&t.a[ARG_BETA], zero);
    array_set(&t.a[ARG_RUNNING_MEAN], zero);
    array_set(&t.a[ARG_RUNNING_VAR], one);
    HARNESS_OK(trial_forward(&t));
    array_get(&t.a[ARG_Y], y);
    for (int e = 0; e < N * O; e++) {
        double expected = (double)format_round(c.dtype, (long double)x[e / O] * w[e % O]);
        if (y[e] != expected)
            harness_fail("%a rounds to %a, expected %a", x[e / O] * w[e % O], y[e], expected);
    }
    array_poison(&t.a[ARG_BETA]); /* NaN with every bit set: to round it up would overflow it */
    HARNESS_OK(trial_forward(&t));
    array_get(&t.a[ARG_Y], y);
    for (int e = 0; e < N * O; e++)
        if (!isnan(y[e]))
            harness_fail("a NaN was rounded to %a", y[e]);
    trial_destroy(&t);
}
END_TEST

/* ---- shapes and eps -------------------------------------------------------------------------- */

static void set_odd_shape(test_case *c, int level)
{
    /* after the thin ones two so deep that a GPU's kernels load them in turns */
    static const int64_t sizes[][3] = {{3, 5, 1031},    {2, 1031, 3}, {1543, 2, 3}, {61, 4104, 9},
                                       {200, 1224, 35}, {4099, 3, 5}, {3, 5, 4099}, {1025, 65, 33}};
    c->n = sizes[level][0];
    c->i = sizes[level][1];
    c->o = sizes[level][2];
}

static void set_no_eps(test_case *c, int level)
{
    c->eps = level == 0 ? 1e-5 : 0;
}

static void add_shapes(case_table *cases, const test_case *base)
{
    const int usual = harness_backend() == FBN_BACKEND_CUDA ? 5 : 3;
    const case_factor options[] = {
        {"odd shape", harness_tier() == TIER_LONG ? 8 : usual, set_odd_shape},
        {"no eps", 2, set_no_eps}};
    test_case c = *base;
    c.bias = c.gamma = c.beta = true;
    c.pre_scale = FBN_SCALE_FEATURE;
    c.threads = 2;
    table_add_single(cases, &c, options, 2);
    c.pre_scale = FBN_SCALE_NONE;
    c.post_scale = FBN_SCALE_SCALAR;
    c.activation = FBN_ACT_SOFTMAX;
    table_add_single(cases, &c, options, 2);
}

START_TEST(test_shapes)
{
    trial_run(&shapes.cases[_i], true);
}
END_TEST

/* ---- no rows --------------------------------------------------------------------------------- */

static void add_empty(case_table *cases, const test_case *base)
{
    const case_factor options[] = {factor_accumulate, factor_activation, factor_grads};
    test_case c = *base;
    c.n = 0;
    c.bias = c.gamma = c.beta = c.batch_stats = c.running = true;
    c.pre_scale = c.post_scale = FBN_SCALE_FEATURE;
    c.tracked = TRACKED_41;
    table_add_single(cases, &c, options, sizeof options / sizeof *options);
}

/* N = 0 succeeds and updates nothing; its gradients are zeros, added or put. */
START_TEST(test_empty)
{
    trial t;
    char name[CASE_NAME_SIZE];
    const test_case *c = &empty.cases[_i];
    harness_enter(case_name(c, name, sizeof name));
    trial_create(&t, c, harness_seed(), NULL, true);
    HARNESS_OK(trial_forward(&t));
    for (argument k = 0; k < ARGS; k++)
        if (k != ARG_SAVED && !array_unchanged(&t.a[k]))
            harness_fail("forward changed %s", argument_names[k]);
    HARNESS_OK(trial_backward(&t));
    trial_check_backward(&t);
    trial_destroy(&t);
}
END_TEST

static void add(Suite *suite)
{
    for (int training = 0; training < 2; training++) {
        test_case base = case_default(training);
        if (training)
            harness_for_rows(&constant, &base, add_constant);
        harness_for_rows(&nonfinite, &base, add_nonfinite);
        harness_for_rows(&gradients, &base, add_gradients);
        harness_for_rows(&shapes, &base, add_shapes);
        harness_for_rows(&empty, &base, add_empty);
    }
    test_case base = case_default(false);
    harness_for_rows(&rounding, &base, table_add);
    harness_finish(&constant);
    harness_finish(&nonfinite);
    harness_finish(&gradients);
    harness_finish(&shapes);
    harness_finish(&empty);
    harness_add(suite, "constant", test_constant, constant.count);
    harness_add(suite, "nonfinite", test_nonfinite, nonfinite.count);
    harness_add(suite, "gradients", test_gradients, gradients.count);
    harness_add(suite, "shapes", test_shapes, shapes.count);
    harness_add(suite, "empty", test_empty, empty.count);
    if (harness_selects("rounding"))
        harness_add(suite, "rounding", test_rounding, rounding.count);
    if (harness_selects("variance overflows"))
        harness_add(suite, "variance_overflows", test_variance_overflows, 6);
    if (harness_selects("constant without eps"))
        harness_add(suite, "constant_without_eps", test_constant_without_eps, 4);
}

int main(void)
{
    int status = harness_main("test_inputs", add);
    table_clear(&constant);
    table_clear(&nonfinite);
    table_clear(&gradients);
    table_clear(&shapes);
    table_clear(&empty);
    table_clear(&rounding);
    return status;
}
