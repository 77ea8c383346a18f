/* SPDX-License-Identifier: BSD-3-Clause
 * A layer's tensors within a file: names, element types and shapes.
 *
 * The names are those of the modules in KernelBench's problems 33, 39 and 84 of level 2: `gemm`
 * (torch.nn.Linear), `bn` (torch.nn.BatchNorm1d) and the parameter `scale`.
 */
#include "model.h"
#include "convert.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT "gemm.weight"
#define MEAN "bn.running_mean"
#define VAR "bn.running_var"

enum shape_rule { SHAPE_FEATURES, SHAPE_ONE, SHAPE_ONE_OR_FEATURES };

/* The optional tensors, as fields of struct model. */
static const struct {
    const char *name;
    size_t field;
    enum shape_rule shape;
    bool count; /* I64, instead of a float type */
} optional[] = {
    {"gemm.bias", offsetof(struct model, bias), SHAPE_FEATURES, false},
    {"scale", offsetof(struct model, scale), SHAPE_ONE_OR_FEATURES, false},
    {"bn.weight", offsetof(struct model, gamma), SHAPE_FEATURES, false},
    {"bn.bias", offsetof(struct model, beta), SHAPE_FEATURES, false},
    {MEAN, offsetof(struct model, mean), SHAPE_FEATURES, false},
    {VAR, offsetof(struct model, var), SHAPE_FEATURES, false},
    {"bn.num_batches_tracked", offsetof(struct model, count), SHAPE_ONE, true},
};

/* Looks prefix + name up. FILE_OK with *tensor NULL where there is none. */
static enum file_status find(const struct tensor_set *set, const char *prefix, const char *name,
                             struct tensor **tensor, struct file_error *err)
{
    size_t head = strlen(prefix), size = head + strlen(name) + 1;
    char *full = malloc(size);

    if (full == NULL) {
        return file_fail_memory(err, size);
    }
    memcpy(full, prefix, head);
    memcpy(full + head, name, size - head);
    *tensor = tensor_set_find(set, full);
    free(full);
    return FILE_OK;
}

static enum file_status fail_missing(const struct tensor_set *set, const char *prefix,
                                     struct file_error *err)
{
    for (size_t i = 0; i < set->count; i++) {
        const char *name = set->tensors[i].name;
        size_t length = strlen(name), tail = strlen(WEIGHT);

        if (length >= tail && strcmp(name + length - tail, WEIGHT) == 0) {
            return file_fail(err, FILE_MISSING_TENSOR,
                             "there is no tensor '%s" WEIGHT "'; there is '%s' (see --prefix)",
                             quote(prefix).text, quote(name).text);
        }
    }
    return file_fail(err, FILE_MISSING_TENSOR, "there is no tensor '%s" WEIGHT "'",
                     quote(prefix).text);
}

static enum file_status check_dtype(const struct tensor *t, bool count, struct file_error *err)
{
    if (count ? t->dtype == DT_I64 : dtype_is_float(t->dtype)) {
        return FILE_OK;
    }
    return file_fail(err, FILE_WRONG_DTYPE, "tensor '%s' has dtype %s, but must have %s",
                     quote(t->name).text, dtype_name(t->dtype),
                     count ? "I64" : "F64, F32, BF16 or F16");
}

static enum file_status check_weight(struct model *m, struct file_error *err)
{
    const struct tensor *t = m->weight;

    if (t->ndim != 2 || t->shape[0] < 1 || t->shape[1] < 1) {
        return file_fail(err, FILE_WRONG_SHAPE,
                         "tensor '%s' has shape %s, but must have [out_features, in_features]",
                         quote(t->name).text, shape_text(t).text);
    }
    m->out_features = t->shape[0];
    m->in_features = t->shape[1];
    return check_dtype(t, false, err);
}

static enum file_status check_shape(const struct model *m, const struct tensor *t,
                                    enum shape_rule rule, struct file_error *err)
{
    bool one = t->ndim == 0 || (t->ndim == 1 && t->shape[0] == 1);
    bool features = t->ndim == 1 && t->shape[0] == m->out_features;

    if ((one && rule != SHAPE_FEATURES) || (features && rule != SHAPE_ONE)) {
        return FILE_OK;
    }
    if (rule == SHAPE_ONE) {
        return file_fail(err, FILE_WRONG_SHAPE, "tensor '%s' has shape %s, but must have one entry",
                         quote(t->name).text, shape_text(t).text);
    }
    return file_fail(
        err, FILE_WRONG_SHAPE, "tensor '%s' has shape %s, but the layer has %" PRId64 " output %s",
        quote(t->name).text, shape_text(t).text, m->out_features,
        rule == SHAPE_FEATURES ? "features" : "features (and a scale may have one entry)");
}

enum file_status model_find(const struct tensor_set *set, const char *prefix, struct model *model,
                            struct file_error *err)
{
    enum file_status status;

    memset(model, 0, sizeof *model);
    if ((status = find(set, prefix, WEIGHT, &model->weight, err)) != FILE_OK) {
        return status;
    }
    if (model->weight == NULL) {
        return fail_missing(set, prefix, err);
    }
    if ((status = check_weight(model, err)) != FILE_OK) {
        return status;
    }
    for (size_t i = 0; i < sizeof optional / sizeof optional[0]; i++) {
        struct tensor *t = NULL;

        if ((status = find(set, prefix, optional[i].name, &t, err)) != FILE_OK) {
            return status;
        }
        if (t == NULL) {
            continue;
        }
        if ((status = check_dtype(t, optional[i].count, err)) != FILE_OK ||
            (status = check_shape(model, t, optional[i].shape, err)) != FILE_OK) {
            return status;
        }
        memcpy((char *)model + optional[i].field, &t, sizeof t);
    }
    if ((model->mean == NULL) != (model->var == NULL)) {
        return model_need_statistics(model, prefix, "though the other of the two is there", err);
    }
    return FILE_OK;
}

enum file_status model_need_statistics(const struct model *model, const char *prefix,
                                       const char *why, struct file_error *err)
{
    if (model->mean != NULL && model->var != NULL) {
        return FILE_OK;
    }
    return file_fail(err, FILE_MISSING_TENSOR, "tensor '%s%s' is missing, %s", quote(prefix).text,
                     model->mean == NULL ? MEAN : VAR, why);
}
