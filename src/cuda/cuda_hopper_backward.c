/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The products of the backward pass on the Hopper product, out[n, o] = sum over k of
 * x[n, k] w[o, k]:
 *
 *                    x            w            depth
 *     dx = du W      du [N,O]     W^T [I,O]    O
 *     dW = du^T x    du^T [O,N]   x^T [I,N]    N
 *
 * du lies divided by the powers of two of alpha, by columns: du = alpha (...), and alpha is about
 * 1 / |row of W|, so that columns of du and rows of W that differ in size would be each other's
 * reciprocals. dx takes the powers on W's side; dW gives them back with the exponents of its rows.
 */
#include <math.h>

#include "cuda_hopper.h"

const char *fbni_hopper_refuse_backward_sizes(int64_t N, int64_t I, int64_t O)
{
    const int64_t most = INT32_MAX - 8192; /* the copy engine's coordinates have 32 bits */

    if (O > FBNI_HOPPER_DEPTH_MOST)
        return "out_features is more than 65536";
    return N > most || I > most ? "max_batch or in_features is 2^31 or more" : NULL;
}

/* Our own: both products; what goes through memory, in bytes of an entry (W and x: maxima and
 * transposes; du: both splits), at the rate that these kernels reach; and the starts of about twenty
 * kernels, such that it is even with cuBLAS where it was measured to be (bench/results/
 * h200-hopper.txt, part 16). cuBLAS: TFLOP/s of the two products, measured on an H200 at
 * 16384 x 4096 -> 4096 and 1024 x 8192 -> 8192; dx in tiles of 128 rows. */
const char *fbni_hopper_refuse_backward_speed(const fbni_cuda_context *context,
                                              fbni_hopper_kind kind, int64_t N, int64_t I,
                                              int64_t O)
{
    const double starts = 50, bandwidth = 3.0e6, blas_starts = 12;
    const double blas_rate = kind == FBNI_HOPPER_FP32 ? 52 : 279;
    const double n = (double)N, i = (double)I, o = (double)O;
    const double bytes = 12 * (n * i + i * o) + 16 * n * o;
    const double blas = blas_starts + 2e-6 * (128 * ceil(n / 128) + n) * i * o / blas_rate;
    double dx = 0, dw = 0;

    (void)fbni_hopper_slice(context, kind, N, O, I, &dx);
    (void)fbni_hopper_slice(context, kind, O, N, I, &dw);
    return dx + dw + starts + bytes / bandwidth > blas ? "cuBLAS is faster at this size" : NULL;
}

/* ---- memory ---- */

/* One operand: its parts, exponents, largest and maxima. */
typedef struct layout {
    size_t parts, exponents, largest, maxima, total;
} layout;

static layout layout_of(int parts, int64_t rows, int64_t depth)
{
    layout l = {0};

    l.parts =
        fbni_place(&l.total, (size_t)rows * (size_t)fbni_hopper_stride(depth) * 2 * (size_t)parts);
    l.exponents = fbni_place(&l.total, (size_t)rows * sizeof(int));
    l.largest = fbni_place(&l.total, (size_t)fbni_hopper_stride(depth) * sizeof(unsigned));
    l.maxima = fbni_place(&l.total, (size_t)rows * sizeof(unsigned));
    return l;
}

fbni_hopper_backward_memory fbni_hopper_backward_memory_of(fbni_hopper_kind kind, int64_t N,
                                                           int64_t I, int64_t O)
{
    const int parts = fbni_hopper_parts(kind);
    const fbni_hopper_backward_memory m = {
        .du = fbni_larger(layout_of(parts, N, O).total, layout_of(parts, O, N).total),
        .other = fbni_larger(layout_of(parts, I, O).total, layout_of(parts, I, N).total),
    };
    return m;
}

#ifdef FBNI_HAVE_HOPPER

/* ---- passes over packed u ---- */

fbn_status fbni_hopper_packed_sums(fbni_cuda_context *c, const fbni_cuda_gradient *gradient,
                                   void *partials)
{
    return fbni_cuda_check(c->host, fbni_hopper_gradient_sums(&c->queue, gradient, partials),
                           "packed_sums");
}

fbn_status fbni_hopper_packed_du(fbni_cuda_context *c, const fbni_cuda_gradient *gradient,
                                 const fbni_cuda_input_gradient *input)
{
    return fbni_cuda_check(c->host, fbni_hopper_input_gradient(&c->queue, gradient, input),
                           "packed_du");
}

/* ---- operands ---- */

static fbni_hopper_operand operand_at(char *memory, const layout *l, int64_t rows)
{
    const fbni_hopper_operand operand = {
        .rows = rows,
        .parts = (uint16_t *)(void *)(memory + l->parts),
        .rescue = (uint16_t *)(void *)(memory + l->parts),
        .exponents = (int *)(void *)(memory + l->exponents),
        .largest = (unsigned *)(void *)(memory + l->largest),
    };
    return operand;
}

/* What transposes a matrix [depth, operand->rows] into an operand. */
static fbni_hopper_transpose transpose_of(const fbni_hopper_gradients *g, int64_t depth,
                                          const float *from, int64_t ldfrom,
                                          const fbni_hopper_operand *to, unsigned *maxima)
{
    const fbni_hopper_transpose t = {
        .kind = g->kind,
        .rows = depth,
        .columns = to->rows,
        .ldfrom = ldfrom,
        .ld = fbni_hopper_stride(depth),
        .from = from,
        .maxima = maxima,
        .parts = to->parts,
        .rescue = to->rescue,
        .exponents = to->exponents,
        .largest = to->largest,
        .control = g->control,
    };
    return t;
}

static fbn_status multiply(fbni_cuda_context *c, const fbni_hopper_gradients *g, int64_t depth,
                           const fbni_hopper_operand *x, const fbni_hopper_operand *w, float *out,
                           int64_t ldout)
{
    const fbni_hopper_parts_call call = {
        .kind = g->kind,
        .I = depth,
        .x = *x,
        .w = *w,
        .control = g->control,
        .slices = g->slices,
        .u = out,
        .ldu = ldout,
    };
    return fbni_hopper_call_parts(c, &call);
}

/* W^T or x^T, which comes first. */
static cudaError_t transpose_other(fbni_cuda_context *c, const fbni_hopper_gradients *g,
                                   const fbni_hopper_transpose *t, const layout *l)
{
    cudaError_t error =
        cudaMemsetAsync(g->other + l->maxima, 0, l->total - l->maxima, c->queue.stream);

    if (error == cudaSuccess)
        error = fbni_hopper_column_maxima(&c->queue, t);
    if (error == cudaSuccess)
        error = fbni_hopper_transpose_operand(&c->queue, t);
    return error;
}

fbn_status fbni_hopper_weight_gradient(fbni_cuda_context *c, const fbni_hopper_gradients *g,
                                       const float *x, int64_t ldx, float *out, int64_t ldout)
{
    const layout of_du = layout_of(fbni_hopper_parts(g->kind), g->O, g->N);
    const layout of_x = layout_of(fbni_hopper_parts(g->kind), g->I, g->N);
    const fbni_hopper_operand du = operand_at(g->parts, &of_du, g->O);
    const fbni_hopper_operand xt = operand_at(g->other, &of_x, g->I);
    fbni_hopper_transpose first =
        transpose_of(g, g->N, x, ldx, &xt, (unsigned *)(void *)(g->other + of_x.maxima));
    fbni_hopper_transpose second = transpose_of(g, g->N, g->du, g->O, &du, g->maxima);
    const fbni_hopper_judgement judgement = {
        .kind = g->kind,
        .ld = fbni_hopper_stride(g->N),
        .of = {{.largest = du.largest}, {.largest = xt.largest}},
        .control = g->control,
    };
    cudaError_t error = transpose_other(c, g, &first, &of_x);

    second.column_scales = g->alpha;
    if (error == cudaSuccess)
        error = fbni_hopper_transpose_operand(&c->queue, &second);
    if (error == cudaSuccess)
        error = fbni_hopper_judge(&c->queue, &judgement);
    if (error == cudaSuccess)
        error = fbni_hopper_transpose_rescue(&c->queue, &first);
    if (error == cudaSuccess)
        error = fbni_hopper_transpose_rescue(&c->queue, &second);
    if (error != cudaSuccess)
        return fbni_cuda_check(c->host, error, "hopper_transpose");
    return multiply(c, g, g->N, &du, &xt, out, ldout);
}

fbn_status fbni_hopper_data_gradient(fbni_cuda_context *c, const fbni_hopper_gradients *g,
                                     const float *weight, int64_t ldw, float *out, int64_t ldout)
{
    const layout of_du = layout_of(fbni_hopper_parts(g->kind), g->N, g->O);
    const layout of_w = layout_of(fbni_hopper_parts(g->kind), g->I, g->O);
    const fbni_hopper_operand wt = operand_at(g->other, &of_w, g->I);
    fbni_hopper_transpose first =
        transpose_of(g, g->O, weight, ldw, &wt, (unsigned *)(void *)(g->other + of_w.maxima));
    fbni_hopper_split split = {
        .kind = g->kind,
        .I = g->O,
        .ld = fbni_hopper_stride(g->O),
        .operand = {operand_at(g->parts, &of_du, g->N), {.largest = wt.largest}},
        .control = g->control,
    };
    cudaError_t error;

    first.row_scales = g->alpha;
    split.operand[0].from = g->du;
    split.operand[0].ldfrom = g->O;
    error = transpose_other(c, g, &first, &of_w);
    if (error == cudaSuccess)
        error = fbni_hopper_split_operands(&c->queue, &split);
    if (error == cudaSuccess)
        error = fbni_hopper_transpose_rescue(&c->queue, &first);
    if (error == cudaSuccess)
        error = fbni_hopper_rescue_operands(&c->queue, &split);
    if (error != cudaSuccess)
        return fbni_cuda_check(c->host, error, "hopper_split");
    return multiply(c, g, g->O, &split.operand[0], &wt, out, ldout);
}

#else

fbn_status fbni_hopper_packed_sums(fbni_cuda_context *c, const fbni_cuda_gradient *gradient,
                                   void *partials)
{
    (void)gradient, (void)partials;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

fbn_status fbni_hopper_packed_du(fbni_cuda_context *c, const fbni_cuda_gradient *gradient,
                                 const fbni_cuda_input_gradient *input)
{
    (void)gradient, (void)input;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

fbn_status fbni_hopper_weight_gradient(fbni_cuda_context *c, const fbni_hopper_gradients *g,
                                       const float *x, int64_t ldx, float *out, int64_t ldout)
{
    (void)g, (void)x, (void)ldx, (void)out, (void)ldout;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

fbn_status fbni_hopper_data_gradient(fbni_cuda_context *c, const fbni_hopper_gradients *g,
                                     const float *weight, int64_t ldw, float *out, int64_t ldout)
{
    (void)g, (void)weight, (void)ldw, (void)out, (void)ldout;
    return c->host->fail(FBN_ERR_UNSUPPORTED, "%s", fbni_hopper_refuse_machine(c));
}

#endif
