/* SPDX-License-Identifier: BSD-3-Clause
 * The safetensors format (the README of github.com/huggingface/safetensors).
 */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include "tensor.h"

/* The format's own limit on the header. */
#define SAFETENSORS_MAX_HEADER 100000000

/*
 * Reads the file in bytes[0..size); the tensors' data views it. Accepted is what the format allows
 * and nothing else: a header of at most 100 MB that begins with '{' and may end in spaces, UTF-8
 * JSON without duplicate keys, `__metadata__` a map of strings, and for each tensor exactly dtype,
 * shape and data_offsets, in 64-bit integers, which agree with each other; the tensors cover the
 * data from its first byte to its last without holes or overlaps. On failure *set is empty.
 */
enum file_status safetensors_parse(const unsigned char *bytes, size_t size, struct tensor_set *set,
                                   struct file_error *err);

/*
 * Lays the set out as a file: the tensors by decreasing dtype, then by name, as the reference
 * implementation orders them, and the header padded with spaces to a multiple of 8, so that every
 * tensor is aligned to its elements and equal sets give equal bytes. The set's names are distinct.
 * *pieces views the set; freed with pieces_free().
 */
enum file_status safetensors_layout(const struct tensor_set *set, struct pieces *pieces,
                                    struct file_error *err);

#endif
