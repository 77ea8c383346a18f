/* SPDX-License-Identifier: BSD-3-Clause
 * Writing a file whole or not at all: under a temporary name in the same directory, then renamed.
 */
#ifndef REPLACE_H
#define REPLACE_H

#include "tensor.h"

/* A file that is written but not yet in its place. Zero-initialised, it is none. */
struct replacement {
    char *target;    /* where it goes; a symbolic link is followed */
    char *temporary; /* where it is; NULL: nowhere */
};

/*
 * Writes the pieces to a temporary file beside path and waits until they are on the disk. The file
 * takes the permissions of the one that it will replace, or, where there is none, those that the
 * umask leaves. Anything at path that is not a regular file is refused. On failure nothing is left
 * behind and *r is none.
 */
enum file_status replacement_write(struct replacement *r, const char *path,
                                   const struct pieces *pieces, struct file_error *err);

/* Puts the file in its place. Whatever happens, *r is none afterwards and no temporary is left; on
 * failure the old file is as it was. */
enum file_status replacement_commit(struct replacement *r, struct file_error *err);

/* Removes the temporary file, if there is one. */
void replacement_discard(struct replacement *r);

/* From now on SIGHUP, SIGINT and SIGTERM remove temporary files before they end the program, and a
 * file beyond the size limit is an error instead of SIGXFSZ. */
void replacement_handle_signals(void);

#endif
