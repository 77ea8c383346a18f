/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One test case set up on the library. See trial.h.
 */
#include "trial.h"

#include "draws.h"
#include "formats.h"
#include "harness.h"

#include <stdlib.h>
#include <string.h>

const char *const argument_names[ARGS] = {"x",
                                          "weight",
                                          "bias",
                                          "pre_scale",
                                          "post_scale",
                                          "gamma",
                                          "beta",
                                          "dy",
                                          "running_mean",
                                          "running_var",
                                          "num_batches_tracked",
                                          "y",
                                          "saved",
                                          "batch_mean",
                                          "batch_var",
                                          "dx",
                                          "dW",
                                          "dbias",
                                          "dpre_scale",
                                          "dpost_scale",
                                          "dgamma",
                                          "dbeta"};

/* The gradients in the order in which test_case.grads counts them. */
static const argument gradients[] = {ARG_DX,    ARG_DW,     ARG_DBIAS, ARG_DPRE,
                                     ARG_DPOST, ARG_DGAMMA, ARG_DBETA};
static const output gradient_outputs[] = {OUT_DX,    OUT_DW,     OUT_DBIAS, OUT_DPRE,
                                          OUT_DPOST, OUT_DGAMMA, OUT_DBETA};
enum { GRADIENTS = 7 };

static void matrix(trial *t, argument which, fbn_dtype type, int64_t rows, int64_t cols)
{
    /* Unlike paddings, so that one leading dimension taken for another shows. */
    int64_t ld = t->c.padded ? cols + 1 + which % 5 : cols;
    array_create(&t->a[which], t->context, type, rows, cols, ld, !t->c.padded);
}

static void vector(trial *t, argument which, int64_t count)
{
    array_create(&t->a[which], t->context, format_param(t->c.dtype), 1, count, count, !t->c.padded);
}

static void input(trial *t, argument which, const double *values, int64_t count)
{
    if (values)
        vector(t, which, count);
}

static bool wants(const test_case *c, int gradient)
{
    if (c->grads >= GRADS_ONLY)
        return c->grads - GRADS_ONLY == gradient;
    return c->grads == GRADS_ALL || c->grads - GRADS_WITHOUT != gradient;
}

static void create_inputs(trial *t)
{
    const test_case *c = &t->c;
    const inputs *in = &t->expected->in;
    matrix(t, ARG_X, c->dtype, c->n, c->i);
    matrix(t, ARG_W, c->dtype, c->o, c->i);
    input(t, ARG_BIAS, in->bias, c->o);
    input(t, ARG_PRE, in->pre, c->pre_scale == FBN_SCALE_SCALAR ? 1 : c->o);
    input(t, ARG_POST, in->post, c->post_scale == FBN_SCALE_SCALAR ? 1 : c->o);
    input(t, ARG_GAMMA, in->gamma, c->o);
    input(t, ARG_BETA, in->beta, c->o);
    input(t, ARG_RUNNING_MEAN, in->running_mean, c->o);
    input(t, ARG_RUNNING_VAR, in->running_var, c->o);
    if (c->tracked != TRACKED_ABSENT)
        array_create_bytes(&t->a[ARG_BATCHES], t->context, sizeof(int64_t), sizeof(int64_t));
}

static void create_outputs(trial *t, bool backward)
{
    const test_case *c = &t->c;
    matrix(t, ARG_Y, c->dtype, c->n, c->o);
    if (c->saved || backward) {
        size_t bytes;
        HARNESS_OK(fbn_layer_saved_size(t->layer, c->n, &bytes));
        array_create_bytes(&t->a[ARG_SAVED], t->context, bytes, SAVED_ALIGNMENT);
    }
    if (c->batch_stats && c->training) {
        vector(t, ARG_BATCH_MEAN, c->o);
        vector(t, ARG_BATCH_VAR, c->o);
    }
    for (int g = 0; backward && g < GRADIENTS; g++) {
        int64_t size = t->expected->exact->size[gradient_outputs[g]];
        if (!wants(c, g))
            continue;
        if (gradients[g] == ARG_DX)
            matrix(t, ARG_DX, c->dtype, c->n, c->i);
        else if (gradients[g] == ARG_DW)
            matrix(t, ARG_DW, c->weight_f32 ? format_param(c->dtype) : c->dtype, c->o, c->i);
        else if (size > 0)
            vector(t, gradients[g], size);
    }
    if (backward)
        matrix(t, ARG_DY, c->dtype, c->n, c->o);
}

static void fill_inputs(trial *t)
{
    const inputs *in = &t->expected->in;
    const double *const values[INPUT_ARGS] = {
        [ARG_X] = in->x,       [ARG_W] = in->w,         [ARG_BIAS] = in->bias, [ARG_PRE] = in->pre,
        [ARG_POST] = in->post, [ARG_GAMMA] = in->gamma, [ARG_BETA] = in->beta, [ARG_DY] = in->dy};
    for (argument k = 0; k < INPUT_ARGS; k++)
        if (t->a[k].memory)
            array_set(&t->a[k], values[k]);
}

void trial_point(trial *t)
{
    array *a = t->a;
    fbn_params_init(&t->params, sizeof t->params);
    t->params.weight = a[ARG_W].data, t->params.ldw = a[ARG_W].ld;
    t->params.bias = a[ARG_BIAS].data;
    t->params.pre_scale = a[ARG_PRE].data, t->params.post_scale = a[ARG_POST].data;
    t->params.gamma = a[ARG_GAMMA].data, t->params.beta = a[ARG_BETA].data;
    t->params.running_mean = a[ARG_RUNNING_MEAN].data;
    t->params.running_var = a[ARG_RUNNING_VAR].data;
    t->params.num_batches_tracked = a[ARG_BATCHES].data;

    fbn_forward_args_init(&t->forward, sizeof t->forward);
    t->forward.batch = t->c.n;
    t->forward.x = a[ARG_X].data, t->forward.ldx = a[ARG_X].ld;
    t->forward.y = a[ARG_Y].data, t->forward.ldy = a[ARG_Y].ld;
    t->forward.saved = a[ARG_SAVED].data, t->forward.saved_size = (size_t)a[ARG_SAVED].cols;
    t->forward.batch_mean = a[ARG_BATCH_MEAN].data, t->forward.batch_var = a[ARG_BATCH_VAR].data;

    fbn_backward_args_init(&t->backward, sizeof t->backward);
    t->backward.batch = t->c.n;
    t->backward.x = a[ARG_X].data, t->backward.ldx = a[ARG_X].ld;
    t->backward.dy = a[ARG_DY].data, t->backward.lddy = a[ARG_DY].ld;
    t->backward.saved = a[ARG_SAVED].data, t->backward.saved_size = (size_t)a[ARG_SAVED].cols;
    t->backward.flags = t->c.flags;

    fbn_grads_init(&t->grads, sizeof t->grads);
    t->grads.dx = a[ARG_DX].data, t->grads.lddx = a[ARG_DX].ld;
    t->grads.weight = a[ARG_DW].data, t->grads.lddw = a[ARG_DW].ld;
    t->grads.bias = a[ARG_DBIAS].data;
    t->grads.pre_scale = a[ARG_DPRE].data, t->grads.post_scale = a[ARG_DPOST].data;
    t->grads.gamma = a[ARG_DGAMMA].data, t->grads.beta = a[ARG_DBETA].data;
}

/* What gradient `which` holds before a call that adds to it; NULL where the call overwrites. */
static double *added(const trial *t, argument which)
{
    const array *a = &t->a[which];
    if (!(t->c.flags & FBN_ACCUMULATE) || (which == ARG_DX && t->c.flags & FBN_OVERWRITE_DX))
        return NULL;
    double *values = malloc((size_t)(a->rows * a->cols + 1) * sizeof *values);
    ck_assert_ptr_nonnull(values);
    draws d = draws_named(harness_seed(), argument_names[which]);
    for (int64_t e = 0; e < a->rows * a->cols; e++)
        values[e] = (double)format_round(a->type, draw_normal(&d));
    return values;
}

void trial_reset(trial *t)
{
    int64_t batches = case_batches(&t->c);
    if (t->a[ARG_RUNNING_MEAN].memory) {
        array_set(&t->a[ARG_RUNNING_MEAN], t->expected->in.running_mean);
        array_set(&t->a[ARG_RUNNING_VAR], t->expected->in.running_var);
    }
    if (t->a[ARG_BATCHES].memory)
        array_set_bytes(&t->a[ARG_BATCHES], &batches, sizeof batches);
    for (argument k = ARG_Y; k < ARGS; k++)
        if (t->a[k].memory)
            array_poison(&t->a[k]);
    if (t->workspace.memory)
        array_poison(&t->workspace);
    for (int g = 0; g < GRADIENTS; g++) {
        double *values = t->a[gradients[g]].memory ? added(t, gradients[g]) : NULL;
        if (values)
            array_set(&t->a[gradients[g]], values);
        free(values);
    }
}

static void create(trial *t, const test_case *c, uint64_t seed, fbn_context *context,
                   reference_depth depth, bool backward)
{
    *t = (trial){.c = *c};
    t->context = context ? context : harness_context(c->threads);
    t->expected = reference_get(c, seed, depth);
    fbn_layer_desc desc = case_desc(c);
    if (c->padded) {
        HARNESS_OK(fbn_layer_workspace_size(t->context, &desc, &desc.workspace_size));
        array_create_bytes(&t->workspace, t->context, desc.workspace_size,
                           harness_workspace_alignment());
        desc.workspace = t->workspace.data;
    }
    HARNESS_OK(fbn_layer_create(&t->layer, t->context, &desc));
    create_inputs(t);
    create_outputs(t, backward);
    fill_inputs(t);
    trial_point(t);
    trial_reset(t);
}

void trial_create(trial *t, const test_case *c, uint64_t seed, fbn_context *context, bool backward)
{
    create(t, c, seed, context, backward ? UP_TO_BACKWARD : UP_TO_FORWARD, backward);
}

void trial_create_unchecked(trial *t, const test_case *c, uint64_t seed, fbn_context *context)
{
    create(t, c, seed, context, NUMBERS_ONLY, true);
}

void trial_redraw(trial *t, uint64_t seed, reference_depth depth)
{
    reference *before = t->expected;
    t->expected = reference_get(&t->c, seed, depth);
    reference_release(before);
    fill_inputs(t);
    trial_reset(t);
}

void trial_destroy(trial *t)
{
    fbn_layer_destroy(t->layer);
    for (int k = 0; k < ARGS; k++)
        array_destroy(&t->a[k]);
    array_destroy(&t->workspace);
    reference_release(t->expected);
}

fbn_status trial_forward(trial *t)
{
    return t->c.training ? fbn_forward_train(t->layer, &t->params, &t->forward)
                         : fbn_forward_infer(t->layer, &t->params, &t->forward);
}

fbn_status trial_backward(trial *t)
{
    return fbn_backward(t->layer, &t->params, &t->backward, &t->grads);
}

fbn_status trial_steps(trial *t, int count)
{
    fbn_status status = FBN_OK;
    for (int step = 0; step < count && status == FBN_OK; step++) {
        status = trial_forward(t);
        if (status == FBN_OK)
            status = trial_backward(t);
    }
    return status;
}

unsigned char *trial_bytes(trial *t, argument which, size_t *size)
{
    array *a = &t->a[which];
    if (!a->memory)
        return NULL;
    *size = (size_t)(a->rows * a->cols) * a->element;
    double *values = malloc((size_t)(a->rows * a->cols + 1) * sizeof *values);
    unsigned char *bytes = malloc(*size + 1);
    ck_assert(values && bytes);
    if (a->element == 1) {
        array_get_bytes(a, bytes, *size);
    } else {
        array_get(a, values);
        for (int64_t r = 0; r < a->rows; r++)
            memcpy(bytes + (size_t)(r * a->cols) * a->element,
                   a->image + a->offset + (size_t)(r * a->ld) * a->element,
                   (size_t)a->cols * a->element);
    }
    free(values);
    return bytes;
}

void trial_accept(trial *t)
{
    size_t size;
    for (argument k = 0; k < ARGS; k++)
        free(trial_bytes(t, k, &size));
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* Fails unless argument `which`, where there is one, holds output k. */
static void check_output(trial *t, argument which, output k)
{
    char message[500];
    array *a = &t->a[which];
    if (!a->memory)
        return;
    double *before = which >= ARG_DX ? added(t, which) : NULL;
    double *got = malloc((size_t)(a->rows * a->cols + 1) * sizeof *got);
    ck_assert_ptr_nonnull(got);
    bool intact = array_get(a, got);
    bool right = true;
    if (which == ARG_DBIAS && t->c.training) { /* exactly zero, by the algebra */
        for (int64_t e = 0; e < a->cols && right; e++)
            right = got[e] == (before ? before[e] : 0);
        strcpy(message, "the bias gradient in training is not exactly 0");
    } else {
        right = reference_matches(t->expected, k, fbn_layer_describe(t->layer), a->type, got,
                                  before, message, sizeof message);
    }
    free(got);
    free(before);
    if (!intact)
        harness_fail("%s: padding or memory around it was written", argument_names[which]);
    if (!right)
        harness_fail("%s", message);
}

static void check_unchanged(trial *t, argument first, argument last)
{
    for (argument k = first; k <= last; k++)
        if (!array_unchanged(&t->a[k]))
            harness_fail("%s was changed", argument_names[k]);
}

/* Memory whose contents are the library's own, but not what lies around it. */
static void check_surroundings(array *a, const char *name)
{
    if (!a->memory)
        return;
    unsigned char *bytes = malloc((size_t)a->cols + 1);
    ck_assert_ptr_nonnull(bytes);
    bool intact = array_get_bytes(a, bytes, (size_t)a->cols);
    free(bytes);
    if (!intact)
        harness_fail("memory around %s was written", name);
}

void trial_check_forward(trial *t)
{
    check_output(t, ARG_Y, OUT_Y);
    check_output(t, ARG_BATCH_MEAN, OUT_BATCH_MEAN);
    check_output(t, ARG_BATCH_VAR, OUT_BATCH_VAR);
    if (t->c.training) {
        check_output(t, ARG_RUNNING_MEAN, OUT_RUNNING_MEAN);
        check_output(t, ARG_RUNNING_VAR, OUT_RUNNING_VAR);
    } else {
        check_unchanged(t, ARG_RUNNING_MEAN, ARG_BATCHES);
    }
    if (t->a[ARG_BATCHES].memory) {
        int64_t batches;
        array_get_bytes(&t->a[ARG_BATCHES], &batches, sizeof batches);
        if (batches != t->expected->exact->batches)
            harness_fail("num_batches_tracked is %lld, expected %lld", (long long)batches,
                         (long long)t->expected->exact->batches);
        if (!array_unchanged(&t->a[ARG_BATCHES]))
            harness_fail("memory around num_batches_tracked was written");
    }
    check_unchanged(t, ARG_X, INPUT_ARGS - 1);
    check_unchanged(t, ARG_DX, ARGS - 1);
    check_surroundings(&t->a[ARG_SAVED], "saved");
    check_surroundings(&t->workspace, "the workspace");
}

void trial_check_backward(trial *t)
{
    for (int g = 0; g < GRADIENTS; g++)
        check_output(t, gradients[g], gradient_outputs[g]);
    check_unchanged(t, ARG_X, ARG_BATCH_VAR);
    check_surroundings(&t->workspace, "the workspace");
}

void trial_run(const test_case *c, bool backward)
{
    trial t;
    char name[CASE_NAME_SIZE];
    harness_enter(case_name(c, name, sizeof name));
    trial_create(&t, c, harness_seed(), NULL, backward);
    HARNESS_OK(trial_forward(&t));
    trial_check_forward(&t);
    if (backward) {
        HARNESS_OK(trial_backward(&t));
        trial_check_backward(&t);
    }
    trial_destroy(&t);
}
