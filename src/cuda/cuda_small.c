/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The driver of hopper_small.cu, a layer in one launch: when it is worth it, and its call.
 */
#include <math.h>

#include "cuda_hopper.h"

const char *fbni_small_refuse_layer(const fbni_cuda_context *context, const fbn_layer_desc *desc)
{
    (void)context;
    if (fbni_cuda_hopper_kind(desc) == FBNI_HOPPER_KINDS)
        return "the data is f64";
    if (desc->max_batch > FBNI_SMALL_ROWS)
        return "max_batch is more than 256";
    return fbni_hopper_refuse_sizes(desc->max_batch, desc->in_features, desc->out_features);
}

/* What was measured on an H200, in microseconds (bench/results/h200-hopper.txt, parts 8 and 16): of
 * this kernel, and of cuBLAS's product with train_slab, or normalise, behind it; errors of a fifth,
 * in both. (cuBLAS takes half of that for up to 16 rows of no depth.) */
static const struct speed {
    double start, rows, stage, finish; /* of a stage, of a feature for every warp */
    double blas_start, blas_depth, blas_work;
    double infer_start, infer_depth; /* of the first 1024 */
} speeds[FBNI_HOPPER_KINDS] = {
    [FBNI_HOPPER_F16] = {3.0, 0.50, 0.37, 0.72, 7.8, 1.2, 0.29, 3.7, 2.6},
    [FBNI_HOPPER_BF16] = {3.0, 0.50, 0.37, 0.72, 7.8, 1.2, 0.29, 3.7, 2.6},
    [FBNI_HOPPER_TF32] = {3.2, 0.36, 0.44, 0.77, 9.3, 1.3, 0.95, 4.7, 2.6},
    [FBNI_HOPPER_FP32] = {3.3, 0.45, 0.84, 0.75, 10.2, 1.7, 6.0, 6.1, 4.7},
};
static const double finish_infer = 0.3; /* of finish, what inference has of it */

static double ceil_of(double a, double b)
{
    return ceil(a / b);
}

/* Where all blocks run at once. */
static double own_time(const fbn_layer_desc *desc, int cluster, int64_t N, bool training)
{
    const struct speed *s = &speeds[fbni_cuda_hopper_kind(desc)];
    const double depth = (double)desc->in_features * (double)fbni_dtype_size(desc->dtype);
    const double stages = ceil_of(ceil_of(depth, fbni_small_stage(N)), cluster);
    const double features = ceil_of(FBNI_SMALL_FEATURES, cluster), rows = fbni_small_rows(N);

    return s->start + s->rows * rows / 128 + s->stage * stages * (rows > 128 ? 2 : 1) +
           s->finish * (training ? 1 : finish_infer) * ceil_of(features, 8);
}

static double blas_time(const fbn_layer_desc *desc, int64_t N, bool training)
{
    const struct speed *s = &speeds[fbni_cuda_hopper_kind(desc)];
    const double depth = (double)desc->in_features / 1024, O = (double)desc->out_features;
    const double first = depth < 1 ? depth : 1;
    const double work = s->blas_work * 1e-8 * (double)N * (double)desc->in_features * O;

    if (training)
        return s->blas_start + s->blas_depth * depth + work;
    return s->infer_start + s->infer_depth * first + s->blas_depth * (depth - first) + work;
}

/* What else there is: of training that is more than a product, which is left to cuBLAS's. */
static double other_time(const fbni_cuda_context *context, const fbn_layer_desc *desc, int64_t N,
                         bool training)
{
    const double blas = blas_time(desc, N, training);

    if (training)
        return blas;
    return fmin(blas, fbni_hopper_whole_time(context, fbni_cuda_hopper_kind(desc), N,
                                             desc->in_features, desc->out_features));
}

const char *fbni_small_refuse_speed(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                                    int64_t batch, bool training)
{
    const int cluster = fbni_small_cluster(context->queue.processors, desc->out_features);
    const double clusters = ceil_of((double)desc->out_features, FBNI_SMALL_FEATURES);

    if (batch == 1 && !training)
        return "cuBLAS is faster for one row";
    if (desc->in_features * (int64_t)fbni_dtype_size(desc->dtype) % 16 != 0)
        return "the copy engine needs rows of a multiple of 16 bytes";
    if (clusters * cluster > context->queue.processors)
        return "its blocks do not find place at once";
    return own_time(desc, cluster, batch, training) >
                   0.95 * other_time(context, desc, batch, training)
               ? "several launches are faster at this size"
               : NULL;
}

#ifdef FBNI_HAVE_HOPPER

/* [rows][I], in boxes of 128 bytes × box_rows. */
static bool map_operand(const fbni_cuda_context *c, CUtensorMap *map, const void *p, int64_t I,
                        int64_t rows, int64_t ld, size_t size, int box_rows)
{
    const cuuint64_t dimensions[3] = {(cuuint64_t)I, (cuuint64_t)rows, 1};
    const cuuint64_t strides[2] = {(cuuint64_t)ld * size, (cuuint64_t)(ld * rows) * size};
    const cuuint32_t box[3] = {(cuuint32_t)(128 / size), (cuuint32_t)box_rows, 1};
    const cuuint32_t steps[3] = {1, 1, 1};
    const CUtensorMapDataType type =
        size == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_UINT32;

    if (!fbni_hopper_is_mappable(p, ld, size))
        return false;
    return c->encode_map(map, type, 3, (void *)(uintptr_t)p, dimensions, strides, box, steps,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

fbn_status fbni_small_allow(fbni_cuda_context *c, const fbn_layer_desc *desc)
{
    fbn_status status = fbni_cuda_enter(c);

    if (status != FBN_OK)
        return status;
    status = fbni_cuda_check(c->host, fbni_hopper_allow_small(fbni_cuda_hopper_kind(desc)),
                             "the shared memory of small_layer");
    fbni_cuda_leave(c);
    return status;
}

fbn_status fbni_small_forward(fbni_cuda_context *context, const fbni_forward_product *f,
                              fbni_small_statistics statistics, const fbni_cuda_features *features,
                              const fbni_cuda_finish *finish, bool saves_u)
{
    const size_t size = fbni_dtype_size(f->desc->dtype);
    fbni_small_call call = {
        .kind = fbni_cuda_hopper_kind(f->desc),
        .statistics = statistics,
        .N = f->N,
        .O = f->desc->out_features,
        .I = f->desc->in_features,
        .x = f->x,
        .weight = f->weight,
        .ldx = f->ldx,
        .ldw = f->ldw,
        .saves_u = saves_u,
    };

    call.has_maps = map_operand(context, &call.x_map, call.x, call.I, call.N, call.ldx, size,
                                fbni_small_rows(call.N)) &&
                    map_operand(context, &call.w_map, call.weight, call.I, call.O, call.ldw, size,
                                FBNI_SMALL_FEATURES);
    return fbni_cuda_check(
        context->host, fbni_hopper_small(&context->queue, &call, features, finish), "small_layer");
}

#else

fbn_status fbni_small_allow(fbni_cuda_context *c, const fbn_layer_desc *desc)
{
    (void)desc;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

fbn_status fbni_small_forward(fbni_cuda_context *c, const fbni_forward_product *f,
                              fbni_small_statistics statistics, const fbni_cuda_features *features,
                              const fbni_cuda_finish *finish, bool saves_u)
{
    (void)f, (void)statistics, (void)features, (void)finish, (void)saves_u;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

#endif
