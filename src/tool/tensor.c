/* SPDX-License-Identifier: BSD-3-Clause
 * Tensors as they lie in files: element types, sizes, ownership.
 */
#include "tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bits;
    const char *npy;
} dtypes[DT_COUNT] = {
#define DTYPE_ROW(name, bits, npy) [DT_##name] = {#name, bits, npy},
    DTYPES(DTYPE_ROW)
#undef DTYPE_ROW
};

const char *dtype_name(enum dtype dtype)
{
    return dtypes[dtype].name;
}

unsigned dtype_bits(enum dtype dtype)
{
    return dtypes[dtype].bits;
}

const char *dtype_npy(enum dtype dtype)
{
    return dtypes[dtype].npy;
}

bool dtype_from_name(const char *name, enum dtype *dtype)
{
    for (int i = 0; i < DT_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *dtype = (enum dtype)i;
            return true;
        }
    }
    return false;
}

bool shape_count(const int64_t *shape, size_t ndim, int64_t *count)
{
    int64_t product = 1;
    bool empty = false;

    for (size_t i = 0; i < ndim; i++) {
        if (shape[i] == 0) {
            empty = true;
        } else if (product > INT64_MAX / shape[i]) {
            return false;
        } else {
            product *= shape[i];
        }
    }
    *count = empty ? 0 : product;
    return true;
}

bool dtype_bytes(enum dtype dtype, int64_t count, uint64_t *bytes)
{
    uint64_t bits = dtypes[dtype].bits, n = (uint64_t)count;
    uint64_t whole = n / 8 * bits, rest = n % 8 * bits; /* n·bits = 8·whole + rest */

    if (n / 8 > INT64_MAX / bits - 1 || rest % 8 != 0) {
        return false;
    }
    *bytes = whole + rest / 8;
    return true;
}

struct quoted shape_text(const struct tensor *tensor)
{
    struct quoted out;
    size_t used = 1;

    strcpy(out.text, "[");
    for (size_t i = 0; i < tensor->ndim; i++) {
        if (sizeof out.text - used < 32) { /* the longest size, ", ...]" and the end */
            used += (size_t)snprintf(out.text + used, sizeof out.text - used, ", ...");
            break;
        }
        used += (size_t)snprintf(out.text + used, sizeof out.text - used, "%s%" PRId64,
                                 i > 0 ? ", " : "", tensor->shape[i]);
    }
    strcpy(out.text + used, "]");
    return out;
}

enum file_status tensor_init(struct tensor *tensor, const char *name, enum dtype dtype, size_t ndim,
                             const int64_t *shape, struct file_error *err)
{
    memset(tensor, 0, sizeof *tensor);
    tensor->dtype = dtype;
    if (name != NULL) {
        size_t size = strlen(name) + 1;

        tensor->name = malloc(size);
        if (tensor->name == NULL) {
            return file_fail_memory(err, size);
        }
        memcpy(tensor->name, name, size);
    }
    if (ndim > 0) {
        tensor->shape = malloc(ndim * sizeof *shape);
        if (tensor->shape == NULL) {
            return file_fail_memory(err, ndim * sizeof *shape);
        }
        memcpy(tensor->shape, shape, ndim * sizeof *shape);
        tensor->ndim = ndim;
    }
    return FILE_OK;
}

enum file_status tensor_create(struct tensor *tensor, const char *name, enum dtype dtype,
                               size_t ndim, const int64_t *shape, struct file_error *err)
{
    enum file_status status = tensor_init(tensor, name, dtype, ndim, shape, err);
    int64_t count;
    uint64_t bytes;

    if (status != FILE_OK) {
        return status;
    }
    if (!shape_count(shape, ndim, &count) || !dtype_bytes(dtype, count, &bytes) ||
        bytes >= SIZE_MAX) {
        return file_fail(err, FILE_SIZE_OVERFLOW, "a tensor of shape %s is too large for memory",
                         shape_text(tensor).text);
    }
    tensor->owned = malloc((size_t)bytes + 1); /* + 1: an empty tensor's data is not NULL */
    if (tensor->owned == NULL) {
        return file_fail_memory(err, bytes);
    }
    tensor->data = tensor->owned;
    tensor->nbytes = (size_t)bytes;
    return FILE_OK;
}

void tensor_free(struct tensor *tensor)
{
    free(tensor->name);
    free(tensor->shape);
    free(tensor->owned);
    memset(tensor, 0, sizeof *tensor);
}

struct tensor *tensor_set_find(const struct tensor_set *set, const char *name)
{
    for (size_t i = 0; i < set->count; i++) {
        if (set->tensors[i].name != NULL && strcmp(set->tensors[i].name, name) == 0) {
            return &set->tensors[i];
        }
    }
    return NULL;
}

void tensor_set_free(struct tensor_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        tensor_free(&set->tensors[i]);
    }
    free(set->tensors);
    free(set->metadata);
    free(set->bytes);
    memset(set, 0, sizeof *set);
}

void pieces_free(struct pieces *pieces)
{
    free(pieces->header);
    free(pieces->list);
    memset(pieces, 0, sizeof *pieces);
}
