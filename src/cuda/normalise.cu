/* SPDX-License-Identifier: BSD-3-Clause
 *
 * y = act(alpha (u - c) + shift), element by element: one read of u, one write of y.
 *
 * A block is a slab of columns wide (up to 32 vectors of 16 bytes) and keeps their coefficients in
 * registers; its threads go down the rows, 4 rows in flight each, from the first row of the matrix
 * to the last: the moments were taken the other way, so that the first rows are still in the L2
 * cache.
 */
#include "activations.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = FBNI_CUDA_BLOCK, ROWS = 4;

/* Blocks that a multiprocessor holds, as far as registers go. */
template <typename R>
constexpr int BLOCKS = sizeof(R) == sizeof(double) ? 2 : 4;

template <typename T, fbn_activation ACT, bool WIDE>
__global__ void __launch_bounds__(BLOCK, BLOCKS<real_t<T>>) normalise(fbni_cuda_finish a, int lanes)
{
    using R = real_t<T>;
    constexpr int COUNT = columns<R, WIDE>::COUNT;
    const int step = BLOCK / lanes;
    const columns<R, WIDE> cols(blockIdx.x, (int)threadIdx.x % lanes, lanes, a.O);

    if (!cols.any())
        return;
    wait_for_kernels();
    const affine_of<R> v(cols, a.affine);
    for (int64_t row = (int64_t)blockIdx.y * (step * ROWS) + (int)threadIdx.x / lanes; row < a.N;
         row += (int64_t)gridDim.y * (step * ROWS)) {
        const R *u = (const R *)a.u + row * a.ldu;
        T *y = (T *)a.y + row * a.ldy;
        R value[ROWS][COUNT];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (row + i * step < a.N)
                cols.load(value[i], u + i * step * a.ldu);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row + i * step < a.N) {
#pragma unroll
                for (int k = 0; k < COUNT; k++)
                    value[i][k] = activate<ACT>(v(k, value[i][k]));
                cols.store(y + i * step * a.ldy, value[i]);
            }
        }
    }
}

template <typename T, fbn_activation ACT>
cudaError_t launch_activation(const fbni_cuda_queue *queue, const fbni_cuda_finish &a)
{
    using R = real_t<T>;
    constexpr int COUNT = 16 / (int)sizeof(R);
    const int lanes = fbni_cuda_lanes(a.O, sizeof(R));
    const int64_t slabs = fbni_cuda_slabs(a.O, lanes, sizeof(R));
    const int blocks = fbni_cuda_share_rows(slabs, (int64_t)queue->processors * BLOCKS<R>,
                                            ceil_div(a.N, BLOCK / lanes * ROWS));
    const bool wide =
        is_wide(a.u, a.ldu, a.O, COUNT, sizeof(R)) && is_wide(a.y, a.ldy, a.O, COUNT, sizeof(T));
    return launch_ahead(wide ? normalise<T, ACT, true> : normalise<T, ACT, false>,
                        dim3((unsigned)slabs, (unsigned)blocks), BLOCK, queue, 0, a, lanes);
}

template <typename T>
cudaError_t launch_normalise(const fbni_cuda_queue *queue, const fbni_cuda_finish &a)
{
    switch (a.activation) {
    case FBN_ACT_RELU:
        return launch_activation<T, FBN_ACT_RELU>(queue, a);
    case FBN_ACT_GELU:
        return launch_activation<T, FBN_ACT_GELU>(queue, a);
    case FBN_ACT_SILU:
        return launch_activation<T, FBN_ACT_SILU>(queue, a);
    default:
        return launch_activation<T, FBN_ACT_NONE>(queue, a);
    }
}

} // namespace

cudaError_t fbni_cuda_normalise(const fbni_cuda_queue *queue, const fbni_cuda_finish *finish)
{
    switch (finish->dtype) {
    case FBN_F64:
        return launch_normalise<double>(queue, *finish);
    case FBN_BF16:
        return launch_normalise<__nv_bfloat16>(queue, *finish);
    case FBN_F16:
        return launch_normalise<__half>(queue, *finish);
    default:
        return launch_normalise<float>(queue, *finish);
    }
}
