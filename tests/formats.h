/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The four storage types, seen from the tests: rounding, encoding and the distance between
 * neighbours. Written from the formats' definitions and independent of the library's conversions.
 */
#ifndef TESTS_FORMATS_H
#define TESTS_FORMATS_H

#include <fusedbn.h>

size_t format_size(fbn_dtype type);
const char *format_name(fbn_dtype type);

/* "Param type": what parameters and statistics are in beside data of this type. */
fbn_dtype format_param(fbn_dtype type);

/* The nearest value of the type, ties to even; beyond the largest finite value: an infinity. */
long double format_round(fbn_dtype type, long double value);

/* The distance from |value| to the next larger value of the type (the subnormals' where value is
 * small); 0 for an infinity or NaN. */
long double format_ulp(fbn_dtype type, long double value);

/* Writes format_round(value) to element `index` of memory in this type, and reads it. */
void format_store(fbn_dtype type, void *memory, int64_t index, long double value);
double format_load(fbn_dtype type, const void *memory, int64_t index);

#endif
