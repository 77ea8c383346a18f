/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The numbers of a test case, drawn from its seed: every array that a call of the library reads.
 */
#ifndef TESTS_INPUTS_H
#define TESTS_INPUTS_H

#include "cases.h"
#include "oracle.h"

/* Values already rounded to their storage types. NULL: the case has none. */
typedef struct inputs {
    double *x, *w, *dy;                 /* [n,i] [o,i] [n,o] */
    double *bias, *pre, *post;          /* pre, post: [1] or [o] */
    double *gamma, *beta;               /* [o] */
    double *running_mean, *running_var; /* [o] */
} inputs;

/* Draws them; one seed gives unlike numbers to unlike cases. */
void inputs_draw(inputs *in, const test_case *c, uint64_t seed);
void inputs_free(inputs *in);

/* The case and its numbers as the oracle takes them (borrowed from in). */
problem inputs_problem(const test_case *c, const inputs *in);

#endif
