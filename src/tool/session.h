/* SPDX-License-Identifier: BSD-3-Clause
 * A layer of the library made from a model's tensors: what `run` and `fold` share.
 */
#ifndef SESSION_H
#define SESSION_H

#include "model.h"
#include "options.h"

/* Prints "fusedbn: PATH: SENTENCE" (without the path where it is NULL); returns EXIT_FAILED. */
enum exit_status complain(const char *path, const char *sentence);

#define SESSION_BLOCKS 12

/* A context, a layer, and the parameters in the context's memory. Zero-initialised, it is none. */
struct session {
    fbn_context *context;
    fbn_layer *layer;
    fbn_params params;
    enum dtype dtype;             /* of the layer */
    enum dtype param_dtype;       /* F32, or F64 for F64 */
    void *blocks[SESSION_BLOCKS]; /* all memory of the context */
    size_t block_count;
};

/*
 * Creates them, with every parameter that the model has. dtype is the layer's and max_batch its
 * largest batch. What fails is printed; the session is to be closed anyway.
 */
enum exit_status session_open(struct session *s, const struct options *options,
                              const struct model *model, enum dtype dtype, int64_t max_batch);

/* Memory of the context for the tensor's elements as dtype, filled with them. */
enum exit_status session_upload(struct session *s, const struct tensor *tensor, enum dtype dtype,
                                void **pointer);

/* Memory of the context for count elements of dtype, not yet set. */
enum exit_status session_alloc(struct session *s, int64_t count, enum dtype dtype, void **pointer);

/* Copies memory of the context, of elements of type dtype, to the tensor's own data, whose type
 * decides. */
enum exit_status session_download(struct session *s, const void *pointer, enum dtype dtype,
                                  struct tensor *tensor);

/* Prints fbn_last_error() where status is a failure. */
enum exit_status session_check(fbn_status status);

void session_close(struct session *s);

#endif
