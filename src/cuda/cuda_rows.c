/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The tables of kernel rows: for each operation the ways to do it, fastest first, generic last,
 * each of which can refuse, with its reason. A new kernel is a new file and a new row.
 */
#include <stdio.h>
#include <string.h>

#include "cuda_hopper.h"

typedef const char *refuse_machine(const fbni_cuda_context *context);
typedef const char *refuse_layer(const fbni_cuda_context *context, const fbn_layer_desc *desc);

fbni_hopper_kind fbni_cuda_hopper_kind(const fbn_layer_desc *desc)
{
    switch (desc->dtype) {
    case FBN_F16:
        return FBNI_HOPPER_F16;
    case FBN_BF16:
        return FBNI_HOPPER_BF16;
    case FBN_F32:
        return desc->math == FBN_MATH_TF32 ? FBNI_HOPPER_TF32 : FBNI_HOPPER_FP32;
    default:
        return FBNI_HOPPER_KINDS;
    }
}

bool fbni_cuda_is_hopper(fbni_cuda_row_id row, fbni_hopper_kind *kind)
{
    static const fbni_hopper_kind of[] = {
        [FBNI_CUDA_PRODUCT_HOPPER_F16] = FBNI_HOPPER_F16,
        [FBNI_CUDA_PRODUCT_HOPPER_BF16] = FBNI_HOPPER_BF16,
        [FBNI_CUDA_PRODUCT_HOPPER_TF32] = FBNI_HOPPER_TF32,
        [FBNI_CUDA_PRODUCT_HOPPER_DIRECT] = FBNI_HOPPER_DIRECT,
        [FBNI_CUDA_PRODUCT_HOPPER_FP32] = FBNI_HOPPER_FP32,
    };

    if ((size_t)row >= sizeof of / sizeof *of) /* the first rows */
        return false;
    *kind = of[row];
    return true;
}

bool fbni_cuda_is_hopper_gradients(fbni_cuda_row_id row, fbni_hopper_kind *kind)
{
    const int of = (int)row - FBNI_CUDA_GRADIENTS_HOPPER_TF32;

    if (of < 0 || of > FBNI_HOPPER_FP32 - FBNI_HOPPER_TF32)
        return false;
    *kind = (fbni_hopper_kind)(FBNI_HOPPER_TF32 + of);
    return true;
}

bool fbni_cuda_is_epilogue(fbni_cuda_row_id row)
{
    return row == FBNI_CUDA_TRAIN_FOLLOWED || row == FBNI_CUDA_TRAIN_PACKED ||
           row == FBNI_CUDA_TRAIN_EPILOGUE;
}

/* ---- machines ---- */

static const char *any_machine(const fbni_cuda_context *context)
{
    (void)context;
    return NULL;
}

/* ---- layers ---- */

static const char *const other_data[FBNI_HOPPER_KINDS] = {
    [FBNI_HOPPER_F16] = "the data is not f16",
    [FBNI_HOPPER_BF16] = "the data is not bf16",
    [FBNI_HOPPER_TF32] = "the data is not f32 in FBN_MATH_TF32",
    [FBNI_HOPPER_FP32] = "the data is not f32 in FBN_MATH_FP32",
};

static const char *hopper_layer(const fbn_layer_desc *desc, fbni_hopper_kind kind)
{
    return fbni_cuda_hopper_kind(desc) != kind
               ? other_data[kind]
               : fbni_hopper_refuse_sizes(desc->max_batch, desc->in_features, desc->out_features);
}

static const char *hopper_gradients(const fbn_layer_desc *desc, fbni_hopper_kind kind)
{
    return fbni_cuda_hopper_kind(desc) != kind
               ? other_data[kind]
               : fbni_hopper_refuse_backward_sizes(desc->max_batch, desc->in_features,
                                                   desc->out_features);
}

static const char *hopper_f16(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return hopper_layer(desc, FBNI_HOPPER_F16);
}

static const char *hopper_bf16(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return hopper_layer(desc, FBNI_HOPPER_BF16);
}

static const char *hopper_tf32(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return hopper_layer(desc, FBNI_HOPPER_TF32);
}

static const char *hopper_fp32(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return hopper_layer(desc, FBNI_HOPPER_FP32);
}

static const char *hopper_gradients_tf32(const fbni_cuda_context *context,
                                         const fbn_layer_desc *desc)
{
    (void)context;
    return hopper_gradients(desc, FBNI_HOPPER_TF32);
}

static const char *hopper_gradients_fp32(const fbni_cuda_context *context,
                                         const fbn_layer_desc *desc)
{
    (void)context;
    return hopper_gradients(desc, FBNI_HOPPER_FP32);
}

/* A Hopper product that could be had, but would be slower than another. */
static const char *hopper_slower(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    return fbni_hopper_refuse_speed(context, fbni_cuda_hopper_kind(desc), desc->max_batch,
                                    desc->in_features, desc->out_features);
}

static const char *direct_slower(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    return fbni_hopper_refuse_speed(context, FBNI_HOPPER_DIRECT, desc->max_batch, desc->in_features,
                                    desc->out_features);
}

static const char *hopper_gradients_slower(const fbni_cuda_context *context,
                                           const fbn_layer_desc *desc)
{
    return fbni_hopper_refuse_backward_speed(context, fbni_cuda_hopper_kind(desc), desc->max_batch,
                                             desc->in_features, desc->out_features);
}

static const char *any_layer(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    (void)desc;
    return NULL;
}

static const char *native_product(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    return desc->dtype == FBN_BF16 && context->capability < 80
               ? "cuBLAS multiplies bf16 from sm_80 on"
               : NULL;
}

static const char *half_only(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return fbni_is_half(desc->dtype) ? NULL : "the data is of no half type";
}

static const char *small_slower(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    return fbni_small_refuse_speed(context, desc, desc->max_batch, true);
}

static const char *elementwise_only(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return fbni_is_rowwise(desc->activation) ? "the activation is over rows" : NULL;
}

static const char *packed_layer(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    const char *refusal = half_only(context, desc);
    return refusal ? refusal : elementwise_only(context, desc);
}

static const char *not_followed(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                                int64_t batch)
{
    const fbni_cuda_following f = fbni_hopper_following_of(
        context, fbni_cuda_hopper_kind(desc), batch, desc->in_features, desc->out_features, false);
    return f.pairs > 0 ? NULL : "the product leaves no multiprocessors idle for long enough";
}

static const char *followed_slower(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    return not_followed(context, desc, desc->max_batch);
}

/* Of the rows that take the product's moments, the one for a batch. */
static fbni_cuda_row_id epilogue_of(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                                    fbni_hopper_kind kind, int64_t batch)
{
    if (kind != FBNI_HOPPER_DIRECT && !elementwise_only(context, desc) &&
        !not_followed(context, desc, batch))
        return FBNI_CUDA_TRAIN_FOLLOWED;
    return packed_layer(context, desc) ? FBNI_CUDA_TRAIN_EPILOGUE : FBNI_CUDA_TRAIN_PACKED;
}

static const char *slab_rows(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return desc->max_batch <= FBNI_CUDA_SLAB_ROWS ? NULL : "max_batch is more than 1024";
}

static const char *slab_layer(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return desc->max_batch <= FBNI_CUDA_BACKWARD_MOST ? NULL : "max_batch is more than 1024";
}

/* Measured on an H200: beyond, the machine's bandwidth counts, and not the launches. */
static bool is_small_backward(const fbn_layer_desc *desc, int64_t batch)
{
    return batch <= FBNI_CUDA_BACKWARD_MOST && batch * desc->out_features <= 1 << 18;
}

static const char *slab_slower(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return is_small_backward(desc, desc->max_batch) ? NULL : "passes are faster at this size";
}

static const char *short_rows(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    return desc->out_features <= fbni_cuda_softmax_registers_most(desc->dtype == FBN_F64) ||
                   !fbni_is_rowwise(desc->activation)
               ? NULL
               : "a row does not fit in a block's registers";
}

/* ---- the tables ---- */

static const struct row {
    const char *name;
    fbni_cuda_operation operation;
    refuse_machine *machine;
    refuse_layer *layer;
    refuse_layer *slower; /* or NULL: why not, unless it is asked for by name */
} rows[FBNI_CUDA_ROWS] = {
    [FBNI_CUDA_PRODUCT_HOPPER_F16] = {"product_f16_sm90", FBNI_CUDA_PRODUCT,
                                      fbni_hopper_refuse_machine, hopper_f16, hopper_slower},
    [FBNI_CUDA_PRODUCT_HOPPER_BF16] = {"product_bf16_sm90", FBNI_CUDA_PRODUCT,
                                       fbni_hopper_refuse_machine, hopper_bf16, hopper_slower},
    [FBNI_CUDA_PRODUCT_HOPPER_TF32] = {"product_f16x1_sm90", FBNI_CUDA_PRODUCT,
                                       fbni_hopper_refuse_machine, hopper_tf32, hopper_slower},
    [FBNI_CUDA_PRODUCT_HOPPER_DIRECT] = {"product_f16x1_direct_sm90", FBNI_CUDA_PRODUCT,
                                         fbni_hopper_refuse_direct, hopper_tf32, direct_slower},
    [FBNI_CUDA_PRODUCT_HOPPER_FP32] = {"product_f16x3_sm90", FBNI_CUDA_PRODUCT,
                                       fbni_hopper_refuse_machine, hopper_fp32, hopper_slower},
    [FBNI_CUDA_PRODUCT_CUBLAS] = {"product_cublas", FBNI_CUDA_PRODUCT, any_machine, native_product,
                                  NULL},
    [FBNI_CUDA_PRODUCT_CUBLAS_F32] = {"product_cublas_f32", FBNI_CUDA_PRODUCT, any_machine,
                                      half_only, NULL},
    [FBNI_CUDA_TRAIN_SMALL] = {"train_small_sm90", FBNI_CUDA_TRAIN, fbni_hopper_refuse_machine,
                               fbni_small_refuse_layer, small_slower},
    [FBNI_CUDA_TRAIN_FOLLOWED] = {"train_followed", FBNI_CUDA_TRAIN, fbni_hopper_refuse_machine,
                                  elementwise_only, followed_slower},
    [FBNI_CUDA_TRAIN_PACKED] = {"train_packed", FBNI_CUDA_TRAIN, fbni_hopper_refuse_machine,
                                packed_layer, NULL},
    [FBNI_CUDA_TRAIN_EPILOGUE] = {"train_epilogue", FBNI_CUDA_TRAIN, fbni_hopper_refuse_machine,
                                  any_layer, NULL},
    [FBNI_CUDA_TRAIN_SLAB] = {"train_slab_1024", FBNI_CUDA_TRAIN, any_machine, slab_rows, NULL},
    [FBNI_CUDA_TRAIN_PASSES] = {"train_passes", FBNI_CUDA_TRAIN, any_machine, any_layer, NULL},
    [FBNI_CUDA_SOFTMAX_REGISTERS] = {"softmax_registers", FBNI_CUDA_SOFTMAX, any_machine,
                                     short_rows, NULL},
    [FBNI_CUDA_SOFTMAX_ONLINE] = {"softmax_online", FBNI_CUDA_SOFTMAX, any_machine, any_layer,
                                  NULL},
    [FBNI_CUDA_BACKWARD_SLAB] = {"backward_slab_1024", FBNI_CUDA_BACKWARD, any_machine, slab_layer,
                                 slab_slower},
    [FBNI_CUDA_BACKWARD_PASSES] = {"backward_passes", FBNI_CUDA_BACKWARD, any_machine, any_layer,
                                   NULL},
    [FBNI_CUDA_GRADIENTS_HOPPER_TF32] = {"gradients_f16x1_sm90", FBNI_CUDA_GRADIENTS,
                                         fbni_hopper_refuse_machine, hopper_gradients_tf32,
                                         hopper_gradients_slower},
    [FBNI_CUDA_GRADIENTS_HOPPER_FP32] = {"gradients_f16x3_sm90", FBNI_CUDA_GRADIENTS,
                                         fbni_hopper_refuse_machine, hopper_gradients_fp32,
                                         hopper_gradients_slower},
    [FBNI_CUDA_GRADIENTS_CUBLAS] = {"gradients_cublas", FBNI_CUDA_GRADIENTS, any_machine,
                                    native_product, NULL},
    [FBNI_CUDA_GRADIENTS_F32] = {"gradients_f32", FBNI_CUDA_GRADIENTS, any_machine, half_only,
                                 NULL},
};

const char *fbni_cuda_row_name(fbni_cuda_row_id row)
{
    return rows[row].name;
}

const char *fbni_cuda_row_refusal(const fbni_cuda_context *context, fbni_cuda_row_id row)
{
    return rows[row].machine(context);
}

static const char *refusal_of(const fbni_cuda_context *context, const fbn_layer_desc *desc, int row)
{
    const char *refusal = rows[row].machine(context);
    return refusal ? refusal : rows[row].layer(context, desc);
}

/* The row with this name, or FBNI_CUDA_ROWS. */
static int find(const char *name)
{
    int row = 0;
    while (row < FBNI_CUDA_ROWS && strcmp(rows[row].name, name) != 0)
        row++;
    return row;
}

/* Why a row is not the layer's, the rows of the operations before being chosen; or NULL. */
static const char *refusal_now(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                               const fbni_cuda_choice *choice, int row)
{
    fbni_hopper_kind kind = FBNI_HOPPER_KINDS;
    const char *refusal = refusal_of(context, desc, row);

    if (!refusal && fbni_cuda_is_epilogue((fbni_cuda_row_id)row) &&
        !fbni_cuda_is_hopper(choice->row[FBNI_CUDA_PRODUCT], &kind))
        refusal = "the product takes no moments";
    if (!refusal && row == FBNI_CUDA_TRAIN_FOLLOWED && kind == FBNI_HOPPER_DIRECT)
        refusal = "nothing can follow behind the product";
    if (!refusal && row == FBNI_CUDA_TRAIN_SMALL && choice->named[FBNI_CUDA_PRODUCT])
        refusal = "a product is asked for by name";
    return refusal;
}

/* The first row of an operation that does not refuse. Every table that a layer needs ends in one
 * that takes it. any_speed: also where it is slower. */
static int first_of(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                    const fbni_cuda_choice *choice, fbni_cuda_operation operation, bool any_speed,
                    bool quiet)
{
    for (int row = 0; row < FBNI_CUDA_ROWS; row++) {
        const char *refusal;
        if (rows[row].operation != operation)
            continue;
        refusal = refusal_now(context, desc, choice, row);
        if (!refusal && rows[row].slower && !any_speed)
            refusal = rows[row].slower(context, desc);
        if (!refusal)
            return row;
        if (!quiet)
            context->host->log("%s: refused: %s", rows[row].name, refusal);
    }
    return FBNI_CUDA_SOFTMAX_ONLINE;
}

fbn_status fbni_cuda_choose(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                            bool quiet, fbni_cuda_choice *choice)
{
    int forced = FBNI_CUDA_ROWS;

    if (desc->kernel) {
        forced = find(desc->kernel);
        if (forced == FBNI_CUDA_ROWS)
            return context->host->fail(FBN_ERR_UNSUPPORTED, "there is no CUDA kernel named %.100s",
                                       desc->kernel);
    }
    for (int op = 0; op < FBNI_CUDA_OPERATIONS; op++) {
        const bool needed = op != FBNI_CUDA_SOFTMAX || fbni_is_rowwise(desc->activation);
        choice->named[op] = forced < FBNI_CUDA_ROWS && (int)rows[forced].operation == op;
        if (choice->named[op]) {
            const char *refusal = refusal_now(context, desc, choice, forced);
            if (refusal)
                return context->host->fail(FBN_ERR_UNSUPPORTED, "kernel %s: %s", rows[forced].name,
                                           refusal);
            choice->row[op] = (fbni_cuda_row_id)forced;
        } else {
            choice->row[op] = (fbni_cuda_row_id)first_of(
                context, desc, choice, (fbni_cuda_operation)op,
                fbni_cuda_is_epilogue((fbni_cuda_row_id)forced), quiet || !needed);
        }
    }
    return FBN_OK;
}

fbni_cuda_row_id fbni_cuda_choose_product(const fbni_cuda_context *context,
                                          const fbn_layer_desc *desc,
                                          const fbni_cuda_choice *choice, int64_t batch)
{
    static const fbni_cuda_row_id single[] = {FBNI_CUDA_PRODUCT_HOPPER_TF32,
                                              FBNI_CUDA_PRODUCT_HOPPER_DIRECT};
    const fbni_cuda_row_id row = choice->row[FBNI_CUDA_PRODUCT];
    fbni_hopper_kind kind;

    if (!fbni_cuda_is_hopper(row, &kind) || choice->named[FBNI_CUDA_PRODUCT] ||
        (choice->named[FBNI_CUDA_TRAIN] && fbni_cuda_is_epilogue(choice->row[FBNI_CUDA_TRAIN])))
        return row;
    if (!fbni_hopper_refuse_speed(context, kind, batch, desc->in_features, desc->out_features))
        return row;
    for (int i = 0; fbni_hopper_is_single(kind) && i < 2; i++)
        if (fbni_cuda_is_hopper(single[i], &kind) && !refusal_of(context, desc, single[i]) &&
            !fbni_hopper_refuse_speed(context, kind, batch, desc->in_features, desc->out_features))
            return single[i];
    return FBNI_CUDA_PRODUCT_CUBLAS;
}

fbni_cuda_row_id fbni_cuda_choose_train(const fbni_cuda_context *context,
                                        const fbn_layer_desc *desc, const fbni_cuda_choice *choice,
                                        fbni_cuda_row_id product, int64_t batch)
{
    const fbni_cuda_row_id row = choice->row[FBNI_CUDA_TRAIN];
    fbni_hopper_kind kind;

    if (choice->named[FBNI_CUDA_TRAIN])
        return row;
    if (row == FBNI_CUDA_TRAIN_SMALL && !fbni_small_refuse_speed(context, desc, batch, true))
        return row;
    if (fbni_cuda_is_hopper(product, &kind))
        return epilogue_of(context, desc, kind, batch);
    return batch <= FBNI_CUDA_SLAB_ROWS ? FBNI_CUDA_TRAIN_SLAB : FBNI_CUDA_TRAIN_PASSES;
}

bool fbni_cuda_infers_small(const fbni_cuda_context *context, const fbni_cuda_choice *choice,
                            const fbni_forward_product *f)
{
    const size_t size = fbni_dtype_size(f->desc->dtype);

    if (choice->row[FBNI_CUDA_TRAIN] != FBNI_CUDA_TRAIN_SMALL || f->N > FBNI_SMALL_ROWS)
        return false;
    return choice->named[FBNI_CUDA_TRAIN] ||
           (fbni_hopper_is_mappable(f->x, f->ldx, size) &&
            fbni_hopper_is_mappable(f->weight, f->ldw, size) &&
            !fbni_small_refuse_speed(context, f->desc, f->N, false));
}

fbni_cuda_row_id fbni_cuda_choose_backward(const fbn_layer_desc *desc,
                                           const fbni_cuda_choice *choice, int64_t batch)
{
    const fbni_cuda_row_id train = choice->row[FBNI_CUDA_TRAIN];

    if (choice->named[FBNI_CUDA_BACKWARD])
        return choice->row[FBNI_CUDA_BACKWARD];
    if (choice->named[FBNI_CUDA_TRAIN] &&
        (train == FBNI_CUDA_TRAIN_PACKED || train == FBNI_CUDA_TRAIN_FOLLOWED))
        return FBNI_CUDA_BACKWARD_PASSES; /* which take packed u */
    return is_small_backward(desc, batch) ? FBNI_CUDA_BACKWARD_SLAB : FBNI_CUDA_BACKWARD_PASSES;
}
