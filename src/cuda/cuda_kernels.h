/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The contract of the CUDA kernels: what the drivers (C) ask of the launchers (CUDA C++).
 *
 * Common to all: a launcher queues its kernels on queue->stream and returns CUDA's verdict on the
 * launches; it allocates nothing and waits for nothing, so it can be captured in a graph. Matrices
 * are row-major with a leading dimension in elements and any alignment that suits an element; rows
 * and columns >= 1; indices have 64 bits. "Real" is float, and double for FBN_F64. Results do not
 * depend on the order in which blocks run: no floating-point atomics, sums in a fixed order.
 */
#ifndef FBNI_CUDA_KERNELS_H
#define FBNI_CUDA_KERNELS_H

#include "backend.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where to launch. */
typedef struct fbni_cuda_queue {
    cudaStream_t stream;
    int processors;       /* multiprocessors of the device */
    size_t shared_memory; /* the most that a block may ask for */
    int launches_ahead;   /* kernels may be started before the one before is done (sm_90) */
} fbni_cuda_queue;

/* The first bytes of a saved buffer, written by the device. */
typedef struct fbni_cuda_saved {
    uint64_t layer_id;
    int64_t batch;
    int64_t frozen; /* 1 after forward_infer */
    int64_t reserved[5];
} fbni_cuda_saved;

/* y = act(alpha (u - c) + shift), O reals each, aligned to 16 bytes. */
typedef struct fbni_cuda_affine {
    void *alpha, *c, *shift;
} fbni_cuda_affine;

/* ---- how column sums are cut ---- */

/* Rows are cut into groups, and the groups dealt out to chunks from the last group to the first:
 * chunk q takes groups groups-1-q, groups-1-q-chunks, ... A block reduces one chunk of one slab of
 * columns. All chunks are on their way together, so the pass walks the matrix from its last rows,
 * which the product wrote last, to its first, where the next pass begins: both find the other's
 * tail in the L2 cache. */
typedef struct fbni_cuda_chunks {
    int64_t rows;       /* N */
    int64_t group_rows; /* of every group but the last */
    int64_t groups;
    int chunks;
    int lanes; /* threads side by side along a row: a power of two, at most 32 */
    int reals; /* of moments, for a chunk and column: 3, or 4 (fbni_cuda_column_moments) */
} fbni_cuda_chunks;

enum {
    FBNI_CUDA_BLOCK = 256, /* threads of the kernels that walk columns */
    FBNI_CUDA_GROUP = 8,   /* rows of a group that one thread takes */
    /* blocks that a multiprocessor holds, as far as registers go */
    FBNI_CUDA_MOMENT_BLOCKS = 3,
    FBNI_CUDA_GRADIENT_BLOCKS = 2
};

/* 16-byte vectors of reals along a row that a slab has threads for. */
static inline int fbni_cuda_lanes(int64_t columns, size_t real_size)
{
    const int64_t vectors = (columns + (int64_t)(16 / real_size) - 1) / (int64_t)(16 / real_size);
    int lanes = 1;
    while (lanes < 32 && lanes < vectors)
        lanes *= 2;
    return lanes;
}

static inline int64_t fbni_cuda_slabs(int64_t columns, int lanes, size_t real_size)
{
    const int64_t width = lanes * (int64_t)(16 / real_size);
    return (columns + width - 1) / width;
}

/* How many blocks share the rows of each slab, so that `resident` blocks are busy together: one
 * wave where that leaves few idle, else several. */
static inline int fbni_cuda_share_rows(int64_t slabs, int64_t resident, int64_t most)
{
    int64_t blocks = slabs * 4 <= resident ? resident / slabs : 4 * resident / slabs + 1;
    if (blocks > most)
        blocks = most;
    return blocks > 65535 ? 65535 : (int)blocks;
}

/* resident: blocks that the device holds. Never more chunks for fewer rows. */
static inline fbni_cuda_chunks fbni_cuda_chunks_of(int64_t resident, int64_t rows, int64_t columns,
                                                   size_t real_size)
{
    fbni_cuda_chunks c;
    c.rows = rows;
    c.lanes = fbni_cuda_lanes(columns, real_size);
    c.reals = 3;
    c.group_rows = (int64_t)(FBNI_CUDA_BLOCK / c.lanes) * FBNI_CUDA_GROUP;
    c.groups = (rows + c.group_rows - 1) / c.group_rows;
    c.chunks =
        fbni_cuda_share_rows(fbni_cuda_slabs(columns, c.lanes, real_size), resident, c.groups);
    return c;
}

/* u in 16 bits, by tiles of rows (hopper_moments.cuh): each feature relative to its moments there. */
typedef struct fbni_cuda_packed {
    /* moments, four reals as fbni_cuda_column_moments has them, tile t of T as chunk T - 1 - t; or
     * NULL: u is not packed */
    const float *partials;
    int64_t tile_rows, tiles;
    int band;       /* pairs of Hopper's feature tiles that were stored together */
    int pairs_done; /* of them, whole bands, that are y already */
} fbni_cuda_packed;

/* ---- features ---- */

/* The per-feature parameters, reals; NULL where absent. */
typedef struct fbni_cuda_params {
    const void *bias, *pre_scale, *post_scale, *gamma, *beta;
    int pre_per_feature, post_per_feature; /* else one entry for all */
} fbni_cuda_params;

typedef struct fbni_cuda_features {
    fbni_cuda_params params;
    int64_t O, batch;
    double eps, momentum;
    double unbias;  /* training: fbni_running_var_of of 1 */
    uint64_t flags; /* fbn_layer_desc.flags */
    void *running_mean, *running_var;
    int64_t *count;               /* num_batches_tracked, or NULL */
    void *batch_mean, *batch_var; /* or NULL */
    fbni_cuda_affine affine;      /* written */
    int64_t first;                /* training: those before it are done already */
    const void *u;                /* training: looked at again where float's range did not do */
    int64_t ldu;
    double *norm;           /* 4 × O doubles r, c, e, d, written; or NULL */
    fbni_cuda_saved *saved; /* header, written; or NULL */
    uint64_t layer_id;
} fbni_cuda_features;

/* column_moments.cu -- of u [N,O]: for each chunk q and column, three reals in
 * partials[(q 3 + part) O + column]:
 *     part 0  shift = the median of the means of a few of the chunk's first, middle and last rows
 *     part 1  sum   = sum over the chunk's rows of u - shift
 *     part 2  m2    = sum over them of (u - shift - sum / rows)^2
 * Of four (the Hopper product's): part 3 is a power, and sum and m2 are of (u - shift) 2^-power. */
cudaError_t fbni_cuda_column_moments(const fbni_cuda_queue *queue, int is_double, int64_t O,
                                     const void *u, int64_t ldu, const fbni_cuda_chunks *chunks,
                                     void *partials);

/* features_forward.cu -- training: merges the partial moments, then algebra.h, the running
 * statistics and what is saved. Counts the batch, unless FBN_CUMULATIVE_AVERAGE: there
 * fbni_cuda_count_batch comes first, since every feature needs the new count. */
cudaError_t fbni_cuda_features_train(const fbni_cuda_queue *queue, int is_double,
                                     const fbni_cuda_features *features,
                                     const fbni_cuda_chunks *chunks, const void *partials);
cudaError_t fbni_cuda_count_batch(const fbni_cuda_queue *queue, int64_t *count);
/* Frozen statistics: running_mean and running_var are read. */
cudaError_t fbni_cuda_features_frozen(const fbni_cuda_queue *queue, int is_double,
                                      const fbni_cuda_features *features);
/* The power of two by which the du of an f16 layer is multiplied before it is rounded, so that the
 * largest fits and hardly anything is lost below. cuBLAS reads the factors of its products on the
 * device. */
typedef struct fbni_cuda_du_scale {
    unsigned bound;         /* no finite |du| is larger; float's bits, 0 before the features */
    float restore;          /* from input_gradient.cu on: the power's reciprocal; */
    float set_to, added_to; /* 0 and 1, of what is in the result's place */
} fbni_cuda_du_scale;

/* For the backward: alpha, c and shift once more, from a saved norm, and the centre about which K
 * is summed: c, but for frozen statistics, whose c may be far from the data, the mean of a few
 * rows. */
typedef struct fbni_cuda_restored {
    fbni_cuda_params params;
    int64_t N, O;
    const fbni_cuda_saved *saved;
    const double *norm;
    const void *u; /* leading dimension O */
    fbni_cuda_affine affine;
    void *centre;
    fbni_cuda_du_scale *scale; /* reset; or NULL */
} fbni_cuda_restored;
cudaError_t fbni_cuda_features_restore(const fbni_cuda_queue *queue, int is_double,
                                       const fbni_cuda_restored *restored);

/* ---- forward ---- */

/* u [N,O] reals, or packed in 16 bits; y [N,O] of dtype; y may be u itself with the same leading
 * dimension. */
typedef struct fbni_cuda_finish {
    fbn_dtype dtype;
    fbn_activation activation;
    int64_t N, O;
    const void *u;
    int64_t ldu;
    fbni_cuda_packed packed;
    fbni_cuda_affine affine;
    void *y;
    int64_t ldy;
    /* Written by softmax and log_softmax, two reals for row i: lse[2 i] = top, the largest v, and
     * lse[2 i + 1] = log(sum of exp(v - top)); or NULL. */
    void *lse;
} fbni_cuda_finish;

/* normalise.cu -- none, relu, gelu, silu. */
cudaError_t fbni_cuda_normalise(const fbni_cuda_queue *queue, const fbni_cuda_finish *finish);

/* softmax_rows.cu -- softmax, log_softmax. registers: a row of at most
 * fbni_cuda_softmax_registers_most columns, read once; online: any row, read twice. */
int64_t fbni_cuda_softmax_registers_most(int is_double);
cudaError_t fbni_cuda_softmax_registers(const fbni_cuda_queue *queue,
                                        const fbni_cuda_finish *finish);
cudaError_t fbni_cuda_softmax_online(const fbni_cuda_queue *queue, const fbni_cuda_finish *finish);

/* train_slab.cu -- moments, features and, but for the activations over rows, y, in one launch;
 * finish->affine is written. 2 <= N <= FBNI_CUDA_SLAB_ROWS. */
enum { FBNI_CUDA_SLAB_ROWS = 1024 };
size_t fbni_cuda_train_slab_memory(void); /* shared memory that its wide blocks need */
/* Once for each device that has it, before the first launch; sets queue->launches_ahead. */
cudaError_t fbni_cuda_train_slab_prepare(fbni_cuda_queue *queue);
cudaError_t fbni_cuda_train_slab(const fbni_cuda_queue *queue, const fbni_cuda_features *features,
                                 const fbni_cuda_finish *finish);

/* ---- backward ---- */

/* g = dL/dv, recomputed from dy and u wherever it is needed: both are read there anyway. dots: N
 * reals, for softmax sum dy p and for log_softmax sum dy over each row; else unused. */
typedef struct fbni_cuda_gradient {
    fbn_dtype dtype;
    fbn_activation activation;
    int64_t N, O;
    const void *u; /* reals, or packed */
    int64_t ldu;
    fbni_cuda_packed packed; /* or no partials; with frozen statistics u is reals all the same */
    fbni_cuda_affine affine;
    const void *dy; /* dtype */
    int64_t lddy;
    const void *lse;
    void *dots;
    const void *centre; /* O reals, aligned to 16 bytes */
    const fbni_cuda_saved *saved;
} fbni_cuda_gradient;

/* softmax_dots.cu -- fills dots. */
cudaError_t fbni_cuda_softmax_dots(const fbni_cuda_queue *queue,
                                   const fbni_cuda_gradient *gradient);

/* Where u is packed, these do something with frozen statistics alone, and their twins of
 * hopper_gradients.cu without. */

/* gradient_sums.cu -- reals for each chunk q and column in partials[(q PARTS + part) O + column]:
 * part 0: sum of g, part 1: sum of g (u - centre); f16, part 2: the largest finite |g|. */
static inline int fbni_cuda_gradient_sum_parts(fbn_dtype dtype)
{
    return dtype == FBN_F16 ? 3 : 2;
}
cudaError_t fbni_cuda_gradient_sums(const fbni_cuda_queue *queue,
                                    const fbni_cuda_gradient *gradient,
                                    const fbni_cuda_chunks *chunks, void *partials);

/* du = alpha (g + (du_u (u - c) + du_1)), O reals each, aligned to 16 bytes. */
typedef struct fbni_cuda_slopes {
    void *du_u, *du_1;
} fbni_cuda_slopes;

/* features_backward.cu -- merges G and K, then algebra.h: the parameters' gradients (NULL: not
 * wanted) and the slopes. A saved buffer that is not of this layer and batch makes them NaN: only
 * the device can look into it. sums: 2 × O doubles for the gradients of scalar scales. */
typedef struct fbni_cuda_feature_gradients {
    fbni_cuda_params params;
    int64_t O, batch;
    double eps;
    const fbni_cuda_saved *saved;
    uint64_t layer_id;
    const double *norm;
    const void *centre;
    int accumulate;
    void *bias, *pre_scale, *post_scale, *gamma, *beta;
    fbni_cuda_slopes slopes; /* written */
    double *sums;
    fbni_cuda_du_scale *scale; /* f16: bound is raised; else NULL */
    int packed_chunks;         /* of the partials where u is packed, 0: it never is */
} fbni_cuda_feature_gradients;
cudaError_t fbni_cuda_features_backward(const fbni_cuda_queue *queue, int is_double,
                                        const fbni_cuda_feature_gradients *gradients,
                                        const fbni_cuda_chunks *chunks, const void *partials);

/* input_gradient.cu -- du [N,O], packed: reals, or rounded to the data's half type, f16 times a power
 * of two. */
typedef struct fbni_cuda_input_gradient {
    int rounds;
    fbni_cuda_slopes slopes;
    void *du;
    fbni_cuda_du_scale *scale; /* f16 that is rounded: restore is written; else NULL */
    /* float: du without alpha's power of two (fbni::power_of), and the largest finite magnitude of
     * each of its columns as float's bits, which begin as zeros; or NULL */
    unsigned *maxima;
} fbni_cuda_input_gradient;
cudaError_t fbni_cuda_input_gradient_of(const fbni_cuda_queue *queue,
                                        const fbni_cuda_gradient *gradient,
                                        const fbni_cuda_input_gradient *input);

/* The gradients of scalar scales, from `sums`; features_backward does it too. */
cudaError_t fbni_cuda_add_features(const fbni_cuda_queue *queue, int is_double,
                                   const fbni_cuda_feature_gradients *gradients);

/* backward_slab.cu -- all that comes before the products, in one launch: restored (centre is not
 * written), sums, features and (wants_du) du. For u that is not packed, input without scale and maxima,
 * and N <= FBNI_CUDA_BACKWARD_MOST; dots and, of f16, scale->bound = 0 come before. */
enum {
    FBNI_CUDA_BACKWARD_ROWS = 4, /* of a thread */
    FBNI_CUDA_BACKWARD_MOST = FBNI_CUDA_BLOCK * FBNI_CUDA_BACKWARD_ROWS
};
/* Threads side by side: as many as leave the batch in the block's registers, and blocks enough. */
static inline int fbni_cuda_backward_lanes(int processors, int64_t N, int64_t O, size_t real_size)
{
    int lanes = fbni_cuda_lanes(O, real_size);
    while (lanes > 1 && (FBNI_CUDA_BACKWARD_MOST / lanes < N ||
                         fbni_cuda_slabs(O, lanes, real_size) < processors))
        lanes /= 2;
    return lanes;
}
typedef struct fbni_cuda_slab {
    fbni_cuda_gradient gradient;
    fbni_cuda_feature_gradients features;
    fbni_cuda_input_gradient input;
    int wants_du;
} fbni_cuda_slab;
cudaError_t fbni_cuda_backward_slab(const fbni_cuda_queue *queue, const fbni_cuda_slab *slab);

/* ---- conversions and folding ---- */

/* convert.cu -- rows × columns between a half type and float; accumulate: adds to what is there, in
 * float, and rounds once. from_float: FBN_F32 too. */
cudaError_t fbni_cuda_to_float(const fbni_cuda_queue *queue, fbn_dtype dtype, int64_t rows,
                               int64_t columns, const void *from, int64_t ldfrom, float *to,
                               int64_t ldto);
cudaError_t fbni_cuda_from_float(const fbni_cuda_queue *queue, fbn_dtype dtype, int64_t rows,
                                 int64_t columns, const float *from, int64_t ldfrom, void *to,
                                 int64_t ldto, int accumulate);

/* fold.cu -- weight = alpha W [O,I] and bias = t (beta + gamma r (s b - running_mean)), in double,
 * rounded once. alpha: O doubles of workspace. */
typedef struct fbni_cuda_fold {
    fbn_dtype dtype;
    fbni_cuda_params params;
    int64_t O, I;
    double eps;
    const void *running_mean, *running_var;
    const void *from;
    int64_t ldfrom;
    double *alpha;
    void *weight;
    int64_t ldw;
    void *bias;
} fbni_cuda_fold;
cudaError_t fbni_cuda_fold_layer(const fbni_cuda_queue *queue, const fbni_cuda_fold *fold);

#ifdef __cplusplus
}
#endif

#endif
