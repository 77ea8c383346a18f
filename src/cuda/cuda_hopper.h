/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The Hopper product from the drivers' side: which kind a layer needs, its tiles, its memory and
 * its call. Without sm_90a in the module all of it refuses.
 */
#ifndef FBNI_CUDA_HOPPER_H
#define FBNI_CUDA_HOPPER_H

#include "cuda_internal.h"
#include "hopper_kernels.h"

/* The kind of the Hopper product that a layer needs forward; FBNI_HOPPER_KINDS: none. */
fbni_hopper_kind fbni_cuda_hopper_kind(const fbn_layer_desc *desc);

/* Whether a row of FBNI_CUDA_PRODUCT is one of these, and of which kind (cuda_rows.c); and the same
 * of FBNI_CUDA_GRADIENTS. */
bool fbni_cuda_is_hopper(fbni_cuda_row_id row, fbni_hopper_kind *kind);
bool fbni_cuda_is_hopper_gradients(fbni_cuda_row_id row, fbni_hopper_kind *kind);

/* NULL where this machine can run the Hopper kernels, else why not; and FBNI_HOPPER_DIRECT. */
const char *fbni_hopper_refuse_machine(const fbni_cuda_context *context);
const char *fbni_hopper_refuse_direct(const fbni_cuda_context *context);
/* The same of a product of these sizes; and whether another is expected to be faster. */
const char *fbni_hopper_refuse_sizes(int64_t N, int64_t I, int64_t O);
const char *fbni_hopper_refuse_speed(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                     int64_t N, int64_t I, int64_t O);

/* What such a product is expected to take with all that its operands need before, in microseconds. */
double fbni_hopper_whole_time(const fbni_cuda_context *context, fbni_hopper_kind kind, int64_t N,
                              int64_t I, int64_t O);

typedef struct fbni_hopper_tiles {
    int columns;   /* of a tile */
    int64_t count; /* along the batch */
    int64_t steps; /* the same, of a cluster's tiles */
    int beside;    /* FBNI_HOPPER_DIRECT: the last pairs, for what it leaves idle */
    int band;      /* pairs of feature tiles done together */
    int64_t waves;
    int clusters; /* that multiply, at most */
    int holders;  /* fbni_hopper_product.holders */
    int slices;   /* fbni_hopper_slice alone: of the depth; count is that of a slice */
} fbni_hopper_tiles;
fbni_hopper_tiles fbni_hopper_tiles_of(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                       int64_t N, int64_t I, int64_t O);
/* The same for operands in parts and no moments: where the tiles are few and the depth is large,
 * slices of it fill the machine. In *time, if not NULL, what it is expected to take, in
 * microseconds. */
fbni_hopper_tiles fbni_hopper_slice(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                    int64_t N, int64_t I, int64_t O, double *time);
/* Memory for the slices' products, of any sizes. */
size_t fbni_hopper_slices_size(const fbni_cuda_context *context);
/* What follows behind the product (pairs 0: nothing does); eager: also where that takes longer than
 * the product. */
fbni_cuda_following fbni_hopper_following_of(const fbni_cuda_context *context,
                                             fbni_hopper_kind kind, int64_t N, int64_t I, int64_t O,
                                             bool eager);
/* Whether the copy engine can bring what is stored, and take y: finish says where both are. */
bool fbni_hopper_can_stage(const fbni_cuda_finish *finish, bool packed);
/* The chunks of column moments that the features are made of: the tiles, or, where there are some,
 * the holders. */
fbni_cuda_chunks fbni_hopper_chunks_of(const fbni_hopper_tiles *tiles, int64_t N);
/* Where they begin in `partials`: those of the holders are behind those of the tiles. */
float *fbni_hopper_merged(const fbni_hopper_tiles *tiles, int64_t O, float *partials);
/* Counts of what is done, of any product: fbni_hopper_follow.done, or those of
 * fbni_hopper_held_finish. */
size_t fbni_hopper_counts(const fbni_cuda_context *context, int64_t O);
/* The most chunks, of tiles and holders together, of any batch of at most N rows. */
int64_t fbni_hopper_most_chunks(const fbni_cuda_context *context, int64_t N);

/* The most chunks of the backward's sums over packed u, of any batch of at most N rows. */
int64_t fbni_hopper_most_gradient_chunks(const fbni_cuda_context *context, int64_t N, int64_t O);

/* Entries from one row of parts to the next: the copy engine wants multiples of 16 bytes, and
 * FBNI_HOPPER_DIRECT groups of 32. */
static inline int64_t fbni_hopper_stride(int64_t depth)
{
    return (depth + 31) / 32 * 32;
}

/* ---- operands (cuda_hopper_operands.c) ---- */

/* One operand's memory, in bytes from where it begins: its parts, and for the float kinds exponents
 * and largest entries. separate: the bf16 parts do not share the place of the f16 ones. The same of
 * FBNI_HOPPER_TF32 and FBNI_HOPPER_DIRECT, between which each call may choose. */
typedef struct fbni_hopper_memory {
    size_t parts, rescue, exponents, largest, total;
} fbni_hopper_memory;
fbni_hopper_memory fbni_hopper_memory_of(fbni_hopper_kind kind, int64_t rows, int64_t I,
                                         bool separate);

/* An operand: a matrix, where its parts go, and whether they are there already. */
typedef struct fbni_hopper_source {
    const void *p; /* NULL: the parts are in memory, separate (fbni_hopper_prepare_operand) */
    int64_t rows, ld;
    char *memory;
} fbni_hopper_source;

/* Where its parts are in its memory (fbni_hopper_memory_of). */
fbni_hopper_operand fbni_hopper_operand_of(fbni_hopper_kind kind, const fbni_hopper_source *source,
                                           int64_t I, bool separate);
/* The parts of both operands, with the verdict and what it asks for. */
fbn_status fbni_hopper_make_parts(fbni_cuda_context *context, const fbni_hopper_split *split);
/* An operand as it is, or a copy in its memory where the copy engine cannot read it: *p and *ld. */
fbn_status fbni_hopper_readable_operand(fbni_cuda_context *context,
                                        const fbni_hopper_source *source, int64_t I, size_t size,
                                        const void **p, int64_t *ld);
/* Both kinds of parts of an operand, for good. */
fbn_status fbni_hopper_prepare_operand(fbni_cuda_context *context, fbni_hopper_kind kind, int64_t I,
                                       const fbni_hopper_source *source);

/* ---- the call (cuda_hopper.c) ---- */

typedef struct fbni_hopper_call {
    fbni_hopper_kind kind;
    int64_t N, O, I;
    fbni_hopper_source x, w;
    void *control; /* fbni_hopper_control, of the float kinds */
    float *u;
    int64_t ldu;
    float *partials;                /* or NULL */
    const fbni_cuda_finish *finish; /* its affine is there, and y is written, not u; or NULL */
    bool packed;                    /* no affine yet: u is written packed */
    fbni_cuda_following following;
    unsigned *done; /* packed: fbni_hopper_product.held, or NULL */
} fbni_hopper_call;

/* context->direct_clusters, when a context is created. */
void fbni_hopper_count_clusters(fbni_cuda_context *context);
/* Before the first product of a kind on the context's device: a layer does it when it is created,
 * so that nothing is loaded in the hot path. */
fbn_status fbni_hopper_allow(fbni_cuda_context *context, fbni_hopper_kind kind);

/* u = x W^T (and its column moments). */
fbn_status fbni_hopper_call_product(fbni_cuda_context *context, const fbni_hopper_call *call);
/* y from u that a product has packed; features as for fbni_hopper_normalise. */
fbn_status fbni_hopper_finish(fbni_cuda_context *context, const fbni_cuda_finish *finish,
                              const fbni_cuda_features *features);
/* Features, and y from u that a product with holders has packed, where fbni_hopper_can_stage; the
 * maps are set here. */
fbn_status fbni_hopper_finish_holders(fbni_cuda_context *context, fbni_hopper_held_finish *finish);
/* The product of operands whose parts are there, of the float kinds. */
typedef struct fbni_hopper_parts_call {
    fbni_hopper_kind kind;
    int64_t I; /* depth */
    fbni_hopper_operand x, w;
    const fbni_hopper_control *control;
    float *slices; /* fbni_hopper_slices_size */
    float *u;
    int64_t ldu;
} fbni_hopper_parts_call;
fbn_status fbni_hopper_call_parts(fbni_cuda_context *context, const fbni_hopper_parts_call *call);
/* ---- tensor maps (cuda_hopper_maps.c) ---- */

/* Whether a map can have a matrix: where it begins, and from one row to the next. */
bool fbni_hopper_is_mappable(const void *p, int64_t ld, size_t size);
/* An operand's parts [parts][rows][I] of 16 bits, or entries of `size` bytes, in boxes of 128 bytes ×
 * box_rows × 1. */
CUresult fbni_hopper_map_operand(const fbni_cuda_context *context, CUtensorMap *map, const void *p,
                                 int64_t I, int64_t rows, int64_t ld, int parts, int box_rows);
CUresult fbni_hopper_map_entries(const fbni_cuda_context *context, CUtensorMap *map, const void *p,
                                 int64_t I, int64_t rows, int64_t ld, int parts, int box_rows,
                                 size_t size);
/* product->result: [N, O] at `out`. */
CUresult fbni_hopper_map_result(const fbni_cuda_context *context, fbn_dtype dtype,
                                fbni_hopper_product *product, void *out);
/* [N, O] of what is stored or of y, in boxes of a stage (hopper_stages.cuh). */
CUresult fbni_hopper_map_stage(const fbni_cuda_context *context, CUtensorMap *map,
                               const fbni_cuda_finish *finish, const void *matrix, int64_t ld);

/* ---- the backward (cuda_hopper_backward.c) ---- */

/* hopper_gradients.cu: where gradient->packed has partials, the sums and du after training. */
fbn_status fbni_hopper_packed_sums(fbni_cuda_context *context, const fbni_cuda_gradient *gradient,
                                   void *partials);
fbn_status fbni_hopper_packed_du(fbni_cuda_context *context, const fbni_cuda_gradient *gradient,
                                 const fbni_cuda_input_gradient *input);

/* Memory for either product: the side of du; the side of W and of x; both in bytes. */
typedef struct fbni_hopper_backward_memory {
    size_t du, other;
} fbni_hopper_backward_memory;
fbni_hopper_backward_memory fbni_hopper_backward_memory_of(fbni_hopper_kind kind, int64_t N,
                                                           int64_t I, int64_t O);
const char *fbni_hopper_refuse_backward_sizes(int64_t N, int64_t I, int64_t O);
const char *fbni_hopper_refuse_backward_speed(const fbni_cuda_context *context,
                                              fbni_hopper_kind kind, int64_t N, int64_t I,
                                              int64_t O);

typedef struct fbni_hopper_gradients {
    fbni_hopper_kind kind; /* TF32 or FP32 */
    int64_t N, I, O;
    const float *du;     /* as input_gradient.cu writes it with maxima; leading dimension O */
    unsigned *maxima;    /* O */
    const float *alpha;  /* O */
    char *parts, *other; /* fbni_hopper_backward_memory_of */
    float *slices;       /* fbni_hopper_slices_size */
    void *control;
} fbni_hopper_gradients;

/* out[O, I] = du^T x, and out[N, I] = du W: out may be du's own place. */
fbn_status fbni_hopper_weight_gradient(fbni_cuda_context *context, const fbni_hopper_gradients *g,
                                       const float *x, int64_t ldx, float *out, int64_t ldout);
fbn_status fbni_hopper_data_gradient(fbni_cuda_context *context, const fbni_hopper_gradients *g,
                                     const float *weight, int64_t ldw, float *out, int64_t ldout);

/* ---- a layer in one launch (cuda_small.c, hopper_small.cu) ---- */

/* NULL where the row takes the layer, else why not; and why more launches are preferred for a batch,
 * in training or in inference, or NULL. */
const char *fbni_small_refuse_layer(const fbni_cuda_context *context, const fbn_layer_desc *desc);
const char *fbni_small_refuse_speed(const fbni_cuda_context *context, const fbn_layer_desc *desc,
                                    int64_t batch, bool training);
/* Once for a layer that may take the row, before the first call. */
fbn_status fbni_small_allow(fbni_cuda_context *context, const fbn_layer_desc *desc);
/* Product, features, unless they are FBNI_SMALL_FOLDED, and, but for the activations over rows, y;
 * saves_u: u too. */
fbn_status fbni_small_forward(fbni_cuda_context *context, const fbni_forward_product *product,
                              fbni_small_statistics statistics, const fbni_cuda_features *features,
                              const fbni_cuda_finish *finish, bool saves_u);

#endif
