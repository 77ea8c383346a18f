/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The Hopper product of one part of each operand.
 */
#include "hopper_product_kernel.cuh"

const fbni::product_variant fbni::single_variants[] = {
    FBNI_VARIANT(F16, 256, F16, 1, false, 0, false),
    FBNI_VARIANT(F16, 256, F16, 1, false, 0, true),
    FBNI_VARIANT(F16, 128, F16, 1, false, 0, false),
    FBNI_VARIANT(BF16, 256, BF16, 1, false, 0, false),
    FBNI_VARIANT(BF16, 256, BF16, 1, false, 0, true),
    FBNI_VARIANT(BF16, 128, BF16, 1, false, 0, false),
    FBNI_VARIANT(TF32, 256, F16, 1, false, 2, false),
    FBNI_VARIANT(TF32, 256, F16, 1, false, 2, true),
    FBNI_VARIANT(TF32, 128, F16, 1, false, 2, false),
    {},
};
