/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Taking in structs, and the checks that several entries share.
 */
#include "validate.h"

#include "error.h"

#include <inttypes.h>

/* ---- structs of any size ---- */

/* No struct of this library will be longer: a struct_size beyond is what an uninitialised struct
 * happened to hold, and nothing is read through it. */
enum { STRUCT_SIZE_MAX = 4096 };

void fbni_struct_init(void *target, size_t size, const void *defaults, size_t defaults_size)
{
    const size_t known = size < defaults_size ? size : defaults_size;

    if (!target || size < sizeof size)
        return;
    memcpy(target, defaults, known);
    memset((char *)target + known, 0, size - known);
    memcpy(target, &size, sizeof size); /* struct_size is the first field of every struct */
}

fbn_status fbni_struct_take(void *full, size_t full_size, size_t first_size, const void *given,
                            const char *name, const char *type)
{
    size_t size;

    if (!given)
        return fbni_fail_null(name);
    memcpy(&size, given, sizeof size);
    if (size < first_size || size > STRUCT_SIZE_MAX)
        return fbni_fail(
            FBN_ERR_STRUCT_SIZE,
            "%s->struct_size is %zu, but a %s has %zu bytes: fill it with %s_init first", name,
            size, type, full_size, type);
    for (size_t i = full_size; i < size; i++)
        if (((const unsigned char *)given)[i] != 0)
            return fbni_fail(
                FBN_ERR_UNSUPPORTED,
                "%s->struct_size is %zu and a field beyond the %zu bytes that libfusedbn "
                "%s knows is set",
                name, size, full_size, fbn_version());
    memcpy(full, given, size < full_size ? size : full_size);
    memcpy(full, &full_size, sizeof full_size);
    return FBN_OK;
}

/* ---- params ---- */

const fbni_matrix fbni_matrix_x = {"x", "ldx", "in_features"};
const fbni_matrix fbni_matrix_y = {"y", "ldy", "out_features"};
const fbni_matrix fbni_matrix_weight = {"weight", "ldw", "in_features"};

/* The parameters that are only read, whatever the use. */
static const struct {
    const char *name;
    size_t offset;
    fbni_kind kind;
} read_params[] = {
    {"bias", offsetof(fbn_params, bias), FBNI_KIND_FEATURE},
    {"pre_scale", offsetof(fbn_params, pre_scale), FBNI_KIND_PRE},
    {"post_scale", offsetof(fbn_params, post_scale), FBNI_KIND_POST},
    {"gamma", offsetof(fbn_params, gamma), FBNI_KIND_FEATURE},
    {"beta", offsetof(fbn_params, beta), FBNI_KIND_FEATURE},
};

fbn_status fbni_params_take(fbn_params *params, const fbn_params *given)
{
    memset(params, 0, sizeof *params);
    return FBNI_TAKE(fbn_params, num_batches_tracked, params, given, "params");
}

static fbn_status check_scale(fbn_scale scale, const void *pointer, const char *name)
{
    if (scale != FBN_SCALE_NONE && !pointer)
        return fbni_fail(FBN_ERR_MISSING_PARAM,
                         "%s is missing, but the layer's description has a %s one", name,
                         scale == FBN_SCALE_SCALAR ? "scalar" : "per-feature");
    if (scale == FBN_SCALE_NONE && pointer)
        return fbni_fail(FBN_ERR_INVALID_ARGUMENT,
                         "%s is given, but the layer's description has FBN_SCALE_NONE", name);
    return FBN_OK;
}

static fbn_status check_running(const fbn_layer *layer, fbni_use use, const fbn_params *params)
{
    const bool any = params->running_mean || params->running_var;

    if ((any || use == FBNI_USE_INFER) && !(params->running_mean && params->running_var)) {
        const char *missing = params->running_mean ? "running_var" : "running_mean";
        if (use == FBNI_USE_INFER)
            return fbni_fail(FBN_ERR_MISSING_PARAM, "%s is missing, but inference needs it",
                             missing);
        return fbni_fail(FBN_ERR_MISSING_PARAM, "%s is missing, but %s is given", missing,
                         params->running_mean ? "running_mean" : "running_var");
    }
    if (use == FBNI_USE_TRAIN && any && (layer->desc.flags & FBN_CUMULATIVE_AVERAGE) &&
        !params->num_batches_tracked)
        return fbni_fail(FBN_ERR_MISSING_PARAM,
                         "num_batches_tracked is missing, but FBN_CUMULATIVE_AVERAGE needs it");
    return FBN_OK;
}

fbn_status fbni_params_check(const fbn_layer *layer, fbni_use use, fbn_params *params,
                             fbni_extent *weight)
{
    fbn_status status;

    if (!params->weight)
        return fbni_fail(FBN_ERR_MISSING_PARAM, "weight is missing, but every layer needs it");
    status = fbni_matrix_extent(&fbni_matrix_weight, layer->desc.out_features,
                                layer->desc.in_features, layer->element, &params->ldw, weight);
    if (status != FBN_OK)
        return status;
    status = check_scale(layer->desc.pre_scale, params->pre_scale, "pre_scale");
    if (status != FBN_OK)
        return status;
    status = check_scale(layer->desc.post_scale, params->post_scale, "post_scale");
    if (status != FBN_OK)
        return status;
    return use == FBNI_USE_BACKWARD ? FBN_OK : check_running(layer, use, params);
}

static void add_running(fbni_spans *spans, const fbn_layer *layer, const fbn_params *params)
{
    const size_t bytes = layer->vector_size[FBNI_KIND_FEATURE];

    fbni_spans_add_bytes(spans, "running_mean", params->running_mean, bytes, layer->real);
    fbni_spans_add_bytes(spans, "running_var", params->running_var, bytes, layer->real);
}

void fbni_params_add_outputs(fbni_spans *spans, const fbn_layer *layer, fbni_use use,
                             const fbn_params *params)
{
    if (use != FBNI_USE_TRAIN)
        return;
    add_running(spans, layer, params);
    fbni_spans_add_bytes(spans, "num_batches_tracked", params->num_batches_tracked,
                         sizeof *params->num_batches_tracked, _Alignof(int64_t));
}

void fbni_params_add_inputs(fbni_spans *spans, const fbn_layer *layer, fbni_use use,
                            const fbn_params *params, fbni_extent weight)
{
    fbni_spans_add(spans, "weight", params->weight, weight, layer->element);
    for (size_t i = 0; i < sizeof read_params / sizeof read_params[0]; i++) {
        const void *pointer;
        memcpy(&pointer, (const char *)params + read_params[i].offset, sizeof pointer);
        fbni_spans_add_bytes(spans, read_params[i].name, pointer,
                             layer->vector_size[read_params[i].kind], layer->real);
    }
    if (use == FBNI_USE_INFER)
        add_running(spans, layer, params);
}

/* ---- batch, saved, forward ---- */

fbn_status fbni_batch_check(const fbn_layer *layer, int64_t batch)
{
    if (batch < 0)
        return fbni_fail(FBN_ERR_SIZE, "batch is %" PRId64 ", but must be at least 0", batch);
    if (batch > layer->desc.max_batch)
        return fbni_fail(FBN_ERR_BATCH_TOO_LARGE,
                         "batch is %" PRId64 ", but the layer's max_batch is %" PRId64, batch,
                         layer->desc.max_batch);
    return FBN_OK;
}

fbn_status fbni_saved_check(const fbn_layer *layer, int64_t batch, size_t saved_size, size_t *bytes)
{
    const fbn_status status = layer->backend->layer_saved_size(layer->state, batch, bytes);

    if (status != FBN_OK)
        return status;
    if (saved_size < *bytes)
        return fbni_fail(FBN_ERR_SAVED,
                         "saved_size is %zu, but a batch of %" PRId64
                         " needs %zu bytes (fbn_layer_saved_size)",
                         saved_size, batch, *bytes);
    return FBN_OK;
}

static fbn_status take_forward(const fbn_forward_args *given, fbn_forward_args *args)
{
    fbn_status status;

    memset(args, 0, sizeof *args);
    status = FBNI_TAKE(fbn_forward_args, batch_var, args, given, "args");
    if (status != FBN_OK)
        return status;
    if (!args->x && args->batch != 0)
        return fbni_fail_null("x");
    if (!args->y && args->batch != 0)
        return fbni_fail_null("y");
    return FBN_OK;
}

static fbn_status check_forward_batch(const fbn_layer *layer, fbni_use use,
                                      const fbn_forward_args *args)
{
    const fbn_status status = fbni_batch_check(layer, args->batch);

    if (status != FBN_OK)
        return status;
    if (use == FBNI_USE_TRAIN && args->batch == 1)
        return fbni_fail(FBN_ERR_BATCH_OF_ONE,
                         "batch is 1, but training needs at least 2 rows for a variance");
    if (use == FBNI_USE_INFER && (args->batch_mean || args->batch_var))
        return fbni_fail(FBN_ERR_INVALID_ARGUMENT,
                         "%s is given, but inference computes no batch statistics",
                         args->batch_mean ? "batch_mean" : "batch_var");
    return FBN_OK;
}

fbn_status fbni_forward_check(const fbn_layer *layer, fbni_use use, const fbn_params *given_params,
                              const fbn_forward_args *given_args, fbn_params *params,
                              fbn_forward_args *args)
{
    fbni_extent x, y, weight;
    fbni_spans spans;
    size_t saved = 0;
    fbn_status status;

    if (!layer)
        return fbni_fail_null("layer");
    if ((status = fbni_params_take(params, given_params)) != FBN_OK ||
        (status = take_forward(given_args, args)) != FBN_OK ||
        (status = check_forward_batch(layer, use, args)) != FBN_OK ||
        (status = fbni_matrix_extent_of(args->x, &fbni_matrix_x, args->batch,
                                        layer->desc.in_features, layer->element, &args->ldx, &x)) !=
            FBN_OK ||
        (status =
             fbni_matrix_extent_of(args->y, &fbni_matrix_y, args->batch, layer->desc.out_features,
                                   layer->element, &args->ldy, &y)) != FBN_OK ||
        (status = fbni_params_check(layer, use, params, &weight)) != FBN_OK)
        return status;
    if (args->saved &&
        (status = fbni_saved_check(layer, args->batch, args->saved_size, &saved)) != FBN_OK)
        return status;

    spans.count = 0;
    fbni_spans_add(&spans, "y", args->y, y, layer->element);
    fbni_spans_add_bytes(&spans, "saved", args->saved, saved, FBNI_SAVED_ALIGNMENT);
    fbni_spans_add_bytes(&spans, "batch_mean", args->batch_mean,
                         layer->vector_size[FBNI_KIND_FEATURE], layer->real);
    fbni_spans_add_bytes(&spans, "batch_var", args->batch_var,
                         layer->vector_size[FBNI_KIND_FEATURE], layer->real);
    fbni_params_add_outputs(&spans, layer, use, params);
    fbni_spans_add_workspace(&spans, layer);
    fbni_spans_outputs_end(&spans);
    fbni_spans_add(&spans, "x", args->x, x, layer->element);
    fbni_params_add_inputs(&spans, layer, use, params, weight);
    return fbni_spans_check(&spans, layer->context);
}
