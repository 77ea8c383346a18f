/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The activations and their derivatives, of one element. What infinities and NaN give is what the
 * CPU backend gives.
 */
#ifndef FBNI_CUDA_ACTIVATIONS_CUH
#define FBNI_CUDA_ACTIVATIONS_CUH

#include "device.cuh"

namespace fbni
{

/* Phi(v), the normal distribution function, without cancellation in its lower tail. */
__device__ inline float normal_distribution(float v)
{
    return normcdff(v);
}
__device__ inline double normal_distribution(double v)
{
    return normcdf(v);
}

/* One function of T in either precision. */
__device__ inline float exponential(float v)
{
    return expf(v);
}
__device__ inline double exponential(double v)
{
    return exp(v);
}
__device__ inline float logarithm(float v)
{
    return logf(v);
}
__device__ inline double logarithm(double v)
{
    return log(v);
}

template <fbn_activation ACT, typename R>
__device__ inline R activate(R v)
{
    if (ACT == FBN_ACT_RELU)
        return v < 0 ? (R)0 : v; /* NaN stays */
    if (ACT == FBN_ACT_GELU)
        return v * normal_distribution(v);
    if (ACT == FBN_ACT_SILU) { /* v / (1 + exp(-v)); exp cannot overflow */
        const R e = exponential(-fabs(v));
        return (v > 0 ? v : v * e) / (1 + e);
    }
    return v;
}

/* What the gradient of softmax and log_softmax needs of a row: the forward's two numbers, and the
 * sum, of dy p for softmax and of dy for log_softmax. */
template <typename R>
struct row_state {
    R top, log_sum, dot;

    /* softmax: exp(v - top) / sum */
    __device__ R probability(R v) const
    {
        return exponential(v - top - log_sum);
    }
};

/* g = dL/dv. */
template <fbn_activation ACT, typename R>
__device__ inline R gradient(R v, R dy, const row_state<R> &row)
{
    if (ACT == FBN_ACT_RELU)
        return v <= 0 ? (R)0 : dy;
    if (ACT == FBN_ACT_GELU) { /* Phi(v) + v phi(v), which is 1 minus itself at -v */
        const R t = fabs(v), root = (R)0.39894228040143267793994605993438; /* 1/sqrt(2 pi) */
        const R left = normal_distribution(-t) - t * (root * exponential((R)-0.5 * (t * t)));
        return dy * ((v > 0 ? 1 - left : left) + v * (R)0); /* infinity * 0 is a NaN */
    }
    if (ACT == FBN_ACT_SILU) { /* s + v s (1 - s), which is 1 minus itself at -v */
        const R t = fabs(v), e = exponential(-t), s = 1 / (1 + e);
        const R left = e * s * fma(-t, s, (R)1);
        return dy * ((v > 0 ? 1 - left : left) + v * (R)0);
    }
    if (ACT == FBN_ACT_SOFTMAX)
        return row.probability(v) * (dy - row.dot);
    if (ACT == FBN_ACT_LOG_SOFTMAX)
        return fma(-row.probability(v), row.dot, dy);
    return dy;
}

} // namespace fbni

#endif
