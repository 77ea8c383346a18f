/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward pass, in training and in inference.
 *
 *   training:   tiles: u = x W^T, then the moments of the tile's columns while it is in the cache
 *               features: merge the moments of the row blocks (Chan, Golub & LeVeque 1983),
 *                         algebra.h, running statistics
 *               finish: y = act(alpha (u - c) + shift)
 *   inference:  features, then tiles: product and finish
 *
 * Where a tile holds whole columns (and whole rows, for softmax) all its steps follow at once. u
 * lies in y itself where y can hold it, in `saved` where the caller wants it, else in the
 * workspace.
 */
#include <string.h>

#include "cpu_internal.h"

typedef struct forward_job {
    const fbni_cpu_layer *layer;
    const fbn_params *params;
    const fbn_forward_args *args;
    bool training, single;
    double momentum;
    char *partials;
    fbni_cpu_affine affine;
    double *norm; /* 4 × O doubles in saved, or NULL */
    fbni_cpu_tiled tiled;
} forward_job;

/* The partial moments of one row block: 3 × O reals. part 0: shift, 1: dev, 2: m2. */
static void *partial_of(const forward_job *job, int64_t block, int part, int64_t feature)
{
    const int64_t O = job->layer->desc.out_features;
    return fbni_at(job->partials, block * 3 + part, O, feature, job->layer->kernels->real_size);
}

static void moments(const forward_job *job, fbni_cpu_tile t)
{
    const fbni_cpu_kernels *k = job->layer->kernels;
    const int64_t block = t.row / job->tiled.plan.rows;
    k->moments(t.rows, t.columns,
               fbni_at_const(job->tiled.u, t.row, job->tiled.ldu, t.column, k->real_size),
               job->tiled.ldu, partial_of(job, block, 0, t.column),
               partial_of(job, block, 1, t.column), partial_of(job, block, 2, t.column));
}

/* Moments of u over all rows: mean in two parts, and the population variance. */
typedef struct chunk_moments {
    double mean[FBNI_CHUNK], mean_low[FBNI_CHUNK], var[FBNI_CHUNK];
} chunk_moments;

/* Squares may leave float's range though u and its variance do not leave a double's: upwards, or
 * downwards (where the mean of the differences, not squared, tells them from a constant). */
static bool beyond_float(double mean_low, double var)
{
    return !isfinite(var) || (var < 0x1p-100 && (var > 0 || mean_low != 0));
}

/* The same moments from u itself. Rare, so simple. */
static void moments_in_double(const forward_job *job, int64_t feature, double mean,
                              double *mean_low, double *var)
{
    const int64_t N = job->args->batch, ld = job->tiled.ldu;
    const float *u = (const float *)job->tiled.u + feature;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < N; i++)
        sum += u[i * ld] - mean;
    *mean_low = sum / (double)N;
    for (int64_t i = 0; i < N; i++) {
        const double difference = u[i * ld] - mean - *mean_low;
        squares += difference * difference;
    }
    *var = squares / (double)N;
}

/* Merges the blocks' (count, mean, M2) in their order. Means are kept relative to the first block's
 * shift, so that equal values leave mean_low and M2 exactly 0. */
static void merge_moments(const forward_job *job, int64_t first, int count, chunk_moments *m)
{
    double shift[FBNI_CHUNK], dev[FBNI_CHUNK], m2[FBNI_CHUNK];
    int64_t rows = fbni_min(job->tiled.plan.rows, job->args->batch);

    fbni_cpu_reals_load(m->mean, partial_of(job, 0, 0, 0), first, count, job->single);
    fbni_cpu_reals_load(m->mean_low, partial_of(job, 0, 1, 0), first, count, job->single);
    fbni_cpu_reals_load(m->var, partial_of(job, 0, 2, 0), first, count, job->single);
    for (int64_t block = 1; block < job->tiled.plan.row_blocks; block++) {
        const int64_t more = fbni_min(job->tiled.plan.rows, job->args->batch - rows);
        const double share = (double)more / (double)(rows + more);
        fbni_cpu_reals_load(shift, partial_of(job, block, 0, 0), first, count, job->single);
        fbni_cpu_reals_load(dev, partial_of(job, block, 1, 0), first, count, job->single);
        fbni_cpu_reals_load(m2, partial_of(job, block, 2, 0), first, count, job->single);
        for (int i = 0; i < count; i++) {
            const double delta = ((shift[i] - m->mean[i]) + dev[i]) - m->mean_low[i];
            m->mean_low[i] += delta * share;
            m->var[i] += m2[i] + delta * delta * ((double)rows * share);
        }
        rows += more;
    }
    for (int i = 0; i < count; i++) {
        m->var[i] /= (double)rows;
        if (job->single && beyond_float(m->mean_low[i], m->var[i]))
            moments_in_double(job, first + i, m->mean[i], &m->mean_low[i], &m->var[i]);
    }
}

/* running = (1 - m) running + m batch, but not where a feature is to be skipped. */
static void update_running(const forward_job *job, int64_t first, int count, const double *mean,
                           const double *var)
{
    const uint64_t flags = job->layer->desc.flags;
    double old_mean[FBNI_CHUNK], old_var[FBNI_CHUNK];

    if (!job->params->running_mean)
        return;
    fbni_cpu_reals_load(old_mean, job->params->running_mean, first, count, job->single);
    fbni_cpu_reals_load(old_var, job->params->running_var, first, count, job->single);
    for (int i = 0; i < count; i++) {
        const double unbiased =
            fbni_running_var_of(var[i], job->args->batch, (flags & FBN_BIASED_RUNNING_VAR) != 0);
        const double m = fbni_round_real(mean[i], job->single);
        const double v = fbni_round_real(unbiased, job->single);
        if ((flags & FBN_SKIP_NONFINITE) && !(isfinite(m) && isfinite(v)))
            continue;
        old_mean[i] = fbni_running_next(old_mean[i], mean[i], job->momentum);
        old_var[i] = fbni_running_next(old_var[i], unbiased, job->momentum);
    }
    fbni_cpu_reals_store(job->params->running_mean, old_mean, first, count, job->single);
    fbni_cpu_reals_store(job->params->running_var, old_var, first, count, job->single);
}

static void store_batch_stats(const forward_job *job, const fbni_cpu_chunk *chunk,
                              const chunk_moments *m)
{
    double mean[FBNI_CHUNK], var[FBNI_CHUNK];
    for (int i = 0; i < chunk->count; i++) {
        const fbni_batch_stats z = fbni_batch_stats_of(fbni_cpu_chunk_feature(chunk, i), m->mean[i],
                                                       m->mean_low[i], m->var[i]);
        mean[i] = z.mean;
        var[i] = z.var;
    }
    if (job->args->batch_mean)
        fbni_cpu_reals_store(job->args->batch_mean, mean, chunk->first, chunk->count, job->single);
    if (job->args->batch_var)
        fbni_cpu_reals_store(job->args->batch_var, var, chunk->first, chunk->count, job->single);
    update_running(job, chunk->first, chunk->count, mean, var);
}

static void save_norm(const forward_job *job, const fbni_cpu_chunk *chunk, const fbni_norm *norm)
{
    const int64_t O = job->layer->desc.out_features;
    for (int i = 0; i < chunk->count; i++) {
        double *to = job->norm + chunk->first + i;
        to[0] = norm[i].r;
        to[O] = norm[i].c;
        to[2 * O] = norm[i].e;
        to[3 * O] = norm[i].d;
    }
}

static void features_train(const forward_job *job, const fbni_cpu_chunk *chunk, fbni_norm *norm)
{
    chunk_moments m;
    merge_moments(job, chunk->first, chunk->count, &m);
    for (int i = 0; i < chunk->count; i++)
        norm[i] = fbni_norm_train(fbni_cpu_chunk_feature(chunk, i), m.mean[i], m.mean_low[i],
                                  m.var[i], job->layer->desc.eps, job->single);
    if (job->args->batch_mean || job->args->batch_var || job->params->running_mean)
        store_batch_stats(job, chunk, &m);
}

static void features(const forward_job *job, int64_t first, int64_t end)
{
    for (int64_t j = first; j < end; j += FBNI_CHUNK) {
        fbni_cpu_chunk chunk;
        fbni_norm norm[FBNI_CHUNK];
        fbni_cpu_chunk_load(&chunk, &job->layer->desc, job->params, j, end);
        if (job->training)
            features_train(job, &chunk, norm);
        else
            fbni_cpu_chunk_frozen(&chunk, &job->layer->desc, job->params, norm);
        fbni_cpu_chunk_affine(&chunk, norm, job->single, &job->affine);
        if (job->norm)
            save_norm(job, &chunk, norm);
    }
}

static void chunk_task(void *argument, int64_t item, int thread)
{
    const forward_job *job = argument;
    (void)thread;
    features(job, item * FBNI_CHUNK,
             fbni_min((item + 1) * FBNI_CHUNK, job->layer->desc.out_features));
}

static void tile_task(void *argument, int64_t item, int thread)
{
    const forward_job *job = argument;
    const fbni_cpu_tiled *d = &job->tiled;
    const fbni_cpu_tile t = fbni_cpu_tile_of(&d->plan, item, d->N, d->O);
    if (d->product_per_tile)
        fbni_cpu_tiled_product(d, t, thread);
    moments(job, t);
    if (d->finish_per_tile) {
        features(job, t.column, t.column + t.columns);
        fbni_cpu_tiled_finish(d, t, thread);
    }
}

static void run_training(forward_job *job)
{
    fbni_cpu_tiled *d = &job->tiled;
    d->product_per_tile = d->context->blas_nests || d->plan.threads == 1;
    d->finish_per_tile =
        d->plan.row_blocks == 1 && (d->plan.panels == 1 || !fbni_is_rowwise(d->activation));
    if (!d->product_per_tile)
        fbni_cpu_tiled_product_all(d);
    fbni_cpu_for(d->plan.threads, d->plan.row_blocks * d->plan.panels, tile_task, job);
    if (!d->finish_per_tile) {
        fbni_cpu_for(d->plan.threads, fbni_ceil_div(d->O, FBNI_CHUNK), chunk_task, job);
        fbni_cpu_tiled_finish_all(d);
    }
}

static void run_inference(forward_job *job)
{
    fbni_cpu_tiled *d = &job->tiled;
    fbni_cpu_for(d->plan.threads, fbni_ceil_div(d->O, FBNI_CHUNK), chunk_task, job);
    fbni_cpu_tiled_run(d);
}

static void point_at_saved(forward_job *job, const fbn_forward_args *args)
{
    const fbni_cpu_saved_layout s = fbni_cpu_saved_layout_of(&job->layer->desc, args->batch);
    char *saved = args->saved;
    fbni_cpu_saved *header = args->saved;

    memset(header, 0, sizeof *header);
    header->layer_id = job->layer->id;
    header->batch = args->batch;
    header->frozen = !job->training;
    job->norm = (double *)(saved + s.norm);
    job->tiled.u = saved + s.u;
    job->tiled.ldu = job->tiled.O;
    job->tiled.lse = fbni_is_rowwise(job->layer->desc.activation) ? saved + s.lse : NULL;
}

static void count_batch(forward_job *job)
{
    int64_t *count = job->params->num_batches_tracked;
    if (count) {
        *count = fbni_count_next(*count);
        if (job->layer->desc.flags & FBN_CUMULATIVE_AVERAGE)
            job->momentum = fbni_cumulative_momentum(*count);
    }
}

static fbn_status forward(const fbni_cpu_layer *layer, const fbn_params *params,
                          const fbn_forward_args *args, bool training)
{
    const fbn_layer_desc *desc = &layer->desc;
    const fbni_cpu_workspace w = fbni_cpu_workspace_of(layer->context, desc);
    const size_t row = (size_t)desc->out_features * layer->kernels->real_size;
    const bool half = fbni_is_half(desc->dtype);
    char *workspace = layer->workspace;
    forward_job job = {
        .layer = layer,
        .params = params,
        .args = args,
        .training = training,
        .single = fbni_is_single(desc->dtype),
        .momentum = desc->momentum,
        .partials = workspace + w.partials,
        .affine = {workspace + w.affine, workspace + w.affine + row,
                   workspace + w.affine + 2 * row},
    };

    job.tiled = (fbni_cpu_tiled){
        .context = layer->context,
        .kernels = layer->kernels,
        .plan = fbni_cpu_plan_forward(layer->context, args->batch, desc),
        .N = args->batch,
        .I = desc->in_features,
        .O = desc->out_features,
        .dtype = desc->dtype,
        .activation = desc->activation,
        .x = {args->x, args->ldx, desc->dtype, false},
        .weight = {params->weight, params->ldw, desc->dtype, true},
        .u = half ? workspace + w.matrix : args->y,
        .ldu = half ? desc->out_features : args->ldy,
        .affine = job.affine,
        .y = args->y,
        .ldy = args->ldy,
        .scratch = workspace + w.scratch,
        .scratch_bytes = w.scratch_bytes,
    };
    if (args->saved)
        point_at_saved(&job, args);
    if (training) {
        count_batch(&job);
        run_training(&job);
    } else {
        run_inference(&job);
    }
    return FBN_OK;
}

fbn_status fbni_cpu_forward_train(void *layer, const fbn_params *params,
                                  const fbn_forward_args *args)
{
    return forward(layer, params, args, true);
}

fbn_status fbni_cpu_forward_infer(void *layer, const fbn_params *params,
                                  const fbn_forward_args *args)
{
    return forward(layer, params, args, false);
}
