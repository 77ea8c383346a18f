/* SPDX-License-Identifier: BSD-3-Clause
 * `fusedbn info`: what this machine and this build can do.
 */
#include "commands.h"
#include "session.h"

#include <stdio.h>

/* Prints the backend, and its kernel rows, fastest first. */
static void print_backend(const char *name, fbn_backend backend)
{
    fbn_context_options options;
    fbn_context *context;
    const char *row, *refusal;

    fbn_context_options_init(&options, sizeof options);
    options.backend = backend;
    if (fbn_backend_available(backend) != FBN_OK ||
        fbn_context_create(&context, &options) != FBN_OK) {
        printf("%s: not available: %s\n", name, fbn_last_error());
        return;
    }
    printf("%s: %s\n", name, fbn_context_describe(context));
    for (int64_t i = 0; (row = fbn_context_kernel(context, i, &refusal)) != NULL; i++) {
        printf("  kernels %-12s %s%s\n", row,
               refusal != NULL ? "cannot run here: " : "can run here",
               refusal != NULL ? refusal : "");
    }
    fbn_context_destroy(context);
}

enum exit_status command_info(void)
{
    fbn_context *context;

    printf("fusedbn %s\n", fbn_version());
    print_backend("cpu", FBN_BACKEND_CPU);
    print_backend("cuda", FBN_BACKEND_CUDA);
    if (fbn_context_create(&context, NULL) != FBN_OK) {
        return complain(NULL, fbn_last_error());
    }
    printf("auto: %s\n", fbn_context_backend(context) == FBN_BACKEND_CUDA ? "cuda" : "cpu");
    fbn_context_destroy(context);
    return EXIT_OK;
}
