/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fbn_last_error(): a buffer a thread, so that failing needs no memory and no lock.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local fbni_error_text last_error;

const fbni_host fbni_core_host = {.fail = fbni_fail, .log = fbni_log};

const char *fbn_last_error(void)
{
    return last_error.text;
}

fbn_status fbni_fail(fbn_status status, const char *format, ...)
{
    /* The arguments may point into the old text ("cannot ...: %s"). */
    fbni_error_text text;
    va_list args;

    va_start(args, format);
    if (vsnprintf(text.text, sizeof text.text, format, args) < 0)
        text.text[0] = '\0';
    va_end(args);
    memcpy(last_error.text, text.text, strlen(text.text) + 1);
    return status;
}

fbn_status fbni_fail_null(const char *name)
{
    return fbni_fail(FBN_ERR_NULL_POINTER, "%s is NULL", name);
}

fbn_status fbni_fail_memory(size_t bytes, const char *purpose)
{
    return fbni_fail(FBN_ERR_OUT_OF_MEMORY, "out of memory: no %zu bytes for %s", bytes, purpose);
}

void fbni_error_keep(fbni_error_text *kept)
{
    memcpy(kept, &last_error, sizeof *kept);
}

void fbni_error_restore(const fbni_error_text *kept)
{
    memcpy(&last_error, kept, sizeof *kept);
}

void fbni_log(const char *format, ...)
{
    static const char prefix[] = "fusedbn: ";
    const char *verbose = getenv("FUSEDBN_VERBOSE");
    char line[1024];
    size_t length;
    va_list args;

    if (!verbose || strcmp(verbose, "") == 0 || strcmp(verbose, "0") == 0)
        return;
    memcpy(line, prefix, sizeof prefix);
    length = sizeof prefix - 1;
    va_start(args, format);
    if (vsnprintf(line + length, sizeof line - 1 - length, format, args) < 0)
        line[length] = '\0';
    va_end(args);
    length = strlen(line);
    line[length] = '\n';
    fwrite(line, 1, length + 1, stderr);
}
