/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Shapes that the ordinary tables do not reach. More tiles than an H200 has pairs of
 * multiprocessors: there a block of the Hopper product does several one after the other, its
 * barriers, buffers and stores in flight from one to the next. And gradients of few features summed
 * over many: there cuBLAS divides a sum among blocks. Short sums elsewhere keep the reference
 * cheap. And for train_small_sm90 so many features that its clusters have fewer than eight blocks,
 * and so long a sum that a block loads into a part of its shared memory more than once.
 */
#include "cuda_driver.h"
#include "trial.h"

#include <string.h>

static case_table table, packed, saved;

typedef struct shape {
    int64_t n, i, o;
    fbn_activation activation;
} shape;

/* Tiles of 256 features (a pair) and of 128 to 256 rows; 66 pairs of blocks. Of the half types the
 * first two are so long that blocks hold W. */
static const shape shapes[] = {
    {20011, 3, 41, FBN_ACT_SILU},  /* y's rows are not multiples of 16 bytes: no copy engine */
    {3001, 2, 1304, FBN_ACT_RELU}, /* six pairs, in bands of four and of two */
    {700, 2, 5000, FBN_ACT_GELU},  /* 20 pairs, of which 12 blocks that follow take 16 */
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Clusters of 40 features: of two, two and four blocks on 132 multiprocessors. 26 and 27 stages of
 * 512 bytes of a row (half types: 13 and 14), where a block's shared memory holds 6; the second
 * shape's rows are no multiples of 16 bytes: no copy engine. The third has fewer stages than
 * blocks. */
static const shape small_shapes[] = {
    {5, 3208, 1210, FBN_ACT_SILU},
    {3, 3333, 1210, FBN_ACT_RELU},
    {200, 72, 610, FBN_ACT_GELU},
};
enum { SMALL_SHAPES = sizeof small_shapes / sizeof *small_shapes };

/* Tiles of 256 x 512 for clusters of four, 30 of them: more tiles than clusters, and more blocks of
 * the depth than a ring has slots; three tiles of rows, where a cluster has two; W's rows multiples
 * of 16 bytes, and not. */
static const shape direct_shapes[] = {
    {20011, 4, 41, FBN_ACT_SILU},
    {530, 453, 612, FBN_ACT_RELU},
    {600, 268, 4200, FBN_ACT_GELU},
};
enum { DIRECT_SHAPES = sizeof direct_shapes / sizeof *direct_shapes };

/* Blocks that hold W, all of the depth that they have place for and less, whole tiles and rests. */
static const shape held_shapes[] = {
    {8704, 512, 264, FBN_ACT_NONE},
    {8811, 136, 264, FBN_ACT_GELU},
    {8650, 72, 500, FBN_ACT_SILU},
    {4500, 72, 1032, FBN_ACT_RELU},
};
enum { HELD_SHAPES = sizeof held_shapes / sizeof *held_shapes };

/* Just too deep for that, of half types: five pairs, in bands of four and of one. */
static const shape band_shapes[] = {{530, 516, 1100, FBN_ACT_RELU}};
enum { BAND_SHAPES = sizeof band_shapes / sizeof *band_shapes };

static bool is_small(const char *row)
{
    return strcmp(row, "train_small_sm90") == 0;
}

static bool is_direct(const char *row)
{
    return strcmp(row, "product_f16x1_direct_sm90") == 0;
}

static bool does_pack(const char *row)
{
    return strcmp(row, "train_packed") == 0 || strcmp(row, "train_followed") == 0;
}

static bool can_hold(const char *row)
{
    return strcmp(row, "product_bf16_sm90") == 0 || strcmp(row, "product_f16_sm90") == 0;
}

static bool is_concerned(const char *row)
{
    return strstr(row, "_sm90") || strstr(row, "gradients") || strcmp(row, "train_epilogue") == 0 ||
           does_pack(row);
}

static void add_shapes(const kernel_row *row, bool training, const shape *of, int count)
{
    for (int dtype = 0; dtype < 4; dtype++) {
        bool serves = row->serves[dtype] && dtype != FBN_F64; /* which takes no part in either */
        for (int k = 0; serves && k < count; k++) {
            test_case c = case_default(training);
            c.kernel = row->name;
            c.dtype = (fbn_dtype)dtype;
            c.math = dtype == FBN_F32 && row->tf32 ? FBN_MATH_TF32 : FBN_MATH_FP32;
            c.n = of[k].n, c.i = of[k].i, c.o = of[k].o;
            c.activation = of[k].activation;
            c.bias = c.gamma = c.beta = true;
            c.batch_stats = training;
            table_add(&table, &c);
            c.math = FBN_MATH_TF32;
            if (is_small(row->name) && dtype == FBN_F32) /* which serves both */
                table_add(&table, &c);
        }
    }
}

static void add_row(const kernel_row *row, bool training)
{
    if (is_small(row->name))
        add_shapes(row, training, small_shapes, SMALL_SHAPES);
    else if (is_direct(row->name))
        add_shapes(row, training, direct_shapes, DIRECT_SHAPES);
    else
        add_shapes(row, training, shapes, SHAPES);
    if (can_hold(row->name))
        add_shapes(row, training, held_shapes, HELD_SHAPES);
    if (does_pack(row->name))
        add_shapes(row, training, band_shapes, BAND_SHAPES);
}

/* Where W's exponents come from a sample: entries that it has not seen, and that f16 does not hold
 * with them; rows of which it has seen none; columns that are small throughout; none of these. */
static void add_ranges(const kernel_row *row)
{
    static const input_kind kinds[] = {INPUT_NORMAL,     INPUT_OUTLIERS, INPUT_SPARSE,
                                       INPUT_RECIPROCAL, INPUT_ZEROS,    INPUT_ROWS,
                                       INPUT_TINY,       INPUT_INF_W,    INPUT_NAN_W};
    for (size_t k = 0; row->serves[FBN_F32] && k < 2 * sizeof kinds / sizeof *kinds; k++) {
        test_case c = case_default(k % 2);
        c.kernel = row->name;
        c.math = FBN_MATH_TF32;
        c.n = 300, c.i = 1100, c.o = 300;
        c.input = kinds[k / 2];
        c.eps = c.input == INPUT_SPARSE ? 1e-20 : c.eps; /* small rows of W count as much */
        c.bias = c.gamma = c.beta = true;
        c.batch_stats = k % 2;
        table_add(&table, &c);
    }
}

START_TEST(test_tiles)
{
    trial_run(&table.cases[_i], true);
}
END_TEST

/* The k-th case of half types in turns. */
static test_case half_case(const kernel_row *row, int k)
{
    test_case c = case_default(true);
    c.kernel = row->name;
    c.dtype = k % 2 ? FBN_F16 : FBN_BF16;
    c.gamma = c.beta = c.batch_stats = true;
    return c;
}

/* u is kept in 16 bits, by whole tiles and by the rest of one, in rows that the copy engine stores
 * and in others. */
static void add_packed(const kernel_row *row)
{
    for (int k = 0; k < 4 * INPUT_KINDS; k++) {
        test_case c = half_case(row, k);
        c.n = 599, c.i = 5;
        c.o = k / 2 % 2 ? 264 : 131;
        c.input = (input_kind)(k / 4);
        c.activation = (fbn_activation)(k / 2 % 4); /* none to silu */
        c.bias = true;
        table_add(&packed, &c);
        table_add(&saved, &c);
    }
}

/* The same by blocks that hold W, where the batch is long: on 66 pairs of multiprocessors. */
static void add_held(const kernel_row *row)
{
    for (int k = 0; k < 4 * INPUT_KINDS; k++) {
        test_case c = half_case(row, k);
        c.n = 8500, c.i = 3;
        c.o = k / 2 % 2 ? 264 : 259; /* y that the copy engine can reach, and not */
        c.input = (input_kind)(k / 4);
        c.activation = (fbn_activation)(k / 2 % 4);
        table_add(&packed, &c);
    }
}

/* dW's depth in slices, by whole blocks of it and not, and where a column of a long sum does not
 * fit in f16; and dx's. */
static void add_sliced(const kernel_row *row)
{
    static const shape of[] = {{1500, 70, 140, FBN_ACT_SILU}, {40, 24, 1500, FBN_ACT_NONE}};
    for (int k = 0; k < 2 * INPUT_KINDS; k++) {
        test_case c = case_default(true);
        c.kernel = row->name;
        c.math = row->tf32 ? FBN_MATH_TF32 : FBN_MATH_FP32;
        c.n = of[k % 2].n, c.i = of[k % 2].i, c.o = of[k % 2].o;
        c.activation = of[k % 2].activation;
        c.input = (input_kind)(k / 2);
        c.bias = c.gamma = c.beta = c.batch_stats = true;
        table_add(&saved, &c);
    }
}

START_TEST(test_packed)
{
    trial_run(&packed.cases[_i], false);
}
END_TEST

/* As the backward finds it in a saved buffer. */
START_TEST(test_saved)
{
    trial_run(&saved.cases[_i], true);
}
END_TEST

static void add(Suite *suite)
{
    size_t count;
    const kernel_row *rows = harness_rows(&count);
    for (size_t r = 0; r < count; r++)
        for (int training = 0; training < 2 && is_concerned(rows[r].name); training++)
            add_row(&rows[r], training);
    for (size_t r = 0; r < count; r++)
        if (is_direct(rows[r].name))
            add_ranges(&rows[r]);
    for (size_t r = 0; r < count; r++)
        if (does_pack(rows[r].name))
            add_packed(&rows[r]);
    for (size_t r = 0; r < count; r++)
        if (strcmp(rows[r].name, "train_packed") == 0)
            add_held(&rows[r]);
    for (size_t r = 0; r < count; r++)
        if (strncmp(rows[r].name, "gradients_f16x", 14) == 0)
            add_sliced(&rows[r]);
    harness_finish(&table);
    harness_finish(&packed);
    harness_finish(&saved);
    harness_add(suite, "tiles", test_tiles, table.count);
    harness_add(suite, "packed", test_packed, packed.count);
    harness_add(suite, "saved", test_saved, saved.count);
}

int main(void)
{
    int status = cuda_main("test_cuda_tiles", add);
    table_clear(&table);
    table_clear(&packed);
    table_clear(&saved);
    return status;
}
