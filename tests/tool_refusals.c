/* SPDX-License-Identifier: BSD-3-Clause
 * Files that the command refuses, and places where it cannot write: the exit status, the words, and
 * that all files stay as they were.
 */
#define _XOPEN_SOURCE 700
#include "tool_harness.h"
#include "tool_suites.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN "run --chain linear-scale-bn --mode infer --model M.safetensors --input x.npy "
#define OUT "--output y.npy "

/* ---- models and inputs that do not fit */

enum change { REMOVE, SHAPE, TYPE, RENAME };

/* One change to the full model, or to X, and the whole message. */
static const struct {
    const char *tensor; /* "x": the input's */
    enum change change;
    size_t ndim;
    int64_t shape[3]; /* or [0]: the type */
    const char *more; /* arguments */
    const char *err;
} misfits[] = {
    {"gemm.weight", REMOVE, 0, {0}, "", "M.safetensors: there is no tensor 'gemm.weight'"},
    {"gemm.weight",
     RENAME,
     0,
     {0},
     "",
     "M.safetensors: there is no tensor 'gemm.weight'; there is 'l1.gemm.weight' (see --prefix)"},
    {"scale",
     REMOVE,
     0,
     {0},
     "--prefix fc.",
     "M.safetensors: there is no tensor 'fc.gemm.weight'; there is 'gemm.weight' (see --prefix)"},
    {"gemm.weight",
     SHAPE,
     1,
     {12},
     "",
     "M.safetensors: tensor 'gemm.weight' has shape [12], but must have [out_features, "
     "in_features]"},
    {"gemm.weight",
     SHAPE,
     2,
     {0, 3},
     "",
     "M.safetensors: tensor 'gemm.weight' has shape [0, 3], but must have [out_features, "
     "in_features]"},
    {"gemm.weight",
     TYPE,
     0,
     {DT_I32},
     "",
     "M.safetensors: tensor 'gemm.weight' has dtype I32, but must have F64, F32, BF16 or F16"},
    {"gemm.bias",
     SHAPE,
     1,
     {5},
     "",
     "M.safetensors: tensor 'gemm.bias' has shape [5], but the layer has 4 output features"},
    {"scale",
     SHAPE,
     1,
     {3},
     "",
     "M.safetensors: tensor 'scale' has shape [3], but the layer has 4 output features (and a "
     "scale may have one entry)"},
    {"bn.weight",
     SHAPE,
     2,
     {4, 1},
     "",
     "M.safetensors: tensor 'bn.weight' has shape [4, 1], but the layer has 4 output features"},
    {"bn.bias",
     TYPE,
     0,
     {DT_U8},
     "",
     "M.safetensors: tensor 'bn.bias' has dtype U8, but must have F64, F32, BF16 or F16"},
    {"bn.num_batches_tracked",
     TYPE,
     0,
     {DT_F32},
     "",
     "M.safetensors: tensor 'bn.num_batches_tracked' has dtype F32, but must have I64"},
    {"bn.num_batches_tracked",
     SHAPE,
     1,
     {2},
     "",
     "M.safetensors: tensor 'bn.num_batches_tracked' has shape [2], but must have one entry"},
    {"bn.running_mean",
     REMOVE,
     0,
     {0},
     "",
     "M.safetensors: tensor 'bn.running_mean' is missing, though the other of the two is there"},
    {"bn.running_var",
     SHAPE,
     1,
     {1},
     "",
     "M.safetensors: tensor 'bn.running_var' has shape [1], but the layer has 4 output features"},
    {"x",
     SHAPE,
     2,
     {5, 4},
     "",
     "x.npy: tensor 'x' has shape [5, 4], but must have [N, 3]: the layer has 3 input features"},
    {"x",
     SHAPE,
     2,
     {3, 5},
     "",
     "x.npy: tensor 'x' has shape [3, 5], but must have [N, 3]: the layer has 3 input features"},
    {"x",
     SHAPE,
     3,
     {1, 5, 3},
     "",
     "x.npy: tensor 'x' has shape [1, 5, 3], but must have [N, 3]: the layer has 3 input features"},
    {"x",
     SHAPE,
     1,
     {5},
     "",
     "x.npy: tensor 'x' has shape [5], but must have [N, 3]: the layer has 3 input features"},
    {"x", TYPE, 0, {DT_BOOL}, "", "x.npy: tensor 'x' has dtype BOOL, which is no number type"},
};

#define MISFIT_COUNT ((int)(sizeof misfits / sizeof misfits[0]))

static void change_tensor(struct tensor_set *set, size_t index, int number)
{
    struct tensor *t = &set->tensors[index], changed;
    const double zeros[32] = {0};
    struct tensor_set one = {0};

    switch (misfits[number].change) {
    case REMOVE:
        tensor_free(t);
        *t = set->tensors[--set->count];
        return;
    case RENAME:
        add_tensor(&one, "l1.gemm.weight", t->dtype, t->ndim, t->shape, zeros);
        break;
    case SHAPE:
        add_tensor(&one, t->name, t->dtype, misfits[number].ndim, misfits[number].shape, zeros);
        break;
    case TYPE:
        add_tensor(&one, t->name, (enum dtype)misfits[number].shape[0], t->ndim, t->shape, zeros);
        break;
    }
    changed = one.tensors[0];
    free(one.tensors);
    tensor_free(t);
    *t = changed;
}

/* Writes M.safetensors and x.npy, with that change, or none where number < 0. */
static void write_files(int number)
{
    struct tensor_set model, input;

    make_model(&full_layer, &model);
    make_input(NULL, DT_F32, &input);
    if (number >= 0) {
        if (strcmp(misfits[number].tensor, "x") == 0) {
            change_tensor(&input, 0, number);
        } else {
            struct tensor *t = tensor_set_find(&model, misfits[number].tensor);

            ck_assert_ptr_nonnull(t);
            change_tensor(&model, (size_t)(t - model.tensors), number);
        }
    }
    write_set("M.safetensors", &model);
    write_set("x.npy", &input);
    tensor_set_free(&model);
    tensor_set_free(&input);
}

/* The command failed with just this message, and y.npy, which says "old", is all that is new. */
static void check_failed(const struct outcome *outcome, const char *message, const char *files)
{
    char whole[1024];
    size_t size;
    unsigned char *bytes;

    snprintf(whole, sizeof whole, "fusedbn: %s\n", message);
    ck_assert_str_eq(outcome->err, whole);
    ck_assert_str_eq(outcome->out, "");
    ck_assert_int_eq(outcome->status, 1);
    bytes = read_file("y.npy", &size);
    ck_assert(size == 3 && memcmp(bytes, "old", 3) == 0);
    free(bytes);
    ck_assert_str_eq(list_directory().text, files);
}

static void put_old_output(void)
{
    FILE *file = fopen(in_directory("y.npy").text, "wb");

    ck_assert(file != NULL && fputs("old", file) >= 0 && fclose(file) == 0);
}

START_TEST(misfits_are_named)
{
    struct outcome outcome;

    write_files(_i);
    put_old_output();
    run_command(&outcome, RUN OUT "%s", misfits[_i].more);
    check_failed(&outcome, misfits[_i].err, "M.safetensors x.npy y.npy");
}
END_TEST

/* ---- tensors that only some uses need */

static const struct {
    const char *arguments, *err;
} needs[] = {
    {RUN OUT, "M.safetensors: tensor 'bn.running_mean' is missing, which --mode infer needs"},
    {"run --chain linear-scale-bn --mode train --model M.safetensors --input x.npy " OUT
     "--save-model M2.safetensors",
     "M.safetensors: tensor 'bn.running_mean' is missing, so --save-model has nothing to update"},
    {"fold --chain linear-scale-bn --model M.safetensors --output F.safetensors",
     "M.safetensors: tensor 'bn.running_mean' is missing, which folding needs"},
    {RUN "--output no/y.npy --mode train",
     "no/y.npy: cannot create a temporary file beside it: No such file or directory"},
    {RUN OUT "--input z.npy --mode train", "z.npy: cannot open: No such file or directory"},
    {RUN OUT "--input two.safetensors --mode train",
     "two.safetensors: there are 2 tensors, and none has the name 'x'"},
    {RUN OUT "--model two.safetensors", "two.safetensors: there is no tensor 'gemm.weight'"},
};

START_TEST(what_is_needed_is_named)
{
    struct layer layer = full_layer;
    struct tensor_set set;
    struct outcome outcome;

    layer.statistics = false;
    write_files(-1);
    make_model(&layer, &set);
    write_set("M.safetensors", &set);
    tensor_set_free(&set);
    make_input("a", DT_F32, &set);
    add_tensor(&set, "b", DT_F32, 2, (const int64_t[]){ROWS, INPUTS}, layer_x[0]);
    write_set("two.safetensors", &set);
    tensor_set_free(&set);
    put_old_output();
    run_command(&outcome, "%s", needs[_i].arguments);
    check_failed(&outcome, needs[_i].err, "M.safetensors two.safetensors x.npy y.npy");
}
END_TEST

/* ---- hostile files */

static const struct {
    const char *name, *header; /* NULL: the length alone, 2^62 */
    const char *err;
} hostile[] = {
    {"M.safetensors", NULL,
     "M.safetensors: the header's length is 4611686018427387904, above safetensors' limit of "
     "100000000"},
    {"M.safetensors",
     "{\"gemm.weight\":{\"dtype\":\"F32\",\"shape\":[4,3],\"data_offsets\":[0,48]}}",
     "M.safetensors: tensor 'gemm.weight' ends at byte 48 of the data, but the file has 0 bytes of "
     "data"},
    {"M.safetensors",
     "{\"\\u001b[2Jgemm.weight\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
     "M.safetensors: there is no tensor 'gemm.weight'; there is '\\x1b[2Jgemm.weight' (see "
     "--prefix)"},
    {"x.npy", NULL, "x.npy: not a .npy file: it does not begin with \\x93NUMPY"},
};

START_TEST(hostile_files_are_refused)
{
    const char *header = hostile[_i].header;
    uint64_t length = header != NULL ? strlen(header) : UINT64_C(1) << 62;
    FILE *file;
    struct outcome outcome;

    write_files(-1);
    put_old_output();
    file = fopen(in_directory(hostile[_i].name).text, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(&length, sizeof length, 1, file), 1);
    ck_assert(header == NULL || fputs(header, file) >= 0);
    ck_assert_int_eq(fclose(file), 0);
    run_command(&outcome, RUN OUT);
    check_failed(&outcome, hostile[_i].err, "M.safetensors x.npy y.npy");
}
END_TEST

/* ---- disks that are full */

#define TRAIN                                                                                      \
    "run --chain linear-scale-bn --mode train --model M.safetensors --input x.npy " OUT            \
    "--save-model M2.safetensors"

/* The limit lets y (208 bytes) through, and stops the model (over 700): neither is put in place. */
START_TEST(a_disk_that_fills_leaves_both_files)
{
    struct outcome outcome;
    size_t size, saved_size;
    unsigned char *model, *saved;

    write_files(-1);
    put_old_output();
    model = read_file("M.safetensors", &size);
    ck_assert_int_eq(link(in_directory("M.safetensors").text, in_directory("M2.safetensors").text),
                     0);
    run_limited(&outcome, 400, TRAIN);
    check_failed(&outcome, "M2.safetensors: cannot write: File too large",
                 "M.safetensors M2.safetensors x.npy y.npy");
    saved = read_file("M2.safetensors", &saved_size);
    ck_assert(size > 400 && size == saved_size && memcmp(model, saved, size) == 0);
    free(model);
    free(saved);
    run_limited(&outcome, 100, TRAIN);
    check_failed(&outcome, "y.npy: cannot write: File too large",
                 "M.safetensors M2.safetensors x.npy y.npy");
}
END_TEST

/* Where a file cannot be put in place, nothing is left beside it. */
START_TEST(a_place_that_is_taken_is_refused)
{
    struct outcome outcome;

    write_files(-1);
    put_old_output();
    ck_assert_int_eq(mkdir(in_directory("M2.safetensors").text, 0755), 0);
    run_command(&outcome, TRAIN);
    check_failed(&outcome, "M2.safetensors: exists and is not a regular file",
                 "M.safetensors M2.safetensors x.npy y.npy");
    ck_assert_int_eq(symlink("/dev/full", in_directory("full.npy").text), 0);
    run_command(&outcome, RUN "--output full.npy");
    check_failed(&outcome, "full.npy: exists and is not a regular file",
                 "M.safetensors M2.safetensors full.npy x.npy y.npy");
}
END_TEST

Suite *refusal_suite(void)
{
    Suite *suite = suite_create("what cannot be done");
    TCase *tcase = tcase_create("refusals");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, make_directory, remove_directory);
    tcase_add_loop_test(tcase, misfits_are_named, 0, MISFIT_COUNT);
    tcase_add_loop_test(tcase, what_is_needed_is_named, 0, COUNT(needs));
    tcase_add_loop_test(tcase, hostile_files_are_refused, 0, COUNT(hostile));
    tcase_add_test(tcase, a_disk_that_fills_leaves_both_files);
    tcase_add_test(tcase, a_place_that_is_taken_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}
