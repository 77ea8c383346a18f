/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The features of a backward pass: G and K merged over the chunks, then by algebra.h the gradients
 * of the parameters and the slopes of du = alpha (g + (du_u (u - c) + du_1)), in double.
 *
 * A block has 8 features × 32 lanes; a lane adds every 32nd chunk, then the lanes are added, in a
 * fixed order. (Of packed u there are hundreds of chunks: 8 lanes took 11 us for 512.) Of f16 data the
 * largest |du| that there can be is noted for its scale. The gradient of a scalar scale is the sum
 * over all features: each feature leaves its share, and one more block adds them.
 */
#include "features_backward.cuh"

namespace
{

using namespace fbni;

constexpr int FEATURES = 8, LANES = 32;

template <typename R>
__global__ void __launch_bounds__(FEATURES *LANES)
    features_backward(fbni_cuda_feature_gradients a, int chunks, const R *partials)
{
    __shared__ double shared[2][LANES][FEATURES];
    __shared__ R most[LANES][FEATURES]; /* |g|, where du is scaled */
    const int64_t j = (int64_t)blockIdx.x * FEATURES + threadIdx.x;
    const R *from = partials + (j < a.O ? j : 0);
    const bool frozen = a.saved->frozen != 0;
    const int64_t parts = a.scale ? 3 : 2;
    double sums[2] = {0, 0};
    R my_most = 0;

    if (a.packed_chunks > 0 && !frozen)
        chunks = a.packed_chunks;
#pragma unroll 4
    for (int q = (int)threadIdx.y; q < chunks; q += LANES) {
        sums[0] += (double)from[q * parts * a.O];
        sums[1] += (double)from[(q * parts + 1) * a.O];
        if (a.scale)
            my_most = fmax(my_most, from[(q * parts + 2) * a.O]);
    }
    most[threadIdx.y][threadIdx.x] = my_most;
    sum_lanes(sums, shared);
    if (threadIdx.y == 0 && j < a.O) {
        const fbni_feature_grads d =
            finish_feature<R>(a, j, feature_of<R>(a.params, j), load_norm(a.norm, a.O, j),
                              (double)((const R *)a.centre)[j], sums[0], sums[1]);
        for (int lane = 1; lane < LANES; lane++)
            my_most = fmax(my_most, most[lane][threadIdx.x]);
        if (a.scale)
            raise_bound(&a.scale->bound, fbni_du_bound(d, (double)my_most, (double)a.batch));
    }
}

/* ---- scalar scales ---- */

constexpr int SUM_BLOCK = 256;

/* Block 0: the post-scale's, block 1: the pre-scale's. */
template <typename R>
__global__ void __launch_bounds__(SUM_BLOCK) add_features(fbni_cuda_feature_gradients a)
{
    __shared__ double shared[SUM_BLOCK / 32];
    const double *from = a.sums + (blockIdx.x == 0 ? 0 : a.O);
    double sum = 0;

    for (int64_t j = threadIdx.x; j < a.O; j += SUM_BLOCK)
        sum += from[j];
    sum = block_reduce(sum, shared, add_up());
    if (threadIdx.x == 0)
        store_gradient<R>(blockIdx.x == 0 ? a.post_scale : a.pre_scale, 0, sum, a.accumulate);
}

template <typename R>
cudaError_t launch_features(const fbni_cuda_queue *queue, const fbni_cuda_feature_gradients &a,
                            const fbni_cuda_chunks &chunks, const void *partials)
{
    const cudaError_t error =
        launch(features_backward<R>, (unsigned)ceil_div(a.O, FEATURES), dim3(FEATURES, LANES),
               queue->stream, a, chunks.chunks, (const R *)partials);
    return error == cudaSuccess ? fbni_cuda_add_features(queue, !IS_SINGLE<R>, &a) : error;
}

} // namespace

cudaError_t fbni_cuda_add_features(const fbni_cuda_queue *queue, int is_double,
                                   const fbni_cuda_feature_gradients *gradients)
{
    fbni_cuda_feature_gradients a = *gradients;

    /* those per feature are done */
    if (a.params.post_per_feature)
        a.post_scale = nullptr;
    if (a.params.pre_per_feature)
        a.pre_scale = nullptr;
    if (!a.post_scale && !a.pre_scale)
        return cudaSuccess;
    return launch(is_double ? add_features<double> : add_features<float>, 2, SUM_BLOCK,
                  queue->stream, a);
}

cudaError_t fbni_cuda_features_backward(const fbni_cuda_queue *queue, int is_double,
                                        const fbni_cuda_feature_gradients *gradients,
                                        const fbni_cuda_chunks *chunks, const void *partials)
{
    return is_double ? launch_features<double>(queue, *gradients, *chunks, partials)
                     : launch_features<float>(queue, *gradients, *chunks, partials);
}
