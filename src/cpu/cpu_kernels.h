/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The contract of the CPU kernels: everything that is compiled once per instruction set.
 *
 * A kernel set is one instruction set and one real type (float or double): a const struct of
 * functions. The drivers (cpu_forward.c, cpu_backward.c, ...) are written once against it: they see
 * real arrays as void pointers and move in them by `real_size`. Half-precision storage is converted
 * at the edge by load[] and store[]; every other kernel works on reals.
 *
 * Common to all: matrices are row-major rows×cols with a leading dimension in elements; any pointer
 * may have the alignment of its element only; rows and cols >= 1 unless said; nothing is allocated;
 * no kernel starts threads; a kernel reads and writes only the rows×cols elements named (never the
 * padding up to the leading dimension). Infinities and NaN go through as IEEE 754 says. Results
 * depend on the arguments alone, not on alignment.
 */
#ifndef FBNI_CPU_KERNELS_H
#define FBNI_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FBNI_ACTIVATIONS = 6, FBNI_DTYPES = 4 }; /* counts of fbn_activation and fbn_dtype */

typedef struct fbni_cpu_kernels {
    const char *name; /* "cpu_f32_avx512": backend, real type, instruction set */
    size_t real_size; /* sizeof(float) or sizeof(double) */

    /* n contiguous elements, indexed by fbn_dtype; NULL where the set has no such storage type
     * (float sets: f32, bf16, f16; double sets: f64). Rounding is to nearest even; a NaN stays a
     * NaN. */
    void (*load[FBNI_DTYPES])(int64_t n, const void *src, void *real);
    void (*store[FBNI_DTYPES])(int64_t n, const void *real, void *dst);

    /* Column moments of the block u, for columns j:
     *   shift[j] = the median of the means of a few first, middle and last rows
     *   dev[j]   = mean over rows of u[i][j] - shift[j]
     *   m2[j]    = sum over rows of (u[i][j] - shift[j] - dev[j])^2
     * The mean is shift + dev: it is kept in two parts so that a column whose values are all equal
     * has dev and m2 exactly 0 and so that dev keeps full relative precision when |mean| >> std.
     * Computed in groups of a few rows (mean, then squares about it) merged by Chan's formula. m2
     * may leave the real type's range, upwards or downwards: the caller looks. */
    void (*moments)(int64_t rows, int64_t cols, const void *u, int64_t ldu, void *shift, void *dev,
                    void *m2);

    /* y[i][j] = act(a[j] * (u[i][j] - m[j]) + b[j]); subtract first, then one multiply-add.
     * y may be u with the same leading dimension (in place); any other overlap is excluded.
     * Indexed by fbn_activation. softmax and log_softmax run over the cols of a row and, when lse
     * is not NULL, write two reals for row i: lse[2 i] = top = max_j v[i][j] and
     * lse[2 i + 1] = log(sum_j exp(v[i][j] - top)); the others ignore lse. */
    void (*affine[FBNI_ACTIVATIONS])(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                     const void *a, const void *m, const void *b, void *y,
                                     int64_t ldy, void *lse);

    /* The activation's backward: g[i][j] = dL/dv[i][j] from dy, with v = a (u - m) + b recomputed.
     * relu: dy where v > 0, else 0 (dy where v is NaN); gelu: dy (Phi(v) + v phi(v));
     * silu: dy (s + v s (1 - s)), s the logistic function;
     * softmax: p (dy - sum_k dy[k] p[k]), log_softmax: dy - p sum_k dy[k], with
     * p = exp(v - top - log_sum) from the forward's lse; none: a copy.
     * lse is read by the last two only. g may be dy with the same leading dimension. */
    void (*act_backward[FBNI_ACTIVATIONS])(int64_t rows, int64_t cols, const void *u, int64_t ldu,
                                           const void *a, const void *m, const void *b,
                                           const void *lse, const void *dy, int64_t lddy, void *g,
                                           int64_t ldg);

    /* sum_g[j] = sum_i g[i][j],  sum_gu[j] = sum_i g[i][j] (u[i][j] - m[j]): overwritten, not added
     * to. Summed in groups of a few rows and the groups then added, so that the error grows with
     * the number of groups. */
    void (*gradient_sums)(int64_t rows, int64_t cols, const void *g, int64_t ldg, const void *u,
                          int64_t ldu, const void *m, void *sum_g, void *sum_gu);

    /* du[i][j] = a[j] (g[i][j] + (c[j] (u[i][j] - m[j]) + b[j])); du may be g, same leading
     * dimension. */
    void (*input_gradient)(int64_t rows, int64_t cols, const void *g, int64_t ldg, const void *u,
                           int64_t ldu, const void *m, const void *a, const void *c, const void *b,
                           void *du, int64_t lddu);
} fbni_cpu_kernels;

/* One row of the table of instruction sets, fastest first, generic last. */
typedef struct fbni_cpu_isa {
    const char *name;            /* "avx512", "avx2", "baseline" */
    const char *(*refuse)(void); /* NULL: this machine can run it; else why not, in words */
    const fbni_cpu_kernels *f32; /* also serves bf16 and f16 */
    const fbni_cpu_kernels *f64;
} fbni_cpu_isa;

extern const fbni_cpu_isa fbni_cpu_isas[];
extern const size_t fbni_cpu_isa_count;

#endif
