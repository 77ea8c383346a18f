/* SPDX-License-Identifier: BSD-3-Clause
 * The models that `fusedbn run --save-model` and `fusedbn fold` write.
 */
#include "convert.h"
#include "tool_harness.h"
#include "tool_suites.h"

#include <stdlib.h>
#include <string.h>

static const int64_t y_shape[] = {ROWS, FEATURES}, feature_shape[] = {FEATURES};

/* ---- the saved model */

/* Checks M2 against M: statistics moved by half (or a quarter), the count by one, no more. */
static void check_saved(const struct layer *layer, const struct chain_name *chain, bool quarter,
                        enum dtype param_dtype)
{
    static const char *const kept[] = {"gemm.weight", "gemm.bias",   "scale",       "bn.weight",
                                       "bn.bias",     "other.codes", "other.halves"};
    struct tensor_set before, after;
    struct expected e, frozen;
    const double count = 4;

    compute_expected(layer, chain, true, &e);
    compute_expected(layer, chain, false, &frozen); /* whose statistics are the old ones */
    for (int o = 0; o < FEATURES && quarter; o++) {
        e.mean[o] = (frozen.mean[o] + e.mean[o]) / 2;
        e.var[o] = (frozen.var[o] + e.var[o]) / 2;
    }
    make_model(layer, &before);
    read_set("M2.safetensors", &after);
    ck_assert_uint_eq(after.count, before.count);
    ck_assert_str_eq(after.metadata, before.metadata);
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        check_unchanged(&before, &after, kept[i]);
    }
    check_values(tensor_set_find(&after, "bn.running_mean"), layer->param_dtype, 1, feature_shape,
                 e.mean, layer->param_dtype, param_dtype);
    check_values(tensor_set_find(&after, "bn.running_var"), layer->param_dtype, 1, feature_shape,
                 e.var, layer->param_dtype, param_dtype);
    {
        const struct tensor *t = tensor_set_find(&after, "bn.num_batches_tracked");
        int64_t found;

        ck_assert(t != NULL && t->dtype == DT_I64 && t->ndim == 0);
        memcpy(&found, t->data, sizeof found);
        ck_assert_double_eq((double)found, count);
    }
    tensor_set_free(&before);
    tensor_set_free(&after);
}

static const struct {
    int chain;
    enum dtype weight, param;
    const char *more;
    bool quarter;
} saved_cases[] = {
    {0, DT_F32, DT_F32, " --momentum 0.5", false},
    {1, DT_F32, DT_F32, " --momentum 0.5", false},
    {0, DT_F64, DT_F64, " --momentum 0.5", false},
    {0, DT_BF16, DT_F32, " --momentum 0.5", false},
    {1, DT_F16, DT_F16, " --momentum 0.5", false},
    {0, DT_F32, DT_BF16, " --momentum 0.5 --dtype f64", false},
    {1, DT_F32, DT_F32, " --momentum cumulative", true}, /* the fourth batch */
};

START_TEST(statistics_are_saved_and_all_else_kept)
{
    struct layer layer = full_layer;
    struct outcome outcome;
    struct tensor_set set;
    size_t before_size, after_size;
    unsigned char *before, *after;

    layer.weight_dtype = saved_cases[_i].weight;
    layer.param_dtype = saved_cases[_i].param;
    make_model(&layer, &set);
    write_set("M.safetensors", &set);
    tensor_set_free(&set);
    make_input(NULL, DT_F32, &set);
    write_set("x.npy", &set);
    tensor_set_free(&set);
    before = read_file("M.safetensors", &before_size);
    run_command(&outcome,
                "run --chain %s --mode train --model M.safetensors --input x.npy --output y.npy"
                " --save-model M2.safetensors --eps 0%s",
                chains[saved_cases[_i].chain].name, saved_cases[_i].more);
    check_silent(&outcome);
    check_saved(&layer, &chains[saved_cases[_i].chain], saved_cases[_i].quarter,
                layer.weight_dtype == DT_F64 || strstr(saved_cases[_i].more, "f64") != NULL
                    ? DT_F64
                    : DT_F32);
    after = read_file("M.safetensors", &after_size);
    ck_assert(before_size == after_size && memcmp(before, after, after_size) == 0);
    free(before);
    free(after);
    ck_assert_str_eq(list_directory().text, "M.safetensors M2.safetensors x.npy y.npy");
}
END_TEST

/* --save-model may be --model, --output may be --input. */
START_TEST(files_are_replaced_in_place)
{
    struct outcome outcome;
    struct tensor_set set;
    struct expected e;

    make_model(&full_layer, &set);
    write_set("M2.safetensors", &set);
    tensor_set_free(&set);
    make_input("x", DT_F32, &set);
    write_set("x.safetensors", &set);
    tensor_set_free(&set);
    run_command(&outcome, "run --chain linear-scale-bn --mode train --model M2.safetensors --input "
                          "x.safetensors --output x.safetensors --save-model M2.safetensors "
                          "--eps 0 --momentum 0.5");
    check_silent(&outcome);
    check_saved(&full_layer, &chains[0], false, DT_F32);
    compute_expected(&full_layer, &chains[0], true, &e);
    read_set("x.safetensors", &set);
    check_values(tensor_set_find(&set, "y"), DT_F32, 2, y_shape, e.v[0], DT_F32, DT_F32);
    tensor_set_free(&set);
    ck_assert_str_eq(list_directory().text, "M2.safetensors x.safetensors");
}
END_TEST

/* ---- fold */

/* The folded tensors as doubles, after a look at types and shapes. */
static void read_folded(enum dtype dtype, double w[FEATURES][INPUTS], double b[FEATURES])
{
    struct tensor_set set;
    const struct tensor *weight, *bias;

    read_set("F.safetensors", &set);
    weight = tensor_set_find(&set, "weight");
    bias = tensor_set_find(&set, "bias");
    ck_assert(set.count == 2 && weight != NULL && bias != NULL);
    ck_assert(weight->dtype == dtype && bias->dtype == dtype);
    ck_assert(weight->ndim == 2 && weight->shape[0] == FEATURES && weight->shape[1] == INPUTS);
    ck_assert(bias->ndim == 1 && bias->shape[0] == FEATURES);
    convert_elements(weight->data, dtype, w, DT_F64, FEATURES * INPUTS);
    convert_elements(bias->data, dtype, b, DT_F64, FEATURES);
    tensor_set_free(&set);
}

START_TEST(folding_gives_a_plain_layer)
{
    const struct chain_name *chain = &chains[_i % 2];
    enum dtype dtype = types[_i / 2 % 4].dtype;
    bool given = _i >= 8; /* --dtype, or the weight's */
    struct layer layer = full_layer;
    struct outcome outcome;
    struct tensor_set set;
    struct expected e;
    double w[FEATURES][INPUTS], b[FEATURES];

    layer.weight_dtype = given ? DT_F32 : dtype;
    layer.prefix = "a.";
    make_model(&layer, &set);
    write_set("M.safetensors", &set);
    tensor_set_free(&set);
    run_command(&outcome,
                "fold --chain %s --model M.safetensors --prefix a. --output F.safetensors --eps 0"
                "%s%s",
                chain->name, given ? " --dtype " : "", given ? types[_i / 2 % 4].name : "");
    check_silent(&outcome);
    compute_expected(&layer, chain, false, &e);
    read_folded(dtype, w, b);
    for (int o = 0; o < FEATURES; o++) {
        /* x's constant column and the bias could hide each other: each row is alpha times W's. */
        ck_assert_double_eq(w[o][2], w[o][0] / layer_weight[o][0] * layer_weight[o][2]);
        for (int n = 0; n < ROWS; n++) {
            double y = b[o];

            for (int i = 0; i < INPUTS; i++) {
                y += layer_x[n][i] * w[o][i];
            }
            ck_assert_double_eq(y, e.v[n][o]);
        }
    }
}
END_TEST

Suite *model_suite(void)
{
    Suite *suite = suite_create("models written");
    TCase *tcase = tcase_create("models");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, make_directory, remove_directory);
    tcase_add_loop_test(tcase, statistics_are_saved_and_all_else_kept, 0, COUNT(saved_cases));
    tcase_add_test(tcase, files_are_replaced_in_place);
    tcase_add_loop_test(tcase, folding_gives_a_plain_layer, 0, 16);
    suite_add_tcase(suite, tcase);
    return suite;
}
