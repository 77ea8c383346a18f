/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backward pass, through the batch's statistics or with frozen ones.
 *
 *   rows:      g = dL/dv from dy (the activation's backward), and the row block's sums G = sum g, K
 *              = sum g (u - c)
 *   features:  merge G and K over the blocks in their order; algebra.h; the parameters' gradients
 *   products:  du from g, dx and dW (cpu_gradients.c)
 *
 * g and du share the workspace's matrix; where there is no activation and dy is real, g is dy
 * itself.
 */
#include <string.h>

#include "cpu_internal.h"

enum { CENTRE_ROWS = 8 };

typedef struct backward_job {
    const fbni_cpu_layer *layer;
    const fbn_params *params;
    const fbn_backward_args *args;
    const fbn_grads *grads;
    fbni_cpu_plan plan;
    bool single, frozen, accumulate, accumulate_dx;
    bool sums_wanted; /* frozen statistics need no sums for du */
    const void *u, *lse;
    const double *norm;
    const void *g; /* N×O reals: dy itself, or matrix */
    int64_t ldg;
    char *matrix, *partials, *scratch;
    fbni_cpu_affine affine; /* until the features; then see slopes_of */
    double *sums;           /* per chunk of features: dt, ds */
    size_t scratch_bytes;
} backward_job;

/* The sums of one row block: 2 × O reals; part 0: G, 1: K. */
static void *partial_of(const backward_job *job, int64_t block, int part, int64_t feature)
{
    const int64_t O = job->layer->desc.out_features;
    return fbni_at(job->partials, block * 2 + part, O, feature, job->layer->kernels->real_size);
}

static fbni_norm norm_of(const backward_job *job, int64_t feature)
{
    const int64_t O = job->layer->desc.out_features;
    const double *from = job->norm + feature;
    const fbni_norm n = {from[0], from[O], from[2 * O], from[3 * O]};
    return n;
}

/* What K = sum g (u - centre) is taken about, O reals: the c of the forward, but for frozen
 * statistics an array behind the blocks' sums. */
static void *centre_of(const backward_job *job)
{
    return job->frozen ? partial_of(job, job->plan.row_blocks, 0, 0) : job->affine.c;
}

/* The mean of a few rows: frozen statistics may have their c far from the data. */
static void choose_centre(const backward_job *job, const fbni_cpu_chunk *chunk)
{
    const int64_t O = job->layer->desc.out_features, rows = fbni_min(CENTRE_ROWS, job->args->batch);
    double centre[FBNI_CHUNK] = {0}, u[FBNI_CHUNK];
    for (int64_t row = 0; row < rows; row++) {
        fbni_cpu_reals_load(u, job->u, row * O + chunk->first, chunk->count, job->single);
        for (int i = 0; i < chunk->count; i++)
            centre[i] += u[i] / (double)rows;
    }
    fbni_cpu_reals_store(centre_of(job), centre, chunk->first, chunk->count, job->single);
}

/* alpha, c, shift as the forward had them. */
static void affine_task(void *argument, int64_t item, int thread)
{
    const backward_job *job = argument;
    fbni_cpu_chunk chunk;
    fbni_norm norm[FBNI_CHUNK];
    (void)thread;

    fbni_cpu_chunk_load(&chunk, &job->layer->desc, job->params, item * FBNI_CHUNK,
                        job->layer->desc.out_features);
    for (int i = 0; i < chunk.count; i++)
        norm[i] = norm_of(job, chunk.first + i);
    fbni_cpu_chunk_affine(&chunk, norm, job->single, &job->affine);
    if (job->frozen)
        choose_centre(job, &chunk);
}

static fbni_cpu_tile block_of(const backward_job *job, int64_t item)
{
    return fbni_cpu_tile_of(&job->plan, item, job->args->batch, job->layer->desc.out_features);
}

static void sums_task(void *argument, int64_t item, int thread)
{
    const backward_job *job = argument;
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbni_cpu_kernels *k = job->layer->kernels;
    const size_t real = k->real_size, size = fbni_dtype_size(desc->dtype);
    const fbni_cpu_tile t = block_of(job, item);
    const int64_t O = desc->out_features;
    const void *u = fbni_at_const(job->u, t.row, O, 0, real);
    const void *dy = fbni_at_const(job->args->dy, t.row, job->args->lddy, 0, size);
    void *g = fbni_at(job->matrix, t.row, O, 0, real);
    int64_t lddy = job->args->lddy;
    (void)thread;

    if (fbni_is_half(desc->dtype)) {
        for (int64_t i = 0; i < t.rows; i++)
            k->load[desc->dtype](O, fbni_at_const(dy, i, lddy, 0, size), fbni_at(g, i, O, 0, real));
        dy = g;
        lddy = O;
    }
    if (desc->activation != FBN_ACT_NONE)
        k->act_backward[desc->activation](
            t.rows, O, u, O, job->affine.alpha, job->affine.c, job->affine.shift,
            job->lse ? fbni_at_const(job->lse, t.row, 2, 0, real) : NULL, dy, lddy, g, O);
    if (job->sums_wanted)
        k->gradient_sums(t.rows, O, fbni_at_const(job->g, t.row, job->ldg, 0, real), job->ldg, u, O,
                         centre_of(job), partial_of(job, item, 0, 0), partial_of(job, item, 1, 0));
}

/* Stores per-feature gradients, or adds them. */
static void store_gradient(const backward_job *job, void *to, const double *value, int64_t first,
                           int count)
{
    double sum[FBNI_CHUNK];
    if (!to)
        return;
    if (job->accumulate) {
        fbni_cpu_reals_load(sum, to, first, count, job->single);
        for (int i = 0; i < count; i++)
            sum[i] += value[i];
        value = sum;
    }
    fbni_cpu_reals_store(to, value, first, count, job->single);
}

/* A scale's gradient: per feature at once; a scalar's share goes to the chunk's sum. */
static void store_scale_gradient(const backward_job *job, fbn_scale kind, void *to,
                                 const double *value, const fbni_cpu_chunk *chunk, double *share)
{
    *share = 0;
    for (int i = 0; i < chunk->count; i++)
        *share += value[i];
    if (kind == FBN_SCALE_FEATURE)
        store_gradient(job, to, value, chunk->first, chunk->count);
}

typedef struct chunk_sums {
    double G[FBNI_CHUNK], K[FBNI_CHUNK];
} chunk_sums;

static void merge_sums(const backward_job *job, const fbni_cpu_chunk *chunk, chunk_sums *sums)
{
    double G[FBNI_CHUNK], K[FBNI_CHUNK];
    memset(sums, 0, sizeof *sums);
    for (int64_t block = 0; job->sums_wanted && block < job->plan.row_blocks; block++) {
        fbni_cpu_reals_load(G, partial_of(job, block, 0, 0), chunk->first, chunk->count,
                            job->single);
        fbni_cpu_reals_load(K, partial_of(job, block, 1, 0), chunk->first, chunk->count,
                            job->single);
        for (int i = 0; i < chunk->count; i++) {
            sums->G[i] += G[i];
            sums->K[i] += K[i];
        }
    }
}

/* The coefficients of du take the place of what each chunk of features has read by then: shift, and G of
 * the first block. */
static fbni_cpu_slopes slopes_of(const backward_job *job)
{
    const fbni_cpu_slopes slopes = {job->affine.alpha, job->affine.c, partial_of(job, 0, 0, 0),
                                    job->affine.shift};
    return slopes;
}

static void features_task(void *argument, int64_t item, int thread)
{
    const backward_job *job = argument;
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbn_grads *grads = job->grads;
    double dgamma[FBNI_CHUNK], dbeta[FBNI_CHUNK], dt[FBNI_CHUNK], ds[FBNI_CHUNK], db[FBNI_CHUNK];
    double alpha[FBNI_CHUNK], du_u[FBNI_CHUNK], du_1[FBNI_CHUNK], centre[FBNI_CHUNK];
    fbni_cpu_chunk chunk;
    chunk_sums sums;
    (void)thread;

    fbni_cpu_chunk_load(&chunk, desc, job->params, item * FBNI_CHUNK, desc->out_features);
    merge_sums(job, &chunk, &sums);
    fbni_cpu_reals_load(centre, centre_of(job), chunk.first, chunk.count, job->single);
    for (int i = 0; i < chunk.count; i++) {
        const fbni_feature f = fbni_cpu_chunk_feature(&chunk, i);
        fbni_norm norm = norm_of(job, chunk.first + i);
        if (job->frozen)
            norm = fbni_norm_about(f, norm, centre[i]);
        const fbni_feature_grads d =
            fbni_feature_grads_of(f, norm, sums.G[i], sums.K[i], desc->eps,
                                  job->frozen ? 0 : job->args->batch, job->single);
        dgamma[i] = d.dgamma;
        dbeta[i] = d.dbeta;
        dt[i] = d.dt;
        ds[i] = d.ds;
        db[i] = d.db;
        alpha[i] = d.alpha;
        du_u[i] = d.du_u;
        du_1[i] = d.du_1;
    }
    store_gradient(job, grads->gamma, dgamma, chunk.first, chunk.count);
    store_gradient(job, grads->beta, dbeta, chunk.first, chunk.count);
    store_gradient(job, grads->bias, db, chunk.first, chunk.count);
    store_scale_gradient(job, desc->post_scale, grads->post_scale, dt, &chunk,
                         &job->sums[2 * item]);
    store_scale_gradient(job, desc->pre_scale, grads->pre_scale, ds, &chunk,
                         &job->sums[2 * item + 1]);

    const fbni_cpu_slopes du = slopes_of(job);
    fbni_cpu_reals_store(du.alpha, alpha, chunk.first, chunk.count, job->single);
    fbni_cpu_reals_store(du.u, du_u, chunk.first, chunk.count, job->single);
    fbni_cpu_reals_store(du.one, du_1, chunk.first, chunk.count, job->single);
    if (job->frozen) /* du = alpha (g - 0) + 0: du_u and du_1 are 0 */
        fbni_cpu_reals_store(du.c, du_u, chunk.first, chunk.count, job->single);
}

/* The gradient of a scalar scale: the chunks' sums, in order. */
static void store_scalar(const backward_job *job, fbn_scale kind, void *to, int which)
{
    const int64_t chunks = fbni_ceil_div(job->layer->desc.out_features, FBNI_CHUNK);
    double sum = 0;
    if (kind != FBN_SCALE_SCALAR)
        return;
    for (int64_t i = 0; i < chunks; i++)
        sum += job->sums[2 * i + which];
    store_gradient(job, to, &sum, 0, 1);
}

/* du from g in its place, then dx and dW: cpu_gradients.c. */
static void run_products(const backward_job *job)
{
    fbni_cpu_gradients gradients = {
        .layer = job->layer,
        .params = job->params,
        .args = job->args,
        .grads = job->grads,
        .plan = job->plan,
        .frozen = job->frozen,
        .accumulate = job->accumulate,
        .accumulate_dx = job->accumulate_dx,
        .u = job->u,
        .g = job->g,
        .ldg = job->ldg,
        .slopes = slopes_of(job),
        .du = job->matrix,
        .scratch = job->scratch,
        .scratch_bytes = job->scratch_bytes,
    };
    fbni_cpu_gradients_run(&gradients);
}

/* The gradients of an empty batch. */
static void clear(const fbni_cpu_layer *layer, const fbn_grads *grads)
{
    const fbn_layer_desc *desc = &layer->desc;
    const size_t real = layer->kernels->real_size, O = (size_t)desc->out_features;
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
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        if (vectors[i].to)
            memset(vectors[i].to, 0, vectors[i].count * real);
    for (int64_t o = 0; grads->weight && o < desc->out_features; o++)
        memset(fbni_at(grads->weight, o, grads->lddw, 0, size), 0,
               (size_t)desc->in_features * size);
}

static fbn_status check_saved(const fbni_cpu_layer *layer, const fbn_backward_args *args)
{
    const fbni_cpu_saved *header = args->saved;
    if (header->layer_id != layer->id)
        return layer->context->host->fail(FBN_ERR_SAVED,
                                          "saved was not written by a forward of this layer");
    if (header->batch != args->batch)
        return layer->context->host->fail(FBN_ERR_SAVED,
                                          "saved is of a batch of %lld, but batch is %lld",
                                          (long long)header->batch, (long long)args->batch);
    return FBN_OK;
}

fbn_status fbni_cpu_backward(void *layer_, const fbn_params *params, const fbn_backward_args *args,
                             const fbn_grads *grads)
{
    const fbni_cpu_layer *layer = layer_;
    const fbn_layer_desc *desc = &layer->desc;
    const fbni_cpu_workspace w = fbni_cpu_workspace_of(layer->context, desc);
    const fbni_cpu_saved_layout s = fbni_cpu_saved_layout_of(desc, args->batch);
    const int64_t chunks = fbni_ceil_div(desc->out_features, FBNI_CHUNK);
    const size_t row = (size_t)desc->out_features * layer->kernels->real_size;
    const char *saved = args->saved;
    char *workspace = layer->workspace;
    const bool direct = desc->activation == FBN_ACT_NONE && !fbni_is_half(desc->dtype);
    const bool accumulate = (args->flags & FBN_ACCUMULATE) != 0;

    if (args->batch == 0) {
        if (!accumulate)
            clear(layer, grads);
        return FBN_OK;
    }
    const fbn_status status = check_saved(layer, args);
    if (status != FBN_OK)
        return status;

    backward_job job = {
        .layer = layer,
        .params = params,
        .args = args,
        .grads = grads,
        .plan = fbni_cpu_plan_backward(layer->context, args->batch, desc),
        .single = fbni_is_single(desc->dtype),
        .frozen = ((const fbni_cpu_saved *)args->saved)->frozen != 0,
        .accumulate = accumulate,
        .accumulate_dx = accumulate && !(args->flags & FBN_OVERWRITE_DX),
        .u = saved + s.u,
        .lse = fbni_is_rowwise(desc->activation) ? saved + s.lse : NULL,
        .norm = (const double *)(const void *)(saved + s.norm),
        .g = direct ? args->dy : workspace + w.matrix,
        .ldg = direct ? args->lddy : desc->out_features,
        .matrix = workspace + w.matrix,
        .partials = workspace + w.partials,
        .affine = {workspace + w.affine, workspace + w.affine + row,
                   workspace + w.affine + 2 * row},
        .sums = (double *)(void *)(workspace + w.sums),
        .scratch = workspace + w.scratch,
        .scratch_bytes = w.scratch_bytes,
    };
    job.sums_wanted = !job.frozen || grads->bias || grads->pre_scale || grads->post_scale ||
                      grads->gamma || grads->beta;

    fbni_cpu_for(job.plan.threads, chunks, affine_task, &job);
    fbni_cpu_for(job.plan.threads, job.plan.row_blocks, sums_task, &job);
    fbni_cpu_for(job.plan.threads, chunks, features_task, &job);
    store_scalar(&job, desc->post_scale, grads->post_scale, 0);
    store_scalar(&job, desc->pre_scale, grads->pre_scale, 1);
    run_products(&job);
    return FBN_OK;
}
