/* SPDX-License-Identifier: BSD-3-Clause
 * The products alone, through CBLAS: what no layer can do without.
 */
#include "bench.h"

#include <cblas.h>
#include <string.h>

void product_forward(const struct bench_case *c, const struct tensors *real, void *u)
{
    const int n = (int)c->batch, i = (int)c->in, o = (int)c->out;
    const void *x = real->data[T_X], *w = real->data[T_W];
    if (real->matrix_type == FBN_F64) {
        if (n == 1)
            cblas_dgemv(CblasRowMajor, CblasNoTrans, o, i, 1, w, i, x, 1, 0, u, 1);
        else
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, o, i, 1, x, i, w, i, 0, u, o);
    } else {
        if (n == 1)
            cblas_sgemv(CblasRowMajor, CblasNoTrans, o, i, 1, w, i, x, 1, 0, u, 1);
        else
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, o, i, 1, x, i, w, i, 0, u, o);
    }
}

void product_backward(const struct bench_case *c, const struct tensors *real, const void *du,
                      void *dx, void *dw)
{
    const int n = (int)c->batch, i = (int)c->in, o = (int)c->out;
    const void *x = real->data[T_X], *w = real->data[T_W];
    if (real->matrix_type == FBN_F64) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, i, o, 1, du, o, w, i, 0, dx, i);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, o, i, n, 1, du, o, x, i, 0, dw, i);
    } else {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, i, o, 1, du, o, w, i, 0, dx, i);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, o, i, n, 1, du, o, x, i, 0, dw, i);
    }
}

int product_runner_create(struct product_runner *r, const struct bench_case *c,
                          const struct tensors *real)
{
    r->bench_case = c;
    r->real = real;
    return tensors_create(&r->results, c, real->matrix_type, real->param_type);
}

void product_runner_destroy(struct product_runner *r)
{
    tensors_destroy(&r->results);
}

/* dy stands for du, which has the same shape. */
int product_runner_run(void *product_runner)
{
    struct product_runner *r = product_runner;
    product_forward(r->bench_case, r->real, r->results.data[T_Y]);
    if (r->bench_case->operation == OP_TRAIN_BACKWARD)
        product_backward(r->bench_case, r->real, r->real->data[T_DY], r->results.data[T_DX],
                         r->results.data[T_DW]);
    return 0;
}
