/* SPDX-License-Identifier: BSD-3-Clause
 *
 * y = softmax or log_softmax over each row of v = alpha (u - c) + shift:
 *
 *     top = max v,  sum = sum exp(v - top)
 *     softmax: exp(v - top) / sum,  log_softmax: (v - top) - log(sum)
 *
 * registers   A block takes one row at a time, each thread 4 vectors of it; coefficients and the
 *             row lie in registers, and the next row is on its way while this one is reduced. u is
 *             read once.
 * online      A block takes 4 rows at a time, which share the loads of the coefficients. First
 *             pass: maximum and sum together (Milakov & Gimelshein 2018, "Online normalizer
 *             calculation for softmax"); second pass: u again, which is still in the L2 cache,
 *             and y.
 */
#include "activations.cuh"

namespace
{

using namespace fbni;

template <typename T, bool WIDE>
struct shape {
    using R = real_t<T>;
    static constexpr int COUNT = columns<R, WIDE>::COUNT;
};

/* In two parts: beside a large top, a sum of both would have no digits left for the logarithm. */
template <typename R>
__device__ inline void store_lse(const fbni_cuda_finish &a, int64_t row, R top, R log_sum)
{
    ((R *)a.lse)[2 * row] = top;
    ((R *)a.lse)[2 * row + 1] = log_sum;
}

/* ---- registers ---- */

constexpr int VECTORS = 4, REGISTERS_THREADS = 512, MAX_WARPS = REGISTERS_THREADS / 32;

/* One row in registers: vector k of thread t is the t-th of the k-th slab of blockDim.x threads. */
template <typename T, bool WIDE>
struct row_of {
    using R = real_t<T>;
    static constexpr int COUNT = shape<T, WIDE>::COUNT;
    R v[VECTORS][COUNT];

    __device__ static columns<R, WIDE> cols(int k, int64_t O)
    {
        return columns<R, WIDE>(k, (int)threadIdx.x, (int)blockDim.x, O);
    }
    __device__ void load(const fbni_cuda_finish &a, int64_t row)
    {
#pragma unroll
        for (int k = 0; k < VECTORS; k++)
            cols(k, a.O).load(v[k], (const R *)a.u + row * a.ldu);
    }
    __device__ void store(const fbni_cuda_finish &a, int64_t row) const
    {
#pragma unroll
        for (int k = 0; k < VECTORS; k++)
            cols(k, a.O).store((T *)a.y + row * a.ldy, v[k]);
    }
};

/* v of the whole row, -infinity beyond its end; returns the thread's largest. */
template <typename T, bool WIDE, typename R = real_t<T>>
__device__ R affine_row(row_of<T, WIDE> &row, int64_t O, const R (&alpha)[VECTORS][16 / sizeof(R)],
                        const R (&c)[VECTORS][16 / sizeof(R)],
                        const R (&shift)[VECTORS][16 / sizeof(R)])
{
    R top = -infinity<R>();
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
        const int count = row_of<T, WIDE>::cols(k, O).count;
#pragma unroll
        for (int i = 0; i < row_of<T, WIDE>::COUNT; i++) {
            const R v = fma(alpha[k][i], row.v[k][i] - c[k][i], shift[k][i]);
            row.v[k][i] = i < count ? v : -infinity<R>();
            top = largest()(row.v[k][i], top);
        }
    }
    return top;
}

template <typename T, bool WIDE>
__global__ void __launch_bounds__(REGISTERS_THREADS) softmax_registers(fbni_cuda_finish a)
{
    using R = real_t<T>;
    constexpr int COUNT = shape<T, WIDE>::COUNT;
    const bool is_log = a.activation == FBN_ACT_LOG_SOFTMAX;
    __shared__ R tops[MAX_WARPS], sums[MAX_WARPS];
    R alpha[VECTORS][COUNT], c[VECTORS][COUNT], shift[VECTORS][COUNT];
    row_of<T, WIDE> row, next;
    int64_t i = blockIdx.x;

    wait_for_kernels();
    if (WIDE)
        next.load(a, i);
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
        const columns<R, WIDE> cols = row_of<T, WIDE>::cols(k, a.O);
        cols.load(alpha[k], (const R *)a.affine.alpha);
        cols.load(c[k], (const R *)a.affine.c);
        cols.load(shift[k], (const R *)a.affine.shift);
    }
    for (; i < a.N; i += gridDim.x) {
        if (WIDE)
            row = next;
        else /* the addresses leave no registers for a row on its way */
            row.load(a, i);
        if (WIDE && i + gridDim.x < a.N)
            next.load(a, i + gridDim.x);
        const R top = block_reduce(affine_row(row, a.O, alpha, c, shift), tops, largest());
        R sum = 0;
#pragma unroll
        for (int k = 0; k < VECTORS; k++) {
            const int count = row_of<T, WIDE>::cols(k, a.O).count;
#pragma unroll
            for (int j = 0; j < COUNT; j++) {
                const R e = exponential(row.v[k][j] - top);
                sum += j < count ? e : (R)0;
                row.v[k][j] = is_log ? row.v[k][j] - top : e;
            }
        }
        sum = block_reduce(sum, sums, add_up());
        const R log_sum = logarithm(sum), scale = 1 / sum;
#pragma unroll
        for (int k = 0; k < VECTORS; k++)
#pragma unroll
            for (int j = 0; j < COUNT; j++)
                row.v[k][j] = is_log ? row.v[k][j] - log_sum : row.v[k][j] * scale;
        row.store(a, i);
        if (a.lse && threadIdx.x == 0)
            store_lse(a, i, top, log_sum);
    }
}

/* ---- online ---- */

constexpr int ONLINE_THREADS = 512, ROWS = 4;

/* The largest of some numbers and the sum of their exponentials about it. */
template <typename R>
struct online {
    R top, sum;

    /* exp(top - other), and 0 where nothing but -infinity has been seen: never -inf - -inf. */
    __device__ static R rescale(R top, R other)
    {
        return top == -infinity<R>() ? (R)0 : exponential(top - other);
    }
    __device__ void raise(R other)
    {
        if (other > top) {
            sum *= rescale(top, other);
            top = other;
        }
    }
    __device__ void take(R v)
    {
        sum += v == -infinity<R>() ? (R)0 : exponential(v - top);
    }
};

/* What the rows of a block still are: fewer than ROWS at the end of the matrix. */
__device__ inline int rows_at(int64_t row, int64_t N)
{
    return (int)(N - row < ROWS ? N - row : ROWS);
}

template <typename T, bool WIDE>
__device__ void first_pass(const fbni_cuda_finish &a, int64_t first, int rows,
                           online<real_t<T>> (&state)[ROWS])
{
    using R = real_t<T>;
    constexpr int COUNT = shape<T, WIDE>::COUNT;
    const int64_t slabs = (a.O + blockDim.x * COUNT - 1) / (blockDim.x * COUNT);

    for (int64_t slab = 0; slab < slabs; slab++) {
        const columns<R, WIDE> cols(slab, (int)threadIdx.x, (int)blockDim.x, a.O);
        const affine_of<R> v(cols, a.affine);
        R u[ROWS][COUNT];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (i < rows)
                cols.load(u[i], (const R *)a.u + (first + i) * a.ldu);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (i < rows) {
                R top = -infinity<R>();
#pragma unroll
                for (int k = 0; k < COUNT; k++) {
                    u[i][k] = k < cols.count ? v(k, u[i][k]) : -infinity<R>();
                    top = largest()(u[i][k], top);
                }
                state[i].raise(top);
#pragma unroll
                for (int k = 0; k < COUNT; k++)
                    state[i].take(u[i][k]);
            }
        }
    }
}

template <typename T, bool WIDE>
__device__ void second_pass(const fbni_cuda_finish &a, int64_t first, int rows,
                            const real_t<T> (&top)[ROWS], const real_t<T> (&sum)[ROWS])
{
    using R = real_t<T>;
    constexpr int COUNT = shape<T, WIDE>::COUNT;
    const int64_t slabs = (a.O + blockDim.x * COUNT - 1) / (blockDim.x * COUNT);
    const bool is_log = a.activation == FBN_ACT_LOG_SOFTMAX;
    R last[ROWS]; /* log(sum) or 1/sum */

#pragma unroll
    for (int i = 0; i < ROWS; i++)
        last[i] = is_log ? logarithm(sum[i]) : 1 / sum[i];
    for (int64_t slab = 0; slab < slabs; slab++) {
        const columns<R, WIDE> cols(slab, (int)threadIdx.x, (int)blockDim.x, a.O);
        const affine_of<R> v(cols, a.affine);
        R u[ROWS][COUNT];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (i < rows)
                cols.load(u[i], (const R *)a.u + (first + i) * a.ldu);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (i < rows) {
#pragma unroll
                for (int k = 0; k < COUNT; k++) {
                    const R about = v(k, u[i][k]) - top[i];
                    u[i][k] = is_log ? about - last[i] : exponential(about) * last[i];
                }
                cols.store((T *)a.y + (first + i) * a.ldy, u[i]);
            }
        }
    }
}

template <typename T, bool WIDE>
__global__ void __launch_bounds__(ONLINE_THREADS, 1) softmax_online(fbni_cuda_finish a)
{
    using R = real_t<T>;
    __shared__ R tops[ROWS][ONLINE_THREADS / 32], sums[ROWS][ONLINE_THREADS / 32];

    wait_for_kernels();
    for (int64_t first = (int64_t)blockIdx.x * ROWS; first < a.N;
         first += (int64_t)gridDim.x * ROWS) {
        const int rows = rows_at(first, a.N);
        online<R> state[ROWS];
        R top[ROWS], sum[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            state[i] = {-infinity<R>(), 0};
        first_pass<T, WIDE>(a, first, rows, state);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            top[i] = block_reduce(state[i].top, tops[i], largest());
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            /* a NaN sum stays: nothing but -infinity seen is sum 0, unless NaN was */
            const R share = state[i].sum == 0 ? (R)0 : exponential(state[i].top - top[i]);
            sum[i] = block_reduce(state[i].sum * share, sums[i], add_up());
        }
        second_pass<T, WIDE>(a, first, rows, top, sum);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (a.lse && threadIdx.x == 0 && i < rows)
                store_lse(a, first + i, top[i], logarithm(sum[i]));
    }
}

/* ---- launchers ---- */

template <typename T>
bool moves_wide(const fbni_cuda_finish &a)
{
    using R = real_t<T>;
    constexpr int COUNT = 16 / (int)sizeof(R);
    return is_wide(a.u, a.ldu, a.O, COUNT, sizeof(R)) && is_wide(a.y, a.ldy, a.O, COUNT, sizeof(T));
}

template <typename T>
cudaError_t launch_registers(const fbni_cuda_queue *queue, const fbni_cuda_finish &a)
{
    constexpr int COUNT = 16 / (int)sizeof(real_t<T>);
    const int warps = (int)ceil_div(a.O, 32 * COUNT * VECTORS);
    /* as many blocks as fit: each thread may take 128 registers, and a block is at least a warp */
    const int64_t resident = (int64_t)queue->processors * (MAX_WARPS / warps);
    return launch_ahead(moves_wide<T>(a) ? softmax_registers<T, true> : softmax_registers<T, false>,
                        (unsigned)least(a.N, resident), (unsigned)warps * 32, queue, 0, a);
}

template <typename T>
cudaError_t launch_online(const fbni_cuda_queue *queue, const fbni_cuda_finish &a)
{
    constexpr int COUNT = 16 / (int)sizeof(real_t<T>);
    const int warps = (int)least(ceil_div(a.O, 32 * COUNT), ONLINE_THREADS / 32);
    const int64_t resident = (int64_t)queue->processors * (2 * ONLINE_THREADS / 32 / warps);
    return launch_ahead(moves_wide<T>(a) ? softmax_online<T, true> : softmax_online<T, false>,
                        (unsigned)least(ceil_div(a.N, ROWS), resident), (unsigned)warps * 32, queue,
                        0, a);
}

} // namespace

int64_t fbni_cuda_softmax_registers_most(int is_double)
{
    return (int64_t)REGISTERS_THREADS * VECTORS * (is_double ? 2 : 4);
}

cudaError_t fbni_cuda_softmax_registers(const fbni_cuda_queue *queue,
                                        const fbni_cuda_finish *finish)
{
    switch (finish->dtype) {
    case FBN_F64:
        return launch_registers<double>(queue, *finish);
    case FBN_BF16:
        return launch_registers<__nv_bfloat16>(queue, *finish);
    case FBN_F16:
        return launch_registers<__half>(queue, *finish);
    default:
        return launch_registers<float>(queue, *finish);
    }
}

cudaError_t fbni_cuda_softmax_online(const fbni_cuda_queue *queue, const fbni_cuda_finish *finish)
{
    switch (finish->dtype) {
    case FBN_F64:
        return launch_online<double>(queue, *finish);
    case FBN_BF16:
        return launch_online<__nv_bfloat16>(queue, *finish);
    case FBN_F16:
        return launch_online<__half>(queue, *finish);
    default:
        return launch_online<float>(queue, *finish);
    }
}
