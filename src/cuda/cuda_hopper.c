/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The driver of the Hopper product (hopper_product.cuh): the call, of the operands that
 * cuda_hopper_operands.c makes.
 */
#include "cuda_hopper.h"

#ifdef FBNI_HAVE_HOPPER

/* ---- before the first call ---- */

void fbni_hopper_count_clusters(fbni_cuda_context *c)
{
    if (fbni_hopper_refuse_machine(c) ||
        fbni_hopper_direct_clusters(&c->direct_clusters) != cudaSuccess) {
        c->direct_clusters = 0;
        (void)cudaGetLastError();
    }
}

fbn_status fbni_hopper_allow(fbni_cuda_context *c, fbni_hopper_kind kind)
{
    fbn_status status = fbni_cuda_enter(c);
    cudaError_t error;

    if (status != FBN_OK)
        return status;
    error = fbni_hopper_allow_product(kind);
    if (error == cudaSuccess && fbni_hopper_is_single(kind))
        error = fbni_hopper_allow_product(kind == FBNI_HOPPER_TF32 ? FBNI_HOPPER_DIRECT
                                                                   : FBNI_HOPPER_TF32);
    if (error == cudaSuccess)
        error = fbni_hopper_allow_split();
    if (error == cudaSuccess)
        error = fbni_hopper_allow_held_finish();
    status = fbni_cuda_check(c->host, error, "the shared memory of the Hopper kernels");
    fbni_cuda_leave(c);
    return status;
}

/* ---- the call ---- */

/* Operands of the half types: one part each. */
static fbn_status map_halves(fbni_cuda_context *c, const fbni_hopper_call *call,
                             fbni_hopper_product *p)
{
    const void *x, *w;
    int64_t ldx, ldw;
    fbn_status status = fbni_hopper_readable_operand(c, &call->x, call->I, 2, &x, &ldx);

    if (status == FBN_OK)
        status = fbni_hopper_readable_operand(c, &call->w, call->I, 2, &w, &ldw);
    if (status != FBN_OK)
        return status;
    if (fbni_hopper_map_operand(c, &p->x, x, call->I, call->N, ldx, 1,
                                p->columns / FBNI_HOPPER_CLUSTER) ||
        fbni_hopper_map_operand(c, &p->w, w, call->I, call->O, ldw, 1, FBNI_HOPPER_FEATURES))
        return c->host->fail(FBN_ERR_DEVICE, "cuTensorMapEncodeTiled refused an operand");
    p->w_rescue = p->w;
    return FBN_OK;
}

static fbn_status map_parts(fbni_cuda_context *c, const fbni_hopper_parts_call *call,
                            fbni_hopper_product *p)
{
    const fbni_hopper_kind kind = call->kind;
    const int parts = fbni_hopper_parts(kind);
    const int64_t I = call->I, ld = fbni_hopper_stride(I);
    const fbni_hopper_operand *x = &call->x, *w = &call->w;

    if (fbni_hopper_map_operand(c, &p->x, x->parts, I, x->rows, ld, parts,
                                p->columns / FBNI_HOPPER_CLUSTER) ||
        fbni_hopper_map_operand(c, &p->w, w->parts, I, w->rows, ld,
                                kind == FBNI_HOPPER_FP32 ? 2 : 1, FBNI_HOPPER_FEATURES) ||
        fbni_hopper_map_operand(c, &p->w_rescue, w->rescue, I, w->rows, ld, parts,
                                FBNI_HOPPER_FEATURES))
        return c->host->fail(FBN_ERR_DEVICE, "cuTensorMapEncodeTiled refused an operand");
    p->x_exponents = x->exponents;
    p->w_exponents = w->exponents;
    p->rescue = &call->control->rescue;
    return FBN_OK;
}

static fbni_hopper_split split_of(const fbni_hopper_call *call)
{
    const fbni_hopper_split split = {
        .kind = call->kind,
        .I = call->I,
        .ld = fbni_hopper_stride(call->I),
        .operand = {fbni_hopper_operand_of(call->kind, &call->x, call->I, call->x.p == NULL),
                    fbni_hopper_operand_of(call->kind, &call->w, call->I, call->w.p == NULL)},
        .control = call->control,
    };
    return split;
}

/* The maps of a split's parts, for a product of this kind. */
static fbn_status map_split(fbni_cuda_context *c, const fbni_hopper_split *split,
                            fbni_hopper_kind kind, fbni_hopper_product *p)
{
    const fbni_hopper_parts_call parts = {
        .kind = kind,
        .I = split->I,
        .x = split->operand[0],
        .w = split->operand[1],
        .control = split->control,
    };
    return map_parts(c, &parts, p);
}

static fbn_status map_floats(fbni_cuda_context *c, const fbni_hopper_call *call,
                             fbni_hopper_product *p)
{
    const fbni_hopper_split split = split_of(call);
    const fbn_status status = fbni_hopper_make_parts(c, &split);

    return status == FBN_OK ? map_split(c, &split, call->kind, p) : status;
}

bool fbni_hopper_can_stage(const fbni_cuda_finish *f, bool packed)
{
    const size_t size = fbni_dtype_size(f->dtype);

    return fbni_hopper_is_mappable(f->y, f->ldy, size) &&
           fbni_hopper_is_mappable(f->u, f->ldu, size) && (packed || size == sizeof(float));
}

/* What follows: from where to where, and what y is made by. */
static fbn_status set_follow(fbni_cuda_context *c, const fbni_hopper_call *call,
                             fbni_hopper_product *p)
{
    const fbni_cuda_following *f = &call->following;
    const fbni_cuda_finish *finish = f->finish;

    p->clusters = f->clusters;
    p->follow.clusters = f->followers;
    p->follow.pairs = f->pairs;
    p->follow.done = f->done;
    p->follow.features = *f->features;
    p->finish = *finish;
    if (fbni_hopper_map_stage(c, &p->follow.to, finish, finish->y, finish->ldy) ||
        fbni_hopper_map_stage(c, &p->follow.from, finish, finish->u, finish->ldu))
        return c->host->fail(FBN_ERR_DEVICE, "cuTensorMapEncodeTiled refused y");
    return FBN_OK;
}

/* The product by the maps that are there, and where its result [N, O] goes. */
static fbn_status multiply(fbni_cuda_context *c, fbni_hopper_product *p, fbn_dtype dtype, void *out,
                           int64_t ldout)
{
    p->ldout = ldout;
    if (!fbni_hopper_is_mappable(out, ldout, fbni_dtype_size(dtype)) ||
        fbni_hopper_map_result(c, dtype, p, out) != CUDA_SUCCESS)
        p->out = out;
    return fbni_cuda_check(c->host, fbni_hopper_multiply(&c->queue, p), "hopper_product");
}

/* The slices' products one behind the other, and their sum. */
static fbn_status multiply_slices(fbni_cuda_context *c, const fbni_hopper_parts_call *call,
                                  fbni_hopper_product *p, const fbni_hopper_tiles *tiles)
{
    const fbni_hopper_slices s = {
        .slices = tiles->slices,
        .rows_of_slice = tiles->count * tiles->columns,
        .N = call->x.rows,
        .O = call->w.rows,
        .from = call->slices,
        .ldfrom = fbni_hopper_stride(call->w.rows),
        .x_exponents = call->x.exponents,
        .w_exponents = call->w.exponents,
        .rescue = &call->control->rescue,
        .out = call->u,
        .ldout = call->ldu,
    };
    fbn_status status;

    p->slices = s.slices;
    p->N = s.slices * s.rows_of_slice;
    p->x_exponents = p->w_exponents = NULL;
    status = multiply(c, p, FBN_F32, call->slices, s.ldfrom);
    return status == FBN_OK
               ? fbni_cuda_check(c->host, fbni_hopper_add_slices(&c->queue, &s), "add_slices")
               : status;
}

fbn_status fbni_hopper_call_parts(fbni_cuda_context *c, const fbni_hopper_parts_call *call)
{
    const fbni_hopper_tiles tiles =
        fbni_hopper_slice(c, call->kind, call->x.rows, call->I, call->w.rows, NULL);
    fbni_hopper_product p = {
        .kind = call->kind,
        .columns = tiles.columns,
        .band = tiles.band,
        .clusters = tiles.clusters,
        .N = call->x.rows,
        .O = call->w.rows,
        .I = call->I,
    };
    const fbn_status status = map_parts(c, call, &p);

    if (status != FBN_OK)
        return status;
    return tiles.slices > 1 ? multiply_slices(c, call, &p, &tiles)
                            : multiply(c, &p, FBN_F32, call->u, call->ldu);
}

static fbni_hopper_product product_of(const fbni_hopper_call *call, fbni_hopper_kind kind,
                                      const fbni_hopper_tiles *tiles)
{
    fbni_hopper_product p = {
        .kind = kind,
        .columns = tiles->columns,
        .band = tiles->band,
        .clusters = tiles->clusters,
        .N = call->N,
        .O = call->O,
        .I = call->I,
        .holders = tiles->holders,
        .partials = call->partials,
    };

    if (tiles->holders > 0 && call->partials) {
        p.merged = fbni_hopper_merged(tiles, call->O, call->partials);
        p.held = call->done;
        if (!call->packed)
            p.partials = NULL; /* nobody needs those of a tile */
    }
    return p;
}

/* u, packed u or y, as the call says. */
static fbn_status multiply_call(fbni_cuda_context *c, const fbni_hopper_call *call,
                                fbni_hopper_product *p)
{
    if (!call->finish)
        return multiply(c, p, FBN_F32, call->u, call->ldu);
    p->finish = *call->finish;
    if (call->packed) {
        p->stored = FBNI_HOPPER_PACKED;
        return multiply(c, p, p->finish.dtype, call->u, call->ldu);
    }
    p->stored = FBNI_HOPPER_Y;
    return multiply(c, p, p->finish.dtype, p->finish.y, p->finish.ldy);
}

/* ---- FBNI_HOPPER_DIRECT ---- */

/* x in one part, whose order fills groups of 32, and W, as it is or in such a part. */
static fbn_status map_direct(fbni_cuda_context *c, const fbni_hopper_split *split, const void *w,
                             int64_t ldw, fbni_hopper_product *p)
{
    const fbni_hopper_operand *x = &split->operand[0], *of = &split->operand[1];
    const int64_t ld = split->ld;
    CUresult refused =
        fbni_hopper_map_operand(c, &p->x, x->parts, ld, x->rows, ld, 1, p->columns / 2);

    if (!refused)
        refused = w ? fbni_hopper_map_entries(c, &p->w, w, split->I, of->rows, ldw, 1,
                                              FBNI_HOPPER_FEATURES / 2, sizeof(float))
                    : fbni_hopper_map_operand(c, &p->w, of->parts, ld, of->rows, ld, 1,
                                              FBNI_HOPPER_FEATURES);
    if (refused)
        return c->host->fail(FBN_ERR_DEVICE, "cuTensorMapEncodeTiled refused an operand");
    p->w_rescue = p->w;
    p->x_exponents = x->exponents;
    p->w_exponents = of->exponents;
    p->columns_of_w = of->largest;
    return FBN_OK;
}

/* What of W is split: the features from `first` on, which are multiplied beside the others. */
static fbni_hopper_split split_beside(const fbni_hopper_split *split, int64_t first)
{
    fbni_hopper_split beside = *split;
    fbni_hopper_operand *w = &beside.operand[1];

    w->rows -= first;
    if (w->rows <= 0) {
        *w = (fbni_hopper_operand){.largest = w->largest};
        return beside;
    }
    w->from += first * w->ldfrom;
    w->parts += first * split->ld;
    w->rescue += first * split->ld;
    w->exponents += first;
    return beside;
}

/* Where f16 does not do, by what the product has seen, all of it again: nothing, as a rule. */
static fbn_status rescue_direct(fbni_cuda_context *c, const fbni_hopper_call *call,
                                const fbni_hopper_split *split, const fbni_hopper_split *beside,
                                int columns)
{
    fbni_hopper_tiles tiles = fbni_hopper_tiles_of(c, FBNI_HOPPER_TF32, call->N, call->I, call->O);
    cudaError_t error = fbni_hopper_judge_split(&c->queue, beside);
    fbni_hopper_product p;
    fbn_status status;

    if (error == cudaSuccess)
        error = fbni_hopper_rescue_operands(&c->queue, split);
    status = fbni_cuda_check(c->host, error, "hopper_rescue");
    tiles.columns = columns; /* the moments are by tiles of the first product */
    p = product_of(call, FBNI_HOPPER_TF32, &tiles);
    p.rescues = 1;
    if (status == FBN_OK)
        status = map_split(c, split, FBNI_HOPPER_TF32, &p);
    return status == FBN_OK ? multiply_call(c, call, &p) : status;
}

static fbn_status call_direct(fbni_cuda_context *c, const fbni_hopper_call *call)
{
    fbni_hopper_tiles tiles = fbni_hopper_tiles_of(c, call->kind, call->N, call->I, call->O);
    const int64_t pairs = (call->O + FBNI_HOPPER_PAIR - 1) / FBNI_HOPPER_PAIR;
    const fbni_hopper_split split = split_of(call);
    fbni_hopper_operand sampled = split.operand[1];
    fbni_hopper_product p, other;
    fbni_hopper_split beside;
    const void *w;
    int64_t ldw;
    fbn_status status = fbni_hopper_readable_operand(c, &call->w, call->I, sizeof(float), &w, &ldw);
    cudaError_t error;

    if (status != FBN_OK)
        return status;
    if (w != call->w.p) /* the copy lies where parts would */
        tiles.beside = 0;
    p = other = product_of(call, call->kind, &tiles);
    p.pairs = (int)pairs - tiles.beside;
    if (tiles.beside > 0)
        sampled.rows = (int64_t)p.pairs * FBNI_HOPPER_PAIR;
    beside = split_beside(&split, sampled.rows);

    error = fbni_hopper_split_rows(&c->queue, &beside);
    if (error == cudaSuccess)
        error = fbni_hopper_sample(&c->queue, &sampled, call->I);
    status = fbni_cuda_check(c->host, error, "hopper_split");
    if (status == FBN_OK)
        status = map_direct(c, &split, w, ldw, &p);
    if (status == FBN_OK)
        status = multiply_call(c, call, &p);
    if (status == FBN_OK && tiles.beside > 0) {
        const int64_t idle =
            c->queue.processors / FBNI_HOPPER_CLUSTER - 2 * (int64_t)tiles.clusters;
        const int64_t all = tiles.beside * tiles.count;
        other.kind = FBNI_HOPPER_TF32;
        other.before = p.pairs;
        other.beside = 1;
        other.clusters = (int)(all < idle ? all : idle);
        status = map_direct(c, &split, NULL, 0, &other);
        if (status == FBN_OK)
            status = multiply_call(c, call, &other);
    }
    return status == FBN_OK ? rescue_direct(c, call, &split, &beside, tiles.columns) : status;
}

fbn_status fbni_hopper_call_product(fbni_cuda_context *c, const fbni_hopper_call *call)
{
    const fbni_hopper_tiles tiles = fbni_hopper_tiles_of(c, call->kind, call->N, call->I, call->O);
    fbni_hopper_product p = product_of(call, call->kind, &tiles);
    fbn_status status;

    if (call->kind == FBNI_HOPPER_DIRECT)
        return call_direct(c, call);
    status = fbni_hopper_is_float(call->kind) ? map_floats(c, call, &p) : map_halves(c, call, &p);
    if (status == FBN_OK && call->following.pairs > 0)
        status = set_follow(c, call, &p);
    return status == FBN_OK ? multiply_call(c, call, &p) : status;
}

fbn_status fbni_hopper_finish(fbni_cuda_context *c, const fbni_cuda_finish *finish,
                              const fbni_cuda_features *features)
{
    return fbni_cuda_check(c->host, fbni_hopper_normalise(&c->queue, finish, features),
                           "hopper_normalise");
}

fbn_status fbni_hopper_finish_holders(fbni_cuda_context *c, fbni_hopper_held_finish *f)
{
    if (fbni_hopper_map_stage(c, &f->from, &f->finish, f->finish.u, f->finish.ldu) ||
        fbni_hopper_map_stage(c, &f->to, &f->finish, f->finish.y, f->finish.ldy))
        return c->host->fail(FBN_ERR_DEVICE, "cuTensorMapEncodeTiled refused y");
    return fbni_cuda_check(c->host, fbni_hopper_finish_held(&c->queue, f), "hopper_held_finish");
}

#else

fbn_status fbni_hopper_finish_holders(fbni_cuda_context *c, fbni_hopper_held_finish *f)
{
    (void)f;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

void fbni_hopper_count_clusters(fbni_cuda_context *c)
{
    c->direct_clusters = 0;
}

bool fbni_hopper_can_stage(const fbni_cuda_finish *f, bool packed)
{
    (void)f, (void)packed;
    return false;
}

fbn_status fbni_hopper_finish(fbni_cuda_context *c, const fbni_cuda_finish *finish,
                              const fbni_cuda_features *features)
{
    (void)finish, (void)features;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

fbn_status fbni_hopper_call_parts(fbni_cuda_context *c, const fbni_hopper_parts_call *call)
{
    (void)call;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

fbn_status fbni_hopper_allow(fbni_cuda_context *c, fbni_hopper_kind kind)
{
    (void)kind;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

fbn_status fbni_hopper_call_product(fbni_cuda_context *c, const fbni_hopper_call *call)
{
    (void)call;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

#endif
