/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backward pass, through the batch's statistics or with frozen ones: which of the two only the
 * saved buffer knows, and only the device reads it.
 *
 *   restore:   alpha, c, shift as the forward had them, and the centre of the sums
 *   dots:      softmax and log_softmax: the rows' sums
 *   sums:      G = sum g, K = sum g (u - centre) of each chunk of rows
 *   features:  merged; algebra.h; the parameters' gradients and the slopes of du
 *   du:        then dx = du W and dW = du^T x
 *
 * g = dL/dv is recomputed from dy and u in every pass instead of being stored: both are read
 * anyway.
 */
#include "cuda_internal.h"

typedef struct backward_job {
    fbni_cuda_layer *layer;
    fbni_cuda_context *context;
    const fbn_params *params;
    const fbn_backward_args *args;
    const fbn_grads *grads;
    int64_t N, I, O;
    bool accumulate, accumulate_dx;
    const double *norm;
    void *centre;
    fbni_cuda_gradient gradient;
    fbni_cuda_feature_gradients features;
    fbni_cuda_input_gradient input;
    void *partials;
    float *inputs, *weights;
} backward_job;

static fbn_status run_features(const backward_job *job)
{
    const fbni_cuda_queue *queue = &job->context->queue;
    const fbn_dtype dtype = job->layer->desc.dtype;
    const int is_double = dtype == FBN_F64;
    const fbni_cuda_chunks chunks =
        fbni_cuda_chunks_of((int64_t)queue->processors * FBNI_CUDA_GRADIENT_BLOCKS, job->N, job->O,
                            fbni_real_size(dtype));
    const fbni_cuda_restored restored = {
        .params = job->features.params,
        .N = job->N,
        .O = job->O,
        .saved = job->features.saved,
        .norm = job->norm,
        .u = job->gradient.u,
        .affine = job->gradient.affine,
        .centre = job->centre,
    };
    cudaError_t error = fbni_cuda_features_restore(queue, is_double, &restored);

    if (error == cudaSuccess && fbni_is_rowwise(job->gradient.activation))
        error = fbni_cuda_softmax_dots(queue, &job->gradient);
    if (error == cudaSuccess)
        error = fbni_cuda_gradient_sums(queue, &job->gradient, &chunks, job->partials);
    if (error == cudaSuccess)
        error =
            fbni_cuda_features_backward(queue, is_double, &job->features, &chunks, job->partials);
    return fbni_cuda_check(job->context->host, error, "gradient sums");
}

static fbn_status write_du(backward_job *job, fbni_cuda_parts parts)
{
    job->input.parts = parts;
    return fbni_cuda_check(
        job->context->host,
        fbni_cuda_input_gradient_of(&job->context->queue, &job->gradient, &job->input),
        "input_gradient");
}

/* ---- products ---- */

/* The leading dimension of du. */
static int64_t ld_du(const backward_job *job)
{
    return fbni_parts_count(job->input.parts) * job->O;
}

/* dx = du W; du and W of `type`. */
static fbni_product product_dx(const backward_job *job, fbn_dtype type, const void *du,
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
static fbni_product product_dw(const backward_job *job, fbn_dtype type, const void *du,
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
static fbn_status multiply_parts(const backward_job *job, fbni_product p, fbni_cuda_parts parts)
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

static fbn_status to_float(const backward_job *job, const void *from, int64_t rows, int64_t ldfrom,
                           float *to)
{
    return fbni_cuda_check(job->context->host,
                           fbni_cuda_to_float(&job->context->queue, job->layer->desc.dtype, rows,
                                              job->I, from, ldfrom, to, job->I),
                           "conversion to float");
}

static fbn_status from_float(const backward_job *job, const float *from, int64_t rows, void *to,
                             int64_t ldto, bool accumulate)
{
    return fbni_cuda_check(job->context->host,
                           fbni_cuda_from_float(&job->context->queue, job->layer->desc.dtype, rows,
                                                job->I, from, job->I, to, ldto, accumulate),
                           "conversion from float");
}

/* Real types: cuBLAS adds to the gradients itself. */
static fbn_status real_products(backward_job *job)
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

/* Whether the parts of du are multiplied at once. That takes copies of W instead of a float dx: much
 * faster with more rows than features (f + b of 65536 x 512 -> 512: 658 us for 870 on an H200),
 * slower with fewer (1024 x 8192 -> 8192: 2231 us for 1822). */
static bool at_once(const backward_job *job, fbni_cuda_parts parts)
{
    return parts == FBNI_CUDA_PARTS_BF16X3 && job->N >= job->O;
}

/* dx = [low middle high] [W; W; W], one product that rounds once. The copies of W lie where dW will
 * be before its rounding. */
static fbn_status bf16_dx(const backward_job *job)
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
    p.narrow = true;
    p.accumulate = job->accumulate_dx;
    return fbni_cuda_multiply(job->context, &p);
}

/* dx in float, then rounded. */
static fbn_status half_dx(const backward_job *job, fbni_cuda_parts parts)
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
        status = from_float(job, job->inputs, job->N, job->grads->dx, job->grads->lddx,
                            job->accumulate_dx);
    return status;
}

/* dW in float, then rounded; float at once where that is asked for. */
static fbn_status half_dw(const backward_job *job, fbni_cuda_parts parts, bool as_float)
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
        status = from_float(job, job->weights, job->O, grads->weight, grads->lddw, job->accumulate);
    return status;
}

/* A float dW keeps the bits that the tensor cores' accumulators drop: it is a product in float. */
static fbn_status half_products(backward_job *job)
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

/* ---- an empty batch ---- */

static fbn_status clear(const backward_job *job)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbn_grads *grads = job->grads;
    const size_t real = fbni_real_size(desc->dtype), O = (size_t)job->O;
    const size_t size = desc->flags & FBN_WEIGHT_GRADIENT_F32 ? real : fbni_dtype_size(desc->dtype);
    const struct {
        void *to;
        size_t count;
    } vectors[] = {
        {grads->bias, O},
        {grads->gamma, O},
        {grads->beta, O},
        {grads->pre_scale, desc->pre_scale == FBN_SCALE_SCALAR ? 1 : O},
        {grads->post_scale, desc->post_scale == FBN_SCALE_SCALAR ? 1 : O},
    };
    const cudaStream_t stream = job->context->queue.stream;
    cudaError_t error = cudaSuccess;

    for (size_t i = 0; i < sizeof vectors / sizeof *vectors && error == cudaSuccess; i++)
        if (vectors[i].to)
            error = cudaMemsetAsync(vectors[i].to, 0, vectors[i].count * real, stream);
    if (error == cudaSuccess && grads->weight)
        error = cudaMemset2DAsync(grads->weight, (size_t)grads->lddw * size, 0,
                                  (size_t)job->I * size, O, stream);
    return fbni_cuda_check(job->context->host, error, "cudaMemsetAsync");
}

/* ---- the call ---- */

static void point_at_saved(backward_job *job)
{
    const fbni_cuda_saved_layout s = fbni_cuda_saved_layout_of(&job->layer->desc, job->N);
    const char *saved = job->args->saved;

    job->norm = (const double *)(const void *)(saved + s.norm);
    job->gradient.u = saved + s.u;
    job->gradient.ldu = job->O;
    job->gradient.lse = saved + s.lse;
    job->features.norm = job->norm;
    job->features.saved = (const fbni_cuda_saved *)(const void *)saved;
    job->gradient.saved = job->features.saved;
}

static void set_gradient(backward_job *job, const fbni_cuda_workspace *w)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    char *workspace = job->layer->workspace;
    fbni_cuda_affine *affine = &job->gradient.affine;

    job->gradient.dtype = desc->dtype;
    job->gradient.activation = desc->activation;
    job->gradient.N = job->N;
    job->gradient.O = job->O;
    job->gradient.dy = job->args->dy;
    job->gradient.lddy = job->args->lddy;
    job->gradient.dots = workspace + w->dots;
    job->gradient.centre = workspace + w->centre;
    job->centre = workspace + w->centre;
    job->features.centre = workspace + w->centre;
    fbni_vectors(workspace + w->affine, job->O, fbni_real_size(desc->dtype), &affine->alpha,
                 &affine->c, &affine->shift);
    job->input.du = workspace + w->matrix;
    job->input.slopes = job->features.slopes;
}

static void set_features(backward_job *job, const fbni_cuda_workspace *w)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    fbni_cuda_feature_gradients *f = &job->features;

    f->params = fbni_cuda_params_of(desc, job->params);
    f->O = job->O;
    f->batch = job->N;
    f->eps = desc->eps;
    f->layer_id = job->layer->id;
    f->accumulate = job->accumulate;
    f->bias = job->grads->bias;
    f->pre_scale = job->grads->pre_scale;
    f->post_scale = job->grads->post_scale;
    f->gamma = job->grads->gamma;
    f->beta = job->grads->beta;
    f->sums = (double *)(void *)(job->layer->workspace + w->sums);
    f->slopes.du_u = job->layer->workspace + w->slopes;
    f->slopes.du_1 = job->layer->workspace + w->slopes +
                     fbni_align((size_t)job->O * fbni_real_size(desc->dtype));
}

static fbn_status run(backward_job *job)
{
    fbn_status status;

    if (job->N == 0)
        return job->accumulate ? FBN_OK : clear(job);
    status = run_features(job);
    if (status != FBN_OK || (!job->grads->dx && !job->grads->weight))
        return status;
    return fbni_is_half(job->layer->desc.dtype) ? half_products(job) : real_products(job);
}

fbn_status fbni_cuda_backward(void *layer_, const fbn_params *params, const fbn_backward_args *args,
                              const fbn_grads *grads)
{
    fbni_cuda_layer *layer = layer_;
    const fbni_cuda_workspace w =
        fbni_cuda_workspace_of(layer->context, &layer->desc, &layer->choice);
    const bool accumulate = (args->flags & FBN_ACCUMULATE) != 0;
    backward_job job = {
        .layer = layer,
        .context = layer->context,
        .params = params,
        .args = args,
        .grads = grads,
        .N = args->batch,
        .I = layer->desc.in_features,
        .O = layer->desc.out_features,
        .accumulate = accumulate,
        .accumulate_dx = accumulate && !(args->flags & FBN_OVERWRITE_DX),
        .partials = layer->workspace + w.partials,
        .inputs = (float *)(void *)(layer->workspace + w.inputs),
        .weights = (float *)(void *)(layer->workspace + w.weights),
    };
    fbn_status status;

    set_features(&job, &w);
    set_gradient(&job, &w);
    if (job.N > 0)
        point_at_saved(&job);
    status = fbni_cuda_enter(layer->context);
    if (status != FBN_OK)
        return status;
    status = run(&job);
    fbni_cuda_leave(layer->context);
    return status;
}
