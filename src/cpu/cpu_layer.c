/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A layer on the CPU: the choice of its kernel row, and where things lie in its workspace and saved
 * buffers.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "cpu_internal.h"

/* Appends a part of `bytes` to a layout and returns where it begins. */
static size_t place(size_t *total, size_t bytes)
{
    const size_t at = *total;
    *total += fbni_align(bytes);
    return at;
}

fbni_cpu_workspace fbni_cpu_workspace_of(const fbni_cpu_context *context,
                                         const fbn_layer_desc *desc)
{
    const size_t real = fbni_real_size_of(desc->dtype);
    const size_t N = (size_t)desc->max_batch, O = (size_t)desc->out_features;
    const bool half = fbni_is_half(desc->dtype);
    const size_t blocks = (size_t)fbni_cpu_plan_most_blocks(context, desc->max_batch);
    fbni_cpu_workspace w = {0};

    w.matrix = place(&w.total, N * O * real);
    w.partials = place(&w.total, blocks * 3 * O * real);
    w.affine = place(&w.total, 3 * O * real);
    w.sums =
        place(&w.total, 2 * (size_t)fbni_ceil_div(desc->out_features, FBNI_CHUNK) * sizeof(double));
    w.scratch_bytes = half ? FBNI_TILED_SCRATCH(O) : 0;
    w.scratch = place(&w.total, w.scratch_bytes * (size_t)context->threads);
    return w;
}

fbni_cpu_saved_layout fbni_cpu_saved_layout_of(const fbn_layer_desc *desc, int64_t batch)
{
    const size_t real = fbni_real_size_of(desc->dtype);
    const size_t N = (size_t)batch, O = (size_t)desc->out_features;
    fbni_cpu_saved_layout s = {0};

    place(&s.total, sizeof(fbni_cpu_saved));
    s.norm = place(&s.total, 4 * O * sizeof(double));
    s.lse = place(&s.total, fbni_is_rowwise(desc->activation) ? 2 * N * real : 0);
    s.u = place(&s.total, N * O * real);
    return s;
}

/* The first row that this machine can run, or the one that is asked for by name. */
static fbn_status choose_row(const fbni_cpu_context *context, const char *name,
                             const fbni_cpu_isa **chosen)
{
    for (size_t i = 0; i < fbni_cpu_isa_count; i++) {
        const fbni_cpu_isa *isa = &fbni_cpu_isas[i];
        const char *refusal = isa->refuse();
        if (name && strcmp(name, isa->name) != 0)
            continue;
        if (!refusal) {
            *chosen = isa;
            return FBN_OK;
        }
        if (name)
            return context->host->fail(FBN_ERR_UNSUPPORTED, "kernel %s: %s", name, refusal);
    }
    return context->host->fail(FBN_ERR_UNSUPPORTED, "there is no CPU kernel named %s",
                               name ? name : "(any)");
}

fbn_status fbni_cpu_layer_workspace_size(void *context, const fbn_layer_desc *desc, size_t *bytes)
{
    const fbni_cpu_isa *isa;
    const fbn_status status = choose_row(context, desc->kernel, &isa);
    if (status == FBN_OK)
        *bytes = fbni_cpu_workspace_of(context, desc).total;
    return status;
}

fbn_status fbni_cpu_layer_create(void **layer, void *context, const fbn_layer_desc *desc,
                                 void *workspace)
{
    static atomic_uint_fast64_t next_id = 1;
    fbni_cpu_context *ctx = context;
    const fbni_cpu_isa *isa = NULL;
    fbn_status status = choose_row(ctx, desc->kernel, &isa);
    if (status != FBN_OK)
        return status;

    fbni_cpu_layer *l = ctx->allocator.allocate(ctx->allocator.user, sizeof *l, FBNI_CPU_ALIGN);
    if (!l)
        return ctx->host->fail(FBN_ERR_OUT_OF_MEMORY, "no memory for a layer of %zu bytes",
                               sizeof *l);
    memset(l, 0, sizeof *l);
    l->context = ctx;
    l->isa = isa;
    l->kernels = fbni_is_single(desc->dtype) ? isa->f32 : isa->f64;
    l->desc = *desc;
    l->desc.kernel = NULL; /* the caller's string need not outlive this call */
    /* in-process uniqueness, and no match by chance in a buffer that no forward has written */
    l->id = atomic_fetch_add(&next_id, 1) * UINT64_C(0x9e3779b97f4a7c15);
    l->workspace = workspace;
    const fbni_cpu_plan plan = fbni_cpu_plan_forward(ctx, desc->max_batch, desc);
    snprintf(l->text, sizeof l->text,
             "%s, %d thread%s, %lld x %lld tiles of %lld rows x %lld features, BLAS %s", isa->name,
             plan.threads, plan.threads == 1 ? "" : "s", (long long)plan.row_blocks,
             (long long)plan.panels, (long long)plan.rows, (long long)plan.features,
             ctx->blas_nests ? "per tile" : "per call");
    for (const fbni_cpu_isa *before = fbni_cpu_isas; !desc->kernel && before < isa; before++)
        ctx->host->log("%s: refused: %s", before->name, before->refuse());
    ctx->host->log("%lld x %lld -> %lld: %s", (long long)desc->max_batch,
                   (long long)desc->in_features, (long long)desc->out_features, l->text);
    *layer = l;
    return FBN_OK;
}

void fbni_cpu_layer_destroy(void *layer)
{
    fbni_cpu_layer *l = layer;
    l->context->allocator.deallocate(l->context->allocator.user, l);
}

const char *fbni_cpu_layer_describe(const void *layer)
{
    return ((const fbni_cpu_layer *)layer)->text;
}

fbn_status fbni_cpu_layer_saved_size(const void *layer, int64_t batch, size_t *bytes)
{
    *bytes = fbni_cpu_saved_layout_of(&((const fbni_cpu_layer *)layer)->desc, batch).total;
    return FBN_OK;
}
