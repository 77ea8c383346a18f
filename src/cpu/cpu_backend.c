/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The CPU backend's table, context and memory.
 */
#include <stdio.h>
#include <string.h>

#include "cpu_internal.h"

static fbn_status available(const fbni_host *host)
{
    (void)host;
    return FBN_OK;
}

/* The processor's name as Linux gives it, or "CPU". */
static void processor_name(char *name, size_t size)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(name, size, "CPU");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(name, size, "%s", colon + 1 + strspn(colon + 1, " "));
            break;
        }
    }
    if (file)
        fclose(file);
}

static const char *fastest_row(void)
{
    for (size_t i = 0; i < fbni_cpu_isa_count; i++)
        if (!fbni_cpu_isas[i].refuse())
            return fbni_cpu_isas[i].name;
    return "no kernels";
}

static fbn_status context_create(void **context, const fbni_host *host,
                                 const fbn_context_options *options)
{
    const fbn_allocator *allocator = options->host_allocator;
    char processor[96], blas[144];
    fbni_cpu_context *c = allocator->allocate(allocator->user, sizeof *c, FBNI_CPU_ALIGN);
    if (!c)
        return host->fail(FBN_ERR_OUT_OF_MEMORY, "no memory for a context of %zu bytes", sizeof *c);
    memset(c, 0, sizeof *c);
    c->host = host;
    c->allocator = *allocator;
    c->threads = fbni_cpu_threads(options->threads);
    c->blas_nests = fbni_blas_nests();
    processor_name(processor, sizeof processor);
    snprintf(c->text, sizeof c->text, "%s; %d thread%s; %s; BLAS: %s", processor, c->threads,
             c->threads == 1 ? "" : "s", fastest_row(), fbni_blas_describe(blas, sizeof blas));
    *context = c;
    return FBN_OK;
}

static void context_destroy(void *context)
{
    fbni_cpu_context *c = context;
    c->allocator.deallocate(c->allocator.user, c);
}

static const char *context_describe(const void *context)
{
    return ((const fbni_cpu_context *)context)->text;
}

static const char *context_kernel(const void *context, int64_t index, const char **refusal)
{
    (void)context;
    if (index < 0 || (uint64_t)index >= fbni_cpu_isa_count)
        return NULL;
    *refusal = fbni_cpu_isas[index].refuse();
    return fbni_cpu_isas[index].name;
}

static fbn_status allocate(void *context, size_t bytes, void **pointer)
{
    fbni_cpu_context *c = context;
    void *p = c->allocator.allocate(c->allocator.user, bytes, 256);
    if (!p)
        return c->host->fail(FBN_ERR_OUT_OF_MEMORY, "no memory for %zu bytes", bytes);
    *pointer = p;
    return FBN_OK;
}

static fbn_status release(void *context, void *pointer)
{
    fbni_cpu_context *c = context;
    c->allocator.deallocate(c->allocator.user, pointer);
    return FBN_OK;
}

static fbn_status copy(void *context, void *target, const void *source, size_t bytes)
{
    (void)context;
    memmove(target, source, bytes);
    return FBN_OK;
}

const fbni_backend fbni_cpu_backend = {
    .abi = FBNI_BACKEND_ABI,
    .id = FBN_BACKEND_CPU,
    .name = "cpu",
    .workspace_alignment = FBNI_CPU_ALIGN,
    .available = available,
    .context_create = context_create,
    .context_destroy = context_destroy,
    .context_describe = context_describe,
    .context_kernel = context_kernel,
    .allocate = allocate,
    .release = release,
    .upload = copy,
    .download = copy,
    .layer_workspace_size = fbni_cpu_layer_workspace_size,
    .layer_create = fbni_cpu_layer_create,
    .layer_destroy = fbni_cpu_layer_destroy,
    .layer_describe = fbni_cpu_layer_describe,
    .layer_saved_size = fbni_cpu_layer_saved_size,
    .forward_train = fbni_cpu_forward_train,
    .forward_infer = fbni_cpu_forward_infer,
    .backward = fbni_cpu_backward,
    .fold = fbni_cpu_fold,
    .prepare = fbni_cpu_prepare,
    .prepared_destroy = fbni_cpu_prepared_destroy,
    .prepared_workspace_size = fbni_cpu_prepared_workspace_size,
    .prepared_run = fbni_cpu_prepared_run,
};
