/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A feature of a backward pass, by algebra.h: its gradients and slopes, from its sums.
 */
#ifndef FBNI_CUDA_FEATURES_BACKWARD_CUH
#define FBNI_CUDA_FEATURES_BACKWARD_CUH

#include "features.cuh"

namespace fbni
{

/* Rows whose mean is the centre of the sums, with frozen statistics. */
constexpr int CENTRE_ROWS = 8;

template <typename R>
__device__ inline void store_gradient(void *to, int64_t j, double value, int accumulate)
{
    if (to)
        ((R *)to)[j] = (R)(accumulate ? (double)((R *)to)[j] + value : value);
}

/* A saved buffer that no forward of this layer with this batch wrote. */
__device__ inline bool is_foreign(const fbni_cuda_feature_gradients &a)
{
    return a.saved->layer_id != a.layer_id || a.saved->batch != a.batch;
}

template <typename R>
__device__ inline void store_feature(const fbni_cuda_feature_gradients &a, int64_t j,
                                     const fbni_feature_grads &d)
{
    store_gradient<R>(a.gamma, j, d.dgamma, a.accumulate);
    store_gradient<R>(a.beta, j, d.dbeta, a.accumulate);
    store_gradient<R>(a.bias, j, d.db, a.accumulate);
    if (a.params.post_per_feature)
        store_gradient<R>(a.post_scale, j, d.dt, a.accumulate);
    if (a.params.pre_per_feature)
        store_gradient<R>(a.pre_scale, j, d.ds, a.accumulate);
    a.sums[j] = d.dt;
    a.sums[a.O + j] = d.ds;
    ((R *)a.slopes.du_u)[j] = (R)d.du_u;
    ((R *)a.slopes.du_1)[j] = (R)d.du_1;
}

/* Raises *to to a bound of |du|. What is not finite counts for nothing: nor is then any du of the
 * feature. */
__device__ inline void raise_bound(unsigned *to, double bound)
{
    if (isfinite(bound))
        raise(to, __float_as_uint(__double2float_ru(fmin(bound, (double)FLT_MAX))));
}

/* G = sum g and K = sum g (u - centre) of feature j. */
template <typename R>
__device__ inline fbni_feature_grads finish_feature(const fbni_cuda_feature_gradients &a, int64_t j,
                                                    const fbni_feature &f, fbni_norm norm,
                                                    double centre, double G, double K)
{
    const bool frozen = a.saved->frozen != 0;

    if (is_foreign(a))
        G = K = not_a_number<double>();
    if (frozen)
        norm = fbni_norm_about(f, norm, centre);
    fbni_feature_grads d =
        fbni_feature_grads_of(f, norm, G, K, a.eps, frozen ? 0 : a.batch, IS_SINGLE<R>);
    if (is_foreign(a))
        d.du_1 = d.db = not_a_number<double>();
    store_feature<R>(a, j, d);
    return d;
}

} // namespace fbni

#endif
