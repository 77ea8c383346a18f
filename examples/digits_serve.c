/* SPDX-License-Identifier: BSD-3-Clause
 * Serving: the network's layers folded and packed once, then run without the training's buffers.
 */
#include "digits_net.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UPS = 5, TIMINGS = 101 };

/* The layers as fbn_prepared_run takes them. */
struct server {
    fbn_context *context; /* the caller's */
    fbn_prepared *prepared[NET_LAYERS];
    fbn_run_args args[NET_LAYERS]; /* x, y and workspace of each, set once */
    void *x;                       /* device: the first layer's input */
};

static void server_destroy(struct server *server)
{
    for (int k = 0; k < NET_LAYERS; k++) {
        fbn_free(server->context, server->args[k].workspace);
        fbn_free(server->context, server->args[k].y);
        fbn_prepared_destroy(server->prepared[k]);
    }
    fbn_free(server->context, server->x);
}

static int server_create(struct server *server, struct net *net, int64_t batch)
{
    memset(server, 0, sizeof *server);
    server->context = net->context;
    if (net_check(
            fbn_alloc(net->context, (size_t)(batch * DIGITS_PIXELS) * sizeof(float), &server->x),
            "fbn_alloc") != 0)
        return -1;
    for (int k = 0; k < NET_LAYERS; k++) {
        const struct net_layer *l = &net->layers[k];
        fbn_run_args *args = &server->args[k];
        const size_t y_bytes = (size_t)(batch * l->out) * sizeof(float);

        fbn_run_args_init(args, sizeof *args);
        args->batch = batch;
        args->x = k > 0 ? server->args[k - 1].y : server->x;
        if (net_check(fbn_prepare_infer(&server->prepared[k], l->layer, &l->params),
                      "fbn_prepare_infer") != 0 ||
            net_check(
                fbn_prepared_workspace_size(server->prepared[k], batch, &args->workspace_size),
                "fbn_prepared_workspace_size") != 0 ||
            net_check(fbn_alloc(net->context, args->workspace_size, &args->workspace),
                      "fbn_alloc") != 0 ||
            net_check(fbn_alloc(net->context, y_bytes, &args->y), "fbn_alloc") != 0)
            return -1;
    }
    return 0;
}

static int server_run(const struct server *server)
{
    for (int k = 0; k < NET_LAYERS; k++) {
        if (net_check(fbn_prepared_run(server->prepared[k], &server->args[k]),
                      "fbn_prepared_run") != 0)
            return -1;
    }
    return net_check(fbn_context_synchronize(server->context), "fbn_context_synchronize");
}

double seconds_now(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int net_time_serving(struct net *net, const struct digits *digits, double *seconds)
{
    int result = -1;
    double taken[TIMINGS];
    struct server server;

    if (server_create(&server, net, digits->count) != 0 ||
        net_check(fbn_upload(server.context, server.x, digits->pixels,
                             (size_t)(digits->count * DIGITS_PIXELS) * sizeof(float)),
                  "fbn_upload") != 0)
        goto out;
    for (int i = -WARM_UPS; i < TIMINGS; i++) {
        const double before = seconds_now();
        if (server_run(&server) != 0)
            goto out;
        if (i >= 0)
            taken[i] = seconds_now() - before;
    }
    qsort(taken, TIMINGS, sizeof *taken, compare_doubles);
    *seconds = taken[TIMINGS / 2];
    result = 0;
out:
    server_destroy(&server);
    return result;
}
