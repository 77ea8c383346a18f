/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reproducible random numbers for the tests: the same seed gives the same draws on every machine.
 */
#ifndef TESTS_DRAWS_H
#define TESTS_DRAWS_H

#include <stdint.h>

typedef struct draws {
    uint64_t state;
} draws;

/* A stream of its own for each pair of seed and name (a test case's). */
draws draws_named(uint64_t seed, const char *name);

uint64_t draw_bits(draws *d);
double draw_uniform(draws *d, double low, double high);
int64_t draw_integer(draws *d, int64_t low, int64_t high); /* both ends included */

/* Mean 0, variance 1, bounded by 6: the sum of twelve uniforms. No function of the C library is
 * involved, whose last bits differ between machines. */
double draw_normal(draws *d);

#endif
