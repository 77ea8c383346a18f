/* SPDX-License-Identifier: BSD-3-Clause
 * `fusedbn fold`: the plain linear layer that equals the fused one in inference.
 *
 * All types are folded in f64, which holds each of them exactly, so that the result is rounded
 * once, to the type that it is written in.
 */
#include "commands.h"
#include "session.h"
#include "tensor_file.h"

#include <string.h>

static enum exit_status read_model(const struct options *o, struct tensor_set *file,
                                   struct model *model)
{
    struct file_error err;

    if (tensor_file_read(o->model, file, &err) != FILE_OK ||
        model_find(file, o->prefix, model, &err) != FILE_OK ||
        model_need_statistics(model, o->prefix, "which folding needs", &err) != FILE_OK) {
        return complain(o->model, err.text);
    }
    return EXIT_OK;
}

/* Folds into the two tensors, which it creates. */
static enum exit_status fold(const struct options *o, const struct model *m, struct tensor *weight,
                             struct tensor *bias)
{
    struct session s = {0};
    int64_t shape[2] = {m->out_features, m->in_features};
    enum dtype dtype = o->dtype_given ? o->dtype : m->weight->dtype;
    void *folded_weight, *folded_bias;
    struct file_error err;
    enum exit_status status;

    if (tensor_create(weight, "weight", dtype, 2, shape, &err) != FILE_OK ||
        tensor_create(bias, "bias", dtype, 1, shape, &err) != FILE_OK) {
        return complain(o->output, err.text);
    }
    if ((status = session_open(&s, o, m, DT_F64, 1)) == EXIT_OK &&
        (status = session_alloc(&s, shape[0] * shape[1], DT_F64, &folded_weight)) == EXIT_OK &&
        (status = session_alloc(&s, shape[0], DT_F64, &folded_bias)) == EXIT_OK &&
        (status = session_check(fbn_fold(s.layer, &s.params, folded_weight, 0, folded_bias))) ==
            EXIT_OK &&
        (status = session_check(fbn_context_synchronize(s.context))) == EXIT_OK &&
        (status = session_download(&s, folded_weight, DT_F64, weight)) == EXIT_OK) {
        status = session_download(&s, folded_bias, DT_F64, bias);
    }
    session_close(&s);
    return status;
}

static enum exit_status write_file(const char *path, const struct tensor_set *file)
{
    struct replacement output = {0};
    struct file_error err;

    if (tensor_file_write(path, file, &output, &err) != FILE_OK ||
        replacement_commit(&output, &err) != FILE_OK) {
        return complain(path, err.text);
    }
    return EXIT_OK;
}

enum exit_status command_fold(const struct options *options)
{
    struct tensor_set file = {0};
    struct tensor folded[2];
    struct tensor_set output = {.tensors = folded, .count = 2};
    struct model model;
    enum exit_status status;

    memset(folded, 0, sizeof folded);
    if ((status = read_model(options, &file, &model)) == EXIT_OK &&
        (status = fold(options, &model, &folded[0], &folded[1])) == EXIT_OK) {
        status = write_file(options->output, &output);
    }
    tensor_free(&folded[0]);
    tensor_free(&folded[1]);
    tensor_set_free(&file);
    return status;
}
