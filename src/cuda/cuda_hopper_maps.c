/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The tensor maps of the Hopper kernels: what the copy engine is told of a matrix.
 */
#include "cuda_hopper.h"

/* A matrix of entries of 2 bytes or, floats, of 4, or several behind one another, in boxes of width ×
 * height (× 1). */
typedef struct boxed {
    const void *p;
    int64_t columns, rows, ld;
    int parts; /* 0: the map has two dimensions */
    size_t size;
    int width, height;
    bool swizzled; /* by 128 bytes, which width is then */
    bool promoted; /* loads bring 256 bytes to the L2 cache */
} boxed;

static CUresult encode(const fbni_cuda_context *c, CUtensorMap *map, const boxed *b)
{
    const cuuint64_t pitch = (cuuint64_t)b->ld * b->size;
    const cuuint64_t dimensions[3] = {(cuuint64_t)b->columns, (cuuint64_t)b->rows,
                                      (cuuint64_t)b->parts};
    const cuuint64_t strides[2] = {pitch, pitch * (cuuint64_t)b->rows};
    const cuuint32_t box[3] = {(cuuint32_t)b->width, (cuuint32_t)b->height, 1};
    const cuuint32_t steps[3] = {1, 1, 1};

    return c->encode_map(
        map, b->size == 4 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_UINT16,
        b->parts > 0 ? 3 : 2, (void *)(uintptr_t)b->p, dimensions, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE,
        b->swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
        b->promoted ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_NONE,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

/* [parts][rows][I] of an operand, in boxes of 128 bytes × box_rows × 1. */
CUresult fbni_hopper_map_entries(const fbni_cuda_context *c, CUtensorMap *map, const void *p,
                                 int64_t I, int64_t rows, int64_t ld, int parts, int box_rows,
                                 size_t size)
{
    const boxed b = {p, I, rows, ld, parts, size, 128 / (int)size, box_rows, true, true};

    return encode(c, map, &b);
}

CUresult fbni_hopper_map_operand(const fbni_cuda_context *c, CUtensorMap *map, const void *p,
                                 int64_t I, int64_t rows, int64_t ld, int parts, int box_rows)
{
    return fbni_hopper_map_entries(c, map, p, I, rows, ld, parts, box_rows, 2);
}

/* [N, O] of u or y, in boxes of 128 bytes × fbni_hopper_piece. */
CUresult fbni_hopper_map_result(const fbni_cuda_context *c, fbn_dtype dtype, fbni_hopper_product *p,
                                void *out)
{
    const size_t size = fbni_dtype_size(dtype);
    const boxed b = {
        out,  p->O, p->N, p->ldout, 0, size, 128 / (int)size, fbni_hopper_piece(p, size),
        true, false};

    return encode(c, &p->result, &b);
}

/* [N, O] of what is stored or of y, in boxes of a stage (hopper_stages.cuh): whole lines, which are
 * faster as they are (bench/results/h200-hopper.txt, part 14). */
CUresult fbni_hopper_map_stage(const fbni_cuda_context *c, CUtensorMap *map,
                               const fbni_cuda_finish *f, const void *matrix, int64_t ld)
{
    const size_t size = fbni_dtype_size(f->dtype);
    const int rows = FBNI_HOPPER_STAGE / (FBNI_HOPPER_PAIR * (int)size);
    const boxed b = {matrix, f->O, f->N, ld, 0, size, FBNI_HOPPER_PAIR, rows, false, false};

    return encode(c, map, &b);
}

bool fbni_hopper_is_mappable(const void *p, int64_t ld, size_t size)
{
    return (uintptr_t)p % 16 == 0 && (size_t)ld * size % 16 == 0;
}
