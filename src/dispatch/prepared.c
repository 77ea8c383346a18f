/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Serving: fbn_prepared, made once from a layer and its parameters, run by any number of threads.
 */
#include "error.h"
#include "validate.h"

#include <inttypes.h>

static const fbn_run_args run_args_defaults = {.struct_size = sizeof(fbn_run_args)};

void fbn_run_args_init(fbn_run_args *args, size_t size)
{
    fbni_struct_init(args, size, &run_args_defaults, sizeof run_args_defaults);
}

fbn_status fbn_prepare_infer(fbn_prepared **prepared, fbn_layer *layer, const fbn_params *params)
{
    fbn_params full_params;
    fbn_prepared *made = NULL;
    void *memory = NULL;
    fbni_extent weight;
    fbni_spans spans;
    fbn_status status;

    if (!prepared)
        return fbni_fail_null("prepared");
    if (!layer)
        return fbni_fail_null("layer");
    if ((status = fbni_params_take(&full_params, params)) != FBN_OK ||
        (status = fbni_params_check(layer, FBNI_USE_INFER, &full_params, &weight)) != FBN_OK)
        return status;
    spans.count = 0;
    fbni_spans_add_workspace(&spans, layer);
    fbni_spans_outputs_end(&spans);
    fbni_params_add_inputs(&spans, layer, FBNI_USE_INFER, &full_params, weight);
    if ((status = fbni_spans_check(&spans, layer->context)) != FBN_OK)
        return status;

    status = fbni_host_allocate(layer->context, sizeof *made, "a prepared layer", &memory);
    if (status != FBN_OK)
        return status;
    made = memory;
    made->context = layer->context;
    made->backend = layer->backend;
    made->in_features = layer->desc.in_features;
    made->out_features = layer->desc.out_features;
    made->element = layer->element;
    status = made->backend->prepare(&made->state, layer->state, &full_params);
    if (status != FBN_OK) {
        fbni_host_deallocate(layer->context, made);
        return status;
    }
    fbni_context_retain(made->context);
    *prepared = made;
    return FBN_OK;
}

void fbn_prepared_destroy(fbn_prepared *prepared)
{
    if (!prepared)
        return;
    fbn_context *context = prepared->context;
    prepared->backend->prepared_destroy(prepared->state);
    fbni_host_deallocate(context, prepared);
    fbni_context_release(context);
}

/* x and y of a batch that no max_batch bounds. */
static fbn_status check_batch(const fbn_prepared *prepared, int64_t batch, int64_t *ldx,
                              fbni_extent *x, int64_t *ldy, fbni_extent *y)
{
    fbn_status status;

    if (batch < 0)
        return fbni_fail(FBN_ERR_SIZE, "batch is %" PRId64 ", but must be at least 0", batch);
    status =
        fbni_matrix_extent(&fbni_matrix_x, batch, prepared->in_features, prepared->element, ldx, x);
    if (status != FBN_OK)
        return status;
    return fbni_matrix_extent(&fbni_matrix_y, batch, prepared->out_features, prepared->element, ldy,
                              y);
}

fbn_status fbn_prepared_workspace_size(const fbn_prepared *prepared, int64_t batch, size_t *bytes)
{
    int64_t ldx = 0, ldy = 0;
    fbni_extent x, y;
    size_t size = 0;
    fbn_status status;

    if (!prepared)
        return fbni_fail_null("prepared");
    if (!bytes)
        return fbni_fail_null("bytes");
    if ((status = check_batch(prepared, batch, &ldx, &x, &ldy, &y)) != FBN_OK)
        return status;
    if (batch > 0)
        status = prepared->backend->prepared_workspace_size(prepared->state, batch, &size);
    if (status != FBN_OK)
        return status;
    *bytes = size;
    return FBN_OK;
}

static fbn_status check_run_workspace(const fbn_prepared *prepared, const fbn_run_args *args,
                                      size_t *bytes)
{
    const fbn_status status =
        prepared->backend->prepared_workspace_size(prepared->state, args->batch, bytes);

    if (status != FBN_OK)
        return status;
    if (*bytes > 0 && !args->workspace)
        return fbni_fail(FBN_ERR_WORKSPACE,
                         "workspace is NULL, but a batch of %" PRId64
                         " needs %zu bytes (fbn_prepared_workspace_size)",
                         args->batch, *bytes);
    if (args->workspace_size < *bytes)
        return fbni_fail(FBN_ERR_WORKSPACE,
                         "workspace_size is %zu, but a batch of %" PRId64
                         " needs %zu bytes (fbn_prepared_workspace_size)",
                         args->workspace_size, args->batch, *bytes);
    return FBN_OK;
}

fbn_status fbn_prepared_run(const fbn_prepared *prepared, const fbn_run_args *args)
{
    fbn_run_args full = run_args_defaults;
    fbni_extent x, y;
    fbni_spans spans;
    size_t bytes = 0;
    fbn_status status;

    if (!prepared)
        return fbni_fail_null("prepared");
    if ((status = FBNI_TAKE(fbn_run_args, workspace_size, &full, args, "args")) != FBN_OK)
        return status;
    if (!full.x && full.batch != 0)
        return fbni_fail_null("x");
    if (!full.y && full.batch != 0)
        return fbni_fail_null("y");
    if ((status = check_batch(prepared, full.batch, &full.ldx, &x, &full.ldy, &y)) != FBN_OK)
        return status;
    if (full.batch == 0)
        return FBN_OK;
    if ((status = check_run_workspace(prepared, &full, &bytes)) != FBN_OK)
        return status;

    spans.count = 0;
    fbni_spans_add(&spans, "y", full.y, y, prepared->element);
    fbni_spans_add_bytes(&spans, "workspace", full.workspace, bytes,
                         prepared->backend->workspace_alignment);
    fbni_spans_outputs_end(&spans);
    fbni_spans_add(&spans, "x", full.x, x, prepared->element);
    status = fbni_spans_check(&spans, prepared->context);
    if (status != FBN_OK)
        return status;
    return prepared->backend->prepared_run(prepared->state, &full);
}
