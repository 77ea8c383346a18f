/* SPDX-License-Identifier: BSD-3-Clause
 * The benchmark on CUDA: which cases, verified and timed, and the table that is printed.
 */
#include "bench_cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* KernelBench level 2, problems 33, 39 and 84, and the shapes beside them. */
/* clang-format off */
static const struct bench_case cuda_cases[] = {
    {.name = "train-16384x4096x4096",    .batch = 16384, .in = 4096, .out = 4096, .operation = OP_TRAIN, .usual = true},
    {.name = "train-1024x8192x8192",     .batch = 1024,  .in = 8192, .out = 8192, .operation = OP_TRAIN, .usual = true},
    {.name = "train-128x1024x512",       .batch = 128,   .in = 1024, .out = 512,  .operation = OP_TRAIN, .usual = true},
    {.name = "train-65536x512x512",      .batch = 65536, .in = 512,  .out = 512,  .operation = OP_TRAIN, .usual = true},
    {.name = "softmax-16384x4096x4096",  .batch = 16384, .in = 4096, .out = 4096, .operation = OP_TRAIN, .chain = CHAIN_BN_SCALE_SOFTMAX, .usual = true},
    {.name = "softmax-1024x8192x8192",   .batch = 1024,  .in = 8192, .out = 8192, .operation = OP_TRAIN, .chain = CHAIN_BN_SCALE_SOFTMAX, .usual = true},
    {.name = "softmax-128x1024x512",     .batch = 128,   .in = 1024, .out = 512,  .operation = OP_TRAIN, .chain = CHAIN_BN_SCALE_SOFTMAX, .usual = true},
    {.name = "infer-16384x4096x4096",    .batch = 16384, .in = 4096, .out = 4096, .operation = OP_INFER, .usual = true},
    {.name = "infer-1024x8192x8192",     .batch = 1024,  .in = 8192, .out = 8192, .operation = OP_INFER, .usual = true},
    {.name = "infer-128x1024x512",       .batch = 128,   .in = 1024, .out = 512,  .operation = OP_INFER, .usual = true},
    {.name = "prepared-16384x4096x4096", .batch = 16384, .in = 4096, .out = 4096, .operation = OP_PREPARED, .usual = true},
    {.name = "prepared-1024x8192x8192",  .batch = 1024,  .in = 8192, .out = 8192, .operation = OP_PREPARED, .usual = true},
    {.name = "prepared-128x1024x512",    .batch = 128,   .in = 1024, .out = 512,  .operation = OP_PREPARED, .usual = true},
    {.name = "backward-16384x4096x4096", .batch = 16384, .in = 4096, .out = 4096, .operation = OP_TRAIN_BACKWARD, .usual = true},
    {.name = "backward-1024x8192x8192",  .batch = 1024,  .in = 8192, .out = 8192, .operation = OP_TRAIN_BACKWARD, .usual = true},
    {.name = "backward-128x1024x512",    .batch = 128,   .in = 1024, .out = 512,  .operation = OP_TRAIN_BACKWARD, .usual = true},
    {.name = "backward-65536x512x512",   .batch = 65536, .in = 512,  .out = 512,  .operation = OP_TRAIN_BACKWARD, .usual = true},
    {.name = "softmax-65536x512x512",    .batch = 65536, .in = 512,  .out = 512,  .operation = OP_TRAIN, .chain = CHAIN_BN_SCALE_SOFTMAX},
    {.name = "softmax-backward-1024x8192x8192", .batch = 1024, .in = 8192, .out = 8192, .operation = OP_TRAIN_BACKWARD, .chain = CHAIN_BN_SCALE_SOFTMAX},
    {.name = "softmax-backward-128x1024x512", .batch = 128, .in = 1024, .out = 512, .operation = OP_TRAIN_BACKWARD, .chain = CHAIN_BN_SCALE_SOFTMAX},
    {.name = "infer-65536x512x512",      .batch = 65536, .in = 512,  .out = 512,  .operation = OP_INFER},
    {.name = "prepared-1x4096x4096",     .batch = 1,     .in = 4096, .out = 4096, .operation = OP_PREPARED},
    {.name = "prepared-37x20x12",        .batch = 37,    .in = 20,   .out = 12,   .operation = OP_PREPARED},
    {.name = "train-37x20x12",           .batch = 37,    .in = 20,   .out = 12,   .operation = OP_TRAIN},
};
/* clang-format on */

enum { CASES = sizeof cuda_cases / sizeof *cuda_cases, EXIT_USAGE = 2 };
enum { LAYER_AT, PRODUCT_AT, UNFUSED_AT, ALL };

struct outcome {
    const struct bench_case *bench_case;
    enum precision precision;
    char description[256];
    struct gpu_verdict verdict;
    struct gpu_timing timings[ALL];
};

/* ---------------------------------------------------------------------------------- one contest */

/* 0; 1 when the layer is refused (said on stderr) or wrong; -1. */
static int run_contest_on(struct outcome *o, struct gpu *g, const struct cuda_options *options,
                          bool sampled)
{
    struct gpu_data data = {0};
    struct gpu_layer layer = {0};
    struct gpu_unfused unfused = {0};
    const char *refusal;
    int result = -1;

    if (gpu_data_create(&data, g, o->bench_case, o->precision,
                        gpu_sets_for(g, o->bench_case, o->precision)) != 0)
        goto out;
    if (gpu_layer_create(&layer, g, &data, options->kernel, &refusal) != 0) {
        if (refusal != NULL) {
            fprintf(stderr, "bench: %s %s is left out: %s\n", o->bench_case->name,
                    precision_name(o->precision), refusal);
            result = 1;
        }
        goto out;
    }
    snprintf(o->description, sizeof o->description, "%s", fbn_layer_describe(layer.runner.layer));
    if (gpu_unfused_create(&unfused, g, &data) != 0)
        goto out;
    result = gpu_verify(&o->verdict, g, &layer, &unfused, sampled);
    if (result != 0)
        goto out;
    if (!o->verdict.good) {
        result = 1;
        goto out;
    }
    const struct gpu_contestant contestants[ALL] = {
        [LAYER_AT] = {"layer", gpu_layer_queue, &layer},
        [PRODUCT_AT] = {"product", gpu_products_queue, &unfused},
        [UNFUSED_AT] = {"unfused", gpu_unfused_queue, &unfused},
    };
    result = gpu_time(g, contestants, ALL, data.sets, options->rounds, o->timings);
out:
    (void)cudaStreamSynchronize(g->stream);
    gpu_unfused_destroy(&unfused);
    gpu_layer_destroy(&layer);
    gpu_data_destroy(&data);
    return result;
}

/* --------------------------------------------------------------------------------------- report */

static void print_machine(const struct gpu *g, const struct cuda_options *options)
{
    printf("device     %s, %d multiprocessors, %d MB of L2; driver for CUDA %d.%d, runtime %d.%d, "
           "cuBLAS %d.%d.%d\n",
           g->name, g->processors, g->cache >> 20, g->driver / 1000, g->driver / 10 % 100,
           g->runtime / 1000, g->runtime / 10 % 100, g->blas_version / 10000,
           g->blas_version / 100 % 100, g->blas_version % 100);
    printf("library    libfusedbn %s%s%s; %s\n", fbn_version(), options->commit ? ", commit " : "",
           options->commit ? options->commit : "", fbn_context_describe(g->context));
    printf("ceilings   copy %.2f TB/s read and written; products of 8192^3:", 1e-12 * g->copy_rate);
    for (int p = 0; p < P_F64; p++)
        if (g->product_rate[p] > 0)
            printf(" %s %.0f", precision_name((enum precision)p), 1e-12 * g->product_rate[p]);
    puts(" TFLOP/s");
}

static void print_header(void)
{
    puts(
        "\n"
        "Medians in us of runs in turns, from memory (the sets of inputs are 4 times the L2 "
        "cache).\n"
        "layer, product, unfused: replays of a CUDA graph, with the layer's quartiles; stream: "
        "the\n"
        "layer called on a stream. product: cuBLAS alone, in the same math, written in the data's\n"
        "type; unfused: that, then each step as a kernel. passes: the layer's time over the\n"
        "product's, in units of reading u once and writing y once at the copy's rate. f16, mem: "
        "the\n"
        "layer's fractions of the two ceilings, its operations at the f16 product's rate and its\n"
        "matrices moved once at the copy's. err: the layer's error as a part of that allowed; y "
        "off:\n"
        "|| y - exact || / || exact ||.\n");
    printf("%-25s %-4s %9s %19s %9s %9s %6s %9s %6s %6s %5s %5s %5s %8s  %s\n", "case", "data",
           "layer", "quartiles", "stream", "product", "layer/", "unfused", "layer/", "passes",
           "f16", "mem", "err", "y off", "rows");
}

static double microseconds(double seconds)
{
    return 1e6 * seconds;
}

static void print_outcome(const struct outcome *o, const struct gpu *g)
{
    const struct bench_case *c = o->bench_case;
    const fbn_dtype dtype = precision_dtype(o->precision);
    const struct timing *layer = &o->timings[LAYER_AT].graph;
    const double product = o->timings[PRODUCT_AT].graph.median;
    const double unfused = o->timings[UNFUSED_AT].graph.median;
    const double once = (double)c->batch * (double)c->out *
                        (double)(dtype_size(param_type_of(dtype)) + dtype_size(dtype)) /
                        g->copy_rate;
    char quartiles[32], passes[16] = "-";

    snprintf(quartiles, sizeof quartiles, "%.1f-%.1f", microseconds(layer->quartile1),
             microseconds(layer->quartile3));
    if (c->operation != OP_TRAIN_BACKWARD)
        snprintf(passes, sizeof passes, "%.2f", (layer->median - product) / once);
    printf("%-25s %-4s %9.1f %19s %9.1f %9.1f %6.3f %9.1f %6.3f %6s %5.3f %5.3f %5.2f %8.1e  %s\n",
           c->name, precision_name(o->precision), microseconds(layer->median), quartiles,
           microseconds(o->timings[LAYER_AT].stream.median), microseconds(product),
           layer->median / product, microseconds(unfused), layer->median / unfused, passes,
           case_flops(c) / g->product_rate[P_F16] / layer->median,
           case_bytes(c, dtype) / g->copy_rate / layer->median, o->verdict.used,
           o->verdict.relative, o->description);
    fflush(stdout);
}

/* ---------------------------------------------------------------------------------------- runs */

static bool parse_precisions(const char *text, bool *wanted)
{
    for (int p = 0; p < PRECISIONS; p++)
        wanted[p] = text == NULL && p != P_F64;
    while (text != NULL && *text != '\0') {
        const size_t length = strcspn(text, ",");
        int p = 0;
        while (p < PRECISIONS && (strlen(precision_name((enum precision)p)) != length ||
                                  strncmp(text, precision_name((enum precision)p), length) != 0))
            p++;
        if (p == PRECISIONS) {
            fprintf(stderr, "bench: --dtype %s: expected f32, tf32, bf16, f16, f64\n", text);
            return false;
        }
        wanted[p] = true;
        text += length + (text[length] == ',');
    }
    return true;
}

void list_cuda_cases(void)
{
    for (int i = 0; i < CASES; i++)
        printf("%c %-31s %s, %s\n", cuda_cases[i].usual ? '*' : ' ', cuda_cases[i].name,
               chain_name(cuda_cases[i].chain), operation_name(cuda_cases[i].operation));
}

static int run_cases(struct gpu *g, const struct cuda_options *o, const bool *wanted)
{
    int result = EXIT_SUCCESS, chosen = 0;

    print_header();
    for (int i = 0; i < CASES; i++) {
        if (!case_is_chosen(&cuda_cases[i], o->cases))
            continue;
        chosen++;
        for (int p = 0; p < PRECISIONS; p++) {
            struct outcome outcome = {.bench_case = &cuda_cases[i], .precision = (enum precision)p};
            if (!wanted[p])
                continue;
            const int status = run_contest_on(&outcome, g, o, true);
            if (status < 0)
                return EXIT_FAILURE;
            if (status == 0)
                print_outcome(&outcome, g);
            else
                result = EXIT_FAILURE;
        }
    }
    if (chosen > 0)
        return result;
    fprintf(stderr, "bench: --case %s: no such case; --list lists them\n", o->cases);
    return EXIT_USAGE;
}

/* The next batch of a sweep: steps of about a fifth, and the neighbours of powers of two, at which
 * kernels change. */
static int64_t next_batch(int64_t batch)
{
    const int64_t step = batch + batch / 5 + 1;
    int64_t power = 1;
    while (power <= batch)
        power *= 2;
    if (batch == power / 2)
        return batch + 1;
    return step < power ? step : power;
}

/* The times of one case's layer over batches. "jump": over the batch before, with what the larger
 * batch explains taken out: 1 where the time grows with the batch, below where it does not grow. */
static int sweep(struct gpu *g, const struct cuda_options *o, const struct bench_case *model,
                 enum precision precision)
{
    double before = 0, batch_before = 0, worst = 0;
    printf("\n%s %s over batches\n%8s %10s %10s %7s %7s  %s\n", model->name,
           precision_name(precision), "batch", "layer", "product", "layer/", "jump", "rows");
    for (int64_t batch = o->sweep_first; batch <= o->sweep_last; batch = next_batch(batch)) {
        struct bench_case c = *model;
        struct outcome outcome = {.bench_case = &c, .precision = precision};
        c.batch = batch;
        if (batch < 2 && case_trains(&c))
            continue;
        const int status = run_contest_on(&outcome, g, o, false);
        if (status != 0)
            return -1;
        const double time = outcome.timings[LAYER_AT].graph.median;
        const double product = outcome.timings[PRODUCT_AT].graph.median;
        const double jump = before > 0 ? time / before * (batch_before / (double)batch) : 0;
        worst = fmax(worst, jump);
        printf("%8lld %10.1f %10.1f %7.3f %7.3f  %s\n", (long long)batch, microseconds(time),
               microseconds(product), time / product, jump, outcome.description);
        fflush(stdout);
        before = time;
        batch_before = (double)batch;
    }
    printf("largest jump %.3f\n", worst);
    return 0;
}

static int run_sweeps(struct gpu *g, const struct cuda_options *o, const bool *wanted)
{
    for (int i = 0; i < CASES; i++)
        for (int p = 0; p < PRECISIONS; p++)
            if (case_is_chosen(&cuda_cases[i], o->cases) && wanted[p] &&
                sweep(g, o, &cuda_cases[i], (enum precision)p) != 0)
                return EXIT_FAILURE;
    return EXIT_SUCCESS;
}

int run_cuda(const struct cuda_options *options, fbn_context *context)
{
    bool wanted[PRECISIONS], measured[PRECISIONS];
    struct gpu g;
    int result = EXIT_FAILURE;

    if (!parse_precisions(options->dtypes, wanted))
        return EXIT_USAGE;
    memcpy(measured, wanted, sizeof measured);
    measured[P_F16] = true; /* the ceiling of all */
    if (gpu_open(&g, context) != 0)
        goto out;
    if (gpu_measure_ceilings(&g, measured) != 0)
        goto out;
    print_machine(&g, options);
    if (options->accuracy)
        result = run_accuracy(&g, options, wanted);
    else if (options->sweep_last > 0)
        result = run_sweeps(&g, options, wanted);
    else
        result = run_cases(&g, options, wanted);
out:
    gpu_close(&g);
    return result;
}
