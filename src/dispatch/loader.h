/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Opening a backend that is a module of its own.
 */
#ifndef FBNI_LOADER_H
#define FBNI_LOADER_H

#include "backend.h"

/* Opens the module at an absolute path and checks that it is a backend of this id and of our ABI.
 * An opened module stays open for good: it may have left threads and exit handlers behind.
 * FBN_ERR_NO_BACKEND, with the reason. Threads: any. */
fbn_status fbni_module_open(const char *path, fbn_backend id, const fbni_backend **backend);

/* The CUDA module: tried once in a process, afterwards the same answer. It is where
 * FUSEDBN_CUDA_MODULE says; else beside the file that holds the library, in libfusedbn/; else where
 * it was to be installed. Without a driver it is not opened. Threads: any. */
fbn_status fbni_cuda_module(const fbni_backend **backend);

#endif
