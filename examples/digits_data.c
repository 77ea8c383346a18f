/* SPDX-License-Identifier: BSD-3-Clause
 * The handwritten digits, and files that NumPy, PyTorch and `fusedbn run` read.
 */
#include "digits_data.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INK = 16, HEADER_CAPACITY = 8192, PATH_CAPACITY = 4096 };

static int fail(const char *path, const char *problem)
{
    fprintf(stderr, "digits: %s: %s\n", path, problem);
    return -1;
}

uint64_t random_bits(uint64_t *state)
{
    uint64_t bits = *state += UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
    return bits ^ (bits >> 31);
}

double random_unit(uint64_t *state)
{
    return (double)(random_bits(state) >> 11) * 0x1p-53;
}

void random_permutation(int64_t *order, int64_t count, uint64_t *state)
{
    for (int64_t i = count - 1; i > 0; i--) {
        const int64_t j = (int64_t)(random_unit(state) * (double)(i + 1));
        const int64_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

/* ------------------------------------------------------------------------------------- reading */

static int digits_alloc(struct digits *digits, int64_t count)
{
    digits->count = count;
    digits->pixels = calloc((size_t)count, DIGITS_PIXELS * sizeof(float));
    digits->labels = calloc((size_t)count, sizeof(int64_t));
    if (digits->pixels != NULL && digits->labels != NULL)
        return 0;
    fprintf(stderr, "digits: no memory for %" PRId64 " images\n", count);
    digits_free(digits);
    return -1;
}

void digits_free(struct digits *digits)
{
    free(digits->pixels);
    free(digits->labels);
    memset(digits, 0, sizeof *digits);
}

/* Reads one number from 0 to `largest` and the character `end` after it. */
static bool read_number(FILE *file, int largest, int end, int *number)
{
    int c = getc(file);
    if (c < '0' || c > '9')
        return false;
    for (*number = 0; c >= '0' && c <= '9'; c = getc(file)) {
        *number = *number * 10 + (c - '0');
        if (*number > largest)
            return false;
    }
    return c == end || (end == '\n' && c == EOF);
}

static bool read_image(FILE *file, float *pixels, int64_t *label)
{
    int number;
    for (int i = 0; i < DIGITS_PIXELS; i++) {
        if (!read_number(file, MAX_INK, ',', &number))
            return false;
        pixels[i] = (float)number / MAX_INK;
    }
    if (!read_number(file, DIGITS_CLASSES - 1, '\n', &number))
        return false;
    *label = number;
    return true;
}

/* Counts the lines, then goes back to the first. */
static int64_t count_lines(FILE *file)
{
    int64_t lines = 0;
    int last = '\n';
    for (int c = getc(file); c != EOF; c = getc(file)) {
        lines += c == '\n';
        last = c;
    }
    rewind(file);
    return lines + (last != '\n');
}

int digits_read(struct digits *digits, const char *path)
{
    int result = -1;
    memset(digits, 0, sizeof *digits);

    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return fail(path, strerror(errno));
    const int64_t lines = count_lines(file);
    if (lines == 0) {
        fail(path, "the file is empty");
        goto out;
    }
    if (digits_alloc(digits, lines) != 0)
        goto out;
    for (int64_t i = 0; i < lines; i++) {
        if (!read_image(file, digits->pixels + i * DIGITS_PIXELS, digits->labels + i)) {
            char problem[96];
            snprintf(problem, sizeof problem,
                     "line %" PRId64 " is not %d pixels from 0 to %d and a digit", i + 1,
                     DIGITS_PIXELS, MAX_INK);
            fail(path, problem);
            goto out;
        }
    }
    result = 0;
out:
    if (result != 0)
        digits_free(digits);
    fclose(file);
    return result;
}

int digits_hold_out(struct digits *digits, struct digits *held_out, int64_t count, uint64_t *state)
{
    int result = -1;
    struct digits kept = {0}, held = {0};
    int64_t *order = calloc((size_t)digits->count, sizeof *order);

    if (order == NULL) {
        fprintf(stderr, "digits: no memory to shuffle %" PRId64 " images\n", digits->count);
        goto out;
    }
    if (count < 1 || count >= digits->count) {
        fprintf(stderr, "digits: cannot hold out %" PRId64 " of %" PRId64 " images\n", count,
                digits->count);
        goto out;
    }
    if (digits_alloc(&kept, digits->count - count) != 0 || digits_alloc(&held, count) != 0)
        goto out;
    for (int64_t i = 0; i < digits->count; i++)
        order[i] = i;
    random_permutation(order, digits->count, state);
    for (int64_t i = 0; i < digits->count; i++) {
        struct digits *to = i < kept.count ? &kept : &held;
        const int64_t row = i < kept.count ? i : i - kept.count;
        memcpy(to->pixels + row * DIGITS_PIXELS, digits->pixels + order[i] * DIGITS_PIXELS,
               DIGITS_PIXELS * sizeof(float));
        to->labels[row] = digits->labels[order[i]];
    }
    digits_free(digits);
    *digits = kept;
    *held_out = held;
    result = 0;
out:
    if (result != 0) {
        digits_free(&held);
        digits_free(&kept);
    }
    free(order);
    return result;
}

/* ------------------------------------------------------------------------------------- writing */

/* Both formats are little-endian, and data is written as it lies in memory. */
static bool is_little_endian(void)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 1;
}

static int64_t tensor_bytes(const struct file_tensor *tensor)
{
    int64_t bytes = strcmp(tensor->dtype, "I64") == 0 ? 8 : 4;
    for (int i = 0; i < tensor->ndim; i++)
        bytes *= tensor->shape[i];
    return bytes;
}

/* Appends to text as snprintf does; false when it does not fit. */
static bool append(char *text, size_t capacity, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool append(char *text, size_t capacity, const char *format, ...)
{
    va_list arguments;
    const size_t used = strlen(text);
    va_start(arguments, format);
    const int length = vsnprintf(text + used, capacity - used, format, arguments);
    va_end(arguments);
    return length >= 0 && (size_t)length < capacity - used;
}

static int write_file(const char *path, const void *header, size_t header_size,
                      const struct file_tensor *tensors, size_t count)
{
    char temporary[PATH_CAPACITY];
    const int length = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (length < 0 || (size_t)length >= sizeof temporary)
        return fail(path, "the path is too long");
    if (!is_little_endian())
        return fail(path, "this program writes files on little-endian machines alone");

    FILE *file = fopen(temporary, "wb");
    if (file == NULL)
        return fail(temporary, strerror(errno));
    bool good = fwrite(header, 1, header_size, file) == header_size;
    for (size_t i = 0; i < count && good; i++) {
        const size_t bytes = (size_t)tensor_bytes(&tensors[i]);
        good = fwrite(tensors[i].data, 1, bytes, file) == bytes;
    }
    const int error = errno;
    if (fclose(file) != 0 || !good) {
        remove(temporary);
        return fail(temporary, strerror(good ? errno : error));
    }
    if (rename(temporary, path) != 0) {
        fail(path, strerror(errno));
        remove(temporary);
        return -1;
    }
    return 0;
}

/* Version 1.0: magic, 2-byte length, a Python dictionary padded with spaces so that the data begins
 * at a multiple of 64 (numpy/lib/format.py). */
int npy_write(const char *path, const struct file_tensor *tensor)
{
    enum { PREFIX = 10, ALIGNMENT = 64 };
    char header[PREFIX + 256] = "";
    char *text = header + PREFIX;
    const size_t capacity = sizeof header - PREFIX;

    bool good = append(text, capacity, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                       strcmp(tensor->dtype, "I64") == 0 ? "<i8" : "<f4");
    for (int i = 0; i < tensor->ndim && good; i++)
        good = append(text, capacity, "%" PRId64 "%s", tensor->shape[i],
                      tensor->ndim == 1 ? "," : (i + 1 < tensor->ndim ? ", " : ""));
    good = good && append(text, capacity, "), }");
    while (good && (PREFIX + strlen(text) + 1) % ALIGNMENT != 0)
        good = append(text, capacity, " ");
    good = good && append(text, capacity, "\n");
    if (!good)
        return fail(path, "the header is too long");

    const size_t length = strlen(text);
    memcpy(header, "\x93NUMPY\x01", 8); /* with the minor version 0 */
    header[8] = (char)(length & 0xff);
    header[9] = (char)(length >> 8);
    return write_file(path, header, PREFIX + length, tensor, 1);
}

/* 8-byte length, JSON padded with spaces to a multiple of 8, the tensors without gaps
 * (github.com/huggingface/safetensors). Tensors of 8-byte elements must come first, so that every
 * one is aligned. */
int safetensors_write(const char *path, const struct file_tensor *tensors, size_t count)
{
    char header[8 + HEADER_CAPACITY] = "";
    char *text = header + 8;
    int64_t offset = 0;

    bool good = append(text, HEADER_CAPACITY, "{");
    for (size_t i = 0; i < count && good; i++) {
        const struct file_tensor *tensor = &tensors[i];
        good = append(text, HEADER_CAPACITY, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                      i == 0 ? "" : ",", tensor->name, tensor->dtype);
        for (int j = 0; j < tensor->ndim && good; j++)
            good = append(text, HEADER_CAPACITY, "%s%" PRId64, j == 0 ? "" : ",", tensor->shape[j]);
        good =
            good && append(text, HEADER_CAPACITY, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}",
                           offset, offset + tensor_bytes(tensor));
        offset += tensor_bytes(tensor);
    }
    good = good && append(text, HEADER_CAPACITY, "}");
    while (good && strlen(text) % 8 != 0)
        good = append(text, HEADER_CAPACITY, " ");
    if (!good)
        return fail(path, "the header is too long");

    const uint64_t length = strlen(text);
    memcpy(header, &length, 8);
    return write_file(path, header, 8 + (size_t)length, tensors, count);
}
