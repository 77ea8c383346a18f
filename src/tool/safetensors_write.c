/* SPDX-License-Identifier: BSD-3-Clause
 * Writing safetensors: the header, and the order of the tensors.
 */
#include "json_watch.h"
#include "safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_tensors(const void *left, const void *right)
{
    const struct tensor *a = *(const struct tensor *const *)left;
    const struct tensor *b = *(const struct tensor *const *)right;

    if (a->dtype != b->dtype) {
        return a->dtype > b->dtype ? -1 : 1;
    }
    return strcmp(a->name, b->name);
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, or NULL. */
static json_t *describe(const struct tensor *tensor, json_int_t begin)
{
    json_t *shape = json_array(), *entry;

    for (size_t i = 0; i < tensor->ndim && shape != NULL; i++) {
        if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
            json_decref(shape);
            shape = NULL;
        }
    }
    if (shape == NULL) {
        return NULL;
    }
    entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(tensor->dtype), "shape", shape,
                      "data_offsets", begin, begin + (json_int_t)tensor->nbytes);
    return entry;
}

/* The tensors' part of the header as JSON text, freed with free(), or NULL where memory is out. */
static char *tensors_text(const struct tensor_set *set, const struct tensor *const *order)
{
    json_t *root;
    json_int_t begin = 0;
    char *text = NULL;

    json_watch_begin();
    root = json_object();
    for (size_t i = 0; i < set->count; i++) {
        if (json_object_set_new(root, order[i]->name, describe(order[i], begin)) != 0) {
            goto out;
        }
        begin += (json_int_t)order[i]->nbytes;
    }
    text = json_dumps(root, JSON_COMPACT);
    if (json_watch_failed()) {
        free(text);
        text = NULL;
    }
out:
    json_decref(root);
    return text;
}

/* The whole header, with the metadata, which are JSON text already, before the tensors. */
static char *header_text(const struct tensor_set *set, const struct tensor *const *order)
{
    static const char begin[] = "{\"__metadata__\":";
    char *tensors = tensors_text(set, order), *text;
    size_t size;

    if (tensors == NULL || set->metadata == NULL) {
        return tensors;
    }
    size = sizeof begin + strlen(set->metadata) + 1 + strlen(tensors);
    text = malloc(size);
    if (text != NULL) {
        snprintf(text, size, "%s%s%s%s", begin, set->metadata, set->count > 0 ? "," : "",
                 tensors + 1);
    }
    free(tensors);
    return text;
}

/* Puts the length before the JSON text and pads it, so that the data begins at a multiple of 8. */
static enum file_status frame_header(const char *text, struct pieces *pieces,
                                     struct file_error *err)
{
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;

    if (padded > SAFETENSORS_MAX_HEADER) {
        return file_fail(err, FILE_HEADER_TOO_LARGE,
                         "the header would be %zu bytes long, above safetensors' limit of %d",
                         padded, SAFETENSORS_MAX_HEADER);
    }
    pieces->header = malloc(8 + padded);
    if (pieces->header == NULL) {
        return file_fail_memory(err, 8 + padded);
    }
    for (int i = 0; i < 8; i++) {
        pieces->header[i] = (char)((uint64_t)padded >> (8 * i) & 0xff);
    }
    memcpy(pieces->header + 8, text, length);
    memset(pieces->header + 8 + length, ' ', padded - length);
    pieces->list[0] = (struct piece){pieces->header, 8 + padded};
    return FILE_OK;
}

enum file_status safetensors_layout(const struct tensor_set *set, struct pieces *pieces,
                                    struct file_error *err)
{
    const struct tensor **order = calloc(set->count + 1, sizeof *order);
    char *text = NULL;
    enum file_status status;

    memset(pieces, 0, sizeof *pieces);
    pieces->list = calloc(set->count + 1, sizeof *pieces->list);
    if (order == NULL || pieces->list == NULL) {
        status = file_fail_memory(err, (uint64_t)(set->count + 1) * sizeof *pieces->list);
        goto out;
    }
    for (size_t i = 0; i < set->count; i++) {
        order[i] = &set->tensors[i];
    }
    if (set->count > 1) {
        qsort(order, set->count, sizeof *order, compare_tensors);
    }
    text = header_text(set, order);
    if (text == NULL) {
        status = file_fail_memory(err, 0);
        goto out;
    }
    status = frame_header(text, pieces, err);
    for (size_t i = 0; i < set->count && status == FILE_OK; i++) {
        pieces->list[1 + i] = (struct piece){order[i]->data, order[i]->nbytes};
    }
    pieces->count = set->count + 1;
out:
    free(text);
    free(order);
    if (status != FILE_OK) {
        pieces_free(pieces);
    }
    return status;
}
