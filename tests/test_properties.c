/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Properties that hold whatever the numbers are: results are the same bits from run to run, in any
 * memory, beside other threads; a layer outlives its context; the caller's workspace does what the
 * layer's own does; a step after another does not see the one before.
 */
#include "formats.h"
#include "harness.h"
#include "trial.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static case_table table;

/* Every output of a forward and a backward, as bytes. */
typedef struct outcome {
    unsigned char *bytes[ARGS];
    size_t size[ARGS];
} outcome;

static void outcome_free(outcome *o)
{
    for (int k = 0; k < ARGS; k++)
        free(o->bytes[k]);
}

/* What the outputs hold; `saved` is left out: its contents are the library's. */
static outcome results(trial *t)
{
    outcome o = {0};
    for (argument k = INPUT_ARGS; k < ARGS; k++)
        if (k != ARG_SAVED)
            o.bytes[k] = trial_bytes(t, k, &o.size[k]);
    return o;
}

/* One training step from a fresh state. */
static outcome step(trial *t)
{
    trial_reset(t);
    HARNESS_OK(trial_forward(t));
    HARNESS_OK(trial_backward(t));
    return results(t);
}

/* Fails unless both are the same, bit for bit. */
static void same(const outcome *a, const outcome *b, const char *what)
{
    for (int k = 0; k < ARGS; k++) {
        if (!a->bytes[k])
            continue;
        if (a->size[k] != b->size[k] || memcmp(a->bytes[k], b->bytes[k], a->size[k]) != 0)
            harness_fail("%s: %s is not the same bit for bit", what, argument_names[k]);
    }
}

static test_case full_case(int i)
{
    test_case c = case_default(true);
    static const int64_t sizes[][3] = {{17, 5, 33}, {1031, 13, 67}, {67, 131, 129}};
    c.dtype = (fbn_dtype)(i % 4);
    c.n = sizes[i / 4 % 3][0], c.i = sizes[i / 4 % 3][1], c.o = sizes[i / 4 % 3][2];
    c.pre_scale = FBN_SCALE_FEATURE;
    c.post_scale = FBN_SCALE_SCALAR;
    c.activation = i / 2 % 2 ? FBN_ACT_SOFTMAX : FBN_ACT_GELU;
    c.bias = c.gamma = c.beta = c.running = c.batch_stats = c.saved = true;
    c.tracked = TRACKED_41;
    return c;
}

/* ---- from run to run ------------------------------------------------------------------------- */

static void add_repeats(case_table *cases, const test_case *base)
{
    for (int i = 0; i < 12; i++) {
        test_case c = full_case(i);
        c.dtype = base->dtype;
        c.math = base->math;
        c.kernel = base->kernel;
        c.threads = i % 3 + 1;
        c.training = i % 5 != 0;
        if (harness_tier() != TIER_SHORT || i < 6)
            table_add(cases, &c);
    }
}

START_TEST(test_repeats)
{
    trial t;
    char name[CASE_NAME_SIZE];
    harness_enter(case_name(&table.cases[_i], name, sizeof name));
    trial_create_unchecked(&t, &table.cases[_i], harness_seed(), NULL);
    outcome first = step(&t);
    for (int run = 0; run < 4; run++) {
        outcome again = step(&t);
        same(&first, &again, "run again");
        outcome_free(&again);
    }
    trial_destroy(&t);

    /* The same numbers in other memory: other alignment, other leading dimensions. */
    trial moved;
    trial_create_unchecked(&moved, &table.cases[_i], harness_seed(), NULL);
    for (argument k = 0; k < ARGS; k++) {
        if (!moved.a[k].memory || k == ARG_SAVED || k == ARG_BATCHES)
            continue;
        array old = moved.a[k];
        double *values = malloc((size_t)(old.rows * old.cols + 1) * sizeof *values);
        ck_assert_ptr_nonnull(values);
        array_get(&old, values);
        array_create(&moved.a[k], old.context, old.type, old.rows, old.cols,
                     old.rows > 1 ? old.cols + 3 : old.cols, false);
        array_set(&moved.a[k], values);
        array_destroy(&old);
        free(values);
    }
    trial_point(&moved);
    outcome elsewhere = step(&moved);
    same(&first, &elsewhere, "in other memory");
    outcome_free(&elsewhere);
    outcome_free(&first);
    trial_destroy(&moved);
}
END_TEST

/* ---- workspaces ------------------------------------------------------------------------------ */

START_TEST(test_callers_workspace)
{
    test_case c = full_case(_i);
    trial t;
    array workspace;
    size_t bytes;
    harness_enter("caller's workspace");
    c.threads = 2;
    fbn_layer_desc desc = case_desc(&c);
    trial_create_unchecked(&t, &c, harness_seed(), NULL);
    outcome own = step(&t);

    HARNESS_OK(fbn_layer_workspace_size(t.context, &desc, &bytes));
    /* The bound that the header gives for the CPU. */
    int64_t elements = 2 * c.n * c.o + c.n * c.i + c.o * c.i;
    if (harness_backend() == FBN_BACKEND_CPU &&
        bytes > (size_t)elements * format_size(format_param(c.dtype)) + 4000000)
        harness_fail("the workspace is %zu bytes for %lld elements", bytes, (long long)elements);
    array_create_bytes(&workspace, t.context, bytes, harness_workspace_alignment());
    desc.workspace = workspace.data;
    desc.workspace_size = bytes;
    fbn_layer_destroy(t.layer);
    HARNESS_OK(fbn_layer_create(&t.layer, t.context, &desc));
    for (int run = 0; run < 2; run++) { /* filled with 0xff, then with the first run's leavings */
        outcome callers = step(&t);
        same(&own, &callers, "in the caller's workspace");
        outcome_free(&callers);
    }
    unsigned char *leavings = malloc(bytes + 1);
    ck_assert_ptr_nonnull(leavings);
    if (!array_get_bytes(&workspace, leavings, bytes))
        harness_fail("memory beside the workspace was written");
    free(leavings);

    fbn_layer_destroy(t.layer);
    t.layer = NULL;
    desc.workspace_size = bytes - 1;
    ck_assert_int_eq(fbn_layer_create(&t.layer, t.context, &desc), FBN_ERR_WORKSPACE);
    ck_assert_ptr_null(t.layer);
    outcome_free(&own);
    array_destroy(&workspace);
    trial_destroy(&t);
}
END_TEST

/* A layer's max_batch is a bound, not the batch: smaller batches give what a layer of their own
 * size gives, to within the tolerance, and one layer serves several batches in turn. */
START_TEST(test_smaller_batches)
{
    test_case c = full_case(_i);
    static const int64_t batches[] = {67, 2, 31, 3};
    harness_enter("smaller batches");
    c.threads = 2;
    fbn_layer_desc desc = case_desc(&c);
    fbn_layer *layer;
    desc.max_batch = 1031;
    HARNESS_OK(fbn_layer_create(&layer, harness_context(2), &desc));
    for (size_t k = 0; k < sizeof batches / sizeof *batches; k++) {
        trial t;
        c.n = batches[k];
        trial_create(&t, &c, harness_seed(), NULL, true);
        fbn_layer_destroy(t.layer);
        t.layer = layer;
        HARNESS_OK(trial_forward(&t));
        trial_check_forward(&t);
        HARNESS_OK(trial_backward(&t));
        trial_check_backward(&t);
        t.layer = NULL;
        trial_destroy(&t);
    }
    fbn_layer_destroy(layer);
}
END_TEST

/* Who allocates for the largest batch has enough for every smaller one. */
START_TEST(test_saved_sizes)
{
    test_case c = full_case(_i);
    fbn_layer *layer;
    size_t bytes, before = 0;
    harness_enter("sizes of the saved buffer");
    c.threads = 2;
    c.activation = FBN_ACT_GELU;
    fbn_layer_desc desc = case_desc(&c);
    desc.max_batch = 2500, desc.in_features = 64, desc.out_features = 600;
    HARNESS_OK(fbn_layer_create(&layer, harness_context(2), &desc));
    for (int64_t batch = 0; batch <= desc.max_batch; batch++, before = bytes) {
        HARNESS_OK(fbn_layer_saved_size(layer, batch, &bytes));
        if (bytes < before)
            harness_fail("%zu bytes for a batch of %lld, %zu for one less", bytes, (long long)batch,
                         before);
    }
    fbn_layer_destroy(layer);
}
END_TEST

/* ---- lifetimes and threads ------------------------------------------------------------------- */

START_TEST(test_layer_outlives_context)
{
    test_case c = full_case(_i);
    fbn_context_options options;
    fbn_context *context;
    fbn_layer *layer;
    trial t;
    harness_enter("layer outlives context");
    fbn_context_options_init(&options, sizeof options);
    options.backend = harness_backend();
    options.threads = c.threads;
    HARNESS_OK(fbn_context_create(&context, &options));
    fbn_layer_desc desc = case_desc(&c);
    HARNESS_OK(fbn_layer_create(&layer, context, &desc));
    fbn_context_destroy(context);

    trial_create_unchecked(&t, &c, harness_seed(), NULL); /* arguments from another context */
    outcome expected = step(&t);
    fbn_layer_destroy(t.layer);
    t.layer = layer;
    outcome got = step(&t);
    same(&expected, &got, "after its context was destroyed");
    ck_assert_str_ne(fbn_layer_describe(layer), "");
    outcome_free(&expected);
    outcome_free(&got);
    trial_destroy(&t);
}
END_TEST

typedef struct worker {
    pthread_t thread;
    trial t;
    fbn_status status;
} worker;

static void *work(void *argument_)
{
    worker *w = argument_;
    w->status = trial_steps(&w->t, 20);
    return NULL;
}

/* Threads with a context each, and threads with a layer each of one context. */
START_TEST(test_threads_side_by_side)
{
    enum { WORKERS = 3 };
    worker workers[WORKERS];
    fbn_context *contexts[WORKERS] = {NULL};
    test_case c = full_case(_i);
    bool shared = _i % 2;
    harness_enter(shared ? "side by side on one context" : "side by side, a context each");
    c.running = false; /* repeated steps would move them */
    c.tracked = TRACKED_ABSENT;
    c.threads = 2;
    for (int w = 0; w < WORKERS; w++) {
        fbn_context_options options;
        fbn_context_options_init(&options, sizeof options);
        options.backend = harness_backend();
        options.threads = c.threads;
        if (!shared)
            HARNESS_OK(fbn_context_create(&contexts[w], &options));
        trial_create_unchecked(&workers[w].t, &c, harness_seed(), contexts[w]);
    }
    for (int w = 0; w < WORKERS; w++)
        ck_assert_int_eq(pthread_create(&workers[w].thread, NULL, work, &workers[w]), 0);
    for (int w = 0; w < WORKERS; w++)
        pthread_join(workers[w].thread, NULL);
    for (int w = 0; w < WORKERS; w++) {
        HARNESS_OK(workers[w].status);
        outcome together = results(&workers[w].t);
        outcome alone = step(&workers[w].t);
        same(&alone, &together, "beside other threads");
        outcome_free(&together);
        outcome_free(&alone);
        trial_destroy(&workers[w].t);
        fbn_context_destroy(contexts[w]);
    }
}
END_TEST

static void add(Suite *suite)
{
    test_case base = case_default(true);
    size_t few = harness_tier() == TIER_SHORT ? 4 : 12;
    harness_for_rows(&table, &base, add_repeats);
    harness_finish(&table);
    harness_add(suite, "repeats", test_repeats, table.count);
    if (harness_selects("caller's workspace"))
        harness_add(suite, "callers_workspace", test_callers_workspace, few);
    if (harness_selects("smaller batches"))
        harness_add(suite, "smaller_batches", test_smaller_batches, 4);
    if (harness_selects("sizes of the saved buffer"))
        harness_add(suite, "saved_sizes", test_saved_sizes, 4);
    if (harness_selects("layer outlives context"))
        harness_add(suite, "layer_outlives_context", test_layer_outlives_context, 4);
    if (harness_selects("side by side"))
        harness_add(suite, "threads_side_by_side", test_threads_side_by_side, 8);
}

int main(void)
{
    int status = harness_main("test_properties", add);
    table_clear(&table);
    return status;
}
