/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward pass, in training and in inference.
 *
 *   training:   train_small, all in one launch; or
 *               product u = x W^T
 *               train_slab (one launch), or column moments (unless the product took them in its
 *               epilogue), features and normalise; a Hopper product of a half type leaves u packed
 *               (hopper_moments.cuh), and what comes after may begin before it ends
 *               (hopper_follow.cuh, hopper_held_finish.cu)
 *               softmax, where the activation is over rows
 *   inference:  train_small likewise; or
 *               features with frozen statistics, product, and normalise unless the product did
 *               softmax
 *
 * u lies in y itself where y can hold it, in `saved` where the caller wants it (packed, if training
 * would pack it), else in the workspace.
 */
#include "algebra.h"
#include "cuda_hopper.h"

typedef struct forward_job {
    fbni_cuda_layer *layer;
    fbni_cuda_context *context;
    const fbn_forward_args *args;
    bool is_double;
    fbni_forward_product product;
    fbni_cuda_features features;
    fbni_cuda_finish finish;
    void *partials;
    bool saves_packed;
    unsigned *done; /* for what begins before the product ends */
} forward_job;

fbn_status fbni_cuda_finish_rows(fbni_cuda_context *context, const fbni_cuda_finish *finish,
                                 fbni_cuda_row_id softmax)
{
    if (!fbni_is_rowwise(finish->activation) && finish->packed.partials)
        return fbni_hopper_finish(context, finish, NULL);
    if (!fbni_is_rowwise(finish->activation))
        return fbni_cuda_check(context->host, fbni_cuda_normalise(&context->queue, finish),
                               "normalise");
    if (softmax == FBNI_CUDA_SOFTMAX_REGISTERS)
        return fbni_cuda_check(context->host, fbni_cuda_softmax_registers(&context->queue, finish),
                               "softmax_registers");
    return fbni_cuda_check(context->host, fbni_cuda_softmax_online(&context->queue, finish),
                           "softmax_online");
}

/* After one launch that has made y, unless that takes whole rows of u. */
static fbn_status finish_rest(const forward_job *job)
{
    if (!fbni_is_rowwise(job->finish.activation))
        return FBN_OK;
    return fbni_cuda_finish_rows(job->context, &job->finish,
                                 job->layer->choice.row[FBNI_CUDA_SOFTMAX]);
}

static fbn_status train_slab(const forward_job *job)
{
    const fbni_cuda_queue *queue = &job->context->queue;
    const fbn_status status =
        fbni_cuda_check(job->context->host,
                        fbni_cuda_train_slab(queue, &job->features, &job->finish), "train_slab");

    return status == FBN_OK ? finish_rest(job) : status;
}

/* The first features, of float, are y already. */
static void leave_out(fbni_cuda_finish *f, int64_t features)
{
    f->u = (const float *)f->u + features;
    f->y = (float *)f->y + features;
    f->affine.alpha = (float *)f->affine.alpha + features;
    f->affine.c = (float *)f->affine.c + features;
    f->affine.shift = (float *)f->affine.shift + features;
    f->O -= features;
}

/* What the product leaves idle follows behind it. */
static void set_following(forward_job *job, bool packed)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    fbni_hopper_kind kind = FBNI_HOPPER_KINDS;

    (void)fbni_cuda_is_hopper(job->product.row, &kind);
    if (!fbni_hopper_can_stage(&job->finish, packed))
        return;
    job->product.following =
        fbni_hopper_following_of(job->context, kind, job->finish.N, desc->in_features,
                                 desc->out_features, job->layer->choice.named[FBNI_CUDA_TRAIN]);
    job->product.following.done = job->done;
    job->product.following.features = &job->features;
    job->product.following.finish = &job->finish;
}

static fbni_hopper_tiles tiles_of(const forward_job *job)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    fbni_hopper_kind kind = FBNI_HOPPER_KINDS;

    (void)fbni_cuda_is_hopper(job->product.row, &kind);
    return fbni_hopper_tiles_of(job->context, kind, job->finish.N, desc->in_features,
                                desc->out_features);
}

/* u as the product packs it: where it is saved, else in y's place. */
static void pack(forward_job *job)
{
    if (!job->saves_packed) {
        job->product.u = job->args->y;
        job->product.ldu = job->args->ldy;
    }
    job->finish.u = job->product.u;
    job->finish.ldu = job->product.ldu;
    job->product.finish = &job->finish;
    job->product.partials = job->partials;
    job->product.packed = true;
}

/* The product took the moments of each cluster's tiles, and counts when it is done. */
static fbn_status train_held(const forward_job *job, const fbni_hopper_tiles *tiles,
                             const fbni_cuda_chunks *chunks, const float *moments)
{
    fbni_hopper_held_finish f = {
        .finish = job->finish,
        .pairs = tiles->clusters / tiles->holders,
        .holders = tiles->holders,
        .done = job->product.done,
        .made = job->product.done + tiles->clusters,
        .features = job->features,
        .chunks = *chunks,
        .moments = moments,
    };

    return fbni_hopper_finish_holders(job->context, &f);
}

/* The product took the moments of each tile. */
static fbn_status train_epilogue(forward_job *job)
{
    const fbni_hopper_tiles tiles = tiles_of(job);
    const fbni_cuda_chunks chunks = fbni_hopper_chunks_of(&tiles, job->finish.N);
    const float *moments = fbni_hopper_merged(&tiles, job->finish.O, job->partials);
    fbn_status status;

    job->features.first = (int64_t)job->product.following.pairs * FBNI_HOPPER_PAIR;
    if (job->product.packed)
        job->finish.packed = (fbni_cuda_packed){job->partials, tiles.columns, tiles.count,
                                                tiles.band, job->product.following.pairs};
    else
        leave_out(&job->finish, job->features.first);
    if (job->product.done)
        return train_held(job, &tiles, &chunks, moments);
    if (job->product.packed && tiles.count <= FBNI_HOPPER_FEW && tiles.holders == 0)
        return fbni_hopper_finish(job->context, &job->finish, &job->features);
    status = fbni_cuda_check(job->context->host,
                             fbni_cuda_features_train(&job->context->queue, job->is_double,
                                                      &job->features, &chunks, moments),
                             "features_train");
    if (status != FBN_OK)
        return status;
    return fbni_cuda_finish_rows(job->context, &job->finish,
                                 job->layer->choice.row[FBNI_CUDA_SOFTMAX]);
}

static fbn_status train_passes(const forward_job *job)
{
    const fbni_cuda_queue *queue = &job->context->queue;
    const int64_t N = job->finish.N, O = job->finish.O;
    const fbni_cuda_chunks chunks =
        fbni_cuda_chunks_of((int64_t)queue->processors * FBNI_CUDA_MOMENT_BLOCKS, N, O,
                            fbni_real_size(job->finish.dtype));
    cudaError_t error = fbni_cuda_column_moments(queue, job->is_double, O, job->finish.u,
                                                 job->finish.ldu, &chunks, job->partials);

    if (error == cudaSuccess)
        error =
            fbni_cuda_features_train(queue, job->is_double, &job->features, &chunks, job->partials);
    if (error != cudaSuccess)
        return fbni_cuda_check(job->context->host, error, "column moments");
    return fbni_cuda_finish_rows(job->context, &job->finish,
                                 job->layer->choice.row[FBNI_CUDA_SOFTMAX]);
}

static fbn_status run_small(const forward_job *job, fbni_small_statistics statistics)
{
    const fbn_status status =
        fbni_small_forward(job->context, &job->product, statistics, &job->features, &job->finish,
                           job->args->saved != NULL);

    return status == FBN_OK ? finish_rest(job) : status;
}

static fbn_status run_training(forward_job *job)
{
    int64_t *count = job->features.count;
    fbni_cuda_row_id train = fbni_cuda_choose_train(
        job->context, &job->layer->desc, &job->layer->choice, job->product.row, job->finish.N);
    fbn_status status = FBN_OK;

    job->features.unbias =
        fbni_running_var_of(1, job->finish.N, (job->features.flags & FBN_BIASED_RUNNING_VAR) != 0);
    const bool followed = train == FBNI_CUDA_TRAIN_FOLLOWED;
    if (followed)
        train = fbni_is_half(job->finish.dtype) ? FBNI_CUDA_TRAIN_PACKED : FBNI_CUDA_TRAIN_EPILOGUE;
    if (train == FBNI_CUDA_TRAIN_PACKED && job->args->saved && !job->saves_packed)
        train = FBNI_CUDA_TRAIN_EPILOGUE; /* u is wanted itself */
    if (train == FBNI_CUDA_TRAIN_PACKED)
        pack(job);
    if (followed)
        set_following(job, train == FBNI_CUDA_TRAIN_PACKED);
    if (fbni_cuda_is_epilogue(train))
        job->product.partials = job->partials;
    if (job->product.packed && tiles_of(job).holders > 0 &&
        fbni_hopper_can_stage(&job->finish, true))
        job->product.done = job->done;
    if (count && (job->features.flags & FBN_CUMULATIVE_AVERAGE))
        status = fbni_cuda_check(job->context->host,
                                 fbni_cuda_count_batch(&job->context->queue, count), "count_batch");
    if (status == FBN_OK && train == FBNI_CUDA_TRAIN_SMALL)
        return run_small(job, FBNI_SMALL_BATCH);
    if (status == FBN_OK)
        status = fbni_cuda_forward_product(job->context, &job->product);
    if (status != FBN_OK)
        return status;
    switch (train) {
    case FBNI_CUDA_TRAIN_PACKED:
    case FBNI_CUDA_TRAIN_EPILOGUE:
        return train_epilogue(job);
    case FBNI_CUDA_TRAIN_SLAB:
        return train_slab(job);
    default:
        return train_passes(job);
    }
}

static fbn_status run_inference(forward_job *job)
{
    fbni_hopper_kind kind;
    fbn_status status;

    if (fbni_cuda_infers_small(job->context, &job->layer->choice, &job->product))
        return run_small(job, FBNI_SMALL_FROZEN);
    status = fbni_cuda_check(
        job->context->host,
        fbni_cuda_features_frozen(&job->context->queue, job->is_double, &job->features),
        "features_frozen");
    /* y at once, unless u is wanted too */
    if (fbni_cuda_is_hopper(job->product.row, &kind) && !job->args->saved &&
        !fbni_is_rowwise(job->finish.activation))
        job->product.finish = &job->finish;
    if (status == FBN_OK)
        status = fbni_cuda_forward_product(job->context, &job->product);
    if (status == FBN_OK && !job->product.finish)
        status = fbni_cuda_finish_rows(job->context, &job->finish,
                                       job->layer->choice.row[FBNI_CUDA_SOFTMAX]);
    return status;
}

/* u and what the backward needs lie in the caller's buffer. */
static void point_at_saved(forward_job *job, bool training)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbni_cuda_saved_layout s = fbni_cuda_saved_layout_of(job->layer, job->args->batch);
    char *saved = job->args->saved;

    job->features.saved = (fbni_cuda_saved *)(void *)saved;
    job->features.norm = (double *)(void *)(saved + s.norm);
    job->finish.lse = fbni_is_rowwise(desc->activation) ? saved + s.lse : NULL;
    job->product.u = saved + s.u;
    job->product.ldu = desc->out_features;
    job->saves_packed = training && s.packed;
    if (job->saves_packed)
        job->partials = saved + s.moments;
}

static void set_product(forward_job *job, const fbn_params *params, const fbni_cuda_workspace *w)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const bool half = fbni_is_half(desc->dtype);
    char *workspace = job->layer->workspace;

    job->product = (fbni_forward_product){
        .row = fbni_cuda_choose_product(job->context, desc, &job->layer->choice, job->args->batch),
        .desc = desc,
        .N = job->args->batch,
        .x = job->args->x,
        .ldx = job->args->ldx,
        .weight = params->weight,
        .ldw = params->ldw,
        .inputs = workspace + w->inputs,
        .weights = workspace + w->weights,
        .control = workspace + w->control,
        .u = half ? workspace + w->matrix : job->args->y,
        .ldu = half ? desc->out_features : job->args->ldy,
    };
}

static void set_features(forward_job *job, const fbn_params *params)
{
    const fbn_layer_desc *desc = &job->layer->desc;

    job->features = (fbni_cuda_features){
        .params = fbni_cuda_params_of(desc, params),
        .O = desc->out_features,
        .batch = job->args->batch,
        .eps = desc->eps,
        .momentum = desc->momentum,
        .flags = desc->flags,
        .running_mean = params->running_mean,
        .running_var = params->running_var,
        .count = params->num_batches_tracked,
        .batch_mean = job->args->batch_mean,
        .batch_var = job->args->batch_var,
        .layer_id = job->layer->id,
    };
}

static fbn_status forward(fbni_cuda_layer *layer, const fbn_params *params,
                          const fbn_forward_args *args, bool training)
{
    const fbn_layer_desc *desc = &layer->desc;
    const fbni_cuda_workspace w = fbni_cuda_workspace_of(layer->context, desc, &layer->choice);
    forward_job job = {
        .layer = layer,
        .context = layer->context,
        .args = args,
        .is_double = desc->dtype == FBN_F64,
        .partials = layer->workspace + w.partials,
        .done = (unsigned *)(void *)(layer->workspace + w.done),
    };
    fbn_status status;

    set_product(&job, params, &w);
    set_features(&job, params);
    fbni_vectors(layer->workspace + w.affine, desc->out_features, fbni_real_size(desc->dtype),
                 &job.features.affine.alpha, &job.features.affine.c, &job.features.affine.shift);
    if (args->saved)
        point_at_saved(&job, training);
    job.features.u = job.product.u;
    job.features.ldu = job.product.ldu;
    job.finish = (fbni_cuda_finish){
        .dtype = desc->dtype,
        .activation = desc->activation,
        .N = args->batch,
        .O = desc->out_features,
        .u = job.product.u,
        .ldu = job.product.ldu,
        .affine = job.features.affine,
        .y = args->y,
        .ldy = args->ldy,
        .lse = job.finish.lse,
    };

    status = fbni_cuda_enter(layer->context);
    if (status != FBN_OK)
        return status;
    status = training ? run_training(&job) : run_inference(&job);
    fbni_cuda_leave(layer->context);
    return status;
}

fbn_status fbni_cuda_forward_train(void *layer, const fbn_params *params,
                                   const fbn_forward_args *args)
{
    return forward(layer, params, args, true);
}

fbn_status fbni_cuda_forward_infer(void *layer, const fbn_params *params,
                                   const fbn_forward_args *args)
{
    return forward(layer, params, args, false);
}
