/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the library's results are held against.
 *
 * The oracle computes the layer naively and unfused, straight from the formula and in the order of
 * the layers: u = x W^T, z = s (u + b), mean and variance in two passes, zhat, h = gamma zhat +
 * beta, v = t h, y = act(v); backward in the reverse order, as automatic differentiation would. One
 * text (oracle_real.h) is compiled for float, double and long double. The wide one is the truth;
 * the one in the layer's own precision says what error a plain unfused computation makes, from
 * which the tolerances are derived (reference.h).
 */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include <fusedbn.h>
#include <stdbool.h>

/* The outputs of the library, by name. */
typedef enum output {
    OUT_Y,
    OUT_BATCH_MEAN,
    OUT_BATCH_VAR,
    OUT_RUNNING_MEAN,
    OUT_RUNNING_VAR,
    OUT_DX,
    OUT_DW,
    OUT_DBIAS,
    OUT_DPRE,
    OUT_DPOST,
    OUT_DGAMMA,
    OUT_DBETA,
    OUTPUTS
} output;

extern const char *const output_names[OUTPUTS];

/* One layer with its numbers. Matrices are dense; doubles hold values of every storage type
 * exactly. */
typedef struct problem {
    int64_t n, i, o;
    fbn_scale pre_scale, post_scale;
    fbn_activation activation;
    bool training;
    double eps, momentum;
    bool tf32;                /* REAL_FLOAT: products take their operands rounded to TF32 */
    uint64_t flags;           /* fbn_layer_desc.flags */
    const double *x, *w, *dy; /* [n,i] [o,i] [n,o] */
    const double *bias;       /* this and the following: [o] or NULL */
    const double *pre, *post; /* [1] or [o] or NULL */
    const double *gamma, *beta;
    const double *running_mean, *running_var;
    bool tracked; /* there is a num_batches_tracked, with this value before the call */
    int64_t batches;
} problem;

/* Every intermediate and every result of one computation. Values are those of the precision that
 * computed them, stored wide. */
typedef struct trace {
    int64_t n, i, o;
    long double *u, *z, *zhat, *h, *v;     /* [n,o] */
    long double *mean, *var, *rstd;        /* [o]: those that normalise, batch or running */
    long double *g, *dzhat, *dz, *du;      /* [n,o]: g = dL/dv */
    long double *mean_dzhat, *mean_dzhatz; /* [o]: means of dzhat and of dzhat zhat over rows */
    long double *out[OUTPUTS];
    int64_t size[OUTPUTS]; /* entries of each output */
    int64_t batches;       /* num_batches_tracked after the call */
} trace;

typedef enum real_kind { REAL_FLOAT, REAL_DOUBLE, REAL_LONG_DOUBLE } real_kind;

trace *trace_create(const problem *p);
void trace_destroy(trace *t);

void oracle_forward(real_kind kind, const problem *p, trace *t);
void oracle_backward(real_kind kind, const problem *p, trace *t); /* after the forward */

/* The momentum of this call and the count after it. */
double oracle_momentum(const problem *p, int64_t *batches_after);

/* How far rounding is expected to move a value at most, in units of its condition: where more than
 * that is left to 0, the sign of v is sure. A sum's K terms give 128 units, products in TF32 eight
 * of theirs. */
double condition_reach(const problem *p, double unit);

/* How far rounding can move each output, in units of the unit roundoff, to first order: see
 * condition.c. exact: forward (and backward, if `backward`) of p. unit: the unit roundoff;
 * least: the smallest positive number. condition[k]: size[k] entries. */
void condition_compute(const problem *p, const trace *exact, double unit, double least,
                       bool backward, double *condition[OUTPUTS]);

/* How far y [n,o] can move, to first order, where each u [n,o] is off by 2^-11 of its distance from
 * some value between its column's least and largest. */
void condition_of_packing(const problem *p, const trace *exact, double *lost);

/* The same of every output after a backward, where the moments were taken before. condition: what
 * condition_compute gave. */
void condition_of_packed_gradients(const problem *p, const trace *exact, double unit, double least,
                                   double *const condition[OUTPUTS], double *lost[OUTPUTS]);

/* How far dx [n,i] and dW [o,i] can move where du [n,o] is rounded to numbers with this unit
 * roundoff, and loses this part of the largest |du| that the columns' largest |g| and means allow
 * (algebra.h, fbni_du_bound). */
void condition_of_rounding(const problem *p, const trace *exact, double unit, double floor,
                           double *dx, double *dw);

#endif
