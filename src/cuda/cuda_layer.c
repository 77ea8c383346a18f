/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A layer on CUDA: the choice of its kernel rows, and where things lie in its workspace and saved
 * buffers.
 */
#include <stdio.h>
#include <string.h>

#include "cuda_hopper.h"

/* Partial sums of the largest batch; smaller ones have no more chunks. */
static size_t partials_size(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                            const fbni_cuda_choice *choice)
{
    const size_t real = fbni_real_size(desc->dtype), O = (size_t)desc->out_features;
    const int64_t processors = context->queue.processors;
    const fbni_cuda_chunks moments = fbni_cuda_chunks_of(processors * FBNI_CUDA_MOMENT_BLOCKS,
                                                         desc->max_batch, desc->out_features, real);
    const fbni_cuda_chunks gradients = fbni_cuda_chunks_of(
        processors * FBNI_CUDA_GRADIENT_BLOCKS, desc->max_batch, desc->out_features, real);
    fbni_hopper_kind kind;
    const size_t chunks = fbni_cuda_is_hopper(choice->row[FBNI_CUDA_PRODUCT], &kind)
                              ? (size_t)fbni_hopper_most_chunks(context, desc->max_batch)
                              : 0;
    const size_t forward = fbni_larger(4 * chunks, (size_t)(moments.reals * moments.chunks));
    const int64_t packed =
        fbni_hopper_most_gradient_chunks(context, desc->max_batch, desc->out_features);
    const size_t backward = (size_t)fbni_cuda_gradient_sum_parts(desc->dtype) *
                            fbni_larger((size_t)gradients.chunks, chunks > 0 ? (size_t)packed : 0);
    return (forward > backward ? forward : backward) * O * real;
}

/* An operand of the Hopper product: its parts; or, of a half type, a copy, where the larger place
 * for floats may be shared. */
static size_t operand_size(const fbn_layer_desc *desc, const fbni_cuda_choice *choice, size_t rows)
{
    const size_t floats = fbni_is_half(desc->dtype) ? rows * (size_t)desc->in_features * 4 : 0;
    fbni_hopper_kind kind;
    size_t parts;

    if (!fbni_cuda_is_hopper(choice->row[FBNI_CUDA_PRODUCT], &kind))
        return floats;
    parts = fbni_hopper_memory_of(kind, (int64_t)rows, desc->in_features, false).total;
    return parts > floats ? parts : floats;
}

fbni_cuda_workspace fbni_cuda_workspace_of(const fbni_cuda_context *context,
                                           const fbn_layer_desc *desc,
                                           const fbni_cuda_choice *choice)
{
    const size_t real = fbni_real_size(desc->dtype);
    const size_t N = (size_t)desc->max_batch, O = (size_t)desc->out_features;
    const size_t I = (size_t)desc->in_features;
    size_t matrix = N * O * real, inputs = operand_size(desc, choice, N);
    size_t weights = operand_size(desc, choice, O), du = 0, slices = 0;
    fbni_hopper_kind kind;
    fbni_cuda_workspace w = {0};

    if (fbni_cuda_is_hopper_gradients(choice->row[FBNI_CUDA_GRADIENTS], &kind)) {
        const fbni_hopper_backward_memory m = fbni_hopper_backward_memory_of(
            kind, desc->max_batch, desc->in_features, desc->out_features);
        matrix = fbni_larger(matrix, N * I * real);
        weights = fbni_larger(weights, O * I * real);
        inputs = fbni_larger(inputs, m.other);
        du = m.du;
        slices = fbni_hopper_slices_size(context);
    }

    w.affine = fbni_place(&w.total, 3 * fbni_align(O * real));
    w.centre = fbni_place(&w.total, O * real);
    w.slopes = fbni_place(&w.total, 2 * fbni_align(O * real));
    w.sums = fbni_place(&w.total, 2 * O * sizeof(double));
    w.scale = fbni_place(&w.total, sizeof(fbni_cuda_du_scale));
    w.partials = fbni_place(&w.total, partials_size(context, desc, choice));
    w.dots = fbni_place(&w.total, fbni_is_rowwise(desc->activation) ? N * real : 0);
    w.matrix = fbni_place(&w.total, matrix);
    w.inputs = fbni_place(&w.total, inputs);
    w.weights = fbni_place(&w.total, weights);
    w.du = fbni_place(&w.total, du);
    w.slices = fbni_place(&w.total, slices);
    w.control = fbni_place(&w.total, sizeof(fbni_hopper_control));
    w.done =
        fbni_place(&w.total, fbni_hopper_counts(context, desc->out_features) * sizeof(unsigned));
    return w;
}

/* ---- the saved buffer ---- */

/* Whether training packs u in 16 bits; the backward of a small layer takes it as it is. */
static bool packs(const fbni_cuda_layer *l, int64_t batch, fbni_hopper_tiles *tiles)
{
    const fbn_layer_desc *desc = &l->desc;
    fbni_cuda_row_id product, train;
    fbni_hopper_kind kind;

    if (!fbni_is_half(desc->dtype) || fbni_is_rowwise(desc->activation) ||
        fbni_cuda_choose_backward(desc, &l->choice, batch) == FBNI_CUDA_BACKWARD_SLAB)
        return false;
    product = fbni_cuda_choose_product(l->context, desc, &l->choice, batch);
    train = fbni_cuda_choose_train(l->context, desc, &l->choice, product, batch);
    if (!fbni_cuda_is_hopper(product, &kind) ||
        (train != FBNI_CUDA_TRAIN_PACKED && train != FBNI_CUDA_TRAIN_FOLLOWED))
        return false;
    *tiles = fbni_hopper_tiles_of(l->context, kind, batch, desc->in_features, desc->out_features);
    return true;
}

fbni_cuda_saved_layout fbni_cuda_saved_layout_of(const fbni_cuda_layer *layer, int64_t batch)
{
    const fbn_layer_desc *desc = &layer->desc;
    const size_t real = fbni_real_size(desc->dtype);
    const size_t N = (size_t)batch, O = (size_t)desc->out_features;
    fbni_hopper_tiles tiles;
    fbni_cuda_saved_layout s = {0};

    (void)fbni_place(&s.total, sizeof(fbni_cuda_saved));
    s.norm = fbni_place(&s.total, 4 * O * sizeof(double));
    s.lse = fbni_place(&s.total, fbni_is_rowwise(desc->activation) ? 2 * N * real : 0);
    s.u = fbni_place(&s.total, N * O * real);
    if (batch > 0 && packs(layer, batch, &tiles)) {
        const size_t chunks = (size_t)fbni_hopper_most_chunks(layer->context, batch);
        s.moments = s.u + fbni_align(N * O * fbni_dtype_size(desc->dtype));
        s.packed = s.moments + 4 * chunks * O * sizeof(float) <= s.total;
        s.tile_rows = tiles.columns;
        s.tiles = tiles.count;
    }
    return s;
}

fbni_cuda_params fbni_cuda_params_of(const fbn_layer_desc *desc, const fbn_params *params)
{
    const fbni_cuda_params p = {
        .bias = params->bias,
        .pre_scale = params->pre_scale,
        .post_scale = params->post_scale,
        .gamma = params->gamma,
        .beta = params->beta,
        .pre_per_feature = desc->pre_scale == FBN_SCALE_FEATURE,
        .post_per_feature = desc->post_scale == FBN_SCALE_FEATURE,
    };
    return p;
}

/* Layers whose matrices would pass an eighth of the address space are refused, so that no sum of
 * parts overflows; nor does a grid, which is far smaller. */
static fbn_status check_size(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    const double N = (double)desc->max_batch, I = (double)desc->in_features;
    const double O = (double)desc->out_features;

    if (8 * (N + 64) * O < 0x1p60 && 4 * I * (N + O) < 0x1p60 && O < 0x1p34 && I < 0x1p40)
        return FBN_OK;
    return context->host->fail(FBN_ERR_OVERFLOW,
                               "max_batch %lld, in_features %lld, out_features %lld: the workspace "
                               "or the weight would exceed 2^60 bytes",
                               (long long)desc->max_batch, (long long)desc->in_features,
                               (long long)desc->out_features);
}

fbn_status fbni_cuda_layer_workspace_size(void *context, const fbn_layer_desc *desc, size_t *bytes)
{
    fbni_cuda_choice choice;
    fbn_status status = check_size(context, desc);

    if (status == FBN_OK)
        status = fbni_cuda_choose(context, desc, true, &choice);
    if (status == FBN_OK)
        *bytes = fbni_cuda_workspace_of(context, desc, &choice).total;
    return status;
}

static void describe(fbni_cuda_layer *l, size_t bytes)
{
    const fbni_cuda_row_id *row = l->choice.row;
    const bool rowwise = fbni_is_rowwise(l->desc.activation);

    snprintf(l->text, sizeof l->text, "%s, %s, %s%s%s, %s, workspace %zu bytes",
             fbni_cuda_row_name(row[FBNI_CUDA_PRODUCT]), fbni_cuda_row_name(row[FBNI_CUDA_TRAIN]),
             rowwise ? fbni_cuda_row_name(row[FBNI_CUDA_SOFTMAX]) : "", rowwise ? ", " : "",
             fbni_cuda_row_name(fbni_cuda_choose_backward(&l->desc, &l->choice, l->desc.max_batch)),
             fbni_cuda_row_name(row[FBNI_CUDA_GRADIENTS]), bytes);
}

/* What the planner of the Hopper product makes of the largest batch. */
static void log_tiles(const fbni_cuda_layer *l)
{
    const fbn_layer_desc *desc = &l->desc;
    fbni_hopper_kind kind;
    fbni_hopper_tiles t;

    if (!fbni_cuda_is_hopper(l->choice.row[FBNI_CUDA_PRODUCT], &kind))
        return;
    t = fbni_hopper_tiles_of(l->context, kind, desc->max_batch, desc->in_features,
                             desc->out_features);
    l->context->host->log("tiles of %d features x %d batch rows in bands of %d x %d features, "
                          "%lld waves",
                          FBNI_HOPPER_FEATURES, t.columns, t.band, FBNI_HOPPER_PAIR,
                          (long long)t.waves);
    if (t.holders > 0)
        l->context->host->log("each %d features of W are held by %d clusters", FBNI_HOPPER_PAIR,
                              t.holders);
    if (t.beside > 0)
        l->context->host->log("%d clusters of %d multiply, the last %d x %d features go beside",
                              t.clusters, FBNI_HOPPER_DIRECT_CLUSTER, t.beside, FBNI_HOPPER_PAIR);
    if (l->choice.row[FBNI_CUDA_TRAIN] == FBNI_CUDA_TRAIN_FOLLOWED) {
        const fbni_cuda_following f =
            fbni_hopper_following_of(l->context, kind, desc->max_batch, desc->in_features,
                                     desc->out_features, l->choice.named[FBNI_CUDA_TRAIN]);
        l->context->host->log("%d clusters multiply, %d follow and make y of %d features",
                              f.clusters, f.followers, f.pairs * FBNI_HOPPER_PAIR);
    }
}

/* What it makes of the backward's products, where they are divided. */
static void log_slices(const fbni_cuda_layer *l)
{
    const int64_t N = l->desc.max_batch, I = l->desc.in_features, O = l->desc.out_features;
    fbni_hopper_tiles dx, dw;
    fbni_hopper_kind kind;

    if (!fbni_cuda_is_hopper_gradients(l->choice.row[FBNI_CUDA_GRADIENTS], &kind))
        return;
    dx = fbni_hopper_slice(l->context, kind, N, O, I, NULL);
    dw = fbni_hopper_slice(l->context, kind, O, N, I, NULL);
    if (dx.slices > 1)
        l->context->host->log("dx: the depth of %lld in %d slices", (long long)O, dx.slices);
    if (dw.slices > 1)
        l->context->host->log("dW: the depth of %lld in %d slices", (long long)N, dw.slices);
}

/* Whether a small layer's largest batch takes one launch in inference too. */
static void log_inference(const fbni_cuda_layer *l)
{
    const char *refusal = NULL;

    if (l->choice.row[FBNI_CUDA_TRAIN] != FBNI_CUDA_TRAIN_SMALL)
        return;
    if (!l->choice.named[FBNI_CUDA_TRAIN])
        refusal = fbni_small_refuse_speed(l->context, &l->desc, l->desc.max_batch, false);
    l->context->host->log("inference: %s", refusal ? refusal : "one launch");
}

static fbn_status allow_kernels(fbni_cuda_context *c, const fbn_layer_desc *desc,
                                const fbni_cuda_choice *choice)
{
    fbni_hopper_kind kind;
    fbn_status status = FBN_OK;

    if (fbni_cuda_is_hopper(choice->row[FBNI_CUDA_PRODUCT], &kind))
        status = fbni_hopper_allow(c, kind);
    if (status == FBN_OK && fbni_cuda_is_hopper_gradients(choice->row[FBNI_CUDA_GRADIENTS], &kind))
        status = fbni_hopper_allow(c, kind);
    if (status == FBN_OK && choice->row[FBNI_CUDA_TRAIN] == FBNI_CUDA_TRAIN_SMALL)
        status = fbni_small_allow(c, desc);
    return status;
}

fbn_status fbni_cuda_layer_create(void **layer, void *context, const fbn_layer_desc *desc,
                                  void *workspace)
{
    static atomic_uint_fast64_t next_id = 1;
    fbni_cuda_context *c = context;
    fbni_cuda_choice choice;
    fbni_cuda_layer *l;
    fbn_status status = fbni_cuda_choose(c, desc, false, &choice);

    if (status == FBN_OK)
        status = allow_kernels(c, desc, &choice);
    if (status != FBN_OK)
        return status;
    l = c->host_allocator.allocate(c->host_allocator.user, sizeof *l, 64);
    if (!l)
        return c->host->fail(FBN_ERR_OUT_OF_MEMORY, "no memory for a layer of %zu bytes",
                             sizeof *l);
    memset(l, 0, sizeof *l);
    l->context = c;
    l->desc = *desc;
    l->desc.kernel = NULL; /* the caller's string; the choice is made */
    l->choice = choice;
    /* in-process uniqueness, and no match by chance in a buffer that no forward has written */
    l->id = atomic_fetch_add(&next_id, 1) * UINT64_C(0x9e3779b97f4a7c15);
    l->workspace = workspace;
    describe(l, fbni_cuda_workspace_of(c, desc, &choice).total);
    c->host->log("%lld x %lld -> %lld: %s", (long long)desc->max_batch,
                 (long long)desc->in_features, (long long)desc->out_features, l->text);
    log_tiles(l);
    log_slices(l);
    log_inference(l);
    *layer = l;
    return FBN_OK;
}

void fbni_cuda_layer_destroy(void *layer)
{
    fbni_cuda_layer *l = layer;
    l->context->host_allocator.deallocate(l->context->host_allocator.user, l);
}

const char *fbni_cuda_layer_describe(const void *layer)
{
    return ((const fbni_cuda_layer *)layer)->text;
}

fbn_status fbni_cuda_layer_saved_size(const void *layer, int64_t batch, size_t *bytes)
{
    *bytes = fbni_cuda_saved_layout_of(layer, batch).total;
    return FBN_OK;
}
