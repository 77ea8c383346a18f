/* SPDX-License-Identifier: BSD-3-Clause
 *
 * After an error of the device: every call is FBN_ERR_DEVICE with CUDA's own name for the error, and
 * everything can be destroyed. A program of its own, since the process's device is lost with it.
 */
#include "cuda_driver.h"
#include "trial.h"

#include <stdio.h>
#include <string.h>

enum { LOST_SIZE = 256 << 20 }; /* so much has a mapping of its own, which goes with it */

static void is_device_error(fbn_status status, const char *call)
{
    if (status != FBN_ERR_DEVICE)
        harness_fail("%s gave \"%s\": \"%s\"", call, fbn_status_string(status), fbn_last_error());
    if (!strstr(fbn_last_error(), "cudaErrorIllegalAddress"))
        harness_fail("%s: the message is \"%s\"", call, fbn_last_error());
    printf("%s: %s\n", call, fbn_last_error());
}
#define DEVICE_ERROR(call) is_device_error((call), #call)

START_TEST(test_fault)
{
    trial t;
    fbn_prepared *prepared, *more = NULL;
    fbn_layer *layer = NULL;
    fbn_context *second = NULL;
    fbn_context_options options;
    array weight, bias, workspace;
    size_t bytes;
    char host[16] = {0};
    void *memory = NULL;
    uintptr_t lost;
    test_case c = case_default(false);
    harness_enter("fault");
    cuda_use(0);
    c.gamma = c.beta = c.saved = true;
    fbn_context *context = cuda_context(0, NULL);
    trial_create(&t, &c, harness_seed(), context, true);
    HARNESS_OK(fbn_prepare_infer(&prepared, t.layer, &t.params));
    HARNESS_OK(fbn_prepared_workspace_size(prepared, c.n, &bytes));
    array_create_bytes(&workspace, context, bytes, harness_workspace_alignment());
    array_create(&weight, context, c.dtype, c.o, c.i, c.i, true);
    array_create(&bias, context, c.dtype, 1, c.o, c.o, true);
    HARNESS_OK(trial_forward(&t));

    /* Memory that is freed behind the library's back, which has found it good before. */
    fbn_forward_args gone = t.forward;
    CUDA_OK(cuda.allocate(&lost, LOST_SIZE));
    gone.x = (const void *)lost;
    HARNESS_OK(fbn_forward_infer(t.layer, &t.params, &gone));
    HARNESS_OK(fbn_context_synchronize(context));
    CUDA_OK(cuda.release(lost));
    HARNESS_OK(fbn_forward_infer(t.layer, &t.params, &gone));

    fbn_run_args run;
    fbn_run_args_init(&run, sizeof run);
    run.batch = c.n, run.x = t.forward.x, run.y = t.forward.y;
    run.workspace = workspace.data, run.workspace_size = bytes;
    fbn_layer_desc desc = case_desc(&c);
    DEVICE_ERROR(fbn_context_synchronize(context));
    DEVICE_ERROR(fbn_forward_train(t.layer, &t.params, &t.forward));
    DEVICE_ERROR(fbn_forward_infer(t.layer, &t.params, &t.forward));
    DEVICE_ERROR(fbn_backward(t.layer, &t.params, &t.backward, &t.grads));
    DEVICE_ERROR(fbn_fold(t.layer, &t.params, weight.data, 0, bias.data));
    DEVICE_ERROR(fbn_prepare_infer(&more, t.layer, &t.params));
    DEVICE_ERROR(fbn_prepared_run(prepared, &run));
    DEVICE_ERROR(fbn_layer_create(&layer, context, &desc));
    DEVICE_ERROR(fbn_alloc(context, 64, &memory));
    DEVICE_ERROR(fbn_upload(context, weight.data, host, sizeof host));
    DEVICE_ERROR(fbn_download(context, host, weight.data, sizeof host));
    DEVICE_ERROR(fbn_context_set_stream(context, (void *)2)); /* cudaStreamPerThread */
    ck_assert(!more && !layer && !memory);
    fbn_context_options_init(&options, sizeof options);
    options.backend = FBN_BACKEND_CUDA;
    ck_assert_int_ne(fbn_context_create(&second, &options), FBN_OK);
    ck_assert_ptr_null(second);

    fbn_prepared_destroy(prepared);
    array_destroy(&workspace);
    array_destroy(&weight);
    array_destroy(&bias);
    trial_destroy(&t);
    fbn_context_destroy(context);
}
END_TEST

static void add(Suite *suite)
{
    if (harness_selects("fault"))
        harness_add(suite, "fault", test_fault, 1);
}

int main(void)
{
    return cuda_main("test_cuda_fault", add);
}
