/* SPDX-License-Identifier: BSD-3-Clause
 * A network of three fused layers that recognises digits: training, prediction, saving.
 */
#include "digits_net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 256 };

static const struct {
    int64_t in, out;
    fbn_scale pre_scale, post_scale;
    fbn_activation activation;
} architecture[NET_LAYERS] = {
    {DIGITS_PIXELS, HIDDEN, FBN_SCALE_FEATURE, FBN_SCALE_NONE, FBN_ACT_RELU},
    {HIDDEN, HIDDEN, FBN_SCALE_FEATURE, FBN_SCALE_NONE, FBN_ACT_RELU},
    {HIDDEN, DIGITS_CLASSES, FBN_SCALE_NONE, FBN_SCALE_SCALAR, FBN_ACT_LOG_SOFTMAX},
};

static const char *const part_names[NET_PARTS] = {
    [NET_WEIGHT] = "gemm.weight", [NET_BIAS] = "gemm.bias", [NET_SCALE] = "scale",
    [NET_GAMMA] = "bn.weight",    [NET_BETA] = "bn.bias",   [NET_MEAN] = "bn.running_mean",
    [NET_VAR] = "bn.running_var",
};

static int fail(const char *problem)
{
    fprintf(stderr, "digits: %s\n", problem);
    return -1;
}

int net_check(fbn_status status, const char *call)
{
    if (status == FBN_OK)
        return 0;
    fprintf(stderr, "digits: %s: %s: %s\n", call, fbn_status_string(status), fbn_last_error());
    return -1;
}

/* ------------------------------------------------------------------------------------ creation */

/* The parts lie one after the other: first all that is trained, layer by layer, then the running
 * statistics. So one download brings all gradients and one upload takes all new values. */
static void lay_out(struct net *net)
{
    size_t end = 0;
    for (int stage = 0; stage < 2; stage++) {
        const int first = stage == 0 ? NET_WEIGHT : NET_MEAN;
        const int last = stage == 0 ? NET_TRAINED : NET_PARTS;
        for (int k = 0; k < NET_LAYERS; k++) {
            struct net_layer *l = &net->layers[k];
            for (int part = first; part < last; part++) {
                l->length[part] = part == NET_WEIGHT ? l->in * l->out : l->out;
                if (part == NET_SCALE && architecture[k].post_scale == FBN_SCALE_SCALAR)
                    l->length[part] = 1;
                l->offset[part] = end;
                end += (size_t)l->length[part];
            }
        }
        if (stage == 0)
            net->trained = end;
    }
    net->total = end;
}

/* Weights are uniform with the variance 2 / in (He et al. 2015); scales, gamma and running_var
 * begin at 1, the rest at 0. */
static void set_initial_values(struct net *net, uint64_t *random)
{
    for (int k = 0; k < NET_LAYERS; k++) {
        const struct net_layer *l = &net->layers[k];
        const double bound = sqrt(6.0 / (double)l->in);
        for (int part = 0; part < NET_PARTS; part++) {
            float *value = net->values + l->offset[part];
            const float initial = part == NET_SCALE || part == NET_GAMMA || part == NET_VAR;
            for (int64_t i = 0; i < l->length[part]; i++)
                value[i] =
                    part == NET_WEIGHT ? (float)(bound * (2 * random_unit(random) - 1)) : initial;
        }
    }
}

static int device_alloc(struct net *net, size_t bytes, void **pointer)
{
    return net_check(fbn_alloc(net->context, bytes, pointer), "fbn_alloc");
}

/* Creates the library's layer k and its buffers. */
static int create_layer(struct net *net, int k)
{
    struct net_layer *l = &net->layers[k];
    const size_t y_bytes = (size_t)(net->max_batch * l->out) * sizeof(float);
    size_t saved_bytes;
    fbn_layer_desc desc;

    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = l->in;
    desc.out_features = l->out;
    desc.max_batch = net->max_batch;
    desc.pre_scale = architecture[k].pre_scale;
    desc.post_scale = architecture[k].post_scale;
    desc.activation = architecture[k].activation;
    if (net_check(fbn_layer_create(&l->layer, net->context, &desc), "fbn_layer_create") != 0 ||
        net_check(fbn_layer_saved_size(l->layer, net->max_batch, &saved_bytes),
                  "fbn_layer_saved_size") != 0 ||
        device_alloc(net, saved_bytes, &l->saved) != 0 || device_alloc(net, y_bytes, &l->y) != 0 ||
        device_alloc(net, y_bytes, &l->dy) != 0)
        return -1;
    return 0;
}

/* Points the library's structs at the blocks. */
static void point_layer(struct net *net, int k)
{
    struct net_layer *l = &net->layers[k];
    float *value = net->device_values, *gradient = net->device_gradients;
    const bool post = architecture[k].post_scale != FBN_SCALE_NONE;

    fbn_params_init(&l->params, sizeof l->params);
    l->params.weight = value + l->offset[NET_WEIGHT];
    l->params.bias = value + l->offset[NET_BIAS];
    *(post ? &l->params.post_scale : &l->params.pre_scale) = value + l->offset[NET_SCALE];
    l->params.gamma = value + l->offset[NET_GAMMA];
    l->params.beta = value + l->offset[NET_BETA];
    l->params.running_mean = value + l->offset[NET_MEAN];
    l->params.running_var = value + l->offset[NET_VAR];
    l->params.num_batches_tracked = (int64_t *)net->device_counts + k;

    fbn_grads_init(&l->grads, sizeof l->grads);
    l->grads.dx = k > 0 ? net->layers[k - 1].dy : NULL; /* nobody needs the pixels' gradient */
    l->grads.weight = gradient + l->offset[NET_WEIGHT];
    l->grads.bias = gradient + l->offset[NET_BIAS];
    *(post ? &l->grads.post_scale : &l->grads.pre_scale) = gradient + l->offset[NET_SCALE];
    l->grads.gamma = gradient + l->offset[NET_GAMMA];
    l->grads.beta = gradient + l->offset[NET_BETA];
}

int net_create(struct net *net, fbn_context *context, int64_t max_batch, uint64_t *random)
{
    static const int64_t no_batches[NET_LAYERS];

    memset(net, 0, sizeof *net);
    net->context = context;
    net->max_batch = max_batch;
    for (int k = 0; k < NET_LAYERS; k++) {
        net->layers[k].in = architecture[k].in;
        net->layers[k].out = architecture[k].out;
    }
    lay_out(net);
    const size_t bytes = net->total * sizeof(float);
    const size_t x_bytes = (size_t)(max_batch * DIGITS_PIXELS) * sizeof(float);

    net->values = calloc(net->total, sizeof(float));
    net->gradients = calloc(net->trained, sizeof(float));
    net->velocity = calloc(net->trained, sizeof(float));
    net->outputs = calloc((size_t)max_batch, DIGITS_CLASSES * sizeof(float));
    if (net->values == NULL || net->gradients == NULL || net->velocity == NULL ||
        net->outputs == NULL)
        return fail("no memory for the network");
    set_initial_values(net, random);

    if (device_alloc(net, bytes, &net->device_values) != 0 ||
        device_alloc(net, net->trained * sizeof(float), &net->device_gradients) != 0 ||
        device_alloc(net, sizeof no_batches, &net->device_counts) != 0 ||
        device_alloc(net, x_bytes, &net->device_x) != 0 ||
        net_check(fbn_upload(context, net->device_values, net->values, bytes), "fbn_upload") != 0 ||
        net_check(fbn_upload(context, net->device_counts, no_batches, sizeof no_batches),
                  "fbn_upload") != 0)
        return -1;
    for (int k = 0; k < NET_LAYERS; k++) {
        if (create_layer(net, k) != 0)
            return -1;
        point_layer(net, k);
    }
    return 0;
}

void net_destroy(struct net *net)
{
    if (net->context == NULL)
        return;
    for (int k = 0; k < NET_LAYERS; k++) {
        struct net_layer *l = &net->layers[k];
        fbn_layer_destroy(l->layer);
        fbn_free(net->context, l->saved);
        fbn_free(net->context, l->dy);
        fbn_free(net->context, l->y);
    }
    fbn_free(net->context, net->device_x);
    fbn_free(net->context, net->device_counts);
    fbn_free(net->context, net->device_gradients);
    fbn_free(net->context, net->device_values);
    free(net->outputs);
    free(net->velocity);
    free(net->gradients);
    free(net->values);
    memset(net, 0, sizeof *net);
}

/* ------------------------------------------------------------------------------------ training */

/* Runs the pixels through the layers: in training with the batch's statistics, keeping what
 * backward needs, else with the running ones. The last layer's y goes to net->outputs. */
static int forward(struct net *net, const float *pixels, int64_t count, bool training)
{
    const size_t x_bytes = (size_t)(count * DIGITS_PIXELS) * sizeof(float);
    const size_t y_bytes = (size_t)(count * DIGITS_CLASSES) * sizeof(float);
    if (net_check(fbn_upload(net->context, net->device_x, pixels, x_bytes), "fbn_upload") != 0)
        return -1;
    for (int k = 0; k < NET_LAYERS; k++) {
        struct net_layer *l = &net->layers[k];
        fbn_forward_args args;
        fbn_forward_args_init(&args, sizeof args);
        args.batch = count;
        args.x = k > 0 ? net->layers[k - 1].y : net->device_x;
        args.y = l->y;
        if (!training) {
            if (net_check(fbn_forward_infer(l->layer, &l->params, &args), "fbn_forward_infer") != 0)
                return -1;
            continue;
        }
        args.saved = l->saved;
        if (net_check(fbn_layer_saved_size(l->layer, count, &args.saved_size),
                      "fbn_layer_saved_size") != 0 ||
            net_check(fbn_forward_train(l->layer, &l->params, &args), "fbn_forward_train") != 0)
            return -1;
    }
    return net_check(
        fbn_download(net->context, net->outputs, net->layers[NET_LAYERS - 1].y, y_bytes),
        "fbn_download");
}

/* From the loss's gradient by the last layer's y, which is in its dy, to that by every parameter. */
static int backward(struct net *net, int64_t count)
{
    for (int k = NET_LAYERS - 1; k >= 0; k--) {
        struct net_layer *l = &net->layers[k];
        fbn_backward_args args;
        fbn_backward_args_init(&args, sizeof args);
        args.batch = count;
        args.x = k > 0 ? net->layers[k - 1].y : net->device_x;
        args.dy = l->dy;
        args.saved = l->saved;
        if (net_check(fbn_layer_saved_size(l->layer, count, &args.saved_size),
                      "fbn_layer_saved_size") != 0 ||
            net_check(fbn_backward(l->layer, &l->params, &args, &l->grads), "fbn_backward") != 0)
            return -1;
    }
    return 0;
}

int net_train(struct net *net, const float *pixels, const int64_t *labels, int64_t count,
              double rate, double momentum, double *loss)
{
    const size_t trained_bytes = net->trained * sizeof(float);
    const size_t y_bytes = (size_t)(count * DIGITS_CLASSES) * sizeof(float);
    double sum = 0;

    if (forward(net, pixels, count, true) != 0)
        return -1;

    /* loss = -1/N sum log p(label): its gradient by the log p is -1/N at the label, else 0. */
    float *dy = net->outputs;
    for (int64_t i = 0; i < count; i++, dy += DIGITS_CLASSES) {
        sum -= (double)dy[labels[i]];
        memset(dy, 0, DIGITS_CLASSES * sizeof *dy);
        dy[labels[i]] = -1 / (float)count;
    }
    if (net_check(fbn_upload(net->context, net->layers[NET_LAYERS - 1].dy, net->outputs, y_bytes),
                  "fbn_upload") != 0 ||
        backward(net, count) != 0 ||
        net_check(fbn_download(net->context, net->gradients, net->device_gradients, trained_bytes),
                  "fbn_download") != 0)
        return -1;

    for (size_t i = 0; i < net->trained; i++) {
        net->velocity[i] = (float)momentum * net->velocity[i] + net->gradients[i];
        net->values[i] -= (float)rate * net->velocity[i];
    }
    *loss = sum / (double)count;
    return net_check(fbn_upload(net->context, net->device_values, net->values, trained_bytes),
                     "fbn_upload");
}

/* ---------------------------------------------------------------------------------- prediction */

int net_score(struct net *net, const struct digits *digits, int64_t *right)
{
    *right = 0;
    for (int64_t first = 0; first < digits->count; first += net->max_batch) {
        const int64_t left = digits->count - first;
        const int64_t count = left < net->max_batch ? left : net->max_batch;
        if (forward(net, digits->pixels + first * DIGITS_PIXELS, count, false) != 0)
            return -1;
        for (int64_t i = 0; i < count; i++) {
            const float *y = net->outputs + i * DIGITS_CLASSES;
            int64_t best = 0;
            for (int64_t j = 1; j < DIGITS_CLASSES; j++)
                best = y[j] > y[best] ? j : best;
            *right += best == digits->labels[first + i];
        }
    }
    return 0;
}

int net_save(struct net *net, const char *path)
{
    struct file_tensor tensors[NET_LAYERS * (NET_PARTS + 1)] = {0};
    int64_t counts[NET_LAYERS];
    struct file_tensor *tensor = tensors;

    if (net_check(
            fbn_download(net->context, net->values, net->device_values, net->total * sizeof(float)),
            "fbn_download") != 0 ||
        net_check(fbn_download(net->context, counts, net->device_counts, sizeof counts),
                  "fbn_download") != 0)
        return -1;
    for (int k = 0; k < NET_LAYERS; k++, tensor++) {
        snprintf(tensor->name, sizeof tensor->name, "layer%d.bn.num_batches_tracked", k + 1);
        strcpy(tensor->dtype, "I64");
        tensor->data = &counts[k];
    }
    for (int k = 0; k < NET_LAYERS; k++) {
        const struct net_layer *l = &net->layers[k];
        for (int part = 0; part < NET_PARTS; part++, tensor++) {
            snprintf(tensor->name, sizeof tensor->name, "layer%d.%s", k + 1, part_names[part]);
            strcpy(tensor->dtype, "F32");
            tensor->ndim = part == NET_WEIGHT ? 2 : 1;
            tensor->shape[0] = part == NET_WEIGHT ? l->out : l->length[part];
            tensor->shape[1] = l->in;
            tensor->data = net->values + l->offset[part];
        }
    }
    return safetensors_write(path, tensors, (size_t)(tensor - tensors));
}
