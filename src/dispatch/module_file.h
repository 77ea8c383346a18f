/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A look at a module's file before the dynamic linker gets it.
 */
#ifndef FBNI_MODULE_FILE_H
#define FBNI_MODULE_FILE_H

#include "fusedbn.h"

/* FBN_OK where path is a regular file that holds all that its program headers speak of: of a file
 * cut short the dynamic linker maps what is not there, and the process dies of SIGBUS. What is no
 * ELF file passes: the dynamic linker says that itself. FBN_ERR_NO_BACKEND, with the reason. */
fbn_status fbni_module_file_check(const char *path);

#endif
