/* SPDX-License-Identifier: BSD-3-Clause
 * The benchmark on CUDA. bench_main.c knows run_cuda(); the rest is what its parts share.
 *
 * A case has several sets of matrices, together several times as large as the L2 cache, and run i
 * takes set i % sets: so inputs come from memory. Every contestant is timed in two ways, between
 * events: as calls on a stream, and as replays of a CUDA graph of as many calls.
 */
#ifndef BENCH_CUDA_H
#define BENCH_CUDA_H

#include "bench.h"

struct cuda_options {
    const char *cases, *dtypes, *kernel, *commit;
    int64_t rounds;                  /* 0: chosen */
    int64_t sweep_first, sweep_last; /* batches; 0: no sweep */
    bool accuracy;
};

/* Runs what the options ask for; an exit status. Without CUDA (bench_cuda_none.c) it says so. */
int run_cuda(const struct cuda_options *options, fbn_context *context);
void list_cuda_cases(void);

#ifdef BENCH_WITH_CUDA

#include "bench_cuda_kernels.h"

#include <cublas_v2.h>

/* ------------------------------------------------------------------------- bench_cuda_device.c */

/* What is multiplied how. */
enum precision { P_F32, P_TF32, P_BF16, P_F16, P_F64, PRECISIONS };
const char *precision_name(enum precision precision);
fbn_dtype precision_dtype(enum precision precision);

struct gpu {
    fbn_context *context; /* on the stream */
    cudaStream_t stream;
    cublasHandle_t blas; /* likewise, with a workspace of its own */
    void *blas_workspace;
    cudaEvent_t start, stop;
    double *comparison; /* gpu_compare's, on the device */
    char name[256];
    int processors, cache; /* multiprocessors; bytes of L2 */
    int driver, runtime, blas_version;
    double copy_rate; /* bytes read and written a second */
    double
        product_rate[PRECISIONS]; /* operations a second of a large square product; 0: not known */
};

int check_cuda(cudaError_t error, const char *what);
int check_blas(cublasStatus_t status, const char *what);
int gpu_open(struct gpu *g, fbn_context *context);
void gpu_close(struct gpu *g);
/* Measures copy_rate and the product_rate of these precisions. */
int gpu_measure_ceilings(struct gpu *g, const bool *precisions);

/* c[m,n] = op(a)[m,depth] op(b)[depth,n], row-major and packed: all of them of the precision's
 * dtype, c of c_type. */
struct gpu_product {
    int64_t m, n, depth;
    const void *a, *b;
    bool a_transposed, b_transposed;
    void *c;
    fbn_dtype c_type;
};
int gpu_multiply_matrices(struct gpu *g, enum precision precision, const struct gpu_product *p);

/* --------------------------------------------------------------------------- bench_cuda_data.c */

enum { MOST_SETS = 64 };

/* Vectors are the same in all sets. */
struct gpu_data {
    const struct bench_case *bench_case;
    enum precision precision;
    struct tensors shape; /* types and counts alone */
    int sets;
    void *set[MOST_SETS][TENSORS];
};

int gpu_data_create(struct gpu_data *d, struct gpu *g, const struct bench_case *c,
                    enum precision precision, int sets);
void gpu_data_destroy(struct gpu_data *d);
/* How many sets are several times the cache. */
int gpu_sets_for(const struct gpu *g, const struct bench_case *c, enum precision precision);
/* The running statistics as they were at first. */
int gpu_data_reset(struct gpu_data *d, struct gpu *g);
/* NaN in the results of the first set. */
int gpu_data_poison(struct gpu_data *d, struct gpu *g);
/* Converts the first set's inputs into that of another of the same case in double. */
int gpu_data_to_double(struct gpu_data *to, const struct gpu_data *from, struct gpu *g);
void *gpu_allocate(size_t bytes); /* NULL, with the reason on stderr */

/* ------------------------------------------------------------------------- contestants on CUDA */

/* Queues one run on a set; 0, or -1 with the reason on stderr. */
typedef int gpu_queue(void *state, int set);

struct gpu_layer { /* bench_cuda_layer.c */
    struct layer_runner runner;
    struct gpu_data *data;
    fbn_prepared *prepared[MOST_SETS];
    void *saved, *workspace;
};
int gpu_layer_create(struct gpu_layer *l, struct gpu *g, struct gpu_data *data, const char *kernel,
                     const char **refusal);
void gpu_layer_destroy(struct gpu_layer *l);
gpu_queue gpu_layer_queue;

struct gpu_unfused { /* bench_cuda_unfused.c: the products alone too, with u for the gradient */
    struct gpu *gpu;
    struct gpu_data *data;
    void *u, *z, *v, *g, *du; /* [N,O] */
    void *mean, *rstd, *sums, *more, *partials;
};
int gpu_unfused_create(struct gpu_unfused *u, struct gpu *g, struct gpu_data *data);
void gpu_unfused_destroy(struct gpu_unfused *u);
gpu_queue gpu_unfused_queue;
gpu_queue gpu_products_queue;

/* ------------------------------------------------------------------------- bench_cuda_verify.c */

struct gpu_error {
    double relative; /* || values - exact || / || exact || */
    double largest;  /* difference */
    double size;     /* of the largest exact value */
};
int gpu_error_of(struct gpu_error *e, struct gpu *g, fbn_dtype dtype, int64_t count,
                 const void *values, const double *exact);

struct gpu_verdict {
    bool good;
    enum tensor_id worst; /* where the error comes closest to what is allowed */
    double used;          /* that error as a part of what is allowed */
    double relative;      /* of y */
};

/* Compares the layer's and the unfused results with the unfused computation in double, itself
 * checked on the host in some columns unless `sampled` is false. */
int gpu_verify(struct gpu_verdict *v, struct gpu *g, struct gpu_layer *layer,
               struct gpu_unfused *unfused, bool sampled);
/* bench_cuda_sample.c: some columns of the computation in double, again by the host. 0; 1 when they
 * differ; -1. */
int gpu_check_exact(struct gpu *g, const struct gpu_unfused *exact);

/* --------------------------------------------------------------------------- bench_cuda_time.c */

struct gpu_contestant {
    const char *name;
    gpu_queue *queue;
    void *state;
};

struct gpu_timing {
    const char *name;            /* NULL: did not run */
    struct timing stream, graph; /* seconds a run; graph.rounds is 0 where it was not measured */
};

/* In turns. */
int gpu_time(struct gpu *g, const struct gpu_contestant *contestants, int count, int sets,
             int64_t rounds, struct gpu_timing *timings);

/* ---------------------------------------------------------------------- bench_cuda_accuracy.c */

int run_accuracy(struct gpu *g, const struct cuda_options *options, const bool *precisions);

#endif
#endif
