/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The features of a forward pass: from partial moments (training) or running statistics (frozen) to
 * alpha, c and shift, in double, by algebra.h.
 *
 * A block merges some features' chunks, a lane every LANES-th of them, then the lanes are added, all
 * in a fixed order. It may be launched ahead, and what it needs besides the chunks is on its way
 * before they are added up.
 */
#include "features_backward.cuh"

namespace
{

using namespace fbni;

/* The same moments from u itself, where `wanted`; all threads of the block take part. Rare, so
 * simple. */
template <typename R, int FEATURES, int LANES>
__device__ __noinline__ void moments_in_double(const fbni_cuda_features &a, int64_t j, double mean,
                                               bool wanted, double (&shared)[2][LANES][FEATURES],
                                               double *mean_low, double *var)
{
    const R *u = (const R *)a.u + j;
    double sum = 0, squares = 0;

#pragma unroll 4
    for (int64_t i = threadIdx.y; i < a.batch; i += LANES)
        sum += (double)u[i * a.ldu] - mean;
    const double low = sum_lanes(sum, shared) / (double)a.batch;
#pragma unroll 4
    for (int64_t i = threadIdx.y; i < a.batch; i += LANES) {
        const double difference = (double)u[i * a.ldu] - mean - low;
        squares += difference * difference;
    }
    squares = sum_lanes(squares, shared);
    if (wanted) {
        *mean_low = low;
        *var = squares / (double)a.batch;
    }
}

/* The variance from the chunks' moments about the mean. */
template <typename R, int FEATURES, int LANES>
__device__ inline double var_about(const chunk_rows &rows, int reals, const R *from, int64_t O,
                                   double mean, double mean_low,
                                   double (&shared)[2][LANES][FEATURES])
{
    double squares = 0;

#pragma unroll 4
    for (int q = (int)threadIdx.y; q < rows.chunks; q += LANES) {
        const chunk_moments m = load_chunk(from + (int64_t)q * reals * O, O, reals);
        const double delta = ((m.shift - mean) + rows.mean(q, m.sum)) - mean_low;
        squares += m.m2 + rows.of(q) * (delta * delta);
    }
    return sum_lanes(squares, shared) * rows.by_all;
}

template <typename R, int FEATURES, int LANES>
__global__ void __launch_bounds__(FEATURES *LANES)
    features_train(const __grid_constant__ fbni_cuda_features a,
                   const __grid_constant__ chunk_rows rows, int reals, const R *partials)
{
    __shared__ double shared[2][LANES][FEATURES];
    const int64_t j = a.first + (int64_t)blockIdx.x * FEATURES + threadIdx.x;
    const int lane = (int)threadIdx.y;
    const bool there = j < a.O;
    const R *from = partials + (there ? j : 0);
    const bool keeps = lane == 0 && there;
    fbni_feature feature = {};
    running_state running = {};

    let_kernels_ahead();
    wait_for_kernels();
    merged_chunks merged = {(double)from[0], 0, 0};
    if (keeps) {
        feature = feature_of<R>(a.params, j);
        running = running_of<R>(a, j);
    }
#pragma unroll 4
    for (int q = lane; q < rows.chunks; q += LANES) {
        const chunk_moments m = load_chunk(from + (int64_t)q * reals * a.O, a.O, reals);
        merged.add(rows.of(q), (m.shift - merged.mean) + rows.mean(q, m.sum), m.m2);
    }
    sum_lanes(merged, shared);
    double mean_low = merged.mean_low(rows), var = merged.var(rows);
    if constexpr (!IS_SINGLE<R>) /* a difference may cost a double bits that it has */
        var = var_about(rows, reals, from, a.O, merged.mean, mean_low, shared);

    const bool beyond = there && reals == 3 && is_beyond<R>(mean_low, var);
    if (__syncthreads_or(beyond))
        moments_in_double<R, FEATURES, LANES>(a, there ? j : 0, merged.mean, beyond, shared,
                                              &mean_low, &var);

    if (keeps)
        keep_feature<R>(a, j, running, train_of<R>(a, feature, merged.mean, mean_low, var));
    if (lane == 0 && j == 0)
        once(a, false);
}

template <typename R>
__global__ void features_frozen(fbni_cuda_features a)
{
    const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j < a.O)
        keep_frozen<R>(a, j, frozen_of<R>(a, feature_of<R>(a.params, j), frozen_state_of<R>(a, j)));
    if (j == 0)
        once(a, true);
}

template <typename R>
__global__ void features_restore(fbni_cuda_restored a)
{
    const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= a.O)
        return;
    const fbni_affine affine =
        fbni_affine_of(feature_of<R>(a.params, j), load_norm(a.norm, a.O, j), IS_SINGLE<R>);
    const int rows = a.N < CENTRE_ROWS ? (int)a.N : CENTRE_ROWS;
    double mean = 0;
    for (int i = 0; a.saved->frozen && i < rows; i++)
        mean += (double)((const R *)a.u)[i * a.O + j] / rows;
    store_affine<R>(a.affine, j, affine);
    ((R *)a.centre)[j] = a.saved->frozen ? (R)mean : (R)affine.c;
    if (a.scale && j == 0)
        a.scale->bound = 0;
}

__global__ void count_batch(int64_t *count)
{
    *count = fbni_count_next(*count);
}

constexpr int THREADS = 128;

template <typename R, int FEATURES, int LANES>
cudaError_t launch_train(const fbni_cuda_queue *queue, const fbni_cuda_features *features,
                         const fbni_cuda_chunks *chunks, const void *partials)
{
    return launch_ahead(features_train<R, FEATURES, LANES>,
                        dim3((unsigned)ceil_div(features->O - features->first, FEATURES)),
                        dim3(FEATURES, LANES), queue, 0, *features, chunk_rows_of(*chunks),
                        chunks->reals, (const R *)partials);
}

/* Of 33 chunks 64 lanes have no use for the other half, and add them up all the same. */
constexpr int FEW_CHUNKS = 32, SOME_CHUNKS = 128;

template <typename R>
cudaError_t launch_train(const fbni_cuda_queue *queue, const fbni_cuda_features *features,
                         const fbni_cuda_chunks *chunks, const void *partials)
{
    return chunks->chunks <= FEW_CHUNKS ? launch_train<R, 32, 8>(queue, features, chunks, partials)
           : chunks->chunks <= SOME_CHUNKS
               ? launch_train<R, 8, 32>(queue, features, chunks, partials)
               : launch_train<R, 8, 64>(queue, features, chunks, partials);
}

} // namespace

cudaError_t fbni_cuda_features_train(const fbni_cuda_queue *queue, int is_double,
                                     const fbni_cuda_features *features,
                                     const fbni_cuda_chunks *chunks, const void *partials)
{
    return is_double ? launch_train<double>(queue, features, chunks, partials)
                     : launch_train<float>(queue, features, chunks, partials);
}

cudaError_t fbni_cuda_count_batch(const fbni_cuda_queue *queue, int64_t *count)
{
    return launch(count_batch, 1, 1, queue->stream, count);
}

cudaError_t fbni_cuda_features_frozen(const fbni_cuda_queue *queue, int is_double,
                                      const fbni_cuda_features *features)
{
    return launch(is_double ? features_frozen<double> : features_frozen<float>,
                  (unsigned)ceil_div(features->O, THREADS), THREADS, queue->stream, *features);
}

cudaError_t fbni_cuda_features_restore(const fbni_cuda_queue *queue, int is_double,
                                       const fbni_cuda_restored *restored)
{
    return launch(is_double ? features_restore<double> : features_restore<float>,
                  (unsigned)ceil_div(restored->O, THREADS), THREADS, queue->stream, *restored);
}
