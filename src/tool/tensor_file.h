/* SPDX-License-Identifier: BSD-3-Clause
 * Files of tensors, told apart by the ending of their names: .npy or .safetensors.
 */
#ifndef TENSOR_FILE_H
#define TENSOR_FILE_H

#include "replace.h"
#include "tensor.h"

enum file_format { FORMAT_NONE, FORMAT_NPY, FORMAT_SAFETENSORS };

enum file_format file_format(const char *path);

/*
 * Reads the whole file; *set owns it, freed with tensor_set_free(). A .npy file gives one tensor
 * without a name. Memory: the file's size, and for what a header describes up to 50 times the header's.
 * The file is read and not mapped because a mapped file that another program cuts short kills its reader (SIGBUS).
 */
enum file_status tensor_file_read(const char *path, struct tensor_set *set, struct file_error *err);

/* Writes the set to a temporary file beside path (replacement_write()). A .npy file takes a set of
 * one tensor. */
enum file_status tensor_file_write(const char *path, const struct tensor_set *set,
                                   struct replacement *r, struct file_error *err);

#endif
