/* SPDX-License-Identifier: BSD-3-Clause
 * The library's layer as a contestant.
 */
#include "bench.h"

#include <string.h>

static int check(fbn_status status, const char *call)
{
    if (status == FBN_OK)
        return 0;
    fprintf(stderr, "bench: %s: %s: %s\n", call, fbn_status_string(status), fbn_last_error());
    return -1;
}

/* Device memory for all of a case's data. */
static int allocate_tensors(struct layer_runner *r, const struct tensors *inputs)
{
    tensors_describe(&r->device, r->bench_case, inputs->matrix_type, inputs->param_type);
    for (int id = 0; id < TENSORS; id++) {
        const size_t bytes = tensor_bytes(&r->device, (enum tensor_id)id);
        if (check(fbn_alloc(r->context, bytes, &r->device.data[id]), "fbn_alloc") != 0)
            return -1;
        if (bytes > 0 && id < T_Y &&
            check(fbn_upload(r->context, r->device.data[id], inputs->data[id], bytes),
                  "fbn_upload") != 0)
            return -1;
    }
    return 0;
}

void layer_runner_point(struct layer_runner *r, void *const *data)
{
    const bool softmax = r->bench_case->chain == CHAIN_BN_SCALE_SOFTMAX;

    r->params.weight = data[T_W];
    r->params.bias = data[T_BIAS];
    *(softmax ? &r->params.post_scale : &r->params.pre_scale) = data[T_SCALE];
    r->params.gamma = data[T_GAMMA];
    r->params.beta = data[T_BETA];
    r->params.running_mean = data[T_MEAN];
    r->params.running_var = data[T_VAR];

    r->forward.batch = r->bench_case->batch;
    r->forward.x = data[T_X];
    r->forward.y = data[T_Y];

    r->backward.batch = r->bench_case->batch;
    r->backward.x = data[T_X];
    r->backward.dy = data[T_DY];

    r->grads.dx = data[T_DX];
    r->grads.weight = data[T_DW];
    r->grads.bias = data[T_DBIAS];
    *(softmax ? &r->grads.post_scale : &r->grads.pre_scale) = data[T_DSCALE];
    r->grads.gamma = data[T_DGAMMA];
    r->grads.beta = data[T_DBETA];

    r->run.batch = r->bench_case->batch;
    r->run.x = data[T_X];
    r->run.y = data[T_Y];
}

/* Forward's `saved` for backward, or the prepared layer and its workspace. */
static int create_extras(struct layer_runner *r)
{
    if (r->bench_case->operation == OP_TRAIN_BACKWARD) {
        size_t bytes;
        if (check(fbn_layer_saved_size(r->layer, r->bench_case->batch, &bytes),
                  "fbn_layer_saved_size") != 0 ||
            check(fbn_alloc(r->context, bytes, &r->saved), "fbn_alloc") != 0)
            return -1;
        r->forward.saved = r->saved;
        r->forward.saved_size = bytes;
        r->backward.saved = r->saved;
        r->backward.saved_size = bytes;
    }
    if (r->bench_case->operation == OP_PREPARED) {
        size_t bytes;
        if (check(fbn_prepare_infer(&r->prepared, r->layer, &r->params), "fbn_prepare_infer") !=
                0 ||
            check(fbn_prepared_workspace_size(r->prepared, r->bench_case->batch, &bytes),
                  "fbn_prepared_workspace_size") != 0 ||
            check(fbn_alloc(r->context, bytes, &r->workspace), "fbn_alloc") != 0)
            return -1;
        r->run.workspace = r->workspace;
        r->run.workspace_size = bytes;
    }
    return 0;
}

int layer_runner_open(struct layer_runner *r, fbn_context *context, const struct bench_case *c,
                      fbn_dtype dtype, fbn_math math, const char *kernel, const char **refusal)
{
    const bool softmax = c->chain == CHAIN_BN_SCALE_SOFTMAX;
    fbn_layer_desc desc;

    memset(r, 0, sizeof *r);
    r->bench_case = c;
    r->context = context;
    *refusal = NULL;
    fbn_params_init(&r->params, sizeof r->params);
    fbn_forward_args_init(&r->forward, sizeof r->forward);
    fbn_backward_args_init(&r->backward, sizeof r->backward);
    fbn_grads_init(&r->grads, sizeof r->grads);
    fbn_run_args_init(&r->run, sizeof r->run);
    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = c->in;
    desc.out_features = c->out;
    desc.max_batch = c->batch;
    desc.dtype = dtype;
    desc.math = math;
    desc.pre_scale = softmax ? FBN_SCALE_NONE : FBN_SCALE_FEATURE;
    desc.post_scale = softmax ? FBN_SCALE_SCALAR : FBN_SCALE_NONE;
    desc.activation = softmax ? FBN_ACT_SOFTMAX : FBN_ACT_NONE;
    desc.kernel = kernel;
    const fbn_status status = fbn_layer_create(&r->layer, context, &desc);
    if (status == FBN_ERR_UNSUPPORTED) {
        *refusal = fbn_last_error();
        return -1;
    }
    return check(status, "fbn_layer_create");
}

int layer_runner_create(struct layer_runner *r, fbn_context *context, const struct bench_case *c,
                        const struct tensors *inputs, const char *kernel, const char **refusal)
{
    if (layer_runner_open(r, context, c, inputs->matrix_type, FBN_MATH_FP32, kernel, refusal) !=
            0 ||
        allocate_tensors(r, inputs) != 0)
        return -1;
    layer_runner_point(r, r->device.data);
    return create_extras(r);
}

void layer_runner_destroy(struct layer_runner *r)
{
    if (r->context == NULL)
        return;
    fbn_prepared_destroy(r->prepared);
    fbn_layer_destroy(r->layer);
    fbn_free(r->context, r->workspace);
    fbn_free(r->context, r->saved);
    for (int id = 0; id < TENSORS; id++)
        fbn_free(r->context, r->device.data[id]);
    memset(r, 0, sizeof *r);
}

int layer_runner_results(struct layer_runner *r, struct tensors *results)
{
    for (int id = T_MEAN; id < TENSORS; id++) {
        const size_t bytes = tensor_bytes(results, (enum tensor_id)id);
        if (bytes > 0 &&
            check(fbn_download(r->context, results->data[id], r->device.data[id], bytes),
                  "fbn_download") != 0)
            return -1;
    }
    return 0;
}

int layer_runner_queue(struct layer_runner *r)
{
    fbn_status status;
    switch (r->bench_case->operation) {
    case OP_INFER:
        status = fbn_forward_infer(r->layer, &r->params, &r->forward);
        break;
    case OP_PREPARED:
        status = fbn_prepared_run(r->prepared, &r->run);
        break;
    default:
        status = fbn_forward_train(r->layer, &r->params, &r->forward);
    }
    if (status == FBN_OK && r->bench_case->operation == OP_TRAIN_BACKWARD)
        status = fbn_backward(r->layer, &r->params, &r->backward, &r->grads);
    return check(status, operation_name(r->bench_case->operation));
}

int layer_runner_run(void *layer_runner)
{
    struct layer_runner *r = layer_runner;
    if (layer_runner_queue(r) != 0)
        return -1;
    return check(fbn_context_synchronize(r->context), "fbn_context_synchronize");
}
