/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A stage for bad input. See scene.h.
 */
#include "scene.h"

#include "formats.h"

#include <stdlib.h>
#include <string.h>

/* What out-pointers hold before a call: addresses that no success can leave. */
static char nothing[64];
#define UNTOUCHED ((void *)nothing)
enum { UNTOUCHED_BYTES = 4711 };

static test_case full_case(fbn_dtype dtype, bool training, bool scales)
{
    test_case c = case_default(training);
    c.dtype = dtype;
    c.n = 6, c.i = 5, c.o = 4;
    c.bias = c.gamma = c.beta = c.running = c.batch_stats = c.saved = c.padded = true;
    c.tracked = TRACKED_41;
    c.pre_scale = scales ? FBN_SCALE_FEATURE : FBN_SCALE_NONE;
    c.post_scale = scales ? FBN_SCALE_SCALAR : FBN_SCALE_NONE;
    return c;
}

void scene_create(scene *s, fbn_dtype dtype, bool scales)
{
    *s = (scene){0};
    test_case c = full_case(dtype, true, scales);
    trial_create_unchecked(&s->t, &c, harness_seed(), NULL);
    s->desc = case_desc(&c);
    s->desc.max_batch = 8;
    fbn_layer_destroy(s->t.layer);
    HARNESS_OK(fbn_layer_create(&s->t.layer, s->t.context, &s->desc));

    c = full_case(dtype, false, scales);
    trial_create_unchecked(&s->inferred, &c, harness_seed(), NULL);
    array_create(&s->folded_weight, s->t.context, dtype, 4, 5, 7, true);
    array_create(&s->folded_bias, s->t.context, format_param(dtype), 1, 4, 4, true);
    HARNESS_OK(fbn_prepare_infer(&s->prepared, s->inferred.layer, &s->inferred.params));
    HARNESS_OK(fbn_layer_saved_size(s->t.layer, 6, &s->saved_bytes));
    HARNESS_OK(fbn_layer_workspace_size(s->t.context, &s->desc, &s->workspace_bytes));
    size_t bytes;
    HARNESS_OK(fbn_prepared_workspace_size(s->prepared, 8, &bytes));
    array_create_bytes(&s->workspace, s->t.context,
                       bytes > s->workspace_bytes ? bytes : s->workspace_bytes,
                       harness_workspace_alignment());
    scene_reset(s);
}

void scene_destroy(scene *s)
{
    scene_reset(s);
    fbn_prepared_destroy(s->prepared);
    array_destroy(&s->folded_weight);
    array_destroy(&s->folded_bias);
    array_destroy(&s->workspace);
    trial_destroy(&s->t);
    trial_destroy(&s->inferred);
}

static void reset_calls(scene *s)
{
    test_case c = s->t.c;
    s->context = s->t.context;
    s->layer = s->t.layer;
    s->params = &s->t.params;
    s->forward = &s->t.forward;
    s->backward = &s->t.backward;
    s->grads = &s->t.grads;
    s->fold_weight = s->folded_weight.data, s->fold_ldw = s->folded_weight.ld;
    s->fold_bias = s->folded_bias.data;
    s->made_prepared = UNTOUCHED, s->prepared_out = &s->made_prepared;
    s->desc = case_desc(&c);
    s->desc.max_batch = 8;
    s->desc_in = &s->desc;
    s->made_layer = UNTOUCHED, s->layer_out = &s->made_layer;
    s->bytes = UNTOUCHED_BYTES, s->bytes_out = &s->bytes;
    s->batch = 6;
}

static void reset_run(scene *s)
{
    fbn_run_args_init(&s->run, sizeof s->run);
    s->run.batch = 6;
    s->run.x = s->inferred.forward.x, s->run.ldx = s->inferred.forward.ldx;
    s->run.y = s->inferred.forward.y, s->run.ldy = s->inferred.forward.ldy;
    s->run.workspace = s->workspace.data, s->run.workspace_size = (size_t)s->workspace.cols;
    s->run_args = &s->run;
}

static void reset_context(scene *s)
{
    fbn_allocator_init(&s->allocator, sizeof s->allocator);
    fbn_context_options_init(&s->options, sizeof s->options);
    s->options.backend = harness_backend();
    s->options.host_allocator = &s->allocator;
    s->made_context = UNTOUCHED, s->context_out = &s->made_context;
    s->alloc_bytes = 64;
    s->made_memory = UNTOUCHED, s->memory_out = &s->made_memory;
    s->copy_target = s->folded_bias.data;
    s->copy_source = s->folded_bias.data;
    s->backend = harness_backend();
}

void scene_reset(scene *s)
{
    trial_reset(&s->t);
    trial_point(&s->t);
    trial_reset(&s->inferred);
    trial_point(&s->inferred);
    array_poison(&s->folded_weight);
    array_poison(&s->folded_bias);
    array_poison(&s->workspace);
    reset_calls(s);
    reset_run(s);
    reset_context(s);
}

fbn_status scene_call(scene *s, entry which)
{
    char host[64] = {0};
    switch (which) {
    case TRAIN:
        return fbn_forward_train(s->layer, s->params, s->forward);
    case INFER:
        return fbn_forward_infer(s->layer, s->params, s->forward);
    case BACKWARD:
        return fbn_backward(s->layer, s->params, s->backward, s->grads);
    case FOLD:
        return fbn_fold(s->layer, s->params, s->fold_weight, s->fold_ldw, s->fold_bias);
    case PREPARE:
        return fbn_prepare_infer(s->prepared_out, s->layer, s->params);
    case RUN:
        return fbn_prepared_run(s->prepared, s->run_args);
    case CREATE:
        return fbn_layer_create(s->layer_out, s->context, s->desc_in);
    case WORKSPACE_SIZE:
        return fbn_layer_workspace_size(s->context, s->desc_in, s->bytes_out);
    case SAVED_SIZE:
        return fbn_layer_saved_size(s->layer, s->batch, s->bytes_out);
    case RUN_WORKSPACE_SIZE:
        return fbn_prepared_workspace_size(s->prepared, s->batch, s->bytes_out);
    case CONTEXT:
        return fbn_context_create(s->context_out, &s->options);
    case ALLOC:
        return fbn_alloc(s->context, s->alloc_bytes, s->memory_out);
    case FREE:
        return fbn_free(s->context, NULL);
    case UPLOAD:
        return fbn_upload(s->context, s->copy_target, s->copy_source ? host : NULL, 16);
    case DOWNLOAD:
        return fbn_download(s->context, s->copy_target ? host : NULL, s->copy_source, 16);
    case SET_STREAM:
        return fbn_context_set_stream(s->context, NULL);
    case SYNCHRONIZE:
        return fbn_context_synchronize(s->context);
    case AVAILABLE:
        return fbn_backend_available(s->backend);
    }
    return FBN_STATUS_COUNT;
}

const char *scene_changed(const scene *s)
{
    for (int k = 0; k < ARGS; k++)
        if (!array_unchanged(&s->t.a[k]) || !array_unchanged(&s->inferred.a[k]))
            return argument_names[k];
    if (!array_unchanged(&s->folded_weight) || !array_unchanged(&s->folded_bias))
        return "what fold writes";
    if (s->made_prepared != UNTOUCHED || s->made_layer != UNTOUCHED ||
        s->made_context != UNTOUCHED || s->made_memory != UNTOUCHED)
        return "the pointer to what is made";
    return s->bytes != UNTOUCHED_BYTES ? "bytes" : NULL;
}

void scene_must_fail(scene *s, entry which, fbn_status expected, const char *const words[2])
{
    fbn_status got = scene_call(s, which);
    if (got != expected)
        harness_fail("gave \"%s\", expected \"%s\"; the message is \"%s\"", fbn_status_string(got),
                     fbn_status_string(expected), fbn_last_error());
    for (int k = 0; k < 2; k++)
        if (!strstr(fbn_last_error(), words[k]))
            harness_fail("the message \"%s\" lacks \"%s\"", fbn_last_error(), words[k]);
    const char *changed = scene_changed(s);
    if (changed)
        harness_fail("a call that failed (%s) changed %s", fbn_last_error(), changed);
}

void scene_aim(scene *s, entry which)
{
    if (which == INFER || which == FOLD || which == PREPARE) {
        s->params = &s->inferred.params;
        s->forward = &s->inferred.forward;
    }
    if (which == BACKWARD) {
        HARNESS_OK(scene_call(s, TRAIN));
        trial_accept(&s->t); /* what the forward wrote is now how things were */
    }
}

void scene_release(scene *s)
{
    if (s->made_prepared != UNTOUCHED)
        fbn_prepared_destroy(s->made_prepared);
    if (s->made_layer != UNTOUCHED)
        fbn_layer_destroy(s->made_layer);
    if (s->made_context != UNTOUCHED)
        fbn_context_destroy(s->made_context);
    if (s->made_memory != UNTOUCHED)
        fbn_free(s->t.context, s->made_memory);
}
