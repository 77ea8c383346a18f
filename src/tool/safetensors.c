/* SPDX-License-Identifier: BSD-3-Clause
 * Reading safetensors:
 *
 *     length, 8 bytes little-endian | header, JSON of that length | data
 *     header: {"__metadata__": {"k": "v"}, "name": {"dtype": "F32", "shape": [2], "data_offsets":
 *             [begin, end]}, ...}                              offsets count from the data's start
 */
#include "safetensors.h"
#include "json_watch.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define METADATA "__metadata__"

/* A tensor and where its header says that it lies. */
struct entry {
    uint64_t begin, end;
    struct tensor tensor;
};

/* Finds the header's JSON; what follows it is data. */
static enum file_status find_header(const unsigned char *bytes, size_t size, size_t *length,
                                    struct file_error *err)
{
    const unsigned char *header = bytes + 8;
    uint64_t n = 0;
    size_t end;

    if (size < 8) {
        return file_fail(err, FILE_TRUNCATED,
                         "the file has %zu bytes, too few for a safetensors header's length", size);
    }
    for (int i = 7; i >= 0; i--) {
        n = n << 8 | bytes[i];
    }
    if (n > SAFETENSORS_MAX_HEADER) {
        return file_fail(err, FILE_HEADER_TOO_LARGE,
                         "the header's length is %" PRIu64 ", above safetensors' limit of %d", n,
                         SAFETENSORS_MAX_HEADER);
    }
    if (n > size - 8) {
        return file_fail(err, FILE_TRUNCATED,
                         "the header is %" PRIu64 " bytes long, but %zu remain", n, size - 8);
    }
    if (n == 0 || header[0] != '{') {
        return file_fail(err, FILE_BAD_HEADER, "the header does not begin with '{'");
    }
    for (end = (size_t)n; header[end - 1] == ' ';) {
        end--;
    }
    if (header[end - 1] != '}') { /* JSON allows more kinds of white space, the format does not */
        return file_fail(err, FILE_BAD_HEADER,
                         "the header does not end in '}' and then nothing but spaces");
    }
    *length = (size_t)n;
    return FILE_OK;
}

static enum file_status parse_json(const unsigned char *text, size_t length, json_t **root,
                                   struct file_error *err)
{
    json_error_t error;
    enum file_status status = FILE_BAD_HEADER;

    json_watch_begin();
    *root = json_loadb((const char *)text, length, JSON_REJECT_DUPLICATES, &error);
    if (json_watch_failed()) {
        return file_fail_memory(err, 0);
    }
    if (*root != NULL) {
        return FILE_OK;
    }
    if (json_error_code(&error) == json_error_duplicate_key) {
        status = FILE_DUPLICATE_KEY;
    }
    return file_fail(err, status, "the header is not proper JSON: %s (byte %d)",
                     quote(error.text).text, error.position);
}

/* Keeps the __metadata__ object as text. */
static enum file_status keep_metadata(json_t *value, char **metadata, struct file_error *err)
{
    void *iterator;

    if (!json_is_object(value)) {
        return file_fail(err, FILE_BAD_METADATA, "'" METADATA "' is not an object of strings");
    }
    for (iterator = json_object_iter(value); iterator != NULL;
         iterator = json_object_iter_next(value, iterator)) {
        if (!json_is_string(json_object_iter_value(iterator))) {
            return file_fail(err, FILE_BAD_METADATA, "'" METADATA "' has '%s', which is no string",
                             quote(json_object_iter_key(iterator)).text);
        }
    }
    json_watch_begin();
    *metadata = json_dumps(value, JSON_COMPACT);
    return *metadata != NULL && !json_watch_failed() ? FILE_OK : file_fail_memory(err, 0);
}

/* The value of a key that a tensor's object must have. */
static enum file_status get_field(const char *name, const json_t *object, const char *key,
                                  const json_t **value, struct file_error *err)
{
    *value = json_object_get(object, key);
    if (*value == NULL) {
        return file_fail(err, FILE_MISSING_KEY, "tensor '%s' has no '%s'", quote(name).text, key);
    }
    return FILE_OK;
}

static enum file_status parse_dtype(const char *name, const json_t *value, enum dtype *dtype,
                                    struct file_error *err)
{
    if (!json_is_string(value)) {
        return file_fail(err, FILE_BAD_DTYPE, "tensor '%s' has a dtype that is no string",
                         quote(name).text);
    }
    if (!dtype_from_name(json_string_value(value), dtype)) {
        return file_fail(err, FILE_BAD_DTYPE, "tensor '%s' has the unknown dtype '%s'",
                         quote(name).text, quote(json_string_value(value)).text);
    }
    return FILE_OK;
}

/* Fills *tensor but for its data. */
static enum file_status parse_shape(const char *name, enum dtype dtype, const json_t *value,
                                    struct tensor *tensor, struct file_error *err)
{
    size_t ndim = json_array_size(value);
    int64_t *shape = calloc(ndim + 1, sizeof *shape);
    enum file_status status = FILE_OK;

    if (shape == NULL) {
        return file_fail_memory(err, (ndim + 1) * sizeof *shape);
    }
    if (!json_is_array(value)) {
        status = file_fail(err, FILE_BAD_SHAPE, "tensor '%s' has a shape that is no list",
                           quote(name).text);
    }
    for (size_t i = 0; i < ndim && status == FILE_OK; i++) {
        const json_t *size = json_array_get(value, i);

        if (!json_is_integer(size)) {
            status = file_fail(err, FILE_BAD_SHAPE,
                               "tensor '%s' has a shape of other things than integers",
                               quote(name).text);
        } else if (json_integer_value(size) < 0) {
            status = file_fail(err, FILE_BAD_SHAPE,
                               "tensor '%s' has a size of %" JSON_INTEGER_FORMAT " in its shape",
                               quote(name).text, json_integer_value(size));
        } else {
            shape[i] = json_integer_value(size);
        }
    }
    if (status == FILE_OK) {
        status = tensor_init(tensor, name, dtype, ndim, shape, err);
    }
    free(shape);
    return status;
}

static enum file_status parse_offsets(const char *name, const json_t *value, struct entry *entry,
                                      struct file_error *err)
{
    const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);

    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        return file_fail(err, FILE_BAD_OFFSETS,
                         "tensor '%s' has data_offsets that are not two "
                         "integers",
                         quote(name).text);
    }
    if (json_integer_value(begin) < 0 || json_integer_value(begin) > json_integer_value(end)) {
        return file_fail(err, FILE_BAD_OFFSETS,
                         "tensor '%s' has data_offsets [%" JSON_INTEGER_FORMAT
                         ", %" JSON_INTEGER_FORMAT "], which are not 0 <= begin <= end",
                         quote(name).text, json_integer_value(begin), json_integer_value(end));
    }
    entry->begin = (uint64_t)json_integer_value(begin);
    entry->end = (uint64_t)json_integer_value(end);
    return FILE_OK;
}

/* Element type and shape must make exactly the bytes of the range. */
static enum file_status check_size(struct entry *entry, struct file_error *err)
{
    const struct tensor *t = &entry->tensor;
    int64_t count;
    uint64_t bytes;

    if (!shape_count(t->shape, t->ndim, &count)) {
        return file_fail(err, FILE_SIZE_OVERFLOW,
                         "tensor '%s' has shape %s, whose product does not fit in 64 bits",
                         quote(t->name).text, shape_text(t).text);
    }
    if (!dtype_bytes(t->dtype, count, &bytes)) {
        return file_fail(err, FILE_SIZE_OVERFLOW,
                         "tensor '%s' of shape %s and dtype %s has no whole number of bytes that "
                         "fits in 64 bits",
                         quote(t->name).text, shape_text(t).text, dtype_name(t->dtype));
    }
    if (bytes != entry->end - entry->begin) {
        return file_fail(err, FILE_SIZE_MISMATCH,
                         "tensor '%s' of shape %s and dtype %s has %" PRIu64
                         " bytes, but data_offsets [%" PRIu64 ", %" PRIu64 "] span %" PRIu64,
                         quote(t->name).text, shape_text(t).text, dtype_name(t->dtype), bytes,
                         entry->begin, entry->end, entry->end - entry->begin);
    }
    return FILE_OK;
}

/* Reads one tensor's object; *entry is zero before, and is to be freed after a failure too. */
static enum file_status parse_entry(const char *name, const json_t *object, struct entry *entry,
                                    struct file_error *err)
{
    const json_t *dtype_value, *shape_value, *offsets_value;
    enum dtype dtype = DT_U8;
    enum file_status status;

    if (!json_is_object(object)) {
        return file_fail(err, FILE_BAD_HEADER, "tensor '%s' is described by no object",
                         quote(name).text);
    }
    if ((status = get_field(name, object, "dtype", &dtype_value, err)) != FILE_OK ||
        (status = get_field(name, object, "shape", &shape_value, err)) != FILE_OK ||
        (status = get_field(name, object, "data_offsets", &offsets_value, err)) != FILE_OK) {
        return status;
    }
    if (json_object_size(object) != 3) {
        return file_fail(err, FILE_UNKNOWN_KEY,
                         "tensor '%s' has keys other than dtype, shape and data_offsets",
                         quote(name).text);
    }
    if ((status = parse_dtype(name, dtype_value, &dtype, err)) != FILE_OK ||
        (status = parse_shape(name, dtype, shape_value, &entry->tensor, err)) != FILE_OK ||
        (status = parse_offsets(name, offsets_value, entry, err)) != FILE_OK) {
        return status;
    }
    return check_size(entry, err);
}

/* By place; empty tensors before the one that begins where they lie, and then by name. */
static int compare_entries(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;

    if (a->begin != b->begin) {
        return a->begin < b->begin ? -1 : 1;
    }
    if (a->end != b->end) {
        return a->end < b->end ? -1 : 1;
    }
    return strcmp(a->tensor.name, b->tensor.name);
}

/* Sorts the entries, checks that they tile the data, and points each tensor at its bytes. */
static enum file_status place_entries(struct entry *entries, size_t count,
                                      const unsigned char *data, uint64_t size,
                                      struct file_error *err)
{
    uint64_t covered = 0;

    if (count > 1) {
        qsort(entries, count, sizeof *entries, compare_entries);
    }
    for (size_t i = 0; i < count; i++) {
        struct entry *e = &entries[i];

        if (e->begin > covered) {
            return file_fail(err, FILE_HOLE,
                             "tensor '%s' begins at byte %" PRIu64 " of the data, but the bytes "
                             "from %" PRIu64 " on belong to no tensor",
                             quote(e->tensor.name).text, e->begin, covered);
        }
        if (e->begin < covered) { /* covered > 0, so there is an entry before */
            return file_fail(err, FILE_OVERLAP,
                             "tensor '%s' begins at byte %" PRIu64 " of the data, before byte "
                             "%" PRIu64 ", where tensor '%s' ends",
                             quote(e->tensor.name).text, e->begin, covered,
                             quote(e[-1].tensor.name).text);
        }
        if (e->end > size) {
            return file_fail(err, FILE_TRUNCATED,
                             "tensor '%s' ends at byte %" PRIu64 " of the data, but the file has "
                             "%" PRIu64 " bytes of data",
                             quote(e->tensor.name).text, e->end, size);
        }
        covered = e->end;
        e->tensor.data = data + e->begin;
        e->tensor.nbytes = (size_t)(e->end - e->begin);
    }
    if (covered != size) {
        return file_fail(err, FILE_TRAILING_BYTES,
                         "%" PRIu64 " bytes follow the last tensor's data", size - covered);
    }
    return FILE_OK;
}

/* Reads the whole header into *set and an array of entries. */
static enum file_status parse_entries(json_t *root, struct tensor_set *set, struct entry **entries,
                                      size_t *count, struct file_error *err)
{
    enum file_status status = FILE_OK;
    size_t size = json_object_size(root);
    void *iterator;

    *entries = calloc(size + 1, sizeof **entries);
    if (*entries == NULL) {
        return file_fail_memory(err, (uint64_t)(size + 1) * sizeof **entries);
    }
    for (iterator = json_object_iter(root); iterator != NULL && status == FILE_OK;
         iterator = json_object_iter_next(root, iterator)) {
        const char *name = json_object_iter_key(iterator);
        json_t *value = json_object_iter_value(iterator);

        if (strcmp(name, METADATA) == 0) {
            status = keep_metadata(value, &set->metadata, err);
        } else {
            status = parse_entry(name, value, &(*entries)[(*count)++], err);
        }
    }
    return status;
}

enum file_status safetensors_parse(const unsigned char *bytes, size_t size, struct tensor_set *set,
                                   struct file_error *err)
{
    json_t *root = NULL;
    struct entry *entries = NULL;
    size_t length = 0, count = 0;
    enum file_status status;

    memset(set, 0, sizeof *set);
    if ((status = find_header(bytes, size, &length, err)) != FILE_OK ||
        (status = parse_json(bytes + 8, length, &root, err)) != FILE_OK ||
        (status = parse_entries(root, set, &entries, &count, err)) != FILE_OK ||
        (status = place_entries(entries, count, bytes + 8 + length, size - 8 - length, err)) !=
            FILE_OK) {
        goto out;
    }
    set->tensors = calloc(count + 1, sizeof *set->tensors);
    if (set->tensors == NULL) {
        status = file_fail_memory(err, (uint64_t)(count + 1) * sizeof *set->tensors);
        goto out;
    }
    for (; set->count < count; set->count++) {
        set->tensors[set->count] = entries[set->count].tensor;
        memset(&entries[set->count].tensor, 0, sizeof entries->tensor);
    }
out:
    for (size_t i = 0; i < count; i++) {
        tensor_free(&entries[i].tensor);
    }
    free(entries);
    json_decref(root);
    if (status != FILE_OK) {
        tensor_set_free(set);
    }
    return status;
}
