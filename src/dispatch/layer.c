/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layers: the checks on a description, the workspace, the life of the handle.
 */
#include "error.h"
#include "validate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static const fbn_layer_desc desc_defaults = {
    .struct_size = sizeof(fbn_layer_desc),
    .dtype = FBN_F32,
    .math = FBN_MATH_FP32,
    .pre_scale = FBN_SCALE_NONE,
    .post_scale = FBN_SCALE_NONE,
    .activation = FBN_ACT_NONE,
    .eps = 1e-5,
    .momentum = 0.1,
};

void fbn_layer_desc_init(fbn_layer_desc *desc, size_t size)
{
    fbni_struct_init(desc, size, &desc_defaults, sizeof desc_defaults);
}

size_t fbni_dtype_size(fbn_dtype dtype)
{
    static const size_t sizes[] = {[FBN_F32] = 4, [FBN_F64] = 8, [FBN_BF16] = 2, [FBN_F16] = 2};

    return sizes[dtype];
}

size_t fbni_real_size(fbn_dtype dtype)
{
    return dtype == FBN_F64 ? sizeof(double) : sizeof(float);
}
/* ---- the description ---- */

static fbn_status check_sizes(const fbn_layer_desc *desc)
{
    static const struct {
        const char *name;
        size_t offset;
    } sizes[] = {
        {"in_features", offsetof(fbn_layer_desc, in_features)},
        {"out_features", offsetof(fbn_layer_desc, out_features)},
        {"max_batch", offsetof(fbn_layer_desc, max_batch)},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t value;
        memcpy(&value, (const char *)desc + sizes[i].offset, sizeof value);
        if (value < 1)
            return fbni_fail(FBN_ERR_SIZE, "%s is %" PRId64 ", but must be at least 1",
                             sizes[i].name, value);
    }
    return FBN_OK;
}

static fbn_status check_enums(const fbn_layer_desc *desc)
{
    static const struct {
        const char *name, *type;
        size_t offset;
        unsigned count; /* enumerators are 0 .. count - 1 */
    } enums[] = {
        {"dtype", "fbn_dtype", offsetof(fbn_layer_desc, dtype), FBN_F16 + 1},
        {"math", "fbn_math", offsetof(fbn_layer_desc, math), FBN_MATH_TF32 + 1},
        {"pre_scale", "fbn_scale", offsetof(fbn_layer_desc, pre_scale), FBN_SCALE_FEATURE + 1},
        {"post_scale", "fbn_scale", offsetof(fbn_layer_desc, post_scale), FBN_SCALE_FEATURE + 1},
        {"activation", "fbn_activation", offsetof(fbn_layer_desc, activation),
         FBN_ACT_LOG_SOFTMAX + 1},
    };
    static const uint64_t flags = FBN_CUMULATIVE_AVERAGE | FBN_BIASED_RUNNING_VAR |
                                  FBN_SKIP_NONFINITE | FBN_WEIGHT_GRADIENT_F32;

    _Static_assert(sizeof(fbn_dtype) == sizeof(unsigned), "read as unsigned below");
    for (size_t i = 0; i < sizeof enums / sizeof enums[0]; i++) {
        unsigned value;
        memcpy(&value, (const char *)desc + enums[i].offset, sizeof value);
        if (value >= enums[i].count)
            return fbni_fail(FBN_ERR_ENUM, "%s is %d, which is no %s", enums[i].name, (int)value,
                             enums[i].type);
    }
    if (desc->flags & ~flags)
        return fbni_fail(FBN_ERR_ENUM, "flags is 0x%" PRIx64 ", of which 0x%" PRIx64 " is unknown",
                         desc->flags, desc->flags & ~flags);
    return FBN_OK;
}

/* Every matrix of the layer's calls, and all of them together with room for a thousand vectors over
 * rows and features, fit in an object: backends need not look for overflow. */
static fbn_status check_overflow(const fbn_layer_desc *desc)
{
    /* The reals are the largest elements of a layer; dtype is not yet known to be valid. */
    const size_t element = desc->dtype == FBN_F64 ? sizeof(double) : sizeof(float);
    int64_t ld = 0;
    fbni_extent x, y, weight;
    ptrdiff_t sum, vectors;
    fbn_status status;

    if ((status = fbni_matrix_extent(&fbni_matrix_x, desc->max_batch, desc->in_features, element,
                                     &ld, &x)) != FBN_OK)
        return status;
    ld = 0;
    if ((status = fbni_matrix_extent(&fbni_matrix_y, desc->max_batch, desc->out_features, element,
                                     &ld, &y)) != FBN_OK)
        return status;
    ld = 0;
    if ((status = fbni_matrix_extent(&fbni_matrix_weight, desc->out_features, desc->in_features,
                                     element, &ld, &weight)) != FBN_OK)
        return status;
    if (__builtin_add_overflow(desc->max_batch, desc->out_features, &vectors) ||
        __builtin_add_overflow(vectors, desc->in_features, &vectors) ||
        __builtin_mul_overflow(vectors, (ptrdiff_t)1000 * (ptrdiff_t)element, &vectors) ||
        __builtin_mul_overflow(y.bytes, 2, &sum) || __builtin_add_overflow(sum, x.bytes, &sum) ||
        __builtin_add_overflow(sum, weight.bytes, &sum) ||
        __builtin_add_overflow(sum, vectors, &sum))
        return fbni_fail(FBN_ERR_OVERFLOW,
                         "in_features %" PRId64 ", out_features %" PRId64 " and max_batch %" PRId64
                         ": the workspace could exceed 2^63 - 1 bytes",
                         desc->in_features, desc->out_features, desc->max_batch);
    return FBN_OK;
}

/* Fills *full; its kernel is the description's or FUSEDBN_KERNEL. */
static fbn_status take_desc(const fbn_layer_desc *given, fbn_layer_desc *full)
{
    fbn_status status;

    *full = desc_defaults;
    if ((status = FBNI_TAKE(fbn_layer_desc, workspace_size, full, given, "desc")) != FBN_OK ||
        (status = check_sizes(full)) != FBN_OK || (status = check_overflow(full)) != FBN_OK ||
        (status = check_enums(full)) != FBN_OK)
        return status;
    if (!isfinite(full->eps) || full->eps < 0)
        return fbni_fail(FBN_ERR_INVALID_ARGUMENT, "eps is %g, but must be finite and at least 0",
                         full->eps);
    if (!(full->momentum >= 0 && full->momentum <= 1))
        return fbni_fail(FBN_ERR_INVALID_ARGUMENT, "momentum is %g, but must be in [0, 1]",
                         full->momentum);
    if (!full->kernel) {
        const char *kernel = getenv("FUSEDBN_KERNEL");
        full->kernel = kernel && kernel[0] != '\0' ? kernel : NULL;
    }
    return FBN_OK;
}

/* A refusal of a kernel that the program did not ask for says who did. */
static fbn_status explain_kernel(fbn_status status, const fbn_layer_desc *given,
                                 const fbn_layer_desc *full)
{
    if (status == FBN_ERR_UNSUPPORTED && full->kernel && !given->kernel)
        return fbni_fail(status, "FUSEDBN_KERNEL is %.100s: %s", full->kernel, fbn_last_error());
    return status;
}

static fbn_status query_workspace(const fbn_context *context, const fbn_layer_desc *given,
                                  const fbn_layer_desc *full, size_t *bytes)
{
    const fbn_status status = context->backend->layer_workspace_size(context->state, full, bytes);

    return explain_kernel(status, given, full);
}

/* ---- workspace ---- */

fbn_status fbn_layer_workspace_size(fbn_context *context, const fbn_layer_desc *desc, size_t *bytes)
{
    fbn_layer_desc full;
    size_t size = 0;
    fbn_status status;

    if (!context)
        return fbni_fail_null("context");
    if (!bytes)
        return fbni_fail_null("bytes");
    if ((status = take_desc(desc, &full)) != FBN_OK ||
        (status = query_workspace(context, desc, &full, &size)) != FBN_OK)
        return status;
    *bytes = size;
    return FBN_OK;
}

/* The caller's workspace is used as it is, aligned as the backend wants it. */
static fbn_status check_workspace(const fbn_context *context, const fbn_layer_desc *desc,
                                  size_t needed)
{
    const size_t alignment = context->backend->workspace_alignment;

    if (desc->workspace_size < needed)
        return fbni_fail(FBN_ERR_WORKSPACE,
                         "workspace_size is %zu, but the layer needs %zu bytes "
                         "(fbn_layer_workspace_size)",
                         desc->workspace_size, needed);
    if ((uintptr_t)desc->workspace & (alignment - 1))
        return fbni_fail(FBN_ERR_ALIGNMENT, "workspace is %p, not aligned to %zu bytes",
                         desc->workspace, alignment);
    if (context->backend->check_pointer)
        return context->backend->check_pointer(context->state, desc->workspace, "workspace");
    return FBN_OK;
}

/* ---- layers ---- */

static void set_description(fbn_layer *layer, const fbn_layer_desc *desc)
{
    const size_t real = fbni_real_size(desc->dtype);
    const size_t entries[] = {[FBN_SCALE_NONE] = 0,
                              [FBN_SCALE_SCALAR] = 1,
                              [FBN_SCALE_FEATURE] = (size_t)desc->out_features};

    layer->desc = *desc;
    layer->desc.kernel = NULL;
    layer->element = fbni_dtype_size(desc->dtype);
    layer->real = real;
    layer->vector_size[FBNI_KIND_FEATURE] = real * (size_t)desc->out_features;
    layer->vector_size[FBNI_KIND_PRE] = real * entries[desc->pre_scale];
    layer->vector_size[FBNI_KIND_POST] = real * entries[desc->post_scale];
}

fbn_status fbn_layer_create(fbn_layer **layer, fbn_context *context, const fbn_layer_desc *desc)
{
    fbn_layer_desc full;
    fbn_layer *made = NULL;
    void *memory = NULL;
    size_t needed = 0;
    fbn_status status;

    if (!layer)
        return fbni_fail_null("layer");
    if (!context)
        return fbni_fail_null("context");
    if ((status = take_desc(desc, &full)) != FBN_OK ||
        (status = query_workspace(context, desc, &full, &needed)) != FBN_OK ||
        (full.workspace && (status = check_workspace(context, &full, needed)) != FBN_OK) ||
        (status = fbni_host_allocate(context, sizeof *made, "a layer", &memory)) != FBN_OK)
        return status;

    made = memory;
    made->context = context;
    made->backend = context->backend;
    set_description(made, &full);
    made->workspace_size = needed;
    if (full.workspace && needed > 0) {
        made->workspace = full.workspace;
    } else if (needed > 0) {
        status = context->backend->allocate(context->state, needed, &made->workspace);
        if (status != FBN_OK)
            goto out;
        made->owns_workspace = true;
    }
    status = context->backend->layer_create(&made->state, context->state, &full, made->workspace);
    if (status != FBN_OK) {
        status = explain_kernel(status, desc, &full);
        goto out;
    }
    fbni_context_retain(context);
    *layer = made;
    return FBN_OK;

out:
    if (made->owns_workspace)
        (void)context->backend->release(context->state, made->workspace);
    fbni_host_deallocate(context, made);
    return status;
}

void fbn_layer_destroy(fbn_layer *layer)
{
    fbn_context *context;

    if (!layer)
        return;
    context = layer->context;
    layer->backend->layer_destroy(layer->state);
    if (layer->owns_workspace)
        (void)context->backend->release(context->state, layer->workspace);
    fbni_host_deallocate(context, layer);
    fbni_context_release(context);
}

const char *fbn_layer_describe(const fbn_layer *layer)
{
    return layer ? layer->backend->layer_describe(layer->state) : "";
}

fbn_status fbn_layer_saved_size(const fbn_layer *layer, int64_t batch, size_t *bytes)
{
    size_t size = 0;
    fbn_status status;

    if (!layer)
        return fbni_fail_null("layer");
    if (!bytes)
        return fbni_fail_null("bytes");
    if ((status = fbni_batch_check(layer, batch)) != FBN_OK ||
        (status = layer->backend->layer_saved_size(layer->state, batch, &size)) != FBN_OK)
        return status;
    *bytes = size;
    return FBN_OK;
}
