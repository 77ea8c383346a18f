/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Training, one launch behind the product, for batches of up to 1024 rows: moments, features and y.
 *
 *              LANES vectors
 *             +---+---+--       A block owns a slab of columns, 2 or 4 vectors of 16 bytes wide,
 *     row 0   |t0 |t1 | t2..    and all rows of it: 64 threads below each other, each with every
 *     row 1   |   |   |         64th row. A thread's vectors lie in shared memory that it alone
 *      ...    |   |   |         uses, so that the moments are taken in two passes, mean and then
 *     row 63  |   |   |         squares about it, while u is read once.
 *     row 64  |t0 |t1 |
 *
 * A column's sums go over a thread's rows, then over the lanes of a warp that hold it, then over
 * the warps, always in the same order. The first LANES × COUNT threads do the algebra, one column
 * each, from parameters that they asked for first.
 *
 * Small batches take hardly longer than a few trips to memory, so what can be on its way together
 * is, and on devices that can (sm_90) the blocks are started before the product's last one ends.
 */
#include "activations.cuh"
#include "features.cuh"

#include <cuda_pipeline_primitives.h>

namespace
{

using namespace fbni;

constexpr int ROWS = 64; /* rows side by side in a block */

template <int LANES>
constexpr int THREADS = ROWS *LANES;

/* The vectors of one thread. */
template <typename R, int LANES, bool WIDE>
struct slab {
    static constexpr int COUNT = columns<R, WIDE>::COUNT;
    pack<R, COUNT> *mine; /* vector i at mine[i * THREADS] */
    columns<R, WIDE> cols;
    int first, count; /* rows first, first + ROWS, .. */

    __device__ slab(void *shared, int64_t N, int64_t O)
        : mine((pack<R, COUNT> *)shared + threadIdx.x),
          cols(blockIdx.x, (int)threadIdx.x % LANES, LANES, O), first((int)threadIdx.x / LANES),
          count(N > first ? (int)(N - first + ROWS - 1) / ROWS : 0)
    {
    }
    __device__ const pack<R, COUNT> &at(int i) const
    {
        return mine[i * THREADS<LANES>];
    }
    /* All loads on their way. */
    __device__ void start_load(const R *u, int64_t ldu)
    {
        for (int i = 0; i < count; i++) {
            const R *row = u + (first + i * (int64_t)ROWS) * ldu + cols.first;
            R *to = mine[i * THREADS<LANES>].at;
            if (WIDE) {
                if (cols.any())
                    __pipeline_memcpy_async(to, row, sizeof(*mine));
            } else {
#pragma unroll
                for (int k = 0; k < COUNT; k++)
                    if (k < cols.count)
                        __pipeline_memcpy_async(to + k, row + k * cols.stride, sizeof(R));
            }
        }
        __pipeline_commit();
    }
    /* All there, for all threads of the block. */
    __device__ void wait_for_load() const
    {
        __pipeline_wait_prior(0);
        __syncthreads();
    }
    /* What a thread of the same columns has of a row. */
    __device__ const pack<R, COUNT> &of_row(int row) const
    {
        return (mine - first * LANES)[row / ROWS * THREADS<LANES> + row % ROWS * LANES];
    }
};

/* The sums over the block's rows of a thread's columns, in every thread of the column. */
template <int LANES, typename R, int COUNT>
__device__ void sum_columns(R (&value)[COUNT], R (*shared)[LANES * COUNT])
{
    const int lane = (int)threadIdx.x % LANES, warp = (int)threadIdx.x / 32;

#pragma unroll
    for (int k = 0; k < COUNT; k++)
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2)
            value[k] += __shfl_xor_sync(0xffffffffu, value[k], offset);
    if (threadIdx.x % 32 < LANES)
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            shared[warp][lane * COUNT + k] = value[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        value[k] = 0;
        for (int w = 0; w < THREADS<LANES> / 32; w++)
            value[k] += shared[w][lane * COUNT + k];
    }
}

template <fbn_activation ACT, typename T, typename R, int LANES, bool WIDE>
__device__ void finish(const fbni_cuda_finish &a, const slab<R, LANES, WIDE> &u,
                       const R (*coefficients)[LANES * slab<R, LANES, WIDE>::COUNT])
{
    constexpr int COUNT = slab<R, LANES, WIDE>::COUNT;
    const int entry = (int)threadIdx.x % LANES * COUNT;
    R alpha[COUNT], c[COUNT], shift[COUNT];

#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        alpha[k] = coefficients[0][entry + k];
        c[k] = coefficients[1][entry + k];
        shift[k] = coefficients[2][entry + k];
    }
#pragma unroll 4
    for (int i = 0; i < u.count; i++) {
        const pack<R, COUNT> from = u.at(i);
        R y[COUNT];
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            y[k] = activate<ACT>(fma(alpha[k], from.at[k] - c[k], shift[k]));
        u.cols.store((T *)a.y + (u.first + i * (int64_t)ROWS) * a.ldy, y);
    }
}

/* Of a thread's columns: the sum of u - shift, and the sum of squares about its mean. */
template <typename V, int COUNT>
struct moments {
    V sum[COUNT], squares[COUNT];
};

/* In two passes, in R or in double. shared: two arrays, since a barrier lies between their uses but
 * not between one's and its next. */
template <int LANES, typename V, typename R, int COUNT, bool WIDE>
__device__ void take_moments(moments<V, COUNT> &m, const slab<R, LANES, WIDE> &u,
                             const R (&shift)[COUNT], int64_t N,
                             V (*shared)[THREADS<LANES> / 32][LANES * COUNT])
{
    V mean[COUNT];

#pragma unroll
    for (int k = 0; k < COUNT; k++)
        m.sum[k] = m.squares[k] = 0;
#pragma unroll 4
    for (int i = 0; i < u.count; i++)
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            m.sum[k] += (V)u.at(i).at[k] - (V)shift[k];
    sum_columns<LANES>(m.sum, shared[0]);
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        mean[k] = m.sum[k] / (V)N;
#pragma unroll 4
    for (int i = 0; i < u.count; i++) {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const V d = ((V)u.at(i).at[k] - (V)shift[k]) - mean[k];
            m.squares[k] = fma(d, d, m.squares[k]);
        }
    }
    sum_columns<LANES>(m.squares, shared[1]);
}

template <typename T, int LANES, bool WIDE>
__global__ void __launch_bounds__(THREADS<LANES>, 768 / THREADS<LANES>)
    train_slab(fbni_cuda_features features, fbni_cuda_finish a)
{
    using R = real_t<T>;
    constexpr int COUNT = columns<R, WIDE>::COUNT, WIDTH = LANES * COUNT;
    extern __shared__ __align__(16) unsigned char storage[];
    __shared__ double in_double[2][THREADS<LANES> / 32][WIDTH];
    __shared__ double means[WIDTH], lows[WIDTH], vars[WIDTH];
    __shared__ fbni_feature parameters[WIDTH];
    __shared__ R coefficients[3][WIDTH];
    slab<R, LANES, WIDE> u(storage, a.N, a.O);
    const int entry = (int)threadIdx.x % LANES * COUNT;
    const double N = (double)a.N;
    const int few = few_of(a.N);
    R shift[COUNT];
    moments<R, COUNT> m;
    bool beyond = false;

    wait_for_kernels();
    u.start_load((const R *)a.u, a.ldu);
    /* entry e: column e % COUNT of lane e / COUNT */
    const int e = (int)threadIdx.x;
    const columns<R, WIDE> owner(blockIdx.x, e / COUNT, LANES, a.O);
    const int64_t j = owner.first + (int64_t)(e % COUNT) * owner.stride;
    const bool owns = e < WIDTH && j < a.O;
    if (owns)
        parameters[e] = feature_of<R>(features.params, j);
    u.wait_for_load();
    median_of_means(shift, few, [&](R(&to)[COUNT], int part, int i) {
        const pack<R, COUNT> row = u.of_row(part * ((int)a.N - few) / 2 + i);
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            to[k] = row.at[k];
    });
    take_moments<LANES>(m, u, shift, a.N, (R(*)[THREADS<LANES> / 32][WIDTH]) in_double);
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        beyond |= k < u.cols.count && is_beyond<R>((double)m.sum[k], (double)m.squares[k] / N);
        if (threadIdx.x < LANES) {
            means[entry + k] = (double)shift[k];
            lows[entry + k] = (double)m.sum[k] / N;
            vars[entry + k] = (double)m.squares[k] / N;
        }
    }
    if (__syncthreads_or(beyond)) {
        moments<double, COUNT> exact;
        take_moments<LANES>(exact, u, shift, a.N, in_double);
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            if (threadIdx.x < LANES && is_beyond<R>((double)m.sum[k], (double)m.squares[k] / N)) {
                lows[entry + k] = exact.sum[k] / N;
                vars[entry + k] = exact.squares[k] / N;
            }
        }
        __syncthreads();
    }
    if (owns) {
        const fbni_affine affine =
            train_feature<R>(features, j, parameters[e], means[e], lows[e], vars[e]);
        coefficients[0][e] = (R)affine.alpha;
        coefficients[1][e] = (R)affine.c;
        coefficients[2][e] = (R)affine.shift;
        if (j == 0)
            once(features, false);
    }
    __syncthreads();

    switch (a.activation) {
    case FBN_ACT_NONE:
        finish<FBN_ACT_NONE, T>(a, u, coefficients);
        break;
    case FBN_ACT_RELU:
        finish<FBN_ACT_RELU, T>(a, u, coefficients);
        break;
    case FBN_ACT_GELU:
        finish<FBN_ACT_GELU, T>(a, u, coefficients);
        break;
    case FBN_ACT_SILU:
        finish<FBN_ACT_SILU, T>(a, u, coefficients);
        break;
    default: /* rows of y need all columns: another kernel */
        break;
    }
}

/* Shared memory for the rows of a block. */
template <int LANES>
size_t storage_size(int64_t N)
{
    return (size_t)ceil_div(N, ROWS) * THREADS<LANES> * 16;
}

template <typename T, int LANES>
cudaError_t launch_lanes(const fbni_cuda_queue *queue, const fbni_cuda_features &features,
                         const fbni_cuda_finish &a)
{
    using R = real_t<T>;
    constexpr int COUNT = 16 / (int)sizeof(R);
    const bool wide =
        is_wide(a.u, a.ldu, a.O, COUNT, sizeof(R)) && is_wide(a.y, a.ldy, a.O, COUNT, sizeof(T));
    return launch_ahead(wide ? train_slab<T, LANES, true> : train_slab<T, LANES, false>,
                        (unsigned)fbni_cuda_slabs(a.O, LANES, sizeof(R)), THREADS<LANES>, queue,
                        storage_size<LANES>(a.N), features, a);
}

/* Narrow slabs where wide ones would leave multiprocessors without a block. */
template <typename T>
cudaError_t launch_slab(const fbni_cuda_queue *queue, const fbni_cuda_features &features,
                        const fbni_cuda_finish &a)
{
    const bool narrow = fbni_cuda_slabs(a.O, 4, sizeof(real_t<T>)) < queue->processors ||
                        queue->shared_memory < fbni_cuda_train_slab_memory();
    return narrow ? launch_lanes<T, 2>(queue, features, a) : launch_lanes<T, 4>(queue, features, a);
}

template <typename T>
cudaError_t allow_storage()
{
    const int size = (int)storage_size<4>(FBNI_CUDA_SLAB_ROWS);
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(train_slab<T, 4, true>, attribute, size);
    return error != cudaSuccess ? error
                                : cudaFuncSetAttribute(train_slab<T, 4, false>, attribute, size);
}

} // namespace

size_t fbni_cuda_train_slab_memory(void)
{
    return storage_size<4>(FBNI_CUDA_SLAB_ROWS) + 4096; /* and the block's sums */
}

cudaError_t fbni_cuda_train_slab_prepare(fbni_cuda_queue *queue)
{
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, train_slab<float, 4, true>);

    /* not the device's word but the code's: what was compiled for an older one does not wait */
    queue->launches_ahead = error == cudaSuccess && attributes.ptxVersion >= 90;
    if (error == cudaSuccess)
        error = allow_storage<float>();
    if (error == cudaSuccess)
        error = allow_storage<double>();
    if (error == cudaSuccess)
        error = allow_storage<__nv_bfloat16>();
    if (error == cudaSuccess)
        error = allow_storage<__half>();
    return error;
}

cudaError_t fbni_cuda_train_slab(const fbni_cuda_queue *queue, const fbni_cuda_features *features,
                                 const fbni_cuda_finish *finish)
{
    switch (finish->dtype) {
    case FBN_F64:
        return launch_slab<double>(queue, *features, *finish);
    case FBN_BF16:
        return launch_slab<__nv_bfloat16>(queue, *features, *finish);
    case FBN_F16:
        return launch_slab<__half>(queue, *features, *finish);
    default:
        return launch_slab<float>(queue, *features, *finish);
    }
}
