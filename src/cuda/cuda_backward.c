/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backward pass, through the batch's statistics or with frozen ones: which of the two only the
 * saved buffer knows, and only the device reads it.
 *
 * Of a small layer all up to du is one launch (backward_slab.cu). Else:
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
#include "cuda_backward.h"

/* alpha, c, shift and centre; and the sums of rows, where the activation is over them. */
static cudaError_t restore(const fbni_cuda_backward_job *job)
{
    const fbni_cuda_queue *queue = &job->context->queue;
    const fbni_cuda_restored restored = {
        .params = job->features.params,
        .N = job->N,
        .O = job->O,
        .saved = job->features.saved,
        .norm = job->norm,
        .u = job->gradient.u,
        .affine = job->gradient.affine,
        .centre = job->centre,
        .scale = job->features.scale,
    };
    const cudaError_t error =
        fbni_cuda_features_restore(queue, job->layer->desc.dtype == FBN_F64, &restored);

    return error == cudaSuccess && fbni_is_rowwise(job->gradient.activation)
               ? fbni_cuda_softmax_dots(queue, &job->gradient)
               : error;
}

static fbn_status run_slab(fbni_cuda_backward_job *job)
{
    const fbni_cuda_queue *queue = &job->context->queue;
    fbni_cuda_du_scale *scale = job->features.scale;
    cudaError_t error = cudaSuccess;
    bool rounds;
    fbni_cuda_slab slab = {
        .gradient = job->gradient, .features = job->features, .input = job->input};

    slab.wants_du = fbni_cuda_wants_plain_du(job, &rounds) && !(rounds && scale);
    slab.input.rounds = rounds;
    if (fbni_is_rowwise(job->gradient.activation))
        error = restore(job);
    else if (scale)
        error = cudaMemsetAsync(&scale->bound, 0, sizeof scale->bound, queue->stream);
    if (error == cudaSuccess)
        error = fbni_cuda_backward_slab(queue, &slab);
    if (error == cudaSuccess)
        error = fbni_cuda_add_features(queue, job->layer->desc.dtype == FBN_F64, &job->features);
    job->du_there = slab.wants_du;
    return fbni_cuda_check(job->context->host, error, "backward_slab");
}

static fbn_status run_passes(const fbni_cuda_backward_job *job)
{
    const fbni_cuda_queue *queue = &job->context->queue;
    const fbn_dtype dtype = job->layer->desc.dtype;
    const int is_double = dtype == FBN_F64;
    const fbni_cuda_chunks chunks =
        fbni_cuda_chunks_of((int64_t)queue->processors * FBNI_CUDA_GRADIENT_BLOCKS, job->N, job->O,
                            fbni_real_size(dtype));
    cudaError_t error = restore(job);

    if (error == cudaSuccess && job->gradient.packed.partials) {
        const fbn_status status =
            fbni_hopper_packed_sums(job->context, &job->gradient, job->partials);
        if (status != FBN_OK)
            return status;
    }
    if (error == cudaSuccess)
        error = fbni_cuda_gradient_sums(queue, &job->gradient, &chunks, job->partials);
    if (error == cudaSuccess)
        error =
            fbni_cuda_features_backward(queue, is_double, &job->features, &chunks, job->partials);
    return fbni_cuda_check(job->context->host, error, "gradient sums");
}

/* ---- an empty batch ---- */

static fbn_status clear(const fbni_cuda_backward_job *job)
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

static void point_at_saved(fbni_cuda_backward_job *job)
{
    const fbni_cuda_saved_layout s = fbni_cuda_saved_layout_of(job->layer, job->N);
    const char *saved = job->args->saved;

    job->norm = (const double *)(const void *)(saved + s.norm);
    job->gradient.u = saved + s.u;
    job->gradient.ldu = job->O;
    if (s.packed)
        job->gradient.packed = (fbni_cuda_packed){
            .partials = (const float *)(const void *)(saved + s.moments),
            .tile_rows = s.tile_rows,
            .tiles = s.tiles,
        };
    job->gradient.lse = saved + s.lse;
    job->features.norm = job->norm;
    job->features.saved = (const fbni_cuda_saved *)(const void *)saved;
    job->gradient.saved = job->features.saved;
}

static void set_gradient(fbni_cuda_backward_job *job, const fbni_cuda_workspace *w)
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

static void set_features(fbni_cuda_backward_job *job, const fbni_cuda_workspace *w)
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
    if (desc->dtype == FBN_F16)
        f->scale = (fbni_cuda_du_scale *)(void *)(job->layer->workspace + w->scale);
    f->slopes.du_u = job->layer->workspace + w->slopes;
    f->slopes.du_1 = job->layer->workspace + w->slopes +
                     fbni_align((size_t)job->O * fbni_real_size(desc->dtype));
}

static fbn_status run(fbni_cuda_backward_job *job)
{
    fbn_status status;

    if (job->N == 0)
        return job->accumulate ? FBN_OK : clear(job);
    status = fbni_cuda_choose_backward(&job->layer->desc, &job->layer->choice, job->N) ==
                     FBNI_CUDA_BACKWARD_SLAB
                 ? run_slab(job)
                 : run_passes(job);
    if (status != FBN_OK || (!job->grads->dx && !job->grads->weight))
        return status;
    return fbni_cuda_gradients(job);
}

fbn_status fbni_cuda_backward(void *layer_, const fbn_params *params, const fbn_backward_args *args,
                              const fbn_grads *grads)
{
    fbni_cuda_layer *layer = layer_;
    const fbni_cuda_workspace w =
        fbni_cuda_workspace_of(layer->context, &layer->desc, &layer->choice);
    const bool accumulate = (args->flags & FBN_ACCUMULATE) != 0;
    fbni_cuda_backward_job job = {
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
        .du = layer->workspace + w.du,
        .slices = (float *)(void *)(layer->workspace + w.slices),
        .control = layer->workspace + w.control,
    };
    fbn_status status;

    set_features(&job, &w);
    set_gradient(&job, &w);
    if (job.N > 0)
        point_at_saved(&job);
    if (job.gradient.packed.partials)
        job.features.packed_chunks =
            fbni_hopper_gradient_chunks(&layer->context->queue, &job.gradient);
    status = fbni_cuda_enter(layer->context);
    if (status != FBN_OK)
        return status;
    status = run(&job);
    fbni_cuda_leave(layer->context);
    return status;
}
