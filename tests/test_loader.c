/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a backend module is found, refused and used (src/dispatch/loader.c, backends.c): modules
 * compiled from tests/loader_module.c, a driver from tests/loader_driver.c, and the CUDA module
 * itself where it is built. No test needs a GPU. -DMODULE_DIR="..." is where the modules are,
 * -DCUDA_MODULE="..." is the CUDA module.
 */
#include "loader_process.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- how a module is refused ---- */

static const struct refusal {
    const char *module;
    const char *words[3]; /* of the sentence */
} refusals[] = {
    {"fusedbn-cuda.so", {"FUSEDBN_CUDA_MODULE", "fusedbn-cuda.so", "not an absolute path"}},
    {"./fusedbn-cuda.so", {"./fusedbn-cuda.so", "not an absolute path", NULL}},
    {"/nonexistent/fusedbn-cuda.so",
     {"cannot open", "/nonexistent/fusedbn-cuda.so", "No such file or directory"}},
    {"/dev/null", {"cannot open", "/dev/null", "no regular file"}},
    {MODULE_DIR, {"cannot open", MODULE_DIR, "no regular file"}},
    {MODULE_DIR "/module_other.so", {"module_other.so", "fbni_module", NULL}},
    {MODULE_DIR "/module_abi.so", {"module_abi.so", "ABI 1000000", "needs"}},
    {MODULE_DIR "/module_needs.so", {"cannot open", "libcublas-absent.so.0", NULL}},
    {MODULE_DIR "/module_refuses.so", {"the driver has version 3, 12 is needed", NULL, NULL}},
};

/* Asked for explicitly, it is an error with the reason; automatic means the CPU, and that is no
 * failure to report. */
START_TEST(refused_with_a_reason)
{
    const struct refusal *refusal = &refusals[_i];
    const setting by_variable = {.module = refusal->module, .backend = "cuda"};
    outcome result = with_module(refusal->module, ask);

    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    expect_words(result.error, refusal->words, 3);
    result = with_module(refusal->module, create_auto);
    ck_assert_int_eq(result.status, FBN_OK);
    ck_assert_str_eq(result.error, "");
    result = in_process(&by_variable, create_auto);
    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    expect_words(result.error, refusal->words, 3);
    ck_assert_msg(strstr(result.error, "FUSEDBN_BACKEND is cuda"), "\"%s\"", result.error);
}
END_TEST

START_TEST(backend_variable)
{
    const setting automatic = {.module = "/nonexistent/fusedbn-cuda.so", .backend = "auto"};
    const setting unknown = {.backend = "abacus"};
    outcome result = in_process(&automatic, create_auto);

    ck_assert_int_eq(result.status, FBN_OK);
    result = in_process(&unknown, create_auto);
    ck_assert_int_eq(result.status, FBN_ERR_ENUM);
    ck_assert_msg(strstr(result.error, "abacus"), "\"%s\"", result.error);
}
END_TEST

/* Where no variable names a module, and none is installed; "" counts as none. */
START_TEST(not_installed)
{
    static const char installed[] = FBNI_PKGLIBDIR "/fusedbn-cuda.so";
    const char *const unset[] = {NULL, ""};

    if (access(installed, F_OK) == 0) {
        printf("test_loader: skipped: not_installed: there is %s\n", installed);
        return;
    }
    for (int i = 0; i < 2; i++) {
        const outcome result = with_module(unset[i], ask);

        ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
        ck_assert_msg(strstr(result.error, "not installed") && strstr(result.error, installed),
                      "\"%s\"", result.error);
    }
}
END_TEST

/* ---- without a driver ---- */

static void look_for_driver(outcome *report)
{
    report->status = dlopen("libcuda.so.1", RTLD_LAZY) ? FBN_OK : FBN_ERR_NO_BACKEND;
}

/* Also what the answer costs: of the module and its cuBLAS nothing is loaded. */
static void ask_without_driver(outcome *report)
{
    char line[1000];
    FILE *maps;

    ask(report);
    maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        EXPECT(!strstr(line, "cublas"));
        EXPECT(!strstr(line, "module_usable"));
        EXPECT(!strstr(line, "fusedbn-cuda"));
    }
    if (maps)
        fclose(maps);
}

START_TEST(no_driver)
{
    static const char *const modules[] = {
        MODULE_DIR "/module_usable.so",
#ifdef CUDA_MODULE
        CUDA_MODULE,
#endif
    };
    static const char *const words[] = {"there is no NVIDIA driver", "libcuda.so.1"};
    setting with = {.own_driver = 1};

    if (in_process(&with, look_for_driver).status == FBN_OK) {
        printf("test_loader: skipped: no_driver: this machine has one\n");
        return;
    }
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        outcome result;

        with.module = modules[i];
        result = in_process(&with, ask_without_driver);
        ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
        expect_words(result.error, words, 2);
        ck_assert_int_eq(in_process(&with, create_auto).status, FBN_OK);
    }
}
END_TEST

/* ---- the CUDA module, with drivers that are of no use ---- */

#ifdef CUDA_MODULE

static const struct bad_driver {
    const char *version, *init;
    const char *words[2];
} bad_drivers[] = {
    {"9000", NULL, {"driver is too old: it supports CUDA 9.0", "needs 1"}},
    {NULL, "100", {"no CUDA device", NULL}}, /* CUDA_ERROR_NO_DEVICE */
    {NULL, "803", {"cudaErrorSystemDriverMismatch", "cudaGetDeviceCount"}},
};

START_TEST(cuda_module_refuses)
{
    const struct bad_driver *driver = &bad_drivers[_i];
    const setting with = {
        .module = CUDA_MODULE, .driver_version = driver->version, .driver_init = driver->init};
    const outcome result = in_process(&with, ask);

    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    expect_words(result.error, driver->words, 2);
    ck_assert_int_eq(in_process(&with, create_auto).status, FBN_OK);
}
END_TEST

#endif

int main(int argc, char **argv)
{
    Suite *suite;
    TCase *tcase;
    SRunner *runner;
    int failed;

    if (argc == 2 && strcmp(argv[1], "ask") == 0)
        answer();
    suite = suite_create("loader");
    tcase = tcase_create("modules");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, refused_with_a_reason, 0,
                        (int)(sizeof refusals / sizeof refusals[0]));
    tcase_add_test(tcase, backend_variable);
    tcase_add_test(tcase, not_installed);
    tcase_add_test(tcase, no_driver);
#ifdef CUDA_MODULE
    tcase_add_loop_test(tcase, cuda_module_refuses, 0,
                        (int)(sizeof bad_drivers / sizeof bad_drivers[0]));
#endif
    add_files(tcase);
    add_use(tcase);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
