/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The products of the backward pass.
 *
 *   rows:      du = alpha (g + du_u (u - c) + du_1), then dx = du W while du is in the cache
 *   weight:    dW = du^T x, each thread a part of W
 */
#include "cpu_internal.h"

static void *scratch_of(const fbni_cpu_gradients *job, int thread)
{
    return job->scratch + job->scratch_bytes * (size_t)thread;
}

/* dx of some rows and inputs i..i+inputs = du W. */
static void input_product(const fbni_cpu_gradients *job, int64_t row, int64_t rows, int64_t i,
                          int64_t inputs, int thread)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const size_t size = fbni_dtype_size(desc->dtype), real = job->layer->kernels->real_size;
    const int64_t O = desc->out_features;
    const fbni_gemm g = {
        .context = job->layer->context,
        .kernels = job->layer->kernels,
        .m = rows,
        .n = inputs,
        .depth = O,
        .a = {fbni_at_const(job->du, row, O, 0, real), O, fbni_real_dtype(desc->dtype), false},
        .b = {fbni_at_const(job->params->weight, 0, 0, i, size), job->params->ldw, desc->dtype,
              false},
        .accumulate = job->accumulate_dx,
        .c = fbni_at(job->grads->dx, row, job->grads->lddx, i, size),
        .ldc = job->grads->lddx,
        .c_dtype = desc->dtype,
        .scratch = scratch_of(job, thread),
    };
    fbni_cpu_gemm(&g);
}

static void du_task(void *argument, int64_t item, int thread)
{
    const fbni_cpu_gradients *job = argument;
    const fbni_cpu_kernels *k = job->layer->kernels;
    const int64_t O = job->layer->desc.out_features;
    const fbni_cpu_tile t = fbni_cpu_tile_of(&job->plan, item, job->args->batch, O);
    const void *g = fbni_at_const(job->g, t.row, job->ldg, 0, k->real_size);
    void *du = fbni_at(job->du, t.row, O, 0, k->real_size);
    const fbni_cpu_slopes by = job->slopes;

    if (job->frozen)
        k->affine[FBN_ACT_NONE](t.rows, O, g, job->ldg, by.alpha, by.c, by.one, du, O, NULL);
    else
        k->input_gradient(t.rows, O, g, job->ldg, fbni_at_const(job->u, t.row, O, 0, k->real_size),
                          O, by.c, by.alpha, by.u, by.one, du, O);
    if (job->grads->dx && job->dx_per_block)
        input_product(job, t.row, t.rows, 0, job->layer->desc.in_features, thread);
}

/* dW[o..o+outputs, i..i+inputs] = du^T x. */
static void weight_product(const fbni_cpu_gradients *job, int64_t o, int64_t outputs, int64_t i,
                           int64_t inputs, int thread)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const size_t size = fbni_dtype_size(desc->dtype), real = job->layer->kernels->real_size;
    const fbn_dtype real_dtype = fbni_real_dtype(desc->dtype);
    const fbn_dtype to = desc->flags & FBN_WEIGHT_GRADIENT_F32 ? real_dtype : desc->dtype;
    const fbni_gemm g = {
        .context = job->layer->context,
        .kernels = job->layer->kernels,
        .m = outputs,
        .n = inputs,
        .depth = job->args->batch,
        .a = {fbni_at_const(job->du, 0, 0, o, real), desc->out_features, real_dtype, true},
        .b = {fbni_at_const(job->args->x, 0, 0, i, size), job->args->ldx, desc->dtype, false},
        .accumulate = job->accumulate,
        .c = fbni_at(job->grads->weight, o, job->grads->lddw, i, fbni_dtype_size(to)),
        .ldc = job->grads->lddw,
        .c_dtype = to,
        .scratch = scratch_of(job, thread),
    };
    fbni_cpu_gemm(&g);
}

/* A piece of a length that is shared out among the threads. */
typedef struct piece {
    int64_t from, count;
} piece;

static int64_t piece_length(const fbni_cpu_gradients *job, int64_t length)
{
    return fbni_ceil_div(length, job->plan.threads);
}

static piece piece_of(const fbni_cpu_gradients *job, int64_t length, int64_t item)
{
    const int64_t most = piece_length(job, length);
    const piece p = {item * most, fbni_min(most, length - item * most)};
    return p;
}

static void input_task(void *argument, int64_t item, int thread)
{
    const fbni_cpu_gradients *job = argument;
    const piece p = piece_of(job, job->layer->desc.in_features, item);
    input_product(job, 0, job->args->batch, p.from, p.count, thread);
}

/* dW is cut along the longer of its sides. */
static void weight_task(void *argument, int64_t item, int thread)
{
    const fbni_cpu_gradients *job = argument;
    const int64_t I = job->layer->desc.in_features, O = job->layer->desc.out_features;
    const piece p = piece_of(job, O >= I ? O : I, item);
    if (O >= I)
        weight_product(job, p.from, p.count, 0, I, thread);
    else
        weight_product(job, 0, O, p.from, p.count, thread);
}

static void share_out(fbni_cpu_gradients *job, int64_t length, fbni_cpu_task *task)
{
    fbni_cpu_for(job->plan.threads, fbni_ceil_div(length, piece_length(job, length)), task, job);
}

void fbni_cpu_gradients_run(fbni_cpu_gradients *job)
{
    const int64_t N = job->args->batch;
    const int64_t I = job->layer->desc.in_features, O = job->layer->desc.out_features;
    const bool nests = job->layer->context->blas_nests || job->plan.threads == 1;

    if (!job->grads->dx && !job->grads->weight)
        return;
    /* a block's du is in the cache, but fewer blocks than threads leave some idle */
    job->dx_per_block = nests && job->plan.row_blocks >= job->plan.threads;
    fbni_cpu_for(job->plan.threads, job->plan.row_blocks, du_task, job);
    if (job->grads->dx && !job->dx_per_block) {
        if (nests)
            share_out(job, I, input_task);
        else
            input_product(job, 0, N, 0, I, 0);
    }
    if (job->grads->weight) {
        if (nests)
            share_out(job, O >= I ? O : I, weight_task);
        else
            weight_product(job, 0, O, 0, I, 0);
    }
}
