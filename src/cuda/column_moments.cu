/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Column moments of u [N,O]: (count, sum, M2) of each chunk of rows, about a value near its mean.
 *
 *     shift = the median of the means of a few of the chunk's first, middle and last rows
 *     sum   = sum of u - shift
 *     m2    = sum of (u - shift - sum/n)^2
 *
 * A column of equal values has sum and m2 exactly 0, the mean shift + sum/n keeps full relative
 * precision when |mean| >> std, and a sum of few-digit numbers is exact where a mean of them is
 * not. Never E[u^2] - E[u]^2.
 *
 *                columns
 *             +-----+-----+--        A block has `lanes` × 256/lanes threads: a slab of up to 32
 *     rows    |slab |slab | ...      16-byte vectors, and as many rows. A thread takes 8 rows of a
 *             |     |     |          group at once (8 loads in flight): their mean, then the
 *     group g |#####|     |          squares about it, then the merge with what it has (Chan, Golub
 *             |     |     |          & LeVeque 1983). At the end the block's threads of a column
 *     group g-|#####|     |          merge as a tree, in shared memory.
 *      chunks |     |     |
 */
#include "device.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = FBNI_CUDA_BLOCK, GROUP = FBNI_CUDA_GROUP;

template <typename R>
struct moments {
    static constexpr int COUNT = 16 / (int)sizeof(R);
    R n, sum[COUNT], m2[COUNT];
};

/* ROWS more rows, `step` elements apart. */
template <int ROWS, typename R, bool WIDE>
__device__ void take_rows(moments<R> &m, const columns<R, WIDE> &cols, const R *row, int64_t step,
                          const R (&shift)[moments<R>::COUNT])
{
    constexpr int COUNT = moments<R>::COUNT;
    R d[ROWS][COUNT];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        cols.load(d[i], row + i * step);
    const R per_before = m.n > 0 ? 1 / m.n : (R)0;
    const R factor = m.n * ((R)ROWS / (m.n + (R)ROWS));
    m.n += (R)ROWS;
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        R sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            d[i][k] -= shift[k];
            sum += d[i][k];
        }
        const R mean = sum * ((R)1 / (R)ROWS); /* ROWS: a power of two */
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            squares = fma(d[i][k] - mean, d[i][k] - mean, squares);
        const R delta = mean - m.sum[k] * per_before;
        m.sum[k] += sum;
        m.m2[k] += fma(delta * factor, delta, squares);
    }
}

/* The threads of each column, as a tree; the result is in the first row of threads. */
template <typename R>
__device__ void merge_threads(moments<R> &m, int lanes)
{
    constexpr int COUNT = moments<R>::COUNT;
    __shared__ R n[BLOCK], sum[COUNT][BLOCK], m2[COUNT][BLOCK];
    const int me = (int)threadIdx.x;

    for (int half = BLOCK / 2; half >= lanes; half /= 2) {
        if (me >= half && me < 2 * half) {
            n[me] = m.n;
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                sum[k][me] = m.sum[k];
                m2[k][me] = m.m2[k];
            }
        }
        __syncthreads();
        if (me < half && n[me + half] > 0) {
            const R more = n[me + half], per_more = 1 / more, per_before = 1 / m.n;
            const R factor = m.n * (more / (m.n + more));
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                const R delta = sum[k][me + half] * per_more - m.sum[k] * per_before;
                m.sum[k] += sum[k][me + half];
                m.m2[k] += fma(delta * factor, delta, m2[k][me + half]);
            }
            m.n += more;
        }
    }
}

__device__ int64_t rows_in(const fbni_cuda_chunks &chunks, int64_t group)
{
    const int64_t left = chunks.rows - group * chunks.group_rows;
    return left < chunks.group_rows ? left : chunks.group_rows;
}

/* Where `few` rows of a group begin: its first, middle or last ones. */
__device__ int64_t row_in(const fbni_cuda_chunks &chunks, int64_t group, int part, int few)
{
    return group * chunks.group_rows + part * (rows_in(chunks, group) - few) / 2;
}

template <typename R, bool WIDE>
__global__ void __launch_bounds__(BLOCK, sizeof(R) == sizeof(double) ? 2 : FBNI_CUDA_MOMENT_BLOCKS)
    column_moments(const R *u, int64_t ldu, int64_t O, fbni_cuda_chunks chunks, R *partials)
{
    constexpr int COUNT = moments<R>::COUNT;
    const int lane = (int)threadIdx.x % chunks.lanes, first = (int)threadIdx.x / chunks.lanes;
    const int step = BLOCK / chunks.lanes; /* between a thread's rows of a group */
    const columns<R, WIDE> cols(blockIdx.x, lane, chunks.lanes, O);
    int64_t group = chunks.groups - 1 - (int64_t)blockIdx.y;
    const int64_t more = group / chunks.chunks;     /* groups after this one */
    const int few = few_of(rows_in(chunks, group)); /* only the last group may be short */
    R shift[COUNT];
    moments<R> m = {};

    load_shift(shift, cols, u + row_in(chunks, group, 0, few) * ldu,
               u + row_in(chunks, group - more / 2 * chunks.chunks, 1, few) * ldu,
               u + row_in(chunks, group - more * chunks.chunks, 2, few) * ldu, ldu, few);
    for (; group >= 0; group -= chunks.chunks) {
        int64_t row = group * chunks.group_rows + first;
        if ((group + 1) * chunks.group_rows <= chunks.rows) {
            take_rows<GROUP>(m, cols, u + row * ldu, step * ldu, shift);
        } else {
            for (; row < chunks.rows; row += step)
                take_rows<1>(m, cols, u + row * ldu, 0, shift);
        }
    }
    merge_threads(m, chunks.lanes);
    if (first == 0) {
        R *to = partials + (int64_t)blockIdx.y * 3 * O;
        cols.store(to, shift);
        cols.store(to + O, m.sum);
        cols.store(to + 2 * O, m.m2);
    }
}

template <typename R>
cudaError_t launch_moments(const fbni_cuda_queue *queue, int64_t O, const void *u, int64_t ldu,
                           const fbni_cuda_chunks &chunks, void *partials)
{
    constexpr int COUNT = moments<R>::COUNT;
    const dim3 grid((unsigned)fbni_cuda_slabs(O, chunks.lanes, sizeof(R)), (unsigned)chunks.chunks);
    const auto kernel =
        is_wide(u, ldu, O, COUNT, sizeof(R)) ? column_moments<R, true> : column_moments<R, false>;
    return launch(kernel, grid, BLOCK, queue->stream, (const R *)u, ldu, O, chunks, (R *)partials);
}

} // namespace

cudaError_t fbni_cuda_column_moments(const fbni_cuda_queue *queue, int is_double, int64_t O,
                                     const void *u, int64_t ldu, const fbni_cuda_chunks *chunks,
                                     void *partials)
{
    return is_double ? launch_moments<double>(queue, O, u, ldu, *chunks, partials)
                     : launch_moments<float>(queue, O, u, ldu, *chunks, partials);
}
