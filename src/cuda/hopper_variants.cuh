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

/* FOLLOWED: others may follow behind it (hopper_follow.cuh); HOLDING: hopper_held.cu. */
enum product_form { PLAIN, FOLLOWED, HOLDING };

struct product_variant {
    fbni_hopper_kind kind;
    int columns;
    product_form form;
    int cluster, shared;
    product_kernel *function;
};

extern const product_variant single_variants[], parts_variants[], direct_variants[],
    held_variants[];

} // namespace fbni

#endif
