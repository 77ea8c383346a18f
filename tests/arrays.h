/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Arguments in the backend's memory, with everything around their elements watched: red zones before
 * and after, and the padding between rows. All of it is filled with 0xff, which is NaN in every
 * type: a read of it spreads into the results, a write shows in array_get().
 */
#ifndef TESTS_ARRAYS_H
#define TESTS_ARRAYS_H

#include <fusedbn.h>
#include <stdbool.h>

typedef struct array {
    fbn_context *context;
    fbn_dtype type;
    size_t element; /* bytes */
    int64_t rows, cols, ld;
    void *memory;         /* the backend's allocation */
    void *data;           /* element [0][0], within memory; NULL: no array */
    size_t offset, bytes; /* of data within memory; of memory */
    unsigned char *image; /* what memory is meant to hold */
} array;

/* rows x cols with leading dimension ld. aligned: data lies on a multiple of 64 bytes, else on an
 * odd multiple of the element. Aborts the test without memory. */
void array_create(array *a, fbn_context *context, fbn_dtype type, int64_t rows, int64_t cols,
                  int64_t ld, bool aligned);
/* Bytes without a type: `saved`, a workspace, a count. alignment: a power of two up to 256; below
 * that they lie on an odd multiple of it, no better aligned than was asked for. */
void array_create_bytes(array *a, fbn_context *context, size_t bytes, size_t alignment);
void array_destroy(array *a);

/* Values [rows*cols], dense, into the elements. */
void array_set(array *a, const double *values);
void array_set_bytes(array *a, const void *bytes, size_t size);
/* Every element to 0xff. */
void array_poison(array *a);

/* Reads the elements; false when a red zone or padding was written. The image is renewed. */
bool array_get(array *a, double *values);
bool array_get_bytes(array *a, void *bytes, size_t size);

/* True when not one byte differs from the image, elements included. */
bool array_unchanged(const array *a);

#endif
