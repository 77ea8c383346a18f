/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The Hopper product of float operands in several parts.
 */
#include "hopper_product_kernel.cuh"

const fbni::product_variant fbni::parts_variants[] = {
    FBNI_VARIANT(FP32, 192, F16, 2, true, 3, false),
    FBNI_VARIANT(FP32, 176, F16, 2, true, 3, false),
    FBNI_VARIANT(FP32, 128, F16, 2, true, 3, false),
    {},
};
