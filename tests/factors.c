/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the tables vary, and through which settings. Level 0 of each is the plain setting.
 */
#include "cases.h"

#define FACTOR(name, levels, statement)                                                            \
    static void set_##name(test_case *c, int level)                                                \
    {                                                                                              \
        statement;                                                                                 \
    }                                                                                              \
    const case_factor factor_##name = {#name, levels, set_##name}

/* N, I, O: the smallest, primes, sizes that vector lengths (4, 8, 16 and their multiples) divide
 * and sizes that they do not, more rows than a block of 512, a long sum over I. From FEW_SHAPES on
 * the larger ones. */
static const int64_t shapes[][3] = {
    {17, 5, 33},  {2, 1, 1},     {2, 3, 7},    {3, 1, 5},      {5, 7, 1},
    {7, 16, 31},  {16, 8, 16},   {31, 13, 65}, {513, 3, 9},    {12, 97, 40},
    {64, 64, 64}, {129, 31, 17}, {97, 67, 61}, {1031, 19, 23}, {40, 257, 129},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void set_shape(test_case *c, int level)
{
    c->n = shapes[level][0];
    c->i = shapes[level][1];
    c->o = shapes[level][2];
}
const case_factor factor_shape = {"shape", SHAPES, set_shape};

static void set_eps(test_case *c, int level)
{
    static const double eps[] = {1e-5, 1.0}; /* 1.0: as large as var */
    c->eps = eps[level];
}
const case_factor factor_eps = {"eps", 2, set_eps};

/* The ordinary kinds; infinities and NaN have a table of their own (test_inputs.c). */
FACTOR(input, INPUT_ZEROS + 1, c->input = (input_kind)level);
FACTOR(activation, 6, c->activation = (fbn_activation)level);
FACTOR(pre_scale, 3, c->pre_scale = (fbn_scale)level);
FACTOR(post_scale, 3, c->post_scale = (fbn_scale)level);
FACTOR(bias, 2, c->bias = level);
FACTOR(gamma, 2, c->gamma = level);
FACTOR(beta, 2, c->beta = level);
FACTOR(running, 2, c->running = level);
FACTOR(momentum, MOMENTUM_KINDS, c->momentum = (momentum_kind)level);
FACTOR(tracked, TRACKED_KINDS, c->tracked = (tracked_kind)level);
FACTOR(biased_var, 2, c->biased_var = level);
FACTOR(skip_nonfinite, 2, c->skip_nonfinite = level);
FACTOR(batch_stats, 2, c->batch_stats = level);
FACTOR(saved, 2, c->saved = level);
FACTOR(padded, 2, c->padded = level);
FACTOR(weight_f32, 2, c->weight_f32 = level);
FACTOR(grads, GRADS_KINDS, c->grads = level);
FACTOR(threads, 3, c->threads = level + 1);
FACTOR(accumulate, 3,
       c->flags = level == 0   ? 0
                  : level == 1 ? FBN_ACCUMULATE
                               : FBN_ACCUMULATE | FBN_OVERWRITE_DX);
