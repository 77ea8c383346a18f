/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backward of a small layer up to du in one launch: what features_restore, gradient_sums,
 * features_backward and input_gradient do one after the other, each waiting for the last. An
 * activation over rows takes the rows' sums first, for which alpha, c and shift are restored; and f16's
 * du has a scale that all features have to be known for: input_gradient makes it.
 *
 * A block has a slab of columns, `lanes` threads wide, and all of the batch: its threads keep 4 rows
 * of u and g each in registers, from their load to du.
 *
 *     load     u, dy; meanwhile alpha, c, shift of each column, a column a thread
 *     sums     g, then sum g and sum g (u - centre), over the threads of a column as a tree
 *     feature  algebra.h, a column a thread; the parameters' gradients
 *     du
 *
 * 128 x 1024 -> 512 on an H200: 5.4 us in bf16, where the four kernels take 17.5 (h200-hopper.txt, 15).
 */
#include "features_backward.cuh"
#include "gradients.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = FBNI_CUDA_BLOCK, ROWS = FBNI_CUDA_BACKWARD_ROWS;
constexpr int WIDEST = 32 * 4; /* columns of a slab at most */

/* What a slab's columns need, a column a thread. */
template <typename R>
struct slab_terms {
    R alpha[WIDEST], c[WIDEST], shift[WIDEST], centre[WIDEST];
    R G[WIDEST], K[WIDEST], most[WIDEST];
    R du_u[WIDEST], du_1[WIDEST];
};

/* A thread's columns of one of them. */
template <typename R, bool WIDE, int COUNT>
__device__ inline void take(R (&out)[COUNT], const R *from, const columns<R, WIDE> &cols,
                            int64_t slab)
{
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        out[k] = from[cols.first - slab + k * cols.stride];
}

/* g of a thread's rows, in place of dy. */
template <fbn_activation ACT, typename R, int COUNT>
__device__ inline void gradient_rows(R (&g)[ROWS][COUNT], const R (&u)[ROWS][COUNT],
                                     const affine_of<R> &v, const fbni_cuda_gradient &a, int first,
                                     int step)
{
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        if (first + i * (int64_t)step < a.N)
            gradient_row<ACT>(g[i], u[i], v, a, first + i * (int64_t)step);
}

template <typename R, int COUNT>
__device__ inline void gradient_rows(R (&g)[ROWS][COUNT], const R (&u)[ROWS][COUNT],
                                     const affine_of<R> &v, const fbni_cuda_gradient &a, int first,
                                     int step)
{
    switch (a.activation) {
    case FBN_ACT_RELU:
        return gradient_rows<FBN_ACT_RELU>(g, u, v, a, first, step);
    case FBN_ACT_GELU:
        return gradient_rows<FBN_ACT_GELU>(g, u, v, a, first, step);
    case FBN_ACT_SILU:
        return gradient_rows<FBN_ACT_SILU>(g, u, v, a, first, step);
    case FBN_ACT_SOFTMAX:
        return gradient_rows<FBN_ACT_SOFTMAX>(g, u, v, a, first, step);
    case FBN_ACT_LOG_SOFTMAX:
        return gradient_rows<FBN_ACT_LOG_SOFTMAX>(g, u, v, a, first, step);
    default:
        return;
    }
}

template <typename T, bool WIDE>
__global__ void __launch_bounds__(BLOCK)
    backward_slab(const __grid_constant__ fbni_cuda_slab a, int lanes)
{
    using R = real_t<T>;
    constexpr int COUNT = columns<R, WIDE>::COUNT;
    constexpr bool MOST = HAS_MOST<T>;
    __shared__ slab_terms<R> terms;
    const fbni_cuda_gradient &from = a.gradient;
    const int me = (int)threadIdx.x, first = me / lanes, step = BLOCK / lanes;
    const int width = lanes * COUNT;
    const columns<R, WIDE> cols(blockIdx.x, me % lanes, lanes, from.O);
    const int64_t slab = (int64_t)blockIdx.x * width, j = slab + me;
    const bool has_column = me < width && j < from.O;
    const bool frozen = from.saved->frozen != 0;
    R u[ROWS][COUNT], g[ROWS][COUNT], centre[COUNT];
    affine_of<R> v;
    fbni_feature f = {};
    fbni_norm norm = {};
    sums<R> total = {};

#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int64_t row = first + i * (int64_t)step;
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            u[i][k] = g[i][k] = 0;
        if (row < from.N) {
            cols.load(u[i], (const R *)from.u + row * from.ldu);
            cols.load(g[i], (const T *)from.dy + row * from.lddy);
        }
    }
    if (has_column) {
        f = feature_of<R>(a.features.params, j);
        norm = load_norm(a.features.norm, from.O, j);
        const fbni_affine affine = fbni_affine_of(f, norm, IS_SINGLE<R>);
        const int rows = from.N < CENTRE_ROWS ? (int)from.N : CENTRE_ROWS;
        double mean = 0;
        for (int i = 0; frozen && i < rows; i++)
            mean += (double)((const R *)from.u)[i * from.ldu + j] / rows;
        store_affine<R>(from.affine, j, affine);
        terms.alpha[me] = (R)affine.alpha;
        terms.c[me] = (R)affine.c;
        terms.shift[me] = (R)affine.shift;
        terms.centre[me] = frozen ? (R)mean : (R)affine.c;
    }
    __syncthreads();
    take(v.alpha, terms.alpha, cols, slab);
    take(v.c, terms.c, cols, slab);
    take(v.shift, terms.shift, cols, slab);
    take(centre, terms.centre, cols, slab);

    gradient_rows(g, u, v, from, first, step);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        if (first + i * (int64_t)step < from.N) {
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                total.g[k] += g[i][k];
                total.gu[k] = fma(g[i][k], u[i][k] - centre[k], total.gu[k]);
                if (MOST && isfinite(g[i][k]))
                    total.most[k] = fmax(total.most[k], fabs(g[i][k]));
            }
        }
    }
    add_threads<MOST>(total, lanes);
    if (first == 0) {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            terms.G[cols.first - slab + k * cols.stride] = total.g[k];
            terms.K[cols.first - slab + k * cols.stride] = total.gu[k];
            if (MOST)
                terms.most[cols.first - slab + k * cols.stride] = total.most[k];
        }
    }
    __syncthreads();
    if (has_column) {
        const fbni_feature_grads d =
            finish_feature<R>(a.features, j, f, norm, (double)terms.centre[me], (double)terms.G[me],
                              (double)terms.K[me]);
        terms.du_u[me] = (R)d.du_u;
        terms.du_1[me] = (R)d.du_1;
        if (MOST)
            raise_bound(&a.features.scale->bound,
                        fbni_du_bound(d, (double)terms.most[me], (double)from.N));
    }
    if (!a.wants_du)
        return;
    __syncthreads();
    R du_u[COUNT], du_1[COUNT];
    take(du_u, terms.du_u, cols, slab);
    take(du_1, terms.du_1, cols, slab);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int64_t row = first + i * (int64_t)step;
        if (row < from.N) {
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                const R mean_part = frozen ? du_1[k] : fma(du_u[k], u[i][k] - v.c[k], du_1[k]);
                g[i][k] = v.alpha[k] * (g[i][k] + mean_part);
            }
            if (sizeof(T) < sizeof(R) && a.input.rounds)
                cols.store((T *)a.input.du + row * from.O, g[i]);
            else
                cols.store((R *)a.input.du + row * from.O, g[i]);
        }
    }
}

template <typename T>
cudaError_t launch_slab(const fbni_cuda_queue *queue, const fbni_cuda_slab &a)
{
    using R = real_t<T>;
    const int lanes =
        fbni_cuda_backward_lanes(queue->processors, a.gradient.N, a.gradient.O, sizeof(R));
    const int64_t slabs = fbni_cuda_slabs(a.gradient.O, lanes, sizeof(R));

    return launch(gradient_is_wide<T>(a.gradient) ? backward_slab<T, true>
                                                  : backward_slab<T, false>,
                  (unsigned)slabs, BLOCK, queue->stream, a, lanes);
}

} // namespace

cudaError_t fbni_cuda_backward_slab(const fbni_cuda_queue *queue, const fbni_cuda_slab *slab)
{
    switch (slab->gradient.dtype) {
    case FBN_F64:
        return launch_slab<double>(queue, *slab);
    case FBN_BF16:
        return launch_slab<__nv_bfloat16>(queue, *slab);
    case FBN_F16:
        return launch_slab<__half>(queue, *slab);
    default:
        return launch_slab<float>(queue, *slab);
    }
}
