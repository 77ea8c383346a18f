/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The N×O matrix cut into tiles: each tile's product, and its normalisation and activation.
 */
#include "cpu_internal.h"

fbni_cpu_tile fbni_cpu_tile_of(const fbni_cpu_plan *plan, int64_t item, int64_t N, int64_t O)
{
    fbni_cpu_tile t;
    t.row = item / plan->panels * plan->rows;
    t.rows = fbni_min(plan->rows, N - t.row);
    t.column = item % plan->panels * plan->features;
    t.columns = fbni_min(plan->features, O - t.column);
    return t;
}

static char *scratch_of(const fbni_cpu_tiled *d, int thread)
{
    return d->scratch_bytes ? d->scratch + d->scratch_bytes * (size_t)thread : NULL;
}

void fbni_cpu_tiled_product(const fbni_cpu_tiled *d, fbni_cpu_tile t, int thread)
{
    const size_t real = d->kernels->real_size;
    fbni_gemm g = {
        .context = d->context,
        .kernels = d->kernels,
        .m = t.rows,
        .n = t.columns,
        .depth = d->I,
        .a = d->x,
        .b = d->weight,
        .c = fbni_at(d->u, t.row, d->ldu, t.column, real),
        .ldc = d->ldu,
        .c_dtype = fbni_real_dtype(d->dtype),
        .scratch = scratch_of(d, thread),
    };
    g.a.p = fbni_at_const(d->x.p, t.row, d->x.ld, 0, fbni_dtype_size(d->x.dtype));
    g.b.p = fbni_at_const(d->weight.p, t.column, d->weight.ld, 0, fbni_dtype_size(d->weight.dtype));
    fbni_cpu_gemm(&g);
}

void fbni_cpu_tiled_product_all(const fbni_cpu_tiled *d)
{
    fbni_cpu_tiled_product(d, (fbni_cpu_tile){0, d->N, 0, d->O}, 0);
}

static void store_rows(const fbni_cpu_tiled *d, int64_t rows, int64_t columns, const void *from,
                       void *to)
{
    const fbni_cpu_kernels *k = d->kernels;
    if (d->ldy == columns) {
        k->store[d->dtype](rows * columns, from, to);
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        k->store[d->dtype](columns, fbni_at_const(from, i, columns, 0, k->real_size),
                           fbni_at(to, i, d->ldy, 0, fbni_dtype_size(d->dtype)));
}

/* Half types go through a strip of rows behind the product's scratch. */
void fbni_cpu_tiled_finish(const fbni_cpu_tiled *d, fbni_cpu_tile t, int thread)
{
    const fbni_cpu_kernels *k = d->kernels;
    const size_t real = k->real_size, size = fbni_dtype_size(d->dtype);
    const bool half = fbni_is_half(d->dtype);
    const int64_t most =
        half ? FBNI_TILED_STRIP / t.columns + (t.columns > FBNI_TILED_STRIP) : t.rows;
    void *strip = half ? scratch_of(d, thread) + fbni_align(FBNI_GEMM_SCRATCH) : NULL;
    const void *alpha = fbni_at_const(d->affine.alpha, 0, 0, t.column, real);
    const void *c = fbni_at_const(d->affine.c, 0, 0, t.column, real);
    const void *shift = fbni_at_const(d->affine.shift, 0, 0, t.column, real);

    for (int64_t i = t.row; i < t.row + t.rows; i += most) {
        const int64_t rows = fbni_min(most, t.row + t.rows - i);
        const void *u = fbni_at_const(d->u, i, d->ldu, t.column, real);
        void *y = fbni_at(d->y, i, d->ldy, t.column, size);
        void *lse = d->lse ? fbni_at(d->lse, i, 2, 0, real) : NULL;
        k->affine[d->activation](rows, t.columns, u, d->ldu, alpha, c, shift, half ? strip : y,
                                 half ? t.columns : d->ldy, lse);
        if (half)
            store_rows(d, rows, t.columns, strip, y);
    }
}

static void finish_task(void *argument, int64_t item, int thread)
{
    const fbni_cpu_tiled *d = argument;
    fbni_cpu_tiled_finish(d, fbni_cpu_tile_of(&d->plan, item, d->N, d->O), thread);
}

void fbni_cpu_tiled_finish_all(const fbni_cpu_tiled *tiled)
{
    fbni_cpu_tiled d = *tiled;
    if (d.plan.panels > 1) { /* whole rows now, a few strips for each thread */
        d.plan.rows = fbni_ceil_div(d.N, fbni_min(d.N, 4 * (int64_t)d.plan.threads));
        d.plan.row_blocks = fbni_ceil_div(d.N, d.plan.rows);
        d.plan.features = d.O;
        d.plan.panels = 1;
    }
    fbni_cpu_for(d.plan.threads, d.plan.row_blocks, finish_task, &d);
}

static void run_task(void *argument, int64_t item, int thread)
{
    const fbni_cpu_tiled *d = argument;
    const fbni_cpu_tile t = fbni_cpu_tile_of(&d->plan, item, d->N, d->O);
    if (d->product_per_tile)
        fbni_cpu_tiled_product(d, t, thread);
    if (d->finish_per_tile)
        fbni_cpu_tiled_finish(d, t, thread);
}

void fbni_cpu_tiled_run(fbni_cpu_tiled *d)
{
    d->product_per_tile = d->context->blas_nests || d->plan.threads == 1;
    d->finish_per_tile = d->plan.panels == 1 || !fbni_is_rowwise(d->activation);
    if (!d->product_per_tile)
        fbni_cpu_tiled_product_all(d);
    fbni_cpu_for(d->plan.threads, d->plan.row_blocks * d->plan.panels, run_task, d);
    if (!d->finish_per_tile)
        fbni_cpu_tiled_finish_all(d);
}
