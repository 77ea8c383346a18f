/* SPDX-License-Identifier: BSD-3-Clause
 * Fuzz target: the .npy reader, and the round trip of what it accepts.
 */
#include "fuzz_common.h"
#include "npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tensor tensor, again;
    struct pieces pieces;
    struct file_error err;
    unsigned char *bytes;
    enum file_status status = npy_parse(data, size, &tensor, &err);

    if (status != FILE_OK) {
        check_error(status, &err);
        FUZZ_CHECK(tensor.shape == NULL && tensor.owned == NULL);
        return 0;
    }
    status = npy_layout(&tensor, &pieces, &err);
    if (status == FILE_UNSUPPORTED) { /* a shape too long for version 1.0 */
        FUZZ_CHECK(tensor.ndim > 2000);
    } else {
        FUZZ_CHECK(status == FILE_OK && pieces.list[0].size % 64 == 0);
        bytes = join(&pieces, &size);
        FUZZ_CHECK(npy_parse(bytes, size, &again, &err) == FILE_OK);
        check_equal(&tensor, &again);
        tensor_free(&again);
        free(bytes);
    }
    pieces_free(&pieces);
    tensor_free(&tensor);
    return 0;
}
