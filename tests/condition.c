/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How far rounding can move each output, to first order.
 *
 * Each step of the unfused computation rounds, and passes on what the steps before it lost. If an
 * operation's operands a and b are off by c(a) and c(b) units of roundoff, then a + b is off by
 * c(a) + c(b) + |a + b|, a b by |a| c(b) + |b| c(a) + |a b|, f(a) by |f'(a)| c(a) + |f(a)|: the
 * running error analysis of Wilkinson (Higham 2002, "Accuracy and Stability of Numerical
 * Algorithms", section 3.3), here written a layer at a time. It says where errors are large and
 * where they are small, up to a factor; reference.c measures the factor. A sum over K terms is
 * charged once, as if summed exactly and rounded: the growth with K belongs to the factor. One term
 * of second order is kept: where a column is nearly constant, the square of the mean's own error is
 * all that its variance loses. And a derivative is the largest over all that its argument may be,
 * once rounded (condition_reach): gelu is flat at -1e26, but where rounding may have made 1e25 of
 * it its result is 1e25. Where values underflow, an operation loses up to the smallest number of
 * the type instead of a part of its result (the same book, equation 2.8).
 */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>

typedef struct conditions {
    double *u, *z, *zhat, *v; /* [n,o] */
    double *mean, *rstd;      /* [o]; rstd: relative, of 1 / sqrt(var + eps) */
    double *g, *dzhat, *du;   /* [n,o] */
    double *radius;           /* [n,o]: how far v may be off */
} conditions;

static double *values(int64_t count)
{
    double *p = calloc((size_t)(count > 0 ? count : 1), sizeof *p);
    if (!p)
        abort();
    return p;
}

static double scale(const double *array, fbn_scale kind, int64_t j)
{
    return array ? array[kind == FBN_SCALE_FEATURE ? j : 0] : 1;
}

static void product(const problem *p, double underflow, conditions *c)
{
    for (int64_t n = 0; n < p->n; n++)
        for (int64_t k = 0; k < p->i; k++)
            for (int64_t j = 0; j < p->o; j++)
                c->u[n * p->o + j] += fabs(p->x[n * p->i + k] * p->w[j * p->i + k]);
    for (int64_t n = 0; n < p->n; n++) {
        for (int64_t j = 0; j < p->o; j++) {
            double b = p->bias ? fabs(p->bias[j]) : 0;
            c->u[n * p->o + j] += underflow;
            c->z[n * p->o + j] =
                fabs(scale(p->pre, p->pre_scale, j)) * (c->u[n * p->o + j] + b) + underflow;
        }
    }
}

static void running(const problem *p, const trace *t, int64_t j, double var_condition,
                    const conditions *c, double *condition[OUTPUTS])
{
    int64_t after;
    double m = oracle_momentum(p, &after);
    double bessel = p->flags & FBN_BIASED_RUNNING_VAR ? 1 : (double)p->n / (double)(p->n - 1);
    double mean = (double)t->mean[j], var = (double)t->var[j];
    condition[OUT_RUNNING_MEAN][j] =
        fabs((1 - m) * p->running_mean[j]) + m * (fabs(mean) + c->mean[j]);
    condition[OUT_RUNNING_VAR][j] =
        fabs((1 - m) * p->running_var[j]) + m * bessel * (var + var_condition);
}

/* The batch's moments, or the running ones, which are exact. */
static void statistics(const problem *p, const trace *t, int64_t j, double unit, conditions *c,
                       double *condition[OUTPUTS])
{
    double mean = 0, var = 0, lost;
    if (p->training) {
        for (int64_t n = 0; n < p->n; n++)
            mean += c->z[n * p->o + j] / (double)p->n;
        for (int64_t n = 0; n < p->n; n++) {
            int64_t e = n * p->o + j;
            double d = fabs((double)(t->z[e] - t->mean[j]));
            lost = c->z[e] + mean;
            var += (2 * d * lost + d * d + unit * lost * lost) / (double)p->n;
        }
    }
    c->mean[j] = mean;
    c->rstd[j] = 1 + var / 2 * (double)(t->rstd[j] * t->rstd[j]);
    if (p->training) {
        condition[OUT_BATCH_MEAN][j] = mean + fabs((double)t->mean[j]);
        condition[OUT_BATCH_VAR][j] = var + (double)t->var[j];
        if (p->running_mean)
            running(p, t, j, var, c, condition);
    }
}

static void normalise(const problem *p, const trace *t, int64_t j, conditions *c)
{
    double gamma = p->gamma ? fabs(p->gamma[j]) : 1, beta = p->beta ? fabs(p->beta[j]) : 0;
    double post = fabs(scale(p->post, p->post_scale, j));
    for (int64_t n = 0; n < p->n; n++) {
        int64_t e = n * p->o + j;
        double difference = c->z[e] + c->mean[j] + fabs((double)t->mean[j]);
        c->zhat[e] = (double)t->rstd[j] * difference + fabs((double)t->zhat[e]) * c->rstd[j];
        c->v[e] = post * (gamma * c->zhat[e] + beta) + fabs((double)t->v[e]);
    }
}

static double normal_distribution(double v)
{
    return erfc(-v / sqrt(2)) / 2;
}

static double normal_density(double v)
{
    return exp(-v * v / 2) / sqrt(2 * acos(-1));
}

/* p c, where a probability p = 0 stays 0 though c be infinite: exp(-inf) loses nothing. */
static double times(double p, double c)
{
    return p == 0 ? 0 : p * c;
}

/* What an argument may be, and the largest that f is there, if it rises up to `peak` and falls from
 * there on: f of the point nearest to the peak. */
typedef struct range {
    double low, high;
} range;

static double largest(double (*f)(double), double peak, range a)
{
    return f(fmin(fmax(peak, a.low), a.high));
}

static double logistic(double v)
{
    return 1 / (1 + exp(-v));
}

/* The derivatives of gelu and silu, term by term; their peaks are where v = sqrt(2), and where
 * v tanh(v / 2) = 2. */
static double gelu_slope(double v)
{
    return normal_distribution(v) + fabs(v) * normal_density(v);
}

static double silu_slope(double v)
{
    double s = logistic(v);
    return s + fabs(v) * s * (1 - s);
}
static const double gelu_peak = 1.4142135623730951, silu_peak = 2.3993572805154668;

/* Their second derivatives, silu's term by term: |2 - v^2| phi has peaks where v is 0 and +-2, the
 * other where (2 + |v|) tanh(|v| / 2) = 1. */
static double gelu_curve(double v)
{
    return normal_density(v) * fabs(2 - v * v);
}

static double silu_curve(double v)
{
    double s = logistic(v);
    return s * (1 - s) * (2 + fabs(v));
}

static double gelu_bend(range a)
{
    return fmax(largest(gelu_curve, 0, a),
                fmax(largest(gelu_curve, 2, a), largest(gelu_curve, -2, a)));
}

static double silu_bend(range a)
{
    const double peak = 0.75931287408124482;
    return fmax(largest(silu_curve, peak, a), largest(silu_curve, -peak, a));
}

double condition_reach(const problem *p, double unit)
{
    return p->tf32 ? 8 * unit : 128 * unit;
}

static range around(double v, double radius)
{
    return (range){v - radius, v + radius};
}

static void activate(fbn_activation activation, int64_t o, const long double *v,
                     const long double *y, double reach, const double *cv, double *cy)
{
    double mixed = 0, lse = (double)(v[0] - y[0]); /* log_softmax's v - y is the row's lse */
    for (int64_t j = 0; j < o; j++)
        mixed += times((double)(activation == FBN_ACT_LOG_SOFTMAX ? expl(y[j]) : y[j]), cv[j]);
    for (int64_t j = 0; j < o; j++) {
        double r = fabs((double)y[j]);
        range a = around((double)v[j], reach * cv[j]);
        switch (activation) {
        case FBN_ACT_NONE:
        case FBN_ACT_RELU:
            cy[j] = cv[j];
            break;
        case FBN_ACT_GELU:
            cy[j] = largest(gelu_slope, gelu_peak, a) * cv[j] + r;
            break;
        case FBN_ACT_SILU:
            cy[j] = largest(silu_slope, silu_peak, a) * cv[j] + r;
            break;
        case FBN_ACT_SOFTMAX:
            cy[j] = times(r, cv[j] + mixed + 1);
            break;
        case FBN_ACT_LOG_SOFTMAX:
            cy[j] = cv[j] + mixed + fabs(lse) + r;
            break;
        }
    }
}

/* What packing may lose of each u [n,o], as oracle.h says. */
static double *lost_of_u(const problem *p, const trace *t)
{
    double *lost = values(p->n * p->o);
    for (int64_t j = 0; j < p->o; j++) {
        double mean = 0, most = 0;
        for (int64_t n = 0; n < p->n; n++)
            mean += (double)t->u[n * p->o + j] / (double)p->n;
        for (int64_t n = 0; n < p->n; n++)
            most = fmax(most, fabs((double)t->u[n * p->o + j] - mean));
        for (int64_t n = 0; n < p->n; n++)
            lost[n * p->o + j] = 0x1p-11 * (fabs((double)t->u[n * p->o + j] - mean) + most);
    }
    return lost;
}

void condition_of_packing(const problem *p, const trace *exact, double *lost)
{
    double *none = values(p->o), *cv = values(p->o), *own = values(p->o);
    double *lost_u = lost_of_u(p, exact);
    for (int64_t n = 0; n < p->n; n++) {
        const long double *v = exact->v + n * p->o, *y = exact->out[OUT_Y] + n * p->o;
        double *cy = lost + n * p->o;
        for (int64_t j = 0; j < p->o; j++) {
            double gamma = p->gamma ? p->gamma[j] : 1;
            double slope = scale(p->post, p->post_scale, j) * gamma *
                           scale(p->pre, p->pre_scale, j) * (double)exact->rstd[j];
            cv[j] = times(fabs(slope), lost_u[n * p->o + j]);
        }
        activate(p->activation, p->o, v, y, 1, cv, cy);
        activate(p->activation, p->o, v, y, 1, none, own); /* what the activation itself loses */
        for (int64_t j = 0; j < p->o; j++)
            cy[j] -= own[j];
    }
    free(none);
    free(cv);
    free(own);
    free(lost_u);
}

/* What no |du| of column j passes; 0 where it is not finite. */
static double du_bound(const problem *p, const trace *t, int64_t j)
{
    double most = 0, bound;
    for (int64_t n = 0; n < p->n; n++)
        most = fmax(most, fabs((double)t->dzhat[n * p->o + j]));
    if (p->training)
        most +=
            fabs((double)t->mean_dzhat[j]) + sqrt((double)p->n) * fabs((double)t->mean_dzhatz[j]);
    bound = fabs(scale(p->pre, p->pre_scale, j)) * (double)t->rstd[j] * most;
    return isfinite(bound) ? bound : 0;
}

void condition_of_rounding(const problem *p, const trace *exact, double unit, double floor,
                           double *dx, double *dw)
{
    double bound = 0;
    for (int64_t j = 0; j < p->o; j++)
        bound = fmax(bound, du_bound(p, exact, j));
    for (int64_t n = 0; n < p->n; n++) {
        for (int64_t j = 0; j < p->o; j++) {
            double lost = unit * fabs((double)exact->du[n * p->o + j]) + floor * bound;
            for (int64_t k = 0; k < p->i; k++) {
                dx[n * p->i + k] += lost * fabs(p->w[j * p->i + k]);
                dw[j * p->i + k] += lost * fabs(p->x[n * p->i + k]);
            }
        }
    }
}

static void activate_backward(const problem *p, int64_t row, const trace *t, const double *radius,
                              const double *cv, const double *cy, double *cg)
{
    const double *dy = p->dy + row * p->o;
    const long double *v = t->v + row * p->o, *y = t->out[OUT_Y] + row * p->o;
    double sum = 0, size = 0, lost = 0; /* of the row's sum: value, size of the terms, condition */
    for (int64_t j = 0; j < p->o; j++) {
        bool soft = p->activation == FBN_ACT_SOFTMAX;
        sum += dy[j] * (soft ? (double)y[j] : 1);
        size += fabs(dy[j]) * (soft ? (double)y[j] : 1);
        lost += soft ? fabs(dy[j]) * cy[j] : 0;
    }
    for (int64_t j = 0; j < p->o; j++) {
        double a = (double)v[j], d = fabs(dy[j]), s = logistic(a), e;
        range as = around(a, radius[j]);
        switch (p->activation) {
        case FBN_ACT_NONE:
        case FBN_ACT_RELU: /* inputs.c gives dy = 0 where the side of the kink is uncertain */
            cg[j] = d;
            break;
        case FBN_ACT_GELU:
            cg[j] = d * (gelu_bend(as) * cv[j] + normal_distribution(a) +
                         fabs(a) * normal_density(a) * (1 + a * a));
            break;
        case FBN_ACT_SILU:
            cg[j] = d * (silu_bend(as) * cv[j] + s * (1 + fabs(a)));
            break;
        case FBN_ACT_SOFTMAX:
            cg[j] = cy[j] * fabs(dy[j] - sum) + (double)y[j] * (d + size + lost);
            break;
        case FBN_ACT_LOG_SOFTMAX:
            e = exp((double)y[j]);
            cg[j] = d + times(e, size + (1 + cy[j]) * fabs(sum));
            break;
        }
    }
}

static void feature_backward(const problem *p, const trace *t, int64_t j, conditions *c,
                             double *condition[OUTPUTS])
{
    double gamma = p->gamma ? fabs(p->gamma[j]) : 1, bias = p->bias ? p->bias[j] : 0;
    double s = fabs(scale(p->pre, p->pre_scale, j)), post = fabs(scale(p->post, p->post_scale, j));
    double dpre = 0, dpost = 0, dgamma = 0, dbeta = 0, dbias = 0, mean = 0, meanz = 0;
    double rstd = (double)t->rstd[j];
    for (int64_t n = 0; n < p->n; n++) {
        int64_t e = n * p->o + j;
        double g = fabs((double)t->g[e]), zhat = fabs((double)t->zhat[e]), cg = c->g[e] + g;
        double h = fabs((double)t->h[e]), ch = gamma * c->zhat[e] + h;
        dpost += cg * h + g * ch;
        dbeta += post * cg;
        dgamma += post * (cg * zhat + g * c->zhat[e]);
        c->dzhat[e] = gamma * post * cg;
        mean += c->dzhat[e] / (double)p->n;
        meanz += (c->dzhat[e] * zhat + fabs((double)t->dzhat[e]) * c->zhat[e]) / (double)p->n;
    }
    if (!p->training)
        mean = meanz = 0;
    for (int64_t n = 0; n < p->n; n++) {
        int64_t e = n * p->o + j;
        double zhat = fabs((double)t->zhat[e]);
        double cdz = rstd * (c->dzhat[e] + mean + (p->training ? zhat * meanz : 0) +
                             (p->training ? c->zhat[e] * fabs((double)t->mean_dzhatz[j]) : 0)) +
                     fabs((double)t->dz[e]) * c->rstd[j];
        dpre +=
            cdz * fabs((double)t->u[e] + bias) + fabs((double)t->dz[e]) * (c->u[e] + fabs(bias));
        dbias += s * cdz;
        c->du[e] = s * cdz;
    }
    if (p->pre)
        condition[OUT_DPRE][p->pre_scale == FBN_SCALE_FEATURE ? j : 0] += dpre;
    if (p->post)
        condition[OUT_DPOST][p->post_scale == FBN_SCALE_FEATURE ? j : 0] += dpost;
    condition[OUT_DGAMMA][j] = dgamma;
    condition[OUT_DBETA][j] = dbeta;
    condition[OUT_DBIAS][j] = dbias;
}

static void backward(const problem *p, const trace *t, double underflow, conditions *c,
                     double *condition[OUTPUTS])
{
    for (int64_t n = 0; n < p->n; n++)
        activate_backward(p, n, t, c->radius + n * p->o, c->v + n * p->o,
                          condition[OUT_Y] + n * p->o, c->g + n * p->o);
    for (int64_t e = 0; e < p->n * p->o; e++)
        c->g[e] += underflow;
    for (int64_t j = 0; j < p->o; j++)
        feature_backward(p, t, j, c, condition);
    for (int64_t n = 0; n < p->n; n++) {
        for (int64_t j = 0; j < p->o; j++) {
            double du = c->du[n * p->o + j] + fabs((double)t->du[n * p->o + j]);
            du += underflow;
            for (int64_t k = 0; k < p->i; k++) {
                condition[OUT_DX][n * p->i + k] += du * fabs(p->w[j * p->i + k]);
                condition[OUT_DW][j * p->i + k] += du * fabs(p->x[n * p->i + k]);
            }
        }
    }
}

/* Column j once more, each u off by `lost` units of roundoff too, and v by what that makes of it. */
static void lose(const problem *p, const trace *t, int64_t j, double unit, const double *lost,
                 conditions *c)
{
    for (int64_t n = 0; n < p->n; n++) {
        int64_t e = n * p->o + j;
        c->u[e] += lost[e];
        c->z[e] += fabs(scale(p->pre, p->pre_scale, j)) * lost[e];
        c->radius[e] -= unit * c->v[e];
    }
    normalise(p, t, j, c);
    for (int64_t n = 0; n < p->n; n++)
        c->radius[n * p->o + j] += unit * c->v[n * p->o + j];
}

/* lost: of u after the moments were taken, in units of roundoff; or NULL. */
static void compute(const problem *p, const trace *exact, double unit, double least,
                    bool wants_backward, const double *lost, double *condition[OUTPUTS])
{
    int64_t no = p->n * p->o, o = p->o;
    double underflow = least / unit, reach = condition_reach(p, unit);
    conditions c = {values(no), values(no), values(no), values(no), values(o),
                    values(o),  values(no), values(no), values(no), values(no)};
    for (int k = 0; k < OUTPUTS; k++)
        for (int64_t e = 0; e < exact->size[k]; e++)
            condition[k][e] = 0;
    product(p, underflow, &c);
    for (int64_t j = 0; j < o; j++) {
        statistics(p, exact, j, unit, &c, condition);
        normalise(p, exact, j, &c);
        for (int64_t n = 0; n < p->n; n++)
            c.radius[n * o + j] = reach * c.v[n * o + j];
        if (lost)
            lose(p, exact, j, unit, lost, &c);
    }
    for (int64_t n = 0; n < p->n; n++)
        activate(p->activation, o, exact->v + n * o, exact->out[OUT_Y] + n * o, reach, c.v + n * o,
                 condition[OUT_Y] + n * o);
    if (wants_backward)
        backward(p, exact, underflow, &c, condition);

    free(c.u), free(c.z), free(c.zhat), free(c.v), free(c.mean);
    free(c.rstd), free(c.g), free(c.dzhat), free(c.du), free(c.radius);
}

void condition_compute(const problem *p, const trace *exact, double unit, double least,
                       bool wants_backward, double *condition[OUTPUTS])
{
    compute(p, exact, unit, least, wants_backward, NULL, condition);
}

void condition_of_packed_gradients(const problem *p, const trace *exact, double unit, double least,
                                   double *const condition[OUTPUTS], double *lost[OUTPUTS])
{
    double *lost_u = lost_of_u(p, exact);
    for (int64_t e = 0; e < p->n * p->o; e++)
        lost_u[e] /= unit;
    compute(p, exact, unit, least, true, lost_u, lost);
    for (int k = 0; k < OUTPUTS; k++)
        for (int64_t e = 0; e < exact->size[k]; e++)
            lost[k][e] = unit * fmax(lost[k][e] - condition[k][e], 0);
    free(lost_u);
}
