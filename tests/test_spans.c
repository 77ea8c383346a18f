/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The checks on memory that every call makes (src/dispatch/spans.c): overlap against counting bytes,
 * and the arithmetic of sizes at its limits.
 */
#include "spans.h"

#include <check.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uintptr_t begin, rows, pitch, width;
} region;

static fbn_status check_pair(region a, region b)
{
    static const fbni_backend no_backend = {.abi = FBNI_BACKEND_ABI};
    const fbn_context context = {.backend = &no_backend};
    const fbni_extent ea = {.bytes = (a.rows - 1) * a.pitch + a.width,
                            .pitch = a.rows > 1 ? a.pitch : 0,
                            .width = a.width};
    const fbni_extent eb = {.bytes = (b.rows - 1) * b.pitch + b.width,
                            .pitch = b.rows > 1 ? b.pitch : 0,
                            .width = b.width};
    fbni_spans spans = {0};

    fbni_spans_add(&spans, "a", (const void *)a.begin, ea, 1);
    fbni_spans_outputs_end(&spans);
    fbni_spans_add(&spans, "b", (const void *)b.begin, eb, 1);
    return fbni_spans_check(&spans, &context);
}

/* Counts: which of 256 bytes each region holds. */
static bool share_byte(region a, region b)
{
    unsigned char held[256] = {0};

    for (uintptr_t row = 0; row < a.rows; row++)
        memset(held + a.begin + row * a.pitch, 1, a.width);
    for (uintptr_t row = 0; row < b.rows; row++)
        for (uintptr_t i = 0; i < b.width; i++)
            if (held[b.begin + row * b.pitch + i])
                return true;
    return false;
}

/* Every pair of regions of up to 3 rows and pitch 5 within a few rows of each other: the exact test
 * answers as counting does. */
START_TEST(overlap_is_exact_for_one_pitch)
{
    enum { PITCH = 5, ROWS = 3, FROM = 40 };
    long overlaps = 0, disjoint = 0;

    for (uintptr_t rows_a = 1; rows_a <= ROWS; rows_a++)
        for (uintptr_t width_a = 1; width_a <= PITCH; width_a++)
            for (uintptr_t rows_b = 1; rows_b <= ROWS; rows_b++)
                for (uintptr_t width_b = 1; width_b <= PITCH; width_b++)
                    for (uintptr_t begin = FROM - 4 * PITCH; begin <= FROM + 4 * PITCH; begin++) {
                        const region a = {FROM, rows_a, PITCH, width_a};
                        const region b = {begin, rows_b, PITCH, width_b};
                        const bool expected = share_byte(a, b);
                        const fbn_status status = check_pair(a, b);

                        ck_assert_msg(status == (expected ? FBN_ERR_OVERLAP : FBN_OK),
                                      "%" PRIuPTR " rows of %" PRIuPTR " and, %" PRIdPTR
                                      " bytes further, %" PRIuPTR " rows of %" PRIuPTR
                                      ": status %d",
                                      rows_a, width_a, (intptr_t)(begin - FROM), rows_b, width_b,
                                      (int)status);
                        overlaps += expected;
                        disjoint += !expected;
                    }
    ck_assert_int_gt(overlaps, 1000);
    ck_assert_int_gt(disjoint, 1000);
}
END_TEST

/* Regions of different pitch: never a missed overlap; disjoint ranges are always disjoint. */
START_TEST(overlap_is_safe_for_two_pitches)
{
    enum { FROM = 80 };

    for (uintptr_t pitch_a = 1; pitch_a <= 7; pitch_a++)
        for (uintptr_t pitch_b = 1; pitch_b <= 7; pitch_b++)
            for (uintptr_t begin = FROM - 30; begin <= FROM + 30; begin++) {
                const region a = {FROM, 4, pitch_a, (pitch_a + 1) / 2};
                const region b = {begin, 3, pitch_b, (pitch_b + 1) / 2};
                const uintptr_t end_a = FROM + 3 * pitch_a + a.width;
                const uintptr_t end_b = begin + 2 * pitch_b + b.width;
                const fbn_status status = check_pair(a, b);

                if (share_byte(a, b))
                    ck_assert_int_eq(status, FBN_ERR_OVERLAP);
                if (end_a <= begin || end_b <= FROM)
                    ck_assert_int_eq(status, FBN_OK);
            }
}
END_TEST

/* Inputs may share memory with each other, and empty or absent arguments with anything. */
START_TEST(only_outputs_are_exclusive)
{
    static const fbni_backend no_backend = {.abi = FBNI_BACKEND_ABI};
    const fbn_context context = {.backend = &no_backend};
    fbni_spans spans = {0};

    fbni_spans_add_bytes(&spans, "y", (void *)(uintptr_t)1024, 64, 4);
    fbni_spans_add_bytes(&spans, "empty", (void *)(uintptr_t)1032, 0, 4);
    fbni_spans_add_bytes(&spans, "absent", NULL, 64, 4);
    fbni_spans_outputs_end(&spans);
    fbni_spans_add_bytes(&spans, "gamma", (void *)(uintptr_t)2048, 64, 4);
    fbni_spans_add_bytes(&spans, "beta", (void *)(uintptr_t)2048, 64, 4);
    ck_assert_int_eq(fbni_spans_check(&spans, &context), FBN_OK);

    fbni_spans_add_bytes(&spans, "bias", (void *)(uintptr_t)1084, 64, 4);
    ck_assert_int_eq(fbni_spans_check(&spans, &context), FBN_ERR_OVERLAP);
    ck_assert_str_eq(fbn_last_error(), "y (64 bytes at 0x400) overlaps bias (64 bytes at 0x43c)");

    spans.count--;
    fbni_spans_add_bytes(&spans, "bias", (void *)(uintptr_t)1090, 64, 4);
    ck_assert_int_eq(fbni_spans_check(&spans, &context), FBN_ERR_ALIGNMENT);
    ck_assert_str_eq(fbn_last_error(), "bias is 0x442, not aligned to 4 bytes");
}
END_TEST

START_TEST(ends_that_pass_the_last_address_do_not_wrap)
{
    static const fbni_backend no_backend = {.abi = FBNI_BACKEND_ABI};
    const fbn_context context = {.backend = &no_backend};
    fbni_spans spans = {0};

    fbni_spans_add_bytes(&spans, "y", (void *)(UINTPTR_MAX - 63), 4096, 64);
    ck_assert_msg(UINTPTR_MAX % 64 == 63, "the address above is aligned");
    fbni_spans_outputs_end(&spans);
    fbni_spans_add_bytes(&spans, "x", (void *)(UINTPTR_MAX - 31), 16, 4);
    ck_assert_int_eq(fbni_spans_check(&spans, &context), FBN_ERR_OVERLAP);
}
END_TEST

/* ---- sizes ---- */

static const fbni_matrix matrix = {"x", "ldx", "in_features"};

static const struct {
    int64_t rows, cols;
    size_t element;
    int64_t ld;
    fbn_status status;
    int64_t ld_after;
    uintptr_t bytes;
} sizes[] = {
    {8, 64, 4, 0, FBN_OK, 64, 2048},
    {8, 64, 4, 100, FBN_OK, 100, 7 * 400 + 256},
    {8, 64, 4, 63, FBN_ERR_LEADING_DIMENSION, 63, 0},
    {8, 64, 4, -64, FBN_ERR_LEADING_DIMENSION, -64, 0},
    {8, 64, 4, INT64_MIN, FBN_ERR_LEADING_DIMENSION, INT64_MIN, 0},
    /* the distance between rows means nothing where there is one row or none */
    {1, 64, 4, INT64_MAX, FBN_OK, 64, 256},
    {0, 64, 4, 70, FBN_OK, 64, 0},
    {1, 64, 4, 63, FBN_ERR_LEADING_DIMENSION, 63, 0},
    {2, 64, 4, INT64_MAX, FBN_ERR_OVERFLOW, INT64_MAX, 0},
    /* 2^63 - 1 bytes are the most */
    {1, INT64_MAX, 1, 0, FBN_OK, INT64_MAX, INT64_MAX},
    {1, INT64_MAX, 2, 0, FBN_ERR_OVERFLOW, INT64_MAX, 0},
    {2, INT64_C(1) << 62, 1, 0, FBN_ERR_OVERFLOW, INT64_C(1) << 62, 0},
    {2, (INT64_C(1) << 62) - 1, 1, 0, FBN_OK, (INT64_C(1) << 62) - 1, INT64_MAX - 1},
    {2, 1, 1, INT64_MAX - 1, FBN_OK, INT64_MAX - 1, INT64_MAX},
    {INT64_MAX, 1, 8, 0, FBN_ERR_OVERFLOW, 1, 0},
    {INT64_C(1) << 32, INT64_C(1) << 32, 4, 0, FBN_ERR_OVERFLOW, INT64_C(1) << 32, 0},
};

START_TEST(matrix_sizes)
{
    int64_t ld = sizes[_i].ld;
    fbni_extent extent = {0, 0, 0};
    const fbn_status status = fbni_matrix_extent(&matrix, sizes[_i].rows, sizes[_i].cols,
                                                 sizes[_i].element, &ld, &extent);

    ck_assert_int_eq(status, sizes[_i].status);
    if (status == FBN_OK || status == FBN_ERR_LEADING_DIMENSION)
        ck_assert_int_eq(ld, sizes[_i].ld_after);
    ck_assert_uint_eq(extent.bytes, sizes[_i].bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("spans");
    TCase *overlap = tcase_create("overlap");
    TCase *size = tcase_create("sizes");
    SRunner *runner;
    int failed;

    tcase_add_test(overlap, overlap_is_exact_for_one_pitch);
    tcase_add_test(overlap, overlap_is_safe_for_two_pitches);
    tcase_add_test(overlap, only_outputs_are_exclusive);
    tcase_add_test(overlap, ends_that_pass_the_last_address_do_not_wrap);
    tcase_add_loop_test(size, matrix_sizes, 0, (int)(sizeof sizes / sizeof sizes[0]));
    suite_add_tcase(suite, overlap);
    suite_add_tcase(suite, size);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
