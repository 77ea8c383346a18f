/* SPDX-License-Identifier: BSD-3-Clause
 * `fusedbn info`: what this machine and this build can do.
 */
#include "commands.h"
#include "session.h"

#include <stdio.h>

/* What the processor can do beyond the baseline, as far as it may concern the kernels. */
static void print_features(void)
{
#if defined(__x86_64__) || defined(__i386__)
    /* __builtin_cpu_supports() takes literals alone; these are the names that both GCC 12 and
     * Clang 14 know. */
#define PRINT_FEATURE(name) printf("%s", __builtin_cpu_supports(name) ? " " name : "")
    printf("CPU features:");
    PRINT_FEATURE("sse4.2");
    PRINT_FEATURE("avx");
    PRINT_FEATURE("avx2");
    PRINT_FEATURE("fma");
    PRINT_FEATURE("avx512f");
    PRINT_FEATURE("avx512bw");
    PRINT_FEATURE("avx512dq");
    PRINT_FEATURE("avx512vl");
    PRINT_FEATURE("avx512vnni");
    PRINT_FEATURE("avx512bf16");
    printf("\n");
#undef PRINT_FEATURE
#endif
}

/* The context's kernel rows, fastest first. */
static void print_kernels(const fbn_context *context)
{
    const char *row, *refusal = NULL;

    for (int64_t i = 0; (row = fbn_context_kernel(context, i, &refusal)) != NULL; i++) {
        printf("  kernels %s: %s%s\n", row, refusal != NULL ? "cannot run here: " : "can run here",
               refusal != NULL ? refusal : "");
    }
}

static void print_backend(const char *name, fbn_backend backend)
{
    fbn_context_options options;
    fbn_context *context;

    fbn_context_options_init(&options, sizeof options);
    options.backend = backend;
    if (fbn_backend_available(backend) != FBN_OK ||
        fbn_context_create(&context, &options) != FBN_OK) {
        printf("backend %s: not available: %s\n", name, fbn_last_error());
        return;
    }
    printf("backend %s: available\n  %s\n", name, fbn_context_describe(context));
    print_kernels(context);
    fbn_context_destroy(context);
}

enum exit_status command_info(void)
{
    fbn_context *context;

    printf("fusedbn %s\n", fbn_version());
    print_features();
    print_backend("cpu", FBN_BACKEND_CPU);
    print_backend("cuda", FBN_BACKEND_CUDA);
    if (fbn_context_create(&context, NULL) != FBN_OK) {
        return complain(NULL, fbn_last_error());
    }
    printf("backend auto: %s\n", fbn_context_backend(context) == FBN_BACKEND_CUDA ? "cuda" : "cpu");
    fbn_context_destroy(context);
    return EXIT_OK;
}
