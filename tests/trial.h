/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One test case set up on the library: layer, arguments in the backend's memory, expected results.
 */
#ifndef TESTS_TRIAL_H
#define TESTS_TRIAL_H

#include "arrays.h"
#include "reference.h"

/* Every pointer that a forward or a backward takes. */
typedef enum argument {
    ARG_X,
    ARG_W,
    ARG_BIAS,
    ARG_PRE,
    ARG_POST,
    ARG_GAMMA,
    ARG_BETA,
    ARG_DY,
    INPUT_ARGS, /* those before are only read */
    ARG_RUNNING_MEAN = INPUT_ARGS,
    ARG_RUNNING_VAR,
    ARG_BATCHES,
    ARG_Y,
    ARG_SAVED,
    ARG_BATCH_MEAN,
    ARG_BATCH_VAR,
    ARG_DX,
    ARG_DW,
    ARG_DBIAS,
    ARG_DPRE,
    ARG_DPOST,
    ARG_DGAMMA,
    ARG_DBETA,
    ARGS
} argument;

extern const char *const argument_names[ARGS];

typedef struct trial {
    test_case c;
    reference *expected;
    fbn_context *context;
    fbn_layer *layer;
    array a[ARGS];   /* without memory where the case has none */
    array workspace; /* padded cases: the caller's, full of 0xff at every reset */
    fbn_params params;
    fbn_forward_args forward;
    fbn_backward_args backward;
    fbn_grads grads;
} trial;

/* Draws the case, computes what to expect (with the backward's, if asked), and fills the library's
 * arguments. Outputs hold 0xff; gradients under FBN_ACCUMULATE hold numbers. context: NULL for the
 * harness's. */
void trial_create(trial *t, const test_case *c, uint64_t seed, fbn_context *context, bool backward);

/* The same for both forward and backward, without working out what to expect. */
void trial_create_unchecked(trial *t, const test_case *c, uint64_t seed, fbn_context *context);
void trial_destroy(trial *t);

/* Other numbers of the same case into the same memory, with what to expect of them. */
void trial_redraw(trial *t, uint64_t seed, reference_depth depth);

/* Runs the case's forward; puts running statistics and count back to their values first. */
fbn_status trial_forward(trial *t);
fbn_status trial_backward(trial *t);
/* Forward and backward as often as said, or until one fails. */
fbn_status trial_steps(trial *t, int count);

/* Back to the state before the first call. */
void trial_reset(trial *t);

/* What the arguments hold now is how the checks below expect those to stay that a call only reads. */
void trial_accept(trial *t);

/* Points the structs at the arrays, after these were changed. */
void trial_point(trial *t);

/* Fails the test unless every output is what it must be and everything else is as it was. */
void trial_check_forward(trial *t);
void trial_check_backward(trial *t);

/* All of it, with a name and the harness's context: the forward, and the backward if asked. */
void trial_run(const test_case *c, bool backward);

/* The elements of an argument, as bytes without padding (the caller frees), for bitwise
 * comparison; NULL where the case has none. */
unsigned char *trial_bytes(trial *t, argument which, size_t *size);

#endif
