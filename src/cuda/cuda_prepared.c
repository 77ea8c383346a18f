/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Folding a layer into the plain linear layer that equals it in inference, and serving.
 *
 * A prepared layer holds a copy of W and the features' alpha, c and shift: y = act(alpha (x W^T -
 * c) + shift) is one product, in the data's own type on tensor cores, which ends in y or is
 * followed by one pass over y. Folding alpha into W first would cost half types a wider product.
 */
#include <string.h>

#include "cuda_hopper.h"

fbn_status fbni_cuda_fold_slot(void *layer_, const fbn_params *params, void *weight, int64_t ldw,
                               void *bias)
{
    fbni_cuda_layer *layer = layer_;
    fbni_cuda_context *c = layer->context;
    const fbn_layer_desc *desc = &layer->desc;
    const fbni_cuda_workspace w = fbni_cuda_workspace_of(c, desc, &layer->choice);
    const fbni_cuda_fold fold = {
        .dtype = desc->dtype,
        .params = fbni_cuda_params_of(desc, params),
        .O = desc->out_features,
        .I = desc->in_features,
        .eps = desc->eps,
        .running_mean = params->running_mean,
        .running_var = params->running_var,
        .from = params->weight,
        .ldfrom = params->ldw,
        .alpha = (double *)(void *)(layer->workspace + w.sums),
        .weight = weight,
        .ldw = ldw,
        .bias = bias,
    };
    fbn_status status = fbni_cuda_enter(c);

    if (status != FBN_OK)
        return status;
    status = fbni_cuda_check(c->host, fbni_cuda_fold_layer(&c->queue, &fold), "fold");
    fbni_cuda_leave(c);
    return status;
}

typedef struct cuda_prepared {
    fbni_cuda_context *context;
    fbn_layer_desc desc;
    fbni_cuda_choice choice;
    fbni_cuda_row_id product;
    bool converts; /* the product is in float: weight is float, and x is converted in each run */
    bool split;    /* the Hopper product: weight is in parts */
    fbni_hopper_kind kind;
    char *memory; /* weight in parts or as floats, weight [O,I], each if need be, alpha, c, shift */
    void *plain;  /* weight as it is, in there, or NULL */
    fbni_cuda_affine affine;
} cuda_prepared;

/* The weight's copies: in parts, as floats, as it is. */
static fbn_status copy_weight(const cuda_prepared *p, const fbn_params *params)
{
    fbni_cuda_context *c = p->context;
    const int64_t O = p->desc.out_features, I = p->desc.in_features;
    const size_t size = fbni_dtype_size(p->desc.dtype);
    const fbni_hopper_source source = {params->weight, O, params->ldw, p->memory};
    cudaError_t error = cudaSuccess;

    if (p->split) {
        const fbn_status status = fbni_hopper_prepare_operand(c, p->kind, I, &source);
        if (status != FBN_OK)
            return status;
    }
    if (p->converts)
        error = fbni_cuda_to_float(&c->queue, p->desc.dtype, O, I, params->weight, params->ldw,
                                   (float *)(void *)p->memory, I);
    if (error == cudaSuccess && p->plain)
        error = cudaMemcpy2DAsync(p->plain, (size_t)I * size, params->weight,
                                  (size_t)params->ldw * size, (size_t)I * size, (size_t)O,
                                  cudaMemcpyDefault, c->queue.stream);
    return fbni_cuda_check(c->host, error, "the weight's copy");
}

static fbn_status fill(cuda_prepared *p, const fbn_params *params)
{
    fbni_cuda_context *c = p->context;
    const fbni_cuda_features features = {
        .params = fbni_cuda_params_of(&p->desc, params),
        .O = p->desc.out_features,
        .eps = p->desc.eps,
        .running_mean = params->running_mean,
        .running_var = params->running_var,
        .affine = p->affine,
    };
    const fbn_status status = copy_weight(p, params);

    if (status != FBN_OK)
        return status;
    return fbni_cuda_check(
        c->host, fbni_cuda_features_frozen(&c->queue, p->desc.dtype == FBN_F64, &features),
        "features_frozen");
}

fbn_status fbni_cuda_prepare(void **prepared, void *layer_, const fbn_params *params)
{
    fbni_cuda_layer *layer = layer_;
    fbni_cuda_context *c = layer->context;
    const fbn_layer_desc *desc = &layer->desc;
    const size_t real = fbni_real_size(desc->dtype), O = (size_t)desc->out_features;
    const fbni_cuda_row_id product =
        layer->choice.row[FBNI_CUDA_PRODUCT] == FBNI_CUDA_PRODUCT_HOPPER_DIRECT
            ? FBNI_CUDA_PRODUCT_HOPPER_TF32 /* W is split once, now */
            : layer->choice.row[FBNI_CUDA_PRODUCT];
    const bool converts = product == FBNI_CUDA_PRODUCT_CUBLAS_F32;
    fbni_hopper_kind kind = FBNI_HOPPER_KINDS;
    const bool split = fbni_cuda_is_hopper(product, &kind);
    const bool small = layer->choice.row[FBNI_CUDA_TRAIN] == FBNI_CUDA_TRAIN_SMALL;
    const size_t entries = O * (size_t)desc->in_features;
    const size_t parts =
        split      ? fbni_hopper_memory_of(kind, desc->out_features, desc->in_features, true).total
        : converts ? fbni_align(entries * sizeof(float))
                   : 0;
    const bool is_plain = !converts && (!split || small);
    const size_t weight =
        parts + (is_plain ? fbni_align(entries * fbni_dtype_size(desc->dtype)) : 0);
    cuda_prepared *p = c->host_allocator.allocate(c->host_allocator.user, sizeof *p, 64);
    void *memory = NULL;
    fbn_status status;

    if (!p)
        return c->host->fail(FBN_ERR_OUT_OF_MEMORY, "no memory for a prepared layer of %zu bytes",
                             sizeof *p);
    *p = (cuda_prepared){
        .context = c,
        .desc = *desc,
        .choice = layer->choice,
        .product = product,
        .converts = converts,
        .split = split,
        .kind = kind,
    };
    status = fbni_cuda_enter(c);
    if (status == FBN_OK) {
        status = fbni_cuda_memory_take(c, weight + 3 * fbni_align(O * real), &memory);
        if (status == FBN_OK) {
            p->memory = memory;
            p->plain = is_plain ? p->memory + parts : NULL;
            fbni_vectors(p->memory + weight, desc->out_features, real, &p->affine.alpha,
                         &p->affine.c, &p->affine.shift);
            status = fill(p, params);
            if (status != FBN_OK)
                (void)fbni_cuda_memory_give(c, memory);
        }
        fbni_cuda_leave(c);
    }
    if (status != FBN_OK) {
        c->host_allocator.deallocate(c->host_allocator.user, p);
        return status;
    }
    *prepared = p;
    return FBN_OK;
}

void fbni_cuda_prepared_destroy(void *prepared)
{
    cuda_prepared *p = prepared;
    fbni_cuda_context *c = p->context;

    (void)fbni_cuda_release(c, p->memory);
    c->host_allocator.deallocate(c->host_allocator.user, p);
}

/* Whether the product stores y: the Hopper product, of what it has in registers. */
static bool stores_y(const cuda_prepared *p)
{
    return p->split && !fbni_is_rowwise(p->desc.activation);
}

/* The workspace of a run: u as floats for the half types, where y is not always stored at once, x as
 * floats or in parts where it is converted or split, and what a split needs. */
typedef struct run_workspace {
    size_t u, inputs, control, total;
} run_workspace;

/* Rows of a batch that are computed together: no max_batch bounds it, but the coordinates of the
 * Hopper product have 32 bits. */
static int64_t rows_together(const cuda_prepared *p, int64_t batch)
{
    const int64_t most = INT64_C(1) << 30;
    return p->split && batch > most ? most : batch;
}

static run_workspace workspace_of(const cuda_prepared *p, int64_t batch)
{
    const int64_t rows = rows_together(p, batch);
    const size_t N = (size_t)rows;
    const bool half_u = fbni_is_half(p->desc.dtype) && !stores_y(p);
    run_workspace w = {0};

    w.u = fbni_place(&w.total, half_u ? N * (size_t)p->desc.out_features * sizeof(float) : 0);
    if (p->split)
        w.inputs = fbni_place(
            &w.total, fbni_hopper_memory_of(p->kind, rows, p->desc.in_features, false).total);
    else
        w.inputs =
            fbni_place(&w.total, p->converts ? N * (size_t)p->desc.in_features * sizeof(float) : 0);
    w.control = fbni_place(&w.total, p->split ? sizeof(fbni_hopper_control) : 0);
    return w;
}

fbn_status fbni_cuda_prepared_workspace_size(const void *prepared, int64_t batch, size_t *bytes)
{
    const cuda_prepared *p = prepared;
    const double width = (double)p->desc.out_features + (double)p->desc.in_features;

    if (8 * (double)batch * width >= 0x1p60)
        return p->context->host->fail(FBN_ERR_OVERFLOW,
                                      "batch %lld x %lld features exceeds 2^60 bytes",
                                      (long long)batch, (long long)p->desc.out_features);
    *bytes = workspace_of(p, batch).total;
    return FBN_OK;
}

/* The rows [first, first + rows) of a batch. */
static fbn_status run_rows(const cuda_prepared *p, const fbn_run_args *args, int64_t first,
                           int64_t rows)
{
    const fbn_layer_desc *desc = &p->desc;
    const run_workspace w = workspace_of(p, args->batch);
    const bool half = fbni_is_half(desc->dtype);
    const size_t size = fbni_dtype_size(desc->dtype);
    const char *x = (const char *)args->x + (size_t)first * (size_t)args->ldx * size;
    char *y = (char *)args->y + (size_t)first * (size_t)args->ldy * size;
    char *workspace = args->workspace;
    fbni_forward_product product = {
        .row = p->product,
        .desc = desc,
        .N = rows,
        .x = x,
        .ldx = args->ldx,
        .weight = p->plain ? p->plain : p->memory,
        .ldw = desc->in_features,
        .split = p->split,
        .inputs = workspace + w.inputs,
        .weights = p->split ? p->memory : NULL,
        .control = workspace + w.control,
        .u = half ? workspace + w.u : y,
        .ldu = half ? desc->out_features : args->ldy,
    };
    const fbni_cuda_finish finish = {
        .dtype = desc->dtype,
        .activation = desc->activation,
        .N = rows,
        .O = desc->out_features,
        .u = product.u,
        .ldu = product.ldu,
        .affine = p->affine,
        .y = y,
        .ldy = args->ldy,
    };
    const bool small = p->plain && fbni_cuda_infers_small(p->context, &p->choice, &product);
    const bool at_once = stores_y(p) || (small && !fbni_is_rowwise(desc->activation));
    fbn_status status;

    if (at_once)
        product.finish = &finish;
    status = small
                 ? fbni_small_forward(p->context, &product, FBNI_SMALL_FOLDED, NULL, &finish, false)
                 : fbni_cuda_forward_product(p->context, &product);
    if (status == FBN_OK && !at_once)
        status = fbni_cuda_finish_rows(p->context, &finish, p->choice.row[FBNI_CUDA_SOFTMAX]);
    return status;
}

fbn_status fbni_cuda_prepared_run(const void *prepared, const fbn_run_args *args)
{
    const cuda_prepared *p = prepared;
    const int64_t step = rows_together(p, args->batch);
    fbn_status status = fbni_cuda_enter(p->context);

    if (status != FBN_OK)
        return status;
    for (int64_t row = 0; row < args->batch && status == FBN_OK; row += step)
        status = run_rows(p, args, row, args->batch - row < step ? args->batch - row : step);
    fbni_cuda_leave(p->context);
    return status;
}
