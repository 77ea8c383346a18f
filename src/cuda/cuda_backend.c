/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The CUDA backend's table: the one symbol that the module exports.
 */
#include "cuda_internal.h"

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
extern const fbni_backend fbni_module;

const fbni_backend fbni_module = {
    .abi = FBNI_BACKEND_ABI,
    .id = FBN_BACKEND_CUDA,
    .name = "cuda",
    .workspace_alignment = FBNI_CUDA_ALIGN,
    .available = fbni_cuda_available,
    .context_create = fbni_cuda_context_create,
    .context_destroy = fbni_cuda_context_destroy,
    .context_describe = fbni_cuda_context_describe,
    .context_kernel = fbni_cuda_context_kernel,
    .context_set_stream = fbni_cuda_context_set_stream,
    .context_synchronize = fbni_cuda_context_synchronize,
    .allocate = fbni_cuda_allocate,
    .release = fbni_cuda_release,
    .upload = fbni_cuda_upload,
    .download = fbni_cuda_download,
    .check_pointer = fbni_cuda_check_pointer,
    .layer_workspace_size = fbni_cuda_layer_workspace_size,
    .layer_create = fbni_cuda_layer_create,
    .layer_destroy = fbni_cuda_layer_destroy,
    .layer_describe = fbni_cuda_layer_describe,
    .layer_saved_size = fbni_cuda_layer_saved_size,
    .forward_train = fbni_cuda_forward_train,
    .forward_infer = fbni_cuda_forward_infer,
    .backward = fbni_cuda_backward,
    .fold = fbni_cuda_fold_slot,
    .prepare = fbni_cuda_prepare,
    .prepared_destroy = fbni_cuda_prepared_destroy,
    .prepared_workspace_size = fbni_cuda_prepared_workspace_size,
    .prepared_run = fbni_cuda_prepared_run,
};
