/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A backend module for tests/test_loader.c, compiled once for each way in which a module can be
 * found: -DMODULE_ABI=n for another ABI number, -DMODULE_REFUSES for a machine that cannot run it,
 * -DMODULE_WITHOUT_TABLE for a shared object that is no module, -DMODULE_NEEDS for a module that
 * needs such a one. Otherwise a device whose memory is one block: it copies, refuses pointers that
 * are not in the block, and computes nothing.
 */
#include "backend.h"

#include <string.h>

#ifndef MODULE_ABI
#define MODULE_ABI FBNI_BACKEND_ABI
#endif

FBN_API extern const char not_a_module[];

#ifdef MODULE_WITHOUT_TABLE

const char not_a_module[] = "no table";

#else

FBN_API extern const fbni_backend fbni_module;

static _Alignas(256) char block[1 << 16];
static size_t block_used;

typedef struct device {
    const fbni_host *host;
    void *stream;
} device;

static device the_device;

static fbn_status available(const fbni_host *host)
{
#ifdef MODULE_REFUSES
    return host->fail(FBN_ERR_NO_BACKEND, "the driver has version %d, %d is needed", 3, 12);
#else
    (void)host;
    return FBN_OK;
#endif
}

static fbn_status context_create(void **context, const fbni_host *host,
                                 const fbn_context_options *options)
{
    if (options->device != 0)
        return host->fail(FBN_ERR_INVALID_ARGUMENT, "device is %d, but there is 1 device",
                          options->device);
    the_device.host = host;
    the_device.stream = options->stream;
    block_used = 0;
    *context = &the_device;
    return FBN_OK;
}

static void destroy(void *object)
{
    (void)object;
}

static const char *describe(const void *object)
{
    (void)object;
#ifdef MODULE_NEEDS
    return not_a_module;
#else
    return "a block of memory";
#endif
}

static const char *context_kernel(const void *context, int64_t index, const char **refusal)
{
    (void)context;
    *refusal = NULL;
    return index == 0 ? "nothing" : NULL;
}

static fbn_status context_set_stream(void *context, void *stream)
{
    device *d = context;

    if (!stream)
        return d->host->fail(FBN_ERR_DEVICE, "the stream was %p", d->stream);
    d->stream = stream;
    return FBN_OK;
}

static fbn_status allocate(void *context, size_t bytes, void **pointer)
{
    const device *d = context;
    const size_t rounded = (bytes + 255) & ~(size_t)255;

    if (rounded > sizeof block - block_used)
        return d->host->fail(FBN_ERR_OUT_OF_MEMORY, "no %zu bytes in the block", bytes);
    *pointer = block + block_used;
    block_used += rounded;
    return FBN_OK;
}

static fbn_status release(void *context, void *pointer)
{
    (void)context;
    (void)pointer;
    return FBN_OK;
}

static fbn_status copy(void *context, void *target, const void *source, size_t bytes)
{
    (void)context;
    memcpy(target, source, bytes);
    return FBN_OK;
}

static fbn_status check_pointer(void *context, const void *pointer, const char *name)
{
    const device *d = context;
    const uintptr_t offset = (uintptr_t)pointer - (uintptr_t)block;

    if (offset >= sizeof block)
        return d->host->fail(FBN_ERR_MEMORY_KIND, "%s is host memory, not the device's", name);
    return FBN_OK;
}

static fbn_status layer_workspace_size(void *context, const fbn_layer_desc *desc, size_t *bytes)
{
    (void)context;
    (void)desc;
    *bytes = 512;
    return FBN_OK;
}

static fbn_status layer_create(void **layer, void *context, const fbn_layer_desc *desc,
                               void *workspace)
{
    (void)desc;
    (void)workspace;
    *layer = context;
    return FBN_OK;
}

static fbn_status layer_saved_size(const void *layer, int64_t batch, size_t *bytes)
{
    (void)layer;
    (void)batch;
    *bytes = 0;
    return FBN_OK;
}

static fbn_status forward(void *layer, const fbn_params *params, const fbn_forward_args *args)
{
    (void)layer;
    (void)params;
    (void)args;
    return FBN_OK;
}

static fbn_status backward(void *layer, const fbn_params *params, const fbn_backward_args *args,
                           const fbn_grads *grads)
{
    (void)layer;
    (void)params;
    (void)args;
    (void)grads;
    return FBN_OK;
}

static fbn_status fold(void *layer, const fbn_params *params, void *weight, int64_t ldw, void *bias)
{
    (void)layer;
    (void)params;
    (void)weight;
    (void)ldw;
    (void)bias;
    return FBN_OK;
}

static fbn_status prepare(void **prepared, void *layer, const fbn_params *params)
{
    (void)params;
    *prepared = layer;
    return FBN_OK;
}

static fbn_status prepared_workspace_size(const void *prepared, int64_t batch, size_t *bytes)
{
    (void)prepared;
    *bytes = (size_t)batch * 4;
    return FBN_OK;
}

static fbn_status prepared_run(const void *prepared, const fbn_run_args *args)
{
    (void)prepared;
    (void)args;
    return FBN_OK;
}

const fbni_backend fbni_module = {
    .abi = MODULE_ABI,
    .id = FBN_BACKEND_CUDA,
    .name = "cuda",
    .workspace_alignment = 256,
    .available = available,
    .context_create = context_create,
    .context_destroy = destroy,
    .context_describe = describe,
    .context_kernel = context_kernel,
    .context_set_stream = context_set_stream,
    .allocate = allocate,
    .release = release,
    .upload = copy,
    .download = copy,
    .check_pointer = check_pointer,
    .layer_workspace_size = layer_workspace_size,
    .layer_create = layer_create,
    .layer_destroy = destroy,
    .layer_describe = describe,
    .layer_saved_size = layer_saved_size,
    .forward_train = forward,
    .forward_infer = forward,
    .backward = backward,
    .fold = fold,
    .prepare = prepare,
    .prepared_destroy = destroy,
    .prepared_workspace_size = prepared_workspace_size,
    .prepared_run = prepared_run,
};

#endif
