/* SPDX-License-Identifier: BSD-3-Clause
 * Element types, vectors and block reductions of the benchmark's kernels.
 */
#ifndef BENCH_CUDA_TYPES_CUH
#define BENCH_CUDA_TYPES_CUH

#include "bench_cuda_kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace bench
{

template <typename T>
struct real_of {
    using type = float;
};
template <>
struct real_of<double> {
    using type = double;
};
template <typename T>
using real_t = typename real_of<T>::type;

__device__ inline float to_real(float v)
{
    return v;
}
__device__ inline double to_real(double v)
{
    return v;
}
__device__ inline float to_real(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}
__device__ inline float to_real(__half v)
{
    return __half2float(v);
}

template <typename T>
__device__ inline T from_real(real_t<T> v)
{
    return (T)v;
}

/* V neighbours, aligned to all of them, moved together. */
template <typename T, int V>
struct alignas(sizeof(T) * V) vector {
    T at[V];
};

template <int V, typename T>
__device__ inline void load(real_t<T> (&to)[V], const T *from)
{
    const vector<T, V> values = *reinterpret_cast<const vector<T, V> *>(from);
#pragma unroll
    for (int k = 0; k < V; k++)
        to[k] = to_real(values.at[k]);
}

template <int V, typename T>
__device__ inline void store(T *to, const real_t<T> (&from)[V])
{
    vector<T, V> values;
#pragma unroll
    for (int k = 0; k < V; k++)
        values.at[k] = from_real<T>(from[k]);
    *reinterpret_cast<vector<T, V> *>(to) = values;
}

/* Over the block, the same in all threads; up to 32 warps, all of them whole. */
template <typename R, typename OP>
__device__ inline R block_reduce(R value, OP op)
{
    __shared__ R shared[32];
    for (int offset = 16; offset > 0; offset /= 2)
        value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
    __syncthreads(); /* what was there before has been read */
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++)
        value = op(value, shared[w]);
    return value;
}
template <typename R>
__device__ inline R block_sum(R value)
{
    return block_reduce(value, [](R a, R b) { return a + b; });
}
template <typename R>
__device__ inline R block_max(R value)
{
    return block_reduce(value, [](R a, R b) { return a > b ? a : b; });
}

/* call(T()) for the type of a dtype. */
template <typename CALL>
inline cudaError_t for_dtype(fbn_dtype dtype, const CALL &call)
{
    switch (dtype) {
    case FBN_F64:
        return call(double());
    case FBN_BF16:
        return call(__nv_bfloat16());
    case FBN_F16:
        return call(__half());
    default:
        return call(float());
    }
}

} // namespace bench

#endif
