/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libfusedbn: a linear layer and its batch normalisation as one operation.
 *
 * What is computed. N = batch rows, I = in_features, O = out_features; everything per-feature has O
 * entries. The notation is that of Ioffe & Szegedy (2015), "Batch Normalization: Accelerating Deep
 * Network Training by Reducing Internal Covariate Shift", algorithm 1, behind a linear layer and
 * between two scales:
 *
 *     u = x W^T                        x [N,I], W [O,I]
 *     z = s * (u + b)                  b: bias, optional; s: pre-scale, none, one or per feature
 *     zhat = (z - mean) / sqrt(var + eps)
 *                                      training: mean and population variance of z over the rows
 *                                      inference: running_mean, running_var
 *     v = t * (gamma * zhat + beta)    gamma, beta: optional (1, 0); t: post-scale, like s
 *     y = act(v)                       none, relu, gelu (erf), silu, softmax or log_softmax
 *
 * Matrices are row-major. A leading dimension is the distance in elements between the starts of
 * neighbouring rows; it may exceed the row's length, and 0 stands for the row's length. Sizes are
 * 64-bit throughout.
 *
 * Types. x, W, y, dy, dx have the layer's dtype; parameters and statistics other than W (bias,
 * scales, gamma, beta, running and batch statistics, and the gradients of the parameters) are
 * "param type": float, and double for FBN_F64. Products accumulate in param type or better.
 *
 * Memory. Every pointer to data (not the structs themselves) is memory of the context's backend:
 * host memory for FBN_BACKEND_CPU, memory that the device can reach for FBN_BACKEND_CUDA. Outputs
 * overlap no input and no other output. Columns of one larger matrix may be used side by side
 * (equal leading dimensions in bytes).
 *
 * Structs that the caller fills begin with `struct_size`: fill them with their fbn_..._init(&s,
 * sizeof s), then set fields. Fields may be added at the end in later versions without breaking
 * programs built against this one; a field that this version does not know must be 0
 * (FBN_ERR_UNSUPPORTED).
 *
 * Errors. Functions return a fbn_status; fbn_last_error() says in words what was wrong. Unless an
 * entry says otherwise, after an error every output, every running statistic and every gradient is
 * as it was. The library never aborts, exits or prints (but see FUSEDBN_VERBOSE).
 *
 * Threads. Different contexts and different layers are independent. A layer is used by one thread
 * at a time; so is a context while it is created, given a stream or destroyed. A fbn_prepared is
 * immutable: any number of threads may run it.
 *
 * Determinism. The same call on the same machine with the same thread count and the same kernel
 * gives bitwise the same results.
 *
 * Environment: FUSEDBN_BACKEND (auto, cpu, cuda) decides what FBN_BACKEND_AUTO means;
 * FUSEDBN_KERNEL forces a kernel row by name where a description leaves it open; FUSEDBN_VERBOSE=1
 * prints to stderr, for each layer, which kernel row was chosen and why those before it were not;
 * FUSEDBN_CUDA_MODULE is the absolute path of the CUDA module to open instead of the installed one
 * (ignored in set-user-ID programs).
 */
#ifndef FUSEDBN_H
#define FUSEDBN_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FBN_API __attribute__((visibility("default")))
#else
#define FBN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define FBN_VERSION_MAJOR 0
#define FBN_VERSION_MINOR 1
#define FBN_VERSION_PATCH 0

/* --------------------------------------------------------------------------------------- status */

/* X(name, value, text): every status, its number and what fbn_status_string() says. */
#define FBN_STATUS_LIST(X)                                                                         \
    X(FBN_OK, 0, "success")                                                                        \
    X(FBN_ERR_INVALID_ARGUMENT, 1, "an argument's value is out of its range")                      \
    X(FBN_ERR_NULL_POINTER, 2, "a required pointer is null")                                       \
    X(FBN_ERR_STRUCT_SIZE, 3, "a struct was not initialised by its init function")                 \
    X(FBN_ERR_SIZE, 4, "a size is zero or negative")                                               \
    X(FBN_ERR_OVERFLOW, 5, "a size in bytes exceeds 2^63 - 1")                                     \
    X(FBN_ERR_LEADING_DIMENSION, 6, "a leading dimension is shorter than its row")                 \
    X(FBN_ERR_ENUM, 7, "an enumerator or a flag is unknown")                                       \
    X(FBN_ERR_BATCH_TOO_LARGE, 8, "the batch exceeds the layer's largest")                         \
    X(FBN_ERR_BATCH_OF_ONE, 9, "training needs more than one row a batch")                         \
    X(FBN_ERR_MISSING_PARAM, 10, "a parameter that the layer's description needs is missing")      \
    X(FBN_ERR_OVERLAP, 11, "an output overlaps another argument")                                  \
    X(FBN_ERR_ALIGNMENT, 12, "a pointer is not aligned to its element")                            \
    X(FBN_ERR_SAVED, 13, "the saved buffer is not of this layer and batch")                        \
    X(FBN_ERR_WORKSPACE, 14, "the workspace is too small")                                         \
    X(FBN_ERR_MEMORY_KIND, 15, "a pointer is not memory of the context's backend")                 \
    X(FBN_ERR_UNSUPPORTED, 16, "not supported by this backend or machine")                         \
    X(FBN_ERR_OUT_OF_MEMORY, 17, "out of memory")                                                  \
    X(FBN_ERR_NO_BACKEND, 18, "the backend is not available")                                      \
    X(FBN_ERR_DEVICE, 19, "the device reported an error")

typedef enum fbn_status {
#define FBN_STATUS_ENUMERATOR(name, value, text) name = value,
    FBN_STATUS_LIST(FBN_STATUS_ENUMERATOR)
#undef FBN_STATUS_ENUMERATOR
        FBN_STATUS_COUNT
} fbn_status;

/* Returns the fixed text of a status, "unknown status" for a number that is none. Never NULL.
 * Threads: any. */
FBN_API const char *fbn_status_string(fbn_status status);

/* Returns this thread's last failure in words, with the offending value: "ldx is 63, but
 * in_features is 64". Empty before the first failure; a success leaves it as it is. The text is
 * valid until this thread's next failing call. Never NULL. Threads: each has its own. */
FBN_API const char *fbn_last_error(void);

/* Returns the library's version, "0.1.0". Compare with FBN_VERSION_MAJOR.. of the header. Threads:
 * any. */
FBN_API const char *fbn_version(void);

/* --------------------------------------------------------------------------------- enumerations */

typedef enum fbn_backend {
    FBN_BACKEND_AUTO = 0, /* CUDA where it is available, else CPU; FUSEDBN_BACKEND decides if set */
    FBN_BACKEND_CPU = 1,
    FBN_BACKEND_CUDA = 2
} fbn_backend;

typedef enum fbn_dtype {
    FBN_F32 = 0,  /* IEEE binary32 */
    FBN_F64 = 1,  /* IEEE binary64 */
    FBN_BF16 = 2, /* bfloat16: the upper half of a binary32 */
    FBN_F16 = 3   /* IEEE binary16 */
} fbn_dtype;

/* How FBN_F32 data is multiplied; other types have one way. */
typedef enum fbn_math {
    /* u's normwise error is no worse than that of the vendor's SGEMM, or than 3e-7 if larger. NaN and
     * infinities in x and W reach the same entries of u as in IEEE arithmetic; where the product is
     * made of parts (kernel rows named f16x3) an infinity of u may be a NaN. */
    FBN_MATH_FP32 = 0,
    /* At least TF32's accuracy, as fast as the hardware goes; the CPU computes FP32. */
    FBN_MATH_TF32 = 1
} fbn_math;

typedef enum fbn_scale {
    FBN_SCALE_NONE = 0,
    FBN_SCALE_SCALAR = 1, /* one entry for all features */
    FBN_SCALE_FEATURE = 2 /* O entries */
} fbn_scale;

typedef enum fbn_activation {
    FBN_ACT_NONE = 0,
    FBN_ACT_RELU = 1,       /* max(v, 0); NaN stays NaN */
    FBN_ACT_GELU = 2,       /* v Phi(v), Phi the normal distribution function (the erf form) */
    FBN_ACT_SILU = 3,       /* v / (1 + exp(-v)) */
    FBN_ACT_SOFTMAX = 4,    /* over the O features of each row */
    FBN_ACT_LOG_SOFTMAX = 5 /* over the O features of each row */
} fbn_activation;

/* fbn_layer_desc.flags */

/* The momentum is 1 / num_batches_tracked, counted before its use. */
#define FBN_CUMULATIVE_AVERAGE UINT64_C(1)
/* running_var takes the population variance, as ONNX has it. */
#define FBN_BIASED_RUNNING_VAR UINT64_C(2)
/* A feature whose batch mean or variance is not finite keeps its running statistics;
 * num_batches_tracked still counts. */
#define FBN_SKIP_NONFINITE UINT64_C(4)
/* dW is param type instead of dtype. */
#define FBN_WEIGHT_GRADIENT_F32 UINT64_C(8)

/* fbn_backward_args.flags */

/* Add to every gradient given, dx among them, instead of overwriting. */
#define FBN_ACCUMULATE UINT64_C(1)
/* With FBN_ACCUMULATE: dx alone is overwritten. Without it: nothing changes. */
#define FBN_OVERWRITE_DX UINT64_C(2)

/* -------------------------------------------------------------------------------------- context */

/* A backend and its state: device, stream, threads, allocators. Reference-counted: layers and
 * prepared layers keep it alive, so it may be destroyed before them. */
typedef struct fbn_context fbn_context;

/* Where the library gets memory. Both functions may be called from any thread. */
typedef struct fbn_allocator {
    size_t struct_size;
    /* Returns size >= 1 bytes aligned to alignment (a power of two), or NULL when there is no
     * memory. */
    void *(*allocate)(void *user, size_t size, size_t alignment);
    void (*deallocate)(void *user, void *pointer); /* pointer came from allocate; never NULL */
    void *user;
} fbn_allocator;

/* Fills *allocator with the default: aligned_alloc and free. size is sizeof(fbn_allocator). */
FBN_API void fbn_allocator_init(fbn_allocator *allocator, size_t size);

typedef struct fbn_context_options {
    size_t struct_size;
    fbn_backend backend; /* default FBN_BACKEND_AUTO */
    int device;          /* CUDA device number; default 0; the CPU ignores it */
    int threads;         /* most CPU threads a call may use; default 0: OpenMP's own count; never
                            more than 4 a processor, or 64; a pthread BLAS keeps its own count */
    void *stream;        /* a cudaStream_t; default NULL: the legacy default stream */
    /* Copied; default NULL: aligned_alloc and free. */
    const fbn_allocator *host_allocator;
    /* Copied; default NULL: the backend's own; the CPU ignores it. */
    const fbn_allocator *device_allocator;
} fbn_context_options;

/* Fills *options with the defaults above. size is sizeof(fbn_context_options). */
FBN_API void fbn_context_options_init(fbn_context_options *options, size_t size);

/* Says whether a backend can be used on this machine, without creating a context.
 * Errors: FBN_ERR_NO_BACKEND, with the reason in fbn_last_error(); FBN_ERR_ENUM. Threads: any. */
FBN_API fbn_status fbn_backend_available(fbn_backend backend);

/* Creates a context.
 * Arguments: context receives it, on success alone; options may be NULL for the defaults.
 * Errors:
 *     FBN_ERR_NULL_POINTER       context
 *     FBN_ERR_STRUCT_SIZE        options or an allocator not initialised
 *     FBN_ERR_ENUM               an unknown backend, or FUSEDBN_BACKEND has an unknown name
 *     FBN_ERR_INVALID_ARGUMENT   threads < 0; no such device
 *     FBN_ERR_NO_BACKEND         the backend asked for is not available; fbn_last_error() says why
 *     FBN_ERR_OUT_OF_MEMORY, FBN_ERR_DEVICE
 * Threads: any. */
FBN_API fbn_status fbn_context_create(fbn_context **context, const fbn_context_options *options);

/* Gives up the caller's reference; the context goes when its last layer has gone. NULL: nothing. */
FBN_API void fbn_context_destroy(fbn_context *context);

/* Returns the backend that was chosen: FBN_BACKEND_CPU or FBN_BACKEND_CUDA; FBN_BACKEND_AUTO for
 * NULL. */
FBN_API fbn_backend fbn_context_backend(const fbn_context *context);

/* Returns one line about the context: the processor, threads, instruction set and BLAS, or the GPU,
 * driver and module. The text lives as long as the context; "" for NULL. */
FBN_API const char *fbn_context_describe(const fbn_context *context);

/* Lists the backend's kernel rows, fastest first: returns the name of row `index` (from 0), NULL
 * past the last. *refusal (optional) receives NULL where this machine can run the row, else the
 * reason in words. These are the names that fbn_layer_desc.kernel and FUSEDBN_KERNEL take.
 * Threads: any. */
FBN_API const char *fbn_context_kernel(const fbn_context *context, int64_t index,
                                       const char **refusal);

/* Makes later calls run on another stream; work already queued comes first (the new stream waits
 * for the old by an event). The CPU accepts and ignores it.
 * Arguments: stream is a cudaStream_t.
 * Errors: FBN_ERR_NULL_POINTER (context); FBN_ERR_DEVICE. Threads: one at a time for a context. */
FBN_API fbn_status fbn_context_set_stream(fbn_context *context, void *stream);

/* Waits until everything queued through this context is done. The CPU's calls are done when they
 * return.
 * Errors: FBN_ERR_NULL_POINTER (context); FBN_ERR_DEVICE, also for a failure of work queued
 * earlier. Threads: any. */
FBN_API fbn_status fbn_context_synchronize(fbn_context *context);

/* --------------------------------------------------------------------------------------- memory */

/* Allocates memory of the context's backend, aligned to 256 bytes; 0 bytes give NULL.
 * Arguments: pointer receives it, on success alone.
 * Errors: FBN_ERR_NULL_POINTER; FBN_ERR_OUT_OF_MEMORY; FBN_ERR_DEVICE. Threads: any. */
FBN_API fbn_status fbn_alloc(fbn_context *context, size_t bytes, void **pointer);

/* Frees what fbn_alloc gave, after the work queued on the context's stream. NULL is ignored.
 * Errors: FBN_ERR_NULL_POINTER (context); FBN_ERR_DEVICE. Threads: any. */
FBN_API fbn_status fbn_free(fbn_context *context, void *pointer);

/* Copies bytes from host memory to the backend's, in stream order; source may be reused on return.
 * Errors: FBN_ERR_NULL_POINTER; FBN_ERR_MEMORY_KIND; FBN_ERR_DEVICE. Threads: any. */
FBN_API fbn_status fbn_upload(fbn_context *context, void *target, const void *source, size_t bytes);

/* Copies bytes from the backend's memory to host memory, after the work queued before; complete on
 * return. Errors: FBN_ERR_NULL_POINTER; FBN_ERR_MEMORY_KIND; FBN_ERR_DEVICE. Threads: any. */
FBN_API fbn_status fbn_download(fbn_context *context, void *target, const void *source,
                                size_t bytes);

/* ---------------------------------------------------------------------------------------- layer */

/* What a layer computes. The two layers that the library is built for:
 *   Linear, scale, BatchNorm1d:          pre_scale FBN_SCALE_FEATURE
 *   Linear, BatchNorm1d, scale, Softmax: post_scale FBN_SCALE_SCALAR, activation FBN_ACT_SOFTMAX */
typedef struct fbn_layer_desc {
    size_t struct_size;
    int64_t in_features;       /* I >= 1 */
    int64_t out_features;      /* O >= 1 */
    int64_t max_batch;         /* largest N of any call, >= 1 */
    fbn_dtype dtype;           /* default FBN_F32 */
    fbn_math math;             /* default FBN_MATH_FP32; concerns FBN_F32 alone */
    fbn_scale pre_scale;       /* s; default none */
    fbn_scale post_scale;      /* t; default none */
    fbn_activation activation; /* default none */
    double eps;                /* finite, >= 0; default 1e-5 */
    double momentum;           /* m, 0 to 1; default 0.1: running = 0.9 running + 0.1 batch */
    uint64_t flags;            /* FBN_CUMULATIVE_AVERAGE | ...; default 0 */
    /* Name of the kernel row to force (fbn_context_kernel); default NULL: the fastest. */
    const char *kernel;
    /* The caller's, memory of the backend, aligned to 64 bytes (CUDA: 256), alive as long as the
     * layer, used by one layer at a time; default NULL: the layer allocates its own. */
    void *workspace;
    size_t workspace_size; /* bytes there, at least what fbn_layer_workspace_size() says */
} fbn_layer_desc;

/* Fills *desc with the defaults above and features and batch 0. size is sizeof(fbn_layer_desc). */
FBN_API void fbn_layer_desc_init(fbn_layer_desc *desc, size_t size);

/* One fused layer: an immutable description, a kernel choice and a workspace. It holds no
 * parameters. */
typedef struct fbn_layer fbn_layer;

/* Says how many bytes of workspace a layer of this description needs, forward and backward.
 * On the CPU, with N = max_batch, T threads and B row blocks (T for each 512 T rows, or fewer):
 * (N + 3 B + 3) O elements of param type, and for the half types T times 1 MB + max(O, 4096)
 * floats. That is less than 2 N O + N I + O I elements of dtype + 4 MB but for layers of very few
 * inputs and rows and very many features, and for the half types on more than 3 threads.
 * Arguments: bytes receives the size, on success alone; desc->workspace is not looked at.
 * Errors: those of fbn_layer_create. Threads: any. */
FBN_API fbn_status fbn_layer_workspace_size(fbn_context *context, const fbn_layer_desc *desc,
                                            size_t *bytes);

/* Creates a layer: checks the description, chooses the kernels, takes or allocates the workspace.
 * Afterwards the layer's calls allocate nothing.
 * Arguments: layer receives it, on success alone; desc is copied.
 * Errors:
 *     FBN_ERR_NULL_POINTER       layer, context or desc
 *     FBN_ERR_STRUCT_SIZE        desc not initialised
 *     FBN_ERR_SIZE               a feature count or max_batch < 1
 *     FBN_ERR_OVERFLOW           a matrix of 2^63 bytes or more
 *     FBN_ERR_ENUM               an unknown dtype, math, scale, activation or flag
 *     FBN_ERR_INVALID_ARGUMENT   eps or momentum out of range
 *     FBN_ERR_UNSUPPORTED        the forced kernel does not exist or refuses; the backend cannot
 *     FBN_ERR_WORKSPACE          workspace_size too small
 *     FBN_ERR_ALIGNMENT, FBN_ERR_MEMORY_KIND   the workspace
 *     FBN_ERR_OUT_OF_MEMORY, FBN_ERR_DEVICE
 * Threads: any. */
FBN_API fbn_status fbn_layer_create(fbn_layer **layer, fbn_context *context,
                                    const fbn_layer_desc *desc);

/* Destroys a layer, after the work queued with it. NULL is ignored. */
FBN_API void fbn_layer_destroy(fbn_layer *layer);

/* Returns one line about the layer's choices: kernel row, schedule, threads. It lives as long as
 * the layer; "" for NULL. */
FBN_API const char *fbn_layer_describe(const fbn_layer *layer);

/* The caller's parameters. Read at every call; fbn_forward_train alone writes the last three. */
typedef struct fbn_params {
    size_t struct_size;
    const void *weight;           /* W [O,I], dtype; required */
    int64_t ldw;                  /* leading dimension of weight */
    const void *bias;             /* b [O], param type; NULL: 0 */
    const void *pre_scale;        /* s [1] or [O], param type; given if the description has it */
    const void *post_scale;       /* t [1] or [O], param type; given if the description has it */
    const void *gamma;            /* [O], param type; NULL: 1 */
    const void *beta;             /* [O], param type; NULL: 0 */
    void *running_mean;           /* [O], param type; both or neither; both in inference */
    void *running_var;            /* [O], param type */
    int64_t *num_batches_tracked; /* [1]; optional, but not under FBN_CUMULATIVE_AVERAGE */
} fbn_params;

/* Fills *params with NULL and 0. size is sizeof(fbn_params). */
FBN_API void fbn_params_init(fbn_params *params, size_t size);

/* -------------------------------------------------------------------------------------- forward */

typedef struct fbn_forward_args {
    size_t struct_size;
    int64_t batch; /* N: 0 to the layer's max_batch */
    const void *x; /* [N,I], dtype */
    int64_t ldx;
    void *y; /* [N,O], dtype; written */
    int64_t ldy;
    /* What fbn_backward needs, aligned to 64 bytes; NULL: nothing is saved. */
    void *saved;
    size_t saved_size; /* bytes there, at least what fbn_layer_saved_size() says */
    /* Mean and population variance of z over the batch, [O], param type; NULL: not wanted.
     * Training alone. */
    void *batch_mean;
    void *batch_var;
} fbn_forward_args;

/* Fills *args with NULL and 0. size is sizeof(fbn_forward_args). */
FBN_API void fbn_forward_args_init(fbn_forward_args *args, size_t size);

/* Says how many bytes of `saved` a batch needs. Larger batches never need less.
 * bytes: receives the size, on success alone.
 * Errors: FBN_ERR_NULL_POINTER; FBN_ERR_SIZE (batch < 0); FBN_ERR_BATCH_TOO_LARGE. Threads: any. */
FBN_API fbn_status fbn_layer_saved_size(const fbn_layer *layer, int64_t batch, size_t *bytes);

/* Computes the layer with the statistics of the batch, and moves the running statistics.
 *
 * Formula: bias and scale cancel out of zhat, so with ubar and var the mean and the population
 * variance of u over the rows and r = 1 / sqrt(s^2 var + eps),
 *     y = act(t gamma s r (u - ubar) + t beta)
 *     batch_mean = s (ubar + b)
 *     batch_var = s^2 var
 *     running_mean = (1 - m) running_mean + m batch_mean
 *     running_var = (1 - m) running_var + m batch_var N / (N - 1)
 * as PyTorch has them; under FBN_BIASED_RUNNING_VAR without the factor N / (N - 1). m = momentum,
 * or 1 / num_batches_tracked under FBN_CUMULATIVE_AVERAGE. num_batches_tracked counts up by one
 * first and stays at INT64_MAX; for a count below 1 the cumulative m is 1. Moments are
 * (count, mean, M2) triples merged by the formula of Chan, Golub & LeVeque (1983), never
 * E[u^2] - E[u]^2. A column whose u is constant gives exactly act(t beta); at eps = 0 it follows
 * IEEE arithmetic (NaN).
 *
 * Arguments: params (weight and the description's scales; the rest is optional); args.
 * N = 0 does nothing and succeeds.
 * Writes: y; saved, batch_mean, batch_var, running_mean, running_var, num_batches_tracked where
 * given.
 * Workspace: the layer's; nothing is allocated.
 * Errors, found before anything is written:
 *     FBN_ERR_NULL_POINTER        a required argument
 *     FBN_ERR_STRUCT_SIZE         params or args not initialised
 *     FBN_ERR_SIZE                batch < 0
 *     FBN_ERR_BATCH_TOO_LARGE     batch > max_batch
 *     FBN_ERR_BATCH_OF_ONE        batch = 1 has no variance
 *     FBN_ERR_LEADING_DIMENSION   a leading dimension is shorter than its row
 *     FBN_ERR_OVERFLOW            a matrix of 2^63 bytes or more
 *     FBN_ERR_MISSING_PARAM       a scale of the description, one running statistic without the
 *                                 other, or FBN_CUMULATIVE_AVERAGE with running statistics but no
                                 num_batches_tracked
 *     FBN_ERR_INVALID_ARGUMENT    a scale that the description has not
 *     FBN_ERR_OVERLAP             an output overlaps an input or another output
 *     FBN_ERR_ALIGNMENT           a pointer not aligned to its element, saved not to 64 bytes
 *     FBN_ERR_SAVED               saved_size too small
 *     FBN_ERR_MEMORY_KIND         a pointer that the backend cannot reach
 * FBN_ERR_DEVICE: the device failed; the outputs are undefined.
 * Threads and streams: one thread at a time for a layer; on CUDA queued on the context's stream.
 * Accuracy: within twice the error of the unfused computation in the same precision; half types
 * round once, at the end, but on a GPU u may be kept in 16 bits until then, and in saved: to 2^-11 of
 * its distance from the mean of some rows (fbn_layer_describe: train_packed, train_followed). */
FBN_API fbn_status fbn_forward_train(fbn_layer *layer, const fbn_params *params,
                                     const fbn_forward_args *args);

/* Computes the layer with the running statistics.
 *
 * Formula: with r = 1 / sqrt(running_var + eps),
 *     y = act(t (gamma r (s (u + b) - running_mean) + beta))
 *
 * Arguments: as for fbn_forward_train, but running_mean and running_var are required and only
 * read, num_batches_tracked is not looked at, and batch_mean and batch_var are NULL. Any N >= 0.
 * After a call with saved, fbn_backward gives the gradients of this formula: frozen statistics.
 * Writes: y; saved where given.
 * Workspace, threads and streams, accuracy: as for fbn_forward_train.
 * Errors: as for fbn_forward_train, without FBN_ERR_BATCH_OF_ONE; FBN_ERR_MISSING_PARAM for the
 * running statistics; FBN_ERR_INVALID_ARGUMENT for batch_mean or batch_var. */
FBN_API fbn_status fbn_forward_infer(fbn_layer *layer, const fbn_params *params,
                                     const fbn_forward_args *args);

/* ------------------------------------------------------------------------------------- backward */

typedef struct fbn_backward_args {
    size_t struct_size;
    int64_t batch; /* N, the forward's */
    const void *x; /* [N,I], dtype, the forward's; may be NULL where grads->weight is */
    int64_t ldx;
    const void *dy; /* [N,O], dtype: dL/dy */
    int64_t lddy;
    const void *saved; /* as the forward wrote it */
    size_t saved_size;
    uint64_t flags; /* FBN_ACCUMULATE | FBN_OVERWRITE_DX; default 0 */
} fbn_backward_args;

/* Fills *args with NULL and 0. size is sizeof(fbn_backward_args). */
FBN_API void fbn_backward_args_init(fbn_backward_args *args, size_t size);

/* Where the gradients go. A NULL one is not computed. */
typedef struct fbn_grads {
    size_t struct_size;
    void *dx; /* [N,I], dtype */
    int64_t lddx;
    void *weight; /* dW [O,I], dtype, or param type under FBN_WEIGHT_GRADIENT_F32 */
    int64_t lddw;
    void *bias;       /* db [O], param type; exactly 0 after a training forward */
    void *pre_scale;  /* ds [1] or [O], param type */
    void *post_scale; /* dt [1] or [O], param type */
    void *gamma;      /* [O], param type */
    void *beta;       /* [O], param type */
} fbn_grads;

/* Fills *grads with NULL and 0. size is sizeof(fbn_grads). */
FBN_API void fbn_grads_init(fbn_grads *grads, size_t size);

/* Computes the gradients of the forward that filled `saved`: of fbn_forward_train through the
 * batch's statistics, of fbn_forward_infer with frozen statistics.
 *
 * Formula (Ioffe & Szegedy 2015, section 3, with the scales carried through): with g = dL/dv (the
 * activation's backward, v recomputed from the saved u), G = sum of g and K = sum of g (u - ubar)
 * over the rows, alpha = t gamma s r and r as in the forward, after fbn_forward_train
 *     dbeta = t G
 *     dgamma = t s r K
 *     dt = gamma s r K + beta G
 *     ds = t gamma r^3 eps K
 *     db = 0, exactly
 *     du = alpha (g - G / N - (u - ubar) s^2 r^2 K / N)
 *     dx = du W
 *     dW = du^T x
 * and after fbn_forward_infer du = alpha g and the parameters' gradients are the plain sums.
 * Nothing is divided by s, gamma or t: zeros are harmless. A scalar scale's gradient is the sum
 * over the features.
 *
 * Arguments: params and x unchanged since the forward; the running statistics are not looked at,
 * and y is not needed.
 * Writes: the gradients given; overwritten, or added to under FBN_ACCUMULATE. N = 0: zeros, or
 * nothing under FBN_ACCUMULATE.
 * Workspace: the layer's; nothing is allocated.
 * Errors: as for fbn_forward_train, without FBN_ERR_BATCH_OF_ONE; FBN_ERR_ENUM for an unknown flag;
 * FBN_ERR_INVALID_ARGUMENT for the gradient of a scale that the description has not; FBN_ERR_SAVED
 * where saved_size is less than this batch needs, or where no forward of this layer with this batch
 * wrote the buffer: the CPU finds that; on CUDA only the device could, so the call succeeds there
 * and every gradient asked for becomes NaN.
 * Threads and streams: as for fbn_forward_train.
 * Accuracy: as for fbn_forward_train; but of the half types a GPU rounds du to the data's type before
 * the two products, as unfused layers do, where fbn_layer_describe names gradients_cublas (kernel
 * "gradients_f32" keeps it in float, and is many times slower). f16's du is first multiplied by a
 * power of two: it is off by 2^-11 of itself, or by up to 2^-39 of a bound of the layer's largest. */
FBN_API fbn_status fbn_backward(fbn_layer *layer, const fbn_params *params,
                                const fbn_backward_args *args, const fbn_grads *grads);

/* -------------------------------------------------------------------------- folding and serving */

/* Computes the plain linear layer that equals this one in inference, up to the activation.
 *
 * Formula: with alpha = t gamma s r and r = 1 / sqrt(running_var + eps),
 *     weight = alpha W
 *     bias = t (beta + gamma r (s b - running_mean))
 * in double, rounded once.
 *
 * Arguments: params with the running statistics; weight [O,I], dtype, leading dimension ldw (0: I);
 * bias [O], param type.
 * Writes: weight and bias. Workspace: the layer's.
 * Errors: FBN_ERR_NULL_POINTER, FBN_ERR_STRUCT_SIZE, FBN_ERR_LEADING_DIMENSION, FBN_ERR_OVERFLOW,
 * FBN_ERR_MISSING_PARAM, FBN_ERR_INVALID_ARGUMENT, FBN_ERR_OVERLAP, FBN_ERR_ALIGNMENT,
 * FBN_ERR_MEMORY_KIND, FBN_ERR_DEVICE, each as for fbn_forward_infer.
 * Threads and streams: as for fbn_forward_infer. */
FBN_API fbn_status fbn_fold(fbn_layer *layer, const fbn_params *params, void *weight, int64_t ldw,
                            void *bias);

/* A layer packed for serving: immutable, with its own copy of what it needs. */
typedef struct fbn_prepared fbn_prepared;

/* Takes what inference needs of the layer's parameters, packed for serving. Later changes of the
 * parameters are not seen; the layer and the parameters may go.
 *
 * Formula: that of fbn_forward_infer. The CPU keeps W beside its constants instead of folding them
 * into it, which costs no more and gives bitwise fbn_forward_infer's results where both cut the
 * batch alike; the half types keep W in float.
 *
 * Arguments: prepared receives the result, on success alone; params with the running statistics.
 * Errors: as for fbn_fold, and FBN_ERR_OUT_OF_MEMORY. Threads and streams: as for fbn_fold. */
FBN_API fbn_status fbn_prepare_infer(fbn_prepared **prepared, fbn_layer *layer,
                                     const fbn_params *params);

/* Destroys a prepared layer that no thread runs. NULL is ignored. */
FBN_API void fbn_prepared_destroy(fbn_prepared *prepared);

typedef struct fbn_run_args {
    size_t struct_size;
    int64_t batch; /* N >= 0; the layer's max_batch is no bound */
    const void *x; /* [N,I], dtype */
    int64_t ldx;
    void *y; /* [N,O], dtype; written */
    int64_t ldy;
    /* This call's own, memory of the backend, aligned to 64 bytes (CUDA: 256); NULL if none is
     * needed. */
    void *workspace;
    size_t workspace_size; /* bytes there, at least what fbn_prepared_workspace_size() says */
} fbn_run_args;

/* Fills *args with NULL and 0. size is sizeof(fbn_run_args). */
FBN_API void fbn_run_args_init(fbn_run_args *args, size_t size);

/* Says how many bytes of workspace a run with this batch needs. Smaller batches never need more.
 * Errors: FBN_ERR_NULL_POINTER; FBN_ERR_SIZE (batch < 0); FBN_ERR_OVERFLOW. Threads: any. */
FBN_API fbn_status fbn_prepared_workspace_size(const fbn_prepared *prepared, int64_t batch,
                                               size_t *bytes);

/* Computes the prepared layer.
 *
 * Formula: that of fbn_forward_infer, with the parameters as they were when they were prepared.
 *
 * Arguments: as declared above. N = 0 does nothing and succeeds. Writes: y. Allocates nothing.
 * Errors: FBN_ERR_NULL_POINTER, FBN_ERR_STRUCT_SIZE, FBN_ERR_SIZE (batch < 0),
 * FBN_ERR_LEADING_DIMENSION, FBN_ERR_OVERFLOW, FBN_ERR_OVERLAP, FBN_ERR_ALIGNMENT,
 * FBN_ERR_WORKSPACE, FBN_ERR_MEMORY_KIND, FBN_ERR_DEVICE, each as for fbn_forward_infer.
 * Threads: any number at once, each with a workspace and y of its own. On CUDA queued on the
 * context's stream. Accuracy: as for fbn_forward_infer. */
FBN_API fbn_status fbn_prepared_run(const fbn_prepared *prepared, const fbn_run_args *args);

#ifdef __cplusplus
}
#endif

#endif
