/* SPDX-License-Identifier: BSD-3-Clause
 * The unfused computation on CUDA: a kernel a step, each of which reads and writes whole matrices,
 * coalesced, 4 elements a thread and access where the columns are a multiple of 4.
 */
#include "bench_cuda_types.cuh"

namespace
{

using namespace bench;

constexpr double EPS = 1e-5, MOMENTUM = 0.1; /* the library's defaults */

/* ---- element by element ---- */

/* f(i, column, values): in place, for every vector of the matrix. */
template <typename T, int V, typename F>
__global__ void each(int64_t rows, int64_t columns, const T *a, const T *b, T *to, F f)
{
    const int64_t count = rows * columns / V;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (int64_t)blockDim.x) {
        real_t<T> x[V], y[V];
        load<V>(x, a + i * V);
        if (F::READS_B)
            load<V>(y, b + i * V);
        const int64_t column = i * V % columns;
#pragma unroll
        for (int k = 0; k < V; k++)
            x[k] = f(x[k], y[k], column + k);
        store<V>(to + i * V, x);
    }
}

template <typename T, typename F>
cudaError_t launch_each(cudaStream_t stream, int64_t rows, int64_t columns, const void *a,
                        const void *b, void *to, F f)
{
    const auto kernel = columns % 4 == 0 ? each<T, 4, F> : each<T, 1, F>;
    const int64_t blocks = (rows * columns / 4 + 255) / 256;
    kernel<<<(unsigned)(blocks < 4096 ? blocks + 1 : 4096), 256, 0, stream>>>(
        rows, columns, (const T *)a, (const T *)b, (T *)to, f);
    return cudaGetLastError();
}

template <typename R>
struct scale_step {
    static constexpr bool READS_B = false;
    const R *bias, *scale;
    __device__ R operator()(R u, R, int64_t j) const
    {
        return (u + bias[j]) * (scale ? scale[j] : (R)1);
    }
};

template <typename R>
struct multiply_step {
    static constexpr bool READS_B = false;
    const R *factor;
    bool per_column;
    __device__ R operator()(R a, R, int64_t j) const
    {
        return a * factor[per_column ? j : 0];
    }
};

template <typename R>
struct normalise_step {
    static constexpr bool READS_B = false;
    const R *mean, *rstd, *gamma, *beta;
    __device__ R operator()(R z, R, int64_t j) const
    {
        return gamma[j] * ((z - mean[j]) * rstd[j]) + beta[j];
    }
};

template <typename R>
struct gradient_step {
    static constexpr bool READS_B = true;
    const R *mean, *rstd, *gamma, *dgamma, *dbeta;
    R per_row;
    __device__ R operator()(R g, R z, int64_t j) const
    {
        const R zhat = (z - mean[j]) * rstd[j];
        return gamma[j] * rstd[j] * (g - dbeta[j] * per_row - zhat * (dgamma[j] * per_row));
    }
};

/* ---- column sums ---- */

constexpr int WARPS = 8, ROWS = 4;

template <typename R>
struct terms {
    R first, second;
};

template <gpu_sum SUM, typename R>
__device__ inline terms<R> terms_of(R a, R b, R mean, R rstd)
{
    switch (SUM) {
    case GPU_SQUARES:
        return {(a - mean) * (a - mean), 0};
    case GPU_DOT:
        return {a * b, 0};
    case GPU_GRADIENT:
        return {a, a * ((b - mean) * rstd)};
    default:
        return {a, 0};
    }
}

/* A block: 32 V columns and the rows of one of gridDim.y chunks. */
template <gpu_sum SUM, typename T, int V>
__global__ void __launch_bounds__(32 * WARPS) sum_chunks(gpu_sums s)
{
    using R = real_t<T>;
    constexpr bool READS_B = SUM == GPU_DOT || SUM == GPU_GRADIENT;
    __shared__ R shared[2][WARPS][32 * V];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t column = (blockIdx.x * (int64_t)32 + lane) * V;
    const int64_t step = (int64_t)WARPS * gridDim.y;
    R mean[V] = {}, rstd[V] = {}, first[V] = {}, second[V] = {};

    if (column < s.columns) {
#pragma unroll
        for (int k = 0; k < V; k++) {
            mean[k] = s.mean ? ((const R *)s.mean)[column + k] : (R)0;
            rstd[k] = s.rstd ? ((const R *)s.rstd)[column + k] : (R)0;
        }
        for (int64_t row = blockIdx.y * (int64_t)WARPS + warp; row < s.rows; row += ROWS * step) {
            R a[ROWS][V], b[ROWS][V];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                if (row + i * step < s.rows) {
                    load<V>(a[i], (const T *)s.a + (row + i * step) * s.columns + column);
                    if (READS_B)
                        load<V>(b[i], (const T *)s.b + (row + i * step) * s.columns + column);
                }
            }
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
#pragma unroll
                for (int k = 0; k < V; k++) {
                    if (row + i * step < s.rows) {
                        const terms<R> t = terms_of<SUM>(a[i][k], b[i][k], mean[k], rstd[k]);
                        first[k] += t.first;
                        second[k] += t.second;
                    }
                }
            }
        }
    }
#pragma unroll
    for (int k = 0; k < V; k++) {
        shared[0][warp][lane * V + k] = first[k];
        shared[1][warp][lane * V + k] = second[k];
    }
    __syncthreads();
    for (int entry = (int)threadIdx.x; entry < 2 * 32 * V; entry += 32 * WARPS) {
        const int part = entry / (32 * V), k = entry % (32 * V);
        const int64_t j = blockIdx.x * (int64_t)(32 * V) + k;
        R sum = 0;
        for (int w = 0; w < WARPS; w++)
            sum += shared[part][w][k];
        if (j < s.columns)
            ((R *)s.partials)[(blockIdx.y * 2 + part) * s.columns + j] = sum;
    }
}

template <typename R>
__global__ void sum_partials(gpu_sums s, int chunks)
{
    const int64_t j = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    double first = 0, second = 0;
    if (j >= s.columns)
        return;
    for (int chunk = 0; chunk < chunks; chunk++) {
        first += (double)((const R *)s.partials)[chunk * 2 * s.columns + j];
        second += (double)((const R *)s.partials)[(chunk * 2 + 1) * s.columns + j];
    }
    ((R *)s.first)[j] = (R)first;
    if (s.second)
        ((R *)s.second)[j] = (R)second;
}

/* Enough blocks for any device, however few the columns. */
int chunks_of(int64_t columns)
{
    const int64_t slabs = (columns + 127) / 128;
    return slabs < 1024 ? (int)(1024 / slabs) : 1;
}

template <gpu_sum SUM, typename T>
void launch_sums(cudaStream_t stream, const gpu_sums &s)
{
    const int chunks = chunks_of(s.columns);
    const int width = s.columns % 4 == 0 ? 128 : 32;
    const dim3 grid((unsigned)((s.columns + width - 1) / width), (unsigned)chunks);
    const auto kernel = width == 128 ? sum_chunks<SUM, T, 4> : sum_chunks<SUM, T, 1>;
    kernel<<<grid, 32 * WARPS, 0, stream>>>(s);
    sum_partials<real_t<T>><<<(unsigned)((s.columns + 255) / 256), 256, 0, stream>>>(s, chunks);
}

struct column_sums {
    cudaStream_t stream;
    const gpu_sums &s;
    template <typename T>
    cudaError_t run() const
    {
        switch (s.sum) {
        case GPU_SQUARES:
            launch_sums<GPU_SQUARES, T>(stream, s);
            break;
        case GPU_DOT:
            launch_sums<GPU_DOT, T>(stream, s);
            break;
        case GPU_GRADIENT:
            launch_sums<GPU_GRADIENT, T>(stream, s);
            break;
        default:
            launch_sums<GPU_SUM, T>(stream, s);
        }
        return cudaGetLastError();
    }
};

template <typename R>
__global__ void finish_mean(int64_t rows, int64_t columns, R *mean, R *running)
{
    const int64_t j = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (j >= columns)
        return;
    mean[j] /= (R)rows;
    if (running)
        running[j] += (R)MOMENTUM * (mean[j] - running[j]);
}

template <typename R>
__global__ void finish_var(int64_t rows, int64_t columns, const R *squares, R *rstd, R *running)
{
    const int64_t j = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (j >= columns)
        return;
    rstd[j] = (R)1 / sqrt(squares[j] / (R)rows + (R)EPS);
    if (running)
        running[j] += (R)MOMENTUM * (squares[j] / (R)(rows - 1) - running[j]);
}

template <typename R>
__global__ void total(int64_t count, const R *from, R *to)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
        sum += (double)from[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *to = (R)sum;
}

/* ---- rows ---- */

template <typename T>
__global__ void softmax(int64_t columns, const T *v, T *y)
{
    using R = real_t<T>;
    const T *from = v + blockIdx.x * columns;
    R top = -(R)INFINITY, sum = 0;
    for (int64_t j = threadIdx.x; j < columns; j += blockDim.x)
        top = fmax(top, to_real(from[j]));
    top = block_max(top);
    for (int64_t j = threadIdx.x; j < columns; j += blockDim.x)
        sum += exp(to_real(from[j]) - top);
    sum = block_sum(sum);
    for (int64_t j = threadIdx.x; j < columns; j += blockDim.x)
        y[blockIdx.x * columns + j] = from_real<T>(exp(to_real(from[j]) - top) / sum);
}

template <typename T>
__global__ void softmax_backward(int64_t columns, const T *y, const T *dy, T *g)
{
    using R = real_t<T>;
    const int64_t row = blockIdx.x * columns;
    R dot = 0;
    for (int64_t j = threadIdx.x; j < columns; j += blockDim.x)
        dot += to_real(y[row + j]) * to_real(dy[row + j]);
    dot = block_sum(dot);
    for (int64_t j = threadIdx.x; j < columns; j += blockDim.x)
        g[row + j] = from_real<T>(to_real(y[row + j]) * (to_real(dy[row + j]) - dot));
}

} // namespace

cudaError_t gpu_scale(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                      const void *u, const void *bias, const void *scale, void *z)
{
    return for_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        using R = real_t<T>;
        return launch_each<T>(stream, rows, columns, u, nullptr, z,
                              scale_step<R>{(const R *)bias, (const R *)scale});
    });
}

cudaError_t gpu_multiply(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                         const void *from, const void *factor, int per_column, void *to)
{
    return for_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        return launch_each<T>(stream, rows, columns, from, nullptr, to,
                              multiply_step<real_t<T>>{(const real_t<T> *)factor, per_column != 0});
    });
}

int64_t gpu_partials(int64_t columns)
{
    return 2 * columns * chunks_of(columns);
}

cudaError_t gpu_column_sums(cudaStream_t stream, fbn_dtype dtype, const struct gpu_sums *sums)
{
    return for_dtype(dtype, [&](auto t) {
        return column_sums{stream, *sums}.template run<decltype(t)>();
    });
}

cudaError_t gpu_finish_mean(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                            void *mean, void *running_mean)
{
    return for_dtype(dtype, [&](auto t) {
        using R = real_t<decltype(t)>;
        finish_mean<<<(unsigned)((columns + 255) / 256), 256, 0, stream>>>(rows, columns, (R *)mean,
                                                                           (R *)running_mean);
        return cudaGetLastError();
    });
}

cudaError_t gpu_finish_var(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                           const void *squares, void *rstd, void *running_var)
{
    return for_dtype(dtype, [&](auto t) {
        using R = real_t<decltype(t)>;
        finish_var<<<(unsigned)((columns + 255) / 256), 256, 0, stream>>>(
            rows, columns, (const R *)squares, (R *)rstd, (R *)running_var);
        return cudaGetLastError();
    });
}

cudaError_t gpu_total(cudaStream_t stream, fbn_dtype dtype, int64_t count, const void *from,
                      void *to)
{
    return for_dtype(dtype, [&](auto t) {
        using R = real_t<decltype(t)>;
        total<<<1, 256, 0, stream>>>(count, (const R *)from, (R *)to);
        return cudaGetLastError();
    });
}

cudaError_t gpu_normalise(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                          const void *z, const void *mean, const void *rstd, const void *gamma,
                          const void *beta, void *v)
{
    return for_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        using R = real_t<T>;
        return launch_each<T>(
            stream, rows, columns, z, nullptr, v,
            normalise_step<R>{(const R *)mean, (const R *)rstd, (const R *)gamma, (const R *)beta});
    });
}

cudaError_t gpu_normalise_backward(cudaStream_t stream, fbn_dtype dtype,
                                   const struct gpu_normalise_gradient *a)
{
    return for_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        using R = real_t<T>;
        const gradient_step<R> step = {(const R *)a->mean,  (const R *)a->rstd,
                                       (const R *)a->gamma, (const R *)a->dgamma,
                                       (const R *)a->dbeta, (R)1 / (R)a->rows};
        return launch_each<T>(stream, a->rows, a->columns, a->g, a->z, a->dz, step);
    });
}

cudaError_t gpu_softmax(cudaStream_t stream, fbn_dtype dtype, int64_t rows, int64_t columns,
                        const void *v, void *y)
{
    return for_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        softmax<<<(unsigned)rows, 256, 0, stream>>>(columns, (const T *)v, (T *)y);
        return cudaGetLastError();
    });
}

cudaError_t gpu_softmax_backward(cudaStream_t stream, fbn_dtype dtype, int64_t rows,
                                 int64_t columns, const void *y, const void *dy, void *g)
{
    return for_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        softmax_backward<<<(unsigned)rows, 256, 0, stream>>>(columns, (const T *)y, (const T *)dy,
                                                             (T *)g);
        return cudaGetLastError();
    });
}
