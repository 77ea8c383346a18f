/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The memory that a call touches, and the checks on it: leading dimensions, sizes, alignment, the
 * kind of memory, overlap. It is on the path of every call, so that a call gathers its arguments
 * once into two flat arrays and compares every output with everything else there.
 */
#ifndef FBNI_SPANS_H
#define FBNI_SPANS_H

#include "internal.h"

/* A matrix argument, in the words of its messages. */
typedef struct fbni_matrix {
    const char *name;      /* "x" */
    const char *ld_name;   /* "ldx" */
    const char *cols_name; /* "in_features" */
} fbni_matrix;

/* Its size in bytes: rows of `width` that start `pitch` apart. One row has pitch 0. */
typedef struct fbni_extent {
    uintptr_t bytes, pitch, width;
} fbni_extent;

/* 8 outputs (the workspace among them) and 9 inputs in fbn_backward are the most. */
enum { FBNI_SPANS_MAX = 17 };

typedef struct fbni_spans {
    size_t count;
    size_t outputs; /* the first of them are written, the others read */
    uintptr_t begin[FBNI_SPANS_MAX], end[FBNI_SPANS_MAX];
    uintptr_t pitch[FBNI_SPANS_MAX], width[FBNI_SPANS_MAX];
    size_t alignment[FBNI_SPANS_MAX];
    const char *name[FBNI_SPANS_MAX];
} fbni_spans;

/* Checks a leading dimension and the size in bytes; sets *ld where it is 0, and where there are
 * fewer than two rows, so that nobody multiplies by an ld that means nothing.
 * FBN_ERR_LEADING_DIMENSION, FBN_ERR_OVERFLOW. */
fbn_status fbni_matrix_extent(const fbni_matrix *matrix, int64_t rows, int64_t cols, size_t element,
                              int64_t *ld, fbni_extent *extent);

/* The same for an argument that may be NULL: then its ld is not looked at. */
static inline fbn_status fbni_matrix_extent_of(const void *pointer, const fbni_matrix *matrix,
                                               int64_t rows, int64_t cols, size_t element,
                                               int64_t *ld, fbni_extent *extent)
{
    static const fbni_extent empty = {0, 0, 0};

    if (pointer)
        return fbni_matrix_extent(matrix, rows, cols, element, ld, extent);
    *ld = cols;
    *extent = empty;
    return FBN_OK;
}

/* Adds an argument, outputs first. NULL and empty ones are left out. */
static inline void fbni_spans_add(fbni_spans *spans, const char *name, const void *pointer,
                                  fbni_extent extent, size_t alignment)
{
    const uintptr_t begin = (uintptr_t)pointer;
    const size_t i = spans->count;

    if (!pointer || extent.bytes == 0)
        return;
    spans->begin[i] = begin;
    spans->end[i] = begin + extent.bytes < begin ? UINTPTR_MAX : begin + extent.bytes;
    spans->pitch[i] = extent.pitch;
    spans->width[i] = extent.width;
    spans->alignment[i] = alignment;
    spans->name[i] = name;
    spans->count = i + 1;
}

static inline void fbni_spans_add_bytes(fbni_spans *spans, const char *name, const void *pointer,
                                        size_t bytes, size_t alignment)
{
    const fbni_extent extent = {.bytes = bytes, .pitch = 0, .width = bytes};

    fbni_spans_add(spans, name, pointer, extent, alignment);
}

/* What was added so far is written, what follows is read. */
static inline void fbni_spans_outputs_end(fbni_spans *spans)
{
    spans->outputs = spans->count;
}

/* FBN_ERR_ALIGNMENT, FBN_ERR_OVERLAP, FBN_ERR_MEMORY_KIND. */
fbn_status fbni_spans_check(const fbni_spans *spans, const fbn_context *context);

#endif
