/* SPDX-License-Identifier: BSD-3-Clause
 * What the fuzz targets share: joining a laid out file into bytes, and comparing tensors. The
 * round trip that they check is: what a reader accepts, the writer writes, and the reader reads
 * back equal.
 */
#ifndef FUZZ_COMMON_H
#define FUZZ_COMMON_H

#include "tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* LLVM's fuzzers call this; returning 0 keeps the input as a candidate for the corpus. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Every refusal has a status and a sentence that a terminal can show. */
static inline void check_error(enum file_status status, const struct file_error *err)
{
    FUZZ_CHECK(status == err->status && status != FILE_OK && err->text[0] != '\0');
    for (const char *s = err->text; *s != '\0'; s++) {
        FUZZ_CHECK((unsigned char)*s >= 0x20 && *s != 0x7f);
    }
}

/* The file as one buffer of exactly its size, so that a read beyond it is seen. */
static inline unsigned char *join(const struct pieces *pieces, size_t *size)
{
    unsigned char *bytes;
    size_t used = 0;

    *size = 0;
    for (size_t i = 0; i < pieces->count; i++) {
        *size += pieces->list[i].size;
    }
    bytes = malloc(*size);
    FUZZ_CHECK(bytes != NULL);
    for (size_t i = 0; i < pieces->count; i++) {
        if (pieces->list[i].size > 0) {
            memcpy(bytes + used, pieces->list[i].data, pieces->list[i].size);
            used += pieces->list[i].size;
        }
    }
    return bytes;
}

static inline void check_equal(const struct tensor *a, const struct tensor *b)
{
    FUZZ_CHECK(a->dtype == b->dtype && a->ndim == b->ndim && a->nbytes == b->nbytes);
    FUZZ_CHECK(a->ndim == 0 || memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0);
    FUZZ_CHECK(a->nbytes == 0 || memcmp(a->data, b->data, a->nbytes) == 0);
    FUZZ_CHECK((a->name == NULL) == (b->name == NULL));
    FUZZ_CHECK(a->name == NULL || strcmp(a->name, b->name) == 0);
}

#endif
