/* SPDX-License-Identifier: BSD-3-Clause
 *
 * du = alpha (g + (du_u (u - c) + du_1)), with g recomputed from dy and u; frozen: du = alpha g
 * (du_1 is 0, or NaN where the saved buffer is another's).
 *
 * du is stored as reals; or rounded to the data's half type, as the unfused batch normalisation
 * stores it, since the tensor cores multiply it with W and x so. f16 holds du times a power of two at
 * which the largest that there can be is just below 2^15: what is lost is 2^-39 of that, and 2^-11 of
 * du itself.
 *
 * A block is a slab of columns wide; its threads go down the rows, 4 rows in flight each, from the
 * first row: the sums were taken the other way.
 */
#include "gradients.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = FBNI_CUDA_BLOCK, ROWS = 4;

/* Blocks that a multiprocessor holds, as far as registers go. */
template <typename R>
constexpr int BLOCKS = sizeof(R) == sizeof(double) ? 1 : FBNI_CUDA_GRADIENT_BLOCKS;

template <typename T, fbn_activation ACT, bool WIDE>
__global__ void __launch_bounds__(BLOCK, BLOCKS<real_t<T>>)
    input_gradient(fbni_cuda_gradient a, fbni_cuda_input_gradient to, int lanes)
{
    using R = real_t<T>;
    constexpr int COUNT = columns<R, WIDE>::COUNT;
    constexpr bool HALF = sizeof(T) < sizeof(R);
    const int step = BLOCK / lanes;
    const columns<R, WIDE> cols(blockIdx.x, (int)threadIdx.x % lanes, lanes, a.O);
    const affine_of<R> v(cols, a.affine);
    const bool frozen = a.saved->frozen != 0;
    const int power = HALF && to.scale ? scale_power(to.scale) : 0;
    R du_u[COUNT], du_1[COUNT], alpha[COUNT];
    float most[COUNT] = {};

    if (is_packed(a))
        return;
    if (HALF && to.scale)
        keep_restore(to.scale, power);
    if (!cols.any())
        return;
    cols.load(du_u, (const R *)to.slopes.du_u);
    cols.load(du_1, (const R *)to.slopes.du_1);
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        alpha[k] = v.alpha[k] * (to.maxima ? (R)power_of_two(-power_of((float)v.alpha[k])) : (R)1);
    for (int64_t row = (int64_t)blockIdx.y * (step * ROWS) + (int)threadIdx.x / lanes; row < a.N;
         row += (int64_t)gridDim.y * (step * ROWS)) {
        R u[ROWS][COUNT], g[ROWS][COUNT];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row + i * step < a.N) {
                cols.load(g[i], (const T *)a.dy + (row + i * step) * a.lddy);
                if (ACT != FBN_ACT_NONE || !frozen)
                    cols.load(u[i], (const R *)a.u + (row + i * step) * a.ldu);
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row + i * step < a.N) {
                gradient_row<ACT>(g[i], u[i], v, a, row + i * step);
#pragma unroll
                for (int k = 0; k < COUNT; k++) {
                    const R mean_part = frozen ? du_1[k] : fma(du_u[k], u[i][k] - v.c[k], du_1[k]);
                    g[i][k] = alpha[k] * (g[i][k] + mean_part);
                    if (to.maxima && isfinite(g[i][k]))
                        most[k] = fmaxf(most[k], fabsf((float)g[i][k]));
                    if (HALF)
                        g[i][k] *= power_of_two(power);
                }
                if (HALF && to.rounds)
                    cols.store((T *)to.du + (row + i * step) * a.O, g[i]);
                else
                    cols.store((R *)to.du + (row + i * step) * a.O, g[i]);
            }
        }
    }
    if (to.maxima) {
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            if (k < cols.count)
                raise(&to.maxima[cols.first + k * cols.stride], __float_as_uint(most[k]));
    }
}

struct launch_gradient {
    const fbni_cuda_queue *queue;
    const fbni_cuda_gradient &a;
    const fbni_cuda_input_gradient &to;

    template <typename T, fbn_activation ACT>
    cudaError_t operator()() const
    {
        using R = real_t<T>;
        const int lanes = fbni_cuda_lanes(a.O, sizeof(R));
        const int64_t slabs = fbni_cuda_slabs(a.O, lanes, sizeof(R));
        const int blocks = fbni_cuda_share_rows(slabs, (int64_t)queue->processors * BLOCKS<R>,
                                                ceil_div(a.N, BLOCK / lanes * ROWS));
        return launch(gradient_is_wide<T>(a) ? input_gradient<T, ACT, true>
                                             : input_gradient<T, ACT, false>,
                      dim3((unsigned)slabs, (unsigned)blocks), BLOCK, queue->stream, a, to, lanes);
    }
};

} // namespace

cudaError_t fbni_cuda_input_gradient_of(const fbni_cuda_queue *queue,
                                        const fbni_cuda_gradient *gradient,
                                        const fbni_cuda_input_gradient *input)
{
    return for_gradient(*gradient, launch_gradient{queue, *gradient, *input});
}
