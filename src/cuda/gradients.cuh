/* SPDX-License-Identifier: BSD-3-Clause
 *
 * g = dL/dv of some rows of a thread's columns, recomputed from dy and u; and the choice of a
 * kernel by dtype and activation.
 */
#ifndef FBNI_CUDA_GRADIENTS_CUH
#define FBNI_CUDA_GRADIENTS_CUH

#include "activations.cuh"

namespace fbni
{

__host__ __device__ constexpr bool is_rowwise(fbn_activation activation)
{
    return activation == FBN_ACT_SOFTMAX || activation == FBN_ACT_LOG_SOFTMAX;
}

/* g of one row, in place of dy. u is looked at where there is an activation. */
template <fbn_activation ACT, typename R, int COUNT>
__device__ inline void gradient_row(R (&dy)[COUNT], const R (&u)[COUNT], const affine_of<R> &v,
                                    const fbni_cuda_gradient &a, int64_t row)
{
    row_state<R> state = {};
    if (is_rowwise(ACT))
        state = {((const R *)a.lse)[2 * row], ((const R *)a.lse)[2 * row + 1],
                 ((const R *)a.dots)[row]};
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        dy[k] = gradient<ACT>(v(k, u[k]), dy[k], state);
}

/* Whether u is packed: then the passes of hopper_gradients.cu have it. */
__device__ inline bool is_packed(const fbni_cuda_gradient &a)
{
    return a.packed.partials && !a.saved->frozen;
}

/* The power p of two for f16's du, bound 2^p < 2^15, as far as 2^p and 2^-p are floats. */
__device__ inline int scale_power(const fbni_cuda_du_scale *scale)
{
    return min(14 + 127 - (int)(scale->bound >> 23), 126);
}

/* One thread leaves 2^-p and the rest for the products. */
__device__ inline void keep_restore(fbni_cuda_du_scale *scale, int power)
{
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        scale->restore = power_of_two(-power);
        scale->set_to = 0;
        scale->added_to = 1;
    }
}

/* Whether the largest |g| is wanted. */
template <typename T>
constexpr bool HAS_MOST = false;
template <>
constexpr bool HAS_MOST<__half> = true;

/* Of a thread's columns: sum g, sum g (u - centre) and, where it is wanted, the largest |g|. */
template <typename R>
struct sums {
    static constexpr int COUNT = 16 / (int)sizeof(R);
    R g[COUNT], gu[COUNT], most[COUNT];
};

/* The threads of each column, as a tree; the result is in the first row of threads. */
template <bool MOST, typename R>
__device__ inline void add_threads(sums<R> &m, int lanes)
{
    constexpr int COUNT = sums<R>::COUNT;
    __shared__ R g[COUNT][FBNI_CUDA_BLOCK], gu[COUNT][FBNI_CUDA_BLOCK],
        most[MOST ? COUNT : 1][MOST ? FBNI_CUDA_BLOCK : 1];
    const int me = (int)threadIdx.x;

    for (int half = FBNI_CUDA_BLOCK / 2; half >= lanes; half /= 2) {
        if (me >= half && me < 2 * half) {
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                g[k][me] = m.g[k];
                gu[k][me] = m.gu[k];
                if (MOST)
                    most[k][me] = m.most[k];
            }
        }
        __syncthreads();
        if (me < half) {
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                m.g[k] += g[k][me + half];
                m.gu[k] += gu[k][me + half];
                if (MOST)
                    m.most[k] = fmax(m.most[k], most[k][me + half]);
            }
        }
    }
}

/* Whether u and dy can be moved in vectors. */
template <typename T>
inline bool gradient_is_wide(const fbni_cuda_gradient &a)
{
    using R = real_t<T>;
    constexpr int COUNT = 16 / (int)sizeof(R);
    return is_wide(a.u, a.ldu, a.O, COUNT, sizeof(R)) &&
           is_wide(a.dy, a.lddy, a.O, COUNT, sizeof(T));
}

/* call.operator()<T, ACT>() for the activation asked for, one that is not over rows. */
template <typename T, typename CALL>
inline cudaError_t for_elementwise(fbn_activation activation, const CALL &call)
{
    switch (activation) {
    case FBN_ACT_RELU:
        return call.template operator()<T, FBN_ACT_RELU>();
    case FBN_ACT_GELU:
        return call.template operator()<T, FBN_ACT_GELU>();
    case FBN_ACT_SILU:
        return call.template operator()<T, FBN_ACT_SILU>();
    default:
        return call.template operator()<T, FBN_ACT_NONE>();
    }
}

/* The same of any. */
template <typename T, typename CALL>
inline cudaError_t for_activation(fbn_activation activation, const CALL &call)
{
    switch (activation) {
    case FBN_ACT_SOFTMAX:
        return call.template operator()<T, FBN_ACT_SOFTMAX>();
    case FBN_ACT_LOG_SOFTMAX:
        return call.template operator()<T, FBN_ACT_LOG_SOFTMAX>();
    default:
        return for_elementwise<T>(activation, call);
    }
}

template <typename CALL>
inline cudaError_t for_gradient(const fbni_cuda_gradient &a, const CALL &call)
{
    switch (a.dtype) {
    case FBN_F64:
        return for_activation<double>(a.activation, call);
    case FBN_BF16:
        return for_activation<__nv_bfloat16>(a.activation, call);
    case FBN_F16:
        return for_activation<__half>(a.activation, call);
    default:
        return for_activation<float>(a.activation, call);
    }
}

} // namespace fbni

#endif
