/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The objects behind the public handles. A handle is the core's part (what validation needs, and
 * reference counts) and the backend's own state, which the core never looks into.
 */
#ifndef FBNI_INTERNAL_H
#define FBNI_INTERNAL_H

#include "backend.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Alignment of `saved` on every backend. */
enum { FBNI_SAVED_ALIGNMENT = 64 };

struct fbn_context {
    atomic_size_t references; /* the caller's, and one for each layer and prepared layer */
    const fbni_backend *backend;
    void *state;
    fbn_allocator host_allocator;
    fbn_allocator device_allocator; /* all 0 where the backend uses its own */
};

/* How many entries a per-feature argument has. */
typedef enum fbni_kind {
    FBNI_KIND_FEATURE, /* O */
    FBNI_KIND_PRE,     /* the pre-scale's: 0, 1 or O */
    FBNI_KIND_POST,    /* the post-scale's */
    FBNI_KIND_COUNT
} fbni_kind;

struct fbn_layer {
    fbn_context *context;
    const fbni_backend *backend;
    void *state;
    fbn_layer_desc desc; /* complete; kernel is NULL, for it was the caller's string */
    void *workspace;     /* the layer's own or the caller's; NULL if none is needed */
    size_t workspace_size;
    bool owns_workspace;
    size_t element;                      /* bytes of dtype */
    size_t real;                         /* bytes of the param type */
    size_t vector_size[FBNI_KIND_COUNT]; /* bytes */
};

struct fbn_prepared {
    fbn_context *context;
    const fbni_backend *backend;
    void *state;
    int64_t in_features, out_features;
    size_t element;
};

/* Bytes of an element, and of the param type that goes with it; dtype is known to be valid. */
size_t fbni_dtype_size(fbn_dtype dtype);
size_t fbni_real_size(fbn_dtype dtype);

/* Memory for the library itself, from the context's host allocator, zeroed. purpose is for the
 * sentence of FBN_ERR_OUT_OF_MEMORY. */
fbn_status fbni_host_allocate(fbn_context *context, size_t size, const char *purpose,
                              void **pointer);
void fbni_host_deallocate(fbn_context *context, void *pointer); /* NULL is ignored */

void fbni_context_retain(fbn_context *context);
void fbni_context_release(fbn_context *context);

/* backends.c: the backend that can be used under this id (FBN_BACKEND_AUTO: the one it stands for),
 * or FBN_ERR_NO_BACKEND with the reason, or FBN_ERR_ENUM. */
fbn_status fbni_backend_find(fbn_backend id, const fbni_backend **backend);

#endif
