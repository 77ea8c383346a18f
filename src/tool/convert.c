/* SPDX-License-Identifier: BSD-3-Clause
 * Conversion between number types, by one route: every element is unpacked into sign × magnitude ×
 * 2^exponent, which all of them fit exactly, and packed with a single rounding.
 */
#include "convert.h"

#include <string.h>

/* Both formats store little-endian numbers, and elements are copied without a swap below. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "this file assumes a little-endian host");

enum number_kind { NUMBER_FINITE, NUMBER_INFINITE, NUMBER_NAN };

struct number {
    enum number_kind kind;
    bool negative;
    uint64_t magnitude; /* finite: the value is magnitude × 2^exponent; NaN: the payload, its
                           first bit in bit 63 */
    int exponent;
};

/* An IEEE 754 interchange format, or bfloat16: sign, exponent, mantissa from the top bit down. */
struct float_format {
    int exponent_bits; /* 0: not a float */
    int mantissa_bits; /* those stored */
};

static struct float_format float_format(enum dtype dtype)
{
    switch (dtype) {
    case DT_F64:
        return (struct float_format){11, 52};
    case DT_F32:
        return (struct float_format){8, 23};
    case DT_F16:
        return (struct float_format){5, 10};
    case DT_BF16:
        return (struct float_format){8, 7};
    default:
        return (struct float_format){0, 0};
    }
}

static bool dtype_is_signed(enum dtype dtype)
{
    return dtype == DT_I8 || dtype == DT_I16 || dtype == DT_I32 || dtype == DT_I64;
}

bool dtype_is_float(enum dtype dtype)
{
    return float_format(dtype).exponent_bits > 0;
}

bool dtype_is_number(enum dtype dtype)
{
    return dtype_is_float(dtype) || dtype_is_signed(dtype) || dtype == DT_U8 || dtype == DT_U16 ||
           dtype == DT_U32 || dtype == DT_U64;
}

static struct number unpack_float(uint64_t bits, struct float_format f)
{
    uint64_t mantissa = bits & ((UINT64_C(1) << f.mantissa_bits) - 1);
    int exponent_mask = (1 << f.exponent_bits) - 1;
    int exponent = (int)(bits >> f.mantissa_bits) & exponent_mask;
    int bias = exponent_mask >> 1;
    struct number n = {NUMBER_FINITE, bits >> (f.mantissa_bits + f.exponent_bits) & 1, mantissa, 0};

    if (exponent == exponent_mask) {
        n.kind = mantissa == 0 ? NUMBER_INFINITE : NUMBER_NAN;
        n.magnitude = mantissa << (64 - f.mantissa_bits);
    } else if (exponent == 0) {
        n.exponent = 1 - bias - f.mantissa_bits;
    } else {
        n.magnitude |= UINT64_C(1) << f.mantissa_bits;
        n.exponent = exponent - bias - f.mantissa_bits;
    }
    return n;
}

static struct number unpack_integer(uint64_t bits, unsigned width, bool is_signed)
{
    struct number n = {NUMBER_FINITE, is_signed && (bits >> (width - 1) & 1) != 0, bits, 0};

    if (n.negative) {
        n.magnitude = (UINT64_C(1) << (width - 1) << 1) - bits; /* 2^width − bits, modulo 2^64 */
    }
    return n;
}

/* magnitude / 2^shift, rounded to nearest, ties to even; shift >= 1. */
static uint64_t round_shift(uint64_t magnitude, int shift)
{
    uint64_t quotient, rest, half;

    if (shift > 64) {
        return 0; /* below half, as magnitude < 2^64 */
    }
    half = UINT64_C(1) << (shift - 1);
    quotient = shift == 64 ? 0 : magnitude >> shift;
    rest = shift == 64 ? magnitude : magnitude & ((half << 1) - 1);
    return quotient + (rest > half || (rest == half && (quotient & 1)) ? 1 : 0);
}

static uint64_t pack_float(struct number n, struct float_format f)
{
    int bias = (1 << (f.exponent_bits - 1)) - 1;
    uint64_t sign = (uint64_t)n.negative << (f.mantissa_bits + f.exponent_bits);
    uint64_t infinity = ((UINT64_C(1) << f.exponent_bits) - 1) << f.mantissa_bits;
    uint64_t bits;
    int top, unit; /* the exponents of the leading bit, and of the result's last bit */

    if (n.kind == NUMBER_NAN) {
        uint64_t quiet = UINT64_C(1) << (f.mantissa_bits - 1);

        return sign | infinity | quiet | n.magnitude >> (64 - f.mantissa_bits);
    }
    if (n.kind == NUMBER_INFINITE) {
        return sign | infinity;
    }
    if (n.magnitude == 0) {
        return sign;
    }
    top = 63 - __builtin_clzll(n.magnitude) + n.exponent;
    if (top < 1 - bias) {
        top = 1 - bias; /* subnormal: the unit of the smallest normal numbers */
    }
    unit = top - f.mantissa_bits;
    if (unit <= n.exponent) {
        bits = n.magnitude << (n.exponent - unit);
    } else {
        bits = round_shift(n.magnitude, unit - n.exponent);
    }
    /* A leading one (absent from a subnormal) counts one into the exponent field, and so does the
     * carry of a mantissa that was rounded up to the next power of two. */
    bits += (uint64_t)(top + bias - 1) << f.mantissa_bits;
    if (top > bias || bits > infinity) {
        bits = infinity;
    }
    return sign | bits;
}

void convert_elements(const void *src, enum dtype from, void *dst, enum dtype to, size_t count)
{
    const unsigned char *in = src;
    unsigned char *out = dst;
    size_t in_size = dtype_bits(from) / 8, out_size = dtype_bits(to) / 8;
    struct float_format source = float_format(from), target = float_format(to);
    bool is_signed = dtype_is_signed(from);

    if (count == 0) {
        return;
    }
    if (from == to) {
        memcpy(dst, src, count * in_size);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = 0;
        struct number n;

        memcpy(&bits, in + i * in_size, in_size);
        n = source.exponent_bits > 0 ? unpack_float(bits, source)
                                     : unpack_integer(bits, dtype_bits(from), is_signed);
        bits = pack_float(n, target);
        memcpy(out + i * out_size, &bits, out_size);
    }
}
