/* SPDX-License-Identifier: BSD-3-Clause
 * The command line: help, what `fusedbn info` prints, and wrong usage.
 */
#include "tool_harness.h"
#include "tool_suites.h"

#include <string.h>

#define RUN "run --chain linear-scale-bn --mode infer --model M.safetensors --input x.npy "
#define OUT "--output y.npy "

/* ---- wrong usage */

static const struct {
    const char *arguments;
    const char *err; /* a part of it */
} usages[] = {
    {"", "a command is required: run, fold or info"},
    {"walk", "'walk' is no command"},
    {"--halp", "'--halp' is no command"},
    {"run", "fusedbn run: --chain is required"},
    {"run --chain linear-scale-bn --mode infer --model M.safetensors --input x.npy",
     "--output is required"},
    {RUN OUT "--chain bn-linear", "--chain is 'bn-linear', but must be one of linear-scale-bn, "
                                  "linear-bn-scale-softmax"},
    {RUN OUT "--mode test", "--mode is 'test', but must be one of train, infer"},
    {RUN OUT "--backend gpu", "--backend is 'gpu', but must be one of auto, cpu, cuda"},
    {RUN OUT "--dtype float", "--dtype is 'float', but must be one of f64, f32, bf16, f16"},
    {RUN OUT "--math tf16", "--math is 'tf16', but must be one of fp32, tf32"},
    {RUN OUT "--activation tanh", "--activation is 'tanh', but must be one of none, relu, gelu"},
    {RUN OUT "--eps -1", "--eps is '-1', but must be a finite number >= 0"},
    {RUN OUT "--eps inf", "--eps is 'inf'"},
    {RUN OUT "--eps nan", "--eps is 'nan'"},
    {RUN OUT "--eps 1e-5x", "--eps is '1e-5x'"},
    {RUN OUT "--momentum 1.5", "--momentum is '1.5', but must be 'cumulative' or a number from 0"},
    {RUN OUT "--momentum", "'--momentum' needs a value"},
    {RUN OUT "--epsilon 1", "'--epsilon' is no option here"},
    {RUN OUT "--mod infer", "'--mod' is no option here"},
    {RUN OUT "--prefi=x", "'--prefi' is no option here"},
    {RUN OUT "-x", "'-x' is no option"},
    {RUN OUT "z.npy", "'z.npy' is not expected"},
    {RUN "--output y.txt", "--output is 'y.txt', but must end in .npy or .safetensors"},
    {RUN "--output .npy", "--output is '.npy', but must end in"},
    {RUN OUT "--model M.npy", "--model is 'M.npy', but must end in .safetensors"},
    {RUN OUT "--save-model M2.safetensors", "--save-model is for --mode train"},
    {RUN OUT "--mode train --save-model M2.npy", "--save-model is 'M2.npy', but must end in"},
    {RUN "--output M.safetensors", "--output and --model are both 'M.safetensors'"},
    {RUN "--mode train --save-model y.safetensors --output y.safetensors",
     "--output and --save-model are both 'y.safetensors'"},
    {RUN OUT "--mode train --input y.safetensors --save-model y.safetensors",
     "--input and --save-model are both 'y.safetensors'"},
    {"fold --chain linear-scale-bn --model M.safetensors --output F.npy",
     "--output is 'F.npy', but must end in .safetensors"},
    {"fold --mode infer", "'--mode' is no option here"},
    {"info --help=x", "'--help=x' is no option here, or takes no value"},
    {"info cpu", "'cpu' is not expected"},
    {"info --chain linear-scale-bn", "'--chain' is no option here"},
};

START_TEST(wrong_usage_has_status_2)
{
    struct outcome outcome;

    run_command(&outcome, "%s", usages[_i].arguments);
    ck_assert_int_eq(outcome.status, 2);
    ck_assert_str_eq(outcome.out, "");
    ck_assert_msg(strncmp(outcome.err, "fusedbn", 7) == 0 &&
                      strstr(outcome.err, usages[_i].err) != NULL &&
                      strstr(outcome.err, "\nTry 'fusedbn ") != NULL,
                  "%s", outcome.err);
    ck_assert_str_eq(list_directory().text, "");
}
END_TEST

/* ---- what is printed */

static const struct {
    const char *arguments;
    const char *out; /* a part of it */
} printed[] = {
    {"--help", "Usage: fusedbn run|fold|info"},
    {"--version", "fusedbn 0."},
    {"run --help", "--save-model"},
    {"run --chain linear-scale-bn --help", "--save-model"},
    {"fold --help", "--output F.safetensors"},
    {"info --help", "Usage: fusedbn info"},
    {"run --version", "fusedbn 0."},
    {"info", "backend cpu: available\n"},
    {"info", "kernels baseline: can run here\n"},
    {"info", "BLAS: "},
    {"info", "backend cuda: "},
};

START_TEST(help_and_info_are_printed)
{
    struct outcome outcome;

    run_command(&outcome, "%s", printed[_i].arguments);
    ck_assert_int_eq(outcome.status, 0);
    ck_assert_str_eq(outcome.err, "");
    ck_assert_msg(strstr(outcome.out, printed[_i].out) != NULL, "%s", outcome.out);
    run_into(&outcome, "/dev/full", printed[_i].arguments);
    ck_assert_int_eq(outcome.status, 1);
    ck_assert_str_eq(outcome.err, "fusedbn: standard output: No space left on device\n");
}
END_TEST

Suite *usage_suite(void)
{
    Suite *suite = suite_create("command line");
    TCase *tcase = tcase_create("usage");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, make_directory, remove_directory);
    tcase_add_loop_test(tcase, wrong_usage_has_status_2, 0, COUNT(usages));
    tcase_add_loop_test(tcase, help_and_info_are_printed, 0, COUNT(printed));
    suite_add_tcase(suite, tcase);
    return suite;
}
