/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The shortest whole program: one Linear -> scale -> BatchNorm1d -> ReLU layer, a training step
 * forward and backward, then the same layer prepared for serving. Runs on whatever backend the
 * machine has, since all data is in memory that the library gave.
 *
 *     cc first.c $(pkg-config --cflags --libs fusedbn) -o first
 */
#include <fusedbn.h>

#include <stdio.h>
#include <stdlib.h>

enum { N = 32, I = 64, O = 10 };

static void check(fbn_status status)
{
    if (status != FBN_OK) {
        fprintf(stderr, "first: %s: %s\n", fbn_status_string(status), fbn_last_error());
        exit(EXIT_FAILURE);
    }
}

static void *given[16]; /* memory of the context's backend, to go back at the end */
static int given_count;

static void *memory(fbn_context *context, size_t bytes)
{
    void **slot = &given[given_count++];
    check(fbn_alloc(context, bytes, slot));
    return *slot;
}

/* Memory filled with a pattern of values from `low` to `high`. */
static float *values(fbn_context *context, size_t count, float low, float high)
{
    float *device = memory(context, count * sizeof(float));
    float *host = malloc(count * sizeof(float));
    if (!host)
        exit(EXIT_FAILURE);
    for (size_t i = 0; i < count; i++)
        host[i] = low + (high - low) * (float)(i * 7919 % 1009) / 1008;
    check(fbn_upload(context, device, host, count * sizeof(float)));
    free(host);
    return device;
}

int main(void)
{
    fbn_context *context;
    check(fbn_context_create(&context, NULL));
    printf("%s\n", fbn_context_describe(context));

    fbn_layer_desc desc;
    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = I;
    desc.out_features = O;
    desc.max_batch = N;
    desc.pre_scale = FBN_SCALE_FEATURE;
    desc.activation = FBN_ACT_RELU;
    fbn_layer *layer;
    check(fbn_layer_create(&layer, context, &desc));

    fbn_params params;
    fbn_params_init(&params, sizeof params);
    params.weight = values(context, O * I, -0.2f, 0.2f);
    params.bias = values(context, O, 0, 0.1f);
    params.pre_scale = values(context, O, 0.5f, 2);
    params.running_mean = values(context, O, 0, 0);
    params.running_var = values(context, O, 1, 1);

    fbn_forward_args forward;
    fbn_forward_args_init(&forward, sizeof forward);
    forward.batch = N;
    forward.x = values(context, N * I, -1, 1);
    forward.y = values(context, N * O, 0, 0);
    check(fbn_layer_saved_size(layer, N, &forward.saved_size));
    forward.saved = memory(context, forward.saved_size);
    check(fbn_forward_train(layer, &params, &forward));

    fbn_backward_args backward;
    fbn_backward_args_init(&backward, sizeof backward);
    backward.batch = N;
    backward.x = forward.x;
    backward.dy = values(context, N * O, -1, 1);
    backward.saved = forward.saved;
    backward.saved_size = forward.saved_size;
    fbn_grads grads;
    fbn_grads_init(&grads, sizeof grads);
    grads.weight = values(context, O * I, 0, 0);
    grads.pre_scale = values(context, O, 0, 0);
    check(fbn_backward(layer, &params, &backward, &grads));

    fbn_prepared *prepared; /* folded once; any number of threads may run it */
    check(fbn_prepare_infer(&prepared, layer, &params));
    fbn_run_args run;
    fbn_run_args_init(&run, sizeof run);
    run.batch = 1;
    run.x = forward.x;
    run.y = forward.y;
    check(fbn_prepared_workspace_size(prepared, run.batch, &run.workspace_size));
    run.workspace = memory(context, run.workspace_size);
    check(fbn_prepared_run(prepared, &run));

    float y[O];
    check(fbn_download(context, y, run.y, sizeof y));
    for (int o = 0; o < O; o++)
        printf("%.4f%s", (double)y[o], o < O - 1 ? " " : "\n");

    fbn_prepared_destroy(prepared);
    fbn_layer_destroy(layer);
    while (given_count > 0)
        check(fbn_free(context, given[--given_count]));
    fbn_context_destroy(context);
    return 0;
}
