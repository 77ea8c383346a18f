/* SPDX-License-Identifier: BSD-3-Clause
 * The layer that the command's tests compute with: its files, and what comes out of it.
 *
 * x has two columns c, d with sum 0, c·d = 0 and c·c = d·d = 10 over its 5 rows, and a constant
 * one. Each feature weighs c and d by ±2^k, so that its variance is 2 (4^k + 4^k) = 4^(k+1), which
 * with --eps 0 has an exact root; N / (N − 1) is 5/4. All else is small integers and powers of 2.
 */
#include "convert.h"
#include "tool_harness.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const double layer_x[ROWS][INPUTS] = {{-2, -1, 3}, {-1, 2, 3}, {0, 0, 3}, {1, -2, 3}, {2, 1, 3}};
const double layer_weight[FEATURES][INPUTS] = {{1, 1, 2}, {2, -2, 1}, {-0.5, 0.5, 0}, {4, 4, -1}};
static const double bias[FEATURES] = {1, -2, 0, 3};
static const double scale[FEATURES] = {2, -1, 0.5, 4};
static const double gamma_[FEATURES] = {1, 3, -2, 0.5};
static const double beta[FEATURES] = {-1, 0, 2, 5};
static const double mean[FEATURES] = {1, 2, -3, 4};
static const double var[FEATURES] = {1, 4, 16, 0.25};
static const double count = 3;

const struct layer full_layer = {"", DT_F32, DT_F32, true, true, true, true, true, FEATURES};
const struct chain_name chains[2] = {{"linear-scale-bn", true}, {"linear-bn-scale-softmax", false}};
const struct type_name types[4] = {
    {DT_F64, "f64"}, {DT_F32, "f32"}, {DT_BF16, "bf16"}, {DT_F16, "f16"}};

void add_tensor(struct tensor_set *set, const char *name, enum dtype dtype, size_t ndim,
                const int64_t *shape, const double *values)
{
    struct tensor *t;
    struct file_error err;
    int64_t n;

    set->tensors = realloc(set->tensors, (set->count + 1) * sizeof *set->tensors);
    ck_assert_ptr_nonnull(set->tensors);
    t = &set->tensors[set->count++];
    ck_assert_int_eq(tensor_create(t, name, dtype, ndim, shape, &err), FILE_OK);
    ck_assert(shape_count(shape, ndim, &n));
    if (dtype_is_float(dtype)) {
        convert_elements(values, DT_F64, t->owned, dtype, (size_t)n);
        return;
    }
    for (size_t i = 0, width = dtype_bits(dtype) / 8; i < (size_t)n; i++) {
        int64_t integer = (int64_t)values[i]; /* little-endian hosts alone, as in convert.c */

        memcpy(t->owned + i * width, &integer, width);
    }
}

static void add_param(struct tensor_set *set, const struct layer *layer, bool present,
                      const char *name, enum dtype dtype, size_t ndim, const int64_t *shape,
                      const double *values)
{
    char full[64];

    if (present) {
        strcpy(full, layer->prefix);
        strcat(full, name);
        add_tensor(set, full, dtype, ndim, shape, values);
    }
}

void make_model(const struct layer *layer, struct tensor_set *set)
{
    const int64_t matrix[] = {FEATURES, INPUTS}, vector[] = {FEATURES}, one[] = {1};
    const double other[] = {7, 8, 9, 10};
    enum dtype p = layer->param_dtype;

    memset(set, 0, sizeof *set);
    add_param(set, layer, true, "gemm.weight", layer->weight_dtype, 2, matrix, layer_weight[0]);
    add_param(set, layer, layer->bias, "gemm.bias", p, 1, vector, bias);
    add_param(set, layer, layer->scale > 0, "scale", p, 1, layer->scale == 1 ? one : vector, scale);
    add_param(set, layer, layer->gamma, "bn.weight", p, 1, vector, gamma_);
    add_param(set, layer, layer->beta, "bn.bias", p, 1, vector, beta);
    add_param(set, layer, layer->statistics, "bn.running_mean", p, 1, vector, mean);
    add_param(set, layer, layer->statistics, "bn.running_var", p, 1, vector, var);
    add_param(set, layer, layer->count, "bn.num_batches_tracked", DT_I64, 0, NULL, &count);
    add_tensor(set, "other.codes", DT_U8, 2, (const int64_t[]){2, 2}, other);
    add_tensor(set, "other.halves", DT_F16, 1, (const int64_t[]){4}, other);
    set->metadata = malloc(32);
    ck_assert_ptr_nonnull(set->metadata);
    strcpy(set->metadata, "{\"format\":\"pt\"}");
}

void make_input(const char *name, enum dtype dtype, struct tensor_set *set)
{
    memset(set, 0, sizeof *set);
    add_tensor(set, name, dtype, 2, (const int64_t[]){ROWS, INPUTS}, layer_x[0]);
}

static double scale_of(const struct layer *layer, int feature)
{
    return layer->scale == 0 ? 1 : layer->scale == 1 ? scale[0] : scale[feature];
}

/* Mean and population variance of z, a column. */
static void batch_moments(const double z[ROWS], double *mu, double *sigma2)
{
    *mu = *sigma2 = 0;
    for (int n = 0; n < ROWS; n++) {
        *mu += z[n];
    }
    *mu /= ROWS;
    for (int n = 0; n < ROWS; n++) {
        *sigma2 += (z[n] - *mu) * (z[n] - *mu);
    }
    *sigma2 /= ROWS;
}

void compute_expected(const struct layer *layer, const struct chain_name *chain, bool train,
                      struct expected *expected)
{
    for (int o = 0; o < FEATURES; o++) {
        double s = chain->scale_first ? scale_of(layer, o) : 1;
        double t = chain->scale_first ? 1 : scale_of(layer, o);
        double z[ROWS], mu = mean[o], sigma2 = var[o];

        for (int n = 0; n < ROWS; n++) {
            double u = layer->bias ? bias[o] : 0;

            for (int i = 0; i < INPUTS; i++) {
                u += layer_x[n][i] * layer_weight[o][i];
            }
            z[n] = s * u;
        }
        expected->mean[o] = mu;
        expected->var[o] = sigma2;
        if (train) {
            batch_moments(z, &mu, &sigma2);
            expected->mean[o] = 0.5 * mean[o] + 0.5 * mu;
            expected->var[o] = 0.5 * var[o] + 0.5 * sigma2 * ROWS / (ROWS - 1);
        }
        for (int n = 0; n < ROWS; n++) {
            double normal = (z[n] - mu) / sqrt(sigma2);

            expected->v[n][o] =
                t * ((layer->gamma ? gamma_[o] : 1) * normal + (layer->beta ? beta[o] : 0));
        }
    }
}

double layer_slack(enum dtype param_dtype)
{
    return 8 * 64 * (param_dtype == DT_F64 ? DBL_EPSILON : FLT_EPSILON) / 2;
}

static double last_place(double value, enum dtype dtype)
{
    double epsilon = dtype == DT_F64    ? DBL_EPSILON
                     : dtype == DT_F32  ? FLT_EPSILON
                     : dtype == DT_BF16 ? 0x1p-7
                                        : 0x1p-10;

    return fabs(value) * epsilon;
}

void check_values(const struct tensor *tensor, enum dtype dtype, size_t ndim, const int64_t *shape,
                  const double *expected, enum dtype via, enum dtype param_dtype)
{
    size_t n;

    ck_assert_ptr_nonnull(tensor);
    ck_assert_str_eq(dtype_name(tensor->dtype), dtype_name(dtype));
    ck_assert_uint_eq(tensor->ndim, ndim);
    for (size_t i = 0; i < ndim; i++) {
        ck_assert_int_eq(tensor->shape[i], shape[i]);
    }
    n = tensor->nbytes / (dtype_bits(dtype) / 8);
    for (size_t i = 0; i < n; i++) {
        double found, back;
        uint64_t rounded = 0;

        convert_elements(tensor->data + i * (dtype_bits(dtype) / 8), dtype, &found, DT_F64, 1);
        convert_elements(&found, DT_F64, &rounded, via, 1);
        convert_elements(&rounded, via, &back, DT_F64, 1);
        ck_assert_msg(back == found, "%.17g was not rounded to %s", found, dtype_name(via));
        ck_assert_msg(fabs(found - expected[i]) <=
                          last_place(expected[i], via) + layer_slack(param_dtype),
                      "%s[%zu] is %.17g, not %.17g", tensor->name != NULL ? tensor->name : "y", i,
                      found, expected[i]);
    }
}

void check_unchanged(const struct tensor_set *before, const struct tensor_set *after,
                     const char *name)
{
    const struct tensor *a = tensor_set_find(before, name), *b = tensor_set_find(after, name);

    ck_assert_msg(a != NULL && b != NULL, "there is no %s", name);
    ck_assert(a->dtype == b->dtype && a->ndim == b->ndim && a->nbytes == b->nbytes);
    ck_assert(memcmp(a->data, b->data, a->nbytes) == 0);
    ck_assert(a->ndim == 0 || memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0);
}
