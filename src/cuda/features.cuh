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
    double unbias; /* of the variance */
};

template <typename R>
__device__ inline running_state running_of(const fbni_cuda_features &a, int64_t j)
{
    running_state r = {};
    if (a.running_mean) {
        r.mean = (double)((const R *)a.running_mean)[j];
        r.var = (double)((const R *)a.running_var)[j];
        r.momentum =
            a.flags & FBN_CUMULATIVE_AVERAGE ? fbni_cumulative_momentum(*a.count) : a.momentum;
        r.unbias = fbni_running_var_of(1, a.batch, (a.flags & FBN_BIASED_RUNNING_VAR) != 0);
    }
    return r;
}

template <typename R>
__device__ inline void update_running(const fbni_cuda_features &a, int64_t j,
                                      const running_state &r, fbni_batch_stats batch)
{
    const double unbiased = batch.var * r.unbias;
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
    store_norm<R>(a, j, of.norm);
    store_affine<R>(a.affine, j, of.affine);
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
 * is chunk 0's first. */
struct chunk_rows {
    int more; /* chunks, the first ones */
    double many, few, missing, by_many, by_few;

    __device__ chunk_rows(const fbni_cuda_chunks &chunks)
    {
        const int64_t groups = chunks.groups / chunks.chunks;
        more = (int)(chunks.groups - groups * chunks.chunks);
        few = (double)(groups * chunks.group_rows);
        many = few + (double)chunks.group_rows;
        missing = (double)(chunks.groups * chunks.group_rows - chunks.rows);
        by_many = 1 / many;
        by_few = 1 / few;
    }
    __device__ double of(int q) const
    {
        const double rows = q < more ? many : few;
        return q == 0 ? rows - missing : rows;
    }
    __device__ double mean(int q, double sum) const
    {
        return q == 0 ? sum / of(0) : sum * (q < more ? by_many : by_few);
    }
};

/* The moments of one chunk of a column, at p; power: none of three reals, part 3 of four. */
struct chunk_moments {
    double shift, sum, m2;
};

template <typename R>
__device__ inline chunk_moments load_chunk(const fbni_cuda_chunks &chunks, const R *p, int64_t O)
{
    chunk_moments m = {(double)p[0], (double)p[O], (double)p[2 * O]};
    if (chunks.reals == 4) {
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
    double sum, squares;

    __device__ void add(double n, double d, double m2)
    {
        sum += n * d;
        squares += m2 + n * (d * d);
    }
    __device__ double mean_low(double N) const
    {
        return sum / N;
    }
    __device__ double var(double N) const
    {
        const double m2 = squares - sum * mean_low(N);
        return (m2 < 0 ? 0 : m2) / N; /* a NaN stays */
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

/* ---- merging the tiles of the Hopper product, a feature a thread ---- */

/* Moments of MERGED tiles are on their way together. */
constexpr int MERGED = 8;

/* Feature j of four reals a tile. */
__device__ inline trained train_of_tiles(const fbni_cuda_features &a, const float *partials,
                                         int tiles, int tile_rows, int64_t j)
{
    const fbni_cuda_chunks chunks = {a.batch, tile_rows, tiles, tiles, 0, 4};
    const chunk_rows rows(chunks);
    const double mean = (double)partials[j], N = (double)a.batch;
    merged_chunks merged = {};

    for (int first = 0; first < tiles; first += MERGED) {
        float m[MERGED][4];
#pragma unroll
        for (int i = 0; i < MERGED; i++)
#pragma unroll
            for (int part = 0; part < 4; part++)
                m[i][part] =
                    first + i < tiles ? partials[((int64_t)(first + i) * 4 + part) * a.O + j] : 0;
#pragma unroll
        for (int i = 0; i < MERGED; i++) {
            if (first + i < tiles) {
                const double unit = double_power_of_two((int)m[i][3]), n = rows.of(first + i);
                const double d =
                    ((double)m[i][0] - mean) + rows.mean(first + i, (double)m[i][1] * unit);
                merged.add(n, d, (double)m[i][2] * (unit * unit));
            }
        }
    }
    return train_of<float>(a, feature_of<float>(a.params, j), mean, merged.mean_low(N),
                           merged.var(N));
}

__device__ inline void keep_tiles_feature(const fbni_cuda_features &a, int64_t j, const trained &of)
{
    keep_feature<float>(a, j, running_of<float>(a, j), of);
    if (j == 0)
        once(a, false);
}

/* ---- merging the chunks of some features, which sit side by side in a block ---- */

/* The sum of the lanes' values of a feature, in a fixed order; all lanes get it. */
template <int LANES, int FEATURES>
__device__ inline double sum_lanes(double value, double (&shared)[LANES][FEATURES])
{
    constexpr int TOGETHER = 32 / FEATURES; /* lanes of a warp */
    const int x = (int)threadIdx.x, lane = (int)threadIdx.y;
    double sum = 0;

#pragma unroll
    for (int offset = FEATURES; offset < 32; offset *= 2)
        value += __shfl_xor_sync(0xffffffffu, value, offset);
    __syncthreads(); /* the sum before has been read */
    if (lane % TOGETHER == 0)
        shared[lane / TOGETHER][x] = value;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < LANES / TOGETHER; i++)
        sum += shared[i][x];
    return sum;
}

} // namespace fbni

#endif
