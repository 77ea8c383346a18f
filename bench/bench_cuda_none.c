/* SPDX-License-Identifier: BSD-3-Clause
 * The benchmark on CUDA, where it was built without.
 */
#include "bench_cuda.h"

#include <stdlib.h>

void list_cuda_cases(void)
{
}

int run_cuda(const struct cuda_options *options, fbn_context *context)
{
    (void)options;
    (void)context;
    fputs("bench: built without CUDA, whose peers and clock it needs there; configure "
          "--with-cuda\n",
          stderr);
    return EXIT_FAILURE;
}
