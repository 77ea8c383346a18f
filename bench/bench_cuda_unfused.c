/* SPDX-License-Identifier: BSD-3-Clause
 * The unfused computation on CUDA: cuBLAS for the products and a kernel for each step, with every
 * intermediate matrix in the data's own type, as a framework runs it. And the products alone.
 *
 * In double it is the reference that the results are compared with.
 */
#include "bench_cuda.h"

#include <string.h>

static int64_t elements(const struct gpu_unfused *u)
{
    return u->data->bench_case->batch * u->data->bench_case->out;
}

static fbn_dtype dtype_of(const struct gpu_unfused *u)
{
    return precision_dtype(u->data->precision);
}

static bool is_softmax(const struct gpu_unfused *u)
{
    return u->data->bench_case->chain == CHAIN_BN_SCALE_SOFTMAX;
}

int gpu_unfused_create(struct gpu_unfused *u, struct gpu *g, struct gpu_data *data)
{
    const fbn_dtype dtype = precision_dtype(data->precision);
    const int64_t out = data->bench_case->out;
    memset(u, 0, sizeof *u);
    u->gpu = g;
    u->data = data;
    void **const matrices[] = {&u->u, &u->z, &u->v, &u->g, &u->du};
    const int count = data->bench_case->operation == OP_TRAIN_BACKWARD ? 5 : 3;
    for (int i = 0; i < count; i++) {
        *matrices[i] = gpu_allocate((size_t)elements(u) * dtype_size(dtype));
        if (*matrices[i] == NULL)
            return -1;
    }
    const size_t real = dtype_size(param_type_of(dtype));
    void **const vectors[] = {&u->mean, &u->rstd, &u->sums, &u->more};
    for (int i = 0; i < 4; i++) {
        *vectors[i] = gpu_allocate((size_t)out * real);
        if (*vectors[i] == NULL)
            return -1;
    }
    u->partials = gpu_allocate((size_t)gpu_partials(out) * real);
    return u->partials != NULL ? 0 : -1;
}

void gpu_unfused_destroy(struct gpu_unfused *u)
{
    void *const all[] = {u->u,    u->z,    u->v,    u->g,    u->du,
                         u->mean, u->rstd, u->sums, u->more, u->partials};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        (void)cudaFree(all[i]);
    memset(u, 0, sizeof *u);
}

/* ------------------------------------------------------------------------------------ products */

static int product(const struct gpu_unfused *u, int64_t m, int64_t n, int64_t depth, const void *a,
                   bool a_transposed, const void *b, bool b_transposed, void *c)
{
    const struct gpu_product p = {m, n, depth, a, b, a_transposed, b_transposed, c, dtype_of(u)};
    return gpu_multiply_matrices(u->gpu, u->data->precision, &p);
}

static int forward_product(const struct gpu_unfused *u, void *const *data, void *to)
{
    const struct bench_case *c = u->data->bench_case;
    return product(u, c->batch, c->out, c->in, data[T_X], false, data[T_W], true, to);
}

static int gradient_products(const struct gpu_unfused *u, void *const *data, const void *du)
{
    const struct bench_case *c = u->data->bench_case;
    const int status = product(u, c->batch, c->in, c->out, du, false, data[T_W], false, data[T_DX]);
    return status != 0
               ? status
               : product(u, c->out, c->in, c->batch, du, true, data[T_X], false, data[T_DW]);
}

/* dy stands for du, which has the same shape and type. */
int gpu_products_queue(void *state, int set)
{
    struct gpu_unfused *u = state;
    void *const *data = u->data->set[set];
    const int status = forward_product(u, data, data[T_Y]);
    return status != 0 || u->data->bench_case->operation != OP_TRAIN_BACKWARD
               ? status
               : gradient_products(u, data, data[T_DY]);
}

/* --------------------------------------------------------------------------------------- steps */

static cudaError_t column_sums(const struct gpu_unfused *u, enum gpu_sum sum, const void *a,
                               const void *b, void *first, void *second)
{
    const struct bench_case *c = u->data->bench_case;
    const struct gpu_sums sums = {.sum = sum,
                                  .rows = c->batch,
                                  .columns = c->out,
                                  .a = a,
                                  .b = b,
                                  .mean = u->mean,
                                  .rstd = u->rstd,
                                  .partials = u->partials,
                                  .first = first,
                                  .second = second};
    return gpu_column_sums(u->gpu->stream, dtype_of(u), &sums);
}

/* u->mean and u->rstd. */
static cudaError_t statistics(const struct gpu_unfused *u, void *const *data)
{
    const struct bench_case *c = u->data->bench_case;
    const cudaStream_t stream = u->gpu->stream;
    const fbn_dtype dtype = dtype_of(u);
    const size_t bytes = (size_t)c->out * dtype_size(param_type_of(dtype));
    cudaError_t error;

    if (!case_trains(c)) {
        error = cudaMemcpyAsync(u->mean, data[T_MEAN], bytes, cudaMemcpyDeviceToDevice, stream);
        return error != cudaSuccess
                   ? error
                   : gpu_finish_var(stream, dtype, 1, c->out, data[T_VAR], u->rstd, NULL);
    }
    error = column_sums(u, GPU_SUM, u->z, NULL, u->mean, NULL);
    if (error == cudaSuccess)
        error = gpu_finish_mean(stream, dtype, c->batch, c->out, u->mean, data[T_MEAN]);
    if (error == cudaSuccess)
        error = column_sums(u, GPU_SQUARES, u->z, NULL, u->sums, NULL);
    if (error == cudaSuccess)
        error = gpu_finish_var(stream, dtype, c->batch, c->out, u->sums, u->rstd, data[T_VAR]);
    return error;
}

static cudaError_t forward_steps(const struct gpu_unfused *u, void *const *data)
{
    const struct bench_case *c = u->data->bench_case;
    const cudaStream_t stream = u->gpu->stream;
    const fbn_dtype dtype = dtype_of(u);
    const bool softmax = is_softmax(u);

    cudaError_t error = gpu_scale(stream, dtype, c->batch, c->out, u->u, data[T_BIAS],
                                  softmax ? NULL : data[T_SCALE], u->z);
    if (error == cudaSuccess)
        error = statistics(u, data);
    if (error == cudaSuccess)
        error = gpu_normalise(stream, dtype, c->batch, c->out, u->z, u->mean, u->rstd,
                              data[T_GAMMA], data[T_BETA], softmax ? u->v : data[T_Y]);
    if (error != cudaSuccess || !softmax)
        return error;
    error = gpu_multiply(stream, dtype, c->batch, c->out, u->v, data[T_SCALE], 0, u->u);
    return error != cudaSuccess ? error
                                : gpu_softmax(stream, dtype, c->batch, c->out, u->u, data[T_Y]);
}

/* The gradient by the normalised matrix in u->g, and the scale's behind it. */
static cudaError_t softmax_steps(const struct gpu_unfused *u, void *const *data)
{
    const struct bench_case *c = u->data->bench_case;
    const cudaStream_t stream = u->gpu->stream;
    const fbn_dtype dtype = dtype_of(u);
    cudaError_t error =
        gpu_softmax_backward(stream, dtype, c->batch, c->out, data[T_Y], data[T_DY], u->du);
    if (error == cudaSuccess)
        error = column_sums(u, GPU_DOT, u->du, u->v, u->sums, NULL);
    if (error == cudaSuccess)
        error = gpu_total(stream, dtype, c->out, u->sums, data[T_DSCALE]);
    return error != cudaSuccess
               ? error
               : gpu_multiply(stream, dtype, c->batch, c->out, u->du, data[T_SCALE], 0, u->g);
}

/* du in u->du, the parameters' gradients in the data. */
static cudaError_t backward_steps(const struct gpu_unfused *u, void *const *data)
{
    const struct bench_case *c = u->data->bench_case;
    const cudaStream_t stream = u->gpu->stream;
    const fbn_dtype dtype = dtype_of(u);
    const bool softmax = is_softmax(u);
    const void *g = softmax ? u->g : data[T_DY];

    cudaError_t error = softmax ? softmax_steps(u, data) : cudaSuccess;
    if (error == cudaSuccess)
        error = column_sums(u, GPU_GRADIENT, g, u->z, data[T_DBETA], data[T_DGAMMA]);
    const struct gpu_normalise_gradient gradient = {c->batch,
                                                    c->out,
                                                    g,
                                                    u->z,
                                                    u->mean,
                                                    u->rstd,
                                                    data[T_GAMMA],
                                                    data[T_DGAMMA],
                                                    data[T_DBETA],
                                                    softmax ? u->du : u->v};
    if (error == cudaSuccess)
        error = gpu_normalise_backward(stream, dtype, &gradient);
    if (error == cudaSuccess && !softmax) {
        /* the sum of dz (u + bias), of which the bias's part is 0: so is the sum of dz */
        error = column_sums(u, GPU_DOT, u->v, u->u, data[T_DSCALE], NULL);
        if (error == cudaSuccess)
            error = gpu_multiply(stream, dtype, c->batch, c->out, u->v, data[T_SCALE], 1, u->du);
    }
    return error != cudaSuccess ? error : column_sums(u, GPU_SUM, u->du, NULL, data[T_DBIAS], NULL);
}

int gpu_unfused_queue(void *state, int set)
{
    struct gpu_unfused *u = state;
    void *const *data = u->data->set[set];
    if (forward_product(u, data, u->u) != 0 || check_cuda(forward_steps(u, data), "forward") != 0)
        return -1;
    if (u->data->bench_case->operation != OP_TRAIN_BACKWARD)
        return 0;
    return check_cuda(backward_steps(u, data), "backward") != 0 ? -1
                                                                : gradient_products(u, data, u->du);
}
