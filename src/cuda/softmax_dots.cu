/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The sums over rows that the backward of softmax and log_softmax needs:
 *
 *     softmax:      dot = sum dy p,  p = exp(v - top - log_sum)
 *     log_softmax:  dot = sum dy
 *
 * A block takes 4 rows at a time, which share the loads of the coefficients, and walks along them.
 */
#include "activations.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256, ROWS = 4;

template <typename T, bool LOG, bool WIDE>
__global__ void __launch_bounds__(BLOCK) softmax_dots(fbni_cuda_gradient a)
{
    using R = real_t<T>;
    constexpr int COUNT = columns<R, WIDE>::COUNT;
    __shared__ R sums[ROWS][BLOCK / 32];
    const int64_t slabs = (a.O + blockDim.x * COUNT - 1) / (blockDim.x * COUNT);

    for (int64_t first = (int64_t)blockIdx.x * ROWS; first < a.N;
         first += (int64_t)gridDim.x * ROWS) {
        R sum[ROWS] = {};
        row_state<R> state[ROWS] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (first + i < a.N)
                state[i] = {((const R *)a.lse)[2 * (first + i)],
                            ((const R *)a.lse)[2 * (first + i) + 1], 0};
        for (int64_t slab = 0; slab < slabs; slab++) {
            const columns<R, WIDE> cols(slab, (int)threadIdx.x, (int)blockDim.x, a.O);
            const affine_of<R> v(cols, a.affine);
            R u[ROWS][COUNT], dy[ROWS][COUNT];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                if (first + i < a.N) {
                    cols.load(dy[i], (const T *)a.dy + (first + i) * a.lddy);
                    if (!LOG)
                        cols.load(u[i], (const R *)a.u + (first + i) * a.ldu);
                }
            }
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                R part = 0;
#pragma unroll
                for (int k = 0; k < COUNT; k++)
                    if (first + i < a.N && k < cols.count)
                        part += LOG ? dy[i][k] : dy[i][k] * state[i].probability(v(k, u[i][k]));
                sum[i] += part;
            }
        }
        __syncthreads(); /* the rows before have been written */
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            sum[i] = block_reduce(sum[i], sums[i], add_up());
            if (threadIdx.x == 0 && first + i < a.N)
                ((R *)a.dots)[first + i] = sum[i];
        }
    }
}

template <typename T>
cudaError_t launch_dots(const fbni_cuda_queue *queue, const fbni_cuda_gradient &a)
{
    using R = real_t<T>;
    constexpr int COUNT = 16 / (int)sizeof(R);
    const int warps = (int)least(ceil_div(a.O, 32 * COUNT), BLOCK / 32);
    const int64_t resident = (int64_t)queue->processors * (4 * BLOCK / 32 / warps);
    const bool wide =
        is_wide(a.u, a.ldu, a.O, COUNT, sizeof(R)) && is_wide(a.dy, a.lddy, a.O, COUNT, sizeof(T));
    const bool is_log = a.activation == FBN_ACT_LOG_SOFTMAX;
    const auto kernel = is_log
                            ? (wide ? softmax_dots<T, true, true> : softmax_dots<T, true, false>)
                            : (wide ? softmax_dots<T, false, true> : softmax_dots<T, false, false>);
    return launch(kernel, (unsigned)least(ceil_div(a.N, ROWS), resident), (unsigned)warps * 32,
                  queue->stream, a);
}

} // namespace

cudaError_t fbni_cuda_softmax_dots(const fbni_cuda_queue *queue, const fbni_cuda_gradient *gradient)
{
    switch (gradient->dtype) {
    case FBN_F64:
        return launch_dots<double>(queue, *gradient);
    case FBN_BF16:
        return launch_dots<__nv_bfloat16>(queue, *gradient);
    case FBN_F16:
        return launch_dots<__half>(queue, *gradient);
    default:
        return launch_dots<float>(queue, *gradient);
    }
}
