/* SPDX-License-Identifier: BSD-3-Clause
 *
 * "make installcheck": a C99 program as a user writes it, that knows the installed header alone.
 * It trains and serves one small Linear -> BatchNorm -> scale -> softmax layer and compares with
 * the formula of fusedbn.h written out in double.
 */
#include <fusedbn.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 6, IN = 5, OUT = 3 };

static const double EPS = 1e-5, MOMENTUM = 0.1;

/* Float values, so that the formula in double starts from the same numbers as the library. */
typedef struct model {
    float x[BATCH * IN], weight[OUT * IN], bias[OUT], scale[1], gamma[OUT], beta[OUT];
    float running_mean[OUT], running_var[OUT];
    int64_t batches;
} model;

static void stop_on(fbn_status status, const char *what)
{
    if (status != FBN_OK) {
        fprintf(stderr, "installcheck: %s: %s: %s\n", what, fbn_status_string(status),
                fbn_last_error());
        exit(EXIT_FAILURE);
    }
}

static void expect(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "installcheck: failed: %s\n", what);
        exit(EXIT_FAILURE);
    }
}

static void fill(float *values, int count, double step, double centre)
{
    for (int i = 0; i < count; i++) {
        values[i] = (float)(centre + sin(step * (i + 1)));
    }
}

static model make_model(void)
{
    model m;

    fill(m.x, BATCH * IN, 1.7, 0.25);
    fill(m.weight, OUT * IN, 0.9, 0);
    fill(m.bias, OUT, 2.3, 0.5);
    fill(m.gamma, OUT, 0.7, 1.5);
    fill(m.beta, OUT, 1.1, 0);
    fill(m.running_mean, OUT, 3.1, 0);
    fill(m.running_var, OUT, 0.4, 2);
    m.scale[0] = 1.25f;
    m.batches = 41;
    return m;
}

/* The layer by its formula. training: with the batch's statistics, which move m's running ones;
 * else with the running ones. */
static void reference(model *m, int training, double y[BATCH * OUT])
{
    for (int o = 0; o < OUT; o++) {
        double mean = 0, var = 0;
        for (int n = 0; n < BATCH; n++) {
            double z = m->bias[o];
            for (int i = 0; i < IN; i++) {
                z += (double)m->x[n * IN + i] * m->weight[o * IN + i];
            }
            y[n * OUT + o] = z;
            mean += z / BATCH;
        }
        for (int n = 0; n < BATCH; n++) {
            var += (y[n * OUT + o] - mean) * (y[n * OUT + o] - mean) / BATCH;
        }
        if (training) {
            m->running_mean[o] = (float)((1 - MOMENTUM) * m->running_mean[o] + MOMENTUM * mean);
            m->running_var[o] =
                (float)((1 - MOMENTUM) * m->running_var[o] + MOMENTUM * var * BATCH / (BATCH - 1));
        } else {
            mean = m->running_mean[o];
            var = m->running_var[o];
        }
        for (int n = 0; n < BATCH; n++) {
            double zhat = (y[n * OUT + o] - mean) / sqrt(var + EPS);
            y[n * OUT + o] = m->scale[0] * (m->gamma[o] * zhat + m->beta[o]);
        }
    }
    m->batches += training;
    for (int n = 0; n < BATCH; n++) {
        double sum = 0;
        for (int o = 0; o < OUT; o++) {
            y[n * OUT + o] = exp(y[n * OUT + o]);
            sum += y[n * OUT + o];
        }
        for (int o = 0; o < OUT; o++) {
            y[n * OUT + o] /= sum;
        }
    }
}

/* y's values are at most 1, those on the way to it at most 4: IN + 3 roundings to float there. */
static void expect_close(const float *got, const double *wanted, int count, const char *what)
{
    const double tolerance = (IN + 3) * 4 * (FLT_EPSILON / 2);

    for (int i = 0; i < count; i++) {
        if (!(fabs(got[i] - wanted[i]) <= tolerance)) {
            fprintf(stderr, "installcheck: %s: element %d is %.9g, expected %.9g\n", what, i,
                    (double)got[i], wanted[i]);
            exit(EXIT_FAILURE);
        }
    }
}

static void expect_same_statistics(const model *got, const model *wanted)
{
    for (int o = 0; o < OUT; o++) {
        const double mean = wanted->running_mean[o], var = wanted->running_var[o];
        expect_close(&got->running_mean[o], &mean, 1, "running_mean");
        expect_close(&got->running_var[o], &var, 1, "running_var");
    }
    expect(got->batches == wanted->batches, "num_batches_tracked");
}

/* "installcheck cuda": what the library says of the CUDA backend. */
static int say_cuda(void)
{
    const fbn_status status = fbn_backend_available(FBN_BACKEND_CUDA);

    puts(status == FBN_OK ? "available" : fbn_last_error());
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    model m = make_model(), wanted = make_model();
    double y_wanted[BATCH * OUT];
    float y[BATCH * OUT];
    fbn_context *context = NULL;
    fbn_context_options options;
    fbn_layer *layer = NULL;
    fbn_layer_desc desc;
    fbn_params params;
    fbn_forward_args args;
    fbn_prepared *prepared = NULL;
    fbn_run_args run;
    char version[32];

    if (argc == 2 && strcmp(argv[1], "cuda") == 0) {
        return say_cuda();
    }
    snprintf(version, sizeof version, "%d.%d.%d", FBN_VERSION_MAJOR, FBN_VERSION_MINOR,
             FBN_VERSION_PATCH);
    expect(strcmp(version, fbn_version()) == 0, "the header's version is the library's");

    fbn_context_options_init(&options, sizeof options);
    options.backend = FBN_BACKEND_CPU;
    stop_on(fbn_context_create(&context, &options), "fbn_context_create");
    expect(fbn_context_backend(context) == FBN_BACKEND_CPU, "the context is the CPU's");

    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = IN;
    desc.out_features = OUT;
    desc.max_batch = BATCH;
    desc.post_scale = FBN_SCALE_SCALAR;
    desc.activation = FBN_ACT_SOFTMAX;
    stop_on(fbn_layer_create(&layer, context, &desc), "fbn_layer_create");

    fbn_params_init(&params, sizeof params);
    params.weight = m.weight;
    params.bias = m.bias;
    params.post_scale = m.scale;
    params.gamma = m.gamma;
    params.beta = m.beta;
    params.running_mean = m.running_mean;
    params.running_var = m.running_var;
    params.num_batches_tracked = &m.batches;

    fbn_forward_args_init(&args, sizeof args);
    args.batch = BATCH;
    args.x = m.x;
    args.y = y;
    stop_on(fbn_forward_train(layer, &params, &args), "fbn_forward_train");
    reference(&wanted, 1, y_wanted);
    expect_close(y, y_wanted, BATCH * OUT, "training");
    expect_same_statistics(&m, &wanted);

    memset(y, 0, sizeof y);
    stop_on(fbn_forward_infer(layer, &params, &args), "fbn_forward_infer");
    reference(&wanted, 0, y_wanted);
    expect_close(y, y_wanted, BATCH * OUT, "inference");
    expect_same_statistics(&m, &wanted);

    stop_on(fbn_prepare_infer(&prepared, layer, &params), "fbn_prepare_infer");
    fbn_run_args_init(&run, sizeof run);
    run.batch = BATCH;
    run.x = m.x;
    run.y = y;
    stop_on(fbn_prepared_workspace_size(prepared, BATCH, &run.workspace_size), "workspace size");
    stop_on(fbn_alloc(context, run.workspace_size, &run.workspace), "fbn_alloc");
    memset(y, 0, sizeof y);
    stop_on(fbn_prepared_run(prepared, &run), "fbn_prepared_run");
    expect_close(y, y_wanted, BATCH * OUT, "prepared inference");

    args.ldx = IN - 1;
    expect(fbn_forward_infer(layer, &params, &args) == FBN_ERR_LEADING_DIMENSION,
           "a short leading dimension is refused");
    expect(strstr(fbn_last_error(), "ldx") != NULL, "the message names ldx");

    stop_on(fbn_free(context, run.workspace), "fbn_free");
    fbn_prepared_destroy(prepared);
    fbn_layer_destroy(layer);
    fbn_context_destroy(context);
    printf("fusedbn %s: training, inference and prepared inference agree with the formula\n",
           fbn_version());
    return EXIT_SUCCESS;
}
