/* SPDX-License-Identifier: BSD-3-Clause
 * The library's layer on the device's data.
 */
#include "bench_cuda.h"

#include <string.h>

static int check(fbn_status status, const char *call)
{
    if (status == FBN_OK)
        return 0;
    fprintf(stderr, "bench: %s: %s: %s\n", call, fbn_status_string(status), fbn_last_error());
    return -1;
}

/* What forward saves for backward is written and read in the same run: one buffer does. */
static int create_saved(struct gpu_layer *l)
{
    struct layer_runner *r = &l->runner;
    size_t bytes;
    if (check(fbn_layer_saved_size(r->layer, r->bench_case->batch, &bytes),
              "fbn_layer_saved_size") != 0)
        return -1;
    l->saved = gpu_allocate(bytes);
    r->forward.saved = l->saved;
    r->forward.saved_size = bytes;
    r->backward.saved = l->saved;
    r->backward.saved_size = bytes;
    return l->saved != NULL ? 0 : -1;
}

/* A prepared layer for each set: its weights come from memory like all the others'. */
static int create_prepared(struct gpu_layer *l)
{
    struct layer_runner *r = &l->runner;
    size_t bytes;
    for (int set = 0; set < l->data->sets; set++) {
        layer_runner_point(r, l->data->set[set]);
        if (check(fbn_prepare_infer(&l->prepared[set], r->layer, &r->params),
                  "fbn_prepare_infer") != 0)
            return -1;
    }
    if (check(fbn_prepared_workspace_size(l->prepared[0], r->bench_case->batch, &bytes),
              "fbn_prepared_workspace_size") != 0)
        return -1;
    l->workspace = gpu_allocate(bytes);
    r->run.workspace = l->workspace;
    r->run.workspace_size = bytes;
    return bytes == 0 || l->workspace != NULL ? 0 : -1;
}

int gpu_layer_create(struct gpu_layer *l, struct gpu *g, struct gpu_data *data, const char *kernel,
                     const char **refusal)
{
    const fbn_math math = data->precision == P_TF32 ? FBN_MATH_TF32 : FBN_MATH_FP32;
    memset(l, 0, sizeof *l);
    l->data = data;
    if (layer_runner_open(&l->runner, g->context, data->bench_case,
                          precision_dtype(data->precision), math, kernel, refusal) != 0)
        return -1;
    layer_runner_point(&l->runner, data->set[0]);
    switch (data->bench_case->operation) {
    case OP_TRAIN_BACKWARD:
        return create_saved(l);
    case OP_PREPARED:
        return create_prepared(l);
    default:
        return 0;
    }
}

void gpu_layer_destroy(struct gpu_layer *l)
{
    for (int set = 0; set < MOST_SETS; set++)
        fbn_prepared_destroy(l->prepared[set]);
    layer_runner_destroy(&l->runner);
    (void)cudaFree(l->workspace);
    (void)cudaFree(l->saved);
    memset(l, 0, sizeof *l);
}

int gpu_layer_queue(void *state, int set)
{
    struct gpu_layer *l = state;
    layer_runner_point(&l->runner, l->data->set[set]);
    l->runner.prepared = l->prepared[set];
    const int result = layer_runner_queue(&l->runner);
    l->runner.prepared = NULL; /* the runner would destroy it */
    return result;
}
