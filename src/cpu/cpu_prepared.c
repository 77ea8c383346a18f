/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inference from a layer's parameters taken once: folded into a plain linear layer, or prepared for
 * serving.
 */
#include <string.h>

#include "cpu_internal.h"

typedef struct fold_job {
    const fbni_cpu_layer *layer;
    const fbn_params *params;
    void *weight; /* [O,I], dtype */
    int64_t ldw;
    void *bias; /* [O], real */
} fold_job;

enum { FOLD_RUN = 512 }; /* elements converted at a time */

/* The float next to value from which a half type rounds as it would from value itself: where the
 * float is not exact, the one of its two neighbours with an odd last bit. (Boldo & Melquiond 2008,
 * "Emulation of a FMA and correctly rounded sums", prove it for rounding to odd.) */
static float round_to_odd(double value)
{
    float f = (float)value;
    uint32_t bits;
    if ((double)f == value || !isfinite(f))
        return f;
    memcpy(&bits, &f, sizeof bits);
    if (!(bits & 1))
        bits += fabs((double)f) < fabs(value) ? 1 : -1u;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* One row of the folded weight: alpha W in double, rounded once. */
static void fold_row(const fold_job *job, int64_t o, double alpha)
{
    const fbn_layer_desc *desc = &job->layer->desc;
    const fbni_cpu_kernels *k = job->layer->kernels;
    const bool single = fbni_is_single(desc->dtype), half = fbni_is_half(desc->dtype);
    const size_t size = fbni_dtype_size(desc->dtype);
    double reals[FOLD_RUN]; /* floats or doubles */
    double folded[FOLD_RUN];

    for (int64_t i = 0; i < desc->in_features; i += FOLD_RUN) {
        const int count = (int)fbni_min(FOLD_RUN, desc->in_features - i);
        k->load[desc->dtype](
            count, fbni_at_const(job->params->weight, o, job->params->ldw, i, size), reals);
        fbni_cpu_reals_load(folded, reals, 0, count, single);
        for (int q = 0; q < count; q++)
            folded[q] = half ? (double)round_to_odd(folded[q] * alpha) : folded[q] * alpha;
        fbni_cpu_reals_store(reals, folded, 0, count, single);
        k->store[desc->dtype](count, reals, fbni_at(job->weight, o, job->ldw, i, size));
    }
}

static void fold_task(void *argument, int64_t item, int thread)
{
    const fold_job *job = argument;
    const fbn_layer_desc *desc = &job->layer->desc;
    const bool single = fbni_is_single(desc->dtype);
    double mean[FBNI_CHUNK], var[FBNI_CHUNK], bias[FBNI_CHUNK];
    fbni_cpu_chunk chunk;
    (void)thread;

    fbni_cpu_chunk_load(&chunk, desc, job->params, item * FBNI_CHUNK, desc->out_features);
    fbni_cpu_reals_load(mean, job->params->running_mean, chunk.first, chunk.count, single);
    fbni_cpu_reals_load(var, job->params->running_var, chunk.first, chunk.count, single);
    for (int i = 0; i < chunk.count; i++) {
        const fbni_feature f = fbni_cpu_chunk_feature(&chunk, i);
        const double r = 1 / sqrt(var[i] + desc->eps);
        bias[i] = f.t * (f.beta + f.gamma * r * (f.s * f.b - mean[i]));
        fold_row(job, chunk.first + i, f.t * f.gamma * f.s * r);
    }
    fbni_cpu_reals_store(job->bias, bias, chunk.first, chunk.count, single);
}

fbn_status fbni_cpu_fold(void *layer_, const fbn_params *params, void *weight, int64_t ldw,
                         void *bias)
{
    const fbni_cpu_layer *layer = layer_;
    fold_job job = {layer, params, weight, ldw, bias};
    fbni_cpu_for(layer->context->threads, fbni_ceil_div(layer->desc.out_features, FBNI_CHUNK),
                 fold_task, &job);
    return FBN_OK;
}

/* The layer with its constants at hand, followed in one allocation by its own copy of W, [O,I]
 * reals, and of alpha, c and shift. alpha is not multiplied into W: the finishing multiply-add
 * costs the same without, and rounds once less. */
typedef struct cpu_prepared {
    fbni_cpu_context *context;
    const fbni_cpu_kernels *kernels;
    fbn_layer_desc desc;
    char *weight;
    fbni_cpu_affine affine;
} cpu_prepared;

typedef struct prepare_job {
    const cpu_prepared *prepared;
    const fbn_params *params;
} prepare_job;

static void prepare_task(void *argument, int64_t item, int thread)
{
    const prepare_job *job = argument;
    const cpu_prepared *p = job->prepared;
    const fbn_layer_desc *desc = &p->desc;
    const size_t size = fbni_dtype_size(desc->dtype);
    fbni_cpu_chunk chunk;
    fbni_norm norm[FBNI_CHUNK];
    (void)thread;

    fbni_cpu_chunk_load(&chunk, desc, job->params, item * FBNI_CHUNK, desc->out_features);
    fbni_cpu_chunk_frozen(&chunk, desc, job->params, norm);
    fbni_cpu_chunk_affine(&chunk, norm, fbni_is_single(desc->dtype), &p->affine);
    for (int64_t o = chunk.first; o < chunk.first + chunk.count; o++)
        p->kernels->load[desc->dtype](
            desc->in_features, fbni_at_const(job->params->weight, o, job->params->ldw, 0, size),
            fbni_at(p->weight, o, desc->in_features, 0, p->kernels->real_size));
}

fbn_status fbni_cpu_prepare(void **prepared, void *layer_, const fbn_params *params)
{
    const fbni_cpu_layer *layer = layer_;
    fbni_cpu_context *context = layer->context;
    const size_t real = layer->kernels->real_size;
    const size_t O = (size_t)layer->desc.out_features, I = (size_t)layer->desc.in_features;
    const size_t head = fbni_align(sizeof(cpu_prepared)), vector = fbni_align(O * real);
    const size_t total = head + fbni_align(O * I * real) + 3 * vector;
    char *memory = context->allocator.allocate(context->allocator.user, total, FBNI_CPU_ALIGN);
    if (!memory)
        return context->host->fail(FBN_ERR_OUT_OF_MEMORY,
                                   "no memory for a prepared layer of %zu bytes", total);

    cpu_prepared *p = (cpu_prepared *)(void *)memory;
    char *weight = memory + head, *vectors = weight + fbni_align(O * I * real);
    *p = (cpu_prepared){context,
                        layer->kernels,
                        layer->desc,
                        weight,
                        {vectors, vectors + vector, vectors + 2 * vector}};
    prepare_job job = {p, params};
    fbni_cpu_for(context->threads, fbni_ceil_div(layer->desc.out_features, FBNI_CHUNK),
                 prepare_task, &job);
    *prepared = p;
    return FBN_OK;
}

void fbni_cpu_prepared_destroy(void *prepared)
{
    cpu_prepared *p = prepared;
    p->context->allocator.deallocate(p->context->allocator.user, p);
}

/* The workspace of a run: for the half types u as floats, then each thread's scratch; else nothing.
 * */
typedef struct run_workspace {
    size_t scratch, scratch_bytes, total;
} run_workspace;

static run_workspace workspace_of(const cpu_prepared *p, int64_t batch)
{
    run_workspace w = {0};
    if (fbni_is_half(p->desc.dtype)) {
        const size_t O = (size_t)p->desc.out_features;
        w.scratch = fbni_align((size_t)batch * O * sizeof(float));
        w.scratch_bytes = FBNI_TILED_SCRATCH(O);
        w.total = w.scratch + w.scratch_bytes * (size_t)p->context->threads;
    }
    return w;
}

fbn_status fbni_cpu_prepared_workspace_size(const void *prepared, int64_t batch, size_t *bytes)
{
    const cpu_prepared *p = prepared;
    if (8.0 * (double)batch * (double)p->desc.out_features >= 0x1p60)
        return p->context->host->fail(FBN_ERR_OVERFLOW,
                                      "batch %lld x %lld features exceeds 2^60 bytes",
                                      (long long)batch, (long long)p->desc.out_features);
    *bytes = workspace_of(p, batch).total;
    return FBN_OK;
}

fbn_status fbni_cpu_prepared_run(const void *prepared, const fbn_run_args *args)
{
    const cpu_prepared *p = prepared;
    const fbn_layer_desc *desc = &p->desc;
    const run_workspace w = workspace_of(p, args->batch);
    const bool half = fbni_is_half(desc->dtype);
    char *workspace = args->workspace;
    fbni_cpu_tiled d = {
        .context = p->context,
        .kernels = p->kernels,
        .plan = fbni_cpu_plan_forward(p->context, args->batch, desc),
        .N = args->batch,
        .I = desc->in_features,
        .O = desc->out_features,
        .dtype = desc->dtype,
        .activation = desc->activation,
        .x = {args->x, args->ldx, desc->dtype, false},
        .weight = {p->weight, desc->in_features, fbni_real_dtype(desc->dtype), true},
        .u = half ? workspace : args->y,
        .ldu = half ? desc->out_features : args->ldy,
        .affine = p->affine,
        .y = args->y,
        .ldy = args->ldy,
        .scratch = half ? workspace + w.scratch : NULL,
        .scratch_bytes = w.scratch_bytes,
    };
    fbni_cpu_tiled_run(&d);
    return FBN_OK;
}
