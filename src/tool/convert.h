/* SPDX-License-Identifier: BSD-3-Clause
 * Conversion between the number types of files and those of the library.
 */
#ifndef CONVERT_H
#define CONVERT_H

#include "tensor.h"

/* F64, F32, F16, BF16: what the library computes with. */
bool dtype_is_float(enum dtype dtype);

/* Those and the integers of 8 to 64 bits: what convert_elements() reads. */
bool dtype_is_number(enum dtype dtype);

/*
 * Writes count elements of type `from`, a number, as type `to`, a float. Each is taken exactly and
 * rounded once, to nearest with ties to even, as IEEE 754 converts: what is too large becomes an
 * infinity, a NaN stays one (quiet, with the upper bits of its payload). The two arrays may have
 * any alignment and do not overlap.
 */
void convert_elements(const void *src, enum dtype from, void *dst, enum dtype to, size_t count);

#endif
