/* SPDX-License-Identifier: BSD-3-Clause
 *
 * CUDA graphs: every call is captured, as the first that its layer sees, and replayed with other
 * numbers in the same memory. The results are held against the oracle, and against the same call
 * without a graph, bit for bit.
 */
#include "cuda_driver.h"
#include "trial.h"

#include <stdlib.h>
#include <string.h>

enum { MODE_GLOBAL = 0, REPLAYS = 2 };

static case_table table, serving;

static void add_graphs(case_table *cases, const test_case *base)
{
    static const int64_t sizes[][3] = {{67, 33, 64}, {1031, 3, 64}};
    static const fbn_activation activations[] = {FBN_ACT_NONE, FBN_ACT_NONE, FBN_ACT_GELU,
                                                 FBN_ACT_SOFTMAX};
    for (int k = 0; k < 4; k++) {
        test_case c = *base;
        c.n = sizes[k % 2][0], c.i = sizes[k % 2][1], c.o = sizes[k % 2][2];
        c.activation = activations[k];
        c.bias = c.gamma = c.beta = c.running = c.saved = true;
        c.batch_stats = c.training;
        c.pre_scale = FBN_SCALE_FEATURE;
        c.post_scale = FBN_SCALE_SCALAR;
        c.tracked = TRACKED_41;
        c.momentum = k % 2 && c.training ? MOMENTUM_CUMULATIVE : MOMENTUM_DEFAULT;
        if (harness_tier() != TIER_SHORT || k == 0)
            table_add(cases, &c);
    }
}

/* ---- capturing ------------------------------------------------------------------------------- */

/* One for all cases: cuBLAS takes long to start. */
static void *stream;
static fbn_context *context;

typedef struct stage {
    trial t;
    fbn_prepared *prepared;
    array workspace, folded_weight, folded_bias;
} stage;

typedef fbn_status stage_call(stage *s);

static fbn_status call_forward(stage *s)
{
    return trial_forward(&s->t);
}

static fbn_status call_backward(stage *s)
{
    return trial_backward(&s->t);
}

static fbn_status call_fold(stage *s)
{
    return fbn_fold(s->t.layer, &s->t.params, s->folded_weight.data, s->folded_weight.ld,
                    s->folded_bias.data);
}

static fbn_status call_run(stage *s)
{
    fbn_run_args run;
    fbn_run_args_init(&run, sizeof run);
    run.batch = s->t.c.n;
    run.x = s->t.forward.x, run.ldx = s->t.forward.ldx;
    run.y = s->t.forward.y, run.ldy = s->t.forward.ldy;
    run.workspace = s->workspace.data, run.workspace_size = (size_t)s->workspace.cols;
    return fbn_prepared_run(s->prepared, &run);
}

/* The call as a graph; nothing runs. */
static void *capture(stage *s, stage_call *call)
{
    void *graph, *executable;
    CUDA_OK(cuda.begin_capture(stream, MODE_GLOBAL));
    fbn_status status = call(s);
    CUDA_OK(cuda.end_capture(stream, &graph));
    HARNESS_OK(status);
    CUDA_OK(cuda.instantiate(&executable, graph, 0));
    CUDA_OK(cuda.graph_destroy(graph));
    return executable;
}

static void replay(stage *s, void *executable)
{
    CUDA_OK(cuda.launch(executable, stream));
    HARNESS_OK(fbn_context_synchronize(s->t.context));
}

static void stage_create(stage *s, const test_case *c)
{
    size_t bytes;
    *s = (stage){0};
    cuda_use(0);
    if (!context) {
        stream = cuda_stream();
        context = cuda_context(0, stream);
    }
    trial_create_unchecked(&s->t, c, harness_seed() + 1, context);
    array_create(&s->folded_weight, context, c->dtype, c->o, c->i, c->i, true);
    array_create(&s->folded_bias, context, c->dtype == FBN_F64 ? FBN_F64 : FBN_F32, 1, c->o, c->o,
                 true);
    if (!c->training) {
        HARNESS_OK(fbn_prepare_infer(&s->prepared, s->t.layer, &s->t.params));
        HARNESS_OK(fbn_prepared_workspace_size(s->prepared, c->n, &bytes));
        array_create_bytes(&s->workspace, context, bytes, harness_workspace_alignment());
    }
}

static void stage_destroy(stage *s)
{
    array_destroy(&s->workspace);
    array_destroy(&s->folded_weight);
    array_destroy(&s->folded_bias);
    fbn_prepared_destroy(s->prepared);
    trial_destroy(&s->t);
}

/* The elements of the outputs. */
typedef struct outcome {
    unsigned char *bytes[ARGS];
    size_t size[ARGS];
} outcome;

static outcome outputs(trial *t)
{
    outcome o = {0};
    for (argument k = INPUT_ARGS; k < ARGS; k++)
        if (k != ARG_SAVED)
            o.bytes[k] = trial_bytes(t, k, &o.size[k]);
    return o;
}

static void same_outputs(outcome a, outcome b)
{
    for (int k = 0; k < ARGS; k++) {
        if (a.bytes[k] && memcmp(a.bytes[k], b.bytes[k], a.size[k]) != 0)
            harness_fail("%s from the graph is not the same bit for bit", argument_names[k]);
        free(a.bytes[k]);
        free(b.bytes[k]);
    }
}

/* ---- forward and backward -------------------------------------------------------------------- */

START_TEST(test_graphs)
{
    stage s;
    char name[CASE_NAME_SIZE];
    harness_enter(case_name(&table.cases[_i], name, sizeof name));
    stage_create(&s, &table.cases[_i]);
    void *forward = capture(&s, call_forward), *backward = capture(&s, call_backward);
    if (!array_unchanged(&s.t.a[ARG_Y]))
        harness_fail("capturing ran something");
    replay(&s, forward); /* with the numbers of the capture, which are gone then */
    replay(&s, backward);
    trial_redraw(&s.t, harness_seed(), UP_TO_BACKWARD);
    for (int round = 0; round < REPLAYS; round++) {
        trial_reset(&s.t);
        replay(&s, forward);
        trial_check_forward(&s.t);
        replay(&s, backward);
        trial_check_backward(&s.t);
        outcome replayed = outputs(&s.t);
        trial_reset(&s.t);
        HARNESS_OK(trial_forward(&s.t));
        HARNESS_OK(trial_backward(&s.t));
        same_outputs(replayed, outputs(&s.t));
    }
    CUDA_OK(cuda.executable_destroy(forward));
    CUDA_OK(cuda.executable_destroy(backward));
    stage_destroy(&s);
}
END_TEST

/* ---- fold and prepared run ------------------------------------------------------------------- */

static unsigned char *bytes_of(array *a)
{
    size_t size = (size_t)(a->rows * a->cols) * a->element;
    unsigned char *bytes = malloc(size + 1);
    ck_assert_ptr_nonnull(bytes);
    HARNESS_OK(fbn_download(a->context, bytes, a->data, size));
    return bytes;
}

/* What `a` holds after the graph, and after the call itself with a poisoned `a`: the same; and
 * unlike `before`, which another draw left there. Returns what it holds. */
static unsigned char *same_after(stage *s, void *executable, stage_call *call, array *a,
                                 unsigned char *before)
{
    size_t size = (size_t)(a->rows * a->cols) * a->element;
    array_poison(a);
    replay(s, executable);
    unsigned char *replayed = bytes_of(a);
    array_poison(a);
    HARNESS_OK(call(s));
    unsigned char *called = bytes_of(a);
    if (memcmp(replayed, called, size) != 0)
        harness_fail("the graph gives other bits than the call");
    if (before && memcmp(replayed, before, size) == 0)
        harness_fail("the graph gives for other numbers what it gave before");
    free(called);
    free(before);
    return replayed;
}

START_TEST(test_serving_graphs)
{
    stage s;
    char name[CASE_NAME_SIZE];
    unsigned char *weight = NULL, *bias = NULL, *y = NULL;
    harness_enter(case_name(&serving.cases[_i], name, sizeof name));
    stage_create(&s, &serving.cases[_i]);
    void *fold = capture(&s, call_fold), *run = capture(&s, call_run);
    for (uint64_t round = 0; round < REPLAYS; round++) {
        trial_redraw(&s.t, harness_seed() + round, NUMBERS_ONLY);
        weight = same_after(&s, fold, call_fold, &s.folded_weight, weight);
        bias = same_after(&s, fold, call_fold, &s.folded_bias, bias);
        y = same_after(&s, run, call_run, &s.t.a[ARG_Y], y);
    }
    free(weight);
    free(bias);
    free(y);
    CUDA_OK(cuda.executable_destroy(fold));
    CUDA_OK(cuda.executable_destroy(run));
    stage_destroy(&s);
}
END_TEST

/* ---- another stream for the capture ---------------------------------------------------------- */

/* The context is on one stream, and is moved to a capturing one and back, as frameworks do it; the
 * graph holds a whole step. */
START_TEST(test_capture_elsewhere)
{
    stage s;
    void *graph, *executable;
    test_case c = case_default(true);
    harness_enter("capture elsewhere");
    c.dtype = (fbn_dtype)_i;
    c.gamma = c.beta = c.saved = c.running = true;
    stage_create(&s, &c);
    void *other = cuda_stream();
    CUDA_OK(cuda.begin_capture(other, MODE_GLOBAL));
    fbn_status to = fbn_context_set_stream(s.t.context, other);
    fbn_status forward = trial_forward(&s.t), backward = trial_backward(&s.t);
    fbn_status from = fbn_context_set_stream(s.t.context, stream);
    CUDA_OK(cuda.end_capture(other, &graph));
    HARNESS_OK(to);
    HARNESS_OK(forward);
    HARNESS_OK(backward);
    HARNESS_OK(from);
    CUDA_OK(cuda.instantiate(&executable, graph, 0));
    for (uint64_t round = 0; round < REPLAYS; round++) {
        trial_redraw(&s.t, harness_seed() + round, UP_TO_BACKWARD);
        replay(&s, executable);
        outcome replayed = outputs(&s.t);
        trial_reset(&s.t);
        HARNESS_OK(trial_forward(&s.t));
        trial_check_forward(&s.t);
        HARNESS_OK(trial_backward(&s.t));
        trial_check_backward(&s.t);
        same_outputs(replayed, outputs(&s.t));
    }
    CUDA_OK(cuda.executable_destroy(executable));
    CUDA_OK(cuda.graph_destroy(graph));
    CUDA_OK(cuda.stream_destroy(other));
    stage_destroy(&s);
}
END_TEST

static void add(Suite *suite)
{
    for (int training = 0; training < 2; training++) {
        test_case base = case_default(training);
        harness_for_rows(&table, &base, add_graphs);
        if (!training)
            harness_for_rows(&serving, &base, add_graphs);
    }
    harness_finish(&table);
    harness_finish(&serving);
    harness_add(suite, "graphs", test_graphs, table.count);
    harness_add(suite, "serving_graphs", test_serving_graphs, serving.count);
    if (harness_selects("capture elsewhere"))
        harness_add(suite, "capture_elsewhere", test_capture_elsewhere, 4);
}

int main(void)
{
    int status = cuda_main("test_cuda_graphs", add);
    fbn_context_destroy(context);
    table_clear(&table);
    table_clear(&serving);
    return status;
}
