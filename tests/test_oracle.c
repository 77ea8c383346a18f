/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The oracle itself, before anything is held against it: examples by hand, PyTorch's values, its
 * gradients against central differences, the storage types, and the tables' completeness. None of
 * this calls the library, but for its enumerations.
 */
#include "draws.h"
#include "formats.h"
#include "harness.h"
#include "reference.h"
#include "torch_values.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

/* ---- by hand --------------------------------------------------------------------------------- */

START_TEST(test_by_hand)
{
    /* u = 2, 6, 4; z = u - 1 = 1, 5, 3; mean 3, var 8/3; with eps = 4/3, sqrt(var + eps) = 2;
     * zhat = -1, 1, 0; h = 3 zhat + 2 = -1, 5, 2; v = 2 h. */
    static const double x[] = {1, 3, 2}, w[] = {2}, bias[] = {-1}, gamma[] = {3}, beta[] = {2};
    static const double post[] = {2}, dy[] = {1, 0, 0}, mean[] = {10}, var[] = {20};
    static const double y[] = {-2, 10, 4};
    problem p = {.n = 3, .i = 1, .o = 1, .training = true, .eps = 4.0 / 3, .momentum = 0.5};
    p.x = x, p.w = w, p.bias = bias, p.gamma = gamma, p.beta = beta, p.dy = dy;
    p.post = post, p.post_scale = FBN_SCALE_SCALAR;
    p.running_mean = mean, p.running_var = var;
    trace *t = trace_create(&p);
    oracle_forward(REAL_LONG_DOUBLE, &p, t);
    oracle_backward(REAL_LONG_DOUBLE, &p, t);

    for (int n = 0; n < 3; n++)
        ck_assert_ldouble_eq_tol(t->out[OUT_Y][n], y[n], 1e-15);
    ck_assert_ldouble_eq_tol(t->out[OUT_BATCH_MEAN][0], 3, 1e-15);
    ck_assert_ldouble_eq_tol(t->out[OUT_BATCH_VAR][0], 8.0L / 3, 1e-15);
    ck_assert_ldouble_eq_tol(t->out[OUT_RUNNING_MEAN][0], 6.5, 1e-15);
    ck_assert_ldouble_eq_tol(t->out[OUT_RUNNING_VAR][0], 12, 1e-15); /* (20 + 8/3 * 3/2) / 2 */
    ck_assert_ldouble_eq_tol(t->out[OUT_DBETA][0], 2, 1e-15);
    ck_assert_ldouble_eq_tol(t->out[OUT_DGAMMA][0], -2, 1e-15);
    ck_assert_ldouble_eq_tol(t->out[OUT_DPOST][0], -1, 1e-15);
    /* du = alpha (g - G/N - zhat K/N), alpha = 3, g = 1, 0, 0: G = 1, sum g zhat = -1. */
    ck_assert_ldouble_eq_tol(t->du[0], 3 * (1 - 1.0L / 3 - 1.0L / 3), 1e-15);
    ck_assert_ldouble_eq_tol(t->du[1], 3 * (0 - 1.0L / 3 + 1.0L / 3), 1e-15);
    ck_assert_ldouble_eq_tol(t->du[2], 3 * (0 - 1.0L / 3), 1e-15);
    trace_destroy(t);
}
END_TEST

START_TEST(test_activations_by_hand)
{
    /* W is the identity and nothing is normalised: v = x. */
    static const double x[] = {0, 1}, w[] = {1, 0, 0, 1}, zero[] = {0, 0}, one[] = {1, 1};
    static const long double expected[][2] = {
        [FBN_ACT_NONE] = {0, 1},
        [FBN_ACT_RELU] = {0, 1},
        [FBN_ACT_GELU] = {0, 0.84134474606854294858523254563L},
        [FBN_ACT_SILU] = {0, 0.73105857863000487925115924182L},
        [FBN_ACT_SOFTMAX] = {0.26894142136999512074884075818L, 0.73105857863000487925115924182L},
        [FBN_ACT_LOG_SOFTMAX] = {-1.3132616875182228340489954949L,
                                 -0.31326168751822283404899549494L}};
    problem p = {.n = 1, .i = 2, .o = 2, .x = x, .w = w, .running_mean = zero, .running_var = one};
    p.activation = (fbn_activation)_i;
    trace *t = trace_create(&p);
    oracle_forward(REAL_LONG_DOUBLE, &p, t);
    for (int j = 0; j < 2; j++)
        ck_assert_ldouble_eq_tol(t->out[OUT_Y][j], expected[_i][j], 1e-18);
    trace_destroy(t);
}
END_TEST

/* ---- PyTorch --------------------------------------------------------------------------------- */

START_TEST(test_torch)
{
    const torch_layer *layer = &torch_layers[_i];
    problem p = {.n = TORCH_N,
                 .i = TORCH_I,
                 .o = TORCH_O,
                 .pre_scale = FBN_SCALE_FEATURE,
                 .post_scale = FBN_SCALE_FEATURE,
                 .activation = layer->activation,
                 .training = layer->training,
                 .eps = torch_eps,
                 .momentum = torch_momentum};
    p.x = torch_x, p.w = torch_w, p.dy = torch_dy, p.bias = torch_bias, p.pre = torch_pre;
    p.post = torch_post, p.gamma = torch_gamma, p.beta = torch_beta;
    p.running_mean = torch_running_mean, p.running_var = torch_running_var;
    trace *t = trace_create(&p);
    double *condition[OUTPUTS];
    for (int k = 0; k < OUTPUTS; k++)
        condition[k] = calloc((size_t)t->size[k] + 1, sizeof(double));
    oracle_forward(REAL_LONG_DOUBLE, &p, t);
    oracle_backward(REAL_LONG_DOUBLE, &p, t);
    condition_compute(&p, t, DBL_EPSILON / 2, 0, true, condition);

    for (int k = 0; k < OUTPUTS; k++) {
        for (int64_t e = 0; e < t->size[k] && k != OUT_BATCH_MEAN && k != OUT_BATCH_VAR; e++) {
            /* Each step rounds once; no sum is longer than 4. */
            long double allowed = 4 * (DBL_EPSILON / 2) * condition[k][e];
            if (!(fabsl(t->out[k][e] - layer->out[k][e]) <= allowed))
                ck_abort_msg("layer %d: %s[%d] is %.20Lg, by PyTorch %.17g", _i, output_names[k],
                             (int)e, t->out[k][e], layer->out[k][e]);
        }
        free(condition[k]);
    }
    trace_destroy(t);
}
END_TEST

/* ---- gradients by central differences -------------------------------------------------------- */

static case_table table;

static long double loss(const problem *p, trace *t)
{
    long double sum = 0;
    oracle_forward(REAL_LONG_DOUBLE, p, t);
    for (int64_t e = 0; e < t->size[OUT_Y]; e++)
        sum += p->dy[e] * t->out[OUT_Y][e];
    return sum;
}

/* (loss(v + h) - loss(v - h)) / 2 h. */
static long double difference(const problem *p, trace *t, double *v, double h)
{
    double centre = *v;
    *v = centre + h;
    long double above = loss(p, t);
    *v = centre - h;
    long double below = loss(p, t);
    *v = centre;
    return (above - below) / (2 * (long double)h);
}

/* Each entry's gradient against differences of two widths: the extrapolated one errs by less than
 * the two differ. noise: what rounding in the loss may add. */
static void check_gradients(const problem *p, output k, const trace *exact, double *values)
{
    const double h = 0x1p-14;
    const long double noise = 1000 * LDBL_EPSILON / h;
    trace *t = trace_create(p);
    for (int64_t e = 0; values && e < exact->size[k]; e++) {
        long double wide = difference(p, t, &values[e], h);
        long double narrow = difference(p, t, &values[e], h / 2);
        long double best = narrow + (narrow - wide) / 3;
        if (!(fabsl(exact->out[k][e] - best) <= fabsl(narrow - wide) + noise))
            harness_fail("%s[%d] is %.17Lg, by differences %.17Lg +- %.3Lg", output_names[k],
                         (int)e, exact->out[k][e], best, fabsl(narrow - wide) + noise);
    }
    trace_destroy(t);
}

START_TEST(test_gradients)
{
    inputs in;
    char name[CASE_NAME_SIZE];
    harness_enter(case_name(&table.cases[_i], name, sizeof name));
    inputs_draw(&in, &table.cases[_i], harness_seed());
    problem p = inputs_problem(&table.cases[_i], &in);
    trace *exact = trace_create(&p);
    oracle_forward(REAL_LONG_DOUBLE, &p, exact);
    for (int64_t e = 0; e < p.n * p.o;
         e++) /* away from relu's kink, where there is no derivative */
        if (p.activation == FBN_ACT_RELU && fabsl(exact->v[e]) < 0.01)
            in.dy[e] = 0;
    oracle_backward(REAL_LONG_DOUBLE, &p, exact);

    check_gradients(&p, OUT_DX, exact, in.x);
    check_gradients(&p, OUT_DW, exact, in.w);
    check_gradients(&p, OUT_DBIAS, exact, in.bias);
    check_gradients(&p, OUT_DPRE, exact, in.pre);
    check_gradients(&p, OUT_DPOST, exact, in.post);
    check_gradients(&p, OUT_DGAMMA, exact, in.gamma);
    check_gradients(&p, OUT_DBETA, exact, in.beta);
    trace_destroy(exact);
    inputs_free(&in);
}
END_TEST

/* ---- storage types --------------------------------------------------------------------------- */

static const struct stored {
    fbn_dtype type;
    double value;
    uint32_t bits;
} stored[] = {
    {FBN_F32, 1, 0x3f800000},
    {FBN_F32, 0x1.0000010p0, 0x3f800000}, /* a tie: to even */
    {FBN_F32, 0x1.0000030p0, 0x3f800002}, /* a tie: to even */
    {FBN_F32, 0x1p-149, 1},
    {FBN_F32, 0x1p-150, 0},
    {FBN_F32, 1e39, 0x7f800000},
    {FBN_BF16, 1.0 / 3, 0x3eab},
    {FBN_BF16, 1 + 0x1p-8, 0x3f80},           /* a tie */
    {FBN_BF16, 1 + 0x3p-8, 0x3f82},           /* a tie */
    {FBN_BF16, 1 + 0x1p-8 + 0x1p-30, 0x3f81}, /* rounding to float first would lose this */
    {FBN_BF16, 0x1p-133, 1},
    {FBN_BF16, -3.4e38, 0xff80}, /* above the largest, by rounding */
    {FBN_BF16, -0.0, 0x8000},
    {FBN_F16, 1.0 / 3, 0x3555},
    {FBN_F16, 65504, 0x7bff},
    {FBN_F16, 65519, 0x7bff},
    {FBN_F16, 65520, 0x7c00},
    {FBN_F16, 0x1p-24, 1},
    {FBN_F16, 0x1p-25, 0},
    {FBN_F16, 0x1.8p-25, 1},
    {FBN_F16, 0x1.ff8p-15, 0x03ff}, /* the largest subnormal */
    {FBN_F16, 0x1.ffcp-15, 0x0400}, /* a tie: to the smallest normal */
    {FBN_F16, -2, 0xc000},
};

START_TEST(test_formats)
{
    const struct stored *s = &stored[_i];
    uint32_t bits = 0;
    format_store(s->type, &bits, 0, s->value); /* little-endian, as the file readers assume too */
    ck_assert_msg(bits == s->bits, "%a as %s is %#x, expected %#x", s->value, format_name(s->type),
                  bits, s->bits);
    double back = format_load(s->type, &bits, 0);
    ck_assert_msg(back == (double)format_round(s->type, s->value), "%#x as %s reads %a", bits,
                  format_name(s->type), back);
}
END_TEST

/* ---- tables ---------------------------------------------------------------------------------- */

START_TEST(test_pairs_are_complete)
{
    const case_factor factors[] = {factor_activation, factor_pre_scale, factor_post_scale,
                                   factor_bias, factor_tracked};
    const test_case base = case_default(true);
    bool met[6][3][TRACKED_KINDS] = {
        {{false}}}; /* [activation][pre][*], [activation][*][tracked] */
    int missing = 0;
    case_table pairs = {0};
    table_add_pairs(&pairs, &base, factors, sizeof factors / sizeof *factors);
    for (size_t k = 0; k < pairs.count; k++)
        met[pairs.cases[k].activation][pairs.cases[k].pre_scale][pairs.cases[k].tracked] = true;
    for (int a = 0; a < 6; a++) {
        for (int s = 0; s < 3; s++) {
            bool any = false;
            for (int t = 0; t < TRACKED_KINDS; t++)
                any |= met[a][s][t];
            missing += !any;
        }
        for (int t = 0; t < TRACKED_KINDS; t++)
            missing += !(met[a][0][t] || met[a][1][t] || met[a][2][t]);
    }
    ck_assert_int_eq(missing, 0);
    ck_assert_uint_lt(pairs.count, 6 * 3 * TRACKED_KINDS); /* fewer than the product */
    table_clear(&pairs);
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
    harness_add(suite, "by_hand", test_by_hand, 1);
    harness_add(suite, "activations_by_hand", test_activations_by_hand, 6);
    harness_add(suite, "torch", test_torch, sizeof torch_layers / sizeof *torch_layers);
    harness_add(suite, "gradients", test_gradients, table.count);
    harness_add(suite, "formats", test_formats, sizeof stored / sizeof *stored);
    harness_add(suite, "pairs", test_pairs_are_complete, 1);
}

int main(void)
{
    int status = harness_main("test_oracle", add);
    table_clear(&table);
    return status;
}
