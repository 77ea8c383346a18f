/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of the Hopper product's kernels, in the parts in which they are compiled. Each part ends
 * with a variant that has no function.
 */
#ifndef FBNI_CUDA_HOPPER_VARIANTS_CUH
#define FBNI_CUDA_HOPPER_VARIANTS_CUH

#include "hopper_finish.cuh"

namespace fbni
{

struct product_variant {
    fbni_hopper_kind kind;
    int columns;
    bool follow;
    int cluster, shared;
    product_kernel *function;
};

extern const product_variant single_variants[], parts_variants[], direct_variants[];

} // namespace fbni

#endif
