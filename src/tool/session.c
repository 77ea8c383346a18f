/* SPDX-License-Identifier: BSD-3-Clause
 * A layer of the library made from a model's tensors.
 */
#include "session.h"
#include "convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum exit_status complain(const char *path, const char *sentence)
{
    fprintf(stderr, "fusedbn: %s%s%s\n", path != NULL ? path : "", path != NULL ? ": " : "",
            sentence);
    return EXIT_FAILED;
}

enum exit_status session_check(fbn_status status)
{
    if (status == FBN_OK) {
        return EXIT_OK;
    }
    return complain(NULL, fbn_last_error());
}

static fbn_dtype library_dtype(enum dtype dtype)
{
    return dtype == DT_F64    ? FBN_F64
           : dtype == DT_BF16 ? FBN_BF16
           : dtype == DT_F16  ? FBN_F16
                              : FBN_F32;
}

static size_t element_count(const struct tensor *t)
{
    return t->nbytes / (dtype_bits(t->dtype) / 8);
}

enum exit_status session_alloc(struct session *s, int64_t count, enum dtype dtype, void **pointer)
{
    uint64_t bytes;
    enum exit_status status;

    if (!dtype_bytes(dtype, count, &bytes) || bytes > SIZE_MAX) {
        return complain(NULL, "out of memory: an array exceeds the address space");
    }
    status = session_check(fbn_alloc(s->context, (size_t)bytes, pointer));
    if (status == EXIT_OK) {
        s->blocks[s->block_count++] = *pointer;
    }
    return status;
}

enum exit_status session_upload(struct session *s, const struct tensor *tensor, enum dtype dtype,
                                void **pointer)
{
    size_t count = element_count(tensor), bytes = count * (dtype_bits(dtype) / 8);
    void *converted = NULL;
    enum exit_status status = session_alloc(s, (int64_t)count, dtype, pointer);

    if (status != EXIT_OK || count == 0) {
        return status;
    }
    if (dtype != tensor->dtype) {
        converted = malloc(bytes);
        if (converted == NULL) {
            return complain(NULL, "out of memory");
        }
        convert_elements(tensor->data, tensor->dtype, converted, dtype, count);
    }
    status = session_check(
        fbn_upload(s->context, *pointer, converted != NULL ? converted : tensor->data, bytes));
    free(converted);
    return status;
}

enum exit_status session_download(struct session *s, const void *pointer, enum dtype dtype,
                                  struct tensor *tensor)
{
    size_t count = element_count(tensor), bytes = count * (dtype_bits(dtype) / 8);
    void *staging = tensor->owned;
    enum exit_status status;

    if (count == 0) {
        return EXIT_OK;
    }
    if (dtype != tensor->dtype) {
        staging = malloc(bytes);
        if (staging == NULL) {
            return complain(NULL, "out of memory");
        }
    }
    status = session_check(fbn_download(s->context, staging, pointer, bytes));
    if (staging != tensor->owned) {
        if (status == EXIT_OK) {
            convert_elements(staging, dtype, tensor->owned, tensor->dtype, count);
        }
        free(staging);
    }
    return status;
}

static enum exit_status create_layer(struct session *s, const struct options *o,
                                     const struct model *m, int64_t max_batch)
{
    fbn_layer_desc desc;
    fbn_scale scale = m->scale == NULL               ? FBN_SCALE_NONE
                      : element_count(m->scale) == 1 ? FBN_SCALE_SCALAR
                                                     : FBN_SCALE_FEATURE;

    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = m->in_features;
    desc.out_features = m->out_features;
    desc.max_batch = max_batch;
    desc.dtype = library_dtype(s->dtype);
    desc.math = o->math;
    if (o->chain == CHAIN_LINEAR_SCALE_BN) {
        desc.pre_scale = scale;
    } else {
        desc.post_scale = scale;
    }
    desc.activation = o->activation;
    desc.eps = o->eps;
    desc.momentum = o->momentum;
    desc.flags = o->cumulative ? FBN_CUMULATIVE_AVERAGE : 0;
    return session_check(fbn_layer_create(&s->layer, s->context, &desc));
}

static enum exit_status upload_params(struct session *s, const struct options *o,
                                      const struct model *m)
{
    const void **scale =
        o->chain == CHAIN_LINEAR_SCALE_BN ? &s->params.pre_scale : &s->params.post_scale;
    const struct {
        const struct tensor *tensor;
        enum dtype dtype;
        const void **param; /* where the const ones go, */
        void **statistic;   /* and where those go that training writes */
    } uploads[] = {
        {m->weight, s->dtype, &s->params.weight, NULL},
        {m->bias, s->param_dtype, &s->params.bias, NULL},
        {m->scale, s->param_dtype, scale, NULL},
        {m->gamma, s->param_dtype, &s->params.gamma, NULL},
        {m->beta, s->param_dtype, &s->params.beta, NULL},
        {m->mean, s->param_dtype, NULL, &s->params.running_mean},
        {m->var, s->param_dtype, NULL, &s->params.running_var},
        {m->count, DT_I64, NULL, NULL},
    };

    fbn_params_init(&s->params, sizeof s->params);
    for (size_t i = 0; i < sizeof uploads / sizeof uploads[0]; i++) {
        void *pointer = NULL;
        enum exit_status status;

        if (uploads[i].tensor == NULL) {
            continue;
        }
        status = session_upload(s, uploads[i].tensor, uploads[i].dtype, &pointer);
        if (status != EXIT_OK) {
            return status;
        }
        if (uploads[i].param != NULL) {
            *uploads[i].param = pointer;
        } else if (uploads[i].statistic != NULL) {
            *uploads[i].statistic = pointer;
        } else {
            s->params.num_batches_tracked = pointer;
        }
    }
    return EXIT_OK;
}

enum exit_status session_open(struct session *s, const struct options *options,
                              const struct model *model, enum dtype dtype, int64_t max_batch)
{
    fbn_context_options wanted;
    enum exit_status status;

    s->dtype = dtype;
    s->param_dtype = dtype == DT_F64 ? DT_F64 : DT_F32;
    fbn_context_options_init(&wanted, sizeof wanted);
    wanted.backend = options->backend;
    status = session_check(fbn_context_create(&s->context, &wanted));
    if (status == EXIT_OK) {
        status = create_layer(s, options, model, max_batch);
    }
    if (status == EXIT_OK) {
        status = upload_params(s, options, model);
    }
    return status;
}

void session_close(struct session *s)
{
    for (size_t i = 0; i < s->block_count; i++) {
        (void)fbn_free(s->context, s->blocks[i]);
    }
    fbn_layer_destroy(s->layer);
    fbn_context_destroy(s->context);
    memset(s, 0, sizeof *s);
}
