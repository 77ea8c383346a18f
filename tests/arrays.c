/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Arguments in the backend's memory. See arrays.h.
 */
#include "arrays.h"

#include "formats.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* RED_ZONE: the alignment of fbn_alloc, the largest that is asked for. */
enum { RED_ZONE = 256, POISON = 0xff };

static void ok(fbn_status status, const char *what)
{
    ck_assert_msg(status == FBN_OK, "%s failed: %s: %s", what, fbn_status_string(status),
                  fbn_last_error());
}

static void upload(array *a)
{
    ok(fbn_upload(a->context, a->memory, a->image, a->bytes), "fbn_upload");
}

/* What memory holds now, in host memory; the caller frees it. */
static unsigned char *download(const array *a)
{
    unsigned char *now = malloc(a->bytes);
    ck_assert_ptr_nonnull(now);
    ok(fbn_download(a->context, now, a->memory, a->bytes), "fbn_download");
    return now;
}

static void allocate(array *a, size_t data_bytes, size_t offset)
{
    a->offset = RED_ZONE + offset;
    a->bytes = a->offset + data_bytes + RED_ZONE;
    ok(fbn_alloc(a->context, a->bytes, &a->memory), "fbn_alloc");
    a->data = (char *)a->memory + a->offset;
    a->image = malloc(a->bytes);
    ck_assert_ptr_nonnull(a->image);
    memset(a->image, POISON, a->bytes);
    upload(a);
}

void array_create(array *a, fbn_context *context, fbn_dtype type, int64_t rows, int64_t cols,
                  int64_t ld, bool aligned)
{
    *a = (array){.context = context,
                 .type = type,
                 .element = format_size(type),
                 .rows = rows,
                 .cols = cols,
                 .ld = ld};
    /* The last row ends with its last element: its padding is the red zone already. */
    size_t elements = rows > 0 ? (size_t)((rows - 1) * ld + cols) : 0;
    allocate(a, elements * a->element, aligned ? 0 : a->element);
}

void array_create_bytes(array *a, fbn_context *context, size_t bytes, size_t alignment)
{
    *a = (array){.context = context, .element = 1, .rows = 1};
    a->cols = a->ld = (int64_t)bytes;
    allocate(a, bytes, alignment % RED_ZONE);
}

void array_destroy(array *a)
{
    if (a->memory)
        fbn_free(a->context, a->memory);
    free(a->image);
    *a = (array){0};
}

static unsigned char *row_of(const array *a, unsigned char *memory, int64_t row)
{
    return memory + a->offset + (size_t)(row * a->ld) * a->element;
}

void array_set(array *a, const double *values)
{
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t c = 0; c < a->cols; c++)
            format_store(a->type, row_of(a, a->image, r), c, values[r * a->cols + c]);
    upload(a);
}

void array_set_bytes(array *a, const void *bytes, size_t size)
{
    memcpy(a->image + a->offset, bytes, size);
    upload(a);
}

void array_poison(array *a)
{
    memset(a->image, POISON, a->bytes);
    upload(a);
}

/* Takes `now` as the image where it holds elements; false when it differs elsewhere. */
static bool renew(array *a, const unsigned char *now)
{
    for (int64_t r = 0; r < a->rows; r++) {
        size_t start = (size_t)(row_of(a, a->image, r) - a->image);
        memcpy(a->image + start, now + start, (size_t)a->cols * a->element);
    }
    return memcmp(a->image, now, a->bytes) == 0;
}

bool array_get(array *a, double *values)
{
    unsigned char *now = download(a);
    bool intact = renew(a, now);
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t c = 0; c < a->cols; c++)
            values[r * a->cols + c] = format_load(a->type, row_of(a, a->image, r), c);
    free(now);
    return intact;
}

bool array_get_bytes(array *a, void *bytes, size_t size)
{
    unsigned char *now = download(a);
    bool intact = renew(a, now);
    memcpy(bytes, a->image + a->offset, size);
    free(now);
    return intact;
}

bool array_unchanged(const array *a)
{
    if (!a->memory)
        return true;
    unsigned char *now = download(a);
    bool same = memcmp(a->image, now, a->bytes) == 0;
    free(now);
    return same;
}
