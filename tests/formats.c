/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The four storage types, seen from the tests. See formats.h.
 */
#include "formats.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct format {
    const char *name;
    size_t size;
    int precision; /* bits of the significand, the implicit one included */
    int emin;      /* exponent of the smallest normal number, 1.0 having 0 */
    int emax;      /* exponent of the largest */
} format;

static const format formats[] = {
    [FBN_F32] = {"f32", 4, 24, -126, 127},
    [FBN_F64] = {"f64", 8, 53, -1022, 1023},
    [FBN_BF16] = {"bf16", 2, 8, -126, 127},
    [FBN_F16] = {"f16", 2, 11, -14, 15},
};

size_t format_size(fbn_dtype type)
{
    return formats[type].size;
}

const char *format_name(fbn_dtype type)
{
    return formats[type].name;
}

fbn_dtype format_param(fbn_dtype type)
{
    return type == FBN_F64 ? FBN_F64 : FBN_F32;
}

long double format_ulp(fbn_dtype type, long double value)
{
    const format *f = &formats[type];
    if (!isfinite(value))
        return 0;
    int exponent = value == 0 ? f->emin : ilogbl(value);
    if (exponent < f->emin)
        exponent = f->emin;
    return ldexpl(1.0L, exponent - f->precision + 1);
}

long double format_round(fbn_dtype type, long double value)
{
    const format *f = &formats[type];
    if (!isfinite(value) || value == 0)
        return value;
    if (type == FBN_F32)
        return (float)value;
    if (type == FBN_F64)
        return (double)value;
    long double ulp = format_ulp(type, value);
    long double rounded = rintl(value / ulp) * ulp; /* the default rounding: ties to even */
    if (rounded == 0)
        return copysignl(0, value);
    return ilogbl(rounded) > f->emax ? copysignl(HUGE_VALL, value) : rounded;
}

/* binary16 has no C type here: sign, exponent and significand are put together by hand. */
static uint16_t encode_f16(long double value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    long double v = fabsl(format_round(FBN_F16, value));
    if (isnan(value))
        return sign | 0x7e00;
    if (isinf(v))
        return sign | 0x7c00;
    if (v < 0x1p-14L)
        return (uint16_t)(sign | (uint16_t)(v * 0x1p24L)); /* subnormal: a multiple of 2^-24 */
    int e = ilogbl(v);
    return (uint16_t)(sign | (e + 15) << 10 | (uint16_t)(ldexpl(v, 10 - e) - 1024));
}

static double decode_f16(uint16_t bits)
{
    int e = bits >> 10 & 31;
    double significand = bits & 0x3ff;
    double v = e == 0    ? significand * 0x1p-24
               : e == 31 ? (significand != 0 ? NAN : HUGE_VAL)
                         : ldexp(1024 + significand, e - 25);
    return bits & 0x8000 ? -v : v;
}

static uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void format_store(fbn_dtype type, void *memory, int64_t index, long double value)
{
    char *p = (char *)memory + (size_t)index * format_size(type);
    uint16_t half;
    float single;
    double wide;
    switch (type) {
    case FBN_F32:
        single = (float)value;
        memcpy(p, &single, sizeof single);
        break;
    case FBN_F64:
        wide = (double)value;
        memcpy(p, &wide, sizeof wide);
        break;
    case FBN_BF16: /* a rounded value is a float whose lower half is zero */
        half = (uint16_t)(bits_of_float((float)format_round(FBN_BF16, value)) >> 16);
        memcpy(p, &half, sizeof half);
        break;
    case FBN_F16:
        half = encode_f16(value);
        memcpy(p, &half, sizeof half);
        break;
    }
}

double format_load(fbn_dtype type, const void *memory, int64_t index)
{
    const char *p = (const char *)memory + (size_t)index * format_size(type);
    uint16_t half;
    float single;
    double wide;
    switch (type) {
    case FBN_F32:
        memcpy(&single, p, sizeof single);
        return single;
    case FBN_F64:
        memcpy(&wide, p, sizeof wide);
        return wide;
    case FBN_BF16:
        memcpy(&half, p, sizeof half);
        return float_of_bits((uint32_t)half << 16);
    case FBN_F16:
        memcpy(&half, p, sizeof half);
        return decode_f16(half);
    }
    return NAN;
}
