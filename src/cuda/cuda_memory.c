/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory that the device can reach: allocation, copies, and the question whether a pointer is such.
 */
#include "cuda_internal.h"

/* ---- known addresses ----
 *
 * A call asks for up to 17 verdicts and each is a call to the driver, so good ones are kept, by
 * address, in a table that each address has one place in. Nothing here is locked: an entry is one
 * word, and a lost update is one more question to CUDA.
 *
 * An address that was freed behind the library's back and then given to something that the device
 * cannot reach would still pass: CUDA's address ranges are not handed to malloc while the driver
 * holds them, so this takes a release of the range; the device then reports the access itself
 * (FBN_ERR_DEVICE). A good pointer is never refused because of the table. */

static _Atomic uintptr_t *place_of(fbni_cuda_known *known, const void *pointer)
{
    const uint64_t hash = (uint64_t)(uintptr_t)pointer * UINT64_C(0x9e3779b97f4a7c15);
    return &known->address[hash >> 32 & (FBNI_CUDA_KNOWN - 1)];
}

static void forget(fbni_cuda_known *known, const void *pointer)
{
    uintptr_t old = (uintptr_t)pointer;
    (void)atomic_compare_exchange_strong_explicit(place_of(known, pointer), &old, 0,
                                                  memory_order_relaxed, memory_order_relaxed);
}

static fbn_status judge(const fbni_cuda_context *c, const void *pointer, const char *name)
{
    struct cudaPointerAttributes is;
    const cudaError_t error = cudaPointerGetAttributes(&is, pointer);

    if (error != cudaSuccess)
        return fbni_cuda_check(c->host, error, "cudaPointerGetAttributes");
    if (is.type == cudaMemoryTypeUnregistered)
        return c->host->fail(FBN_ERR_MEMORY_KIND,
                             "%s is %p, plain host memory, which device %d cannot reach: use "
                             "fbn_alloc, cudaMalloc, cudaMallocManaged or cudaMallocHost",
                             name, pointer, c->device);
    if (is.devicePointer == pointer)
        return FBN_OK;
    if (is.type == cudaMemoryTypeHost)
        return c->host->fail(FBN_ERR_MEMORY_KIND,
                             "%s is %p, pinned host memory that device %d sees at %p: pass that",
                             name, pointer, c->device, is.devicePointer);
    return c->host->fail(FBN_ERR_MEMORY_KIND,
                         "%s is %p, memory of device %d, which device %d cannot reach", name,
                         pointer, is.device, c->device);
}

fbn_status fbni_cuda_check_pointer(void *context, const void *pointer, const char *name)
{
    fbni_cuda_context *c = context;
    _Atomic uintptr_t *place = place_of(&c->known, pointer);
    fbn_status status;

    if (atomic_load_explicit(place, memory_order_relaxed) == (uintptr_t)pointer)
        return FBN_OK;
    status = fbni_cuda_enter(c);
    if (status != FBN_OK)
        return status;
    status = judge(c, pointer, name);
    if (status == FBN_OK)
        atomic_store_explicit(place, (uintptr_t)pointer, memory_order_relaxed);
    fbni_cuda_leave(c);
    return status;
}

/* ---- allocation ---- */

fbn_status fbni_cuda_memory_take(fbni_cuda_context *c, size_t bytes, void **pointer)
{
    void *memory = NULL;

    if (c->device_allocator.allocate)
        memory = c->device_allocator.allocate(c->device_allocator.user, bytes, FBNI_CUDA_ALIGN);
    else if (cudaMalloc(&memory, bytes) != cudaSuccess) {
        const cudaError_t error = cudaGetLastError();
        memory = NULL;
        if (error != cudaErrorMemoryAllocation && error != cudaSuccess)
            return fbni_cuda_check(c->host, error, "cudaMalloc");
    }
    if (!memory)
        return c->host->fail(FBN_ERR_OUT_OF_MEMORY, "no memory for %zu bytes on device %d", bytes,
                             c->device);
    *pointer = memory;
    return FBN_OK;
}

/* After the work queued: cudaFree waits for all of the device's; what a caller's allocator does
 * with the memory is not known, so the wait comes before it. The memory goes whatever the device
 * says. */
fbn_status fbni_cuda_memory_give(fbni_cuda_context *c, void *pointer)
{
    cudaError_t error;

    forget(&c->known, pointer);
    if (!c->device_allocator.allocate)
        return fbni_cuda_check(c->host, cudaFree(pointer), "cudaFree");
    error = cudaDeviceSynchronize();
    c->device_allocator.deallocate(c->device_allocator.user, pointer);
    return fbni_cuda_check(c->host, error, "cudaDeviceSynchronize");
}

fbn_status fbni_cuda_allocate(void *context, size_t bytes, void **pointer)
{
    fbni_cuda_context *c = context;
    fbn_status status = fbni_cuda_enter(c);

    if (status == FBN_OK) {
        status = fbni_cuda_memory_take(c, bytes, pointer);
        fbni_cuda_leave(c);
    }
    return status;
}

fbn_status fbni_cuda_release(void *context, void *pointer)
{
    fbni_cuda_context *c = context;
    fbn_status status = fbni_cuda_enter(c);

    if (status == FBN_OK) {
        status = fbni_cuda_memory_give(c, pointer);
        fbni_cuda_leave(c);
    }
    return status;
}

/* ---- copies ---- */

/* In stream order, and done on return: pinned memory would else be read after it. */
static fbn_status copy(fbni_cuda_context *c, void *target, const void *source, size_t bytes)
{
    cudaError_t error;
    fbn_status status = fbni_cuda_enter(c);

    if (status != FBN_OK)
        return status;
    error = cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, c->queue.stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(c->queue.stream);
    status = fbni_cuda_check(c->host, error, "cudaMemcpyAsync");
    fbni_cuda_leave(c);
    return status;
}

fbn_status fbni_cuda_upload(void *context, void *target, const void *source, size_t bytes)
{
    return copy(context, target, source, bytes);
}

fbn_status fbni_cuda_download(void *context, void *target, const void *source, size_t bytes)
{
    return copy(context, target, source, bytes);
}
