/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Products through cuBLAS.
 *
 * cuBLAS stores by columns: a row-major matrix is its transpose there, so C = A B is computed as
 * C^T = B^T A^T. Every size is 64-bit. Accumulation is in float, for double in double; a half
 * operand's product is stored as float, so that moments come from the accumulators, but where it is
 * final (`narrow`): then cuBLAS rounds it once.
 */
#include "cuda_hopper.h"

static cudaDataType_t blas_type(fbn_dtype type)
{
    switch (type) {
    case FBN_F64:
        return CUDA_R_64F;
    case FBN_BF16:
        return CUDA_R_16BF;
    case FBN_F16:
        return CUDA_R_16F;
    default:
        return CUDA_R_32F;
    }
}

/* The handle may be used by several threads at once only as long as none changes it, and its
 * workspace only because one stream orders the products: hence the lock, which is held while the
 * product is queued, not while it runs. */
fbn_status fbni_cuda_multiply(fbni_cuda_context *context, const fbni_product *p)
{
    static const double one_double = 1, zero_double = 0;
    static const float one_float = 1, zero_float = 0;
    const bool wide = p->type == FBN_F64;
    const void *one = wide ? (const void *)&one_double : &one_float;
    const void *zero = wide ? (const void *)&zero_double : &zero_float;
    const void *factor = p->scale ? (const void *)&p->scale->restore : one;
    const void *before =
        p->scale        ? (const void *)(p->accumulate ? &p->scale->added_to : &p->scale->set_to)
        : p->accumulate ? one
                        : zero;
    const cudaDataType_t from = blas_type(p->type);
    const cudaDataType_t to = wide ? CUDA_R_64F : p->narrow ? from : CUDA_R_32F;
    const cublasComputeType_t compute = wide      ? CUBLAS_COMPUTE_64F
                                        : p->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                  : CUBLAS_COMPUTE_32F;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;

    pthread_mutex_lock(&context->blas_lock);
    if (p->scale)
        status = cublasSetPointerMode(context->blas, CUBLAS_POINTER_MODE_DEVICE);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasGemmEx_64(context->blas, p->b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                                 p->a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, p->n, p->m, p->depth,
                                 factor, p->b.p, from, p->b.ld, p->a.p, from, p->a.ld, before, p->c,
                                 to, p->ldc, compute, CUBLAS_GEMM_DEFAULT);
    if (p->scale)
        (void)cublasSetPointerMode(context->blas, CUBLAS_POINTER_MODE_HOST);
    pthread_mutex_unlock(&context->blas_lock);
    return fbni_cuda_check_blas(context->host, status, "cublasGemmEx");
}

static fbn_status convert_operands(fbni_cuda_context *context, fbni_forward_product *f)
{
    const fbn_layer_desc *desc = f->desc;
    const int64_t I = desc->in_features;
    cudaError_t error =
        fbni_cuda_to_float(&context->queue, desc->dtype, f->N, I, f->x, f->ldx, f->inputs, I);

    f->x = f->inputs;
    f->ldx = I;
    if (error == cudaSuccess && f->weights) {
        error = fbni_cuda_to_float(&context->queue, desc->dtype, desc->out_features, I, f->weight,
                                   f->ldw, f->weights, I);
        f->weight = f->weights;
        f->ldw = I;
    }
    return fbni_cuda_check(context->host, error, "conversion to float");
}

static fbn_status hopper_product(fbni_cuda_context *context, fbni_hopper_kind kind,
                                 const fbni_forward_product *f)
{
    const fbni_hopper_call call = {
        .kind = kind,
        .N = f->N,
        .O = f->desc->out_features,
        .I = f->desc->in_features,
        .x = {f->x, f->N, f->ldx, f->inputs},
        .w = {f->split ? NULL : f->weight, f->desc->out_features, f->ldw, f->weights},
        .control = f->control,
        .u = f->u,
        .ldu = f->ldu,
        .partials = f->partials,
        .finish = f->finish,
        .packed = f->packed,
        .following = f->following,
        .done = f->done,
    };
    return fbni_hopper_call_product(context, &call);
}

fbn_status fbni_cuda_forward_product(fbni_cuda_context *context, const fbni_forward_product *given)
{
    fbni_forward_product f = *given;
    const bool converts = f.row == FBNI_CUDA_PRODUCT_CUBLAS_F32;
    fbni_hopper_kind kind;

    if (fbni_cuda_is_hopper(f.row, &kind))
        return hopper_product(context, kind, &f);

    if (converts) {
        const fbn_status status = convert_operands(context, &f);
        if (status != FBN_OK)
            return status;
    }
    const fbni_product product = {
        .m = f.N,
        .n = f.desc->out_features,
        .depth = f.desc->in_features,
        .type = converts ? FBN_F32 : f.desc->dtype,
        .tf32 = !converts && f.desc->dtype == FBN_F32 && f.desc->math == FBN_MATH_TF32,
        .a = {f.x, f.ldx, false},
        .b = {f.weight, f.ldw, true},
        .c = f.u,
        .ldc = f.ldu,
    };
    return fbni_cuda_multiply(context, &product);
}
