/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The products of the backward pass, dx = du W and dW = du^T x, and du in the form that each needs.
 */
#include "cuda_backward.h"

/* du as reals, or rounded to the data's type. */
static fbn_status write_du(fbni_cuda_backward_job *job, bool rounds)
{
    fbn_status status = FBN_OK;

    if (job->du_there)
        return FBN_OK;
    job->input.rounds = rounds;
    job->input.scale = rounds ? job->features.scale : NULL;
    if (job->gradient.packed.partials)
        status = fbni_hopper_packed_du(job->context, &job->gradient, &job->input);
    if (status != FBN_OK)
        return status;
    return fbni_cuda_check(
        job->context->host,
        fbni_cuda_input_gradient_of(&job->context->queue, &job->gradient, &job->input),
        "input_gradient");
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

static fbn_dtype weight_gradient_type(const fbn_layer_desc *desc)
{
    return desc->flags & FBN_WEIGHT_GRADIENT_F32 ? fbni_real_dtype(desc->dtype) : desc->dtype;
}

/* ---- cuBLAS ---- */

/* A gradient [rows, I] of the layer, and the place for it as floats. */
typedef struct gradient_out {
    fbn_dtype type;
    int64_t rows;
    void *to;
    int64_t ld;
    bool accumulate;
    float *floats;
} gradient_out;

/* Of half types cuBLAS rounds what it overwrites; but some of its kernels round the product before
 * they add it, so that what is added goes by way of floats. */
static fbn_status store(const fbni_cuda_backward_job *job, fbni_product p, const gradient_out *out)
{
    const bool adds = out->type == fbni_real_dtype(p.type);
    fbn_status status;

    p.narrow = !adds && out->type == p.type && !out->accumulate;
    p.accumulate = adds && out->accumulate;
    p.m = out->rows;
    p.n = job->I;
    p.c = adds || p.narrow ? out->to : out->floats;
    p.ldc = adds || p.narrow ? out->ld : job->I;
    p.scale = job->input.scale;
    status = fbni_cuda_multiply(job->context, &p);
    if (status != FBN_OK || adds || p.narrow)
        return status;
    return from_float(job, out->type, out->floats, out->rows, out->to, out->ld, out->accumulate);
}

/* The operands in `type`: the data's, or float, to which half types are then converted. */
static fbn_status blas_products(fbni_cuda_backward_job *job, fbn_dtype type)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbn_grads *grads = job->grads;
    const bool converts = type != desc->dtype;
    const gradient_out dx = {desc->dtype,        job->N,     grads->dx, grads->lddx,
                             job->accumulate_dx, job->inputs};
    const gradient_out dw = {weight_gradient_type(desc),
                             job->O,
                             grads->weight,
                             grads->lddw,
                             job->accumulate,
                             job->weights};
    fbni_product p = {
        .type = type,
        .tf32 = desc->dtype == FBN_F32 && desc->math == FBN_MATH_TF32,
        .a = {job->input.du, job->O, false},
        .b = {job->params->weight, job->params->ldw, false},
        .depth = job->O,
    };
    fbn_status status = write_du(job, fbni_is_half(type));

    if (status == FBN_OK && grads->dx && converts) {
        status = to_float(job, p.b.p, job->O, p.b.ld, job->weights);
        p.b.p = job->weights;
        p.b.ld = job->I;
    }
    if (status == FBN_OK && grads->dx)
        status = store(job, p, &dx);
    p.a.transposed = true;
    p.b.p = job->args->x;
    p.b.ld = job->args->ldx;
    p.depth = job->N;
    if (status == FBN_OK && grads->weight && converts) {
        status = to_float(job, p.b.p, job->N, p.b.ld, job->inputs);
        p.b.p = job->inputs;
        p.b.ld = job->I;
    }
    if (status == FBN_OK && grads->weight)
        status = store(job, p, &dw);
    return status;
}

/* ---- Hopper ---- */

/* du, and the largest magnitudes of its columns where the partial sums were. */
static fbn_status write_hopper_du(fbni_cuda_backward_job *job)
{
    const cudaError_t error = cudaMemsetAsync(job->partials, 0, (size_t)job->O * sizeof(unsigned),
                                              job->context->queue.stream);

    job->input.maxima = job->partials;
    return error == cudaSuccess ? write_du(job, false)
                                : fbni_cuda_check(job->context->host, error, "cudaMemsetAsync");
}

/* The product of float data overwrites: what is added to is added to from the workspace. dW first: dx
 * may take du's place. */
static fbn_status hopper_products(fbni_cuda_backward_job *job, fbni_hopper_kind kind)
{
    const fbn_grads *grads = job->grads;
    const fbni_hopper_gradients g = {
        .kind = kind,
        .N = job->N,
        .I = job->I,
        .O = job->O,
        .du = job->input.du,
        .maxima = job->partials,
        .alpha = job->gradient.affine.alpha,
        .parts = job->du,
        .other = (char *)job->inputs,
        .slices = job->slices,
        .control = job->control,
    };
    const bool add_dw = job->accumulate, add_dx = job->accumulate_dx;
    fbn_status status = write_hopper_du(job);

    if (status == FBN_OK && grads->weight)
        status = fbni_hopper_weight_gradient(job->context, &g, job->args->x, job->args->ldx,
                                             add_dw ? job->weights : grads->weight,
                                             add_dw ? job->I : grads->lddw);
    if (status == FBN_OK && grads->weight && add_dw)
        status = from_float(job, FBN_F32, job->weights, job->O, grads->weight, grads->lddw, true);
    if (status == FBN_OK && grads->dx)
        status = fbni_hopper_data_gradient(job->context, &g, job->params->weight, job->params->ldw,
                                           add_dx ? job->input.du : grads->dx,
                                           add_dx ? job->I : grads->lddx);
    if (status == FBN_OK && grads->dx && add_dx)
        status = from_float(job, FBN_F32, job->input.du, job->N, grads->dx, grads->lddx, true);
    return status;
}

/* Whether our own product has the call, and not cuBLAS because it has few rows, as in
 * fbni_cuda_choose_product. */
static bool takes_hopper(const fbni_cuda_backward_job *job, fbni_hopper_kind *kind)
{
    const fbni_cuda_choice *choice = &job->layer->choice;

    return fbni_cuda_is_hopper_gradients(choice->row[FBNI_CUDA_GRADIENTS], kind) &&
           (choice->named[FBNI_CUDA_GRADIENTS] ||
            !fbni_hopper_refuse_backward_speed(job->context, *kind, job->N, job->I, job->O));
}

/* The type of cuBLAS's operands. */
static fbn_dtype blas_type_of(const fbni_cuda_backward_job *job)
{
    return job->layer->choice.row[FBNI_CUDA_GRADIENTS] == FBNI_CUDA_GRADIENTS_F32
               ? FBN_F32
               : job->layer->desc.dtype;
}

bool fbni_cuda_wants_plain_du(const fbni_cuda_backward_job *job, bool *rounds)
{
    fbni_hopper_kind kind;

    *rounds = fbni_is_half(blas_type_of(job));
    return (job->grads->dx || job->grads->weight) && !takes_hopper(job, &kind);
}

fbn_status fbni_cuda_gradients(fbni_cuda_backward_job *job)
{
    fbni_hopper_kind kind;

    return takes_hopper(job, &kind) ? hopper_products(job, kind)
                                    : blas_products(job, blas_type_of(job));
}
