/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Test cases: names and tables. See cases.h.
 */
#include "cases.h"

#include "draws.h"
#include "formats.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FACTORS = 24, MOST_LEVELS = 32 };

test_case case_default(bool training)
{
    test_case c = {.dtype = FBN_F32,
                   .n = 17,
                   .i = 5,
                   .o = 33,
                   .training = training,
                   .eps = 1e-5,
                   .running = !training,
                   .threads = 1};
    return c;
}

int64_t case_batches(const test_case *c)
{
    static const int64_t batches[TRACKED_KINDS] = {
        [TRACKED_ZERO] = 0,        [TRACKED_41] = 41,       [TRACKED_NEAR_MAX] = INT64_MAX - 1,
        [TRACKED_MAX] = INT64_MAX, [TRACKED_NEGATIVE] = -7, [TRACKED_MIN] = INT64_MIN,
    };
    return batches[c->tracked];
}

uint64_t case_layer_flags(const test_case *c)
{
    return (c->momentum == MOMENTUM_CUMULATIVE ? FBN_CUMULATIVE_AVERAGE : 0) |
           (c->biased_var ? FBN_BIASED_RUNNING_VAR : 0) |
           (c->skip_nonfinite ? FBN_SKIP_NONFINITE : 0) |
           (c->weight_f32 ? FBN_WEIGHT_GRADIENT_F32 : 0);
}

fbn_layer_desc case_desc(const test_case *c)
{
    static const double momentum[MOMENTUM_KINDS] = {
        [MOMENTUM_ZERO] = 0, [MOMENTUM_ONE] = 1, [MOMENTUM_ODD] = 0.37};
    fbn_layer_desc desc;
    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = c->i;
    desc.out_features = c->o;
    desc.max_batch = c->n > 0 ? c->n : 1;
    desc.dtype = c->dtype;
    desc.math = c->math;
    desc.pre_scale = c->pre_scale;
    desc.post_scale = c->post_scale;
    desc.activation = c->activation;
    desc.eps = c->eps;
    if (c->momentum != MOMENTUM_DEFAULT && c->momentum != MOMENTUM_CUMULATIVE)
        desc.momentum = momentum[c->momentum];
    desc.flags = case_layer_flags(c);
    desc.kernel = c->kernel;
    return desc;
}

/* Appends " text" in printf's way; what no longer fits is cut. */
__attribute__((format(printf, 3, 4))) static void append(char *buffer, size_t size,
                                                         const char *format, ...)
{
    size_t length = strlen(buffer);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer + length, size - length, format, arguments);
    va_end(arguments);
}

char *case_name(const test_case *c, char *buffer, size_t size)
{
    static const char *const scales[] = {"none", "scalar", "feature"};
    static const char *const activations[] = {"none", "relu",    "gelu",
                                              "silu", "softmax", "log_softmax"};
    static const char *const inputs[] = {
        "normal",     "offset",   "offset-exact", "constant", "tiny",     "huge",
        "reciprocal", "rows",     "zeros",        "late",     "outliers", "gradients",
        "sparse",     "inf-in-x", "nan-in-x",     "inf-in-w", "nan-in-w"};
    static const char *const momenta[] = {"default", "0", "1", "0.37", "cumulative"};
    snprintf(buffer, size, "%s:%s:%lldx%lldx%lld", c->training ? "train" : "infer",
             format_name(c->dtype), (long long)c->n, (long long)c->i, (long long)c->o);
    append(buffer, size, "%s%s%s%s", c->math == FBN_MATH_TF32 ? ":tf32" : "",
           c->bias ? ":bias" : "", c->gamma ? ":gamma" : "", c->beta ? ":beta" : "");
    if (c->pre_scale)
        append(buffer, size, ":pre=%s", scales[c->pre_scale]);
    if (c->post_scale)
        append(buffer, size, ":post=%s", scales[c->post_scale]);
    if (c->activation)
        append(buffer, size, ":%s", activations[c->activation]);
    append(buffer, size, ":eps=%g", c->eps);
    if (c->input)
        append(buffer, size, ":%s", inputs[c->input]);
    if (c->training && c->running)
        append(buffer, size, ":running:momentum=%s", momenta[c->momentum]);
    if (c->tracked)
        append(buffer, size, ":batches=%lld", (long long)case_batches(c));
    append(buffer, size, "%s%s%s%s%s", c->biased_var ? ":biased" : "",
           c->skip_nonfinite ? ":skip-nonfinite" : "", c->batch_stats ? ":stats" : "",
           c->saved ? ":saved" : "", c->padded ? ":padded" : "");
    append(buffer, size, "%s%s%s", c->flags & FBN_ACCUMULATE ? ":accumulate" : "",
           c->flags & FBN_OVERWRITE_DX ? ":overwrite-dx" : "", c->weight_f32 ? ":dw-f32" : "");
    if (c->grads)
        append(buffer, size, ":grads=%d", c->grads);
    append(buffer, size, ":threads=%d:%s", c->threads, c->kernel ? c->kernel : "any-kernel");
    return buffer;
}

char *case_numbers_name(const test_case *c, char *buffer, size_t size)
{
    test_case any = *c;
    any.kernel = NULL;
    return case_name(&any, buffer, size);
}

void table_add(case_table *table, const test_case *c)
{
    if (table->count == table->room) {
        table->room = table->room ? 2 * table->room : 64;
        table->cases = realloc(table->cases, table->room * sizeof *table->cases);
        if (!table->cases)
            abort();
    }
    table->cases[table->count] = *c;
    /* A cumulative average is defined by a count: without one the case would be another's. */
    test_case *added = &table->cases[table->count++];
    if (added->training && added->momentum == MOMENTUM_CUMULATIVE &&
        added->tracked == TRACKED_ABSENT)
        added->tracked = TRACKED_ZERO;
}

void table_clear(case_table *table)
{
    free(table->cases);
    memset(table, 0, sizeof *table);
}

static int by_numbers(const void *left, const void *right)
{
    char a[CASE_NAME_SIZE], b[CASE_NAME_SIZE];
    int order = strcmp(case_numbers_name(left, a, sizeof a), case_numbers_name(right, b, sizeof b));
    return order ? order : strcmp(case_name(left, a, sizeof a), case_name(right, b, sizeof b));
}

void table_group(case_table *table)
{
    if (table->count > 0)
        qsort(table->cases, table->count, sizeof *table->cases, by_numbers);
}

static void add_row(case_table *table, const test_case *base, const case_factor *factors, int count,
                    const int *level)
{
    test_case c = *base;
    for (int f = 0; f < count; f++)
        factors[f].set(&c, level[f]);
    table_add(table, &c);
}

void table_add_single(case_table *table, const test_case *base, const case_factor *factors,
                      int count)
{
    int level[MOST_FACTORS] = {0};
    add_row(table, base, factors, count, level);
    for (int f = 0; f < count; f++) {
        for (level[f] = 1; level[f] < factors[f].levels; level[f]++)
            add_row(table, base, factors, count, level);
        level[f] = 0;
    }
}

void table_add_product(case_table *table, const test_case *base, const case_factor *factors,
                       int count)
{
    int level[MOST_FACTORS] = {0};
    for (int f = 0; f < count;) {
        add_row(table, base, factors, count, level);
        for (f = 0; f < count && ++level[f] == factors[f].levels; f++)
            level[f] = 0;
    }
}

/* seen[f][a][g][b]: level a of factor f has met level b of factor g. */
typedef bool pairs[MOST_FACTORS][MOST_LEVELS][MOST_FACTORS][MOST_LEVELS];

static int gain(pairs seen, const int *level, int count, int f, int a)
{
    int unseen = 0;
    for (int g = 0; g < count; g++)
        unseen += g != f && level[g] >= 0 && !seen[f][a][g][level[g]];
    return unseen;
}

/* Finds a pair that has not met; false when all have. */
static bool next_pair(pairs seen, const case_factor *factors, int count, int *level)
{
    for (int f = 0; f < count; f++)
        for (int g = f + 1; g < count; g++)
            for (int a = 0; a < factors[f].levels; a++)
                for (int b = 0; b < factors[g].levels; b++)
                    if (!seen[f][a][g][b]) {
                        level[f] = a;
                        level[g] = b;
                        return true;
                    }
    return false;
}

void table_add_pairs(case_table *table, const test_case *base, const case_factor *factors,
                     int count)
{
    pairs *seen = calloc(1, sizeof *seen);
    draws d = draws_named(1, "pairs");
    int level[MOST_FACTORS];
    if (!seen || count > MOST_FACTORS)
        abort();

    for (;;) {
        for (int f = 0; f < count; f++)
            level[f] = -1;
        if (!next_pair(*seen, factors, count, level))
            break;
        /* The other factors take, one after the other, the level that meets most new ones. Ties
         * start at a random level, so that what is not forced varies. */
        for (int f = 0; f < count; f++) {
            int best = -1, first = (int)draw_integer(&d, 0, factors[f].levels - 1), chosen = first;
            if (level[f] >= 0)
                continue;
            for (int k = 0; k < factors[f].levels; k++) {
                int a = (first + k) % factors[f].levels;
                int g = gain(*seen, level, count, f, a);
                if (g > best)
                    best = g, chosen = a;
            }
            level[f] = chosen;
        }
        for (int f = 0; f < count; f++)
            for (int g = 0; g < count; g++)
                (*seen)[f][level[f]][g][level[g]] = true;
        add_row(table, base, factors, count, level);
    }
    free(seen);
}
