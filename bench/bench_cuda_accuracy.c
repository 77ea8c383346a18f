/* SPDX-License-Identifier: BSD-3-Clause
 * How far u = x W^T is off, in the library and in cuBLAS, on data of several kinds:
 * || u - exact || / || exact ||, exact by cuBLAS in double.
 *
 * The library's u is had in two ways. In inference with mean 0, variance 1 and eps 0, y is u. In
 * training y is (u - mean) / sqrt(var), so that y sqrt(var) + mean, in double, is u but for y's own
 * rounding; the float mean's rounding is in it too where the mean is large.
 */
#include "bench_cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t batch, in, out;
} shapes[] = {{1024, 8192, 8192}, {16384, 4096, 4096}, {128, 1024, 512}};

/* clang-format off */
static const struct {
    const char *name;
    struct gpu_filling x, w;
} kinds[] = {
    {"normal", {.distribution = GPU_NORMAL, .width = 1}, {.distribution = GPU_NORMAL, .width = 1}},
    {"uniform [0,1)", {.distribution = GPU_UNIFORM, .middle = 0.5, .width = 0.5}, {.distribution = GPU_UNIFORM, .middle = 0.5, .width = 0.5}},
    {"positive", {.distribution = GPU_POSITIVE, .width = 1}, {.distribution = GPU_POSITIVE, .width = 1}},
    {"large mean", {.distribution = GPU_NORMAL, .middle = 100, .width = 1}, {.distribution = GPU_NORMAL, .width = 1}},
    {"entries 10^+-6", {.distribution = GPU_NORMAL, .width = 1, .entry_decades = 6}, {.distribution = GPU_NORMAL, .width = 1, .entry_decades = 6}},
    {"columns 10^+-3", {.distribution = GPU_NORMAL, .width = 1, .column_decades = 3}, {.distribution = GPU_NORMAL, .width = 1, .column_decades = -3}},
    {"columns 10^+-6", {.distribution = GPU_NORMAL, .width = 1, .column_decades = 6}, {.distribution = GPU_NORMAL, .width = 1, .column_decades = -6}},
};
/* clang-format on */

struct trial {
    struct gpu *gpu;
    int64_t batch, in, out;
    enum precision precision;
    void *x, *w, *y;                        /* in the precision's dtype */
    void *mean, *var, *ones;                /* reals */
    double *exact, *x_wide, *w_wide, *wide; /* wide: u from a training y */
    fbn_layer *layer;
};

static int check(fbn_status status, const char *call)
{
    if (status == FBN_OK)
        return 0;
    fprintf(stderr, "bench: %s: %s: %s\n", call, fbn_status_string(status), fbn_last_error());
    return -1;
}

static int allocate_trial(struct trial *t)
{
    const size_t size = dtype_size(precision_dtype(t->precision));
    const size_t n = (size_t)t->batch, i = (size_t)t->in, o = (size_t)t->out;
    t->x = gpu_allocate(n * i * size);
    t->w = gpu_allocate(o * i * size);
    t->y = gpu_allocate(n * o * size);
    t->mean = gpu_allocate(o * sizeof(double));
    t->var = gpu_allocate(o * sizeof(double));
    t->ones = gpu_allocate(o * sizeof(double));
    t->exact = gpu_allocate(n * o * sizeof(double));
    t->x_wide = gpu_allocate(n * i * sizeof(double));
    t->w_wide = gpu_allocate(o * i * sizeof(double));
    t->wide = gpu_allocate(n * o * sizeof(double));
    return t->x && t->w && t->y && t->mean && t->var && t->ones && t->exact && t->x_wide &&
                   t->w_wide && t->wide
               ? 0
               : -1;
}

static int create_layer(struct trial *t, const char *kernel)
{
    fbn_layer_desc desc;
    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = t->in;
    desc.out_features = t->out;
    desc.max_batch = t->batch;
    desc.dtype = precision_dtype(t->precision);
    desc.math = t->precision == P_TF32 ? FBN_MATH_TF32 : FBN_MATH_FP32;
    desc.eps = 0;
    desc.kernel = kernel;
    return check(fbn_layer_create(&t->layer, t->gpu->context, &desc), "fbn_layer_create");
}

static void destroy_trial(struct trial *t)
{
    void *const all[] = {t->x,    t->w,     t->y,      t->mean,   t->var,
                         t->ones, t->exact, t->x_wide, t->w_wide, t->wide};
    (void)cudaStreamSynchronize(t->gpu->stream);
    fbn_layer_destroy(t->layer);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        (void)cudaFree(all[i]);
}

static int fill(const struct trial *t, void *data, int64_t count, struct gpu_filling f,
                uint64_t seed)
{
    f.seed = seed;
    f.column_seed = 7; /* the same scales for x and for W */
    f.columns = t->in;
    return check_cuda(gpu_fill(t->gpu->stream, precision_dtype(t->precision), count, data, &f),
                      "fill");
}

static int make_inputs(struct trial *t, const struct gpu_filling *x, const struct gpu_filling *w)
{
    const cudaStream_t stream = t->gpu->stream;
    const fbn_dtype dtype = precision_dtype(t->precision);
    const struct gpu_product exact = {t->batch, t->out, t->in,    t->x_wide, t->w_wide,
                                      false,    true,   t->exact, FBN_F64};
    if (fill(t, t->x, t->batch * t->in, *x, 1) != 0 || fill(t, t->w, t->out * t->in, *w, 2) != 0 ||
        check_cuda(gpu_to_double(stream, dtype, t->batch * t->in, t->x, t->x_wide), "convert") ||
        check_cuda(gpu_to_double(stream, dtype, t->out * t->in, t->w, t->w_wide), "convert"))
        return -1;
    return gpu_multiply_matrices(t->gpu, P_F64, &exact);
}

static int error_of_y(const struct trial *t, double *relative)
{
    struct gpu_error e;
    const int status =
        gpu_error_of(&e, t->gpu, precision_dtype(t->precision), t->batch * t->out, t->y, t->exact);
    *relative = e.relative;
    return status;
}

/* NaN in what is about to be written. */
static int poison(const struct trial *t)
{
    const size_t bytes = (size_t)(t->batch * t->out) * dtype_size(precision_dtype(t->precision));
    return check_cuda(cudaMemsetAsync(t->y, 0xff, bytes, t->gpu->stream), "cudaMemsetAsync");
}

static int by_inference(const struct trial *t, double *relative)
{
    const struct gpu_filling zero = {.distribution = GPU_UNIFORM}, one = {.middle = 1};
    fbn_params params;
    fbn_forward_args args;
    fbn_params_init(&params, sizeof params);
    fbn_forward_args_init(&args, sizeof args);
    params.weight = t->w;
    params.running_mean = t->mean;
    params.running_var = t->var;
    args.batch = t->batch;
    args.x = t->x;
    args.y = t->y;
    if (check_cuda(gpu_fill(t->gpu->stream, FBN_F32, t->out, t->mean, &zero), "fill") != 0 ||
        check_cuda(gpu_fill(t->gpu->stream, FBN_F32, t->out, t->var, &one), "fill") != 0 ||
        poison(t) != 0 ||
        check(fbn_forward_infer(t->layer, &params, &args), "fbn_forward_infer") != 0)
        return -1;
    return error_of_y(t, relative);
}

/* t->var holds the variances: squares of 1 row for gpu_finish_var would add eps, so the host takes
 * the roots. */
static int unwind(const struct trial *t)
{
    const size_t out = (size_t)t->out;
    float *mean = malloc(out * sizeof *mean), *var = malloc(out * sizeof *var);
    double *both = malloc(2 * out * sizeof *both);
    int result = -1;

    if (mean == NULL || var == NULL || both == NULL ||
        check_cuda(cudaStreamSynchronize(t->gpu->stream), "training") != 0 ||
        check_cuda(cudaMemcpy(mean, t->mean, out * sizeof *mean, cudaMemcpyDeviceToHost), "copy") ||
        check_cuda(cudaMemcpy(var, t->var, out * sizeof *var, cudaMemcpyDeviceToHost), "copy"))
        goto out;
    for (size_t j = 0; j < out; j++) {
        both[j] = sqrt((double)var[j]);
        both[out + j] = (double)mean[j] / both[j];
    }
    if (check_cuda(cudaMemcpy(t->var, both, out * sizeof *both, cudaMemcpyHostToDevice), "copy") ||
        check_cuda(cudaMemcpy(t->mean, both + out, out * sizeof *both, cudaMemcpyHostToDevice),
                   "copy"))
        goto out;
    /* (y + mean / sd) sd */
    result = check_cuda(gpu_to_double(t->gpu->stream, precision_dtype(t->precision),
                                      t->batch * t->out, t->y, t->wide),
                        "convert");
    if (result == 0)
        result = check_cuda(
            gpu_scale(t->gpu->stream, FBN_F64, t->batch, t->out, t->wide, t->mean, t->var, t->wide),
            "scale");
    if (result == 0) /* the copies came from pageable memory that is about to go */
        result = check_cuda(cudaStreamSynchronize(t->gpu->stream), "scale");
out:
    free(both);
    free(var);
    free(mean);
    return result;
}

static int by_training(const struct trial *t, double *relative)
{
    struct gpu_error e;
    fbn_params params;
    fbn_forward_args args;
    fbn_params_init(&params, sizeof params);
    fbn_forward_args_init(&args, sizeof args);
    params.weight = t->w;
    args.batch = t->batch;
    args.x = t->x;
    args.y = t->y;
    args.batch_mean = t->mean;
    args.batch_var = t->var;
    if (poison(t) != 0 ||
        check(fbn_forward_train(t->layer, &params, &args), "fbn_forward_train") != 0 ||
        unwind(t) != 0 ||
        gpu_error_of(&e, t->gpu, FBN_F64, t->batch * t->out, t->wide, t->exact) != 0)
        return -1;
    *relative = e.relative;
    return 0;
}

static int by_cublas(const struct trial *t, enum precision precision, double *relative)
{
    const struct gpu_product p = {
        t->batch, t->out, t->in, t->x, t->w, false, true, t->y, precision_dtype(precision)};
    if (poison(t) != 0 || gpu_multiply_matrices(t->gpu, precision, &p) != 0)
        return -1;
    return error_of_y(t, relative);
}

static int run_trial(struct trial *t, const char *kernel)
{
    if (allocate_trial(t) != 0 || create_layer(t, kernel) != 0)
        return -1;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const bool is_float = precision_dtype(t->precision) == FBN_F32;
        double infer, train, plain, tf32 = NAN;
        if (make_inputs(t, &kinds[k].x, &kinds[k].w) != 0 || by_inference(t, &infer) != 0 ||
            by_training(t, &train) != 0 ||
            by_cublas(t, is_float ? P_F32 : t->precision, &plain) != 0 ||
            (is_float && by_cublas(t, P_TF32, &tf32) != 0))
            return -1;
        printf("%5lldx%lld->%-5lld %-4s %-15s %9.2e %9.2e %9.2e %9.2e\n", (long long)t->batch,
               (long long)t->in, (long long)t->out, precision_name(t->precision), kinds[k].name,
               infer, train, plain, tf32);
        fflush(stdout);
    }
    return 0;
}

int run_accuracy(struct gpu *g, const struct cuda_options *options, const bool *precisions)
{
    printf("\n|| u - exact || / || exact ||: the library's u in inference and from training, and\n"
           "cuBLAS's on the same data (f32: SGEMM; its TF32 product beside it).\n\n"
           "%-17s %-4s %-15s %9s %9s %9s %9s\n",
           "shape", "data", "kind", "infer", "train", "cuBLAS", "TF32");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int p = 0; p < P_F64; p++) {
            struct trial t = {.gpu = g,
                              .batch = shapes[s].batch,
                              .in = shapes[s].in,
                              .out = shapes[s].out,
                              .precision = (enum precision)p};
            if (!precisions[p])
                continue;
            const int status = run_trial(&t, options->kernel);
            destroy_trial(&t);
            if (status != 0)
                return EXIT_FAILURE;
        }
    }
    return EXIT_SUCCESS;
}
