/* SPDX-License-Identifier: BSD-3-Clause
 * The suites of test_files: everything of the command below its use of the library.
 */
#ifndef TEST_FILES_H
#define TEST_FILES_H

#include "tensor.h"

#include <check.h>

Suite *corpus_suite(void);  /* files of others, good and bad */
Suite *convert_suite(void); /* number types */
Suite *replace_suite(void); /* writing whole or not at all */

/* Fails with the sentence where status is not FILE_OK. */
#define ck_file_ok(status, err)                                                                    \
    do {                                                                                           \
        enum file_status ck_status_ = (status);                                                    \
        ck_assert_msg(ck_status_ == FILE_OK, "%s", (err).text);                                    \
    } while (0)

/* The pieces as one buffer, to be freed. */
unsigned char *join_pieces(const struct pieces *pieces, size_t *size);

#endif
