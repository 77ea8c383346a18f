/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The products of the backward pass, dx = du W and dW = du^T x, and du in the form that each needs.
 */
#include "cuda_backward.h"

static fbn_status write_du(fbni_cuda_backward_job *job, fbni_cuda_parts parts)
{
    job->input.parts = parts;
    return fbni_cuda_check(
        job->context->host,
        fbni_cuda_input_gradient_of(&job->context->queue, &job->gradient, &job->input),
        "input_gradient");
}

/* ---- products ---- */

/* The leading dimension of du. */
static int64_t ld_du(const fbni_cuda_backward_job *job)
{
    return fbni_parts_count(job->input.parts) * job->O;
}

/* dx = du W; du and W of `type`. */
static fbni_product product_dx(const fbni_cuda_backward_job *job, fbn_dtype type, const void *du,
                               const void *weight, int64_t ldw, void *c, int64_t ldc)
{
    const fbni_product p = {
        .m = job->N,
        .n = job->I,
        .depth = job->O,
        .type = type,
        .a = {du, ld_du(job), false},
        .b = {weight, ldw, false},
        .c = c,
        .ldc = ldc,
    };
    return p;
}

/* dW = du^T x. */
static fbni_product product_dw(const fbni_cuda_backward_job *job, fbn_dtype type, const void *du,
                               const void *x, int64_t ldx, void *c, int64_t ldc)
{
    const fbni_product p = {
        .m = job->O,
        .n = job->I,
        .depth = job->N,
        .type = type,
        .a = {du, ld_du(job), true},
        .b = {x, ldx, false},
        .c = c,
        .ldc = ldc,
    };
    return p;
}

/* The product for each part of du, the smallest first, so that hardly anything is lost where
 * the next is added. */
static fbn_status multiply_parts(const fbni_cuda_backward_job *job, fbni_product p,
                                 fbni_cuda_parts parts)
{
    const char *du = p.a.p;
    fbn_status status = FBN_OK;

    for (int part = 0; part < fbni_parts_count(parts) && status == FBN_OK; part++) {
        p.a.p = du + (size_t)part * (size_t)job->O * fbni_part_element(parts);
        status = fbni_cuda_multiply(job->context, &p);
        p.accumulate = true;
    }
    return status;
}

static fbn_status to_float(const fbni_cuda_backward_job *job, const void *from, int64_t rows,
                           int64_t ldfrom, float *to)
{
    return fbni_cuda_check(job->context->host,
                           fbni_cuda_to_float(&job->context->queue, job->layer->desc.dtype, rows,
                                              job->I, from, ldfrom, to, job->I),
                           "conversion to float");
}

static fbn_status from_float(const fbni_cuda_backward_job *job, fbn_dtype dtype, const float *from,
                             int64_t rows, void *to, int64_t ldto, bool accumulate)
{
    return fbni_cuda_check(job->context->host,
                           fbni_cuda_from_float(&job->context->queue, dtype, rows, job->I, from,
                                                job->I, to, ldto, accumulate),
                           "conversion from float");
}

/* Real types: cuBLAS adds to the gradients itself. */
static fbn_status real_products(fbni_cuda_backward_job *job)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbn_grads *grads = job->grads;
    const bool tf32 = desc->dtype == FBN_F32 && desc->math == FBN_MATH_TF32;
    fbn_status status = write_du(job, FBNI_CUDA_PARTS_REAL);

    if (status == FBN_OK && grads->dx) {
        fbni_product p = product_dx(job, desc->dtype, job->input.du, job->params->weight,
                                    job->params->ldw, grads->dx, grads->lddx);
        p.tf32 = tf32;
        p.accumulate = job->accumulate_dx;
        status = fbni_cuda_multiply(job->context, &p);
    }
    if (status == FBN_OK && grads->weight) {
        fbni_product p = product_dw(job, desc->dtype, job->input.du, job->args->x, job->args->ldx,
                                    grads->weight, grads->lddw);
        p.tf32 = tf32;
        p.accumulate = job->accumulate;
        status = fbni_cuda_multiply(job->context, &p);
    }
    return status;
}

/* The type in which du's parts are multiplied with W and x: FBN_F32 means that those are converted,
 * exactly. */
static fbn_dtype type_of(fbni_cuda_parts parts)
{
    return parts == FBNI_CUDA_PARTS_BF16X3 ? FBN_BF16 : FBN_F32;
}

/* Whether the parts of du are multiplied at once. That takes copies of W instead of a float dx:
 * much faster with more rows than features (f + b of 65536 x 512 -> 512: 658 us for 870 on an
 * H200), slower with fewer (1024 x 8192 -> 8192: 2231 us for 1822). */
static bool at_once(const fbni_cuda_backward_job *job, fbni_cuda_parts parts)
{
    return parts == FBNI_CUDA_PARTS_BF16X3 && job->N >= job->O;
}

/* dx = [low middle high] [W; W; W], one product that rounds once. The copies of W lie where dW will
 * be before its rounding. What is added to dx is not cuBLAS's to add: some of its kernels round the
 * product before. */
static fbn_status bf16_dx(const fbni_cuda_backward_job *job)
{
    const int parts = fbni_parts_count(FBNI_CUDA_PARTS_BF16X3);
    const size_t row = (size_t)job->I * 2, matrix = (size_t)job->O * row;
    char *copies = (char *)job->weights;
    cudaError_t error = cudaSuccess;

    for (int part = 0; part < parts && error == cudaSuccess; part++)
        error = cudaMemcpy2DAsync(copies + (size_t)part * matrix, row, job->params->weight,
                                  (size_t)job->params->ldw * 2, row, (size_t)job->O,
                                  cudaMemcpyDeviceToDevice, job->context->queue.stream);
    if (error != cudaSuccess)
        return fbni_cuda_check(job->context->host, error, "cudaMemcpy2DAsync");
    fbni_product p =
        product_dx(job, FBN_BF16, job->input.du, copies, job->I, job->grads->dx, job->grads->lddx);
    p.depth = parts * job->O;
    p.narrow = !job->accumulate_dx;
    if (job->accumulate_dx) {
        p.c = job->inputs;
        p.ldc = job->I;
    }
    fbn_status status = fbni_cuda_multiply(job->context, &p);
    if (status == FBN_OK && job->accumulate_dx)
        status =
            from_float(job, FBN_BF16, job->inputs, job->N, job->grads->dx, job->grads->lddx, true);
    return status;
}

/* dx in float, then rounded. */
static fbn_status half_dx(const fbni_cuda_backward_job *job, fbni_cuda_parts parts)
{
    const void *weight = job->params->weight;
    int64_t ldw = job->params->ldw;
    fbn_status status = FBN_OK;

    if (type_of(parts) == FBN_F32) {
        status = to_float(job, weight, job->O, ldw, job->weights);
        weight = job->weights;
        ldw = job->I;
    }
    if (status == FBN_OK) {
        fbni_product p =
            product_dx(job, type_of(parts), job->input.du, weight, ldw, job->inputs, job->I);
        p.tf32 = parts == FBNI_CUDA_PARTS_TF32X2;
        status = multiply_parts(job, p, parts);
    }
    if (status == FBN_OK)
        status = from_float(job, job->layer->desc.dtype, job->inputs, job->N, job->grads->dx,
                            job->grads->lddx, job->accumulate_dx);
    return status;
}

/* dW in float, then rounded; float at once where that is asked for. */
static fbn_status half_dw(const fbni_cuda_backward_job *job, fbni_cuda_parts parts, bool as_float)
{
    const fbn_grads *grads = job->grads;
    const void *x = job->args->x;
    int64_t ldx = job->args->ldx;
    fbn_status status = FBN_OK;

    if (type_of(parts) == FBN_F32) {
        status = to_float(job, x, job->N, ldx, job->inputs);
        x = job->inputs;
        ldx = job->I;
    }
    if (status == FBN_OK) {
        fbni_product p =
            product_dw(job, type_of(parts), job->input.du, x, ldx,
                       as_float ? grads->weight : job->weights, as_float ? grads->lddw : job->I);
        p.tf32 = parts == FBNI_CUDA_PARTS_TF32X2;
        p.accumulate = as_float && job->accumulate;
        status = multiply_parts(job, p, parts);
    }
    if (status == FBN_OK && !as_float)
        status = from_float(job, job->layer->desc.dtype, job->weights, job->O, grads->weight,
                            grads->lddw, job->accumulate);
    return status;
}

/* A float dW keeps the bits that the tensor cores' accumulators drop: it is a product in float. */
static fbn_status half_products(fbni_cuda_backward_job *job)
{
    const bool as_float = (job->layer->desc.flags & FBN_WEIGHT_GRADIENT_F32) != 0;
    const fbni_cuda_parts parts = fbni_cuda_parts_of(&job->layer->choice);
    fbn_status status = FBN_OK;

    if (job->grads->weight && as_float) {
        status = write_du(job, FBNI_CUDA_PARTS_REAL);
        if (status == FBN_OK)
            status = half_dw(job, FBNI_CUDA_PARTS_REAL, true);
    }
    if (status == FBN_OK && (job->grads->dx || (job->grads->weight && !as_float)))
        status = write_du(job, parts);
    if (status == FBN_OK && job->grads->dx)
        status = at_once(job, parts) ? bf16_dx(job) : half_dx(job, parts);
    if (status == FBN_OK && job->grads->weight && !as_float)
        status = half_dw(job, parts, false);
    return status;
}

/* ---- Hopper ---- */

/* du, and the largest magnitudes of its columns where the partial sums were. */
static fbn_status write_hopper_du(fbni_cuda_backward_job *job)
{
    const cudaError_t error = cudaMemsetAsync(job->partials, 0, (size_t)job->O * sizeof(unsigned),
                                              job->context->queue.stream);

    job->input.maxima = job->partials;
    return error == cudaSuccess ? write_du(job, FBNI_CUDA_PARTS_REAL)
                                : fbni_cuda_check(job->context->host, error, "cudaMemsetAsync");
}

/* dW first: dx may take du's place. The product stores floats; what else is asked for is made of
 * them. */
static fbn_status hopper_products(fbni_cuda_backward_job *job, fbni_hopper_kind kind)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbn_grads *grads = job->grads;
    const fbn_dtype type_dw = desc->flags & FBN_WEIGHT_GRADIENT_F32 ? FBN_F32 : desc->dtype;
    const bool dw_there = type_dw == FBN_F32 && !job->accumulate;
    const bool dx_there = desc->dtype == FBN_F32 && !job->accumulate_dx;
    const fbni_hopper_gradients g = {
        .kind = kind,
        .dtype = desc->dtype,
        .N = job->N,
        .I = job->I,
        .O = job->O,
        .du = job->input.du,
        .maxima = job->partials,
        .alpha = job->gradient.affine.alpha,
        .parts = job->du,
        .other = (char *)job->inputs,
        .control = job->control,
    };
    fbn_status status = write_hopper_du(job);

    if (status == FBN_OK && grads->weight)
        status = fbni_hopper_weight_gradient(job->context, &g, job->args->x, job->args->ldx,
                                             dw_there ? grads->weight : job->weights,
                                             dw_there ? grads->lddw : job->I);
    if (status == FBN_OK && grads->weight && !dw_there)
        status = from_float(job, type_dw, job->weights, job->O, grads->weight, grads->lddw,
                            job->accumulate);
    if (status == FBN_OK && grads->dx)
        status = fbni_hopper_data_gradient(job->context, &g, job->params->weight, job->params->ldw,
                                           dx_there ? grads->dx : job->input.du,
                                           dx_there ? grads->lddx : job->I);
    if (status == FBN_OK && grads->dx && !dx_there)
        status = from_float(job, desc->dtype, job->input.du, job->N, grads->dx, grads->lddx,
                            job->accumulate_dx);
    return status;
}

/* Whether a call with few rows is cuBLAS's, as in fbni_cuda_choose_product; its rows for half types
 * have another workspace. */
static bool is_too_small(const fbni_cuda_backward_job *job, fbni_hopper_kind kind)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    return desc->dtype == FBN_F32 && !job->layer->choice.named[FBNI_CUDA_GRADIENTS] &&
           fbni_hopper_refuse_backward_speed(job->context, kind, desc->dtype, job->N, job->I,
                                             job->O) != NULL;
}

fbn_status fbni_cuda_gradients(fbni_cuda_backward_job *job)
{
    fbni_hopper_kind kind;

    if (fbni_cuda_is_hopper_gradients(job->layer->choice.row[FBNI_CUDA_GRADIENTS], &kind) &&
        !is_too_small(job, kind))
        return hopper_products(job, kind);
    return fbni_is_half(job->layer->desc.dtype) ? half_products(job) : real_products(job);
}
