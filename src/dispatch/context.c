/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Contexts: the choice of a backend, the allocators, the reference count.
 */
#include "error.h"
#include "validate.h"

enum { HOST_ALIGNMENT = 64 }; /* of the library's own structs */

#include <stdlib.h>

/* ---- allocators ---- */

static void *default_allocate(void *user, size_t size, size_t alignment)
{
    size_t rounded;

    (void)user;
    if (alignment < sizeof(void *))
        alignment = sizeof(void *);
    /* C11 wants a multiple of the alignment. */
    if (__builtin_add_overflow(size, alignment - 1, &rounded))
        return NULL;
    return aligned_alloc(alignment, rounded & ~(alignment - 1));
}

static void default_deallocate(void *user, void *pointer)
{
    (void)user;
    free(pointer);
}

static const fbn_allocator allocator_defaults = {
    .struct_size = sizeof(fbn_allocator),
    .allocate = default_allocate,
    .deallocate = default_deallocate,
};

void fbn_allocator_init(fbn_allocator *allocator, size_t size)
{
    fbni_struct_init(allocator, size, &allocator_defaults, sizeof allocator_defaults);
}

static fbn_status allocate_from(const fbn_allocator *allocator, size_t size, const char *purpose,
                                void **pointer)
{
    void *memory = allocator->allocate(allocator->user, size, HOST_ALIGNMENT);

    if (!memory)
        return fbni_fail_memory(size, purpose);
    *pointer = memset(memory, 0, size);
    return FBN_OK;
}

fbn_status fbni_host_allocate(fbn_context *context, size_t size, const char *purpose,
                              void **pointer)
{
    return allocate_from(&context->host_allocator, size, purpose, pointer);
}

void fbni_host_deallocate(fbn_context *context, void *pointer)
{
    if (pointer)
        context->host_allocator.deallocate(context->host_allocator.user, pointer);
}

/* ---- reference count ---- */

void fbni_context_retain(fbn_context *context)
{
    atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);
}

void fbni_context_release(fbn_context *context)
{
    /* Whoever takes the count to 0 must see what the other holders did before they let go. */
    if (atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel) == 1) {
        const fbn_allocator allocator = context->host_allocator;
        context->backend->context_destroy(context->state);
        allocator.deallocate(allocator.user, context);
    }
}

/* ---- options ---- */

static const fbn_context_options options_defaults = {
    .struct_size = sizeof(fbn_context_options),
    .backend = FBN_BACKEND_AUTO,
};

void fbn_context_options_init(fbn_context_options *options, size_t size)
{
    fbni_struct_init(options, size, &options_defaults, sizeof options_defaults);
}

/* Copies an allocator that the options point to into *own, and points the options there. */
static fbn_status take_allocator(const fbn_allocator **field, fbn_allocator *own, const char *name)
{
    fbn_status status;

    if (!*field)
        return FBN_OK;
    *own = allocator_defaults;
    status = FBNI_TAKE(fbn_allocator, user, own, *field, name);
    if (status != FBN_OK)
        return status;
    if (!own->allocate || !own->deallocate)
        return fbni_fail(FBN_ERR_NULL_POINTER, "%s->%s is NULL", name,
                         own->allocate ? "deallocate" : "allocate");
    *field = own;
    return FBN_OK;
}

/* Fills *full; its allocators point to the two copies. */
static fbn_status take_options(const fbn_context_options *given, fbn_context_options *full,
                               fbn_allocator *host, fbn_allocator *device)
{
    fbn_status status;

    *full = options_defaults;
    *host = allocator_defaults;
    *device = allocator_defaults;
    if (given) {
        status = FBNI_TAKE(fbn_context_options, device_allocator, full, given, "options");
        if (status != FBN_OK)
            return status;
    }
    if ((status = take_allocator(&full->host_allocator, host, "host_allocator")) != FBN_OK ||
        (status = take_allocator(&full->device_allocator, device, "device_allocator")) != FBN_OK)
        return status;
    full->host_allocator = host;
    if (full->threads < 0)
        return fbni_fail(FBN_ERR_INVALID_ARGUMENT, "threads is %d, but must be at least 0",
                         full->threads);
    return FBN_OK;
}

/* ---- contexts ---- */

fbn_status fbn_context_create(fbn_context **context, const fbn_context_options *options)
{
    fbn_context_options full;
    fbn_allocator host, device;
    const fbni_backend *backend;
    fbn_context *made;
    void *memory = NULL;
    fbn_status status;

    if (!context)
        return fbni_fail_null("context");
    if ((status = take_options(options, &full, &host, &device)) != FBN_OK ||
        (status = fbni_backend_find(full.backend, &backend)) != FBN_OK ||
        (status = allocate_from(&host, sizeof *made, "a context", &memory)) != FBN_OK)
        return status;

    made = memory;
    atomic_init(&made->references, 1);
    made->backend = backend;
    made->host_allocator = host;
    made->device_allocator = device;
    /* The backend may keep the pointers: they are to the context's copies. */
    full.backend = backend->id;
    full.host_allocator = &made->host_allocator;
    if (full.device_allocator)
        full.device_allocator = &made->device_allocator;
    status = backend->context_create(&made->state, &fbni_core_host, &full);
    if (status != FBN_OK) {
        host.deallocate(host.user, made);
        return status;
    }
    *context = made;
    return FBN_OK;
}

void fbn_context_destroy(fbn_context *context)
{
    if (context)
        fbni_context_release(context);
}

fbn_backend fbn_context_backend(const fbn_context *context)
{
    return context ? context->backend->id : FBN_BACKEND_AUTO;
}

const char *fbn_context_describe(const fbn_context *context)
{
    return context ? context->backend->context_describe(context->state) : "";
}

const char *fbn_context_kernel(const fbn_context *context, int64_t index, const char **refusal)
{
    const char *reason = NULL;
    const char *name = NULL;

    if (context && index >= 0)
        name = context->backend->context_kernel(context->state, index, &reason);
    if (refusal)
        *refusal = name ? reason : NULL;
    return name;
}

fbn_status fbn_context_set_stream(fbn_context *context, void *stream)
{
    if (!context)
        return fbni_fail_null("context");
    if (!context->backend->context_set_stream)
        return FBN_OK;
    return context->backend->context_set_stream(context->state, stream);
}

fbn_status fbn_context_synchronize(fbn_context *context)
{
    if (!context)
        return fbni_fail_null("context");
    if (!context->backend->context_synchronize)
        return FBN_OK;
    return context->backend->context_synchronize(context->state);
}
