/* SPDX-License-Identifier: BSD-3-Clause
 * The .npy format: the file around the header's dict.
 *
 *     "\x93NUMPY" major minor length dict data          length: 2 bytes in version 1.0, else 4
 */
#include "npy.h"
#include "npy_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "\x93NUMPY"
#define MAGIC_SIZE 6

/* Checks magic and version and finds the dict. */
static enum file_status find_dict(const unsigned char *bytes, size_t size, const char **dict,
                                  size_t *dict_size, struct file_error *err)
{
    size_t prefix, length = 0;

    if (size == 0) {
        return file_fail(err, FILE_TRUNCATED, "the file is empty");
    }
    if (memcmp(bytes, MAGIC, size < MAGIC_SIZE ? size : MAGIC_SIZE) != 0) {
        return file_fail(err, FILE_BAD_MAGIC, "not a .npy file: it does not begin with \\x93NUMPY");
    }
    if (size < MAGIC_SIZE + 2) {
        return file_fail(err, FILE_TRUNCATED, "the file ends after %zu bytes, within the magic",
                         size);
    }
    if (bytes[6] < 1 || bytes[6] > 3 || bytes[7] != 0) {
        return file_fail(err, FILE_BAD_VERSION, "unknown .npy version %d.%d", bytes[6], bytes[7]);
    }
    prefix = bytes[6] == 1 ? 10 : 12;
    if (size < prefix) {
        return file_fail(err, FILE_TRUNCATED, "the file ends within the header's length");
    }
    for (size_t i = prefix; i-- > 8;) {
        length = length << 8 | bytes[i];
    }
    if (length > size - prefix) {
        return file_fail(err, FILE_TRUNCATED, "the header is %zu bytes long, but %zu remain",
                         length, size - prefix);
    }
    *dict = (const char *)bytes + prefix;
    *dict_size = length;
    return FILE_OK;
}

/* Copies the elements to *owned in C order and little-endian. */
static enum file_status copy_elements(const unsigned char *data, const struct npy_header *h,
                                      struct tensor *t, struct file_error *err)
{
    size_t width = dtype_bits(t->dtype) / 8;
    size_t rows = 1, columns = t->nbytes / width;

    if (h->fortran_order && t->ndim == 2) {
        rows = (size_t)t->shape[0];
        columns = (size_t)t->shape[1];
    }
    t->owned = malloc(t->nbytes);
    if (t->owned == NULL) {
        return file_fail_memory(err, t->nbytes);
    }
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            const unsigned char *from = data + (i + j * rows) * width;
            unsigned char *to = t->owned + (i * columns + j) * width;

            for (size_t k = 0; k < width; k++) {
                to[k] = from[h->big_endian ? width - 1 - k : k];
            }
        }
    }
    t->data = t->owned;
    return FILE_OK;
}

static enum file_status fill_tensor(const struct npy_header *h, const unsigned char *data,
                                    size_t remaining, struct tensor *t, struct file_error *err)
{
    int64_t count;
    uint64_t bytes;
    enum file_status status = tensor_init(t, NULL, h->dtype, h->ndim, h->shape, err);

    if (status != FILE_OK) {
        return status;
    }
    if (!shape_count(t->shape, t->ndim, &count) || !dtype_bytes(t->dtype, count, &bytes)) {
        return file_fail(err, FILE_SIZE_OVERFLOW,
                         "an array of shape %s and type %s has more bytes than 64 bits count",
                         shape_text(t).text, dtype_name(t->dtype));
    }
    if (bytes > remaining) {
        return file_fail(err, FILE_TRUNCATED,
                         "an array of shape %s and type %s has %" PRIu64
                         " bytes, but the file has %zu of them",
                         shape_text(t).text, dtype_name(t->dtype), bytes, remaining);
    }
    if (bytes < remaining) {
        return file_fail(err, FILE_TRAILING_BYTES,
                         "%zu bytes follow the array of shape %s and type %s",
                         remaining - (size_t)bytes, shape_text(t).text, dtype_name(t->dtype));
    }
    if (h->fortran_order && t->ndim > 2) {
        return file_fail(err, FILE_UNSUPPORTED,
                         "a Fortran-ordered array of shape %s; of those, only matrices are read",
                         shape_text(t).text);
    }
    t->nbytes = (size_t)bytes;
    t->data = data;
    if (bytes > 0 && (h->big_endian || (h->fortran_order && t->ndim == 2))) {
        return copy_elements(data, h, t, err);
    }
    return FILE_OK;
}

enum file_status npy_parse(const unsigned char *bytes, size_t size, struct tensor *tensor,
                           struct file_error *err)
{
    struct npy_header header = {0};
    const char *dict = NULL;
    size_t dict_size = 0;
    enum file_status status;

    memset(tensor, 0, sizeof *tensor);
    status = find_dict(bytes, size, &dict, &dict_size, err);
    if (status == FILE_OK) {
        status = npy_header_parse(dict, dict_size, &header, err);
    }
    if (status == FILE_OK) {
        const unsigned char *data = (const unsigned char *)dict + dict_size;

        status = fill_tensor(&header, data, (size_t)(bytes + size - data), tensor, err);
    }
    free(header.shape);
    if (status != FILE_OK) {
        tensor_free(tensor);
    }
    return status;
}

enum file_status npy_layout(const struct tensor *tensor, struct pieces *pieces,
                            struct file_error *err)
{
    const char *descr = dtype_npy(tensor->dtype);
    size_t room = 192 + 24 * tensor->ndim; /* a size has at most 19 digits */
    size_t used, padded;
    char *header;

    memset(pieces, 0, sizeof *pieces);
    if (descr == NULL) {
        return file_fail(err, FILE_UNSUPPORTED, ".npy has no element type %s",
                         dtype_name(tensor->dtype));
    }
    if (room > UINT16_MAX) {
        return file_fail(err, FILE_UNSUPPORTED, "a shape of %zu sizes does not fit a .npy header",
                         tensor->ndim);
    }
    pieces->header = header = malloc(room);
    pieces->list = malloc(2 * sizeof *pieces->list);
    if (header == NULL || pieces->list == NULL) {
        pieces_free(pieces);
        return file_fail_memory(err, room);
    }
    memcpy(header, MAGIC "\x01\x00", 8);
    used = 10;
    used += (size_t)snprintf(header + used, room - used,
                             "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (size_t i = 0; i < tensor->ndim; i++) {
        used += (size_t)snprintf(header + used, room - used, "%s%" PRId64, i > 0 ? ", " : "",
                                 tensor->shape[i]);
    }
    used += (size_t)snprintf(header + used, room - used, "%s), }", tensor->ndim == 1 ? "," : "");
    padded = (used + 1 + 63) / 64 * 64;
    memset(header + used, ' ', padded - used - 1);
    header[padded - 1] = '\n';
    header[8] = (char)((padded - 10) & 0xff);
    header[9] = (char)((padded - 10) >> 8);
    pieces->list[0] = (struct piece){header, padded};
    pieces->list[1] = (struct piece){tensor->data, tensor->nbytes};
    pieces->count = 2;
    return FILE_OK;
}
