/* SPDX-License-Identifier: BSD-3-Clause
 * `fusedbn run`: a layer's output from files to files.
 *
 *     read model and X -> check shapes -> upload -> forward -> download y and statistics ->
 *     write both files beside their places -> rename both
 */
#include "commands.h"
#include "convert.h"
#include "session.h"
#include "tensor_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All that a run holds, so that one place frees it. */
struct run {
    const struct options *options;
    struct tensor_set model_file, input_file, output_file;
    struct model model;
    const struct tensor *x; /* in input_file */
    struct tensor y;
    int64_t batch;
    enum dtype dtype;
    struct session session;
    struct replacement output, saved_model;
};

static enum exit_status read_model(struct run *r)
{
    const struct options *o = r->options;
    struct file_error err;

    if (tensor_file_read(o->model, &r->model_file, &err) != FILE_OK ||
        model_find(&r->model_file, o->prefix, &r->model, &err) != FILE_OK ||
        (!o->train && model_need_statistics(&r->model, o->prefix, "which --mode infer needs",
                                            &err) != FILE_OK) ||
        (o->save_model != NULL &&
         model_need_statistics(&r->model, o->prefix, "so --save-model has nothing to update",
                               &err) != FILE_OK)) {
        return complain(o->model, err.text);
    }
    r->dtype = o->dtype_given ? o->dtype : r->model.weight->dtype;
    return EXIT_OK;
}

/* X is a matrix, or a vector, which is one row. */
static enum file_status check_input(struct run *r, struct file_error *err)
{
    const struct tensor *x = r->x;
    const char *name = x->name != NULL ? x->name : "x";

    if (!dtype_is_number(x->dtype)) {
        return file_fail(err, FILE_WRONG_DTYPE, "tensor '%s' has dtype %s, which is no number type",
                         quote(name).text, dtype_name(x->dtype));
    }
    if ((x->ndim != 1 && x->ndim != 2) || x->shape[x->ndim - 1] != r->model.in_features) {
        return file_fail(err, FILE_WRONG_SHAPE,
                         "tensor '%s' has shape %s, but must have [N, %" PRId64
                         "]: the layer has %" PRId64 " input features",
                         quote(name).text, shape_text(x).text, r->model.in_features,
                         r->model.in_features);
    }
    r->batch = x->ndim == 1 ? 1 : x->shape[0];
    return FILE_OK;
}

static enum exit_status read_input(struct run *r)
{
    const char *path = r->options->input;
    struct file_error err;
    enum file_status status = tensor_file_read(path, &r->input_file, &err);

    if (status == FILE_OK) {
        r->x = r->input_file.count == 1 ? &r->input_file.tensors[0]
                                        : tensor_set_find(&r->input_file, "x");
        status = r->x != NULL ? check_input(r, &err)
                              : file_fail(&err, FILE_MISSING_TENSOR,
                                          "there are %zu tensors, and none has the name 'x'",
                                          r->input_file.count);
    }
    return status == FILE_OK ? EXIT_OK : complain(path, err.text);
}

/* Fills r->y, in the type that its file will have. */
static enum exit_status create_output(struct run *r)
{
    int64_t shape[2] = {r->batch, r->model.out_features};
    bool vector = r->x->ndim == 1;
    enum dtype dtype = r->dtype;
    struct file_error err;

    if (dtype == DT_BF16 && file_format(r->options->output) == FORMAT_NPY) {
        dtype = DT_F32; /* .npy has no bf16 */
    }
    if (tensor_create(&r->y, "y", dtype, vector ? 1 : 2, vector ? shape + 1 : shape, &err) !=
        FILE_OK) {
        return complain(r->options->output, err.text);
    }
    r->output_file = (struct tensor_set){.tensors = &r->y, .count = 1};
    return EXIT_OK;
}

static enum exit_status forward(struct run *r)
{
    struct session *s = &r->session;
    fbn_forward_args args;
    void *x, *y;
    enum exit_status status;

    status = session_open(s, r->options, &r->model, r->dtype, r->batch > 0 ? r->batch : 1);
    if (status != EXIT_OK || (status = session_upload(s, r->x, r->dtype, &x)) != EXIT_OK ||
        (status = session_alloc(s, (int64_t)(r->y.nbytes / (dtype_bits(r->y.dtype) / 8)), r->dtype,
                                &y)) != EXIT_OK) {
        return status;
    }
    fbn_forward_args_init(&args, sizeof args);
    args.batch = r->batch;
    args.x = x;
    args.y = y;
    status = session_check(r->options->train ? fbn_forward_train(s->layer, &s->params, &args)
                                             : fbn_forward_infer(s->layer, &s->params, &args));
    if (status == EXIT_OK) {
        status = session_check(fbn_context_synchronize(s->context));
    }
    return status == EXIT_OK ? session_download(s, y, r->dtype, &r->y) : status;
}

/* Gives one tensor of the model new data, in its own element type. */
static enum exit_status update_tensor(struct run *r, struct tensor *tensor, const void *pointer,
                                      enum dtype dtype)
{
    struct file_error err;

    tensor->owned = malloc(tensor->nbytes);
    if (tensor->owned == NULL) {
        file_fail_memory(&err, tensor->nbytes);
        return complain(r->options->save_model, err.text);
    }
    tensor->data = tensor->owned;
    return session_download(&r->session, pointer, dtype, tensor);
}

static enum exit_status update_model(struct run *r)
{
    const struct model *m = &r->model;
    const fbn_params *p = &r->session.params;
    enum dtype dtype = r->session.param_dtype;
    enum exit_status status = update_tensor(r, m->mean, p->running_mean, dtype);

    if (status == EXIT_OK) {
        status = update_tensor(r, m->var, p->running_var, dtype);
    }
    if (status == EXIT_OK && m->count != NULL) {
        status = update_tensor(r, m->count, p->num_batches_tracked, DT_I64);
    }
    return status;
}

/*
 * Both files are on the disk before either takes its place. The model comes last: should only one
 * renaming succeed, running the command again does no harm, even where --save-model is --model.
 */
static enum exit_status write_files(struct run *r)
{
    const struct options *o = r->options;
    struct file_error err;

    if (tensor_file_write(o->output, &r->output_file, &r->output, &err) != FILE_OK) {
        return complain(o->output, err.text);
    }
    if (o->save_model != NULL &&
        tensor_file_write(o->save_model, &r->model_file, &r->saved_model, &err) != FILE_OK) {
        return complain(o->save_model, err.text);
    }
    if (replacement_commit(&r->output, &err) != FILE_OK) {
        return complain(o->output, err.text);
    }
    if (o->save_model != NULL && replacement_commit(&r->saved_model, &err) != FILE_OK) {
        return complain(o->save_model, err.text);
    }
    return EXIT_OK;
}

enum exit_status command_run(const struct options *options)
{
    struct run r = {.options = options};
    enum exit_status status;

    if ((status = read_model(&r)) == EXIT_OK && (status = read_input(&r)) == EXIT_OK &&
        (status = create_output(&r)) == EXIT_OK && (status = forward(&r)) == EXIT_OK &&
        (options->save_model == NULL || (status = update_model(&r)) == EXIT_OK)) {
        status = write_files(&r);
    }
    replacement_discard(&r.saved_model);
    replacement_discard(&r.output);
    session_close(&r.session);
    tensor_free(&r.y);
    tensor_set_free(&r.input_file);
    tensor_set_free(&r.model_file);
    return status;
}
