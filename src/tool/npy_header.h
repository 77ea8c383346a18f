/* SPDX-License-Identifier: BSD-3-Clause
 * The dict in a .npy file's header.
 */
#ifndef NPY_HEADER_H
#define NPY_HEADER_H

#include "tensor.h"

struct npy_header {
    enum dtype dtype;
    bool big_endian;
    bool fortran_order;
    size_t ndim;
    int64_t *shape; /* owned by the caller, freed with free(), after a failure too */
};

/* Reads the dict that fills text[0..size), which ends in a newline. */
enum file_status npy_header_parse(const char *text, size_t size, struct npy_header *header,
                                  struct file_error *err);

#endif
