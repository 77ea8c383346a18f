/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The CUDA driver, for tests. See cuda_driver.h.
 */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cuda_driver cuda;

void cuda_ok(int error, const char *call)
{
    if (error != 0)
        harness_fail("%s gave CUDA driver error %d", call, error);
}

/* Fills a function pointer as POSIX's dlsym is used: by its bytes. */
static bool find(void *library, const char *name, void *function)
{
    void *entry = dlsym(library, name);
    memcpy(function, &entry, sizeof entry);
    if (!entry)
        fprintf(stderr, "libcuda.so.1 has no %s\n", name);
    return entry;
}

static bool open_driver(void)
{
    int (*initialise)(unsigned flags);
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const struct {
        const char *name;
        void *function;
    } entries[] = {
        {"cuInit", &initialise},
        {"cuDeviceGetCount", &cuda.device_count},
        {"cuDevicePrimaryCtxRetain", &cuda.retain_primary},
        {"cuCtxSetCurrent", &cuda.set_current},
        {"cuCtxGetCurrent", &cuda.get_current},
        {"cuStreamCreate", &cuda.stream_create},
        {"cuStreamDestroy_v2", &cuda.stream_destroy},
        {"cuStreamSynchronize", &cuda.stream_synchronize},
        {"cuStreamQuery", &cuda.stream_query},
        {"cuStreamBeginCapture_v2", &cuda.begin_capture},
        {"cuStreamEndCapture", &cuda.end_capture},
        {"cuGraphInstantiateWithFlags", &cuda.instantiate},
        {"cuGraphLaunch", &cuda.launch},
        {"cuGraphExecDestroy", &cuda.executable_destroy},
        {"cuGraphDestroy", &cuda.graph_destroy},
        {"cuLaunchHostFunc", &cuda.launch_host},
        {"cuMemAlloc_v2", &cuda.allocate},
        {"cuMemFree_v2", &cuda.release},
        {"cuMemcpyDtoDAsync_v2", &cuda.copy},
        {"cuMemHostAlloc", &cuda.allocate_pinned},
        {"cuMemFreeHost", &cuda.release_pinned},
        {"cuMemAllocManaged", &cuda.allocate_managed},
        {"cuMemGetInfo_v2", &cuda.memory_info},
    };
    if (!library)
        return false;
    for (size_t k = 0; k < sizeof entries / sizeof *entries; k++)
        if (!find(library, entries[k].name, entries[k].function))
            return false;
    return initialise(0) == 0;
}

void cuda_use(int device)
{
    void *context;
    CUDA_OK(cuda.retain_primary(&context, device));
    CUDA_OK(cuda.set_current(context));
}

void *cuda_stream(void)
{
    void *stream;
    CUDA_OK(cuda.stream_create(&stream, CUDA_NON_BLOCKING));
    return stream;
}

fbn_context *cuda_context(int device, void *stream)
{
    fbn_context_options options;
    fbn_context *context;
    fbn_context_options_init(&options, sizeof options);
    options.backend = FBN_BACKEND_CUDA;
    options.device = device;
    options.stream = stream;
    HARNESS_OK(fbn_context_create(&context, &options));
    return context;
}

int cuda_main(const char *program, void (*add)(Suite *suite))
{
    enum { EXIT_SKIPPED = 77 };
    if (harness_backend() != FBN_BACKEND_CUDA) {
        printf("%s: skipped: the backend under test is not cuda\n", program);
        return EXIT_SKIPPED;
    }
    if (fbn_backend_available(FBN_BACKEND_CUDA) == FBN_OK && !open_driver()) {
        printf("%s: the backend runs, but the driver cannot be opened\n", program);
        return EXIT_FAILURE;
    }
    return harness_main(program, add);
}
