/* SPDX-License-Identifier: BSD-3-Clause
 * Tests of the file readers and writers, of number conversion and of replacing files.
 */
#include "test_files.h"

#include <stdlib.h>
#include <string.h>

unsigned char *join_pieces(const struct pieces *pieces, size_t *size)
{
    unsigned char *bytes;
    size_t used = 0;

    *size = 0;
    for (size_t i = 0; i < pieces->count; i++) {
        *size += pieces->list[i].size;
    }
    bytes = malloc(*size + 1);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < pieces->count; i++) {
        if (pieces->list[i].size > 0) {
            memcpy(bytes + used, pieces->list[i].data, pieces->list[i].size);
            used += pieces->list[i].size;
        }
    }
    return bytes;
}

int main(void)
{
    SRunner *runner = srunner_create(corpus_suite());
    int failed;

    srunner_add_suite(runner, convert_suite());
    srunner_add_suite(runner, replace_suite());
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
