/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The per-feature algebra, shared by all backends (C and CUDA). One feature at a time, in double.
 *
 * With s pre-scale, t post-scale, b bias, and a centre c that is exactly representable in the
 * layer's real type:
 *
 *     zhat = r (s (u - c) + e)
 *     training:  c = ubar, rounded;  d = ubar - c;  e = -s d
 *                r = 1 / sqrt(s^2 var + eps)
 *     frozen:    c = running_mean / s - b, rounded;  d = 0;  e = s (c + b) - running_mean
 *                r = 1 / sqrt(running_var + eps)
 *     v = t (gamma zhat + beta) = alpha (u - c) + shift
 *                alpha = t gamma s r;  shift = t (gamma r e + beta)
 *
 * so that every element costs one subtraction and one multiply-add in both modes. Subtracting first
 * keeps full precision when |mean| >> std; e carries what rounding c lost; a constant column has u
 * = c and e = 0, hence v = t beta exactly.
 *
 * Backward, with G = sum g and K = sum g (u - c), where a frozen column may be summed about any
 * centre (fbni_norm_about: one near the data keeps K small):
 *     kappa = sum g zhat = r (s K + e G)
 *     dgamma = t kappa,  dbeta = t G,  dt = gamma kappa + beta G
 *     training:  du = alpha (g - G/N - zhat kappa/N),  ds = t gamma r^3 eps (K - d G),  db = 0
 *     frozen:    du = alpha g,  ds = t gamma r (K + (c + b) G),  db = t gamma s r G
 * (Ioffe & Szegedy 2015, section 3, with the scales carried through; ds in training is the
 * cancelled form of sum dz (u + b), so that it is exact at small eps.)
 */
#ifndef FBNI_ALGEBRA_H
#define FBNI_ALGEBRA_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define FBNI_INLINE static inline __host__ __device__
#else
#define FBNI_INLINE static inline
#endif

/* The parameters of one feature, absent ones replaced by 1 or 0. */
typedef struct fbni_feature {
    double s, t, b, gamma, beta;
} fbni_feature;

/* How u becomes zhat: zhat = r (s (u - c) + e). d is used in training alone. */
typedef struct fbni_norm {
    double r, c, e, d;
} fbni_norm;

/* v = alpha (u - c) + shift. */
typedef struct fbni_affine {
    double alpha, c, shift;
} fbni_affine;

/* Batch statistics of z, as they are stored and enter the running statistics. */
typedef struct fbni_batch_stats {
    double mean, var;
} fbni_batch_stats;

typedef struct fbni_feature_grads {
    double dgamma, dbeta, dt, ds, db;
    double alpha, du_u, du_1; /* du = alpha (g + du_u (u - c) + du_1) */
    double mean_kappa;        /* training: the mean of g zhat, else 0 */
} fbni_feature_grads;

FBNI_INLINE double fbni_reciprocal_root(double value)
{
#if defined(__CUDA_ARCH__)
    return rsqrt(value); /* where latency counts, a third of the instructions */
#else
    return 1 / sqrt(value);
#endif
}

/* Rounds to the layer's real type: float if single, else double as it is. */
FBNI_INLINE double fbni_round_real(double value, int single)
{
    return single ? (double)(float)value : value;
}

/* ubar is mean + mean_low, the two parts of the batch mean of u; var its population variance. */
FBNI_INLINE fbni_norm fbni_norm_train(fbni_feature f, double mean, double mean_low, double var,
                                      double eps, int single)
{
    fbni_norm n;
    n.c = fbni_round_real(mean + mean_low, single);
    n.d = (mean - n.c) + mean_low;
    n.e = (f.b - f.b) - f.s * n.d; /* b cancels, but is NaN in zhat where it is not finite */
    n.r = fbni_reciprocal_root(f.s * f.s * var + eps);
    return n;
}

FBNI_INLINE fbni_norm fbni_norm_frozen(fbni_feature f, double running_mean, double running_var,
                                       double eps, int single)
{
    fbni_norm n;
    n.r = fbni_reciprocal_root(running_var + eps);
    n.c = fbni_round_real(running_mean / f.s - f.b, single);
    /* s is 0 or tiny: no u has that mean, or alpha has too few bits left to be multiplied by it */
    if (!isfinite(n.c) || !(fabs(f.t * f.gamma * f.s * n.r) >= (single ? FLT_MIN : DBL_MIN)))
        n.c = 0;
    n.d = 0;
    n.e = f.s * (n.c + f.b) - running_mean;
    return n;
}

/* The same frozen zhat about another centre. */
FBNI_INLINE fbni_norm fbni_norm_about(fbni_feature f, fbni_norm n, double centre)
{
    n.e += f.s * (centre - n.c);
    n.c = centre;
    return n;
}

/* alpha = t gamma s r; one that is finite stays so as a float, since u - c may be 0. */
FBNI_INLINE double fbni_alpha(fbni_feature f, double r, int single)
{
    const double alpha = f.t * f.gamma * f.s * r;
    if (!single || !isfinite(alpha))
        return alpha;
    return fmin(fmax(alpha, -(double)FLT_MAX), (double)FLT_MAX);
}

FBNI_INLINE fbni_affine fbni_affine_of(fbni_feature f, fbni_norm n, int single)
{
    fbni_affine a;
    a.alpha = fbni_alpha(f, n.r, single);
    a.c = n.c;
    /* e == 0 exactly leaves t beta exactly, even where r is infinite (eps = 0, constant column:
     * alpha decides) */
    a.shift = n.e == 0 ? f.t * f.beta : f.t * (f.gamma * n.r * n.e + f.beta);
    return a;
}

FBNI_INLINE fbni_batch_stats fbni_batch_stats_of(fbni_feature f, double mean, double mean_low,
                                                 double var)
{
    fbni_batch_stats z;
    z.mean = f.s * (mean + mean_low + f.b);
    z.var = f.s * f.s * var;
    return z;
}

/* num_batches_tracked after one more batch: saturates. */
FBNI_INLINE int64_t fbni_count_next(int64_t count)
{
    return count == INT64_MAX ? count : count + 1;
}

/* The cumulative average's momentum for the count after this batch. */
FBNI_INLINE double fbni_cumulative_momentum(int64_t count)
{
    return count > 1 ? 1 / (double)count : 1;
}

/* As PyTorch: (1 - m) running + m batch. */
FBNI_INLINE double fbni_running_next(double running, double batch, double momentum)
{
    return (1 - momentum) * running + momentum * batch;
}

/* The batch variance as running_var takes it: unbiased unless `biased`. */
FBNI_INLINE double fbni_running_var_of(double var, int64_t batch, int biased)
{
    return biased ? var : var * ((double)batch / (double)(batch - 1));
}

/* G = sum g, K = sum g (u - c). batch is N after a training forward, 0 for frozen statistics. */
FBNI_INLINE fbni_feature_grads fbni_feature_grads_of(fbni_feature f, fbni_norm n, double G,
                                                     double K, double eps, int64_t batch,
                                                     int single)
{
    fbni_feature_grads d;
    const double kappa = n.r * (f.s * K + n.e * G);
    d.dgamma = f.t * kappa;
    d.dbeta = f.t * G;
    d.dt = f.gamma * kappa + f.beta * G;
    d.alpha = fbni_alpha(f, n.r, single);
    if (batch > 0) {
        d.mean_kappa = kappa / (double)batch;
        d.ds = f.t * f.gamma * n.r * (n.r * n.r * eps) * (K - n.d * G);
        d.db = 0;
        d.du_u = -d.mean_kappa * n.r * f.s;
        d.du_1 = -(G / (double)batch + d.mean_kappa * n.r * n.e);
    } else {
        d.ds = f.t * f.gamma * n.r * (K + (n.c + f.b) * G);
        d.db = f.t * f.gamma * f.s * n.r * G;
        d.du_u = 0;
        d.du_1 = 0;
        d.mean_kappa = 0;
    }
    return d;
}

/* What no |du| passes, where g_most is the largest |g|: |zhat| <= sqrt(N), as no deviation from a
 * mean is more than sqrt(N) standard deviations (Samuelson 1968). */
FBNI_INLINE double fbni_du_bound(fbni_feature_grads d, double g_most, double batch)
{
    return fabs(d.alpha) * (g_most + fabs(d.du_1) + fabs(d.mean_kappa) * sqrt(batch));
}

#endif
