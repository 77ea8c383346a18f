/* SPDX-License-Identifier: BSD-3-Clause
 * A network of three fused layers that recognises digits: training, prediction, saving, serving.
 *
 *   pixels [N,64] -> Linear, scale per feature, BatchNorm, ReLU          -> [N,256]
 *                 -> Linear, scale per feature, BatchNorm, ReLU          -> [N,256]
 *                 -> Linear, BatchNorm, scalar scale, log-softmax        -> [N,10]
 *
 * Everything goes through fusedbn.h, and what the library reads and writes is memory from
 * fbn_alloc, so that the same code runs on a GPU.
 */
#ifndef DIGITS_NET_H
#define DIGITS_NET_H

#include "digits_data.h"

#include <fusedbn.h>

#include <stdbool.h>

enum { NET_LAYERS = 3 };

/* A layer's parameters. Training changes those before NET_TRAINED by their gradients; the rest are
 * the running statistics, which fbn_forward_train moves. */
enum net_part {
    NET_WEIGHT,
    NET_BIAS,
    NET_SCALE,
    NET_GAMMA,
    NET_BETA,
    NET_TRAINED,
    NET_MEAN = NET_TRAINED,
    NET_VAR,
    NET_PARTS
};

/* One fused layer and where its numbers are. */
struct net_layer {
    int64_t in, out;
    fbn_layer *layer;
    fbn_params params;
    fbn_grads grads;          /* grads.dx is the dy of the layer before */
    size_t offset[NET_PARTS]; /* of each part in net.values, in elements */
    int64_t length[NET_PARTS];
    void *y;     /* device: [max_batch, out], what the layer makes of its input */
    void *dy;    /* device: [max_batch, out], the loss's gradient by y */
    void *saved; /* device: what backward needs from forward */
};

struct net {
    fbn_context *context; /* the caller's */
    int64_t max_batch;
    struct net_layer layers[NET_LAYERS];
    size_t trained; /* elements of the parts that are trained: the first ones of values */
    size_t total;   /* elements of all parts */
    float *values;  /* host: the parameters */
    float *gradients, *velocity;            /* host, of the trained parts */
    float *outputs;                         /* host: [max_batch, 10] */
    void *device_values, *device_gradients; /* device: the same */
    void *device_counts;                    /* device: num_batches_tracked of each layer */
    void *device_x;                         /* device: [max_batch, 64] */
};

/*
 * All return 0; or -1, with the reason on stderr.
 */

/* Every call of the library passes through here: a failure is printed in the library's own words. */
int net_check(fbn_status status, const char *call);

/* Makes a network with random weights, for batches of up to max_batch images. net_destroy() frees,
 * after a failure too. */
int net_create(struct net *net, fbn_context *context, int64_t max_batch, uint64_t *random);
void net_destroy(struct net *net);

/* One step of gradient descent with momentum on 2 to max_batch images; *loss receives the mean of
 * -log p(label) over them, before the step. */
int net_train(struct net *net, const float *pixels, const int64_t *labels, int64_t count,
              double rate, double momentum, double *loss);

/* Predicts with the running statistics: *right receives how many of the images' labels come out
 * most probable. */
int net_score(struct net *net, const struct digits *digits, int64_t *right);

/* Saves the parameters under the names layer1.gemm.weight, ... that `fusedbn run --prefix layer1.`
 * and PyTorch users know. */
int net_save(struct net *net, const char *path);

/* Folds and packs the layers for serving and times them: the median seconds that all the images
 * take as one batch. */
int net_time_serving(struct net *net, const struct digits *digits, double *seconds);

/* Seconds since some moment, for differences. */
double seconds_now(void);

#endif
