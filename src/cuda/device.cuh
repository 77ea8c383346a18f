/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the kernels share: storage types, the columns of a thread, reductions, launching.
 */
#ifndef FBNI_CUDA_DEVICE_CUH
#define FBNI_CUDA_DEVICE_CUH

#include "cuda_kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <string.h>

namespace fbni
{

/* ---- storage types and reals ---- */

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
    return v;
}
template <>
__device__ inline __nv_bfloat16 from_real<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half from_real<__half>(float v)
{
    return __float2half_rn(v);
}

/* Two numbers of a half type in a word. */
template <typename T>
__device__ inline float2 unpack_pair(uint32_t word);
template <>
__device__ inline float2 unpack_pair<__half>(uint32_t word)
{
    __half2 h;
    memcpy(&h, &word, sizeof h);
    return __half22float2(h);
}
template <>
__device__ inline float2 unpack_pair<__nv_bfloat16>(uint32_t word)
{
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

template <typename R>
__device__ inline R not_a_number()
{
    return (R)__int_as_float(0x7fc00000);
}

template <typename R>
__device__ inline R infinity()
{
    return (R)__int_as_float(0x7f800000);
}

/* p with 2^p <= |v| < 2^(p+1), such that 2^p and 2^-p are floats; 0 where v is no normal number. */
__device__ inline int power_of(float v)
{
    const int biased = (int)(__float_as_uint(v) >> 23 & 255);
    return biased == 0 || biased == 255 ? 0 : biased == 254 ? 126 : biased - 127;
}

/* 2^p, -127 < p < 128. */
__device__ inline float power_of_two(int p)
{
    return __int_as_float((127 + p) << 23);
}

/* The same in double, where it has that power. */
__device__ inline double double_power_of_two(int p)
{
    return __longlong_as_double((long long)(1023 + p) << 52);
}

/* *to = max(*to, v), where most v are no larger than what is there. */
__device__ inline void raise(unsigned *to, unsigned v)
{
    if (v > *(volatile unsigned *)to)
        atomicMax(to, v);
}

/* COUNT elements, and the word that one instruction moves them as. */
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) pack {
    T at[COUNT];
};
template <int BYTES>
struct word;
template <>
struct word<16> {
    using type = uint4;
};
template <>
struct word<8> {
    using type = uint2;
};

template <typename T, int COUNT>
__device__ inline pack<T, COUNT> load_pack(const T *from)
{
    using W = typename word<sizeof(T) * COUNT>::type;
    const W w = *reinterpret_cast<const W *>(from);
    pack<T, COUNT> p;
    memcpy(&p, &w, sizeof p);
    return p;
}

template <typename T, int COUNT>
__device__ inline void store_pack(T *to, const pack<T, COUNT> &p)
{
    using W = typename word<sizeof(T) * COUNT>::type;
    W w;
    memcpy(&w, &p, sizeof w);
    __stwb(reinterpret_cast<W *>(to), w); /* an assignment is cut into four */
}

/* ---- the columns of a thread ---- */

/* A slab is `lanes` threads wide, each with COUNT columns: 16 bytes of reals, unless said
 * otherwise. WIDE: they are neighbours, moved by one instruction, and all there or none. Else they
 * are `lanes` apart, so that the threads of a warp still touch neighbours, and any number of them
 * is there. */
template <typename R, bool WIDE, int MANY = 16 / (int)sizeof(R)>
struct columns {
    static constexpr int COUNT = MANY;
    int64_t first;
    int stride, count;

    __device__ columns(int64_t slab, int lane, int lanes, int64_t O)
    {
        first = slab * lanes * COUNT + (WIDE ? lane * COUNT : lane);
        stride = WIDE ? 1 : lanes;
        count = 0;
        for (int k = 0; k < COUNT; k++)
            count += first + (int64_t)k * stride < O;
    }
    __device__ bool any() const
    {
        return count > 0;
    }
    /* Columns that are not there read as 0. */
    template <typename T>
    __device__ void load(R (&out)[COUNT], const T *row) const
    {
        if (WIDE) {
            pack<T, COUNT> p = {};
            if (count > 0)
                p = load_pack<T, COUNT>(row + first);
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                out[k] = to_real(p.at[k]);
        } else {
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                out[k] = k < count ? to_real(row[first + k * stride]) : (R)0;
        }
    }
    template <typename T>
    __device__ void store(T *row, const R (&in)[COUNT]) const
    {
        if (WIDE) {
            pack<T, COUNT> p;
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                p.at[k] = from_real<T>(in[k]);
            if (count > 0)
                store_pack(row + first, p);
        } else {
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                if (k < count)
                    row[first + k * stride] = from_real<T>(in[k]);
        }
    }
};

/* The coefficients of a thread's columns. */
template <typename R>
struct affine_of {
    static constexpr int COUNT = 16 / (int)sizeof(R);
    R alpha[COUNT], c[COUNT], shift[COUNT];

    __device__ affine_of()
    {
    }
    template <bool WIDE>
    __device__ affine_of(const columns<R, WIDE> &cols, const fbni_cuda_affine &from)
    {
        cols.load(alpha, (const R *)from.alpha);
        cols.load(c, (const R *)from.c);
        cols.load(shift, (const R *)from.shift);
    }
    /* Subtract first, then one multiply-add. */
    __device__ R operator()(int k, R u) const
    {
        return fma(alpha[k], u - c[k], shift[k]);
    }
};

template <typename R>
__device__ inline R median(R a, R b, R c)
{
    const R low = b < a ? b : a, high = b < a ? a : b, rest = c < high ? c : high;
    return rest < low ? low : rest;
}

/* How many rows each of the three means of median_of_means takes, of so many in all. */
__device__ inline int few_of(int64_t rows)
{
    return rows >= 12 ? 4 : rows >= 6 ? 2 : 1;
}

/* load(values, i): row i of a few. */
template <typename R, int COUNT, typename LOAD>
__device__ inline void mean_of_rows(R (&out)[COUNT], int few, const LOAD &load)
{
    R sum[COUNT] = {}, next[3][COUNT]; /* few_of() - 1 at most: all on their way together */
    load(out, 0);
#pragma unroll
    for (int i = 1; i < 4; i++)
        if (i < few)
            load(next[i - 1], i);
#pragma unroll
    for (int i = 1; i < 4; i++) {
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            if (i < few)
                sum[k] += next[i - 1][k] - out[k];
    }
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        out[k] = fma(sum[k], (R)1 / (R)few, out[k]);
}

/* What is subtracted before the moments are summed: the median of the means of a few first, middle
 * and last rows. Near the mean, so that little is left to sum and to round; and equal values leave
 * nothing. A group with an outlier is not the median of three. load(values, part, i): row i of a
 * part. */
template <typename R, int COUNT, typename LOAD>
__device__ inline void median_of_means(R (&out)[COUNT], int few, const LOAD &load)
{
    R b[COUNT], c[COUNT];
    mean_of_rows(out, few, [&](R(&to)[COUNT], int i) { load(to, 0, i); });
    mean_of_rows(b, few, [&](R(&to)[COUNT], int i) { load(to, 1, i); });
    mean_of_rows(c, few, [&](R(&to)[COUNT], int i) { load(to, 2, i); });
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        out[k] = median(out[k], b[k], c[k]);
}

template <typename R, bool WIDE>
__device__ inline void load_shift(R (&out)[16 / sizeof(R)], const columns<R, WIDE> &cols,
                                  const R *first, const R *middle, const R *last, int64_t ld,
                                  int few)
{
    const R *const parts[] = {first, middle, last};
    median_of_means(out, few, [&](R(&to)[16 / sizeof(R)], int part, int i) {
        cols.load(to, parts[part] + i * ld);
    });
}

/* Whether a matrix can be moved in packs of `count` elements of `size` bytes. */
inline bool is_wide(const void *p, int64_t ld, int64_t O, int count, size_t size)
{
    return O % count == 0 && ld % count == 0 && (uintptr_t)p % (count * size) == 0;
}

/* ---- sums over a block ---- */

struct add_up {
    template <typename R>
    __device__ R operator()(R a, R b) const
    {
        return a + b;
    }
};

/* A NaN is passed over: it comes back through the row's sum. */
struct largest {
    template <typename R>
    __device__ R operator()(R a, R b) const
    {
        return a > b || b != b ? a : b;
    }
};

template <typename R, typename OP>
__device__ inline R warp_reduce(R value, OP op)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

/* The same value in all threads. shared: one entry a warp; between two uses of the same entries
 * another block_reduce or barrier must lie. */
template <typename R, typename OP>
__device__ inline R block_reduce(R value, R *shared, OP op)
{
    const int warps = (int)blockDim.x / 32;
    value = warp_reduce(value, op);
    if (warps > 1) {
        if (threadIdx.x % 32 == 0)
            shared[threadIdx.x / 32] = value;
        __syncthreads();
        value = shared[0];
        for (int w = 1; w < warps; w++)
            value = op(value, shared[w]);
    }
    return value;
}

/* ---- launching ---- */

/* The launch's own verdict: errors that the host program left unread are not taken for ours, and
 * ours is not left behind. */
template <typename... PARAMS, typename... ARGS>
inline cudaError_t launch_shared(void (*kernel)(PARAMS...), dim3 grid, dim3 block,
                                 cudaStream_t stream, size_t shared, ARGS... args)
{
    cudaLaunchConfig_t config = {};
    config.dynamicSmemBytes = shared;
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = stream;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, ((PARAMS)args)...);
    if (error != cudaSuccess)
        (void)cudaGetLastError();
    return error;
}

template <typename... PARAMS, typename... ARGS>
inline cudaError_t launch(void (*kernel)(PARAMS...), dim3 grid, dim3 block, cudaStream_t stream,
                          ARGS... args)
{
    return launch_shared(kernel, grid, block, stream, 0, args...);
}

/* Before a kernel that was launched ahead touches anything: the kernels before it are done. */
__device__ inline void wait_for_kernels()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

/* The next kernel may be launched ahead as soon as all blocks have been here. */
__device__ inline void let_kernels_ahead()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* Its blocks may be started before the kernel before is done: the kernel waits itself
 * (wait_for_kernels), every one, and before that touches nothing that a kernel still running may
 * write or read. So whoever has waited for one kernel has waited for all before it, even where that
 * one lets others ahead before it has waited. (Those of hopper_held_finish.cu wait at their end; what
 * they need before, they know by counts. hopper_sample reads W before: the split, launched
 * before it, is no such kernel, and has waited for whoever wrote W.) */
template <typename... PARAMS, typename... ARGS>
inline cudaError_t launch_ahead(void (*kernel)(PARAMS...), dim3 grid, dim3 block,
                                const fbni_cuda_queue *queue, size_t shared, ARGS... args)
{
    cudaLaunchAttribute ahead = {};
    cudaLaunchConfig_t config = {};
    ahead.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    ahead.val.programmaticStreamSerializationAllowed = 1;
    config.dynamicSmemBytes = shared;
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = queue->stream;
    config.attrs = &ahead;
    config.numAttrs = queue->launches_ahead ? 1 : 0;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, ((PARAMS)args)...);
    if (error != cudaSuccess)
        (void)cudaGetLastError();
    return error;
}

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

__host__ __device__ inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

inline bool is_double(fbn_dtype dtype)
{
    return dtype == FBN_F64;
}

} // namespace fbni

#endif
