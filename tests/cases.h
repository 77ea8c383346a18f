/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The tables that drive the suite: what one test case is, how it is named, and how tables of them
 * are made (each option alone, every pair of options, or the full product).
 */
#ifndef TESTS_CASES_H
#define TESTS_CASES_H

#include <fusedbn.h>
#include <stdbool.h>

/* What the numbers are like. */
typedef enum input_kind {
    INPUT_NORMAL,
    INPUT_OFFSET,       /* x has mean / standard deviation = 1e4 (half types: u has) */
    INPUT_OFFSET_EXACT, /* the same, and u = x W^T is exact: only the moments can lose */
    INPUT_CONSTANT,   /* every row of x is the same, in small integers: u's columns are constant */
    INPUT_TINY,       /* x near 1e-30 (f16: near its smallest) */
    INPUT_HUGE,       /* x so large that var nearly overflows; inference: near 1e30 */
    INPUT_RECIPROCAL, /* columns of x scaled by powers of ten, those of W by their reciprocals */
    INPUT_ROWS,      /* rows of W scaled by powers of ten: columns of u, and of du by reciprocals */
    INPUT_ZEROS,     /* zeros in s, gamma, t, W and x */
    INPUT_LATE,      /* the first rows of x are zeros, most others are small beside the rest */
    INPUT_OUTLIERS,  /* one entry of W in 500 is 2^10 times as large */
    INPUT_GRADIENTS, /* columns of dy scaled by powers of two */
    INPUT_SPARSE,    /* every fourth row of W has a few small entries alone */
    INPUT_INF_X,     /* one infinity in x */
    INPUT_NAN_X,
    INPUT_INF_W,
    INPUT_NAN_W,
    INPUT_KINDS
} input_kind;

typedef enum momentum_kind {
    MOMENTUM_DEFAULT,
    MOMENTUM_ZERO,
    MOMENTUM_ONE,
    MOMENTUM_ODD, /* 0.37 */
    MOMENTUM_CUMULATIVE,
    MOMENTUM_KINDS
} momentum_kind;

typedef enum tracked_kind {
    TRACKED_ABSENT,
    TRACKED_ZERO,
    TRACKED_41,
    TRACKED_NEAR_MAX, /* INT64_MAX - 1 */
    TRACKED_MAX,
    TRACKED_NEGATIVE,
    TRACKED_MIN,
    TRACKED_KINDS
} tracked_kind;

/* Which gradients are asked for: all, all but one, or one alone. */
enum { GRADS_ALL = 0, GRADS_WITHOUT = 1, GRADS_ONLY = 8, GRADS_KINDS = 15 };

typedef struct test_case {
    fbn_dtype dtype;
    fbn_math math;
    int64_t n, i, o;
    fbn_scale pre_scale, post_scale;
    fbn_activation activation;
    bool bias, gamma, beta;
    bool training;
    double eps;
    input_kind input;
    bool running; /* training: there are running statistics */
    momentum_kind momentum;
    tracked_kind tracked;
    bool biased_var, skip_nonfinite, batch_stats;
    bool saved;
    bool padded;     /* leading dimensions above the row's length, pointers aligned to an element */
    uint64_t flags;  /* backward: FBN_ACCUMULATE | FBN_OVERWRITE_DX */
    bool weight_f32; /* FBN_WEIGHT_GRADIENT_F32 */
    int grads;       /* GRADS_... */
    int threads;
    const char *kernel; /* NULL: whichever the library takes */
} test_case;

/* A case with every option off or at its default, in f32, 17x5x33. */
test_case case_default(bool training);

/* The case in words; the same words always mean the same case. Returns buffer. */
char *case_name(const test_case *c, char *buffer, size_t size);
enum { CASE_NAME_SIZE = 400 };

/* The name without the kernel row: every row gets the same numbers. */
char *case_numbers_name(const test_case *c, char *buffer, size_t size);

int64_t case_batches(const test_case *c); /* num_batches_tracked before the call */
uint64_t case_layer_flags(const test_case *c);
fbn_layer_desc case_desc(const test_case *c);

/* One thing that can be varied, with its number of settings. */
typedef struct case_factor {
    const char *name;
    int levels;
    void (*set)(test_case *c, int level);
} case_factor;

typedef struct case_table {
    test_case *cases;
    size_t count, room;
} case_table;

void table_add(case_table *table, const test_case *c);
void table_clear(case_table *table);
/* Brings the cases that differ in the kernel row alone together, so that they can share what is
 * expected of them. */
void table_group(case_table *table);

/* Starting from base: each factor alone through its levels, all others at level 0. */
void table_add_single(case_table *table, const test_case *base, const case_factor *factors,
                      int count);

/* Rows in which every pair of levels of every two factors occurs together at least once. Greedy
 * (Cohen et al. 1997, "The AETG system"), and the same at every run. */
void table_add_pairs(case_table *table, const test_case *base, const case_factor *factors,
                     int count);

/* Every combination. */
void table_add_product(case_table *table, const test_case *base, const case_factor *factors,
                       int count);

/* The factors themselves (factors.c). The first FEW_SHAPES levels of factor_shape are the cheap
 * ones. */
enum { FEW_SHAPES = 10 };
extern const case_factor factor_shape, factor_activation, factor_pre_scale, factor_post_scale,
    factor_bias, factor_gamma, factor_beta, factor_eps, factor_input, factor_running,
    factor_momentum, factor_tracked, factor_biased_var, factor_skip_nonfinite, factor_batch_stats,
    factor_saved, factor_padded, factor_accumulate, factor_weight_f32, factor_grads, factor_threads;

#endif
