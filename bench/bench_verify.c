/* SPDX-License-Identifier: BSD-3-Clause
 * The layer's results against a naive computation in double: the definition, step by step, with
 * nothing of the library's algebra.
 */
#include "bench.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-5     /* the library's default */
#define MOMENTUM 0.1 /* likewise */

/* A case with its data in double, and what forward leaves for backward. */
struct naive {
    const struct bench_case *c;
    struct tensors t;
    double *z;    /* [N,O]: what enters the normalisation; then zhat */
    double *sum;  /* [N,O]: u + bias; then dz, then du */
    double *rstd; /* [O] */
};

static const double *input(const struct naive *n, enum tensor_id id)
{
    return n->t.data[id];
}

static double *output(struct naive *n, enum tensor_id id)
{
    return n->t.data[id];
}

static bool is_softmax(const struct naive *n)
{
    return n->c->chain == CHAIN_BN_SCALE_SOFTMAX;
}

/* The scale of column j before the normalisation, and after it. */
static double before(const struct naive *n, int64_t j)
{
    return is_softmax(n) ? 1 : input(n, T_SCALE)[j];
}

static double after(const struct naive *n)
{
    return is_softmax(n) ? input(n, T_SCALE)[0] : 1;
}

static void naive_linear(struct naive *n)
{
    const int64_t in = n->c->in, out = n->c->out;
#pragma omp parallel for
    for (int64_t i = 0; i < n->c->batch; i++) {
        for (int64_t j = 0; j < out; j++) {
            const double *x = input(n, T_X) + i * in, *w = input(n, T_W) + j * in;
            double u = 0;
#pragma omp simd reduction(+ : u)
            for (int64_t k = 0; k < in; k++)
                u += x[k] * w[k];
            n->sum[i * out + j] = u + input(n, T_BIAS)[j];
            n->z[i * out + j] = before(n, j) * n->sum[i * out + j];
        }
    }
}

/* z becomes zhat. */
static void naive_normalise(struct naive *n)
{
    const int64_t batch = n->c->batch, out = n->c->out;
#pragma omp parallel for
    for (int64_t j = 0; j < out; j++) {
        double mean = input(n, T_MEAN)[j], var = input(n, T_VAR)[j];
        if (case_trains(n->c)) {
            double sum = 0, squares = 0;
            for (int64_t i = 0; i < batch; i++)
                sum += n->z[i * out + j];
            mean = sum / (double)batch;
            for (int64_t i = 0; i < batch; i++)
                squares += (n->z[i * out + j] - mean) * (n->z[i * out + j] - mean);
            var = squares / (double)batch;
            output(n, T_MEAN)[j] += MOMENTUM * (mean - output(n, T_MEAN)[j]);
            output(n, T_VAR)[j] += MOMENTUM * (squares / (double)(batch - 1) - output(n, T_VAR)[j]);
        }
        n->rstd[j] = 1 / sqrt(var + EPS);
        for (int64_t i = 0; i < batch; i++)
            n->z[i * out + j] = (n->z[i * out + j] - mean) * n->rstd[j];
    }
}

static void naive_activate(struct naive *n)
{
    const int64_t out = n->c->out;
#pragma omp parallel for
    for (int64_t i = 0; i < n->c->batch; i++) {
        double *y = output(n, T_Y) + i * out, largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < out; j++) {
            y[j] = after(n) * (input(n, T_GAMMA)[j] * n->z[i * out + j] + input(n, T_BETA)[j]);
            largest = fmax(largest, y[j]);
        }
        for (int64_t j = 0; is_softmax(n) && j < out; j++)
            sum += y[j] = exp(y[j] - largest);
        for (int64_t j = 0; is_softmax(n) && j < out; j++)
            y[j] /= sum;
    }
}

/* dy becomes the gradient by v, what enters the activation. */
static void naive_activation_gradient(struct naive *n)
{
    const int64_t out = n->c->out;
#pragma omp parallel for
    for (int64_t i = 0; i < n->c->batch; i++) {
        const double *y = input(n, T_Y) + i * out;
        double *dy = output(n, T_DY) + i * out, dot = 0;
        for (int64_t j = 0; j < out; j++)
            dot += y[j] * dy[j];
        for (int64_t j = 0; j < out; j++)
            dy[j] = y[j] * (dy[j] - dot);
    }
}

/* Gradients by the parameters of a column, and its du in `sum`. *dt and *ds are sums to be added. */
static void naive_column_gradient(struct naive *n, int64_t j, double *dt, double *ds)
{
    const int64_t batch = n->c->batch, out = n->c->out;
    const double gamma = input(n, T_GAMMA)[j], beta = input(n, T_BETA)[j], t = after(n);
    const double *dv = input(n, T_DY);
    double dgamma = 0, dbeta = 0, dbias = 0;

    *dt = *ds = 0;
    for (int64_t i = j; i < batch * out; i += out) {
        dgamma += t * dv[i] * n->z[i];
        dbeta += t * dv[i];
        *dt += dv[i] * (gamma * n->z[i] + beta);
    }
    for (int64_t i = j; i < batch * out; i += out) {
        const double dzhat = gamma * t * dv[i];
        const double mean = gamma * (dbeta + n->z[i] * dgamma) / (double)batch;
        const double dz = n->rstd[j] * (dzhat - mean);
        *ds += dz * n->sum[i];
        n->sum[i] = before(n, j) * dz;
        dbias += n->sum[i];
    }
    output(n, T_DGAMMA)[j] = dgamma;
    output(n, T_DBETA)[j] = dbeta;
    output(n, T_DBIAS)[j] = dbias;
}

static void naive_product_gradients(struct naive *n)
{
    const int64_t batch = n->c->batch, in = n->c->in, out = n->c->out;
#pragma omp parallel for
    for (int64_t i = 0; i < batch; i++) {
        double *dx = output(n, T_DX) + i * in;
        for (int64_t j = 0; j < out; j++) {
#pragma omp simd
            for (int64_t k = 0; k < in; k++)
                dx[k] += n->sum[i * out + j] * input(n, T_W)[j * in + k];
        }
    }
#pragma omp parallel for
    for (int64_t j = 0; j < out; j++) {
        double *dw = output(n, T_DW) + j * in;
        for (int64_t i = 0; i < batch; i++) {
#pragma omp simd
            for (int64_t k = 0; k < in; k++)
                dw[k] += n->sum[i * out + j] * input(n, T_X)[i * in + k];
        }
    }
}

static void naive_backward(struct naive *n)
{
    double all_dt = 0;
    if (is_softmax(n))
        naive_activation_gradient(n);
#pragma omp parallel for reduction(+ : all_dt)
    for (int64_t j = 0; j < n->c->out; j++) {
        double dt, ds;
        naive_column_gradient(n, j, &dt, &ds);
        all_dt += dt;
        if (!is_softmax(n))
            output(n, T_DSCALE)[j] = ds;
    }
    if (is_softmax(n))
        output(n, T_DSCALE)[0] = all_dt;
    naive_product_gradients(n);
}

/* ---------------------------------------------------------------------------------- comparison */

/* The largest difference of a result from the naive one, and the largest of the naive ones. */
static double largest_error(const struct naive *n, enum tensor_id id, const struct tensors *result,
                            double *largest)
{
    double error = 0, size = 0;
    const double *naive = input(n, id);
#pragma omp parallel for reduction(max : error, size)
    for (int64_t i = 0; i < result->count[id]; i++) {
        const double difference = fabs(tensor_get(result, id, i) - naive[i]);
        error = difference <= DBL_MAX ? fmax(error, difference) : INFINITY;
        size = fmax(size, fabs(naive[i]));
    }
    *largest = size;
    return error;
}

static double epsilon_of(fbn_dtype dtype)
{
    static const double epsilon[] = {
        [FBN_F32] = FLT_EPSILON, [FBN_F64] = DBL_EPSILON, [FBN_BF16] = 0x1p-7, [FBN_F16] = 0x1p-10};
    return epsilon[dtype];
}

/*
 * The layer may err twice as much as the unfused computation in the same precision, and 4 units in
 * the last place. That is a judgement only where the unfused computation is right itself: rounding
 * takes at most half of its digits, anything else takes all. Two gradients are the exception, as
 * they are exactly or nearly 0 and the unfused computation gets them by cancellation: d bias, which
 * the layer must give as 0, and d scale before the normalisation, which is proportional to eps and
 * must have half of its digits.
 */
static double allowed_error(const struct naive *n, enum tensor_id id, double unfused,
                            double largest, double epsilon)
{
    if (id == T_DBIAS)
        return 0;
    if (id == T_DSCALE && !is_softmax(n))
        return sqrt(epsilon) * largest;
    if (!(unfused <= sqrt(epsilon) * largest))
        return -1;
    return 2 * unfused + 4 * epsilon * largest;
}

/* d bias is compared with 0, and not with the naive computation's noise. */
static void compare(struct verdict *v, struct naive *n, const struct tensors *layer,
                    const struct tensors *unfused)
{
    double worst = -1;
    if (n->t.count[T_DBIAS] > 0)
        memset(n->t.data[T_DBIAS], 0, tensor_bytes(&n->t, T_DBIAS));
    v->good = true;
    for (int i = T_MEAN; i < TENSORS; i++) {
        const enum tensor_id id = (enum tensor_id)i;
        double largest;
        if (n->t.count[id] == 0)
            continue;
        const double by_unfused = largest_error(n, id, unfused, &largest);
        const double by_layer = largest_error(n, id, layer, &largest);
        const double allowed =
            allowed_error(n, id, by_unfused, largest, epsilon_of(tensor_type(layer, id)));
        const bool good = by_layer <= allowed;
        const double used = !good ? INFINITY : allowed > 0 ? by_layer / allowed : 0;
        if (allowed < 0)
            fprintf(stderr, "bench: %s of the unfused computation is wrong: off by %g of %g\n",
                    tensor_name(id), by_unfused, largest);
        if (used > worst) {
            worst = used;
            v->worst = id;
            v->error = by_layer;
            v->allowed = allowed;
        }
        v->good = v->good && good;
    }
}

int verify(struct verdict *v, const struct bench_case *c, const struct tensors *inputs,
           const struct tensors *layer, const struct tensors *unfused)
{
    int result = -1;
    const size_t elements = (size_t)(c->batch * c->out);
    struct naive n = {.c = c};

    n.z = malloc(elements * sizeof(double));
    n.sum = malloc(elements * sizeof(double));
    n.rstd = malloc((size_t)c->out * sizeof(double));
    if (n.z == NULL || n.sum == NULL || n.rstd == NULL) {
        fprintf(stderr, "bench: no memory to verify %s\n", c->name);
        goto out;
    }
    if (tensors_create(&n.t, c, FBN_F64, FBN_F64) != 0)
        goto out;
    tensors_copy_inputs(&n.t, inputs);
    naive_linear(&n);
    naive_normalise(&n);
    naive_activate(&n);
    if (c->operation == OP_TRAIN_BACKWARD)
        naive_backward(&n);
    compare(v, &n, layer, unfused);
    result = 0;
out:
    tensors_destroy(&n.t);
    free(n.rstd);
    free(n.sum);
    free(n.z);
    return result;
}
