/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Checks on the memory that a call touches.
 */
#include "spans.h"

#include "error.h"

#include <inttypes.h>

fbn_status fbni_matrix_extent(const fbni_matrix *matrix, int64_t rows, int64_t cols, size_t element,
                              int64_t *ld, fbni_extent *extent)
{
    /* ptrdiff_t is what an object's size is bound by: 2^63 - 1 bytes. */
    ptrdiff_t pitch, width, bytes;

    if (*ld != 0 && *ld < cols)
        return fbni_fail(FBN_ERR_LEADING_DIMENSION, "%s is %" PRId64 ", but %s is %" PRId64,
                         matrix->ld_name, *ld, matrix->cols_name, cols);
    if (*ld == 0 || rows < 2)
        *ld = cols;
    if (__builtin_mul_overflow(*ld, element, &pitch) ||
        __builtin_mul_overflow(cols, element, &width) ||
        __builtin_mul_overflow(rows > 0 ? rows - 1 : 0, pitch, &bytes) ||
        __builtin_add_overflow(bytes, width, &bytes))
        return fbni_fail(FBN_ERR_OVERFLOW,
                         "%s has %" PRId64 " rows of %s = %" PRId64 ", %s being %" PRId64
                         ": more than 2^63 - 1 bytes",
                         matrix->name, rows, matrix->cols_name, cols, matrix->ld_name, *ld);
    extent->bytes = rows > 0 ? (uintptr_t)bytes : 0;
    extent->pitch = rows > 1 ? (uintptr_t)pitch : 0;
    extent->width = (uintptr_t)width;
    return FBN_OK;
}

/* Whether two spans whose ranges intersect share a byte. Exact if both can be read as rows with one
 * pitch (a single row has any), and then true only if a row of one meets a row of the other: column
 * ranges of one larger matrix are disjoint, wherever their first rows are. */
static bool share_byte(const fbni_spans *spans, size_t i, size_t j)
{
    const size_t low = spans->begin[i] <= spans->begin[j] ? i : j;
    const size_t high = low == i ? j : i;
    const uintptr_t pitch = spans->pitch[i] ? spans->pitch[i] : spans->pitch[j];
    uintptr_t offset, row, column, last_row;

    if (pitch == 0 || (spans->pitch[j] && spans->pitch[j] != pitch) || spans->width[i] > pitch ||
        spans->width[j] > pitch)
        return true;
    /* high's first row begins in row `row` of low at byte `column`; as no row is longer than the
     * pitch, it meets that row of low, or runs into the next one, or meets none. The rows after it
     * repeat this. */
    offset = spans->begin[high] - spans->begin[low];
    row = offset / pitch;
    column = offset % pitch;
    last_row = (spans->end[low] - spans->begin[low] - spans->width[low]) / pitch;
    return (row <= last_row && column < spans->width[low]) ||
           (row < last_row && column + spans->width[high] > pitch);
}

static fbn_status fail_overlap(const fbni_spans *spans, size_t i, size_t j)
{
    return fbni_fail(FBN_ERR_OVERLAP,
                     "%s (%" PRIuPTR " bytes at 0x%" PRIxPTR ") overlaps %s (%" PRIuPTR
                     " bytes at 0x%" PRIxPTR ")",
                     spans->name[i], spans->end[i] - spans->begin[i], spans->begin[i],
                     spans->name[j], spans->end[j] - spans->begin[j], spans->begin[j]);
}

/* The rare case: some output's range intersects another range. */
static fbn_status check_overlap_exactly(const fbni_spans *spans)
{
    for (size_t i = 0; i < spans->outputs; i++)
        for (size_t j = i + 1; j < spans->count; j++)
            if (spans->begin[i] < spans->end[j] && spans->begin[j] < spans->end[i] &&
                share_byte(spans, i, j))
                return fail_overlap(spans, i, j);
    return FBN_OK;
}

fbn_status fbni_spans_check(const fbni_spans *spans, const fbn_context *context)
{
    const fbni_backend *backend = context->backend;
    unsigned meet = 0;

    for (size_t i = 0; i < spans->count; i++)
        if (spans->begin[i] & (spans->alignment[i] - 1))
            return fbni_fail(FBN_ERR_ALIGNMENT, "%s is 0x%" PRIxPTR ", not aligned to %zu bytes",
                             spans->name[i], spans->begin[i], spans->alignment[i]);

    for (size_t i = 0; i < spans->outputs; i++)
        for (size_t j = i + 1; j < spans->count; j++)
            meet |= (unsigned)(spans->begin[i] < spans->end[j]) &
                    (unsigned)(spans->begin[j] < spans->end[i]);
    if (meet) {
        const fbn_status status = check_overlap_exactly(spans);
        if (status != FBN_OK)
            return status;
    }

    if (backend->check_pointer)
        for (size_t i = 0; i < spans->count; i++) {
            const fbn_status status = backend->check_pointer(
                context->state, (const void *)spans->begin[i], spans->name[i]);
            if (status != FBN_OK)
                return status;
        }
    return FBN_OK;
}
