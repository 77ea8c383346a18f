/* SPDX-License-Identifier: BSD-3-Clause
 * The benchmark's own kernels: data, the unfused computation step by step, and comparison.
 *
 * They share nothing with the library's. Matrices are row-major and packed; "real" is float, and
 * double where the matrices are double. Each launcher queues on the stream and returns CUDA's verdict.
 */
#ifndef BENCH_CUDA_KERNELS_H
#define BENCH_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <fusedbn.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- data ---- */

enum gpu_distribution { GPU_UNIFORM, GPU_NORMAL, GPU_POSITIVE };

/* Entry i: middle + width r, with r uniform in [-1,1), normal, or the absolute value of a normal
 * number; times 10^(entry_decades r'), r' uniform in [-1,1) of the entry; times
 * 10^(column_decades r''), r'' of the column i % columns alone. */
struct gpu_filling {
    enum gpu_distribution distribution;
    double middle, width;
    double entry_decades, column_decades;
    int64_t columns;
    uint64_t seed, column_seed;
};
cudaError_t gpu_fill(cudaStream_t stream, fbn_dtype dtype, int64_t count, void *data,
                     const struct gpu_filling *filling);

cudaError_t gpu_to_double(cudaStream_t stream, fbn_dtype dtype, int64_t count, const void *from,
                          double *to);

/* Of values against exact ones: four doubles a block, GPU_BLOCKS of them: sums of the squared
 * differences and of the squared exact values, the largest difference and the largest exact value.
 * A difference that is no number counts as infinite. */
enum { GPU_BLOCKS = 512 };
cudaError_t gpu_compare(cudaStream_t stream, fbn_dtype dtype, int64_t count, const void *values,
                        const double *exact, double *partials);

/* ---- the steps ---- */

/* z = (u + bias) scale; scale NULL: 1. */
cudaError_t gpu_scale(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                      const void *u, const void *bias, const void *scale, void *z);
/* to = from factor: one factor for all, or one a column. */
cudaError_t gpu_multiply(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                         const void *from, const void *factor, int per_column, void *to);

/* Column sums: of a; of (a - mean)^2; of a b; and of a and a (b - mean) rstd, in two. */
enum gpu_sum { GPU_SUM, GPU_SQUARES, GPU_DOT, GPU_GRADIENT };
struct gpu_sums {
    enum gpu_sum sum;
    int64_t rows, columns;
    const void *a, *b;
    const void *mean, *rstd; /* reals */
    void *partials;          /* gpu_partials() reals */
    void *first, *second;    /* columns reals; written */
};
int64_t gpu_partials(int64_t columns);
cudaError_t gpu_column_sums(cudaStream_t stream, fbn_dtype dtype, const struct gpu_sums *sums);

/* mean = sum / rows in place; moves running_mean where it is given. */
cudaError_t gpu_finish_mean(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                            void *mean, void *running_mean);
/* rstd = 1 / sqrt(squares / rows + eps); moves running_var where it is given. */
cudaError_t gpu_finish_var(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                           const void *squares, void *rstd, void *running_var);
/* to[0] = the sum of count reals. */
cudaError_t gpu_total(cudaStream_t stream, fbn_dtype dtype, int64_t count, const void *from,
                      void *to);

/* v = gamma (z - mean) rstd + beta */
cudaError_t gpu_normalise(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                          const void *z, const void *mean, const void *rstd, const void *gamma,
                          const void *beta, void *v);
/* dz = gamma rstd (g - dbeta / rows - (z - mean) rstd dgamma / rows) */
struct gpu_normalise_gradient {
    int64_t rows, columns;
    const void *g, *z, *mean, *rstd, *gamma, *dgamma, *dbeta;
    void *dz;
};
cudaError_t gpu_normalise_backward(cudaStream_t stream, fbn_dtype dtype,
                                   const struct gpu_normalise_gradient *gradient);

cudaError_t gpu_softmax(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                        const void *v, void *y);
/* g = y (dy - sum of y dy over the row) */
cudaError_t gpu_softmax_backward(cudaStream_t stream, fbn_dtype dtype, int64_t rows,
                                 int64_t columns, const void *y, const void *dy, void *g);

/* to = from, 16 bytes at a time. */
cudaError_t gpu_copy(cudaStream_t stream, int64_t bytes, const void *from, void *to);

#ifdef __cplusplus
}
#endif

#endif
