/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The operands of the Hopper product: their memory, their parts (hopper_split.cu), and copies where
 * the copy engine cannot read them.
 */
#include "cuda_hopper.h"

fbni_hopper_memory fbni_hopper_memory_of(fbni_hopper_kind kind, int64_t rows, int64_t I,
                                         bool separate)
{
    const size_t matrix = (size_t)rows * (size_t)fbni_hopper_stride(I) * 2;
    const size_t rescue = matrix * (size_t)fbni_hopper_parts(kind);
    fbni_hopper_memory m = {0};

    if (!fbni_hopper_is_float(kind)) {
        m.parts = fbni_place(&m.total, matrix);
        return m;
    }
    m.parts = fbni_place(&m.total, separate ? matrix * (kind == FBNI_HOPPER_FP32 ? 2 : 1) : rescue);
    m.rescue = separate ? fbni_place(&m.total, rescue) : m.parts;
    m.exponents = fbni_place(&m.total, (size_t)rows * sizeof(int));
    m.largest = fbni_place(&m.total, (size_t)fbni_hopper_stride(I) * sizeof(unsigned));
    return m;
}

#ifdef FBNI_HAVE_HOPPER

fbni_hopper_operand fbni_hopper_operand_of(fbni_hopper_kind kind, const fbni_hopper_source *s,
                                           int64_t I, bool separate)
{
    const fbni_hopper_memory m = fbni_hopper_memory_of(kind, s->rows, I, separate);
    const fbni_hopper_operand operand = {
        .rows = s->rows,
        .from = s->p,
        .ldfrom = s->ld,
        .parts = (uint16_t *)(void *)(s->memory + m.parts),
        .rescue = (uint16_t *)(void *)(s->memory + m.rescue),
        .exponents = (int *)(void *)(s->memory + m.exponents),
        .largest = (unsigned *)(void *)(s->memory + m.largest),
    };
    return operand;
}

fbn_status fbni_hopper_make_parts(fbni_cuda_context *c, const fbni_hopper_split *split)
{
    cudaError_t error = fbni_hopper_split_operands(&c->queue, split);

    if (error == cudaSuccess)
        error = fbni_hopper_rescue_operands(&c->queue, split);
    return fbni_cuda_check(c->host, error, "hopper_split");
}

/* An operand's copy, which the copy engine can read. */
static fbn_status copy_operand(fbni_cuda_context *c, const fbni_hopper_source *s, int64_t I,
                               size_t size)
{
    return fbni_cuda_check(c->host,
                           cudaMemcpy2DAsync(s->memory, (size_t)fbni_hopper_stride(I) * size, s->p,
                                             (size_t)s->ld * size, (size_t)I * size,
                                             (size_t)s->rows, cudaMemcpyDefault, c->queue.stream),
                           "an operand's copy");
}

fbn_status fbni_hopper_prepare_operand(fbni_cuda_context *c, fbni_hopper_kind kind, int64_t I,
                                       const fbni_hopper_source *s)
{
    fbni_hopper_split split = {.kind = kind, .I = I, .ld = fbni_hopper_stride(I)};

    if (!fbni_hopper_is_float(kind))
        return copy_operand(c, s, I, 2);
    split.operand[1] = fbni_hopper_operand_of(kind, s, I, true);
    return fbni_hopper_make_parts(c, &split);
}

fbn_status fbni_hopper_readable_operand(fbni_cuda_context *c, const fbni_hopper_source *s,
                                        int64_t I, size_t size, const void **p, int64_t *ld)
{
    *p = s->p;
    *ld = s->ld;
    if (s->p && fbni_hopper_is_mappable(s->p, s->ld, size))
        return FBN_OK;
    *p = s->memory;
    *ld = fbni_hopper_stride(I);
    return s->p ? copy_operand(c, s, I, size) : FBN_OK;
}

#else

fbn_status fbni_hopper_prepare_operand(fbni_cuda_context *c, fbni_hopper_kind kind, int64_t I,
                                       const fbni_hopper_source *s)
{
    (void)kind, (void)I, (void)s;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

#endif
