/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cases of tests/test_loader.c in processes of their own. See loader_process.h.
 */
#include "loader_process.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void set_variable(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

/* False where the driver of the tests cannot be put in the machine's place. */
static bool set_up(const setting *with)
{
    set_variable("FUSEDBN_CUDA_MODULE", with->module);
    set_variable("FUSEDBN_BACKEND", with->backend);
    set_variable("TEST_DRIVER_VERSION", with->driver_version);
    set_variable("TEST_DRIVER_INIT", with->driver_init);
    /* what has the name libcuda.so.1 already is what dlopen gives for it */
    return with->own_driver || dlopen(MODULE_DIR "/module_driver.so", RTLD_NOW | RTLD_LOCAL);
}

outcome in_process(const setting *with, void (*work)(outcome *))
{
    outcome result = {.failed_at = -1};
    int channel[2], exit_status;
    pid_t child;
    ssize_t got;

    ck_assert_int_eq(pipe(channel), 0);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        if (set_up(with)) {
            result.failed_at = 0;
            work(&result);
        }
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

outcome with_module(const char *module, void (*work)(outcome *))
{
    const setting with = {.module = module};

    return in_process(&with, work);
}

void expect_words(const char *sentence, const char *const *words, size_t most)
{
    for (size_t i = 0; i < most && words[i]; i++)
        ck_assert_msg(strstr(sentence, words[i]), "\"%s\" lacks \"%s\"", sentence, words[i]);
}

static void *ask_again(void *text)
{
    const bool refused = fbn_backend_available(FBN_BACKEND_CUDA) == FBN_ERR_NO_BACKEND;

    return refused && strcmp(fbn_last_error(), text) == 0 ? text : NULL;
}

void ask(outcome *report)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    fbn_context_options options;
    fbn_context *context = NULL;

    EXPECT(strcmp(fbn_last_error(), "") == 0);
    report->status = fbn_backend_available(FBN_BACKEND_CUDA);
    strcpy(report->error, fbn_last_error());
    if (report->status == FBN_OK)
        return;
    fbn_context_options_init(&options, sizeof options);
    options.backend = FBN_BACKEND_CUDA;
    EXPECT(fbn_context_create(&context, &options) == FBN_ERR_NO_BACKEND && !context);
    EXPECT(strcmp(fbn_last_error(), report->error) == 0);
    EXPECT(ask_again(report->error));
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, ask_again, report->error) == 0);
    for (int i = 0; i < THREADS; i++) {
        void *same = NULL;
        EXPECT(pthread_join(threads[i], &same) == 0);
        EXPECT(same);
    }
}

void create_auto(outcome *report)
{
    fbn_context *context = NULL;

    report->status = fbn_context_create(&context, NULL);
    strcpy(report->error, fbn_last_error());
    EXPECT((report->status == FBN_OK) == (context != NULL));
    EXPECT(!context || fbn_context_backend(context) == FBN_BACKEND_CPU);
    fbn_context_destroy(context);
}
