/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Taking in the caller's structs, and the checks that several entries share. Done here once for all
 * backends, each failure with its own status and a sentence with the value. The order within an
 * entry: null pointers, struct sizes, flags, batch, leading dimensions and overflow, missing and
 * superfluous parameters, `saved` and workspace, alignment, overlap, kind of memory.
 */
#ifndef FBNI_VALIDATE_H
#define FBNI_VALIDATE_H

#include "spans.h"

#include <string.h>

/* ---- structs of any size ---- */

/* Writes the defaults into the size bytes that the caller's compiler knows of, and struct_size. */
void fbni_struct_init(void *target, size_t size, const void *defaults, size_t defaults_size);

/* Use FBNI_TAKE. Copies *given over *full, which holds the defaults. A given struct may be shorter
 * than ours (an older program), or longer with nothing but zeros beyond (a newer program). */
fbn_status fbni_struct_take(void *full, size_t full_size, size_t first_size, const void *given,
                            const char *name, const char *type);

/* FBNI_TAKE(fbn_params, num_batches_tracked, &full, given, "params"): `last` is the last field of
 * the first release, below which no struct_size is right. */
#define FBNI_TAKE(type, last, full, given, name)                                                   \
    fbni_struct_take((full), sizeof(type), offsetof(type, last) + sizeof((full)->last), (given),   \
                     (name), #type)

/* ---- arguments that entries share ---- */

extern const fbni_matrix fbni_matrix_x, fbni_matrix_y, fbni_matrix_weight;

/* Why the parameters are read: decides which are required and which are written. */
typedef enum fbni_use {
    FBNI_USE_TRAIN,   /* running statistics are moved */
    FBNI_USE_INFER,   /* running statistics are required and read; also to fold and to prepare */
    FBNI_USE_BACKWARD /* running statistics are not looked at */
} fbni_use;

/* Takes in params. FBN_ERR_NULL_POINTER, FBN_ERR_STRUCT_SIZE. */
fbn_status fbni_params_take(fbn_params *params, const fbn_params *given);

/* Checks params against the layer's description; sets params->ldw, *weight.
 * FBN_ERR_LEADING_DIMENSION, FBN_ERR_OVERFLOW, FBN_ERR_MISSING_PARAM, FBN_ERR_INVALID_ARGUMENT. */
fbn_status fbni_params_check(const fbn_layer *layer, fbni_use use, fbn_params *params,
                             fbni_extent *weight);

/* Adds what is written of params, then (after fbni_spans_outputs_end) what is read. */
void fbni_params_add_outputs(fbni_spans *spans, const fbn_layer *layer, fbni_use use,
                             const fbn_params *params);
void fbni_params_add_inputs(fbni_spans *spans, const fbn_layer *layer, fbni_use use,
                            const fbn_params *params, fbni_extent weight);

/* Adds the workspace if it is the caller's: the library's own cannot overlap anything. */
static inline void fbni_spans_add_workspace(fbni_spans *spans, const fbn_layer *layer)
{
    if (!layer->owns_workspace)
        fbni_spans_add_bytes(spans, "workspace", layer->workspace, layer->workspace_size, 1);
}

/* FBN_ERR_SIZE, FBN_ERR_BATCH_TOO_LARGE. */
fbn_status fbni_batch_check(const fbn_layer *layer, int64_t batch);

/* `saved` of saved_size bytes is large enough for the batch; sets *bytes to what is used of it.
 * FBN_ERR_SAVED. */
fbn_status fbni_saved_check(const fbn_layer *layer, int64_t batch, size_t saved_size,
                            size_t *bytes);

/* Everything about a call of fbn_forward_train or fbn_forward_infer: fills *params and *args. */
fbn_status fbni_forward_check(const fbn_layer *layer, fbni_use use, const fbn_params *given_params,
                              const fbn_forward_args *given_args, fbn_params *params,
                              fbn_forward_args *args);

#endif
