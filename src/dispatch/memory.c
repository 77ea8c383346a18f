/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory of the context's backend, so that one program runs on all.
 */
#include "error.h"
#include "internal.h"

fbn_status fbn_alloc(fbn_context *context, size_t bytes, void **pointer)
{
    void *memory = NULL;

    if (!context)
        return fbni_fail_null("context");
    if (!pointer)
        return fbni_fail_null("pointer");
    /* No object is larger; allocators are not asked to survive the question. */
    if (bytes > PTRDIFF_MAX)
        return fbni_fail_memory(bytes, "fbn_alloc");
    if (bytes > 0) {
        const fbn_status status = context->backend->allocate(context->state, bytes, &memory);
        if (status != FBN_OK)
            return status;
    }
    *pointer = memory;
    return FBN_OK;
}

fbn_status fbn_free(fbn_context *context, void *pointer)
{
    if (!context)
        return fbni_fail_null("context");
    return pointer ? context->backend->release(context->state, pointer) : FBN_OK;
}

static fbn_status check_copy(const fbn_context *context, const void *target, const void *source,
                             size_t bytes)
{
    if (!context)
        return fbni_fail_null("context");
    if (bytes > 0 && !target)
        return fbni_fail_null("target");
    if (bytes > 0 && !source)
        return fbni_fail_null("source");
    return FBN_OK;
}

static fbn_status check_kind(const fbn_context *context, const void *pointer, const char *name)
{
    if (!context->backend->check_pointer)
        return FBN_OK;
    return context->backend->check_pointer(context->state, pointer, name);
}

fbn_status fbn_upload(fbn_context *context, void *target, const void *source, size_t bytes)
{
    fbn_status status = check_copy(context, target, source, bytes);

    if (status != FBN_OK || bytes == 0)
        return status;
    status = check_kind(context, target, "target");
    if (status != FBN_OK)
        return status;
    return context->backend->upload(context->state, target, source, bytes);
}

fbn_status fbn_download(fbn_context *context, void *target, const void *source, size_t bytes)
{
    fbn_status status = check_copy(context, target, source, bytes);

    if (status != FBN_OK || bytes == 0)
        return status;
    status = check_kind(context, source, "source");
    if (status != FBN_OK)
        return status;
    return context->backend->download(context->state, target, source, bytes);
}
