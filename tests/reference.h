/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a test case's results must be, and how near.
 *
 * The tolerance is derived, never set. For each output tensor, the naive unfused computation in the
 * layer's own precision (float; double for f64) is held against the wide oracle, element by
 * element, each error divided by the element's condition (condition.c): the largest quotient is how
 * much of the possible error a plain computation of this tensor makes, in units that are fair
 * across its elements. The library may make twice that, and 4 units in the last place:
 *
 *     |y - exact| <= 2 factor condition + 4 ulp(exact),   factor = max |naive - exact| / condition
 *
 * where exact is the oracle's, which may itself be off by its unit roundoff times the condition
 * (added). Half types must meet this before their one rounding, so half an ulp of the half type is
 * added. Their products have at most 22 digits, so that float's sums of them may come out exact,
 * whatever the order; a tensor core aligns such products and truncates their sum to float, which
 * loses up to an ulp, two units of roundoff, where rounding loses one. So a half type's factor is
 * at least one unit.
 * A product that splits floats into two parts (fbn_layer_describe names it: f16x3, or train_small)
 * leaves out what their small parts give with each other, up to a unit of roundoff of each term,
 * which the naive product of numbers with few digits does not lose: its factor is at least one unit
 * too. And its infinities may become NaNs (times the two parts of a number, of opposite signs):
 * what follows from that is accepted in y and the gradients where an infinity of u reaches, with an
 * activation over rows all of its row.
 * A half type's training may store u in 16 bits (fbn_layer_describe names it: train_packed,
 * train_followed), and so may what saves it; it loses up to 2^-11 of u's distance from the mean of
 * some rows, which is added, as far as y and the gradients feel it. Where that may be the sign of v,
 * relu's dy is 0.
 * A half type's du may be rounded to it before the products (gradients_cublas), f16's times a power
 * of two, so that it loses no more than 2^-39 of the largest that there can be: dx and dW are off by
 * what that makes of them.
 * In FBN_MATH_TF32 the naive computation rounds the products' operands to TF32, or none: what loses
 * more counts, since TF32 is allowed and not asked for (and hides what float rounds).
 * A tensor of few entries may come out exact by luck: its factor is then taken over further draws
 * of the same case too, until enough entries have been seen.
 */
#ifndef TESTS_REFERENCE_H
#define TESTS_REFERENCE_H

#include "inputs.h"

/* How much of a case is worked out: its numbers, also the forward, also the backward. */
typedef enum reference_depth { NUMBERS_ONLY, UP_TO_FORWARD, UP_TO_BACKWARD } reference_depth;

typedef struct reference {
    test_case c;
    uint64_t seed;
    reference_depth depth;
    inputs in;
    problem p; /* borrows from in */
    trace *exact;
    double *condition[OUTPUTS]; /* as many entries as exact->out */
    double factor[OUTPUTS];
    double *packing[OUTPUTS];  /* y and the gradients: what is lost where u is packed */
    double *rounding[OUTPUTS]; /* dx and dW: what is lost where du is rounded */
    int holders;
} reference;

/* Draws the case's numbers and computes what they give. With relu and UP_TO_BACKWARD, dy is 0 where
 * rounding decides on which side of the kink v lies. Cases that differ in the kernel row alone and
 * follow one another get the same one. reference_release() gives it up. */
reference *reference_get(const test_case *c, uint64_t seed, reference_depth depth);
void reference_release(reference *r);

/* Compares `got` [size] of storage type `type` with output k of a layer that `layer` describes.
 * added: what the library added it to (FBN_ACCUMULATE), or NULL. Returns true when all are near
 * enough; else false with the worst element in words in message. */
bool reference_matches(const reference *r, output k, const char *layer, fbn_dtype type,
                       const double *got, const double *added, char *message, size_t message_size);

#endif
