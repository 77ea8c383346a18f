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

template <typename R>
__device__ inline void update_running(const fbni_cuda_features &a, int64_t j,
                                      fbni_batch_stats batch)
{
    R *mean = (R *)a.running_mean + j, *var = (R *)a.running_var + j;
    const double unbiased =
        fbni_running_var_of(batch.var, a.batch, (a.flags & FBN_BIASED_RUNNING_VAR) != 0);
    const double m =
        a.flags & FBN_CUMULATIVE_AVERAGE ? fbni_cumulative_momentum(*a.count) : a.momentum;
    if ((a.flags & FBN_SKIP_NONFINITE) && !(isfinite((R)batch.mean) && isfinite((R)unbiased)))
        return;
    *mean = (R)fbni_running_next((double)*mean, batch.mean, m);
    *var = (R)fbni_running_next((double)*var, unbiased, m);
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

/* From the moments of u over the batch to everything that training keeps of feature j. */
template <typename R>
__device__ inline fbni_affine train_feature(const fbni_cuda_features &a, int64_t j,
                                            const fbni_feature &f, double mean, double mean_low,
                                            double var)
{
    const fbni_norm n = fbni_norm_train(f, mean, mean_low, var, a.eps, IS_SINGLE<R>);
    const fbni_batch_stats batch = fbni_batch_stats_of(f, mean, mean_low, var);
    const fbni_affine affine = fbni_affine_of(f, n, IS_SINGLE<R>);

    if (a.batch_mean)
        ((R *)a.batch_mean)[j] = (R)batch.mean;
    if (a.batch_var)
        ((R *)a.batch_var)[j] = (R)batch.var;
    if (a.running_mean)
        update_running<R>(a, j, batch);
    store_norm<R>(a, j, n);
    store_affine<R>(a.affine, j, affine);
    return affine;
}

/* Rows of chunk q. Only the last group is short, and it is chunk 0's first. */
__device__ inline double rows_of(const fbni_cuda_chunks &chunks, int q)
{
    const int64_t groups = (chunks.groups - 1 - q) / chunks.chunks + 1;
    const int64_t missing = q == 0 ? chunks.groups * chunks.group_rows - chunks.rows : 0;
    return (double)(groups * chunks.group_rows - missing);
}

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

/* ---- merging the chunks of 32 features, a warp of which sits side by side in a block ---- */

constexpr int FEATURES = 32, FEATURE_LANES = 8;

/* The sum of the lanes' values of a feature, in the order of the lanes; all lanes get it. */
__device__ inline double sum_lanes(double value, double (&shared)[FEATURE_LANES][FEATURES])
{
    const int x = (int)threadIdx.x, lane = (int)threadIdx.y;
    double sum;

    __syncthreads(); /* the values before have been read */
    shared[lane][x] = value;
    __syncthreads();
    sum = shared[0][x];
    for (int i = 1; i < FEATURE_LANES; i++)
        sum += shared[i][x];
    return sum;
}

} // namespace fbni

#endif
