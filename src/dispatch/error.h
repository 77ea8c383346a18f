/* SPDX-License-Identifier: BSD-3-Clause
 *
 * This thread's last failure in words, and the lines of FUSEDBN_VERBOSE.
 */
#ifndef FBNI_ERROR_H
#define FBNI_ERROR_H

#include "backend.h"

enum { FBNI_ERROR_MAX = 512 }; /* bytes of fbn_last_error(), the final 0 among them */

/* What a backend gets: fail and log, as below. */
extern const fbni_host fbni_core_host;

/* Sets fbn_last_error() and returns status. Never allocates; what is too long is cut. */
fbn_status fbni_fail(fbn_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The failures that many entries share. */
fbn_status fbni_fail_null(const char *name);
fbn_status fbni_fail_memory(size_t bytes, const char *purpose);

/* One line to stderr, in one write, if FUSEDBN_VERBOSE is set to anything but "" and "0". */
void fbni_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* For a probe whose failure is not the call's: keeps the text and puts it back. */
typedef struct fbni_error_text {
    char text[FBNI_ERROR_MAX];
} fbni_error_text;

void fbni_error_keep(fbni_error_text *kept);
void fbni_error_restore(const fbni_error_text *kept);

#endif
