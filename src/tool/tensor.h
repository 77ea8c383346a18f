/* SPDX-License-Identifier: BSD-3-Clause
 * A tensor as it lies in a file: element type, shape, and little-endian bytes in C order.
 */
#ifndef TENSOR_H
#define TENSOR_H

#include "file_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The element types of safetensors 0.8, in that format's own order (its writer sorts by it, so that
 * what needs most alignment comes first), with their width in bits and their .npy spelling. Types
 * that the library does not compute with are carried as bytes, so that a rewritten file keeps them.
 */
/* clang-format off */
#define DTYPES(X)                                                                                  \
    X(BOOL,         8, "|b1")                                                                      \
    X(F4,           4, NULL)                                                                       \
    X(F6_E2M3,      6, NULL)                                                                       \
    X(F6_E3M2,      6, NULL)                                                                       \
    X(U8,           8, "|u1")                                                                      \
    X(I8,           8, "|i1")                                                                      \
    X(F8_E5M2,      8, NULL)                                                                       \
    X(F8_E4M3,      8, NULL)                                                                       \
    X(F8_E8M0,      8, NULL)                                                                       \
    X(F8_E4M3FNUZ,  8, NULL)                                                                       \
    X(F8_E5M2FNUZ,  8, NULL)                                                                       \
    X(I16,         16, "<i2")                                                                      \
    X(U16,         16, "<u2")                                                                      \
    X(F16,         16, "<f2")                                                                      \
    X(BF16,        16, NULL)                                                                       \
    X(I32,         32, "<i4")                                                                      \
    X(U32,         32, "<u4")                                                                      \
    X(F32,         32, "<f4")                                                                      \
    X(C64,         64, "<c8")                                                                      \
    X(F64,         64, "<f8")                                                                      \
    X(I64,         64, "<i8")                                                                      \
    X(U64,         64, "<u8")
/* clang-format on */

enum dtype {
#define DTYPE_NAME(name, bits, npy) DT_##name,
    DTYPES(DTYPE_NAME)
#undef DTYPE_NAME
        DT_COUNT
};

struct tensor {
    char *name; /* NULL in a .npy file, which has no names; owned */
    enum dtype dtype;
    size_t ndim;
    int64_t *shape;            /* ndim sizes >= 0; owned; NULL for ndim 0 */
    size_t nbytes;             /* product of the shape times the element's width */
    const unsigned char *data; /* nbytes bytes, of any alignment */
    unsigned char *owned;      /* data, where the tensor owns it; else NULL */
};

/* What one file holds. */
struct tensor_set {
    struct tensor *tensors; /* count of them, in the order of their data */
    size_t count;
    char *metadata;       /* JSON text of safetensors' __metadata__ object, or NULL */
    unsigned char *bytes; /* the file, which the tensors view, where the set owns it; else NULL */
};

const char *dtype_name(enum dtype dtype);
unsigned dtype_bits(enum dtype dtype);
const char *dtype_npy(enum dtype dtype); /* NULL where .npy has no such type */
bool dtype_from_name(const char *name, enum dtype *dtype);

/*
 * The product of the sizes, which are >= 0. False where it does not fit in 63 bits; a size of 0
 * does not hide that: the others' product must fit too, as strides are made of it.
 */
bool shape_count(const int64_t *shape, size_t ndim, int64_t *count);

/* The bytes of count elements, packed where they are narrower than a byte. False where they do not
 * fit in 63 bits or end within a byte. */
bool dtype_bytes(enum dtype dtype, int64_t count, uint64_t *bytes);

/* "[64, 10]", cut where it is long; used within one expression: `shape_text(t).text`. */
struct quoted shape_text(const struct tensor *tensor);

/*
 * Makes *tensor own a copy of name (or none) and shape; its data is to be filled in by the caller,
 * who frees with tensor_free(), after a failure too.
 */
enum file_status tensor_init(struct tensor *tensor, const char *name, enum dtype dtype, size_t ndim,
                             const int64_t *shape, struct file_error *err);

/* tensor_init(), then data of its own for that shape, not yet set. */
enum file_status tensor_create(struct tensor *tensor, const char *name, enum dtype dtype,
                               size_t ndim, const int64_t *shape, struct file_error *err);

void tensor_free(struct tensor *tensor);

/* The tensor of that name, or NULL. */
struct tensor *tensor_set_find(const struct tensor_set *set, const char *name);

void tensor_set_free(struct tensor_set *set);

/* A file to be written, as the stretches that it is made of. */
struct piece {
    const void *data;
    size_t size;
};

struct pieces {
    struct piece *list; /* list[0] is the header, the rest view the tensors */
    size_t count;
    char *header; /* owned */
};

void pieces_free(struct pieces *pieces);

#endif
