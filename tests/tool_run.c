/* SPDX-License-Identifier: BSD-3-Clause
 * What `fusedbn run` computes and writes.
 */
#include "convert.h"
#include "tool_harness.h"
#include "tool_suites.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t y_shape[] = {ROWS, FEATURES}, feature_shape[] = {FEATURES};

/* ---- every way of running: each case takes its next choice from each list */

#define RUN_CASES 240

struct run_case {
    const struct chain_name *chain;
    bool train;
    struct layer layer;
    enum dtype dtype;   /* of the computation */
    const char *option; /* --dtype, or NULL */
    enum dtype x_dtype;
    const char *input, *output;
};

/* Digits of the case's number in mixed radices. */
static unsigned next(unsigned *digits, unsigned choices)
{
    unsigned digit = *digits % choices;

    *digits /= choices;
    return digit;
}

static struct run_case make_case(int number)
{
    static const enum dtype x_types[] = {DT_F64, DT_F32, DT_F16, DT_I64, DT_BF16};
    static const char *const prefixes[] = {"", "layer1."};
    static const int scales[] = {0, 1, FEATURES};
    /* A multiplier prime to all radices scatters the cases over the whole product. */
    unsigned digits = (unsigned)number * 2654435761u >> 4;
    struct run_case c;
    unsigned type, parts;

    c.chain = &chains[next(&digits, 2)];
    c.train = next(&digits, 2);
    type = next(&digits, 4);
    c.layer.weight_dtype = types[type].dtype;
    c.layer.param_dtype = next(&digits, 2) ? DT_F32 : c.layer.weight_dtype;
    c.option = NULL;
    if (next(&digits, 2)) {
        type = next(&digits, 4);
        c.option = types[type].name;
    }
    c.dtype = types[type].dtype;
    c.layer.prefix = prefixes[next(&digits, 2)];
    c.layer.scale = scales[next(&digits, 3)];
    parts = next(&digits, 32);
    c.layer.bias = parts & 1;
    c.layer.gamma = parts & 2;
    c.layer.beta = parts & 4;
    c.layer.statistics = !c.train || parts & 8;
    c.layer.count = parts & 16;
    c.x_dtype = x_types[next(&digits, 5)];
    c.input = c.x_dtype != DT_BF16 && next(&digits, 2) ? "x.npy" : "x.safetensors";
    c.output = next(&digits, 2) ? "y.npy" : "y.safetensors";
    return c;
}

static void write_case(const struct run_case *c)
{
    struct tensor_set model, input;

    make_model(&c->layer, &model);
    write_set("M.safetensors", &model);
    tensor_set_free(&model);
    make_input("x", c->x_dtype, &input);
    write_set(c->input, &input);
    tensor_set_free(&input);
}

static void check_output(const struct run_case *c)
{
    struct expected e;
    struct tensor_set output;
    bool npy = strcmp(c->output, "y.npy") == 0;

    compute_expected(&c->layer, c->chain, c->train, &e);
    read_set(c->output, &output);
    ck_assert_uint_eq(output.count, 1);
    ck_assert(npy || strcmp(output.tensors[0].name, "y") == 0);
    check_values(&output.tensors[0], npy && c->dtype == DT_BF16 ? DT_F32 : c->dtype, 2, y_shape,
                 e.v[0], c->dtype, c->dtype == DT_F64 ? DT_F64 : DT_F32);
    tensor_set_free(&output);
}

START_TEST(results_are_right)
{
    struct run_case c = make_case(_i);
    struct outcome outcome;

    write_case(&c);
    run_command(&outcome,
                "run --chain %s --mode %s --model M.safetensors%s%s --input %s --output %s"
                " --activation none --eps 0%s%s",
                c.chain->name, c.train ? "train" : "infer", c.layer.prefix[0] ? " --prefix " : "",
                c.layer.prefix, c.input, c.output, c.option != NULL ? " --dtype " : "",
                c.option != NULL ? c.option : "");
    check_silent(&outcome);
    check_output(&c);
}
END_TEST

/* ---- activations, the chains' own among them */

static double activate(const char *name, const double *v, int o)
{
    double sum = 0, most = v[0];

    if (strcmp(name, "relu") == 0) {
        return v[o] > 0 ? v[o] : 0;
    }
    if (strcmp(name, "gelu") == 0) {
        return v[o] * erfc(-v[o] / sqrt(2)) / 2;
    }
    if (strcmp(name, "silu") == 0) {
        return v[o] / (1 + exp(-v[o]));
    }
    if (strcmp(name, "none") == 0) {
        return v[o];
    }
    for (int i = 0; i < FEATURES; i++) {
        most = v[i] > most ? v[i] : most;
    }
    for (int i = 0; i < FEATURES; i++) {
        sum += exp(v[i] - most);
    }
    return strcmp(name, "softmax") == 0 ? exp(v[o] - most) / sum : v[o] - most - log(sum);
}

static const struct {
    int chain;
    const char *option; /* NULL: the chain's own */
    const char *name;
} activation_cases[] = {
    {0, NULL, "none"},         {1, NULL, "softmax"},
    {0, "softmax", "softmax"}, {1, "none", "none"},
    {0, "relu", "relu"},       {1, "gelu", "gelu"},
    {0, "silu", "silu"},       {1, "log_softmax", "log_softmax"},
};

/* Beyond v's slack there is the activation's own error and the rounding of y: a few units in the
 * last place of y, or, where the formula subtracts, of its terms. No slope exceeds GELU's 1.13. */
START_TEST(activations_are_applied)
{
    const char *option = activation_cases[_i].option, *name = activation_cases[_i].name;
    const struct chain_name *chain = &chains[activation_cases[_i].chain];
    struct expected e;
    struct outcome outcome;
    struct tensor_set set;

    make_model(&full_layer, &set);
    write_set("M.safetensors", &set);
    tensor_set_free(&set);
    make_input(NULL, DT_F32, &set);
    write_set("x.npy", &set);
    tensor_set_free(&set);
    run_command(&outcome,
                "run --chain %s --mode train --model M.safetensors --input x.npy --output y.npy"
                " --eps 0 --dtype f32%s%s",
                chain->name, option != NULL ? " --activation " : "", option != NULL ? option : "");
    check_silent(&outcome);
    compute_expected(&full_layer, chain, true, &e);
    read_set("y.npy", &set);
    for (int n = 0; n < ROWS; n++) {
        for (int o = 0; o < FEATURES; o++) {
            double wanted = activate(name, e.v[n], o);
            double terms = strcmp(name, "log_softmax") == 0 ? fabs(e.v[n][o]) + fabs(wanted) : 0;
            float found;

            memcpy(&found, set.tensors[0].data + (n * FEATURES + o) * 4, 4);
            ck_assert_msg(fabs(found - wanted) <=
                              8 * FLT_EPSILON * (fabs(wanted) + terms) + 1.13 * layer_slack(DT_F32),
                          "%s of row %d, feature %d is %.9g, not %.9g", name, n, o, found, wanted);
        }
    }
    tensor_set_free(&set);
}
END_TEST

/* ---- shapes at the edge */

/* Runs on rows [first, first + rows) of x; rows < 0: on a vector, one row without its dimension. */
static void run_rows(struct outcome *outcome, const char *mode, int first, int rows)
{
    struct tensor_set set;
    int64_t shape[2] = {rows, INPUTS};

    make_model(&full_layer, &set);
    write_set("M.safetensors", &set);
    tensor_set_free(&set);
    memset(&set, 0, sizeof set);
    add_tensor(&set, NULL, DT_F32, rows < 0 ? 1 : 2, rows < 0 ? shape + 1 : shape, layer_x[first]);
    write_set("x.npy", &set);
    tensor_set_free(&set);
    run_command(outcome,
                "run --chain linear-scale-bn --mode %s --model M.safetensors --input x.npy"
                " --output y.npy --eps 0%s",
                mode, strcmp(mode, "train") == 0 ? " --save-model M2.safetensors" : "");
}

START_TEST(a_vector_is_one_row)
{
    struct outcome outcome;
    struct tensor_set set;
    struct expected e;

    run_rows(&outcome, "infer", 1, -1);
    check_silent(&outcome);
    compute_expected(&full_layer, &chains[0], false, &e);
    read_set("y.npy", &set);
    check_values(&set.tensors[0], DT_F32, 1, feature_shape, e.v[1], DT_F32, DT_F32);
    tensor_set_free(&set);
}
END_TEST

START_TEST(no_rows_give_no_rows)
{
    const char *const modes[] = {"infer", "train"};
    const int64_t empty[] = {0, FEATURES};
    struct outcome outcome;
    struct tensor_set set, saved;
    const double none = 0;

    run_rows(&outcome, modes[_i], 0, 0);
    check_silent(&outcome);
    read_set("y.npy", &set);
    check_values(&set.tensors[0], DT_F32, 2, empty, &none, DT_F32, DT_F32);
    tensor_set_free(&set);
    if (_i == 1) { /* a batch of nothing is no batch: nothing is updated or counted */
        make_model(&full_layer, &set);
        read_set("M2.safetensors", &saved);
        for (size_t i = 0; i < set.count; i++) {
            check_unchanged(&set, &saved, set.tensors[i].name);
        }
        tensor_set_free(&set);
        tensor_set_free(&saved);
    }
}
END_TEST

START_TEST(training_needs_two_rows)
{
    struct outcome outcome;

    run_rows(&outcome, "train", 0, 1);
    ck_assert_int_eq(outcome.status, 1);
    ck_assert_str_eq(list_directory().text, "M.safetensors x.npy");
}
END_TEST

Suite *run_suite(void)
{
    Suite *suite = suite_create("fusedbn run");
    TCase *tcase = tcase_create("run");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, make_directory, remove_directory);
    tcase_add_loop_test(tcase, results_are_right, 0, RUN_CASES);
    tcase_add_loop_test(tcase, activations_are_applied, 0, COUNT(activation_cases));
    tcase_add_test(tcase, a_vector_is_one_row);
    tcase_add_loop_test(tcase, no_rows_give_no_rows, 0, 2);
    tcase_add_test(tcase, training_needs_two_rows);
    suite_add_tcase(suite, tcase);
    return suite;
}
