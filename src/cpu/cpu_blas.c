/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Matrix products: CBLAS for float and double, and around it what CBLAS lacks: sizes and leading
 * dimensions beyond 32 bits, and the half types, which are converted a block at a time and
 * multiplied in float.
 *
 * OpenBLAS has OpenMP, pthread and serial builds. Inside a parallel region only the OpenMP build
 * may be called: it notices and stays serial there. The others are called from outside, with
 * whatever threads they start.
 */
#include "config.h"

#include <cblas.h>
#undef I /* OpenBLAS includes complex.h */
#include <stdio.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "cpu_internal.h"

enum {
    BLAS_INT_MAX = 1 << 30,  /* CBLAS takes int */
    BLAS_SERIAL_WORK = 65536 /* multiply-adds: OpenBLAS starts no threads for so few */
};

bool fbni_blas_nests(void)
{
#if defined(_OPENMP) && defined(HAVE_OPENBLAS_GET_PARALLEL)
    return openblas_get_parallel() == 2; /* OPENBLAS_OPENMP */
#else
    return false;
#endif
}

const char *fbni_blas_describe(char *text, size_t size)
{
#if defined(HAVE_OPENBLAS_GET_PARALLEL) && defined(HAVE_OPENBLAS_GET_CONFIG)
    static const char *const threading[] = {"serial", "pthreads", "OpenMP"};
    const int parallel = openblas_get_parallel();
    snprintf(text, size, "%s (%s)", openblas_get_config(),
             parallel >= 0 && parallel <= 2 ? threading[parallel] : "unknown threading");
#else
    snprintf(text, size, "CBLAS (unknown threading)");
#endif
    return text;
}

/* One CBLAS call: sizes and leading dimensions fit an int. Row-major. */
static void blas_call(bool single, int m, int n, int depth, const void *a, int lda, bool ta,
                      const void *b, int ldb, bool tb, bool accumulate, void *c, int ldc)
{
    const CBLAS_TRANSPOSE op_a = ta ? CblasTrans : CblasNoTrans;
    const CBLAS_TRANSPOSE op_b = tb ? CblasTrans : CblasNoTrans;

    if (m == 1 && !ta) { /* c^T = op(b)^T a^T: a matrix-vector product reads b once, unpacked */
        const CBLAS_TRANSPOSE op = tb ? CblasNoTrans : CblasTrans;
        const int rows = tb ? n : depth, columns = tb ? depth : n;
        if (!accumulate) /* beta = 0 would multiply what is there in some builds: NaN stays NaN */
            memset(c, 0, (size_t)n * (single ? sizeof(float) : sizeof(double)));
        if (single)
            cblas_sgemv(CblasRowMajor, op, rows, columns, 1, b, ldb, a, 1, 1, c, 1);
        else
            cblas_dgemv(CblasRowMajor, op, rows, columns, 1, b, ldb, a, 1, 1, c, 1);
    } else if (single) {
        cblas_sgemm(CblasRowMajor, op_a, op_b, m, n, depth, 1, a, lda, b, ldb, accumulate ? 1 : 0,
                    c, ldc);
    } else {
        cblas_dgemm(CblasRowMajor, op_a, op_b, m, n, depth, 1, a, lda, b, ldb, accumulate ? 1 : 0,
                    c, ldc);
    }
}

/* The longest run of one dimension: 1 where it strides over a leading dimension that CBLAS cannot
 * take. */
static int64_t run_of(bool strides, int64_t ld)
{
    return strides && ld > BLAS_INT_MAX ? 1 : BLAS_INT_MAX;
}

/* A leading dimension for CBLAS: a single row may have any. */
static int ld_of(int64_t ld, int64_t columns)
{
    return (int)(ld > BLAS_INT_MAX ? columns : ld);
}

/* A real product of any size, in runs that CBLAS can take: almost always one. */
static void gemm_real(const fbni_gemm *g)
{
    const bool single = g->kernels->real_size == sizeof(float);
    const size_t size = g->kernels->real_size;
    const bool ta = g->a.transposed, tb = g->b.transposed;
    const int64_t run_m = fbni_min(run_of(!ta, g->a.ld), run_of(true, g->ldc));
    const int64_t run_n = run_of(tb, g->b.ld);
    const int64_t run_k = fbni_min(run_of(ta, g->a.ld), run_of(!tb, g->b.ld));

    for (int64_t i = 0; i < g->m; i += run_m)
        for (int64_t j = 0; j < g->n; j += run_n)
            for (int64_t k = 0; k < g->depth; k += run_k) {
                const int64_t m = fbni_min(run_m, g->m - i), n = fbni_min(run_n, g->n - j);
                const int64_t depth = fbni_min(run_k, g->depth - k);
                blas_call(single, (int)m, (int)n, (int)depth,
                          fbni_at_const(g->a.p, ta ? k : i, g->a.ld, ta ? i : k, size),
                          ld_of(g->a.ld, ta ? m : depth), ta,
                          fbni_at_const(g->b.p, tb ? j : k, g->b.ld, tb ? k : j, size),
                          ld_of(g->b.ld, tb ? depth : n), tb, g->accumulate || k > 0,
                          fbni_at(g->c, i, g->ldc, j, size), ld_of(g->ldc, n));
            }
}

/* Rows row..row+rows, columns column..column+columns of a stored matrix, as floats: in place, or
 * converted. */
static fbni_operand operand_block(const fbni_cpu_kernels *kernels, fbni_operand o, int64_t row,
                                  int64_t rows, int64_t column, int64_t columns, float *scratch)
{
    const void *from = fbni_at_const(o.p, row, o.ld, column, fbni_dtype_size(o.dtype));
    fbni_operand block = {from, o.ld, o.dtype, o.transposed};
    if (!fbni_is_half(o.dtype))
        return block;
    if (o.ld == columns)
        kernels->load[o.dtype](rows * columns, from, scratch);
    else
        for (int64_t i = 0; i < rows; i++)
            kernels->load[o.dtype](columns, fbni_at_const(from, i, o.ld, 0, sizeof(uint16_t)),
                                   scratch + i * columns);
    block.p = scratch;
    block.ld = columns;
    block.dtype = FBN_F32;
    return block;
}

/* The product of half-type operands into floats, by blocks that are converted while the cache holds
 * them. Blocks are as deep as the scratch allows for 256 rows of each converted operand, then as
 * long as it allows for that depth; an operand of floats sets no bound. */
static void gemm_half(const fbni_gemm *g)
{
    float *scratch_a = g->scratch, *scratch_b = scratch_a + FBNI_GEMM_A;
    const bool ta = g->a.transposed, tb = g->b.transposed;
    const bool convert_a = fbni_is_half(g->a.dtype), convert_b = fbni_is_half(g->b.dtype);
    int64_t block_k = g->depth;
    if (convert_a)
        block_k = fbni_min(block_k, FBNI_GEMM_A / fbni_min(g->m, FBNI_GEMM_M));
    if (convert_b)
        block_k = fbni_min(block_k, FBNI_GEMM_B / fbni_min(g->n, FBNI_GEMM_N));
    const int64_t block_m = convert_a ? FBNI_GEMM_A / block_k : g->m;
    const int64_t block_n = convert_b ? FBNI_GEMM_B / block_k : g->n;
    fbni_gemm part = *g;

    for (int64_t i = 0; i < g->m; i += block_m)
        for (int64_t k = 0; k < g->depth; k += block_k) {
            part.m = fbni_min(block_m, g->m - i);
            part.depth = fbni_min(block_k, g->depth - k);
            part.accumulate = g->accumulate || k > 0;
            part.a = operand_block(g->kernels, g->a, ta ? k : i, ta ? part.depth : part.m,
                                   ta ? i : k, ta ? part.m : part.depth, scratch_a);
            for (int64_t j = 0; j < g->n; j += block_n) {
                part.n = fbni_min(block_n, g->n - j);
                part.b = operand_block(g->kernels, g->b, tb ? j : k, tb ? part.n : part.depth,
                                       tb ? k : j, tb ? part.depth : part.n, scratch_b);
                part.c = fbni_at(g->c, i, g->ldc, j, sizeof(float));
                gemm_real(&part);
            }
        }
}

static void gemm_to_float(const fbni_gemm *g)
{
    if (fbni_is_half(g->a.dtype) || fbni_is_half(g->b.dtype))
        gemm_half(g);
    else
        gemm_real(g);
}

/* The product rounded once to a half type: by tiles of floats. */
static void gemm_to_half(const fbni_gemm *g)
{
    float *tile = (float *)g->scratch + FBNI_GEMM_A + FBNI_GEMM_B;
    float old[FBNI_GEMM_N];
    fbni_gemm part = *g;

    part.accumulate = false;
    part.c = tile;
    part.ldc = FBNI_GEMM_N;
    for (int64_t i = 0; i < g->m; i += FBNI_GEMM_M)
        for (int64_t j = 0; j < g->n; j += FBNI_GEMM_N) {
            part.m = fbni_min(FBNI_GEMM_M, g->m - i);
            part.n = fbni_min(FBNI_GEMM_N, g->n - j);
            part.a.p = fbni_at_const(g->a.p, g->a.transposed ? 0 : i, g->a.ld,
                                     g->a.transposed ? i : 0, fbni_dtype_size(g->a.dtype));
            part.b.p = fbni_at_const(g->b.p, g->b.transposed ? j : 0, g->b.ld,
                                     g->b.transposed ? 0 : j, fbni_dtype_size(g->b.dtype));
            gemm_to_float(&part);
            for (int64_t row = 0; row < part.m; row++) {
                float *from = tile + row * FBNI_GEMM_N;
                void *to = fbni_at(g->c, i + row, g->ldc, j, sizeof(uint16_t));
                if (g->accumulate) {
                    g->kernels->load[g->c_dtype](part.n, to, old);
                    for (int64_t q = 0; q < part.n; q++)
                        from[q] += old[q];
                }
                g->kernels->store[g->c_dtype](part.n, from, to);
            }
        }
}

static void gemm_any(const fbni_gemm *g)
{
    if (fbni_is_half(g->c_dtype))
        gemm_to_half(g);
    else
        gemm_to_float(g);
}

void fbni_cpu_gemm(const fbni_gemm *g)
{
#ifdef _OPENMP
    /* A product outside any region runs on OpenMP's count of threads, which may be more than the
     * context's. The count is set in a region of one, whose own it is: the caller's stays. */
    if (g->context->blas_nests && !omp_in_parallel() &&
        omp_get_max_threads() > g->context->threads &&
        (double)g->m * (double)g->n * (double)g->depth > BLAS_SERIAL_WORK) {
#pragma omp parallel num_threads(1)
        {
            omp_set_num_threads(g->context->threads);
            gemm_any(g);
        }
        return;
    }
#endif
    gemm_any(g);
}
