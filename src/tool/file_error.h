/* SPDX-License-Identifier: BSD-3-Clause
 * Why a file was refused: a status for programs, a sentence for people.
 *
 * The sentence names the tensor and the offending value, never the path: whoever knows the path
 * puts it in front ("M.safetensors: tensor 'bn.weight' has shape [65], ...").
 */
#ifndef FILE_ERROR_H
#define FILE_ERROR_H

#include <stdint.h>

/* clang-format off */
#define FILE_STATUSES(X)                                                                           \
    X(FILE_OK,               "success")                                                            \
    X(FILE_IO,               "a system call on the file failed")                                   \
    X(FILE_OUT_OF_MEMORY,    "out of memory")                                                      \
    X(FILE_NOT_REGULAR,      "not a regular file")                                                 \
    X(FILE_UNKNOWN_ENDING,   "the name ends in neither .npy nor .safetensors")                     \
    X(FILE_TRUNCATED,        "the file ends early")                                                \
    X(FILE_TRAILING_BYTES,   "bytes follow the data")                                              \
    X(FILE_BAD_MAGIC,        "the file's first bytes are wrong")                                   \
    X(FILE_BAD_VERSION,      "unknown version of the format")                                      \
    X(FILE_HEADER_TOO_LARGE, "the header is longer than the format allows")                        \
    X(FILE_BAD_HEADER,       "the header breaks the format's grammar")                             \
    X(FILE_DUPLICATE_KEY,    "a key occurs twice")                                                 \
    X(FILE_MISSING_KEY,      "a required key is absent")                                           \
    X(FILE_UNKNOWN_KEY,      "a key is not one of the format's")                                   \
    X(FILE_BAD_METADATA,     "__metadata__ is not a map of strings to strings")                    \
    X(FILE_BAD_DTYPE,        "unknown element type")                                               \
    X(FILE_BAD_SHAPE,        "the shape is not a list of sizes >= 0")                              \
    X(FILE_SIZE_OVERFLOW,    "the shape's product does not fit in 64 bits")                        \
    X(FILE_BAD_OFFSETS,      "data_offsets is not [begin, end] with 0 <= begin <= end")            \
    X(FILE_SIZE_MISMATCH,    "element type and shape disagree with the byte range")                \
    X(FILE_HOLE,             "bytes between two tensors belong to neither")                        \
    X(FILE_OVERLAP,          "two tensors share bytes")                                            \
    X(FILE_UNSUPPORTED,      "valid, but not for this use")                                        \
    X(FILE_MISSING_TENSOR,   "a required tensor is absent")                                        \
    X(FILE_WRONG_DTYPE,      "a tensor's element type does not suit the layer")                    \
    X(FILE_WRONG_SHAPE,      "a tensor's shape does not suit the layer")                           \
    X(FILE_BAD_VALUE,        "a tensor holds a value that the layer cannot take")
/* clang-format on */

enum file_status {
#define FILE_STATUS_NAME(name, text) name,
    FILE_STATUSES(FILE_STATUS_NAME)
#undef FILE_STATUS_NAME
};

struct file_error {
    enum file_status status;
    char text[512];
};

/* The status in general words, for a caller that has no sentence. */
const char *file_status_string(enum file_status status);

/* Fills *err and returns status, so that a caller can `return file_fail(...)`. */
enum file_status file_fail(struct file_error *err, enum file_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* file_fail with FILE_OUT_OF_MEMORY and the number of bytes that could not be had; 0: unknown. */
enum file_status file_fail_memory(struct file_error *err, uint64_t bytes);

/* file_fail with FILE_IO: "cannot open: No such file or directory", from errno. */
enum file_status file_fail_errno(struct file_error *err, const char *doing);

/*
 * Text from a file, made safe to print: control characters, which could drive the reader's
 * terminal, become \xNN, and what is too long is cut and ends in "...". Used within one
 * expression: `quote(name).text`.
 */
struct quoted {
    char text[104];
};

struct quoted quote(const char *text);

#endif
