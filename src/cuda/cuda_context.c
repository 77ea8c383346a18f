/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Contexts: the device, the stream, the cuBLAS handle with its workspace; and errors in CUDA's own
 * words.
 */
#include <stdio.h>
#include <string.h>

#include "cuda_hopper.h"

/* ---- errors ---- */

fbn_status fbni_cuda_check(const fbni_host *host, cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return FBN_OK;
    (void)cudaGetLastError(); /* not left behind for the caller's own checks */
    return host->fail(error == cudaErrorMemoryAllocation ? FBN_ERR_OUT_OF_MEMORY : FBN_ERR_DEVICE,
                      "%s: %s (%s)", what, cudaGetErrorName(error), cudaGetErrorString(error));
}

/* CUDA's own error behind a failure of cuBLAS, which reports its own names alone; an error that the
 * device was lost to comes back from every call. */
static cudaError_t error_behind(void)
{
    size_t available, total;
    const cudaError_t error = cudaGetLastError();

    return error != cudaSuccess ? error : cudaMemGetInfo(&available, &total);
}

fbn_status fbni_cuda_check_blas(const fbni_host *host, cublasStatus_t status, const char *what)
{
    cudaError_t error;

    if (status == CUBLAS_STATUS_SUCCESS)
        return FBN_OK;
    error = error_behind();
    if (error != cudaSuccess && error != cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return host->fail(FBN_ERR_DEVICE, "%s: %s: %s (%s)", what, cublasGetStatusName(status),
                          cudaGetErrorName(error), cudaGetErrorString(error));
    }
    return host->fail(status == CUBLAS_STATUS_ALLOC_FAILED ? FBN_ERR_OUT_OF_MEMORY : FBN_ERR_DEVICE,
                      "%s: %s (%s)", what, cublasGetStatusName(status),
                      cublasGetStatusString(status));
}

/* ---- the caller's current device ----
 *
 * The device's primary context is pushed and popped with the driver's functions. cudaSetDevice back
 * to what cudaGetDevice said would create a context on device 0 in every thread that had none. */

static struct {
    pthread_once_t once;
    pthread_mutex_t lock;
    CUresult(CUDAAPI *retain)(CUcontext *, CUdevice);
    CUresult(CUDAAPI *push)(CUcontext);
    CUresult(CUDAAPI *pop)(CUcontext *);
    bool there;
    CUcontext primary[64]; /* retained for good, as the CUDA runtime does itself */
} driver = {.once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER};
enum { DEVICES = sizeof driver.primary / sizeof driver.primary[0] };

/* function: a function pointer, filled as POSIX's dlsym is used: by its bytes. */
static bool find_entry(const char *name, void *function)
{
    void *entry = NULL;
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, &entry, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint(name, &entry, cudaEnableDefault, &found);
#endif
    memcpy(function, &entry, sizeof entry);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess;
}

static void find_driver(void)
{
    driver.there = find_entry("cuDevicePrimaryCtxRetain", &driver.retain) &&
                   find_entry("cuCtxPushCurrent", &driver.push) &&
                   find_entry("cuCtxPopCurrent", &driver.pop);
}

static fbn_status retain_primary(const fbni_host *host, int device, CUcontext *primary)
{
    CUresult result = CUDA_SUCCESS;

    pthread_once(&driver.once, find_driver);
    if (!driver.there || device >= DEVICES)
        return host->fail(FBN_ERR_UNSUPPORTED, "device %d: the driver lends no primary context",
                          device);
    pthread_mutex_lock(&driver.lock);
    if (!driver.primary[device])
        result = driver.retain(&driver.primary[device], (CUdevice)device);
    *primary = driver.primary[device];
    pthread_mutex_unlock(&driver.lock);
    if (result != CUDA_SUCCESS)
        return host->fail(
            result == CUDA_ERROR_OUT_OF_MEMORY ? FBN_ERR_OUT_OF_MEMORY : FBN_ERR_DEVICE,
            "device %d: its primary context cannot be had: driver error %d", device, (int)result);
    return FBN_OK;
}

fbn_status fbni_cuda_enter(const fbni_cuda_context *context)
{
    const CUresult result = driver.push(context->primary);

    if (result != CUDA_SUCCESS)
        return context->host->fail(FBN_ERR_DEVICE, "cuCtxPushCurrent: driver error %d",
                                   (int)result);
    return FBN_OK;
}

void fbni_cuda_leave(const fbni_cuda_context *context)
{
    CUcontext popped;

    (void)context;
    (void)driver.pop(&popped);
}

/* ---- availability ---- */

static fbn_status check_driver(const fbni_host *host, int *devices)
{
    int supported = 0, runtime = 0;
    cudaError_t error;

    if (cudaDriverGetVersion(&supported) != cudaSuccess)
        supported = 0;
    (void)cudaRuntimeGetVersion(&runtime);
    if (supported == 0)
        return host->fail(FBN_ERR_NO_BACKEND, "there is no NVIDIA driver (libcuda.so.1)");
    error = cudaGetDeviceCount(devices);
    if (error == cudaSuccess && *devices > 0)
        return FBN_OK;
    (void)cudaGetLastError();
    if (error == cudaErrorInsufficientDriver)
        return host->fail(FBN_ERR_NO_BACKEND,
                          "the NVIDIA driver is too old: it supports CUDA %d.%d, but the module "
                          "needs %d.%d",
                          supported / 1000, supported % 1000 / 10, runtime / 1000,
                          runtime % 1000 / 10);
    if (error == cudaSuccess || error == cudaErrorNoDevice)
        return host->fail(FBN_ERR_NO_BACKEND, "there is no CUDA device");
    return host->fail(FBN_ERR_NO_BACKEND, "cudaGetDeviceCount: %s (%s)", cudaGetErrorName(error),
                      cudaGetErrorString(error));
}

enum { CAPABILITY_MIN = 75 };

static cudaError_t capability_of(int device, int *capability)
{
    int major = 0, minor = 0;
    cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    *capability = major * 10 + minor;
    return error;
}

fbn_status fbni_cuda_available(const fbni_host *host)
{
    int devices = 0, capability = 0;
    const fbn_status status = check_driver(host, &devices);

    if (status != FBN_OK)
        return status;
    for (int i = 0; i < devices; i++)
        if (capability_of(i, &capability) == cudaSuccess && capability >= CAPABILITY_MIN)
            return FBN_OK;
    (void)cudaGetLastError();
    return host->fail(FBN_ERR_NO_BACKEND,
                      "no CUDA device has compute capability %d.%d or more; the last has %d.%d",
                      CAPABILITY_MIN / 10, CAPABILITY_MIN % 10, capability / 10, capability % 10);
}

/* ---- creation ---- */

static fbn_status check_device(const fbni_host *host, int device, int *capability)
{
    int devices = 0;
    fbn_status status = check_driver(host, &devices);

    if (status != FBN_OK)
        return status;
    if (device < 0 || device >= devices)
        return host->fail(FBN_ERR_INVALID_ARGUMENT, "device is %d, but there %s %d CUDA device%s",
                          device, devices == 1 ? "is" : "are", devices, devices == 1 ? "" : "s");
    status = fbni_cuda_check(host, capability_of(device, capability), "compute capability");
    if (status == FBN_OK && *capability < CAPABILITY_MIN)
        return host->fail(
            FBN_ERR_UNSUPPORTED, "device %d has compute capability %d.%d, but %d.%d is the least",
            device, *capability / 10, *capability % 10, CAPABILITY_MIN / 10, CAPABILITY_MIN % 10);
    return status;
}

static void find_encode_map(fbni_cuda_context *c)
{
    if (!find_entry("cuTensorMapEncodeTiled", &c->encode_map))
        c->encode_map = NULL;
}

static fbn_status read_device(fbni_cuda_context *c)
{
    int processors = 0, shared_memory = 0, supported = 0;
    cudaError_t error =
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, c->device);

    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                       c->device);
    c->queue.processors = processors;
    c->queue.shared_memory = (size_t)shared_memory;
    /* also the first use of the module's code: a device that it has none for is found here */
    if (error == cudaSuccess && c->queue.shared_memory >= fbni_cuda_train_slab_memory())
        error = fbni_cuda_train_slab_prepare(&c->queue);
    /* Graphs have programmatic launches natively from CUDA 12.3 on; GPUs after Hopper have not run
     * them here. */
    if (cudaDriverGetVersion(&supported) != cudaSuccess || supported < 12030 || c->capability != 90)
        c->queue.launches_ahead = 0;
    if (error == cudaSuccess)
        fbni_hopper_count_clusters(c);
    return fbni_cuda_check(c->host, error, "the device's properties and kernels");
}

/* The stream of the handle, and the workspace: cublasSetStream takes that away. */
static fbn_status point_blas(fbni_cuda_context *c, cudaStream_t stream)
{
    cublasStatus_t status = cublasSetStream(c->blas, stream);

    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasSetWorkspace(c->blas, c->blas_workspace, c->blas_workspace_size);
    return fbni_cuda_check_blas(c->host, status, "cublasSetStream, cublasSetWorkspace");
}

/* cuBLAS's own recommendation: 32 MB from Hopper on, else 4 MB. It is given explicitly, for what
 * cuBLAS allocates itself is not allowed while a graph is captured. */
static size_t blas_workspace_size(int capability)
{
    return (size_t)(capability >= 90 ? 32 : 4) << 20;
}

/* Where cuBLAS divides a sum among blocks, the parts stay in the type that they are added up in: by
 * default it may round each to the result's, bf16. */
static fbn_status create_handle(fbni_cuda_context *c)
{
    cublasStatus_t status = cublasCreate(&c->blas);

    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasSetMathMode(c->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    return fbni_cuda_check_blas(c->host, status, "cublasCreate, cublasSetMathMode");
}

static fbn_status create_blas(fbni_cuda_context *c)
{
    fbn_status status;

    c->blas_workspace_size = blas_workspace_size(c->capability);
    status = fbni_cuda_memory_take(c, c->blas_workspace_size, &c->blas_workspace);
    if (status == FBN_OK)
        status = create_handle(c);
    if (status == FBN_OK)
        status = point_blas(c, c->queue.stream);
    return status;
}

static fbn_status describe(fbni_cuda_context *c)
{
    struct cudaDeviceProp properties;
    int supported = 0, runtime = 0, blas = 0;
    const fbn_status status = fbni_cuda_check(
        c->host, cudaGetDeviceProperties(&properties, c->device), "cudaGetDeviceProperties");

    if (status != FBN_OK)
        return status;
    (void)cudaDriverGetVersion(&supported);
    (void)cudaRuntimeGetVersion(&runtime);
    (void)cublasGetVersion(c->blas, &blas);
    snprintf(c->text, sizeof c->text,
             "cuda: %s, device %d, sm_%d, %d multiprocessors, %zu MB; driver for CUDA %d.%d, "
             "runtime %d.%d, cuBLAS %d.%d.%d",
             properties.name, c->device, c->capability, c->queue.processors,
             properties.totalGlobalMem >> 20, supported / 1000, supported % 1000 / 10,
             runtime / 1000, runtime % 1000 / 10, blas / 10000, blas % 10000 / 100, blas % 100);
    return FBN_OK;
}

/* Undoes as much of a creation as was done; never fails, also after an error of the device. */
static void tear_down(fbni_cuda_context *c)
{
    if (c->blas)
        (void)cublasDestroy(c->blas);
    if (c->event)
        (void)cudaEventDestroy(c->event);
    if (c->blas_workspace)
        (void)fbni_cuda_memory_give(c, c->blas_workspace);
    (void)cudaGetLastError();
}

fbn_status fbni_cuda_context_create(void **context, const fbni_host *host,
                                    const fbn_context_options *options)
{
    const fbn_allocator *allocator = options->host_allocator;
    fbni_cuda_context *c = NULL;
    CUcontext primary = NULL;
    int capability = 0;
    fbn_status status = check_device(host, options->device, &capability);

    if (status == FBN_OK)
        status = retain_primary(host, options->device, &primary);
    if (status != FBN_OK)
        return status;
    c = allocator->allocate(allocator->user, sizeof *c, 64);
    if (!c)
        return host->fail(FBN_ERR_OUT_OF_MEMORY, "no memory for a context of %zu bytes", sizeof *c);
    memset(c, 0, sizeof *c);
    c->host = host;
    c->host_allocator = *allocator;
    if (options->device_allocator)
        c->device_allocator = *options->device_allocator;
    c->device = options->device;
    c->capability = capability;
    c->primary = primary;
    c->queue.stream = options->stream;
    pthread_mutex_init(&c->blas_lock, NULL);

    find_encode_map(c);
    status = fbni_cuda_enter(c);
    if (status == FBN_OK) {
        if ((status = read_device(c)) == FBN_OK &&
            (status =
                 fbni_cuda_check(host, cudaEventCreateWithFlags(&c->event, cudaEventDisableTiming),
                                 "cudaEventCreate")) == FBN_OK &&
            (status = create_blas(c)) == FBN_OK)
            status = describe(c);
        if (status != FBN_OK)
            tear_down(c);
        fbni_cuda_leave(c);
    }
    if (status != FBN_OK) {
        pthread_mutex_destroy(&c->blas_lock);
        allocator->deallocate(allocator->user, c);
        return status;
    }
    *context = c;
    return FBN_OK;
}

void fbni_cuda_context_destroy(void *context)
{
    fbni_cuda_context *c = context;
    const fbn_allocator allocator = c->host_allocator;

    if (fbni_cuda_enter(c) == FBN_OK) {
        tear_down(c);
        fbni_cuda_leave(c);
    }
    pthread_mutex_destroy(&c->blas_lock);
    allocator.deallocate(allocator.user, c);
}

const char *fbni_cuda_context_describe(const void *context)
{
    return ((const fbni_cuda_context *)context)->text;
}

const char *fbni_cuda_context_kernel(const void *context, int64_t index, const char **refusal)
{
    if (index < 0 || index >= FBNI_CUDA_ROWS)
        return NULL;
    *refusal = fbni_cuda_row_refusal(context, (fbni_cuda_row_id)index);
    return fbni_cuda_row_name((fbni_cuda_row_id)index);
}

/* ---- streams ---- */

static bool is_capturing(cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(stream, &capture);

    if (error != cudaSuccess) /* the legacy stream, while another one is captured */
        (void)cudaGetLastError();
    return error == cudaSuccess && capture != cudaStreamCaptureStatusNone;
}

/* A captured stream cannot wait for work outside its graph, nor the other way round: who captures
 * orders that. */
static fbn_status order_streams(fbni_cuda_context *c, cudaStream_t old, cudaStream_t new)
{
    cudaError_t error;

    if (is_capturing(new) != is_capturing(old))
        return FBN_OK;
    error = cudaEventRecord(c->event, old);
    if (error == cudaSuccess)
        error = cudaStreamWaitEvent(new, c->event, 0);
    return fbni_cuda_check(c->host, error, "ordering the new stream after the old");
}

fbn_status fbni_cuda_context_set_stream(void *context, void *stream)
{
    fbni_cuda_context *c = context;
    fbn_status status;

    if (c->queue.stream == (cudaStream_t)stream)
        return FBN_OK;
    status = fbni_cuda_enter(c);
    if (status != FBN_OK)
        return status;
    status = order_streams(c, c->queue.stream, stream);
    if (status == FBN_OK)
        status = point_blas(c, stream);
    if (status == FBN_OK)
        c->queue.stream = stream;
    fbni_cuda_leave(c);
    return status;
}

fbn_status fbni_cuda_context_synchronize(void *context)
{
    fbni_cuda_context *c = context;
    fbn_status status = fbni_cuda_enter(c);

    if (status != FBN_OK)
        return status;
    status =
        fbni_cuda_check(c->host, cudaStreamSynchronize(c->queue.stream), "cudaStreamSynchronize");
    fbni_cuda_leave(c);
    return status;
}
