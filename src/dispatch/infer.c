/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The structs that every forward takes, fbn_forward_infer and fbn_fold.
 */
#include "error.h"
#include "validate.h"

static const fbn_params params_defaults = {.struct_size = sizeof(fbn_params)};
static const fbn_forward_args forward_args_defaults = {.struct_size = sizeof(fbn_forward_args)};

void fbn_params_init(fbn_params *params, size_t size)
{
    fbni_struct_init(params, size, &params_defaults, sizeof params_defaults);
}

void fbn_forward_args_init(fbn_forward_args *args, size_t size)
{
    fbni_struct_init(args, size, &forward_args_defaults, sizeof forward_args_defaults);
}

fbn_status fbn_forward_infer(fbn_layer *layer, const fbn_params *params,
                             const fbn_forward_args *args)
{
    fbn_params full_params;
    fbn_forward_args full_args;
    const fbn_status status =
        fbni_forward_check(layer, FBNI_USE_INFER, params, args, &full_params, &full_args);

    if (status != FBN_OK || full_args.batch == 0)
        return status;
    return layer->backend->forward_infer(layer->state, &full_params, &full_args);
}

fbn_status fbn_fold(fbn_layer *layer, const fbn_params *params, void *weight, int64_t ldw,
                    void *bias)
{
    static const fbni_matrix folded = {"the folded weight", "ldw", "in_features"};
    fbn_params full_params;
    fbni_extent from, to;
    fbni_spans spans;
    fbn_status status;

    if (!layer)
        return fbni_fail_null("layer");
    if (!weight)
        return fbni_fail_null("weight");
    if (!bias)
        return fbni_fail_null("bias");
    if ((status = fbni_params_take(&full_params, params)) != FBN_OK ||
        (status = fbni_matrix_extent(&folded, layer->desc.out_features, layer->desc.in_features,
                                     layer->element, &ldw, &to)) != FBN_OK ||
        (status = fbni_params_check(layer, FBNI_USE_INFER, &full_params, &from)) != FBN_OK)
        return status;

    spans.count = 0;
    fbni_spans_add(&spans, "the folded weight", weight, to, layer->element);
    fbni_spans_add_bytes(&spans, "the folded bias", bias, layer->vector_size[FBNI_KIND_FEATURE],
                         layer->real);
    fbni_spans_add_workspace(&spans, layer);
    fbni_spans_outputs_end(&spans);
    fbni_params_add_inputs(&spans, layer, FBNI_USE_INFER, &full_params, from);
    status = fbni_spans_check(&spans, layer->context);
    if (status != FBN_OK)
        return status;
    return layer->backend->fold(layer->state, &full_params, weight, ldw, bias);
}
