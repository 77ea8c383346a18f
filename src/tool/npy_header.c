/* SPDX-License-Identifier: BSD-3-Clause
 * The dict in a .npy file's header, a Python literal. The part of Python's grammar that NumPy
 * writes, in any order and spacing, is read by descent:
 *
 *     dict   = '{' [ item { ',' item } [ ',' ] ] '}' spaces '\n'
 *     item   = string ':' ( string | 'True' | 'False' | tuple )      the key says which
 *     tuple  = '(' ')' | '(' number ',' ')' | '(' number ',' number { ',' number } [ ',' ] ')'
 *     string = "'" { any but "'", '\', newline } "'", or the same with '"'
 *     number = '0' | digit from 1 to 9 { digit }
 */
#include "npy_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cursor {
    const char *at, *start, *end;
    struct file_error *err;
};

static struct quoted quote_bytes(const char *text, size_t size)
{
    char copy[sizeof((struct quoted *)0)->text];
    size_t n = size < sizeof copy - 1 ? size : sizeof copy - 1;

    for (size_t i = 0; i < n; i++) {
        copy[i] = text[i] != '\0' ? text[i] : '?';
    }
    copy[n] = '\0';
    return quote(copy);
}

static void skip_spaces(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n')) {
        c->at++;
    }
}

static enum file_status fail_here(struct cursor *c, const char *wanted)
{
    if (c->at == c->end) {
        return file_fail(c->err, FILE_BAD_HEADER, "the header ends where %s is expected", wanted);
    }
    return file_fail(c->err, FILE_BAD_HEADER, "the header has '%s' at byte %zu, not %s",
                     quote_bytes(c->at, 1).text, (size_t)(c->at - c->start), wanted);
}

/* Skips spaces, then takes the character if it is next. */
static bool take(struct cursor *c, char character)
{
    skip_spaces(c);
    if (c->at < c->end && *c->at == character) {
        c->at++;
        return true;
    }
    return false;
}

static enum file_status parse_string(struct cursor *c, const char **text, size_t *size)
{
    const char *begin;
    char mark;

    skip_spaces(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"')) {
        return fail_here(c, "a string");
    }
    mark = *c->at++;
    begin = c->at;
    while (c->at < c->end && *c->at != mark && *c->at != '\\' && *c->at != '\n') {
        c->at++;
    }
    if (c->at == c->end || *c->at != mark) {
        return fail_here(c, "the end of a string");
    }
    *text = begin;
    *size = (size_t)(c->at - begin);
    c->at++;
    return FILE_OK;
}

static enum file_status parse_bool(struct cursor *c, bool *value)
{
    skip_spaces(c);
    if (c->end - c->at >= 4 && memcmp(c->at, "True", 4) == 0) {
        c->at += 4;
        *value = true;
        return FILE_OK;
    }
    if (c->end - c->at >= 5 && memcmp(c->at, "False", 5) == 0) {
        c->at += 5;
        *value = false;
        return FILE_OK;
    }
    return fail_here(c, "True or False");
}

static enum file_status parse_size(struct cursor *c, int64_t *value)
{
    const char *begin = c->at;
    int64_t n = 0;

    if (c->at < c->end && *c->at == '-') {
        return file_fail(c->err, FILE_BAD_SHAPE, "'shape' has a negative size");
    }
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') {
        int digit = *c->at - '0';

        if (n > (INT64_MAX - digit) / 10) {
            return file_fail(c->err, FILE_SIZE_OVERFLOW,
                             "'shape' has a size beyond 64 bits, beginning %s",
                             quote_bytes(begin, (size_t)(c->at - begin)).text);
        }
        n = 10 * n + digit;
        c->at++;
    }
    if (c->at == begin) {
        return fail_here(c, "a size or ')'");
    }
    if (*begin == '0' && c->at - begin > 1) {
        return file_fail(c->err, FILE_BAD_SHAPE, "'shape' has a size with a leading zero");
    }
    *value = n;
    return FILE_OK;
}

static enum file_status parse_shape(struct cursor *c, struct npy_header *h)
{
    size_t capacity = 0;
    enum file_status status;
    bool comma = true;

    if (!take(c, '(')) {
        return fail_here(c, "a tuple of sizes");
    }
    while (!take(c, ')')) {
        if (!comma) {
            return fail_here(c, "',' or ')'");
        }
        if (h->ndim == capacity) {
            int64_t *grown;

            capacity = capacity == 0 ? 4 : 2 * capacity;
            grown = realloc(h->shape, capacity * sizeof *grown);
            if (grown == NULL) {
                return file_fail_memory(c->err, capacity * sizeof *grown);
            }
            h->shape = grown;
        }
        status = parse_size(c, &h->shape[h->ndim]);
        if (status != FILE_OK) {
            return status;
        }
        h->ndim++;
        comma = take(c, ',');
    }
    if (h->ndim == 1 && !comma) { /* Python reads (3) as the number 3 */
        return file_fail(c->err, FILE_BAD_SHAPE, "'shape' is (%" PRId64 "), which is not a tuple",
                         h->shape[0]);
    }
    return FILE_OK;
}

/* '<f4', '>f4', '|u1': byte order, kind, bytes. '=' would mean the byte order of some machine. */
static enum file_status parse_descr(struct cursor *c, struct npy_header *h)
{
    const char *text;
    size_t size;
    enum file_status status;

    skip_spaces(c);
    if (c->at < c->end && (*c->at == '[' || *c->at == '(')) {
        return file_fail(c->err, FILE_BAD_DTYPE,
                         "'descr' is a structured type, not one kind of number");
    }
    status = parse_string(c, &text, &size);
    if (status != FILE_OK) {
        return status;
    }
    if (size == 3 && (text[0] == '<' || text[0] == '>' || text[0] == '|')) {
        for (int i = 0; i < DT_COUNT; i++) {
            const char *name = dtype_npy((enum dtype)i);

            /* Bytes have no order: '|u1' may say '<u1'. Wider numbers must say theirs. */
            if (name != NULL && memcmp(name + 1, text + 1, 2) == 0 &&
                (text[0] != '|' || name[0] == '|')) {
                h->dtype = (enum dtype)i;
                h->big_endian = text[0] == '>' && name[0] != '|';
                return FILE_OK;
            }
        }
    }
    if (size == 3 && memcmp(text + 1, "V2", 2) == 0) {
        return file_fail(c->err, FILE_BAD_DTYPE,
                         "'descr' is '%s', two bytes of no type "
                         "(bfloat16 has no .npy form: use .safetensors)",
                         quote_bytes(text, size).text);
    }
    return file_fail(c->err, FILE_BAD_DTYPE, "'descr' is '%s', which is no known number type",
                     quote_bytes(text, size).text);
}

/* Reads one `key: value`; seen has a bit per key. */
static enum file_status parse_item(struct cursor *c, struct npy_header *h, unsigned *seen)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    const char *key;
    size_t size;
    unsigned which = 0;
    enum file_status status = parse_string(c, &key, &size);

    if (status != FILE_OK) {
        return status;
    }
    while (which < 3 && (strlen(keys[which]) != size || memcmp(keys[which], key, size) != 0)) {
        which++;
    }
    if (which == 3) {
        return file_fail(c->err, FILE_UNKNOWN_KEY, "the header has an unknown key '%s'",
                         quote_bytes(key, size).text);
    }
    if (*seen & 1u << which) {
        return file_fail(c->err, FILE_DUPLICATE_KEY, "the header has the key '%s' twice",
                         keys[which]);
    }
    *seen |= 1u << which;
    if (!take(c, ':')) {
        return fail_here(c, "':'");
    }
    return which == 0   ? parse_descr(c, h)
           : which == 1 ? parse_bool(c, &h->fortran_order)
                        : parse_shape(c, h);
}

enum file_status npy_header_parse(const char *text, size_t size, struct npy_header *header,
                                  struct file_error *err)
{
    struct cursor c = {text, text, text + size, err};
    enum file_status status;
    unsigned seen = 0;
    bool comma = true;

    memset(header, 0, sizeof *header);
    if (size == 0 || text[size - 1] != '\n') {
        return file_fail(err, FILE_BAD_HEADER, "the header does not end in a newline");
    }
    if (c.at == c.end || *c.at != '{') {
        return fail_here(&c, "'{'");
    }
    c.at++;
    while (!take(&c, '}')) {
        if (!comma) {
            return fail_here(&c, "',' or '}'");
        }
        status = parse_item(&c, header, &seen);
        if (status != FILE_OK) {
            return status;
        }
        comma = take(&c, ',');
    }
    skip_spaces(&c);
    if (c.at != c.end) {
        return fail_here(&c, "a space or the end");
    }
    if (seen != 7) {
        return file_fail(err, FILE_MISSING_KEY, "the header has no key '%s'",
                         !(seen & 1)   ? "descr"
                         : !(seen & 2) ? "fortran_order"
                                       : "shape");
    }
    return FILE_OK;
}
