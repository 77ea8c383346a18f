/* SPDX-License-Identifier: BSD-3-Clause
 *
 * G = sum g and K = sum g (u - centre) over the rows of each chunk, column by column. The centre is
 * fbni_cuda_features_restore's.
 *
 * Cut like the column moments (column_moments.cu): a block has a slab of columns and a chunk of row
 * groups, from the last to the first. A thread adds 4 rows, then their sum to what it has; at the
 * end the block's threads of a column are added as a tree, in shared memory. Of f16 data the largest
 * |g| of each column comes with them, for the scale of du.
 */
#include "gradients.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = FBNI_CUDA_BLOCK, ROWS = 4;
static_assert(FBNI_CUDA_GROUP % ROWS == 0, "a group is taken in whole steps");

/* Up to ROWS rows, `step` apart. */
template <fbn_activation ACT, typename T, typename R, bool WIDE>
__device__ void take_rows(sums<R> &total, const fbni_cuda_gradient &a, const columns<R, WIDE> &cols,
                          const affine_of<R> &v, const R (&centre)[sums<R>::COUNT], int64_t row,
                          int step)
{
    constexpr int COUNT = sums<R>::COUNT;
    R u[ROWS][COUNT], g[ROWS][COUNT];
    sums<R> part = {};
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int64_t at = row + i * step;
        if (at < a.N) {
            cols.load(u[i], (const R *)a.u + at * a.ldu);
            cols.load(g[i], (const T *)a.dy + at * a.lddy);
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        if (row + i * step < a.N) {
            gradient_row<ACT>(g[i], u[i], v, a, row + i * step);
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                part.g[k] += g[i][k];
                part.gu[k] = fma(g[i][k], u[i][k] - centre[k], part.gu[k]);
                if (HAS_MOST<T> && isfinite(g[i][k]))
                    total.most[k] = fmax(total.most[k], fabs(g[i][k]));
            }
        }
    }
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        total.g[k] += part.g[k];
        total.gu[k] += part.gu[k];
    }
}

template <typename T, fbn_activation ACT, bool WIDE>
__global__ void __launch_bounds__(BLOCK, sizeof(T) == 8 ? 1 : FBNI_CUDA_GRADIENT_BLOCKS)
    gradient_sums(fbni_cuda_gradient a, fbni_cuda_chunks chunks, real_t<T> *partials)
{
    using R = real_t<T>;
    const int lane = (int)threadIdx.x % chunks.lanes, first = (int)threadIdx.x / chunks.lanes;
    const int step = BLOCK / chunks.lanes;
    const columns<R, WIDE> cols(blockIdx.x, lane, chunks.lanes, a.O);
    const affine_of<R> v(cols, a.affine);
    R centre[sums<R>::COUNT];
    sums<R> total = {};

    if (is_packed(a))
        return;
    cols.load(centre, (const R *)a.centre);
    for (int64_t group = chunks.groups - 1 - (int64_t)blockIdx.y; group >= 0;
         group -= chunks.chunks)
        for (int i = 0; i < FBNI_CUDA_GROUP; i += ROWS)
            take_rows<ACT, T>(total, a, cols, v, centre,
                              group * chunks.group_rows + first + (int64_t)i * step, step);
    add_threads<HAS_MOST<T>>(total, chunks.lanes);
    if (first == 0) {
        R *to = partials + (int64_t)blockIdx.y * (HAS_MOST<T> ? 3 : 2) * a.O;
        cols.store(to, total.g);
        cols.store(to + a.O, total.gu);
        if (HAS_MOST<T>)
            cols.store(to + 2 * a.O, total.most);
    }
}

struct launch_sums {
    const fbni_cuda_queue *queue;
    const fbni_cuda_gradient &a;
    const fbni_cuda_chunks &chunks;
    void *partials;

    template <typename T, fbn_activation ACT>
    cudaError_t operator()() const
    {
        using R = real_t<T>;
        const dim3 grid((unsigned)fbni_cuda_slabs(a.O, chunks.lanes, sizeof(R)),
                        (unsigned)chunks.chunks);
        return launch(gradient_is_wide<T>(a) ? gradient_sums<T, ACT, true>
                                             : gradient_sums<T, ACT, false>,
                      grid, BLOCK, queue->stream, a, chunks, (R *)partials);
    }
};

} // namespace

cudaError_t fbni_cuda_gradient_sums(const fbni_cuda_queue *queue,
                                    const fbni_cuda_gradient *gradient,
                                    const fbni_cuda_chunks *chunks, void *partials)
{
    return for_gradient(*gradient, launch_sums{queue, *gradient, *chunks, partials});
}
