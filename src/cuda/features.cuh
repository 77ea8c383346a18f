/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One feature on the device: its parameters, and what training does with its moments. Shared by the
 * kernels that end in the algebra of algebra.h.
 */
#ifndef FBNI_CUDA_FEATURES_CUH
#define FBNI_CUDA_FEATURES_CUH

#include "device.cuh"

#include "algebra.h"

namespace fbni
{

template <typename R>
constexpr int IS_SINGLE = sizeof(R) == sizeof(float);

template <typename R>
__device__ inline double parameter(const void *p, int64_t j, double absent)
{
    return p ? (double)((const R *)p)[j] : absent;
}

template <typename R>
__device__ inline fbni_feature feature_of(const fbni_cuda_params &p, int64_t j)
{
    fbni_feature f;
    f.s = parameter<R>(p.pre_scale, p.pre_per_feature ? j : 0, 1);
    f.t = parameter<R>(p.post_scale, p.post_per_feature ? j : 0, 1);
    f.b = parameter<R>(p.bias, j, 0);
    f.gamma = parameter<R>(p.gamma, j, 1);
    f.beta = parameter<R>(p.beta, j, 0);
    return f;
}

/* What a feature's running statistics are updated with, besides the batch's: to be had early. */
struct running_state {
    double mean, var, momentum;
};

/* The statistics alone. */
template <typename R>
__device__ inline running_state frozen_state_of(const fbni_cuda_features &a, int64_t j)
{
    running_state r = {};
    r.mean = (double)((const R *)a.running_mean)[j];
    r.var = (double)((const R *)a.running_var)[j];
    return r;
}

template <typename R>
__device__ inline running_state running_of(const fbni_cuda_features &a, int64_t j)
{
    running_state r = {};
    if (a.running_mean) {
        r = frozen_state_of<R>(a, j);
        r.momentum =
            a.flags & FBN_CUMULATIVE_AVERAGE ? fbni_cumulative_momentum(*a.count) : a.momentum;
    }
    return r;
}

template <typename R>
__device__ inline void update_running(const fbni_cuda_features &a, int64_t j,
                                      const running_state &r, fbni_batch_stats batch)
{
    const double unbiased = batch.var * a.unbias;
    if ((a.flags & FBN_SKIP_NONFINITE) && !(isfinite((R)batch.mean) && isfinite((R)unbiased)))
        return;
    ((R *)a.running_mean)[j] = (R)fbni_running_next(r.mean, batch.mean, r.momentum);
    ((R *)a.running_var)[j] = (R)fbni_running_next(r.var, unbiased, r.momentum);
}

template <typename R>
__device__ inline void store_norm(const fbni_cuda_features &a, int64_t j, fbni_norm n)
{
    if (!a.norm)
        return;
    a.norm[j] = n.r;
    a.norm[a.O + j] = n.c;
    a.norm[2 * a.O + j] = n.e;
    a.norm[3 * a.O + j] = n.d;
}

__device__ inline fbni_norm load_norm(const double *norm, int64_t O, int64_t j)
{
    const fbni_norm n = {norm[j], norm[O + j], norm[2 * O + j], norm[3 * O + j]};
    return n;
}

template <typename R>
__device__ inline void store_affine(const fbni_cuda_affine &to, int64_t j, fbni_affine a)
{
    ((R *)to.alpha)[j] = (R)a.alpha;
    ((R *)to.c)[j] = (R)a.c;
    ((R *)to.shift)[j] = (R)a.shift;
}

/* Squares may leave float's range though u and its variance do not leave a double's: upwards, or
 * downwards (where the mean of the differences, not squared, tells them from a constant). Then the
 * moments are taken again, in double. */
template <typename R>
__device__ inline bool is_beyond(double mean_low, double var)
{
    return IS_SINGLE<R> && (!isfinite(var) || (var < 0x1p-100 && (var > 0 || mean_low != 0)));
}

template <typename R>
__device__ inline fbni_affine load_affine(const fbni_cuda_affine &from, int64_t j)
{
    const fbni_affine a = {((const R *)from.alpha)[j], ((const R *)from.c)[j],
                           ((const R *)from.shift)[j]};
    return a;
}

/* What the moments of u over the batch make of a feature. */
struct trained {
    fbni_norm norm;
    fbni_batch_stats batch;
    fbni_affine affine;
};

template <typename R>
__device__ inline trained train_of(const fbni_cuda_features &a, const fbni_feature &f, double mean,
                                   double mean_low, double var)
{
    trained to;
    to.norm = fbni_norm_train(f, mean, mean_low, var, a.eps, IS_SINGLE<R>);
    to.batch = fbni_batch_stats_of(f, mean, mean_low, var);
    to.affine = fbni_affine_of(f, to.norm, IS_SINGLE<R>);
    return to;
}

/* What frozen statistics make of a feature: norm and affine. */
template <typename R>
__device__ inline trained frozen_of(const fbni_cuda_features &a, const fbni_feature &f,
                                    running_state running)
{
    trained to = {};
    to.norm = fbni_norm_frozen(f, running.mean, running.var, a.eps, IS_SINGLE<R>);
    to.affine = fbni_affine_of(f, to.norm, IS_SINGLE<R>);
    return to;
}

template <typename R>
__device__ inline void keep_frozen(const fbni_cuda_features &a, int64_t j, const trained &of)
{
    store_norm<R>(a, j, of.norm);
    store_affine<R>(a.affine, j, of.affine);
}

/* Everything that training keeps of feature j. */
template <typename R>
__device__ inline void keep_feature(const fbni_cuda_features &a, int64_t j,
                                    const running_state &running, const trained &of)
{
    if (a.batch_mean)
        ((R *)a.batch_mean)[j] = (R)of.batch.mean;
    if (a.batch_var)
        ((R *)a.batch_var)[j] = (R)of.batch.var;
    if (a.running_mean)
        update_running<R>(a, j, running, of.batch);
    keep_frozen<R>(a, j, of);
}

template <typename R>
__device__ inline fbni_affine train_feature(const fbni_cuda_features &a, int64_t j,
                                            const fbni_feature &f, double mean, double mean_low,
                                            double var)
{
    const trained of = train_of<R>(a, f, mean, mean_low, var);
    keep_feature<R>(a, j, running_of<R>(a, j), of);
    return of.affine;
}

/* Rows of the chunks: some have a group more than the others, and the last group, which is short,
 * is chunk 0's first. Worked out by the host where it can: the divisions are a large part of a kernel
 * that merges chunks, and its instructions come from memory. */
struct chunk_rows {
    int chunks, more; /* of them, the first ones */
    double first, many, few;
    double by_first, by_many, by_few, by_all;

    __device__ double of(int q) const
    {
        return q == 0 ? first : q < more ? many : few;
    }
    __device__ double mean(int q, double sum) const
    {
        return sum * (q == 0 ? by_first : q < more ? by_many : by_few);
    }
};

__host__ __device__ inline chunk_rows chunk_rows_of(const fbni_cuda_chunks &c)
{
    const int64_t groups = c.groups / c.chunks;
    chunk_rows r;
    r.chunks = c.chunks;
    r.more = (int)(c.groups - groups * c.chunks);
    r.few = (double)(groups * c.group_rows);
    r.many = r.few + (double)c.group_rows;
    r.first = (r.more > 0 ? r.many : r.few) - (double)(c.groups * c.group_rows - c.rows);
    r.by_first = 1 / r.first;
    r.by_many = 1 / r.many;
    r.by_few = 1 / r.few;
    r.by_all = 1 / (double)c.rows;
    return r;
}

/* The moments of one chunk of a column, at p; power: none of three reals, part 3 of four. */
struct chunk_moments {
    double shift, sum, m2;
};

template <typename R>
__device__ inline chunk_moments load_chunk(const R *p, int64_t O, int reals)
{
    chunk_moments m = {(double)p[0], (double)p[O], (double)p[2 * O]};
    if (reals == 4) {
        const double unit = double_power_of_two((int)p[3 * O]);
        m.sum *= unit;
        m.m2 *= unit * unit;
    }
    return m;
}

/* Merging them in one pass: with d_q = (shift_q - shift_0) + sum_q / n_q,
 *
 *     mean_low = sum n_q d_q / N,   M2 = sum (m2_q + n_q d_q^2) - N mean_low^2
 *
 * in double (Chan, Golub & LeVeque 1983, for many sets at once). All means are relative to shift_0,
 * which a column of equal values leaves exactly 0. That is near the mean of some rows among the data,
 * so that the difference is no less than about a part (those rows) / N of the sum: floats lose
 * nothing. */
struct merged_chunks {
    double mean; /* shift_0 */
    double sum, squares;

    __device__ void add(double n, double d, double m2)
    {
        sum += n * d;
        squares += m2 + n * (d * d);
    }
    __device__ double mean_low(const chunk_rows &rows) const
    {
        return sum * rows.by_all;
    }
    __device__ double var(const chunk_rows &rows) const
    {
        const double m2 = squares - sum * mean_low(rows);
        return (m2 < 0 ? 0 : m2) * rows.by_all; /* a NaN stays */
    }
};

/* What is done once a call: the count, unless fbni_cuda_count_batch did it, and the header. */
__device__ inline void once(const fbni_cuda_features &a, bool frozen)
{
    if (!frozen && a.count && !(a.flags & FBN_CUMULATIVE_AVERAGE))
        *a.count = fbni_count_next(*a.count);
    if (a.saved) {
        a.saved->layer_id = a.layer_id;
        a.saved->batch = a.batch;
        a.saved->frozen = frozen;
    }
}

/* ---- merging the chunks of the Hopper product, a feature a thread ---- */

/* A feature of float, four reals a chunk; all but the chunks is had before they are there. */
struct chunks_feature {
    const fbni_cuda_features &a;
    const chunk_rows &rows;
    int64_t j;
    fbni_feature parameters;
    running_state running;
    bool keeps;

    /* keeps: what training keeps of it. */
    __device__ chunks_feature(const fbni_cuda_features &a, const chunk_rows &rows, int64_t j,
                              bool keeps)
        : a(a), rows(rows), j(j), parameters(feature_of<float>(a.params, j)), running(),
          keeps(keeps)
    {
        if (keeps)
            running = running_of<float>(a, j);
    }
    /* Every step-th chunk; TOGETHER: as many as are on their way together. */
    template <int TOGETHER>
    __device__ merged_chunks merge(const float *partials, int first, int step) const
    {
        const float *from = partials + j + (int64_t)first * 4 * a.O;
        merged_chunks merged = {(double)partials[j], 0, 0};

        while (first < rows.chunks) {
            float m[TOGETHER][4];
#pragma unroll
            for (int i = 0; i < TOGETHER; i++) {
                const float *p = from;
#pragma unroll
                for (int part = 0; part < 4; part++, p += a.O)
                    m[i][part] = first + i * step < rows.chunks ? *p : 0;
                from += (int64_t)step * 4 * a.O;
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; i++, first += step) {
                if (first < rows.chunks) {
                    const double unit = double_power_of_two((int)m[i][3]);
                    const double d =
                        ((double)m[i][0] - merged.mean) + rows.mean(first, (double)m[i][1] * unit);
                    merged.add(rows.of(first), d, (double)m[i][2] * (unit * unit));
                }
            }
        }
        return merged;
    }
    /* By all chunks. */
    __device__ fbni_affine finish(const merged_chunks &merged) const
    {
        const trained of =
            train_of<float>(a, parameters, merged.mean, merged.mean_low(rows), merged.var(rows));

        if (keeps)
            keep_feature<float>(a, j, running, of);
        if (keeps && j == 0)
            once(a, false);
        return of.affine;
    }
    __device__ fbni_affine make(const float *partials) const
    {
        return finish(merge<8>(partials, 0, 1));
    }
};

/* ---- merging the chunks of some features, which sit side by side in a block ---- */

/* The sums of the lanes' values of a feature, in a fixed order; all lanes get them. */
template <int COUNT, int LANES, int FEATURES>
__device__ inline void sum_lanes(double (&values)[COUNT], double (&shared)[2][LANES][FEATURES])
{
    constexpr int TOGETHER = 32 / FEATURES; /* lanes of a warp */
    const int x = (int)threadIdx.x, lane = (int)threadIdx.y;
    static_assert(COUNT <= 2, "there is place for two");

    __syncthreads(); /* the sums before have been read */
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
#pragma unroll
        for (int offset = FEATURES; offset < 32; offset *= 2)
            values[k] += __shfl_xor_sync(0xffffffffu, values[k], offset);
        if (lane % TOGETHER == 0)
            shared[k][lane / TOGETHER][x] = values[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        values[k] = 0;
#pragma unroll
        for (int i = 0; i < LANES / TOGETHER; i++)
            values[k] += shared[k][i][x];
    }
}

template <int LANES, int FEATURES>
__device__ inline double sum_lanes(double value, double (&shared)[2][LANES][FEATURES])
{
    double values[1] = {value};

    sum_lanes(values, shared);
    return values[0];
}

template <int LANES, int FEATURES>
__device__ inline void sum_lanes(merged_chunks &merged, double (&shared)[2][LANES][FEATURES])
{
    double values[2] = {merged.sum, merged.squares};

    sum_lanes(values, shared);
    merged.sum = values[0];
    merged.squares = values[1];
}

} // namespace fbni

#endif
