/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Expected results and derived tolerances. See reference.h.
 */
#include "reference.h"

#include "formats.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Draws go on until every tensor with an entry a feature has shown ENOUGH_ENTRIES, and a scalar
 * scale's gradient LEAST_SCALARS. */
enum { ENOUGH_ENTRIES = 256, LEAST_SCALARS = 32 };

/* Of shorter batches a saved buffer has no place for packed u and the moments of its tiles. */
enum { LEAST_PACKED = 512 };

static bool is_half(fbn_dtype dtype)
{
    return dtype == FBN_BF16 || dtype == FBN_F16;
}

static real_kind own_precision(const test_case *c)
{
    return c->dtype == FBN_F64 ? REAL_DOUBLE : REAL_FLOAT;
}

static real_kind wide_precision(const test_case *c)
{
    return c->dtype == FBN_F64 ? REAL_LONG_DOUBLE : REAL_DOUBLE;
}

static void allocate_condition(const trace *t, double *condition[OUTPUTS])
{
    for (int k = 0; k < OUTPUTS; k++) {
        condition[k] = calloc((size_t)t->size[k] + 1, sizeof *condition[k]);
        if (!condition[k])
            abort();
    }
}

static void free_condition(double *condition[OUTPUTS])
{
    for (int k = 0; k < OUTPUTS; k++)
        free(condition[k]);
}

/* relu's derivative jumps where v = 0: there the sign of a rounding error decides, in any correct
 * computation. dy = 0 takes these elements out. */
static void avoid_kink(const test_case *c, inputs *in, const problem *p, const trace *exact,
                       double margin, double *condition[OUTPUTS])
{
    double *lost;
    if (c->activation != FBN_ACT_RELU)
        return;
    lost = calloc((size_t)exact->size[OUT_Y] + 1, sizeof *lost);
    if (!lost)
        abort();
    if (is_half(c->dtype))
        condition_of_packing(p, exact, lost);
    for (int64_t e = 0; e < exact->size[OUT_Y]; e++)
        if (fabs((double)exact->v[e]) < margin * condition[OUT_Y][e] + 2 * lost[e])
            in->dy[e] = 0;
    free(lost);
}

static void raise_factors(const trace *exact, const trace *naive, double *const condition[OUTPUTS],
                          double factor[OUTPUTS])
{
    for (int k = 0; k < OUTPUTS; k++) {
        for (int64_t e = 0; e < exact->size[k]; e++) {
            double error = (double)fabsl(naive->out[k][e] - exact->out[k][e]);
            double quotient = error / condition[k][e];
            if (error > 0 && isfinite(condition[k][e]) && quotient > factor[k])
                factor[k] = quotient;
        }
    }
}

/* Raises the factors to what the naive computation in the case's precision loses. */
static void raise_by_naive(const test_case *c, const problem *p, reference_depth depth,
                           const trace *exact, double *const condition[OUTPUTS],
                           double factor[OUTPUTS])
{
    trace *naive = trace_create(p);
    oracle_forward(own_precision(c), p, naive);
    if (depth == UP_TO_BACKWARD)
        oracle_backward(own_precision(c), p, naive);
    raise_factors(exact, naive, condition, factor);
    trace_destroy(naive);
}

/* Of what the layer adds up and stores: the unit of roundoff, and the smallest number. */
static double unit_of(const test_case *c)
{
    return c->math == FBN_MATH_TF32 ? 0x1p-11 : (double)format_ulp(format_param(c->dtype), 1) / 2;
}

static double least_of(const test_case *c)
{
    return (double)format_ulp(format_param(c->dtype), 0);
}

/* One draw: the exact results, their conditions, and the naive computation's share of them. */
static void draw_once(const test_case *c, uint64_t seed, reference_depth depth, inputs *in,
                      trace **exact, double *condition[OUTPUTS], double factor[OUTPUTS])
{
    double unit = unit_of(c), least = least_of(c);
    inputs_draw(in, c, seed);
    problem p = inputs_problem(c, in);
    *exact = trace_create(&p);
    allocate_condition(*exact, condition);
    if (is_half(c->dtype))
        for (int k = 0; k < OUTPUTS; k++)
            factor[k] = fmax(factor[k], unit);
    if (depth == NUMBERS_ONLY)
        return;

    oracle_forward(wide_precision(c), &p, *exact);
    if (depth == UP_TO_FORWARD || c->activation == FBN_ACT_RELU)
        condition_compute(&p, *exact, unit, least, false, condition);
    if (depth == UP_TO_BACKWARD) {
        avoid_kink(c, in, &p, *exact, condition_reach(&p, unit), condition);
        oracle_backward(wide_precision(c), &p, *exact);
        condition_compute(&p, *exact, unit, least, true, condition);
    }
    raise_by_naive(c, &p, depth, *exact, condition, factor);
    if (p.tf32) {
        p.tf32 = false;
        raise_by_naive(c, &p, depth, *exact, condition, factor);
    }
}

static reference *create(const test_case *c, uint64_t seed, reference_depth depth)
{
    reference *r = calloc(1, sizeof *r);
    if (!r)
        abort();
    r->c = *c;
    r->seed = seed;
    r->depth = depth;
    draw_once(c, seed, depth, &r->in, &r->exact, r->condition, r->factor);
    r->p = inputs_problem(c, &r->in);
    allocate_condition(r->exact, r->packing);
    if (depth == UP_TO_BACKWARD && is_half(c->dtype))
        condition_of_packed_gradients(&r->p, r->exact, unit_of(c), least_of(c), r->condition,
                                      r->packing);
    if (depth != NUMBERS_ONLY && is_half(c->dtype))
        condition_of_packing(&r->p, r->exact, r->packing[OUT_Y]);
    allocate_condition(r->exact, r->rounding);
    if (depth == UP_TO_BACKWARD && is_half(c->dtype))
        condition_of_rounding(&r->p, r->exact, (double)format_ulp(c->dtype, 1) / 2,
                              c->dtype == FBN_F16 ? 0x1p-39 : 0, r->rounding[OUT_DX],
                              r->rounding[OUT_DW]);

    int64_t draws = (ENOUGH_ENTRIES + c->o - 1) / c->o;
    bool scalar = c->pre_scale == FBN_SCALE_SCALAR || c->post_scale == FBN_SCALE_SCALAR;
    if (depth == UP_TO_BACKWARD && scalar && draws < LEAST_SCALARS)
        draws = LEAST_SCALARS;
    for (int64_t draw = 1; draw < draws && c->n > 0 && depth != NUMBERS_ONLY; draw++) {
        inputs in;
        trace *exact;
        double *condition[OUTPUTS];
        draw_once(c, seed + (uint64_t)draw, depth, &in, &exact, condition, r->factor);
        trace_destroy(exact);
        free_condition(condition);
        inputs_free(&in);
    }
    return r;
}

/* The last reference, kept for the next case; it holds itself. */
static reference *last;

void reference_release(reference *r)
{
    if (!r || --r->holders > 0)
        return;
    trace_destroy(r->exact);
    free_condition(r->condition);
    inputs_free(&r->in);
    free_condition(r->rounding);
    free_condition(r->packing);
    free(r);
}

reference *reference_get(const test_case *c, uint64_t seed, reference_depth depth)
{
    char name[CASE_NAME_SIZE], last_name[CASE_NAME_SIZE];
    if (depth == NUMBERS_ONLY) { /* cheap, and no reason to give up the last */
        reference *r = create(c, seed, depth);
        r->holders = 1;
        return r;
    }
    bool again = last && last->seed == seed && last->depth == depth &&
                 strcmp(case_numbers_name(c, name, sizeof name),
                        case_numbers_name(&last->c, last_name, sizeof last_name)) == 0;
    if (!again) {
        reference_release(last);
        last = create(c, seed, depth);
        last->holders = 1;
    }
    last->holders++;
    return last;
}

/* Whether the product of a layer that is described so splits floats into two parts. */
static bool does_split(const char *layer)
{
    return strstr(layer, "f16x3") || strstr(layer, "train_small");
}

/* What element e of output k may differ by, of a layer that is described so. */
static long double allowance(const reference *r, output k, const char *layer, fbn_dtype type,
                             int64_t e, long double expected, double added)
{
    bool splits = does_split(layer);
    bool saves = r->c.saved || r->depth == UP_TO_BACKWARD;
    bool packs = (strstr(layer, "train_packed") || strstr(layer, "train_followed")) &&
                 is_half(r->c.dtype) && r->c.training && (!saves || r->p.n >= LEAST_PACKED);
    bool rounds = strstr(layer, "gradients_cublas") && is_half(r->c.dtype);
    fbn_dtype real = format_param(r->c.dtype);
    long double oracle_unit = real == FBN_F64 ? LDBL_EPSILON / 2 : DBL_EPSILON / 2;
    double factor = splits ? fmax(r->factor[k], FLT_EPSILON / 2) : r->factor[k];
    long double allowed = (2 * (long double)factor + oracle_unit) * r->condition[k][e] +
                          4 * format_ulp(real, expected);
    if (packs)
        allowed += r->packing[k][e];
    if (rounds && (k == OUT_DX || k == OUT_DW))
        allowed += r->rounding[k][e];
    if (added != 0) /* the naive sum's own rounding */
        allowed += format_ulp(real, added);
    if (type != real)
        allowed += format_ulp(type, fabsl(expected) + allowed) / 2;
    return allowed;
}

/* Whether an infinity of u reaches element e of output k. */
static bool is_reached(const reference *r, output k, int64_t e)
{
    const problem *p = &r->p;
    bool rowwise = r->c.activation == FBN_ACT_SOFTMAX || r->c.activation == FBN_ACT_LOG_SOFTMAX;
    int64_t row = 0, rows = p->n, column = 0, columns = p->o;
    if (k == OUT_Y || k == OUT_DX) {
        row = e / (k == OUT_Y ? p->o : p->i);
        rows = row + 1;
    }
    if (!rowwise && k != OUT_DX && r->exact->size[k] >= p->o) {
        column = k == OUT_Y ? e % p->o : k == OUT_DW ? e / p->i : e;
        columns = column + 1;
    }
    for (int64_t n = row; n < rows; n++)
        for (int64_t j = column; j < columns; j++)
            if (isinf(r->exact->u[n * p->o + j]))
                return true;
    return false;
}

/* Whether what was got may be due to a NaN in the place of an infinity of u: it is a NaN itself, or
 * a gradient that relu's derivative lets through, which is 0 at -infinity and 1 at NaN. */
static bool is_of_nan(const reference *r, output k, int64_t e, double got)
{
    bool passed = r->c.activation == FBN_ACT_RELU && k >= OUT_DX;
    return (isnan(got) || passed) && (k == OUT_Y || k >= OUT_DX) && is_reached(r, k, e);
}

bool reference_matches(const reference *r, output k, const char *layer, fbn_dtype type,
                       const double *got, const double *added, char *message, size_t message_size)
{
    bool splits = does_split(layer);
    int64_t worst = -1, columns = k == OUT_DX || k == OUT_DW ? r->p.i : r->p.o;
    long double worst_excess = 0;
    for (int64_t e = 0; e < r->exact->size[k]; e++) {
        long double expected = r->exact->out[k][e] + (added ? added[e] : 0), excess;
        long double allowed = allowance(r, k, layer, type, e, expected, added ? added[e] : 0);
        long double largest = fabsl(expected) + (isfinite(allowed) ? allowed : 0);
        if (!isfinite(expected) || !isfinite(format_round(type, expected)))
            excess = isfinite(got[e]) ? INFINITY : 0;
        else if (!isfinite(got[e])) /* allowed where the next value up would overflow the type */
            excess = isinf(got[e]) && !isfinite(format_round(type, largest)) ? 0 : INFINITY;
        else if (!isfinite(allowed)) /* the condition overflowed: nothing is lost or all is */
            excess = got[e] == (double)format_round(type, expected) ? 0 : INFINITY;
        else
            excess = fabsl(got[e] - expected) / (allowed > 0 ? allowed : 1e-300L);
        if (excess > 1 && splits && isfinite(expected) && is_of_nan(r, k, e, got[e]))
            excess = 0;
        if (excess > 1 && excess > worst_excess) {
            worst_excess = excess;
            worst = e;
        }
    }
    if (worst < 0)
        return true;
    long double expected = r->exact->out[k][worst] + (added ? added[worst] : 0);
    snprintf(message, message_size,
             "%s[%lld][%lld] is %.17g, expected %.20Lg: off by %.3Lg, %.3Lg x what is allowed "
             "(naive error %.3g x condition %.3g)",
             output_names[k], (long long)(worst / columns), (long long)(worst % columns),
             got[worst], expected, fabsl(got[worst] - expected), worst_excess, r->factor[k],
             r->condition[k][worst]);
    return false;
}
