/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The plain linear layer that equals a layer in inference:
 *
 *     weight = alpha W,  alpha = t gamma s r,  r = 1 / sqrt(running_var + eps)
 *     bias = t (beta + gamma r (s b - running_mean))
 *
 * in double, rounded once.
 */
#include "features.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256;

template <typename R>
__global__ void __launch_bounds__(BLOCK) fold_features(fbni_cuda_fold a)
{
    const int64_t j = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (j >= a.O)
        return;
    const fbni_feature f = feature_of<R>(a.params, j);
    const double r = 1 / sqrt((double)((const R *)a.running_var)[j] + a.eps);
    a.alpha[j] = f.t * f.gamma * f.s * r;
    ((R *)a.bias)[j] =
        (R)(f.t * (f.beta + f.gamma * r * (f.s * f.b - (double)((const R *)a.running_mean)[j])));
}

/* The float next to value from which a half type rounds as it would from value itself: where the
 * float is not exact, the one of its two neighbours with an odd last bit. (Boldo & Melquiond 2008,
 * "Emulation of a FMA and correctly rounded sums", prove it for rounding to odd.) */
__device__ float round_to_odd(double value)
{
    const float f = (float)value;
    const unsigned bits = __float_as_uint(f);
    if ((double)f == value || !isfinite(f) || (bits & 1))
        return f;
    return __uint_as_float(fabs((double)f) < fabs(value) ? bits + 1 : bits - 1);
}

template <typename T>
__device__ T round_once(double value)
{
    return from_real<T>(round_to_odd(value));
}
template <>
__device__ float round_once<float>(double value)
{
    return (float)value;
}
template <>
__device__ double round_once<double>(double value)
{
    return value;
}

/* A block folds rows blockIdx.y, + gridDim.y, ... of 4 × BLOCK columns. */
template <typename T>
__global__ void __launch_bounds__(BLOCK) fold_weight(fbni_cuda_fold a)
{
    for (int64_t row = blockIdx.y; row < a.O; row += gridDim.y) {
        const T *from = (const T *)a.from + row * a.ldfrom;
        T *to = (T *)a.weight + row * a.ldw;
        const double alpha = a.alpha[row];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int64_t i = ((int64_t)blockIdx.x * 4 + k) * BLOCK + threadIdx.x;
            if (i < a.I)
                to[i] = round_once<T>((double)to_real(from[i]) * alpha);
        }
    }
}

template <typename T>
cudaError_t launch_fold(const fbni_cuda_queue *queue, const fbni_cuda_fold &a)
{
    const cudaError_t error =
        launch(fold_features<real_t<T>>, (unsigned)ceil_div(a.O, BLOCK), BLOCK, queue->stream, a);
    if (error != cudaSuccess)
        return error;
    return launch(fold_weight<T>,
                  dim3((unsigned)ceil_div(a.I, 4 * BLOCK), (unsigned)least(a.O, 65535)), BLOCK,
                  queue->stream, a);
}

} // namespace

cudaError_t fbni_cuda_fold_layer(const fbni_cuda_queue *queue, const fbni_cuda_fold *fold)
{
    switch (fold->dtype) {
    case FBN_F64:
        return launch_fold<double>(queue, *fold);
    case FBN_BF16:
        return launch_fold<__nv_bfloat16>(queue, *fold);
    case FBN_F16:
        return launch_fold<__half>(queue, *fold);
    default:
        return launch_fold<float>(queue, *fold);
    }
}
