/* SPDX-License-Identifier: BSD-3-Clause
 * Random data, conversion to double, and comparison, on the device.
 */
#include "bench_cuda_types.cuh"

#include <math_constants.h>

namespace
{

using namespace bench;

/* splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of a counter, as a number in [0,1). */
__device__ double random_number(uint64_t seed, uint64_t counter)
{
    uint64_t bits = (seed << 40) + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
    bits ^= bits >> 31;
    return (double)(bits >> 11) * 0x1p-53;
}

__device__ double number(const gpu_filling &f, uint64_t i)
{
    const double uniform = random_number(f.seed, 3 * i);
    if (f.distribution == GPU_UNIFORM)
        return 2 * uniform - 1;
    /* Box & Muller; 1 - uniform is never 0. */
    const double normal = sqrt(-2 * log(1 - uniform)) * cospi(2 * random_number(f.seed, 3 * i + 1));
    return f.distribution == GPU_POSITIVE ? fabs(normal) : normal;
}

template <typename T>
__global__ void fill(int64_t count, T *data, gpu_filling f)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (int64_t)blockDim.x) {
        double value = f.middle + f.width * number(f, (uint64_t)i);
        if (f.entry_decades != 0)
            value *= exp10(f.entry_decades * (2 * random_number(f.seed, 3 * (uint64_t)i + 2) - 1));
        if (f.column_decades != 0)
            value *= exp10(f.column_decades *
                           (2 * random_number(f.column_seed, (uint64_t)(i % f.columns)) - 1));
        data[i] = (T)(real_t<T>)value;
    }
}

template <typename T>
__global__ void convert(int64_t count, const T *from, double *to)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (int64_t)blockDim.x)
        to[i] = (double)to_real(from[i]);
}

template <typename T>
__global__ void compare(int64_t count, const T *values, const double *exact, double *partials)
{
    double squares = 0, sizes = 0, error = 0, size = 0;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (int64_t)blockDim.x) {
        double difference = fabs((double)to_real(values[i]) - exact[i]);
        if (!(difference < CUDART_INF))
            difference = CUDART_INF;
        squares += difference * difference;
        sizes += exact[i] * exact[i];
        error = fmax(error, difference);
        size = fmax(size, fabs(exact[i]));
    }
    squares = block_sum(squares);
    sizes = block_sum(sizes);
    error = block_max(error);
    size = block_max(size);
    if (threadIdx.x == 0) {
        double *to = partials + blockIdx.x * 4;
        to[0] = squares;
        to[1] = sizes;
        to[2] = error;
        to[3] = size;
    }
}

__global__ void copy(int64_t count, const uint4 *from, uint4 *to)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * (int64_t)blockDim.x)
        to[i] = from[i];
}

} // namespace

cudaError_t gpu_fill(cudaStream_t stream, fbn_dtype dtype, int64_t count, void *data,
                     const struct gpu_filling *filling)
{
    return for_dtype(dtype, [&](auto t) {
        fill<<<2048, 256, 0, stream>>>(count, (decltype(t) *)data, *filling);
        return cudaGetLastError();
    });
}

cudaError_t gpu_to_double(cudaStream_t stream, fbn_dtype dtype, int64_t count, const void *from,
                          double *to)
{
    return for_dtype(dtype, [&](auto t) {
        convert<<<2048, 256, 0, stream>>>(count, (const decltype(t) *)from, to);
        return cudaGetLastError();
    });
}

cudaError_t gpu_compare(cudaStream_t stream, fbn_dtype dtype, int64_t count, const void *values,
                        const double *exact, double *partials)
{
    return for_dtype(dtype, [&](auto t) {
        compare<<<GPU_BLOCKS, 256, 0, stream>>>(count, (const decltype(t) *)values, exact,
                                                partials);
        return cudaGetLastError();
    });
}

/* Every block copies a piece of its own in one sweep: as fast as cudaMemcpyAsync and faster than few
 * blocks. */
cudaError_t gpu_copy(cudaStream_t stream, int64_t bytes, const void *from, void *to)
{
    const int64_t count = bytes / (int64_t)sizeof(uint4);
    copy<<<(unsigned)((count + 1023) / 1024), 256, 0, stream>>>(count, (const uint4 *)from,
                                                                (uint4 *)to);
    return cudaGetLastError();
}
