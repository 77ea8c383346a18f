/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Opening a backend that is a module of its own. The core has no link-time dependency on CUDA: one
 * package serves machines with and without it, and what is missing or broken is a sentence.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "loader.h"

#include "error.h"
#include "module_file.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef HAVE_GETAUXVAL
#include <sys/auxv.h>
#endif

#ifndef FBNI_PKGLIBDIR
#error "FBNI_PKGLIBDIR is the directory of the modules: the build defines it"
#endif

#define MODULE_NAME "fusedbn-cuda.so"

static const char module_variable[] = "FUSEDBN_CUDA_MODULE";
static const char installed_path[] = FBNI_PKGLIBDIR "/" MODULE_NAME;

/* Why the table at `module` cannot be used; only the ABI number is read before it is known. */
static fbn_status check_module(const fbni_backend *module, const char *path, fbn_backend id)
{
    if (module->abi != FBNI_BACKEND_ABI)
        return fbni_fail(FBN_ERR_NO_BACKEND, "%s has ABI %u, but libfusedbn %s needs %u", path,
                         (unsigned)module->abi, fbn_version(), (unsigned)FBNI_BACKEND_ABI);
    if (module->id != id)
        return fbni_fail(FBN_ERR_NO_BACKEND, "%s is backend %d, not %d", path, (int)module->id,
                         (int)id);
    return FBN_OK;
}

static fbn_status open_checked(const char *path, fbn_backend id, const fbni_backend **backend)
{
    const fbni_backend *module;
    const char *reason;
    fbn_status status;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (!handle) {
        reason = dlerror();
        return fbni_fail(FBN_ERR_NO_BACKEND, "cannot open the module %s: %s", path,
                         reason ? reason : "no reason given");
    }
    module = dlsym(handle, "fbni_module");
    if (module)
        status = check_module(module, path, id);
    else
        status = fbni_fail(FBN_ERR_NO_BACKEND,
                           "%s is no module of libfusedbn: it has no symbol fbni_module", path);
    if (status == FBN_OK)
        *backend = module;
    else
        dlclose(handle);
    return status;
}

fbn_status fbni_module_open(const char *path, fbn_backend id, const fbni_backend **backend)
{
    fbn_status status;

    if (path[0] != '/')
        return fbni_fail(FBN_ERR_NO_BACKEND, "the module's path \"%s\" is not absolute", path);
    status = fbni_module_file_check(path);
    return status == FBN_OK ? open_checked(path, id, backend) : status;
}

/* ---- where the CUDA module is ---- */

enum { PATH_SIZE = 4096 };

/* True in a program with more rights than its user. What that user chooses, a variable or the name
 * that a program is started by, then names no code to run: the rule of secure_getenv. */
static bool is_privileged(void)
{
#ifdef HAVE_GETAUXVAL
    return getauxval(AT_SECURE) != 0;
#else
    return getuid() != geteuid() || getgid() != getegid();
#endif
}

/* Beside the library, as it is installed: DIR/libfusedbn.so and DIR/libfusedbn/fusedbn-cuda.so. So
 * a tree under DESTDIR, or one that was moved, is whole. dladdr gives the file that holds this
 * function, under the name that it was loaded by: one that is relative is not followed. */
static bool find_beside(char *path, size_t size)
{
    static const char tail[] = "/" PACKAGE "/" MODULE_NAME;
    Dl_info library;
    const char *slash;
    size_t directory;

    if (is_privileged() || !dladdr(installed_path, &library) || library.dli_fname[0] != '/')
        return false;
    slash = strrchr(library.dli_fname, '/');
    directory = (size_t)(slash - library.dli_fname);
    if (directory >= size - sizeof tail)
        return false;
    memcpy(path, library.dli_fname, directory);
    memcpy(path + directory, tail, sizeof tail);
    return access(path, F_OK) == 0;
}

/* Where the user says, beside the library, where it was to be installed. */
static fbn_status find_module(char *path, size_t size)
{
    const char *wanted = is_privileged() ? NULL : getenv(module_variable);

    if (wanted && wanted[0] != '\0') {
        if (wanted[0] != '/')
            return fbni_fail(FBN_ERR_NO_BACKEND, "%s is \"%s\", which is not an absolute path",
                             module_variable, wanted);
        if ((size_t)snprintf(path, size, "%s", wanted) >= size)
            return fbni_fail(FBN_ERR_NO_BACKEND, "%s is longer than %zu bytes", module_variable,
                             size);
        return FBN_OK;
    }
    if (find_beside(path, size))
        return FBN_OK;
    if (access(installed_path, F_OK) != 0)
        return fbni_fail(FBN_ERR_NO_BACKEND, "the CUDA module is not installed: there is no %s",
                         installed_path);
    snprintf(path, size, "%s", installed_path);
    return FBN_OK;
}

/* ---- the CUDA module, opened once ---- */

/* Before the module, which needs cuBLAS, hundreds of megabytes that are of no use without a driver.
 * By the name that drivers install: libcuda.so is the toolkit's stub. It stays open for the
 * module. */
static fbn_status open_driver(void)
{
    if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL))
        return FBN_OK;
    return fbni_fail(FBN_ERR_NO_BACKEND, "there is no NVIDIA driver: %s", dlerror());
}

static struct {
    pthread_once_t once;
    const fbni_backend *backend; /* NULL: reason says why */
    char reason[FBNI_ERROR_MAX];
} cuda = {.once = PTHREAD_ONCE_INIT};

static void open_cuda(void)
{
    char path[PATH_SIZE];
    fbn_status status;

    if ((status = find_module(path, sizeof path)) == FBN_OK &&
        (status = fbni_module_file_check(path)) == FBN_OK && (status = open_driver()) == FBN_OK)
        status = open_checked(path, FBN_BACKEND_CUDA, &cuda.backend);
    if (status != FBN_OK)
        memcpy(cuda.reason, fbn_last_error(), strlen(fbn_last_error()) + 1);
}

fbn_status fbni_cuda_module(const fbni_backend **backend)
{
    pthread_once(&cuda.once, open_cuda);
    if (!cuda.backend)
        return fbni_fail(FBN_ERR_NO_BACKEND, "%s", cuda.reason);
    *backend = cuda.backend;
    return FBN_OK;
}
