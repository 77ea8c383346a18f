/* SPDX-License-Identifier: BSD-3-Clause
 * The device: streams, products through cuBLAS, and the two ceilings that times are compared with.
 */
#include "bench_cuda.h"

#include <math.h>
#include <string.h>

enum { COPY_BYTES = 1 << 30, SQUARE = 8192, CEILING_RUNS = 20 };

/* What cuBLAS takes itself on Hopper: its choices, and so its errors, depend on it. */
enum { BLAS_WORKSPACE = 32 << 20 };

static const struct {
    const char *name;
    fbn_dtype dtype;
    cudaDataType_t type;
    cublasComputeType_t compute;
} precisions[PRECISIONS] = {
    [P_F32] = {"f32", FBN_F32, CUDA_R_32F, CUBLAS_COMPUTE_32F},
    [P_TF32] = {"tf32", FBN_F32, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32},
    [P_BF16] = {"bf16", FBN_BF16, CUDA_R_16BF, CUBLAS_COMPUTE_32F},
    [P_F16] = {"f16", FBN_F16, CUDA_R_16F, CUBLAS_COMPUTE_32F},
    [P_F64] = {"f64", FBN_F64, CUDA_R_64F, CUBLAS_COMPUTE_64F},
};

const char *precision_name(enum precision precision)
{
    return precisions[precision].name;
}

fbn_dtype precision_dtype(enum precision precision)
{
    return precisions[precision].dtype;
}

int check_cuda(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return 0;
    fprintf(stderr, "bench: %s: %s\n", what, cudaGetErrorString(error));
    return -1;
}

int check_blas(cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    fprintf(stderr, "bench: %s: %s\n", what, cublasGetStatusString(status));
    return -1;
}

int gpu_open(struct gpu *g, fbn_context *context)
{
    struct cudaDeviceProp properties;
    memset(g, 0, sizeof *g);
    g->context = context;
    if (check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties") != 0 ||
        check_cuda(cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking),
                   "cudaStreamCreate") != 0 ||
        check_cuda(cudaEventCreate(&g->start), "cudaEventCreate") != 0 ||
        check_cuda(cudaEventCreate(&g->stop), "cudaEventCreate") != 0 ||
        check_cuda(cudaDriverGetVersion(&g->driver), "cudaDriverGetVersion") != 0 ||
        check_cuda(cudaRuntimeGetVersion(&g->runtime), "cudaRuntimeGetVersion") != 0 ||
        check_blas(cublasCreate(&g->blas), "cublasCreate") != 0 ||
        check_blas(cublasGetVersion(g->blas, &g->blas_version), "cublasGetVersion") != 0 ||
        check_blas(cublasSetStream(g->blas, g->stream), "cublasSetStream") != 0)
        return -1;
    snprintf(g->name, sizeof g->name, "%s", properties.name);
    g->processors = properties.multiProcessorCount;
    g->cache = properties.l2CacheSize;
    g->blas_workspace = gpu_allocate(BLAS_WORKSPACE);
    g->comparison = gpu_allocate(GPU_BLOCKS * 4 * sizeof(double));
    if (g->blas_workspace == NULL || g->comparison == NULL ||
        check_blas(cublasSetWorkspace(g->blas, g->blas_workspace, BLAS_WORKSPACE),
                   "cublasSetWorkspace") != 0)
        return -1;
    if (fbn_context_set_stream(context, g->stream) != FBN_OK) {
        fprintf(stderr, "bench: fbn_context_set_stream: %s\n", fbn_last_error());
        return -1;
    }
    return 0;
}

void gpu_close(struct gpu *g)
{
    (void)fbn_context_set_stream(g->context, NULL);
    if (g->blas != NULL)
        (void)cublasDestroy(g->blas);
    (void)cudaFree(g->comparison);
    (void)cudaFree(g->blas_workspace);
    if (g->stop != NULL)
        (void)cudaEventDestroy(g->stop);
    if (g->start != NULL)
        (void)cudaEventDestroy(g->start);
    if (g->stream != NULL)
        (void)cudaStreamDestroy(g->stream);
}

/* cuBLAS stores by columns: a row-major matrix is its transpose there, so C^T = B^T A^T. */
int gpu_multiply_matrices(struct gpu *g, enum precision precision, const struct gpu_product *p)
{
    static const double one_double = 1, zero_double = 0;
    static const float one_float = 1, zero_float = 0;
    const bool wide = precision == P_F64;
    const void *one = wide ? (const void *)&one_double : &one_float;
    const void *zero = wide ? (const void *)&zero_double : &zero_float;
    const cudaDataType_t type = precisions[precision].type;
    const int64_t lda = p->a_transposed ? p->m : p->depth;
    const int64_t ldb = p->b_transposed ? p->depth : p->n;
    return check_blas(cublasGemmEx_64(g->blas, p->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                                      p->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, p->n, p->m,
                                      p->depth, one, p->b, type, ldb, p->a, type, lda, zero, p->c,
                                      p->c_type == FBN_F32 ? CUDA_R_32F : type, p->n,
                                      precisions[precision].compute, CUBLAS_GEMM_DEFAULT),
                      "cublasGemmEx");
}

/* ------------------------------------------------------------------------------------ ceilings */

struct ceiling {
    struct gpu *gpu;
    enum precision precision;
    void *a, *b, *c;
};

static int queue_copy(void *state, int set)
{
    const struct ceiling *c = state;
    (void)set;
    return check_cuda(gpu_copy(c->gpu->stream, COPY_BYTES, c->a, c->b), "copy");
}

static int queue_square(void *state, int set)
{
    const struct ceiling *c = state;
    const struct gpu_product p = {
        SQUARE, SQUARE, SQUARE, c->a, c->b, false, true, c->c, precision_dtype(c->precision)};
    (void)set;
    return gpu_multiply_matrices(c->gpu, c->precision, &p);
}

static int measure(struct ceiling *c, const char *name, gpu_queue *queue, double *seconds)
{
    const struct gpu_contestant contestant = {name, queue, c};
    struct gpu_timing timing;
    if (gpu_time(c->gpu, &contestant, 1, 1, CEILING_RUNS, &timing) != 0)
        return -1;
    *seconds = timing.stream.median;
    return 0;
}

int gpu_measure_ceilings(struct gpu *g, const bool *wanted)
{
    const int64_t elements = (int64_t)SQUARE * SQUARE;
    const struct gpu_filling filling = {.distribution = GPU_NORMAL, .width = 1, .seed = 1};
    struct ceiling c = {.gpu = g};
    double seconds;
    int result = -1;

    c.a = gpu_allocate(COPY_BYTES);
    c.b = gpu_allocate(COPY_BYTES);
    c.c = gpu_allocate(COPY_BYTES);
    if (c.a == NULL || c.b == NULL || c.c == NULL ||
        check_cuda(gpu_fill(g->stream, FBN_F32, COPY_BYTES / 4, c.a, &filling), "fill") != 0 ||
        measure(&c, "copy", queue_copy, &seconds) != 0)
        goto out;
    g->copy_rate = 2.0 * COPY_BYTES / seconds;
    for (int p = 0; p < P_F64; p++) {
        const fbn_dtype dtype = precision_dtype((enum precision)p);
        c.precision = (enum precision)p;
        if (!wanted[p])
            continue;
        if (check_cuda(gpu_fill(g->stream, dtype, elements, c.a, &filling), "fill") != 0 ||
            check_cuda(gpu_fill(g->stream, dtype, elements, c.b, &filling), "fill") != 0 ||
            measure(&c, "product", queue_square, &seconds) != 0)
            goto out;
        g->product_rate[p] = 2.0 * SQUARE * (double)elements / seconds;
    }
    result = 0;
out:
    (void)cudaFree(c.c);
    (void)cudaFree(c.b);
    (void)cudaFree(c.a);
    return result;
}
