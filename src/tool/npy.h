/* SPDX-License-Identifier: BSD-3-Clause
 * The .npy format (NumPy's numpy.lib.format, versions 1.0, 2.0 and 3.0).
 */
#ifndef NPY_H
#define NPY_H

#include "tensor.h"

/*
 * Reads the array in bytes[0..size). Its data views those bytes where they are C-ordered and
 * little-endian; big-endian numbers are swapped, and a Fortran-ordered matrix is transposed, into
 * data that the tensor owns. Nothing but the format itself is accepted: the header is one dict of
 * exactly the keys 'descr', 'fortran_order' and 'shape' that ends in a newline, and the array's
 * bytes are all that follows it. On failure *tensor is empty.
 */
enum file_status npy_parse(const unsigned char *bytes, size_t size, struct tensor *tensor,
                           struct file_error *err);

/*
 * Lays the tensor out as a version 1.0 file whose data begins at a multiple of 64. FILE_UNSUPPORTED
 * where .npy has no such element type. *pieces views the tensor; freed with pieces_free().
 */
enum file_status npy_layout(const struct tensor *tensor, struct pieces *pieces,
                            struct file_error *err);

#endif
