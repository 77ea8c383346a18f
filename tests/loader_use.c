/* SPDX-License-Identifier: BSD-3-Clause
 *
 * For tests/test_loader.c: a module that can be used, and what the core does before it calls it.
 */
#include "loader.h"
#include "loader_process.h"

#include <string.h>

#define USABLE MODULE_DIR "/module_usable.so"

static void open_as_cpu(outcome *report)
{
    const fbni_backend *backend = NULL;

    report->status = fbni_module_open(USABLE, FBN_BACKEND_CPU, &backend);
    strcpy(report->error, fbn_last_error());
    EXPECT(!backend);
    EXPECT(fbni_module_open(USABLE, FBN_BACKEND_CUDA, &backend) == FBN_OK);
    EXPECT(backend && strcmp(backend->name, "cuda") == 0);
}

static void use_context(outcome *report)
{
    fbn_context *context = NULL;
    fbn_context_options options;
    const char *refusal = "unset";
    int stream;

    EXPECT(fbn_backend_available(FBN_BACKEND_AUTO) == FBN_OK);
    fbn_context_options_init(&options, sizeof options);
    options.device = 1;
    EXPECT(fbn_context_create(&context, &options) == FBN_ERR_INVALID_ARGUMENT);
    EXPECT(!context && strstr(fbn_last_error(), "device is 1"));
    EXPECT(fbn_context_create(&context, NULL) == FBN_OK);
    EXPECT(fbn_context_backend(context) == FBN_BACKEND_CUDA);
    EXPECT(strcmp(fbn_context_describe(context), "a block of memory") == 0);
    EXPECT(strcmp(fbn_context_kernel(context, 0, &refusal), "nothing") == 0 && !refusal);
    EXPECT(!fbn_context_kernel(context, 1, NULL) && !fbn_context_kernel(context, -1, NULL));
    EXPECT(fbn_context_set_stream(context, &stream) == FBN_OK);
    EXPECT(fbn_context_set_stream(context, NULL) == FBN_ERR_DEVICE);
    EXPECT(fbn_context_synchronize(context) == FBN_OK);
    fbn_context_destroy(context);
}

/* Every pointer of a call is looked at, and the sentence names it. */
static void use_memory(outcome *report)
{
    enum { BATCH = 4, FEATURES = 16 };
    static float host[FEATURES * FEATURES];
    fbn_context *context = NULL;
    fbn_layer *layer = NULL;
    fbn_prepared *prepared = NULL;
    fbn_layer_desc desc;
    fbn_params params;
    fbn_forward_args args;
    fbn_run_args run;
    void *pool = NULL;
    char *device;

    EXPECT(fbn_context_create(&context, NULL) == FBN_OK);
    fbn_layer_desc_init(&desc, sizeof desc);
    desc.in_features = desc.out_features = FEATURES;
    desc.max_batch = BATCH;
    desc.workspace = host;
    desc.workspace_size = 511;
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_ERR_WORKSPACE);
    EXPECT(fbn_alloc(context, 1 << 15, &pool) == FBN_OK);
    device = pool;
    desc.workspace = device + 64; /* enough for the CPU, not for CUDA */
    desc.workspace_size = 512;
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_ERR_ALIGNMENT);
    EXPECT(strstr(fbn_last_error(), "256 bytes"));
    desc.workspace = (void *)(((uintptr_t)host + 255) & ~(uintptr_t)255);
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_ERR_MEMORY_KIND);
    EXPECT(strstr(fbn_last_error(), "workspace is host memory"));
    desc.workspace = device;
    EXPECT(fbn_layer_create(&layer, context, &desc) == FBN_OK);

    fbn_params_init(&params, sizeof params);
    params.weight = device + 1024;
    params.running_mean = device + 4096;
    params.running_var = device + 8192;
    fbn_forward_args_init(&args, sizeof args);
    args.batch = BATCH;
    args.x = device + 12288;
    args.y = device + 16384;
    EXPECT(fbn_forward_train(layer, &params, &args) == FBN_OK);
    params.gamma = host;
    EXPECT(fbn_forward_train(layer, &params, &args) == FBN_ERR_MEMORY_KIND);
    EXPECT(strcmp(fbn_last_error(), "gamma is host memory, not the device's") == 0);
    EXPECT(fbn_prepare_infer(&prepared, layer, &params) == FBN_ERR_MEMORY_KIND);
    params.gamma = NULL;
    args.y = host;
    EXPECT(fbn_forward_infer(layer, &params, &args) == FBN_ERR_MEMORY_KIND);
    EXPECT(strcmp(fbn_last_error(), "y is host memory, not the device's") == 0);
    EXPECT(fbn_fold(layer, &params, device + 20480, 0, host) == FBN_ERR_MEMORY_KIND);
    EXPECT(fbn_upload(context, host, device, 8) == FBN_ERR_MEMORY_KIND);
    EXPECT(fbn_download(context, host, host, 8) == FBN_ERR_MEMORY_KIND);

    EXPECT(fbn_prepare_infer(&prepared, layer, &params) == FBN_OK);
    fbn_run_args_init(&run, sizeof run);
    run.batch = BATCH;
    run.x = device + 12288;
    run.y = device + 16384;
    run.workspace = device + 20480 + 64;
    run.workspace_size = (size_t)BATCH * 4;
    EXPECT(fbn_prepared_run(prepared, &run) == FBN_ERR_ALIGNMENT);
    run.workspace = device + 20480;
    EXPECT(fbn_prepared_run(prepared, &run) == FBN_OK);
    run.x = host;
    EXPECT(fbn_prepared_run(prepared, &run) == FBN_ERR_MEMORY_KIND);

    /* the context outlives its owner's reference */
    EXPECT(fbn_free(context, pool) == FBN_OK);
    fbn_context_destroy(context);
    fbn_layer_destroy(layer);
    fbn_prepared_destroy(prepared);
}

START_TEST(usable_module)
{
    const setting cuda = {.module = USABLE, .backend = "cuda"};
    const setting cpu = {.module = USABLE, .backend = "cpu"};
    const outcome result = with_module(NULL, open_as_cpu);

    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    ck_assert_msg(strstr(result.error, "backend 2, not 1"), "\"%s\"", result.error);
    ck_assert_int_eq(with_module(USABLE, ask).status, FBN_OK);
    with_module(USABLE, use_context);
    in_process(&cuda, use_context);
    with_module(USABLE, use_memory);
    in_process(&cpu, create_auto);
}
END_TEST

void add_use(TCase *tcase)
{
    tcase_add_test(tcase, usable_module);
}
