/* SPDX-License-Identifier: BSD-3-Clause
 * The reference on the device, checked by the host: a few columns of the layer in double, by plain
 * loops over the definition.
 */
#include "bench_cuda.h"

#include <math.h>
#include <stdlib.h>

#define EPS 1e-5 /* the library's default */

enum { COLUMNS = 3, ENTRIES = 3 };

/* Sums of so many doubles in any order differ by far less. */
static const double tolerance = 1e-9;

static void *download(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    if (to == NULL)
        fprintf(stderr, "bench: no memory for %zu bytes\n", bytes);
    else if (check_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy") != 0) {
        free(to);
        to = NULL;
    }
    return to;
}

/* Columns j.. of a matrix of `columns` columns. */
static int download_columns(const double *from, int64_t rows, int64_t columns, int64_t j,
                            int64_t count, double *to)
{
    return check_cuda(cudaMemcpy2D(to, (size_t)count * sizeof *to, from + j,
                                   (size_t)columns * sizeof *to, (size_t)count * sizeof *to,
                                   (size_t)rows, cudaMemcpyDeviceToHost),
                      "cudaMemcpy2D");
}

static double parameter(const struct gpu_unfused *u, enum tensor_id id, int64_t j)
{
    double value = NAN;
    (void)check_cuda(cudaMemcpy(&value, (const double *)u->data->set[0][id] + j, sizeof value,
                                cudaMemcpyDeviceToHost),
                     "cudaMemcpy");
    return value;
}

struct column {
    int64_t j;
    double *z, *v, *w; /* [N], [N]: the normalised column; [I] */
};

static bool agrees(const char *what, int64_t row, int64_t column, double device, double host,
                   double size)
{
    if (fabs(device - host) <= tolerance * size)
        return true;
    fprintf(stderr, "bench: the reference's %s[%lld][%lld] is %.17g, the host's %.17g\n", what,
            (long long)row, (long long)column, device, host);
    return false;
}

/* z = (x w + bias) scale, then normalised, gamma and beta. */
static void compute_column(const struct gpu_unfused *u, const double *x, struct column *c,
                           double mean, double var)
{
    const struct bench_case *b = u->data->bench_case;
    const bool softmax = b->chain == CHAIN_BN_SCALE_SOFTMAX;
    const double bias = parameter(u, T_BIAS, c->j), gamma = parameter(u, T_GAMMA, c->j);
    const double beta = parameter(u, T_BETA, c->j);
    const double scale = softmax ? 1 : parameter(u, T_SCALE, c->j);

#pragma omp parallel for
    for (int64_t i = 0; i < b->batch; i++) {
        double sum = 0;
        for (int64_t k = 0; k < b->in; k++)
            sum += x[i * b->in + k] * c->w[k];
        c->z[i] = (sum + bias) * scale;
    }
    if (case_trains(b)) {
        mean = var = 0;
        for (int64_t i = 0; i < b->batch; i++)
            mean += c->z[i] / (double)b->batch;
        for (int64_t i = 0; i < b->batch; i++)
            var += (c->z[i] - mean) * (c->z[i] - mean) / (double)b->batch;
    }
    for (int64_t i = 0; i < b->batch; i++)
        c->v[i] = gamma * (c->z[i] - mean) / sqrt(var + EPS) + beta;
}

/* 0 where column j of the reference is right. */
static int check_column(const struct gpu_unfused *u, const double *x, int64_t j, double mean,
                        double var)
{
    const struct bench_case *b = u->data->bench_case;
    const bool softmax = b->chain == CHAIN_BN_SCALE_SOFTMAX;
    const void *normalised = softmax ? u->v : u->data->set[0][T_Y];
    struct column c = {.j = j};
    double *device = malloc((size_t)b->batch * sizeof *device);
    int result = -1;

    c.z = malloc((size_t)b->batch * sizeof *c.z);
    c.v = malloc((size_t)b->batch * sizeof *c.v);
    c.w = download((const double *)u->data->set[0][T_W] + j * b->in, (size_t)b->in * sizeof *c.w);
    if (device == NULL || c.z == NULL || c.v == NULL || c.w == NULL)
        goto out;
    compute_column(u, x, &c, mean, var);
    /* In a backward the softmax chain's v is intact, the other's y always. */
    if (download_columns(normalised, b->batch, b->out, j, 1, device) != 0)
        goto out;
    result = 0;
    for (int64_t i = 0; i < b->batch && result == 0; i++)
        result = !agrees("normalised column", i, j, device[i], c.v[i], fabs(c.v[i]) + 1);
out:
    free(c.w);
    free(c.v);
    free(c.z);
    free(device);
    return result;
}

/* One row of the softmax from the reference's own normalised row, which check_column checks. */
static int check_softmax(const struct gpu_unfused *u, int64_t row)
{
    const int64_t out = u->data->bench_case->out;
    const double *y = (const double *)u->data->set[0][T_Y] + row * out;
    const double t = parameter(u, T_SCALE, 0);
    double *v = download((const double *)u->v + row * out, (size_t)out * sizeof *v);
    double *device = download(y, (size_t)out * sizeof *device);
    double sum = 0;
    int result = v != NULL && device != NULL ? 0 : -1;

    for (int64_t j = 0; j < out && result == 0; j++)
        sum += exp(t * v[j]);
    for (int64_t j = 0; j < out && result == 0; j++)
        result = !agrees("softmax", row, j, device[j], exp(t * v[j]) / sum, 1);
    free(device);
    free(v);
    return result;
}

/* Entries of dW = du^T x and dx = du W, from the reference's own du. */
static int check_products(const struct gpu_unfused *u, const double *x, int64_t j)
{
    const struct bench_case *b = u->data->bench_case;
    void *const *data = u->data->set[0];
    const int64_t row = j % b->batch;
    double *column = malloc((size_t)b->batch * sizeof *column);
    double *du = download((const double *)u->du + row * b->out, (size_t)b->out * sizeof *du);
    double *w = malloc((size_t)b->out * ENTRIES * sizeof *w);
    double dw[ENTRIES], dx[ENTRIES];
    int result = -1;

    if (column == NULL || du == NULL || w == NULL ||
        download_columns(u->du, b->batch, b->out, j, 1, column) != 0 ||
        download_columns(data[T_W], b->out, b->in, 0, ENTRIES, w) != 0 ||
        check_cuda(cudaMemcpy(dw, (const double *)data[T_DW] + j * b->in, sizeof dw,
                              cudaMemcpyDeviceToHost),
                   "cudaMemcpy") != 0 ||
        check_cuda(cudaMemcpy(dx, (const double *)data[T_DX] + row * b->in, sizeof dx,
                              cudaMemcpyDeviceToHost),
                   "cudaMemcpy") != 0)
        goto out;
    result = 0;
    for (int k = 0; k < ENTRIES && result == 0; k++) {
        double sum_dw = 0, sum_dx = 0, size_dw = 0, size_dx = 0;
        for (int64_t i = 0; i < b->batch; i++) {
            sum_dw += column[i] * x[i * b->in + k];
            size_dw += fabs(column[i] * x[i * b->in + k]);
        }
        for (int64_t o = 0; o < b->out; o++) {
            sum_dx += du[o] * w[o * ENTRIES + k];
            size_dx += fabs(du[o] * w[o * ENTRIES + k]);
        }
        result = !agrees("dW", j, k, dw[k], sum_dw, size_dw) ||
                 !agrees("dx", row, k, dx[k], sum_dx, size_dx);
    }
out:
    free(w);
    free(du);
    free(column);
    return result;
}

int gpu_check_exact(struct gpu *g, const struct gpu_unfused *exact)
{
    const struct bench_case *b = exact->data->bench_case;
    if (check_cuda(cudaStreamSynchronize(g->stream), "reference") != 0)
        return -1;
    double *x = download(exact->data->set[0][T_X], (size_t)(b->batch * b->in) * sizeof *x);
    int result = x != NULL ? 0 : -1;

    for (int i = 0; i < COLUMNS && result == 0; i++) {
        const int64_t j = i * (b->out - 1) / (COLUMNS - 1); /* the first and the last among them */
        const double mean = case_trains(b) ? 0 : parameter(exact, T_MEAN, j);
        const double var = case_trains(b) ? 0 : parameter(exact, T_VAR, j);
        result = check_column(exact, x, j, mean, var);
        if (result == 0 && b->operation == OP_TRAIN_BACKWARD)
            result = check_products(exact, x, j);
    }
    if (result == 0 && b->chain == CHAIN_BN_SCALE_SOFTMAX)
        result = check_softmax(exact, b->batch - 1);
    free(x);
    return result;
}
