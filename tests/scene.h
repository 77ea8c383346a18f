/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A stage for bad input: every entry of the library with arguments that are right, so that a test
 * can spoil one of them, call, and see that nothing was touched.
 */
#ifndef TESTS_SCENE_H
#define TESTS_SCENE_H

#include "harness.h"
#include "trial.h"

/* The entries. */
typedef enum entry {
    TRAIN,
    INFER,
    BACKWARD,
    FOLD,
    PREPARE,
    RUN,
    CREATE,
    WORKSPACE_SIZE,
    SAVED_SIZE,
    RUN_WORKSPACE_SIZE,
    CONTEXT,
    ALLOC,
    FREE,
    UPLOAD,
    DOWNLOAD,
    SET_STREAM,
    SYNCHRONIZE,
    AVAILABLE
} entry;

typedef struct scene {
    trial t;        /* training, N = 6, I = 5, O = 4, every option there; padded */
    trial inferred; /* the same layer's inference, with running statistics */
    array folded_weight, folded_bias, workspace;
    size_t saved_bytes, workspace_bytes;

    /* What the entries are called with; a test spoils these. The structs are t's and inferred's. */
    fbn_context *context;
    fbn_layer *layer;
    const fbn_params *params;
    const fbn_forward_args *forward;
    const fbn_backward_args *backward;
    const fbn_grads *grads;
    void *fold_weight, *fold_bias;
    int64_t fold_ldw;
    fbn_prepared *prepared, *made_prepared, **prepared_out;
    fbn_run_args run;
    const fbn_run_args *run_args;
    fbn_layer_desc desc;
    const fbn_layer_desc *desc_in;
    fbn_layer *made_layer, **layer_out;
    size_t bytes, *bytes_out;
    int64_t batch;
    fbn_context_options options;
    fbn_allocator allocator;
    fbn_context *made_context, **context_out;
    size_t alloc_bytes;
    void *made_memory, **memory_out;
    void *copy_target;
    const void *copy_source;
    fbn_backend backend;
} scene;

/* dtype: of the data. scales: with both scales, or neither. */
void scene_create(scene *s, fbn_dtype dtype, bool scales);
void scene_destroy(scene *s);

/* Points everything back at right arguments and outputs at untouched ones. */
void scene_reset(scene *s);

fbn_status scene_call(scene *s, entry which);

/* The name of something that changed since scene_reset(), or NULL: no output, parameter, statistic
 * or out-pointer may. */
const char *scene_changed(const scene *s);

/* Points at the trial that the entry looks at, the inference or the training one, and runs the
 * forward that a backward needs before it. */
void scene_aim(scene *s, entry which);

/* Calls; fails the test unless the call fails as expected, with both words in its sentence, and
 * touches nothing. */
void scene_must_fail(scene *s, entry which, fbn_status expected, const char *const words[2]);

/* What a successful scene_call() made, released. */
void scene_release(scene *s);

#endif
