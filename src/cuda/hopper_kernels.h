/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The contract of the Hopper kernels (sm_90a), beside cuda_kernels.h, whose common rules hold here.
 */
#ifndef FBNI_CUDA_HOPPER_KERNELS_H
#define FBNI_CUDA_HOPPER_KERNELS_H

#include "cuda_kernels.h"

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How the operands of a product are made of 16-bit numbers. */
typedef enum fbni_hopper_kind {
    FBNI_HOPPER_F16,    /* they are f16 */
    FBNI_HOPPER_BF16,   /* they are bf16 */
    FBNI_HOPPER_DIRECT, /* as TF32, but w is float and becomes f16 on the way to the tensor cores */
    FBNI_HOPPER_TF32,   /* float: f16 hi; three products of two bf16 parts where f16 does not do */
    FBNI_HOPPER_FP32,   /* float: f16 hi + lo, three products; or six of three bf16 parts */
    FBNI_HOPPER_KINDS
} fbni_hopper_kind;

/* What a product stores of its result. */
typedef enum fbni_hopper_result {
    FBNI_HOPPER_U,
    FBNI_HOPPER_Y, /* with frozen statistics: as finish (its activation, affine and dtype) says */
    FBNI_HOPPER_PACKED /* u in 16 bits (hopper_moments.cuh), of the half types, with partials */
} fbni_hopper_result;

/* A tile is FBNI_HOPPER_FEATURES × columns; those of a cluster's blocks are a pair. */
enum {
    FBNI_HOPPER_FEATURES = 128,
    FBNI_HOPPER_CLUSTER = 2,
    FBNI_HOPPER_PAIR = FBNI_HOPPER_FEATURES * FBNI_HOPPER_CLUSTER,
    FBNI_HOPPER_DIRECT_CLUSTER = 4, /* of FBNI_HOPPER_DIRECT: a pair, by two tiles of rows */
    FBNI_HOPPER_HELD = 512,         /* the most of the depth that blocks hold of w */
    FBNI_HOPPER_HELD_ROWS = 128,    /* the tile's columns where they do */
    FBNI_HOPPER_PIECE = 16,
    FBNI_HOPPER_STAGE = 32 * 1024
};

/* Clusters that do not multiply: they make features and y of pairs that are complete
 * (hopper_follow.cuh). They wait for blocks before them in the grid, and nothing waits for them. */
typedef struct fbni_hopper_follow {
    int clusters;                /* of the grid, the last ones; 0: none */
    int pairs;                   /* that they do, the first ones */
    unsigned *done;              /* pairs: what of each is stored, counted; any contents before */
    fbni_cuda_features features; /* affine is written */
    /* What is stored, and y (of half types the same): dimensions (O, N), boxes (FBNI_HOPPER_PAIR,
     * FBNI_HOPPER_STAGE / (FBNI_HOPPER_PAIR × size)), not swizzled. */
    CUtensorMap from, to;
} fbni_hopper_follow;

/* out[n, o] = sum over k of x[n, k] w[o, k], n < N, o < O, k < I. */
typedef struct fbni_hopper_product {
    fbni_hopper_kind kind;
    int columns;  /* of the tile: fbni_hopper_tile_columns */
    int band;     /* pairs of feature tiles that are done together */
    int clusters; /* that multiply */
    int64_t N, O, I;
    /* Of FBNI_HOPPER_TF32 and FBNI_HOPPER_FP32, with nothing that follows: the depth in so many
     * slices of as many blocks of 64 (the last ones may be short); 0: one. The result has the products of each slice, one behind the other, N rows in all: those of x up
     * to a multiple of columns, for each. Without exponents, moments, or anything but u. */
    int slices;
    /* Operands: dimensions (depth, rows, parts); boxes (64, 128, 1) and (64, columns / 2, 1); w of
     * FBNI_HOPPER_DIRECT is float, boxes (32, 64, 1). */
    CUtensorMap w, x, w_rescue; /* w_rescue: as w, read where *rescue is not 0 */
    /* Row i of x is 2^-x_exponents[i] times what its parts add up to; NULL: as it is. */
    const int *w_exponents, *x_exponents;
    const int *rescue; /* device: not 0: the bf16 parts are there instead, without exponents */
    int rescues;       /* nothing is done where *rescue is 0 */
    /* Pairs of feature tiles: those before, and those that are multiplied; 0: all that follow. */
    int before, pairs;
    int beside; /* beside the product before it, whose operands and features it does not need */
    /* Of FBNI_HOPPER_DIRECT, I: FBNI_HOPPER_BEYOND and FBNI_HOPPER_BELOW are set. */
    unsigned *columns_of_w;
    /* The result, [N, O]: dimensions (O, N), boxes (128 bytes, fbni_hopper_piece), swizzled; or,
     * where no map can have it, out with its leading dimension, else NULL. */
    fbni_hopper_result stored;
    CUtensorMap result;
    void *out;
    int64_t ldout;
    fbni_cuda_finish finish; /* of FBNI_HOPPER_Y, and of what follows */
    /* Column moments by tiles of `columns` rows, four reals as column_moments.cu has them, tile t
     * of T as chunk T - 1 - t; or NULL. */
    float *partials;
    /* Clusters for each pair, which hold its part of w and take a tile each in turn
     * (hopper_held.cu): of the half types, where I <= FBNI_HOPPER_HELD and columns is
     * FBNI_HOPPER_HELD_ROWS; band is all pairs. 0: none. */
    int holders;
    /* With holders: moments likewise, but of each cluster's tiles together, `holders` chunks; then
     * partials has parts 0 and 3 alone, and of FBNI_HOPPER_PACKED alone. */
    float *merged;
    unsigned
        *held; /* pairs × holders: what of each is done, counted; any contents before; or NULL */
    fbni_hopper_follow follow;
} fbni_hopper_product;

/* Rows of the boxes of the result's map, whose entries have `size` bytes. */
static inline int fbni_hopper_piece(const fbni_hopper_product *product, size_t size)
{
    return product->holders > 0 ? FBNI_HOPPER_HELD_ROWS * 2 / (int)size : FBNI_HOPPER_PIECE;
}

/* Once for each device and kind, before the first launch: the shared memory that it needs. */
cudaError_t fbni_hopper_allow_product(fbni_hopper_kind kind);
cudaError_t fbni_hopper_multiply(const fbni_cuda_queue *queue, const fbni_hopper_product *product);
/* The tiles that a kind is compiled for: their columns for index = 0, 1, ...; 0 after the last. */
int fbni_hopper_tile_columns(fbni_hopper_kind kind, int index);
/* Clusters of FBNI_HOPPER_DIRECT that find a place at once. */
cudaError_t fbni_hopper_direct_clusters(int *clusters);
/* Whether others may follow behind a product of these tiles. */
int fbni_hopper_may_follow(fbni_hopper_kind kind, int columns);

/* hopper_slices.cu -- out[n, o] = 2^-(x_exponents[n] + w_exponents[o]) times the sum over slices s of
 * from[s rows_of_slice + n, o]; without the power of two where *rescue is not 0. */
typedef struct fbni_hopper_slices {
    int slices;
    int64_t rows_of_slice;
    int64_t N, O;
    const float *from;
    int64_t ldfrom; /* a multiple of 4 */
    const int *x_exponents, *w_exponents, *rescue;
    float *out;
    int64_t ldout;
} fbni_hopper_slices;
cudaError_t fbni_hopper_add_slices(const fbni_cuda_queue *queue, const fbni_hopper_slices *s);

/* hopper_normalise.cu -- y = act(alpha (u - c) + shift) of packed u, which may lie in y's place.
 * features: or NULL, where they are made already; else, of at most FBNI_HOPPER_FEW tiles, made on the
 * way. */
enum { FBNI_HOPPER_FEW = 8 };
cudaError_t fbni_hopper_normalise(const fbni_cuda_queue *queue, const fbni_cuda_finish *finish,
                                  const fbni_cuda_features *features);

/* hopper_held_finish.cu -- the same behind a product with holders, and the features before: both may
 * begin while the product still runs. */
enum {
    FBNI_HOPPER_HELD_DONE = 2 * FBNI_HOPPER_CLUSTER, /* what a cluster counts when it is done */
    FBNI_HOPPER_HELD_FEATURES = 32                   /* that a block makes */
};
typedef struct fbni_hopper_held_finish {
    fbni_cuda_finish finish;
    CUtensorMap from, to; /* as those of fbni_hopper_follow */
    int pairs, holders;
    const unsigned *done; /* fbni_hopper_product.held */
    unsigned *made;       /* likewise, of FBNI_HOPPER_HELD_FEATURES features each */
    fbni_cuda_features features;
    fbni_cuda_chunks chunks;
    const float *moments; /* fbni_hopper_product.merged */
} fbni_hopper_held_finish;
/* Once for each device, before the first launch. */
cudaError_t fbni_hopper_allow_held_finish(void);
cudaError_t fbni_hopper_finish_held(const fbni_cuda_queue *queue,
                                    const fbni_hopper_held_finish *finish);

/* ---- whether f16 will do (hopper_judge.cu) ---- */

/* Blocks of the judge at most, where there is a control, and the columns that one takes together. */
enum { FBNI_HOPPER_JUDGES = 128, FBNI_HOPPER_JUDGED = 64 };

typedef struct fbni_hopper_control {
    float sums[FBNI_HOPPER_JUDGES][2]; /* by the judge's blocks */
    int rescue;                        /* the verdict: f16 loses what the product needs */
} fbni_hopper_control;

/* In a column's largest entry, of FBNI_HOPPER_DIRECT: some are beyond f16; some are so small that f16
 * loses bits of them. Where that is said the largest is of a sample. */
enum { FBNI_HOPPER_BEYOND = 1 << 16, FBNI_HOPPER_BELOW = 1 << 17 };

/* The largest entries of an operand's columns as f16 has them: the largest of `count` rows, ld
 * apart, and of what is in `largest`, if some are (NULL: it is not there). */
typedef struct fbni_hopper_columns {
    unsigned *largest; /* ld */
    const uint16_t *rows;
    int count, some;
} fbni_hopper_columns;
typedef struct fbni_hopper_judgement {
    fbni_hopper_kind kind;
    int64_t ld; /* columns, up to a multiple of 8; those that are not there have zeros */
    fbni_hopper_columns of[2];    /* x, w */
    fbni_hopper_control *control; /* or NULL: largest alone */
} fbni_hopper_judgement;

/* What the verdict is made of; who needs it (a rescue) adds that up. */
cudaError_t fbni_hopper_judge(const fbni_cuda_queue *queue, const fbni_hopper_judgement *j);

/* ---- operands in parts (hopper_split.cu) ---- */

/* A float matrix and its parts: parts[p][row][k], 16-bit entries, rows `ld` entries apart. Of
 * FBNI_HOPPER_DIRECT the f16 part of x is in the order that the product has w's entries in
 * (hopper_direct.cu), by groups of 32. */
typedef struct fbni_hopper_operand {
    int64_t rows;
    const float *from; /* [rows, I] */
    int64_t ldfrom;
    uint16_t *parts;   /* of f16 */
    uint16_t *rescue;  /* of bf16; may be the same place; the last part holds notes before */
    int *exponents;    /* rows */
    unsigned *largest; /* ld: the largest entry of each column as f16 has it, bits */
} fbni_hopper_operand;

enum { FBNI_HOPPER_DEPTH_MOST = 65536 }; /* I */

typedef struct fbni_hopper_split {
    fbni_hopper_kind kind;          /* DIRECT, TF32 or FP32 */
    int64_t I, ld;                  /* ld: a multiple of 8; of DIRECT, of 32 */
    fbni_hopper_operand operand[2]; /* split before: from is NULL; not there: largest too */
    fbni_hopper_control *control;   /* NULL: no verdict, and the rescue comes always */
} fbni_hopper_split;

/* Once for each device, before the first launch. */
cudaError_t fbni_hopper_allow_split(void);
/* The f16 parts of both operands, and what the verdict is made of. */
cudaError_t fbni_hopper_split_operands(const fbni_cuda_queue *queue,
                                       const fbni_hopper_split *split);
/* The same in two steps. FBNI_HOPPER_DIRECT: of x, and of what of w is split, and zeros into w's
 * largest; the second comes after the product. */
cudaError_t fbni_hopper_split_rows(const fbni_cuda_queue *queue, const fbni_hopper_split *split);
cudaError_t fbni_hopper_judge_split(const fbni_cuda_queue *queue, const fbni_hopper_split *split);
/* hopper_sample.cu -- FBNI_HOPPER_DIRECT: exponents of w's rows, and the largest entries of its
 * columns, by a sample of each. */
cudaError_t fbni_hopper_sample(const fbni_cuda_queue *queue, const fbni_hopper_operand *w,
                               int64_t I);
/* The verdict; and where f16 will not do, the bf16 parts in its place. */
cudaError_t fbni_hopper_rescue_operands(const fbni_cuda_queue *queue,
                                        const fbni_hopper_split *split);
/* Whether operands are float, and come in parts. */
static inline int fbni_hopper_is_float(fbni_hopper_kind kind)
{
    return kind != FBNI_HOPPER_F16 && kind != FBNI_HOPPER_BF16;
}
/* Whether float operands are f16's hi alone. */
static inline int fbni_hopper_is_single(fbni_hopper_kind kind)
{
    return kind == FBNI_HOPPER_DIRECT || kind == FBNI_HOPPER_TF32;
}
/* Parts of an operand of this kind, as many as its rescue has. */
static inline int fbni_hopper_parts(fbni_hopper_kind kind)
{
    return kind == FBNI_HOPPER_FP32 ? 3 : fbni_hopper_is_single(kind) ? 2 : 1;
}

/* ---- transposed operands in parts (hopper_transpose.cu) ---- */

/* A matrix [rows, columns] and the parts of its transpose: parts[p][column][row], `ld` apart. */
typedef struct fbni_hopper_transpose {
    fbni_hopper_kind kind;             /* TF32 or FP32 */
    int64_t rows, columns, ldfrom, ld; /* ld: a multiple of 8 */
    const float *from;
    const float *row_scales;    /* or NULL; row r is multiplied by fbni::power_of of its entry */
    const float *column_scales; /* or NULL; column c was divided by fbni::power_of of its entry */
    unsigned *maxima;           /* columns: the largest finite magnitude, as float's bits */
    uint16_t *parts;            /* of f16 */
    uint16_t *rescue;  /* of bf16; may be the same place; the last part holds notes before */
    int *exponents;    /* columns */
    unsigned *largest; /* ld: the largest entry of each row as f16 has it, bits */
    fbni_hopper_control *control;
} fbni_hopper_transpose;

/* maxima, which begin as zeros. */
cudaError_t fbni_hopper_column_maxima(const fbni_cuda_queue *queue, const fbni_hopper_transpose *t);
/* The f16 parts, and largest. */
cudaError_t fbni_hopper_transpose_operand(const fbni_cuda_queue *queue,
                                          const fbni_hopper_transpose *t);
/* The verdict; and where f16 will not do, the bf16 parts in its place. */
cudaError_t fbni_hopper_transpose_rescue(const fbni_cuda_queue *queue,
                                         const fbni_hopper_transpose *t);

/* hopper_gradients.cu -- the passes of fbni_cuda_gradient_sums and fbni_cuda_input_gradient_of over
 * packed u, of the activations that are not over rows, without frozen statistics: else nothing is
 * done. Two (three) partial sums for each of fbni_hopper_gradient_chunks. */
cudaError_t fbni_hopper_gradient_sums(const fbni_cuda_queue *queue,
                                      const fbni_cuda_gradient *gradient, float *partials);
cudaError_t fbni_hopper_input_gradient(const fbni_cuda_queue *queue,
                                       const fbni_cuda_gradient *gradient,
                                       const fbni_cuda_input_gradient *input);
/* Rows of a tile that a block takes: such that there are blocks enough. */
static inline int fbni_hopper_gradient_share(int processors, int64_t O, int64_t tiles,
                                             int64_t tile_rows)
{
    const int64_t pairs = (O + FBNI_HOPPER_PAIR - 1) / FBNI_HOPPER_PAIR;
    int64_t share = tile_rows;

    while (share > 32 && pairs * tiles * (tile_rows / share) < 2 * (int64_t)processors)
        share /= 2;
    return (int)share;
}
static inline int fbni_hopper_gradient_chunks(const fbni_cuda_queue *queue,
                                              const fbni_cuda_gradient *g)
{
    const fbni_cuda_packed *p = &g->packed;
    return (int)(p->tiles * (p->tile_rows / fbni_hopper_gradient_share(queue->processors, g->O,
                                                                       p->tiles, p->tile_rows)));
}

/* hopper_small.cu -- from x and W to u, features and, but for the activations over rows, y: in one
 * launch. 1 <= N <= FBNI_SMALL_ROWS (2 with the batch's statistics), any I and O that a Hopper product
 * takes. features->affine is written; FBNI_SMALL_FOLDED: no features, finish->affine is there. u is
 * stored where it is wanted again: with saves_u, and for an activation over rows. */
enum {
    FBNI_SMALL_ROWS = 256,
    FBNI_SMALL_FEATURES = 40,
    FBNI_SMALL_LEAST = 2, /* blocks of a cluster, a power of two */
    FBNI_SMALL_MOST = 8,
};
typedef enum fbni_small_statistics {
    FBNI_SMALL_BATCH,
    FBNI_SMALL_FROZEN, /* the running ones */
    FBNI_SMALL_FOLDED
} fbni_small_statistics;
typedef struct fbni_small_call {
    fbni_hopper_kind kind;
    fbni_small_statistics statistics;
    int64_t N, O, I;
    const void *x, *weight;
    int64_t ldx, ldw;
    int saves_u;
    /* Dimensions (I, rows, 1), boxes (128 bytes, fbni_small_rows(N) or FBNI_SMALL_FEATURES, 1),
     * swizzled; or has_maps is 0, where no map can have them: slow. */
    int has_maps;
    CUtensorMap x_map, w_map;
} fbni_small_call;
/* Rows of the kernel's tile for this batch. */
static inline int fbni_small_rows(int64_t N)
{
    return N <= 32 ? 32 : N <= 64 ? 64 : N <= 128 ? 128 : 256;
}
/* Bytes of each row that its blocks load at once. */
static inline int fbni_small_stage(int64_t N)
{
    return N <= 32 ? 512 : N <= 64 ? 256 : 128;
}
/* Blocks of a cluster. A block that shares its multiprocessor takes nearly twice as long, and some
 * multiprocessors lie in groups where a further cluster finds no place: of an H200's 132 a cluster
 * of 8 finds one 15 times. */
enum { FBNI_SMALL_SPARE = 12 };
static inline int fbni_small_cluster(int processors, int64_t O)
{
    const int64_t clusters = (O + FBNI_SMALL_FEATURES - 1) / FBNI_SMALL_FEATURES;
    int blocks = FBNI_SMALL_LEAST;

    while (blocks < FBNI_SMALL_MOST && 2 * blocks * clusters <= processors - FBNI_SMALL_SPARE)
        blocks *= 2;
    return blocks;
}
/* Once for each device and kind, before the first launch. */
cudaError_t fbni_hopper_allow_small(fbni_hopper_kind kind);
cudaError_t fbni_hopper_small(const fbni_cuda_queue *queue, const fbni_small_call *call,
                              const fbni_cuda_features *features, const fbni_cuda_finish *finish);

#ifdef __cplusplus
}
#endif

#endif
