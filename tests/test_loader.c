/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a backend module is found, refused and used (src/dispatch/loader.c, backends.c), with modules
 * compiled from tests/loader_module.c. The verdict on the CUDA module is kept for the life of a
 * process, so that each case runs in a process of its own; none has started a thread before it
 * forks. -DMODULE_DIR="..." is where the modules are; without it (no shared libraries are built)
 * only the cases without a module run.
 */
#include "error.h"
#include "loader.h"

#include <check.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a child reports: fbn_backend_available(FBN_BACKEND_CUDA) and its sentence, or the first line
 * where an expectation failed. */
typedef struct outcome {
    int failed_at;
    fbn_status status;
    char error[FBNI_ERROR_MAX];
} outcome;

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            report->failed_at = __LINE__;                                                          \
            return;                                                                                \
        }                                                                                          \
    } while (0)

static void set_variable(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

/* Runs work in a new process with these values of FUSEDBN_CUDA_MODULE and FUSEDBN_BACKEND. */
static outcome in_process(const char *module, const char *backend, void (*work)(outcome *))
{
    outcome result = {.failed_at = -1};
    int channel[2], exit_status;
    pid_t child;
    ssize_t got;

    ck_assert_int_eq(pipe(channel), 0);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        set_variable("FUSEDBN_CUDA_MODULE", module);
        set_variable("FUSEDBN_BACKEND", backend);
        result.failed_at = 0;
        work(&result);
        /* smaller than PIPE_BUF: all or nothing */
        _exit(write(channel[1], &result, sizeof result) != (ssize_t)sizeof result);
    }
    close(channel[1]);
    got = read(channel[0], &result, sizeof result);
    close(channel[0]);
    ck_assert_int_eq(waitpid(child, &exit_status, 0), child);
    ck_assert_msg(exit_status == 0, "the child ended with status 0x%x", (unsigned)exit_status);
    ck_assert_int_eq(got, sizeof result);
    ck_assert_msg(result.failed_at == 0, "an expectation failed in the child, line %d: %s",
                  result.failed_at, result.error);
    return result;
}

static void *ask_again(void *text)
{
    const bool refused = fbn_backend_available(FBN_BACKEND_CUDA) == FBN_ERR_NO_BACKEND;

    return refused && strcmp(fbn_last_error(), text) == 0 ? text : NULL;
}

/* Asks, and where the answer is no, again: from other threads too the reason is the same. */
static void ask(outcome *report)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];

    EXPECT(strcmp(fbn_last_error(), "") == 0);
    report->status = fbn_backend_available(FBN_BACKEND_CUDA);
    strcpy(report->error, fbn_last_error());
    if (report->status == FBN_OK)
        return;
    EXPECT(ask_again(report->error));
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, ask_again, report->error) == 0);
    for (int i = 0; i < THREADS; i++) {
        void *same = NULL;
        EXPECT(pthread_join(threads[i], &same) == 0);
        EXPECT(same);
    }
}

/* ---- how a module is refused ---- */

static const struct refusal {
    const char *module;
    const char *words[3]; /* of the sentence */
} refusals[] = {
    {"fusedbn-cuda.so", {"FUSEDBN_CUDA_MODULE", "fusedbn-cuda.so", "not an absolute path"}},
    {"./fusedbn-cuda.so", {"./fusedbn-cuda.so", "not an absolute path", NULL}},
    {"/nonexistent/fusedbn-cuda.so",
     {"cannot open", "/nonexistent/fusedbn-cuda.so", "No such file or directory"}},
    {"/dev/null", {"cannot open", "/dev/null", NULL}},
#ifdef MODULE_DIR
    {MODULE_DIR "/module_other.so", {"module_other.so", "fbni_module", NULL}},
    {MODULE_DIR "/module_abi.so", {"module_abi.so", "ABI 1000000", "needs"}},
    {MODULE_DIR "/module_refuses.so", {"the driver has version 3, 12 is needed", NULL, NULL}},
#endif
};

START_TEST(refused_with_a_reason)
{
    const struct refusal *refusal = &refusals[_i];
    const outcome result = in_process(refusal->module, NULL, ask);

    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    for (size_t i = 0; i < 3 && refusal->words[i]; i++)
        ck_assert_msg(strstr(result.error, refusal->words[i]), "\"%s\" lacks \"%s\"", result.error,
                      refusal->words[i]);
}
END_TEST

/* Where no variable names a module, and none is installed; "" counts as none. */
START_TEST(not_installed)
{
    static const char installed[] = FBNI_PKGLIBDIR "/fusedbn-cuda.so";
    const char *const unset[] = {NULL, ""};

    if (access(installed, F_OK) == 0)
        return;
    for (int i = 0; i < 2; i++) {
        const outcome result = in_process(unset[i], NULL, ask);

        ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
        ck_assert_msg(strstr(result.error, "without CUDA") && strstr(result.error, installed),
                      "\"%s\"", result.error);
    }
}
END_TEST

static void create_auto(outcome *report)
{
    fbn_context *context = NULL;

    report->status = fbn_context_create(&context, NULL);
    strcpy(report->error, fbn_last_error());
    EXPECT((report->status == FBN_OK) == (context != NULL));
    EXPECT(!context || fbn_context_backend(context) == FBN_BACKEND_CPU);
    fbn_context_destroy(context);
}

/* Without CUDA, automatic means the CPU, and that is no failure to report. */
START_TEST(automatic_without_a_module)
{
    outcome result = in_process("/nonexistent/fusedbn-cuda.so", NULL, create_auto);

    ck_assert_int_eq(result.status, FBN_OK);
    ck_assert_str_eq(result.error, "");
    result = in_process("/nonexistent/fusedbn-cuda.so", "auto", create_auto);
    ck_assert_int_eq(result.status, FBN_OK);
    result = in_process("/nonexistent/fusedbn-cuda.so", "cuda", create_auto);
    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    ck_assert_msg(strstr(result.error, "FUSEDBN_BACKEND is cuda") &&
                      strstr(result.error, "/nonexistent/fusedbn-cuda.so"),
                  "\"%s\"", result.error);
    result = in_process(NULL, "abacus", create_auto);
    ck_assert_int_eq(result.status, FBN_ERR_ENUM);
    ck_assert_msg(strstr(result.error, "abacus"), "\"%s\"", result.error);
}
END_TEST

/* ---- a module that can be used ---- */

#ifdef MODULE_DIR

#define USABLE MODULE_DIR "/module_usable.so"

static void open_as_cpu(outcome *report)
{
    const fbni_backend *backend = NULL;

    report->status = fbni_module_open(USABLE, FBN_BACKEND_CPU, &backend);
    strcpy(report->error, fbn_last_error());
    EXPECT(!backend);
    EXPECT(fbni_module_open(USABLE, FBN_BACKEND_CUDA, &backend) == FBN_OK);
    EXPECT(backend && strcmp(backend->name, "cuda") == 0);
}

static void use_context(outcome *report)
{
    fbn_context *context = NULL;
    fbn_context_options options;
    const char *refusal = "unset";
    int stream;

    EXPECT(fbn_backend_available(FBN_BACKEND_AUTO) == FBN_OK);
    fbn_context_options_init(&options, sizeof options);
    options.device = 1;
    EXPECT(fbn_context_create(&context, &options) == FBN_ERR_INVALID_ARGUMENT);
    EXPECT(!context && strstr(fbn_last_error(), "device is 1"));
    EXPECT(fbn_context_create(&context, NULL) == FBN_OK);
    EXPECT(fbn_context_backend(context) == FBN_BACKEND_CUDA);
    EXPECT(strcmp(fbn_context_describe(context), "a block of memory") == 0);
    EXPECT(strcmp(fbn_context_kernel(context, 0, &refusal), "nothing") == 0 && !refusal);
    EXPECT(!fbn_context_kernel(context, 1, NULL) && !fbn_context_kernel(context, -1, NULL));
    EXPECT(fbn_context_set_stream(context, &stream) == FBN_OK);
    EXPECT(fbn_context_set_stream(context, NULL) == FBN_ERR_DEVICE);
    EXPECT(fbn_context_synchronize(context) == FBN_OK);
    fbn_context_destroy(context);
}

/* Every pointer of a call is looked at, and the sentence names it. */
static void use_memory(outcome *report)
{
    enum { BATCH = 4, FEATURES = 16 };
    static float host[FEATURES * FEATURES];
    fbn_context *context = NULL;
    fbn_layer *layer = NULL;
    fbn_prepared *prepared = NULL;
    fbn_layer_desc desc;
    fbn_params params;
    fbn_forward_args args;
    fbn_run_args run;
    void *pool = NULL;
    char *device;

    EXPECT(fbn_context_create(&context, NULL) == FBN_OK);
    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = desc.out_features = FEATURES;
    desc.max_batch = BATCH;
    desc.workspace = host;
    desc.workspace_size = 511;
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_ERR_WORKSPACE);
    EXPECT(fbn_alloc(context, 1 << 15, &pool) == FBN_OK);
    device = pool;
    desc.workspace = device + 64; /* enough for the CPU, not for CUDA */
    desc.workspace_size = 512;
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_ERR_ALIGNMENT);
    EXPECT(strstr(fbn_last_error(), "256 bytes"));
    desc.workspace = (void *)(((uintptr_t)host + 255) & ~(uintptr_t)255);
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_ERR_MEMORY_KIND);
    EXPECT(strstr(fbn_last_error(), "workspace is host memory"));
    desc.workspace = device;
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_OK);

    fbn_params_init(&params, sizeof params);
    params.weight = device + 1024;
    params.running_mean = device + 4096;
    params.running_var = device + 8192;
    fbn_forward_args_init(&args, sizeof args);
    args.batch = BATCH;
    args.x = device + 12288;
    args.y = device + 16384;
    EXPECT(fbn_forward_train(layer, &params, &args) == FBN_OK);
    params.gamma = host;
    EXPECT(fbn_forward_train(layer, &params, &args) == FBN_ERR_MEMORY_KIND);
    EXPECT(strcmp(fbn_last_error(), "gamma is host memory, not the device's") == 0);
    EXPECT(fbn_prepare_infer(&prepared, layer, &params) == FBN_ERR_MEMORY_KIND);
    params.gamma = NULL;
    args.y = host;
    EXPECT(fbn_forward_infer(layer, &params, &args) == FBN_ERR_MEMORY_KIND);
    EXPECT(strcmp(fbn_last_error(), "y is host memory, not the device's") == 0);
    EXPECT(fbn_fold(layer, &params, device + 20480, 0, host) == FBN_ERR_MEMORY_KIND);
    EXPECT(fbn_upload(context, host, device, 8) == FBN_ERR_MEMORY_KIND);
    EXPECT(fbn_download(context, host, host, 8) == FBN_ERR_MEMORY_KIND);

    EXPECT(fbn_prepare_infer(&prepared, layer, &params) == FBN_OK);
    fbn_run_args_init(&run, sizeof run);
    run.batch = BATCH;
    run.x = device + 12288;
    run.y = device + 16384;
    run.workspace = device + 20480 + 64;
    run.workspace_size = (size_t)BATCH * 4;
    EXPECT(fbn_prepared_run(prepared, &run) == FBN_ERR_ALIGNMENT);
    run.workspace = device + 20480;
    EXPECT(fbn_prepared_run(prepared, &run) == FBN_OK);
    run.x = host;
    EXPECT(fbn_prepared_run(prepared, &run) == FBN_ERR_MEMORY_KIND);

    /* the context outlives its owner's reference */
    EXPECT(fbn_free(context, pool) == FBN_OK);
    fbn_context_destroy(context);
    fbn_layer_destroy(layer);
    fbn_prepared_destroy(prepared);
}

START_TEST(usable_module)
{
    const outcome result = in_process(NULL, NULL, open_as_cpu);

    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    ck_assert_msg(strstr(result.error, "backend 2, not 1"), "\"%s\"", result.error);
    ck_assert_int_eq(in_process(USABLE, NULL, ask).status, FBN_OK);
    in_process(USABLE, NULL, use_context);
    in_process(USABLE, "cuda", use_context);
    in_process(USABLE, NULL, use_memory);
    in_process(USABLE, "cpu", create_auto);
}
END_TEST

/* Automatic passes over a module that refuses, without a trace in fbn_last_error(). */
START_TEST(automatic_with_a_refusing_module)
{
    const outcome result = in_process(MODULE_DIR "/module_refuses.so", NULL, create_auto);

    ck_assert_int_eq(result.status, FBN_OK);
    ck_assert_str_eq(result.error, "");
}
END_TEST

#endif

int main(void)
{
    Suite *suite = suite_create("loader");
    TCase *tcase = tcase_create("modules");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tcase, refused_with_a_reason, 0,
                        (int)(sizeof refusals / sizeof refusals[0]));
    tcase_add_test(tcase, not_installed);
    tcase_add_test(tcase, automatic_without_a_module);
#ifdef MODULE_DIR
    tcase_add_test(tcase, usable_module);
    tcase_add_test(tcase, automatic_with_a_refusing_module);
#endif
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
