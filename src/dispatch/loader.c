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

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef FBNI_PKGLIBDIR
#error "FBNI_PKGLIBDIR is the directory of the modules: the build defines it"
#endif

static const char module_variable[] = "FUSEDBN_CUDA_MODULE";
static const char installed_path[] = FBNI_PKGLIBDIR "/fusedbn-cuda.so";

/* A variable that names code to run is not read in a program with more rights than its user. */
static const char *trusted_getenv(const char *name)
{
#ifdef HAVE_SECURE_GETENV
    return secure_getenv(name);
#else
    return getuid() == geteuid() && getgid() == getegid() ? getenv(name) : NULL;
#endif
}

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

fbn_status fbni_module_open(const char *path, fbn_backend id, const fbni_backend **backend)
{
    const fbni_backend *module;
    const char *reason;
    void *handle;
    fbn_status status;

    if (path[0] != '/')
        return fbni_fail(FBN_ERR_NO_BACKEND, "the module's path \"%s\" is not absolute", path);
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
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
                           "%s is no module of libfusedbn: it has no symbol "
                           "fbni_module",
                           path);
    if (status == FBN_OK)
        *backend = module;
    else
        dlclose(handle);
    return status;
}

static struct {
    pthread_once_t once;
    const fbni_backend *backend; /* NULL: reason says why */
    char reason[FBNI_ERROR_MAX];
} cuda = {.once = PTHREAD_ONCE_INIT};

static void open_cuda(void)
{
    const char *path = trusted_getenv(module_variable);
    fbn_status status;

    if (path && path[0] != '\0' && path[0] != '/')
        status = fbni_fail(FBN_ERR_NO_BACKEND, "%s is \"%s\", which is not an absolute path",
                           module_variable, path);
    else if (path && path[0] != '\0')
        status = fbni_module_open(path, FBN_BACKEND_CUDA, &cuda.backend);
    else if (access(installed_path, F_OK) != 0)
        status = fbni_fail(FBN_ERR_NO_BACKEND, "libfusedbn was built without CUDA: there is no %s",
                           installed_path);
    else
        status = fbni_module_open(installed_path, FBN_BACKEND_CUDA, &cuda.backend);
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
