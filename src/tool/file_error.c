/* SPDX-License-Identifier: BSD-3-Clause
 * Why a file was refused: the sentences.
 */
#include "file_error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const char *file_status_string(enum file_status status)
{
    switch (status) {
#define FILE_STATUS_CASE(name, text)                                                               \
    case name:                                                                                     \
        return text;
        FILE_STATUSES(FILE_STATUS_CASE)
#undef FILE_STATUS_CASE
    }
    return "unknown status";
}

enum file_status file_fail(struct file_error *err, enum file_status status, const char *format, ...)
{
    va_list args;

    err->status = status;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return status;
}

enum file_status file_fail_memory(struct file_error *err, uint64_t bytes)
{
    if (bytes == 0) {
        return file_fail(err, FILE_OUT_OF_MEMORY, "out of memory");
    }
    return file_fail(err, FILE_OUT_OF_MEMORY, "out of memory: %" PRIu64 " bytes could not be had",
                     bytes);
}

enum file_status file_fail_errno(struct file_error *err, const char *doing)
{
    return file_fail(err, FILE_IO, "%s: %s", doing, strerror(errno));
}

/* Whether the character at s is one that a terminal may act on: C0, DEL, or C1 (U+0080..U+009F,
 * in UTF-8 the bytes C2 80 .. C2 9F). */
static bool is_control(const unsigned char *s)
{
    return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] >= 0x80 && s[1] <= 0x9f);
}

struct quoted quote(const char *text)
{
    static const char ellipsis[] = "...";
    const unsigned char *s = (const unsigned char *)text;
    struct quoted out;
    size_t used = 0, end = 0; /* end: where "..." can be put without cutting a character */

    while (*s != '\0') {
        char piece[16];
        int length;

        if (is_control(s)) {
            length = snprintf(piece, sizeof piece, "\\x%02x", s[0] == 0xc2 ? s[1] : s[0]);
            s += s[0] == 0xc2 ? 2 : 1;
        } else {
            length = 0;
            do {
                piece[length++] = (char)*s++;
            } while ((*s & 0xc0) == 0x80 && length < 4); /* the rest of a UTF-8 character */
        }
        if (used + (size_t)length >= sizeof out.text) {
            memcpy(out.text + end, ellipsis, sizeof ellipsis);
            return out;
        }
        memcpy(out.text + used, piece, (size_t)length);
        used += (size_t)length;
        if (used + sizeof ellipsis <= sizeof out.text) {
            end = used;
        }
    }
    out.text[used] = '\0';
    return out;
}
