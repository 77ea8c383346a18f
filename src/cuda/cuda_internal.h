/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the C files of the CUDA backend share: its context, layer and prepared layer, the table of
 * kernel rows, and the helpers below them. Nothing here is seen outside src/cuda.
 *
 * Every entry enters its context's device and leaves it again (fbni_cuda_enter, fbni_cuda_leave):
 * the caller's current device is as it was. Layers of one context may be used from several threads;
 * what they share is the stream, where the device orders their work, and the cuBLAS handle, which
 * has a lock.
 */
#ifndef FBNI_CUDA_INTERNAL_H
#define FBNI_CUDA_INTERNAL_H

#include "backend.h"
#include "cuda_kernels.h"

#include <cublas_v2.h>
#include <cuda.h>
#include <cudaTypedefs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* Parts of workspaces begin at multiples of it; cuBLAS is at its best so. */
#define FBNI_CUDA_ALIGN 256

/* cuda_memory.c -- addresses that the device is known to reach. */
enum { FBNI_CUDA_KNOWN = 256 };
typedef struct fbni_cuda_known {
    _Atomic uintptr_t address[FBNI_CUDA_KNOWN]; /* 0: none */
} fbni_cuda_known;

typedef struct fbni_cuda_context {
    const fbni_host *host;
    fbn_allocator host_allocator;
    fbn_allocator device_allocator; /* allocate is NULL for cudaMalloc */
    int device;
    int capability; /* 90: compute capability 9.0 */
    CUcontext primary;
    PFN_cuTensorMapEncodeTiled_v12000 encode_map; /* NULL: the driver has none */
    int direct_clusters; /* fbni_hopper_direct_clusters; 0: there are no Hopper kernels */
    fbni_cuda_queue queue;
    cudaEvent_t event; /* orders a new stream after the old */
    cublasHandle_t blas;
    pthread_mutex_t blas_lock;
    void *blas_workspace;
    size_t blas_workspace_size;
    fbni_cuda_known known;
    char text[448];
} fbni_cuda_context;

/* ---- the rows of the tables (cuda_rows.c) ---- */

/* What a layer chooses separately, each from a table of its own, fastest first. */
typedef enum fbni_cuda_operation {
    FBNI_CUDA_PRODUCT,   /* u = x W^T */
    FBNI_CUDA_TRAIN,     /* from u to alpha, c, shift (and y) in training, at every call; _SMALL: in
                            inference too */
    FBNI_CUDA_SOFTMAX,   /* y where the activation is over rows */
    FBNI_CUDA_BACKWARD,  /* from dy and u to the parameters' gradients and du; likewise */
    FBNI_CUDA_GRADIENTS, /* dx = du W, dW = du^T x */
    FBNI_CUDA_OPERATIONS
} fbni_cuda_operation;

typedef enum fbni_cuda_row_id {
    FBNI_CUDA_PRODUCT_HOPPER_F16, /* cuda_hopper.h; moments in the epilogue */
    FBNI_CUDA_PRODUCT_HOPPER_BF16,
    FBNI_CUDA_PRODUCT_HOPPER_TF32,
    FBNI_CUDA_PRODUCT_HOPPER_DIRECT,
    FBNI_CUDA_PRODUCT_HOPPER_FP32,
    FBNI_CUDA_PRODUCT_CUBLAS,     /* operands as they are */
    FBNI_CUDA_PRODUCT_CUBLAS_F32, /* half operands converted to float */
    FBNI_CUDA_TRAIN_SMALL,        /* the product too, all in one launch (cuda_small.c) */
    FBNI_CUDA_TRAIN_FOLLOWED,     /* as PACKED or EPILOGUE, and what the product leaves idle makes
                                     y of what is complete (hopper_follow.cuh) */
    FBNI_CUDA_TRAIN_PACKED,       /* as EPILOGUE, and u is in 16 bits, unless it is saved */
    FBNI_CUDA_TRAIN_EPILOGUE,     /* the product has taken the moments */
    FBNI_CUDA_TRAIN_SLAB,
    FBNI_CUDA_TRAIN_PASSES,
    FBNI_CUDA_SOFTMAX_REGISTERS,
    FBNI_CUDA_SOFTMAX_ONLINE,
    FBNI_CUDA_BACKWARD_SLAB,
    FBNI_CUDA_BACKWARD_PASSES,
    FBNI_CUDA_GRADIENTS_HOPPER_TF32, /* cuda_hopper_backward.c; in the order of the kinds */
    FBNI_CUDA_GRADIENTS_HOPPER_FP32,
    FBNI_CUDA_GRADIENTS_CUBLAS, /* operands as they are, du rounded to their type */
    FBNI_CUDA_GRADIENTS_F32,    /* half operands converted to float */
    FBNI_CUDA_ROWS
} fbni_cuda_row_id;

typedef struct fbni_cuda_choice {
    bool named[FBNI_CUDA_OPERATIONS]; /* the row was asked for by name: it holds for all batches */
    fbni_cuda_row_id row[FBNI_CUDA_OPERATIONS];
} fbni_cuda_choice;

const char *fbni_cuda_row_name(fbni_cuda_row_id row);
/* NULL where this machine can run the row, else why not. */
const char *fbni_cuda_row_refusal(const fbni_cuda_context *context, fbni_cuda_row_id row);
/* Chooses a row for each operation for batches of this size; those that the layer does not need
 * too. quiet: nothing is logged. FBN_ERR_UNSUPPORTED where desc->kernel is unknown or refuses. */
fbn_status fbni_cuda_choose(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                            bool quiet, fbni_cuda_choice *choice);
/* The rows of FBNI_CUDA_PRODUCT and, with that, of FBNI_CUDA_TRAIN for one call: where it has few
 * rows cuBLAS may be faster than the layer's own product, whose tiles stay as high. */
fbni_cuda_row_id fbni_cuda_choose_product(const fbni_cuda_context *context,
                                          const fbn_layer_desc *desc,
                                          const fbni_cuda_choice *choice, int64_t batch);
fbni_cuda_row_id fbni_cuda_choose_train(const fbni_cuda_context *context,
                                        const fbn_layer_desc *desc, const fbni_cuda_choice *choice,
                                        fbni_cuda_row_id product, int64_t batch);
/* The row of FBNI_CUDA_BACKWARD for one call. */
fbni_cuda_row_id fbni_cuda_choose_backward(const fbn_layer_desc *desc,
                                           const fbni_cuda_choice *choice, int64_t batch);
/* Whether a row takes its moments from a Hopper product. */
bool fbni_cuda_is_epilogue(fbni_cuda_row_id row);

/* ---- layers ---- */

typedef struct fbni_cuda_layer {
    fbni_cuda_context *context;
    fbn_layer_desc desc;
    fbni_cuda_choice choice;
    uint64_t id; /* unique in the process; marks the layer's saved buffers */
    char *workspace;
    char text[256];
} fbni_cuda_layer;

/* Where things lie in the workspace, in bytes. */
typedef struct fbni_cuda_workspace {
    size_t affine;   /* alpha, c, shift: 3 × O reals */
    size_t centre;   /* O reals */
    size_t slopes;   /* du_u, du_1: 2 × O reals */
    size_t sums;     /* 2 × O doubles: gradients of scalar scales; alpha when folding */
    size_t scale;    /* fbni_cuda_du_scale */
    size_t partials; /* of the chunks of column sums */
    size_t dots;     /* N reals where the activation is over rows */
    size_t matrix; /* N×O reals: u of the half types forward, du backward; Hopper: dx's N×I floats
                        after du */
    size_t inputs; /* x in parts, backward transposed, or W; half types: N×I floats: x converted,
                        dx before its rounding */
    size_t weights; /* W in parts; half types: O×I floats: W converted, dW before its rounding */
    size_t du;      /* Hopper: du in parts, either way */
    size_t slices;  /* Hopper: fbni_hopper_slices_size */
    size_t control; /* fbni_hopper_control */
    size_t done;    /* Hopper: fbni_hopper_counts */
    size_t total;
} fbni_cuda_workspace;

/* The saved buffer: the header, norm (4 × O doubles: r, c, e, d), lse (2 × N reals), and u: N×O
 * reals, or, after training that packs it, u packed and the moments of its tiles. */
typedef struct fbni_cuda_saved_layout {
    size_t norm, lse, u, total;
    bool packed; /* then: */
    size_t moments;
    int64_t tile_rows, tiles;
} fbni_cuda_saved_layout;

static inline bool fbni_is_single(fbn_dtype dtype)
{
    return dtype != FBN_F64;
}
static inline bool fbni_is_half(fbn_dtype dtype)
{
    return dtype == FBN_BF16 || dtype == FBN_F16;
}
static inline size_t fbni_real_size(fbn_dtype dtype)
{
    return dtype == FBN_F64 ? 8 : 4;
}
static inline size_t fbni_dtype_size(fbn_dtype dtype)
{
    return dtype == FBN_F64 ? 8 : fbni_is_half(dtype) ? 2 : 4;
}
static inline fbn_dtype fbni_real_dtype(fbn_dtype dtype)
{
    return dtype == FBN_F64 ? FBN_F64 : FBN_F32;
}
static inline bool fbni_is_rowwise(fbn_activation activation)
{
    return activation == FBN_ACT_SOFTMAX || activation == FBN_ACT_LOG_SOFTMAX;
}
static inline size_t fbni_align(size_t bytes)
{
    return (bytes + FBNI_CUDA_ALIGN - 1) / FBNI_CUDA_ALIGN * FBNI_CUDA_ALIGN;
}
/* Appends a part of `bytes` to a layout and returns where it begins. */
static inline size_t fbni_place(size_t *total, size_t bytes)
{
    const size_t at = *total;
    *total += fbni_align(bytes);
    return at;
}
static inline size_t fbni_larger(size_t a, size_t b)
{
    return a > b ? a : b;
}
/* Three vectors of O reals that begin at p. */
static inline void fbni_vectors(char *p, int64_t O, size_t real, void **a, void **b, void **c)
{
    const size_t vector = fbni_align((size_t)O * real);
    *a = p;
    *b = p + vector;
    *c = p + 2 * vector;
}

fbni_cuda_workspace fbni_cuda_workspace_of(const fbni_cuda_context *context,
                                           const fbn_layer_desc *desc,
                                           const fbni_cuda_choice *choice);
fbni_cuda_saved_layout fbni_cuda_saved_layout_of(const fbni_cuda_layer *layer, int64_t batch);
fbni_cuda_params fbni_cuda_params_of(const fbn_layer_desc *desc, const fbn_params *params);

/* ---- errors and devices (cuda_context.c) ---- */

/* FBN_OK, or FBN_ERR_DEVICE (FBN_ERR_OUT_OF_MEMORY) with CUDA's own name for the error. */
fbn_status fbni_cuda_check(const fbni_host *host, cudaError_t error, const char *what);
fbn_status fbni_cuda_check_blas(const fbni_host *host, cublasStatus_t status, const char *what);
fbn_status fbni_cuda_enter(const fbni_cuda_context *context);
void fbni_cuda_leave(const fbni_cuda_context *context);

fbn_status fbni_cuda_available(const fbni_host *host);
fbn_status fbni_cuda_context_create(void **context, const fbni_host *host,
                                    const fbn_context_options *options);
void fbni_cuda_context_destroy(void *context);
const char *fbni_cuda_context_describe(const void *context);
const char *fbni_cuda_context_kernel(const void *context, int64_t index, const char **refusal);
fbn_status fbni_cuda_context_set_stream(void *context, void *stream);
fbn_status fbni_cuda_context_synchronize(void *context);

/* cuda_memory.c. The two inner ones are called inside fbni_cuda_enter. */
fbn_status fbni_cuda_memory_take(fbni_cuda_context *context, size_t bytes, void **pointer);
fbn_status fbni_cuda_memory_give(fbni_cuda_context *context, void *pointer);
fbn_status fbni_cuda_allocate(void *context, size_t bytes, void **pointer);
fbn_status fbni_cuda_release(void *context, void *pointer);
fbn_status fbni_cuda_upload(void *context, void *target, const void *source, size_t bytes);
fbn_status fbni_cuda_download(void *context, void *target, const void *source, size_t bytes);
fbn_status fbni_cuda_check_pointer(void *context, const void *pointer, const char *name);

/* ---- products (cuda_product.c) ---- */

typedef struct fbni_operand {
    const void *p;
    int64_t ld;
    bool transposed; /* the matrix lies transposed in memory */
} fbni_operand;

/* c[m,n] = a[m,depth] b[depth,n] (+ c), row-major; a and b of type, c of its real type (or, if
 * narrow, of type too), summed in the real type or better. tf32: float operands are rounded to
 * TF32. */
typedef struct fbni_product {
    int64_t m, n, depth;
    fbn_dtype type;
    bool tf32, accumulate, narrow;
    fbni_operand a, b;
    void *c;
    int64_t ldc;
    const fbni_cuda_du_scale *scale; /* a is du of f16, to be restored; or NULL */
} fbni_product;
fbn_status fbni_cuda_multiply(fbni_cuda_context *context, const fbni_product *product);

/* The clusters of a Hopper product: those that multiply, and those that follow behind them and make
 * y of so many pairs of feature tiles (0: nothing follows); and what they need in a call. */
typedef struct fbni_cuda_following {
    int clusters, followers, pairs;
    unsigned *done; /* fbni_hopper_follow.done */
    const fbni_cuda_features *features;
    const fbni_cuda_finish *finish;
} fbni_cuda_following;

/* u[N,O] = x W^T by a row of FBNI_CUDA_PRODUCT. Where the row converts, inputs has N×I floats and
 * weights O×I; weights is NULL where weight is float already. */
typedef struct fbni_forward_product {
    fbni_cuda_row_id row;
    bool split; /* Hopper: not weight, but its parts in weights (fbni_hopper_prepare_operand) */
    const fbn_layer_desc *desc;
    int64_t N;
    const void *x;
    int64_t ldx;
    const void *weight;
    int64_t ldw;
    void *inputs, *weights, *control;
    void *u;
    int64_t ldu;
    float *partials;                /* Hopper: where the moments go, or NULL */
    const fbni_cuda_finish *finish; /* Hopper: y is written instead of u; or NULL */
    bool packed;                    /* u is written packed; partials are there, finish too */
    fbni_cuda_following following;  /* Hopper */
    unsigned *done;                 /* Hopper, packed: fbni_hopper_product.held, or NULL */
} fbni_forward_product;
fbn_status fbni_cuda_forward_product(fbni_cuda_context *context, const fbni_forward_product *f);
/* Whether this one is left to the one launch that also makes y in inference (FBNI_CUDA_TRAIN_SMALL). */
bool fbni_cuda_infers_small(const fbni_cuda_context *context, const fbni_cuda_choice *choice,
                            const fbni_forward_product *f);

/* ---- the slots of the backend table ---- */

fbn_status fbni_cuda_layer_workspace_size(void *context, const fbn_layer_desc *desc, size_t *bytes);
fbn_status fbni_cuda_layer_create(void **layer, void *context, const fbn_layer_desc *desc,
                                  void *workspace);
void fbni_cuda_layer_destroy(void *layer);
const char *fbni_cuda_layer_describe(const void *layer);
fbn_status fbni_cuda_layer_saved_size(const void *layer, int64_t batch, size_t *bytes);
fbn_status fbni_cuda_forward_train(void *layer, const fbn_params *params,
                                   const fbn_forward_args *args);
fbn_status fbni_cuda_forward_infer(void *layer, const fbn_params *params,
                                   const fbn_forward_args *args);
fbn_status fbni_cuda_backward(void *layer, const fbn_params *params, const fbn_backward_args *args,
                              const fbn_grads *grads);
fbn_status fbni_cuda_fold_slot(void *layer, const fbn_params *params, void *weight, int64_t ldw,
                               void *bias);
fbn_status fbni_cuda_prepare(void **prepared, void *layer, const fbn_params *params);
void fbni_cuda_prepared_destroy(void *prepared);
fbn_status fbni_cuda_prepared_workspace_size(const void *prepared, int64_t batch, size_t *bytes);
fbn_status fbni_cuda_prepared_run(const void *prepared, const fbn_run_args *args);

/* cuda_forward.c -- y from u: softmax or element by element. */
fbn_status fbni_cuda_finish_rows(fbni_cuda_context *context, const fbni_cuda_finish *finish,
                                 fbni_cuda_row_id softmax);

#endif
