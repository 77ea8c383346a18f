/* SPDX-License-Identifier: BSD-3-Clause
 * Number conversion against what IEEE 754 says: exhaustively for the 16-bit types, around every
 * midpoint between two of their numbers, and against the compiler's own casts.
 */
#include "convert.h"
#include "test_files.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define DRAWS 200000

/* SplitMix64 (Steele, Lea & Flood, 2014), seeded alike in every run. */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The value of a 16-bit float with mantissa_bits stored, from the definition. */
static double half_value(unsigned bits, int mantissa_bits)
{
    int exponent_mask = 0x7fff >> mantissa_bits;
    int exponent = (int)(bits >> mantissa_bits) & exponent_mask;
    int mantissa = (int)(bits & ((1u << mantissa_bits) - 1));
    int bias = exponent_mask / 2;
    double sign = bits & 0x8000 ? -1 : 1;

    if (exponent == exponent_mask) {
        return mantissa == 0 ? sign * INFINITY : NAN;
    }
    return exponent == 0
               ? sign * ldexp(mantissa, 1 - bias - mantissa_bits)
               : sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static const struct {
    enum dtype dtype;
    int mantissa_bits;
    unsigned infinity;
} halves[] = {{DT_F16, 10, 0x7c00}, {DT_BF16, 7, 0x7f80}};

START_TEST(every_half_is_read_exactly)
{
    for (unsigned bits = 0; bits <= 0xffff; bits++) {
        uint16_t half = (uint16_t)bits, back;
        double expected = half_value(bits, halves[_i].mantissa_bits), as_double;
        float as_float;

        convert_elements(&half, halves[_i].dtype, &as_double, DT_F64, 1);
        convert_elements(&half, halves[_i].dtype, &as_float, DT_F32, 1);
        convert_elements(&as_double, DT_F64, &back, halves[_i].dtype, 1);
        if (isnan(expected)) {
            ck_assert(isnan(as_double) && isnan(as_float));
            /* quiet, and otherwise the same NaN */
            ck_assert_uint_eq(back, bits | 1u << (halves[_i].mantissa_bits - 1));
        } else {
            ck_assert(as_double == expected && signbit(as_double) == signbit(expected));
            ck_assert((double)as_float == expected);
            ck_assert_uint_eq(back, bits);
        }
    }
}
END_TEST

static void check_rounding(double value, enum dtype dtype, unsigned expected)
{
    uint16_t half, negative;
    double minus = -value;

    convert_elements(&value, DT_F64, &half, dtype, 1);
    convert_elements(&minus, DT_F64, &negative, dtype, 1);
    ck_assert_msg(half == expected && negative == (expected | 0x8000),
                  "%a becomes %04x and %04x, not %04x", value, half, negative, expected);
}

START_TEST(halves_are_rounded_to_nearest_even)
{
    enum dtype dtype = halves[_i].dtype;
    int bits = halves[_i].mantissa_bits;

    for (unsigned k = 0; k < halves[_i].infinity; k++) {
        /* Beyond the largest number lies, for rounding, the power of two that would follow. */
        double low = half_value(k, bits);
        double high = k + 1 < halves[_i].infinity ? half_value(k + 1, bits)
                                                  : 2 * low - half_value(k - 1, bits);
        double middle = low + (high - low) / 2;

        check_rounding(middle, dtype, k % 2 == 0 ? k : k + 1);
        check_rounding(nextafter(middle, 0), dtype, k);
        check_rounding(nextafter(middle, INFINITY), dtype, k + 1);
    }
    check_rounding(1e300, dtype, halves[_i].infinity);
    check_rounding(INFINITY, dtype, halves[_i].infinity);
    check_rounding(5e-324, dtype, 0);
}
END_TEST

static double double_of(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

START_TEST(floats_are_rounded_as_the_compiler_does)
{
    uint64_t state = 1;

    for (int i = 0; i < DRAWS; i++) {
        double in = double_of(draw(&state)), wide;
        float out, expected;

        if (i % 2 == 0) { /* within float's range, and around it */
            in = ldexp(1 + (double)(draw(&state) >> 12) / 0x1p52, (int)(draw(&state) % 300) - 160);
        }
        expected = (float)in;
        convert_elements(&in, DT_F64, &out, DT_F32, 1);
        ck_assert_msg(out == expected || (isnan(in) && isnan(out)), "%a becomes %a", in, out);
        convert_elements(&out, DT_F32, &wide, DT_F64, 1);
        ck_assert(wide == (double)out || isnan(out));
    }
}
END_TEST

#define CHECK_INTEGER(type, dt, bits)                                                              \
    do {                                                                                           \
        type in = (type)(bits);                                                                    \
        float single;                                                                              \
        double wide;                                                                               \
                                                                                                   \
        convert_elements(&in, dt, &single, DT_F32, 1);                                             \
        convert_elements(&in, dt, &wide, DT_F64, 1);                                               \
        ck_assert_msg(single == (float)in && wide == (double)in, #type " %016llx: %a, %a",         \
                      (unsigned long long)(bits), single, wide);                                   \
    } while (0)

START_TEST(integers_are_rounded_as_the_compiler_does)
{
    static const uint64_t extremes[] = {0,
                                        1,
                                        UINT64_MAX,
                                        INT64_MAX,
                                        (uint64_t)INT64_MAX + 1,
                                        UINT64_C(1) << 53 | 1,
                                        UINT64_C(0x8080808080808080)};
    uint64_t state = 2;

    for (int i = 0; i < DRAWS; i++) {
        uint64_t bits = i < 7 ? extremes[i] : draw(&state) >> (i % 64);

        CHECK_INTEGER(int8_t, DT_I8, bits);
        CHECK_INTEGER(uint8_t, DT_U8, bits);
        CHECK_INTEGER(int16_t, DT_I16, bits);
        CHECK_INTEGER(uint16_t, DT_U16, bits);
        CHECK_INTEGER(int32_t, DT_I32, bits);
        CHECK_INTEGER(uint32_t, DT_U32, bits);
        CHECK_INTEGER(int64_t, DT_I64, bits);
        CHECK_INTEGER(uint64_t, DT_U64, bits);
    }
}
END_TEST

/* 2^62 + 2^54 lies midway between two bf16 numbers, and one more is above: but rounded to f64
 * first, it would be the midpoint, and go down to even. */
START_TEST(integers_are_rounded_once)
{
    int64_t in = (INT64_C(1) << 62) + (INT64_C(1) << 54) + 1;
    uint16_t out;

    convert_elements(&in, DT_I64, &out, DT_BF16, 1);
    ck_assert_double_eq(half_value(out, 7), 0x1p62 * (1 + 0x1p-7));
    in--;
    convert_elements(&in, DT_I64, &out, DT_BF16, 1);
    ck_assert_double_eq(half_value(out, 7), 0x1p62);
    convert_elements(&in, DT_I64, &out, DT_F16, 1);
    ck_assert_uint_eq(out, 0x7c00);
}
END_TEST

START_TEST(sizes_are_checked)
{
    const int64_t fits[] = {INT64_C(1) << 31, INT64_C(1) << 31, 1};
    const int64_t exceeds[] = {INT64_C(1) << 32, INT64_C(1) << 31};
    const int64_t hidden[] = {0, INT64_MAX, 2};
    const int64_t empty[] = {3, 0, 5};
    int64_t count;
    uint64_t bytes;

    ck_assert(shape_count(fits, 3, &count) && count == INT64_C(1) << 62);
    ck_assert(!shape_count(exceeds, 2, &count));
    ck_assert(!shape_count(hidden, 3, &count));
    ck_assert(shape_count(empty, 3, &count) && count == 0);
    ck_assert(shape_count(NULL, 0, &count) && count == 1);
    ck_assert(dtype_bytes(DT_F64, INT64_MAX / 8 - 8, &bytes) && bytes <= INT64_MAX);
    ck_assert(!dtype_bytes(DT_F64, INT64_MAX / 8 + 1, &bytes));
    ck_assert(!dtype_bytes(DT_F64, INT64_MAX, &bytes));
    ck_assert(dtype_bytes(DT_F4, 6, &bytes) && bytes == 3);
    ck_assert(dtype_bytes(DT_F6_E3M2, 12, &bytes) && bytes == 9);
    ck_assert(!dtype_bytes(DT_F4, 3, &bytes));
    ck_assert(dtype_bytes(DT_U8, 0, &bytes) && bytes == 0);
}
END_TEST

/* What a hostile name may do to a terminal, and to a line. */
START_TEST(names_are_made_printable)
{
    char name[400];

    ck_assert_str_eq(quote("bn.weight").text, "bn.weight");
    ck_assert_str_eq(quote("\x1b]0;x\a\n").text, "\\x1b]0;x\\x07\\x0a");
    ck_assert_str_eq(quote("\xc2\x9b[2J \xc3\xa9").text, "\\x9b[2J \xc3\xa9");
    for (int cut = 90; cut < 110; cut++) { /* two-byte characters, so that one lies on the cut */
        struct quoted q;
        size_t length;

        memset(name, 'a', sizeof name);
        for (size_t i = (size_t)cut; i + 2 < sizeof name; i += 2) {
            memcpy(name + i, "\xc3\xa9", 2);
        }
        name[sizeof name - 1] = '\0';
        q = quote(name);
        length = strlen(q.text);
        ck_assert_uint_lt(length, sizeof q.text);
        ck_assert_str_eq(q.text + length - 3, "...");
        ck_assert(q.text[length - 4] == 'a' || q.text[length - 4] == '\xa9');
    }
}
END_TEST

Suite *convert_suite(void)
{
    Suite *suite = suite_create("number types");
    TCase *tcase = tcase_create("convert");

    tcase_add_loop_test(tcase, every_half_is_read_exactly, 0, 2);
    tcase_add_loop_test(tcase, halves_are_rounded_to_nearest_even, 0, 2);
    tcase_add_test(tcase, floats_are_rounded_as_the_compiler_does);
    tcase_add_test(tcase, integers_are_rounded_as_the_compiler_does);
    tcase_add_test(tcase, integers_are_rounded_once);
    tcase_add_test(tcase, sizes_are_checked);
    tcase_add_test(tcase, names_are_made_printable);
    suite_add_tcase(suite, tcase);
    return suite;
}
