/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the files of the CPU backend share: its context, layer and prepared layer, how a call is cut
 * into tiles, and the helpers below them. Nothing here is seen outside src/cpu.
 */
#ifndef FBNI_CPU_INTERNAL_H
#define FBNI_CPU_INTERNAL_H

#include "algebra.h"
#include "backend.h"
#include "cpu_kernels.h"

#define FBNI_CPU_ALIGN 64 /* a cache line, and the widest vector */

typedef struct fbni_cpu_context {
    const fbni_host *host;
    fbn_allocator allocator;
    int threads;
    bool blas_nests; /* the BLAS may be called from inside a parallel region, and is serial there */
    char text[320];
} fbni_cpu_context;

/* How an N×O matrix is cut: row_blocks × panels tiles of at most rows × features. */
typedef struct fbni_cpu_plan {
    int threads;
    int64_t rows, row_blocks;
    int64_t features, panels;
} fbni_cpu_plan;

typedef struct fbni_cpu_layer {
    fbni_cpu_context *context;
    const fbni_cpu_isa *isa;
    const fbni_cpu_kernels *kernels;
    fbn_layer_desc desc;
    uint64_t id; /* unique in the process; marks the layer's saved buffers */
    void *workspace;
    char text[192];
} fbni_cpu_layer;

/* Where things lie in the workspace, in bytes. */
typedef struct fbni_cpu_workspace {
    size_t matrix;   /* N×O reals: u of the half types forward, g and du backward */
    size_t partials; /* per row block and feature: shift, dev, m2 forward; G, K backward */
    size_t affine;   /* 3 × O reals: alpha, c, shift */
    size_t sums;     /* doubles: dt and ds of each feature chunk */
    size_t scratch;  /* per thread: scratch_bytes */
    size_t scratch_bytes;
    size_t total;
} fbni_cpu_workspace;

/* The saved buffer: this header, then norm (4 × O doubles: r, c, e, d), lse (2 × N reals, row-wise
 * activations alone), u (N×O reals). */
typedef struct fbni_cpu_saved {
    uint64_t layer_id;
    int64_t batch;
    int64_t frozen; /* 1 after forward_infer */
    int64_t reserved[5];
} fbni_cpu_saved;

typedef struct fbni_cpu_saved_layout {
    size_t norm, lse, u, total;
} fbni_cpu_saved_layout;

static inline bool fbni_is_single(fbn_dtype dtype)
{
    return dtype != FBN_F64;
}
static inline bool fbni_is_half(fbn_dtype dtype)
{
    return dtype == FBN_BF16 || dtype == FBN_F16;
}
static inline size_t fbni_dtype_size(fbn_dtype dtype)
{
    return dtype == FBN_F64 ? 8 : fbni_is_half(dtype) ? 2 : 4;
}
static inline size_t fbni_real_size_of(fbn_dtype dtype)
{
    return fbni_is_single(dtype) ? sizeof(float) : sizeof(double);
}
static inline fbn_dtype fbni_real_dtype(fbn_dtype dtype)
{
    return fbni_is_single(dtype) ? FBN_F32 : FBN_F64;
}
static inline bool fbni_is_rowwise(fbn_activation activation)
{
    return activation == FBN_ACT_SOFTMAX || activation == FBN_ACT_LOG_SOFTMAX;
}
static inline size_t fbni_align(size_t bytes)
{
    return (bytes + FBNI_CPU_ALIGN - 1) / FBNI_CPU_ALIGN * FBNI_CPU_ALIGN;
}
static inline int64_t fbni_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t fbni_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}
/* Element (row, column) of a matrix whose elements have `size` bytes. */
static inline void *fbni_at(void *p, int64_t row, int64_t ld, int64_t column, size_t size)
{
    return (char *)p + (row * ld + column) * (int64_t)size;
}
static inline const void *fbni_at_const(const void *p, int64_t row, int64_t ld, int64_t column,
                                        size_t size)
{
    return (const char *)p + (row * ld + column) * (int64_t)size;
}

/* cpu_parallel.c -- task(job, item, thread) for every item, each thread a run of neighbouring
 * items. Deterministic: which thread takes which item follows from threads and count alone. */
typedef void fbni_cpu_task(void *job, int64_t item, int thread);
void fbni_cpu_for(int threads, int64_t count, fbni_cpu_task *task, void *job);
/* How many threads a context has: what is wanted (0: OpenMP's own count), within reason. */
int fbni_cpu_threads(int wanted);

/* cpu_blas.c */
typedef struct fbni_operand {
    const void *p;
    int64_t ld;
    fbn_dtype dtype;
    bool transposed; /* the matrix lies transposed in memory */
} fbni_operand;

bool fbni_blas_nests(void);
const char *fbni_blas_describe(char *text, size_t size);
/* c[m,n] = a[m,depth] b[depth,n] (+ c). c has c_dtype: the real type, or a half type that is
 * rounded once from float.
 * scratch: FBNI_GEMM_SCRATCH bytes where any of the three is a half type, else NULL. */
typedef struct fbni_gemm {
    const fbni_cpu_context *context;
    const fbni_cpu_kernels *kernels;
    int64_t m, n, depth;
    fbni_operand a, b;
    bool accumulate;
    void *c;
    int64_t ldc;
    fbn_dtype c_dtype;
    void *scratch;
} fbni_gemm;
enum {
    FBNI_GEMM_M = 256, /* a tile of a half-type result, and the rows that set a block's depth */
    FBNI_GEMM_N = 256,
    FBNI_GEMM_A = 256 * 384, /* floats for a converted block of a, and of b */
    FBNI_GEMM_B = 256 * 384
};
#define FBNI_GEMM_SCRATCH (sizeof(float) * (FBNI_GEMM_A + FBNI_GEMM_B + FBNI_GEMM_M * FBNI_GEMM_N))
void fbni_cpu_gemm(const fbni_gemm *gemm);

/* cpu_plan.c */
fbni_cpu_plan fbni_cpu_plan_forward(const fbni_cpu_context *context, int64_t batch,
                                    const fbn_layer_desc *desc);
fbni_cpu_plan fbni_cpu_plan_backward(const fbni_cpu_context *context, int64_t batch,
                                     const fbn_layer_desc *desc);

/* The most row blocks that any batch up to this one is cut into. */
int64_t fbni_cpu_plan_most_blocks(const fbni_cpu_context *context, int64_t batch);

/* v = alpha (u - c) + shift: O reals each. */
typedef struct fbni_cpu_affine {
    char *alpha, *c, *shift;
} fbni_cpu_affine;

/* cpu_tile.c -- u = x W^T and y = act(alpha (u - c) + shift), tile by tile. */
typedef struct fbni_cpu_tile {
    int64_t row, rows, column, columns;
} fbni_cpu_tile;
typedef struct fbni_cpu_tiled {
    const fbni_cpu_context *context;
    const fbni_cpu_kernels *kernels;
    fbni_cpu_plan plan;
    int64_t N, I, O;
    fbn_dtype dtype;
    fbn_activation activation;
    fbni_operand x, weight;
    void *u; /* reals; y itself where y can hold it */
    int64_t ldu;
    fbni_cpu_affine affine;
    void *y, *lse; /* lse: 2 N reals, or NULL */
    int64_t ldy;
    char *scratch; /* scratch_bytes for each thread; none for real types */
    size_t scratch_bytes;
    bool product_per_tile; /* else fbni_cpu_tiled_product_all comes first */
    bool finish_per_tile;  /* else fbni_cpu_tiled_finish_all comes last */
} fbni_cpu_tiled;
/* Behind the product's scratch: rows of floats on their way to a half type, one or more. */
enum { FBNI_TILED_STRIP = 4096 };
#define FBNI_TILED_SCRATCH(O)                                                                      \
    (fbni_align(FBNI_GEMM_SCRATCH) +                                                               \
     fbni_align(((size_t)(O) > FBNI_TILED_STRIP ? (size_t)(O) : FBNI_TILED_STRIP) *                \
                sizeof(float)))
fbni_cpu_tile fbni_cpu_tile_of(const fbni_cpu_plan *plan, int64_t item, int64_t N, int64_t O);
void fbni_cpu_tiled_product(const fbni_cpu_tiled *tiled, fbni_cpu_tile tile, int thread);
void fbni_cpu_tiled_product_all(const fbni_cpu_tiled *tiled);
void fbni_cpu_tiled_finish(const fbni_cpu_tiled *tiled, fbni_cpu_tile tile, int thread);
void fbni_cpu_tiled_finish_all(const fbni_cpu_tiled *tiled);
/* Product and finish with alpha, c and shift known beforehand: inference. */
void fbni_cpu_tiled_run(fbni_cpu_tiled *tiled);

/* cpu_features.c -- the per-feature algebra over a chunk of features at a time. */
enum { FBNI_CHUNK = 64 };
typedef struct fbni_cpu_chunk {
    int64_t first;
    int count; /* 1 to FBNI_CHUNK */
    double s[FBNI_CHUNK], t[FBNI_CHUNK], b[FBNI_CHUNK], gamma[FBNI_CHUNK], beta[FBNI_CHUNK];
} fbni_cpu_chunk;
void fbni_cpu_chunk_load(fbni_cpu_chunk *chunk, const fbn_layer_desc *desc,
                         const fbn_params *params, int64_t first, int64_t end);
fbni_feature fbni_cpu_chunk_feature(const fbni_cpu_chunk *chunk, int i);
/* zhat's constants by the running statistics. */
void fbni_cpu_chunk_frozen(const fbni_cpu_chunk *chunk, const fbn_layer_desc *desc,
                           const fbn_params *params, fbni_norm *norm);
void fbni_cpu_chunk_affine(const fbni_cpu_chunk *chunk, const fbni_norm *norm, bool single,
                           const fbni_cpu_affine *to);
void fbni_cpu_reals_load(double *out, const void *reals, int64_t first, int count, bool single);
void fbni_cpu_reals_store(void *reals, const double *in, int64_t first, int count, bool single);

/* cpu_gradients.c -- du from g, which may be du's own place or dy; dx and dW as far as grads has
 * them. */
typedef struct fbni_cpu_slopes { /* O reals each: du = alpha (g + u (u - c) + one) */
    void *alpha, *c, *u, *one;
} fbni_cpu_slopes;
typedef struct fbni_cpu_gradients {
    const fbni_cpu_layer *layer;
    const fbn_params *params;
    const fbn_backward_args *args;
    const fbn_grads *grads;
    fbni_cpu_plan plan;
    bool frozen; /* then slopes.c, .u and .one are 0 */
    bool accumulate, accumulate_dx;
    bool dx_per_block; /* set by the call: else after all of du */
    const void *u, *g; /* N×O reals */
    int64_t ldg;
    fbni_cpu_slopes slopes;
    void *du; /* N×O reals */
    char *scratch;
    size_t scratch_bytes;
} fbni_cpu_gradients;
void fbni_cpu_gradients_run(fbni_cpu_gradients *gradients);

/* cpu_layer.c */
fbn_status fbni_cpu_layer_workspace_size(void *context, const fbn_layer_desc *desc, size_t *bytes);
fbn_status fbni_cpu_layer_create(void **layer, void *context, const fbn_layer_desc *desc,
                                 void *workspace);
void fbni_cpu_layer_destroy(void *layer);
const char *fbni_cpu_layer_describe(const void *layer);
fbn_status fbni_cpu_layer_saved_size(const void *layer, int64_t batch, size_t *bytes);
fbni_cpu_workspace fbni_cpu_workspace_of(const fbni_cpu_context *context,
                                         const fbn_layer_desc *desc);
fbni_cpu_saved_layout fbni_cpu_saved_layout_of(const fbn_layer_desc *desc, int64_t batch);

/* cpu_forward.c, cpu_backward.c, cpu_prepared.c: the slots of the backend table. */
fbn_status fbni_cpu_forward_train(void *layer, const fbn_params *params,
                                  const fbn_forward_args *args);
fbn_status fbni_cpu_forward_infer(void *layer, const fbn_params *params,
                                  const fbn_forward_args *args);
fbn_status fbni_cpu_backward(void *layer, const fbn_params *params, const fbn_backward_args *args,
                             const fbn_grads *grads);
fbn_status fbni_cpu_fold(void *layer, const fbn_params *params, void *weight, int64_t ldw,
                         void *bias);
fbn_status fbni_cpu_prepare(void **prepared, void *layer, const fbn_params *params);
void fbni_cpu_prepared_destroy(void *prepared);
fbn_status fbni_cpu_prepared_workspace_size(const void *prepared, int64_t batch, size_t *bytes);
fbn_status fbni_cpu_prepared_run(const void *prepared, const fbn_run_args *args);

#endif
