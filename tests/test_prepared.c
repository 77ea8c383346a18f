/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Folding and serving: fbn_fold against the formula, rounded once; fbn_prepared_run against the
 * oracle's inference, on every kernel row and dtype; many threads on one fbn_prepared; its
 * independence from the layer, the parameters and the layer's largest batch.
 */
#include "formats.h"
#include "harness.h"
#include "trial.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static case_table table;

static void add_cases(case_table *cases, const test_case *base)
{
    case_factor options[] = {factor_shape, factor_activation, factor_pre_scale, factor_post_scale,
                             factor_bias,  factor_gamma,      factor_beta,      factor_eps,
                             factor_input, factor_padded,     factor_threads};
    enum { COUNT = sizeof options / sizeof *options };
    table_add_single(cases, base, options, COUNT);
    if (harness_tier() != TIER_LONG)
        options[0].levels = FEW_SHAPES;
    if (harness_tier() != TIER_SHORT)
        table_add_pairs(cases, base, options, COUNT);
}

/* In rows that the copy engine reads, of a few of its stages; the one launch of a small layer has a
 * kernel for TF32 too. */
static void add_stages(case_table *cases, const test_case *base)
{
    test_case c = *base;
    table_add(cases, &c);
    c.math = FBN_MATH_TF32;
    if (c.dtype == FBN_F32 && c.kernel && strstr(c.kernel, "train_small"))
        table_add(cases, &c);
}

static double parameter(const double *values, int64_t j, double absent)
{
    return values ? values[j] : absent;
}

static double scale(const double *values, fbn_scale kind, int64_t j)
{
    return values ? values[kind == FBN_SCALE_FEATURE ? j : 0] : 1;
}

/* ---- fold ------------------------------------------------------------------------------------ */

/* Fails unless `got` is `exact`, computed in double with `roundings` roundings of terms that sum to
 * `size`, and then rounded once to `type`. */
static void rounded_once(fbn_dtype type, double got, long double exact, long double size,
                         int roundings, const char *what, int64_t index)
{
    long double allowed = roundings * (DBL_EPSILON / 2) * size;
    allowed += format_ulp(type, fabsl(exact) + allowed) / 2;
    if (!(fabsl(got - exact) <= allowed) && isfinite(format_round(type, exact)))
        harness_fail("folded %s[%lld] is %.17g, expected %.20Lg +- %.3Lg", what, (long long)index,
                     got, exact, allowed);
}

static void check_fold(const trial *t, const double *weight, const double *bias)
{
    const inputs *in = &t->expected->in;
    const test_case *c = &t->c;
    for (int64_t j = 0; j < c->o; j++) {
        long double s = scale(in->pre, c->pre_scale, j), post = scale(in->post, c->post_scale, j);
        long double gamma = parameter(in->gamma, j, 1), beta = parameter(in->beta, j, 0);
        long double b = parameter(in->bias, j, 0), mean = in->running_mean[j];
        long double r = 1 / sqrtl((long double)in->running_var[j] + c->eps);
        long double alpha = post * gamma * s * r;
        for (int64_t k = 0; k < c->i; k++) {
            long double w = alpha * in->w[j * c->i + k];
            rounded_once(c->dtype, weight[j * c->i + k], w, fabsl(w), 7, "weight", j * c->i + k);
        }
        rounded_once(format_param(c->dtype), bias[j], post * (beta + gamma * r * (s * b - mean)),
                     fabsl(post) * (fabsl(beta) + fabsl(gamma) * r * (fabsl(s * b) + fabsl(mean))),
                     9, "bias", j);
    }
}

/* x weight^T + bias must be what inference computes before the activation, up to the rounding of
 * the folded numbers themselves. */
static void check_equivalence(const trial *t, const double *weight, const double *bias)
{
    const test_case *c = &t->c;
    const double *x = t->expected->in.x;
    for (int64_t n = 0; n < c->n; n++) {
        for (int64_t j = 0; j < c->o; j++) {
            long double v = bias[j], allowed = format_ulp(format_param(c->dtype), bias[j]);
            for (int64_t k = 0; k < c->i; k++) {
                double w = weight[j * c->i + k], xk = x[n * c->i + k];
                v += (long double)w * xk;
                allowed += fabs(xk) * format_ulp(c->dtype, w);
            }
            allowed += DBL_EPSILON * (long double)t->expected->condition[OUT_Y][n * c->o + j];
            long double exact = t->expected->exact->v[n * c->o + j];
            if (isfinite(v) && !(fabsl(v - exact) <= allowed))
                harness_fail("x weight^T + bias at [%lld][%lld] is %.17Lg, expected %.17Lg "
                             "+- %.3Lg",
                             (long long)n, (long long)j, v, exact, allowed);
        }
    }
}

START_TEST(test_fold)
{
    trial t;
    array weight, bias;
    char name[CASE_NAME_SIZE];
    const test_case *c = &table.cases[_i];
    harness_enter(case_name(c, name, sizeof name));
    trial_create(&t, c, harness_seed(), NULL, false);
    int64_t ld = c->padded ? c->i + 2 : c->i;
    array_create(&weight, t.context, c->dtype, c->o, c->i, ld, !c->padded);
    array_create(&bias, t.context, format_param(c->dtype), 1, c->o, c->o, !c->padded);
    HARNESS_OK(fbn_fold(t.layer, &t.params, weight.data, c->padded ? ld : 0, bias.data));

    double *w = malloc((size_t)(c->o * c->i) * sizeof *w), *b = malloc((size_t)c->o * sizeof *b);
    ck_assert(w && b);
    if (!array_get(&weight, w) || !array_get(&bias, b))
        harness_fail("padding of the folded weight or bias was written");
    check_fold(&t, w, b);
    if (c->activation == FBN_ACT_NONE)
        check_equivalence(&t, w, b);
    for (argument k = 0; k < ARGS; k++)
        if (!array_unchanged(&t.a[k]))
            harness_fail("fold changed %s", argument_names[k]);
    free(w);
    free(b);
    array_destroy(&weight);
    array_destroy(&bias);
    trial_destroy(&t);
}
END_TEST

/* ---- prepared -------------------------------------------------------------------------------- */

/* The trial's inference through `prepared`, with a workspace of exactly the size asked for. */
static fbn_status serve(const fbn_prepared *prepared, trial *t, array *workspace)
{
    fbn_run_args args;
    fbn_run_args_init(&args, sizeof args);
    args.batch = t->c.n;
    args.x = t->forward.x, args.ldx = t->forward.ldx;
    args.y = t->forward.y, args.ldy = t->forward.ldy;
    args.workspace = workspace->cols > 0 ? workspace->data : NULL;
    args.workspace_size = (size_t)workspace->cols;
    return fbn_prepared_run(prepared, &args);
}

static void create_workspace(array *workspace, const fbn_prepared *prepared, const trial *t)
{
    size_t bytes;
    HARNESS_OK(fbn_prepared_workspace_size(prepared, t->c.n, &bytes));
    array_create_bytes(workspace, t->context, bytes, harness_workspace_alignment());
}

static void check_workspace(array *workspace)
{
    unsigned char *leavings = malloc((size_t)workspace->cols + 1);
    ck_assert_ptr_nonnull(leavings);
    if (!array_get_bytes(workspace, leavings, (size_t)workspace->cols))
        harness_fail("memory beside the workspace was written");
    free(leavings);
}

START_TEST(test_prepared)
{
    trial t;
    fbn_prepared *prepared;
    array workspace;
    char name[CASE_NAME_SIZE];
    harness_enter(case_name(&table.cases[_i], name, sizeof name));
    trial_create(&t, &table.cases[_i], harness_seed(), NULL, false);
    HARNESS_OK(fbn_prepare_infer(&prepared, t.layer, &t.params));
    create_workspace(&workspace, prepared, &t);
    HARNESS_OK(serve(prepared, &t, &workspace));
    trial_check_forward(&t);
    check_workspace(&workspace);
    array_destroy(&workspace);
    fbn_prepared_destroy(prepared);
    trial_destroy(&t);
}
END_TEST

static test_case served_case(int i)
{
    test_case c = case_default(false);
    c.dtype = (fbn_dtype)(i % 4);
    c.n = 61, c.i = 37, c.o = 45;
    c.bias = c.gamma = c.beta = true;
    c.pre_scale = FBN_SCALE_FEATURE;
    c.activation = i % 3 == 0 ? FBN_ACT_SOFTMAX : FBN_ACT_SILU;
    c.threads = i % 2 + 1;
    return c;
}

/* Layer, parameters and context may go, batches may exceed the layer's largest, and what is
 * smaller needs no larger a workspace. */
START_TEST(test_prepared_stands_alone)
{
    static const int64_t batches[] = {1, 2, 0, 61, 7, 513};
    test_case c = served_case(_i);
    trial t;
    fbn_prepared *prepared;
    array workspace;
    size_t largest = 0;
    harness_enter("prepared stands alone");

    c.n = 61;
    trial_create(&t, &c, harness_seed(), NULL, false);
    fbn_context_options options;
    fbn_context_options_init(&options, sizeof options);
    options.backend = harness_backend();
    fbn_context *context;
    HARNESS_OK(fbn_context_create(&context, &options));
    fbn_layer_desc desc = case_desc(&c);
    fbn_layer *layer;
    desc.max_batch = 1;
    HARNESS_OK(fbn_layer_create(&layer, context, &desc));
    HARNESS_OK(fbn_prepare_infer(&prepared, layer, &t.params));
    fbn_layer_destroy(layer);
    fbn_context_destroy(context);
    create_workspace(&workspace, prepared, &t);
    for (argument k = ARG_W; k <= ARG_BETA; k++)
        if (t.a[k].memory)
            array_poison(&t.a[k]);
    array_poison(&t.a[ARG_RUNNING_MEAN]);
    array_poison(&t.a[ARG_RUNNING_VAR]);
    HARNESS_OK(serve(prepared, &t, &workspace));
    trial_check_forward(&t);

    for (size_t k = 0; k < sizeof batches / sizeof *batches; k++) {
        size_t bytes;
        HARNESS_OK(fbn_prepared_workspace_size(prepared, batches[k], &bytes));
        if (batches[k] >= 61 && bytes < largest)
            harness_fail("a batch of %lld needs less workspace than a smaller one",
                         (long long)batches[k]);
        largest = bytes > largest ? bytes : largest;
    }
    size_t before = 0;
    for (int64_t n = 0; n < 700; n++) {
        size_t bytes;
        HARNESS_OK(fbn_prepared_workspace_size(prepared, n, &bytes));
        if (bytes < before)
            harness_fail("a batch of %lld needs %zu bytes, one of %lld fewer: %zu",
                         (long long)n - 1, before, (long long)n, bytes);
        before = bytes;
    }
    array_destroy(&workspace);
    fbn_prepared_destroy(prepared);
    trial_destroy(&t);
}
END_TEST

typedef struct client {
    pthread_t thread;
    const fbn_prepared *prepared;
    trial t;
    array workspace;
    fbn_status status;
} client;

static void *run_client(void *argument_)
{
    client *c = argument_;
    c->status = FBN_OK;
    for (int run = 0; run < 50 && c->status == FBN_OK; run++)
        c->status = serve(c->prepared, &c->t, &c->workspace);
    return NULL;
}

/* One fbn_prepared, several threads, a batch each. */
START_TEST(test_prepared_by_threads)
{
    enum { CLIENTS = 4 };
    static const int64_t batches[CLIENTS] = {1, 17, 61, 2};
    client clients[CLIENTS];
    fbn_prepared *prepared;
    trial owner;
    test_case c = served_case(_i);
    harness_enter("prepared by several threads");
    trial_create(&owner, &c, harness_seed(), NULL, false);
    HARNESS_OK(fbn_prepare_infer(&prepared, owner.layer, &owner.params));
    unsigned char *alone[CLIENTS];
    size_t sizes[CLIENTS];
    for (int k = 0; k < CLIENTS; k++) {
        test_case mine = c;
        mine.n = batches[k];
        clients[k].prepared = prepared;
        trial_create_unchecked(&clients[k].t, &mine, harness_seed(), NULL);
        create_workspace(&clients[k].workspace, prepared, &clients[k].t);
        HARNESS_OK(serve(prepared, &clients[k].t, &clients[k].workspace));
        alone[k] = trial_bytes(&clients[k].t, ARG_Y, &sizes[k]);
        array_poison(&clients[k].t.a[ARG_Y]);
    }
    for (int k = 0; k < CLIENTS; k++)
        ck_assert_int_eq(pthread_create(&clients[k].thread, NULL, run_client, &clients[k]), 0);
    for (int k = 0; k < CLIENTS; k++)
        pthread_join(clients[k].thread, NULL);
    for (int k = 0; k < CLIENTS; k++) {
        size_t size;
        HARNESS_OK(clients[k].status);
        unsigned char *together = trial_bytes(&clients[k].t, ARG_Y, &size);
        if (size != sizes[k] || memcmp(together, alone[k], size) != 0)
            harness_fail("a batch of %lld beside other threads gives other bits",
                         (long long)batches[k]);
        free(together);
        free(alone[k]);
        array_destroy(&clients[k].workspace);
        trial_destroy(&clients[k].t);
    }
    fbn_prepared_destroy(prepared);
    trial_destroy(&owner);
}
END_TEST

static void add(Suite *suite)
{
    test_case base = case_default(false);
    test_case one_row = base;
    one_row.n = 1, one_row.i = 67,
    one_row.o = 129; /* serving's own case: a matrix times a vector */
    one_row.bias = one_row.gamma = one_row.beta = true;
    test_case stages = one_row;
    stages.n = 100, stages.i = 520, stages.o = 72;
    stages.activation = FBN_ACT_SOFTMAX;
    harness_for_rows(&table, &base, add_cases);
    harness_for_rows(&table, &one_row, table_add);
    harness_for_rows(&table, &stages, add_stages);
    stages.activation = FBN_ACT_GELU;
    harness_for_rows(&table, &stages, add_stages);
    harness_finish(&table);
    harness_add(suite, "fold", test_fold, table.count);
    harness_add(suite, "prepared", test_prepared, table.count);
    if (harness_selects("prepared stands alone"))
        harness_add(suite, "stands_alone", test_prepared_stands_alone, 4);
    if (harness_selects("prepared by several threads"))
        harness_add(suite, "by_threads", test_prepared_by_threads, 8);
}

int main(void)
{
    int status = harness_main("test_prepared", add);
    table_clear(&table);
    return status;
}
