/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The one header between the core and a backend: a const table of functions, with an ABI number.
 *
 * The core (src/dispatch) validates every argument once for all backends, fills in defaults, and
 * owns reference counts. A backend therefore receives complete structs: struct_size is the full
 * size, every leading dimension is set, enumerators and flags are known, required pointers are
 * there, aligned and without overlap, sizes in bytes do not overflow, 0 < batch <= max_batch
 * (backward and prepared_run may also see the batches said below). A backend never includes a core
 * header but this one, algebra.h and fusedbn.h, and never another backend's.
 *
 * Failing: return host->fail(status, "sentence with the value", ...), which records
 * fbn_last_error() and returns the status. Outputs are written on success alone, except after
 * FBN_ERR_DEVICE. Slots marked (optional) may be NULL.
 */
#ifndef FBNI_BACKEND_H
#define FBNI_BACKEND_H

#include "fusedbn.h"

#define FBNI_BACKEND_ABI 1

#ifdef __cplusplus
extern "C" {
#endif

/* What the core lends to a backend; it outlives every context. */
typedef struct fbni_host {
    fbn_status (*fail)(fbn_status status, const char *format, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 2, 3)))
#endif
        ;
    /* One line to stderr under FUSEDBN_VERBOSE=1, else nothing. */
    void (*log)(const char *format, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 1, 2)))
#endif
        ;
} fbni_host;

typedef struct fbni_backend {
    uint32_t abi; /* FBNI_BACKEND_ABI */
    fbn_backend id;
    const char *name;           /* "cpu", "cuda" */
    size_t workspace_alignment; /* bytes, a power of two up to 256 */

    /* FBN_OK if this machine can run the backend at all; else FBN_ERR_NO_BACKEND and the reason. */
    fbn_status (*available)(const fbni_host *host);

    /* options are complete; host_allocator is not NULL, device_allocator is NULL for the backend's
     * own. Both and host stay valid until context_destroy. */
    fbn_status (*context_create)(void **context, const fbni_host *host,
                                 const fbn_context_options *options);
    void (*context_destroy)(void *context);
    const char *(*context_describe)(const void *context);
    /* Row `index` of the kernel table, NULL past the last; *refusal is never NULL as a pointer. */
    const char *(*context_kernel)(const void *context, int64_t index, const char **refusal);
    fbn_status (*context_set_stream)(void *context, void *stream); /* (optional) */
    fbn_status (*context_synchronize)(void *context);              /* (optional) */

    /* Memory of the backend, bytes >= 1. */
    fbn_status (*allocate)(void *context, size_t bytes, void **pointer);
    fbn_status (*release)(void *context, void *pointer);
    fbn_status (*upload)(void *context, void *target, const void *source, size_t bytes);
    fbn_status (*download)(void *context, void *target, const void *source, size_t bytes);
    /* FBN_ERR_MEMORY_KIND where the device cannot reach pointer; `name` is the argument's.
     * (optional) */
    fbn_status (*check_pointer)(void *context, const void *pointer, const char *name);

    /* Refuses what it cannot do (FBN_ERR_UNSUPPORTED). desc->workspace is not looked at. */
    fbn_status (*layer_workspace_size)(void *context, const fbn_layer_desc *desc, size_t *bytes);
    /* workspace has that many bytes, aligned to workspace_alignment, and outlives the layer; NULL
     * if the size is 0. desc is copied by the backend if it needs it; desc->kernel is valid during
     * the call alone. */
    fbn_status (*layer_create)(void **layer, void *context, const fbn_layer_desc *desc,
                               void *workspace);
    void (*layer_destroy)(void *layer);
    const char *(*layer_describe)(const void *layer);
    fbn_status (*layer_saved_size)(const void *layer, int64_t batch,
                                   size_t *bytes); /* batch >= 0 */

    /* saved_size, where saved is given, is at least layer_saved_size(batch). */
    fbn_status (*forward_train)(void *layer, const fbn_params *params,
                                const fbn_forward_args *args); /* batch >= 2 */
    fbn_status (*forward_infer)(void *layer, const fbn_params *params,
                                const fbn_forward_args *args);
    /* batch >= 0: for 0, gradients become zeros unless accumulated, and x, dy and saved may be
     * NULL. x may be NULL if grads->weight is. The backend checks, where it can without waiting for
     * the device, that saved is this layer's and this batch's. */
    fbn_status (*backward)(void *layer, const fbn_params *params, const fbn_backward_args *args,
                           const fbn_grads *grads);
    fbn_status (*fold)(void *layer, const fbn_params *params, void *weight, int64_t ldw,
                       void *bias);

    /* The result refers to the context, never to the layer. */
    fbn_status (*prepare)(void **prepared, void *layer, const fbn_params *params);
    void (*prepared_destroy)(void *prepared);
    fbn_status (*prepared_workspace_size)(const void *prepared, int64_t batch, size_t *bytes);
    fbn_status (*prepared_run)(const void *prepared, const fbn_run_args *args); /* batch >= 1 */
} fbni_backend;

/* The CPU backend, linked into the core. A module exports one such symbol, `fbni_module`. */
extern const fbni_backend fbni_cpu_backend;

#ifdef __cplusplus
}
#endif

#endif
