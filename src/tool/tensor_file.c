/* SPDX-License-Identifier: BSD-3-Clause
 * Files of tensors: reading and writing by the name's ending.
 */
#define _XOPEN_SOURCE 700
#include "tensor_file.h"
#include "npy.h"
#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* read() may refuse counts above SSIZE_MAX, and Linux reads 2 GiB at most. */
#define READ_MOST ((size_t)1 << 30)

static bool ends_in(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);

    return n > m && strcmp(path + n - m, ending) == 0;
}

enum file_format file_format(const char *path)
{
    return ends_in(path, ".npy")           ? FORMAT_NPY
           : ends_in(path, ".safetensors") ? FORMAT_SAFETENSORS
                                           : FORMAT_NONE;
}

static enum file_status fail_ending(struct file_error *err)
{
    return file_fail(err, FILE_UNKNOWN_ENDING, "the name ends in neither .npy nor .safetensors");
}

static enum file_status fill_buffer(int fd, unsigned char *bytes, size_t size,
                                    struct file_error *err)
{
    size_t used = 0;

    while (used < size) {
        size_t left = size - used;
        ssize_t n = read(fd, bytes + used, left < READ_MOST ? left : READ_MOST);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return file_fail_errno(err, "cannot read");
        }
        if (n == 0) {
            return file_fail(err, FILE_TRUNCATED,
                             "the file shrank from %zu to %zu bytes while it was read", size, used);
        }
        used += (size_t)n;
    }
    return FILE_OK;
}

/* Reads a regular file whole; *bytes is freed with free(), after a failure too. */
static enum file_status read_bytes(const char *path, unsigned char **bytes, size_t *size,
                                   struct file_error *err)
{
    struct stat st;
    enum file_status status;
    /* O_NONBLOCK: a FIFO is refused, not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        return file_fail_errno(err, "cannot open");
    }
    if (fstat(fd, &st) != 0) {
        status = file_fail_errno(err, "cannot look at the file");
    } else if (!S_ISREG(st.st_mode)) {
        status = file_fail(err, FILE_NOT_REGULAR, "not a regular file");
    } else if ((uint64_t)st.st_size >= SIZE_MAX ||
               (*bytes = malloc((size_t)st.st_size + 1)) == NULL) {
        status = file_fail_memory(err, (uint64_t)st.st_size);
    } else {
        *size = (size_t)st.st_size;
        status = fill_buffer(fd, *bytes, *size, err);
    }
    close(fd);
    return status;
}

static enum file_status parse_npy(const unsigned char *bytes, size_t size, struct tensor_set *set,
                                  struct file_error *err)
{
    memset(set, 0, sizeof *set);
    set->tensors = calloc(1, sizeof *set->tensors);
    if (set->tensors == NULL) {
        return file_fail_memory(err, sizeof *set->tensors);
    }
    set->count = 1;
    return npy_parse(bytes, size, &set->tensors[0], err);
}

enum file_status tensor_file_read(const char *path, struct tensor_set *set, struct file_error *err)
{
    enum file_format format = file_format(path);
    unsigned char *bytes = NULL;
    size_t size = 0;
    enum file_status status;

    memset(set, 0, sizeof *set);
    if (format == FORMAT_NONE) {
        return fail_ending(err);
    }
    status = read_bytes(path, &bytes, &size, err);
    if (status == FILE_OK) {
        status = format == FORMAT_NPY ? parse_npy(bytes, size, set, err)
                                      : safetensors_parse(bytes, size, set, err);
    }
    set->bytes = bytes;
    if (status != FILE_OK) {
        tensor_set_free(set);
    }
    return status;
}

enum file_status tensor_file_write(const char *path, const struct tensor_set *set,
                                   struct replacement *r, struct file_error *err)
{
    struct pieces pieces = {0};
    enum file_status status;

    memset(r, 0, sizeof *r);
    switch (file_format(path)) {
    case FORMAT_NPY:
        status = set->count == 1 ? npy_layout(&set->tensors[0], &pieces, err)
                                 : file_fail(err, FILE_UNSUPPORTED,
                                             ".npy holds one tensor, not %zu", set->count);
        break;
    case FORMAT_SAFETENSORS:
        status = safetensors_layout(set, &pieces, err);
        break;
    default:
        status = fail_ending(err);
    }
    if (status == FILE_OK) {
        status = replacement_write(r, path, &pieces, err);
    }
    pieces_free(&pieces);
    return status;
}
