/* SPDX-License-Identifier: BSD-3-Clause
 *
 * For tests/test_loader.c: the verdict on the CUDA module is kept for the life of a process, so
 * that each case runs in one of its own; none has started a thread before it forks.
 */
#ifndef TESTS_LOADER_PROCESS_H
#define TESTS_LOADER_PROCESS_H

#include "error.h"

#include <check.h>

/* What a child reports: a status and its sentence, or the first line where an expectation
 * failed. */
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

/* The environment of a child. */
typedef struct setting {
    const char *module, *backend; /* FUSEDBN_CUDA_MODULE, FUSEDBN_BACKEND; NULL: not set */
    const char *driver_version, *driver_init; /* for loader_driver.c */
    int own_driver; /* no loader_driver.c: what the machine has, or has not */
} setting;

/* Runs work in a child, which loader_driver.c was put into as libcuda.so.1. */
outcome in_process(const setting *with, void (*work)(outcome *));

/* The same, with this module alone. */
outcome with_module(const char *module, void (*work)(outcome *));

void expect_words(const char *sentence, const char *const *words, size_t most);

/* work: fbn_backend_available(FBN_BACKEND_CUDA), and where the answer is no, an explicit context
 * and other threads get the same sentence. */
void ask(outcome *report);

/* work: a context of FBN_BACKEND_AUTO, which must be the CPU's if it is there. */
void create_auto(outcome *report);

/* loader_files.c, loader_use.c: more cases. */
void add_files(TCase *tcase);
void add_use(TCase *tcase);

/* loader_files.c: test_loader, run by itself as "test_loader ask", answers on stdout and ends. */
_Noreturn void answer(void);

#endif
