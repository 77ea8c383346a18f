/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The numbers of a test case. See inputs.h.
 */
#include "inputs.h"

#include "draws.h"
#include "formats.h"

#include <math.h>
#include <stdlib.h>

static double *values(int64_t count)
{
    double *p = calloc((size_t)(count > 0 ? count : 1), sizeof *p);
    if (!p)
        abort();
    return p;
}

static double rounded(fbn_dtype type, double value)
{
    return (double)format_round(type, value);
}

/* Magnitudes of x that stay clear of overflow in the squares of u and their sum over the batch
 * (training), or in u. */
static double magnitude(const test_case *c)
{
    static const double tiny[] = {
        [FBN_F32] = 1e-30, [FBN_F64] = 1e-200, [FBN_BF16] = 1e-30, [FBN_F16] = 1e-6};
    static const double huge_squares[] = {
        [FBN_F32] = 1e17, [FBN_F64] = 1e150, [FBN_BF16] = 1e17, [FBN_F16] = 1e4};
    static const double huge[] = {
        [FBN_F32] = 1e30, [FBN_F64] = 1e150, [FBN_BF16] = 1e30, [FBN_F16] = 1e3};
    if (c->input == INPUT_TINY)
        return tiny[c->dtype];
    if (c->input == INPUT_HUGE)
        return c->training ? huge_squares[c->dtype] / fmax(1, sqrt((double)c->n / 512))
                           : huge[c->dtype];
    return 1;
}

static void draw_x(inputs *in, const test_case *c, draws *d)
{
    double size = magnitude(c);
    bool offset = c->input == INPUT_OFFSET || c->input == INPUT_OFFSET_EXACT;
    bool half = c->dtype == FBN_BF16 || c->dtype == FBN_F16;
    for (int64_t n = 0; n < c->n; n++) {
        for (int64_t k = 0; k < c->i; k++) {
            double v = size * draw_normal(d);
            /* The half types cannot hold 1e4 + 1: there one column is 1e4 and the others vary. */
            if (offset)
                v = !half ? 1e4 + v : k == 0 ? 1e4 : v;
            if (c->input == INPUT_CONSTANT)
                v = n > 0 ? in->x[k] : (double)draw_integer(d, -9, 9);
            if (c->input == INPUT_ZEROS && draw_integer(d, 0, 9) == 0)
                v = 0;
            if (c->input == INPUT_LATE)
                v *= n < 20 ? 0 : n % 128 < 100 ? 0x1p-10 : 1;
            in->x[n * c->i + k] = rounded(c->dtype, v);
        }
    }
}

static void draw_w(inputs *in, const test_case *c, draws *d)
{
    bool half = c->dtype == FBN_BF16 || c->dtype == FBN_F16;
    for (int64_t j = 0; j < c->o; j++) {
        int64_t only = draw_integer(d, 0, c->i - 1); /* OFFSET_EXACT: the one nonzero entry,
                                                      beside column 0 in the half types */
        bool zero = c->input == INPUT_ZEROS && draw_integer(d, 0, 3) == 0;
        for (int64_t k = 0; k < c->i; k++) {
            double v = draw_normal(d) / sqrt((double)c->i);
            double power = ldexp(draw_integer(d, 0, 1) ? 1 : -1, (int)draw_integer(d, -2, 2));
            if (c->input == INPUT_CONSTANT)
                v = (double)draw_integer(d, -9, 9);
            if (c->input == INPUT_OFFSET_EXACT)
                v = k == only || (k == 0 && half) ? power : 0;
            if (c->input == INPUT_OUTLIERS && draw_integer(d, 0, 499) == 0)
                v = ldexp(v, 10);
            if (c->input == INPUT_SPARSE && j % 4 == 3)
                v = draw_integer(d, 0, 299) == 0 ? ldexp(v, -22) : 0;
            in->w[j * c->i + k] = zero ? 0 : rounded(c->dtype, v);
        }
    }
}

/* Column k of x times a power of ten, column k of W times its reciprocal. */
static void scale_columns(inputs *in, const test_case *c, draws *d)
{
    static const int range[] = {[FBN_F32] = 15, [FBN_F64] = 100, [FBN_BF16] = 15, [FBN_F16] = 2};
    for (int64_t k = 0; k < c->i; k++) {
        double power = pow(10, (double)draw_integer(d, -range[c->dtype], range[c->dtype]));
        for (int64_t n = 0; n < c->n; n++)
            in->x[n * c->i + k] = rounded(c->dtype, in->x[n * c->i + k] * power);
        for (int64_t j = 0; j < c->o; j++)
            in->w[j * c->i + k] = rounded(c->dtype, in->w[j * c->i + k] / power);
    }
}

/* Row j of W times a power of ten. With the batch's statistics alpha has the reciprocal. */
static void scale_rows(inputs *in, const test_case *c, draws *d)
{
    static const int range[] = {[FBN_F32] = 6, [FBN_F64] = 30, [FBN_BF16] = 6, [FBN_F16] = 2};
    for (int64_t j = 0; j < c->o; j++) {
        double power = pow(10, (double)draw_integer(d, -range[c->dtype], range[c->dtype]));
        for (int64_t k = 0; k < c->i; k++)
            in->w[j * c->i + k] = rounded(c->dtype, in->w[j * c->i + k] * power);
    }
}

/* Such that one scale for all of du has to be small or large, and some columns lie far below it. */
static void scale_gradients(inputs *in, const test_case *c, draws *d)
{
    int all = (int)draw_integer(d, -6, 6);
    for (int64_t j = 0; j < c->o; j++) {
        double power = ldexp(1, all + (int)draw_integer(d, -6, 4));
        for (int64_t n = 0; n < c->n; n++)
            in->dy[n * c->o + j] = rounded(c->dtype, in->dy[n * c->o + j] * power);
    }
}

/* One entry of x or W is not a number of the ordinary kind. */
static void place_nonfinite(inputs *in, const test_case *c, draws *d)
{
    double v = c->input == INPUT_INF_X || c->input == INPUT_INF_W ? HUGE_VAL : NAN;
    if (draw_integer(d, 0, 1))
        v = -v;
    if ((c->input == INPUT_INF_X || c->input == INPUT_NAN_X) && c->n > 0)
        in->x[draw_integer(d, 0, c->n * c->i - 1)] = v;
    if (c->input == INPUT_INF_W || c->input == INPUT_NAN_W)
        in->w[draw_integer(d, 0, c->o * c->i - 1)] = v;
}

/* [count] values of the parameter type about `centre`, with zeros among them if the case asks. */
static double *draw_parameter(const test_case *c, int64_t count, double centre, draws *d)
{
    double *p = values(count);
    for (int64_t j = 0; j < count; j++) {
        double v = centre + draw_normal(d) / 2;
        if (draw_integer(d, 0, 1))
            v = -v;
        if (c->input == INPUT_ZEROS && (count == 1 || draw_integer(d, 0, 2) == 0))
            v = 0;
        p[j] = rounded(format_param(c->dtype), v);
    }
    return p;
}

/* The mean of z over the rows. */
static double mean_of_z(const inputs *in, const test_case *c, int64_t j)
{
    double s = in->pre ? in->pre[c->pre_scale == FBN_SCALE_FEATURE ? j : 0] : 1, sum = 0;
    for (int64_t n = 0; n < c->n; n++)
        for (int64_t k = 0; k < c->i; k++)
            sum += in->x[n * c->i + k] * in->w[j * c->i + k];
    return s * (sum / (double)c->n + (in->bias ? in->bias[j] : 0));
}

/* About 0 and 1; where x is far from 0, as if learnt from such x: about the mean of z. */
static void draw_running(inputs *in, const test_case *c, draws *d)
{
    bool learnt =
        !c->training && c->n > 0 && (c->input == INPUT_OFFSET || c->input == INPUT_OFFSET_EXACT);
    in->running_mean = values(c->o);
    in->running_var = values(c->o);
    for (int64_t j = 0; j < c->o; j++) {
        double centre = learnt ? mean_of_z(in, c, j) : 0;
        in->running_mean[j] = rounded(format_param(c->dtype), centre + draw_normal(d));
        in->running_var[j] = rounded(format_param(c->dtype), draw_uniform(d, 0.5, 2));
    }
}

void inputs_draw(inputs *in, const test_case *c, uint64_t seed)
{
    char name[CASE_NAME_SIZE];
    draws d = draws_named(seed, case_numbers_name(c, name, sizeof name));
    in->x = values(c->n * c->i);
    in->w = values(c->o * c->i);
    in->dy = values(c->n * c->o);
    draw_x(in, c, &d);
    draw_w(in, c, &d);
    if (c->input == INPUT_RECIPROCAL)
        scale_columns(in, c, &d);
    if (c->input == INPUT_ROWS)
        scale_rows(in, c, &d);
    place_nonfinite(in, c, &d);
    for (int64_t e = 0; e < c->n * c->o; e++)
        in->dy[e] = rounded(c->dtype, draw_normal(&d));
    if (c->input == INPUT_GRADIENTS)
        scale_gradients(in, c, &d);

    in->bias = c->bias ? draw_parameter(c, c->o, 0, &d) : NULL;
    in->pre =
        c->pre_scale ? draw_parameter(c, c->pre_scale == FBN_SCALE_SCALAR ? 1 : c->o, 1, &d) : NULL;
    in->post = c->post_scale
                   ? draw_parameter(c, c->post_scale == FBN_SCALE_SCALAR ? 1 : c->o, 1, &d)
                   : NULL;
    in->gamma = c->gamma ? draw_parameter(c, c->o, 1, &d) : NULL;
    in->beta = c->beta ? draw_parameter(c, c->o, 0, &d) : NULL;
    in->running_mean = in->running_var = NULL;
    if (c->running || !c->training)
        draw_running(in, c, &d);
}

void inputs_free(inputs *in)
{
    free(in->x), free(in->w), free(in->dy), free(in->bias), free(in->pre), free(in->post);
    free(in->gamma), free(in->beta), free(in->running_mean), free(in->running_var);
    *in = (inputs){0};
}

problem inputs_problem(const test_case *c, const inputs *in)
{
    problem p = {.n = c->n,
                 .i = c->i,
                 .o = c->o,
                 .pre_scale = c->pre_scale,
                 .post_scale = c->post_scale,
                 .activation = c->activation,
                 .training = c->training,
                 .eps = c->eps,
                 .momentum = case_desc(c).momentum,
                 .tf32 = c->math == FBN_MATH_TF32,
                 .flags = case_layer_flags(c),
                 .x = in->x,
                 .w = in->w,
                 .dy = in->dy,
                 .bias = in->bias,
                 .pre = in->pre,
                 .post = in->post,
                 .gamma = in->gamma,
                 .beta = in->beta,
                 .running_mean = in->running_mean,
                 .running_var = in->running_var,
                 .tracked = c->tracked != TRACKED_ABSENT,
                 .batches = case_batches(c)};
    return p;
}
