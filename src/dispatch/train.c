/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What training calls: fbn_forward_train and fbn_backward.
 */
#include "error.h"
#include "validate.h"

#include <inttypes.h>

static const fbn_backward_args backward_args_defaults = {.struct_size = sizeof(fbn_backward_args)};
static const fbn_grads grads_defaults = {.struct_size = sizeof(fbn_grads)};

void fbn_backward_args_init(fbn_backward_args *args, size_t size)
{
    fbni_struct_init(args, size, &backward_args_defaults, sizeof backward_args_defaults);
}

void fbn_grads_init(fbn_grads *grads, size_t size)
{
    fbni_struct_init(grads, size, &grads_defaults, sizeof grads_defaults);
}

fbn_status fbn_forward_train(fbn_layer *layer, const fbn_params *params,
                             const fbn_forward_args *args)
{
    fbn_params full_params;
    fbn_forward_args full_args;
    const fbn_status status =
        fbni_forward_check(layer, FBNI_USE_TRAIN, params, args, &full_params, &full_args);

    if (status != FBN_OK || full_args.batch == 0)
        return status;
    return layer->backend->forward_train(layer->state, &full_params, &full_args);
}

/* ---- backward ---- */

static const fbni_matrix matrix_dy = {"dy", "lddy", "out_features"};
static const fbni_matrix matrix_dx = {"dx", "lddx", "in_features"};
static const fbni_matrix matrix_dweight = {"grads->weight", "lddw", "in_features"};

/* The gradients of per-feature parameters. */
static const struct {
    const char *name;
    size_t offset;
    fbni_kind kind;
} vector_grads[] = {
    {"grads->bias", offsetof(fbn_grads, bias), FBNI_KIND_FEATURE},
    {"grads->pre_scale", offsetof(fbn_grads, pre_scale), FBNI_KIND_PRE},
    {"grads->post_scale", offsetof(fbn_grads, post_scale), FBNI_KIND_POST},
    {"grads->gamma", offsetof(fbn_grads, gamma), FBNI_KIND_FEATURE},
    {"grads->beta", offsetof(fbn_grads, beta), FBNI_KIND_FEATURE},
};
enum { VECTOR_GRADS = sizeof vector_grads / sizeof vector_grads[0] };

typedef struct backward_call {
    fbn_params params;
    fbn_backward_args args;
    fbn_grads grads;
    fbni_extent x, dy, dx, weight, dweight;
    size_t dweight_element, saved;
} backward_call;

static fbn_status take_backward(backward_call *call, const fbn_params *params,
                                const fbn_backward_args *args, const fbn_grads *grads)
{
    fbn_status status;

    call->args = backward_args_defaults;
    call->grads = grads_defaults;
    if ((status = fbni_params_take(&call->params, params)) != FBN_OK ||
        (status = FBNI_TAKE(fbn_backward_args, flags, &call->args, args, "args")) != FBN_OK ||
        (status = FBNI_TAKE(fbn_grads, beta, &call->grads, grads, "grads")) != FBN_OK)
        return status;
    if (call->args.batch != 0) {
        if (!call->args.x && call->grads.weight)
            return fbni_fail(FBN_ERR_NULL_POINTER, "x is NULL, but grads->weight needs it");
        if (!call->args.dy)
            return fbni_fail_null("dy");
        if (!call->args.saved)
            return fbni_fail_null("saved");
    }
    if (call->args.flags & ~(FBN_ACCUMULATE | FBN_OVERWRITE_DX))
        return fbni_fail(FBN_ERR_ENUM,
                         "args->flags is 0x%" PRIx64 ", of which 0x%" PRIx64 " is unknown",
                         call->args.flags, call->args.flags & ~(FBN_ACCUMULATE | FBN_OVERWRITE_DX));
    return FBN_OK;
}

static fbn_status size_backward(const fbn_layer *layer, backward_call *call)
{
    const int64_t batch = call->args.batch, in = layer->desc.in_features,
                  out = layer->desc.out_features;
    fbn_status status;

    call->dweight_element =
        layer->desc.flags & FBN_WEIGHT_GRADIENT_F32 ? layer->real : layer->element;
    if ((status = fbni_batch_check(layer, batch)) != FBN_OK ||
        (status = fbni_matrix_extent_of(call->args.x, &fbni_matrix_x, batch, in, layer->element,
                                        &call->args.ldx, &call->x)) != FBN_OK ||
        (status = fbni_matrix_extent_of(call->args.dy, &matrix_dy, batch, out, layer->element,
                                        &call->args.lddy, &call->dy)) != FBN_OK ||
        (status = fbni_matrix_extent_of(call->grads.dx, &matrix_dx, batch, in, layer->element,
                                        &call->grads.lddx, &call->dx)) != FBN_OK ||
        (status = fbni_matrix_extent_of(call->grads.weight, &matrix_dweight, out, in,
                                        call->dweight_element, &call->grads.lddw,
                                        &call->dweight)) != FBN_OK ||
        (status = fbni_params_check(layer, FBNI_USE_BACKWARD, &call->params, &call->weight)) !=
            FBN_OK)
        return status;
    if (layer->desc.pre_scale == FBN_SCALE_NONE && call->grads.pre_scale)
        return fbni_fail(FBN_ERR_INVALID_ARGUMENT, "grads->pre_scale is given, but the layer's "
                                                   "description has FBN_SCALE_NONE");
    if (layer->desc.post_scale == FBN_SCALE_NONE && call->grads.post_scale)
        return fbni_fail(FBN_ERR_INVALID_ARGUMENT, "grads->post_scale is given, but the layer's "
                                                   "description has FBN_SCALE_NONE");
    call->saved = 0;
    return call->args.saved ? fbni_saved_check(layer, batch, call->args.saved_size, &call->saved)
                            : FBN_OK;
}

static fbn_status span_backward(const fbn_layer *layer, const backward_call *call)
{
    fbni_spans spans;

    spans.count = 0;
    fbni_spans_add(&spans, "dx", call->grads.dx, call->dx, layer->element);
    fbni_spans_add(&spans, "grads->weight", call->grads.weight, call->dweight,
                   call->dweight_element);
    for (size_t i = 0; i < VECTOR_GRADS; i++) {
        const void *pointer;
        memcpy(&pointer, (const char *)&call->grads + vector_grads[i].offset, sizeof pointer);
        fbni_spans_add_bytes(&spans, vector_grads[i].name, pointer,
                             layer->vector_size[vector_grads[i].kind], layer->real);
    }
    fbni_spans_add_workspace(&spans, layer);
    fbni_spans_outputs_end(&spans);
    fbni_spans_add(&spans, "x", call->args.x, call->x, layer->element);
    fbni_spans_add(&spans, "dy", call->args.dy, call->dy, layer->element);
    fbni_spans_add_bytes(&spans, "saved", call->args.saved, call->saved, FBNI_SAVED_ALIGNMENT);
    fbni_params_add_inputs(&spans, layer, FBNI_USE_BACKWARD, &call->params, call->weight);
    return fbni_spans_check(&spans, layer->context);
}

fbn_status fbn_backward(fbn_layer *layer, const fbn_params *params, const fbn_backward_args *args,
                        const fbn_grads *grads)
{
    backward_call call;
    fbn_status status;

    if (!layer)
        return fbni_fail_null("layer");
    if ((status = take_backward(&call, params, args, grads)) != FBN_OK ||
        (status = size_backward(layer, &call)) != FBN_OK ||
        (status = span_backward(layer, &call)) != FBN_OK)
        return status;
    return layer->backend->backward(layer->state, &call.params, &call.args, &call.grads);
}
