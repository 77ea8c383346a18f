/* SPDX-License-Identifier: BSD-3-Clause
 * The benchmark: what it measures, and what its parts share.
 *
 * For a case (shape, operation, chain) and a dtype, several contestants compute the same from the
 * same data: the library's layer, the bare product through CBLAS, the unfused computation, a pass
 * over the memory. First the layer's results are compared with a naive computation in double; then
 * the contestants are timed in turns.
 */
#ifndef BENCH_H
#define BENCH_H

#include <fusedbn.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Compiles a function for several instruction sets; the dynamic linker picks. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* ------------------------------------------------------------------------------- bench_cases.c */

enum operation {
    OP_TRAIN,         /* fbn_forward_train */
    OP_INFER,         /* fbn_forward_infer */
    OP_PREPARED,      /* fbn_prepared_run */
    OP_TRAIN_BACKWARD /* fbn_forward_train, then fbn_backward with all gradients */
};

enum chain {
    CHAIN_SCALE_BN,        /* Linear, scale per feature, BatchNorm */
    CHAIN_BN_SCALE_SOFTMAX /* Linear, BatchNorm, scalar scale, softmax */
};

struct bench_case {
    const char *name;
    int64_t batch, in, out;
    enum operation operation;
    enum chain chain;
    bool cold;            /* the caches are emptied before every run */
    bool usual;           /* runs without being asked for by name */
    double product_bound; /* f32: most times the product's time; 0: none */
    double time_bound;    /* f32: most microseconds; 0: none */
};

extern const struct bench_case bench_cases[];
extern const int bench_case_count;

/* bf16, f16: most times the f32 layer's time, in every case that has a bound for f32. */
#define HALF_BOUND 1.25

const char *operation_name(enum operation operation);
const char *chain_name(enum chain chain);
const char *dtype_name(fbn_dtype dtype);

/* Whether the batch's statistics are used. */
bool case_trains(const struct bench_case *c);
/* names: parts of names, separated by commas, or "all"; NULL: the usual cases. */
bool case_is_chosen(const struct bench_case *c, const char *names);

/* Operations of the products alone, and bytes of the matrices that have to be moved once. */
double case_flops(const struct bench_case *c);
double case_bytes(const struct bench_case *c, fbn_dtype dtype);

/* -------------------------------------------------------------------------------- bench_data.c */

enum tensor_id {
    T_X,
    T_W,
    T_BIAS,
    T_SCALE,
    T_GAMMA,
    T_BETA,
    T_DY,
    T_MEAN, /* running_mean: read in inference, moved in training */
    T_VAR,
    T_Y, /* from here on: results */
    T_DX,
    T_DW,
    T_DBIAS,
    T_DSCALE,
    T_DGAMMA,
    T_DBETA,
    TENSORS
};

/* The data of one contestant. Matrices have one element type, everything else another. */
struct tensors {
    fbn_dtype matrix_type, param_type;
    int64_t count[TENSORS]; /* elements; 0: the case has no use for it */
    void *data[TENSORS];
};

/* The dtype of a layer's parameters and statistics: FBN_F32, or FBN_F64 for FBN_F64. */
fbn_dtype param_type_of(fbn_dtype dtype);
size_t dtype_size(fbn_dtype dtype);
fbn_dtype tensor_type(const struct tensors *t, enum tensor_id id);
size_t tensor_bytes(const struct tensors *t, enum tensor_id id);
const char *tensor_name(enum tensor_id id);
double tensor_get(const struct tensors *t, enum tensor_id id, int64_t i);

/* Sets types and counts for a case, and no data. */
void tensors_describe(struct tensors *t, const struct bench_case *c, fbn_dtype matrix_type,
                      fbn_dtype param_type);
/* The same, with memory for all of it; 0, or -1 without memory. tensors_destroy() frees. */
int tensors_create(struct tensors *t, const struct bench_case *c, fbn_dtype matrix_type,
                   fbn_dtype param_type);
void tensors_destroy(struct tensors *t);

/* Fills all but the results with reproducible numbers, representable in f16 and bf16 where the
 * matrices are so. */
void tensors_fill(struct tensors *t);

/* Copies all but the results, converting. */
void tensors_copy_inputs(struct tensors *to, const struct tensors *from);

/* Convert count elements between float and bf16 or f16, in parallel. */
void convert_to_float(fbn_dtype from, int64_t count, const void *source, float *target);
void convert_from_float(fbn_dtype to, int64_t count, const float *source, void *target);

/* -------------------------------------------------------------------------------- contestants */

/* Something that can be timed. */
struct runner {
    const char *name;
    int (*run)(void *state); /* 0, or -1 with the reason on stderr */
    void *state;
};

/* bench_layer.c: the library. */
struct layer_runner {
    const struct bench_case *bench_case;
    fbn_context *context; /* the caller's */
    fbn_layer *layer;
    fbn_prepared *prepared;
    struct tensors device; /* data of fbn_alloc */
    void *saved, *workspace;
    fbn_params params;
    fbn_forward_args forward;
    fbn_backward_args backward;
    fbn_grads grads;
    fbn_run_args run;
};

/* The layer alone, its structs empty: 0, or -1, as layer_runner_create(). */
int layer_runner_open(struct layer_runner *r, fbn_context *context, const struct bench_case *c,
                      fbn_dtype dtype, fbn_math math, const char *kernel, const char **refusal);
/* Points the structs at the data of TENSORS tensors. */
void layer_runner_point(struct layer_runner *r, void *const *data);
/* A run without the wait for its end. */
int layer_runner_queue(struct layer_runner *r);
/* Uploads inputs, which have the layer's types. kernel: NULL, or the row to force. *refusal, when
 * the description is not supported, receives the reason (fbn_last_error()), else NULL. 0, or -1;
 * layer_runner_destroy() frees after both. */
int layer_runner_create(struct layer_runner *r, fbn_context *context, const struct bench_case *c,
                        const struct tensors *inputs, const char *kernel, const char **refusal);
void layer_runner_destroy(struct layer_runner *r);
/* Downloads the results and the running statistics. */
int layer_runner_results(struct layer_runner *r, struct tensors *results);
int layer_runner_run(void *layer_runner);

/* bench_unfused.c: one step after the other, with CBLAS and OpenMP. */
struct unfused_runner {
    const struct bench_case *bench_case;
    struct tensors real;     /* float or double */
    struct tensors half;     /* for the half types: what is converted from and to; else empty */
    void *u, *z;             /* [N,O] real: x W^T + b and what enters the normalisation */
    void *gradient;          /* [N,O] real; backward alone */
    void *columns, *partial; /* per-column values; per-thread sums of columns */
};

int unfused_runner_create(struct unfused_runner *r, const struct bench_case *c,
                          const struct tensors *inputs);
void unfused_runner_destroy(struct unfused_runner *r);
/* The runner's results in the layer's types. */
const struct tensors *unfused_runner_results(struct unfused_runner *r);
int unfused_runner_run(void *unfused_runner);

/* bench_product.c: the products alone, on the unfused runner's data, into memory of their own. */
struct product_runner {
    const struct bench_case *bench_case;
    const struct tensors *real; /* the unfused runner's */
    struct tensors results;
};

int product_runner_create(struct product_runner *r, const struct bench_case *c,
                          const struct tensors *real);
void product_runner_destroy(struct product_runner *r);
int product_runner_run(void *product_runner);

/* The product u = x W^T in the real type, as every contestant but the library computes it. */
void product_forward(const struct bench_case *c, const struct tensors *real, void *u);
/* dx = du W and dW = du^T x. */
void product_backward(const struct bench_case *c, const struct tensors *real, const void *du,
                      void *dx, void *dw);

/* bench_memory.c: reads all that the case reads and writes all that it writes. */
struct memory_runner {
    struct tensors tensors; /* in the layer's types */
    uint64_t sum;           /* of what was read */
};

int memory_runner_create(struct memory_runner *r, const struct bench_case *c, fbn_dtype dtype);
void memory_runner_destroy(struct memory_runner *r);
int memory_runner_run(void *memory_runner);

/* Empties the caches of all threads; 0, or -1 without memory. */
int evict_caches(void);
void evict_caches_free(void);

/* ------------------------------------------------------------------------------ bench_verify.c */

struct verdict {
    bool good;
    enum tensor_id worst; /* where the error comes closest to what is allowed */
    double error, allowed;
};

/* Compares the layer's and the unfused results with the naive computation in double. 0, or -1
 * without memory. */
int verify(struct verdict *v, const struct bench_case *c, const struct tensors *inputs,
           const struct tensors *layer, const struct tensors *unfused);

/* -------------------------------------------------------------------------------- bench_time.c */

struct timing {
    const char *name;
    double minimum, quartile1, median, quartile3; /* seconds a run */
    int64_t rounds, inner;                        /* samples, and runs in each */
};

double seconds_now(void);

/* Times the runners in turns: in every round each runs once untimed (or the caches are emptied),
 * then `inner` times timed. rounds: 0 for as many as take about two seconds. 0, or -1. */
int time_runners(const struct runner *runners, int count, bool cold, int64_t rounds,
                 struct timing *timings);

/* The largest rate of a product, in operations a second. */
int measure_peak(fbn_dtype real, double *flops_per_second);

/* ----------------------------------------------------------------------------- bench_contest.c */

enum { LAYER, PRODUCT, UNFUSED, MEMORY, LAYER_F32, CONTESTANTS };

/* How the measured ratio (or time) stands to its bound. The bounds' noise is 0.05 of a ratio. */
enum standing { NO_BOUND, MET, WITHIN_NOISE, MISSED };

struct result {
    const struct bench_case *bench_case;
    fbn_dtype dtype;
    char description[256]; /* fbn_layer_describe() */
    struct verdict verdict;
    struct timing timings[CONTESTANTS]; /* name NULL: did not run */
    double floor;                       /* seconds; 0: not known */
    double measured, bound;             /* a ratio, or microseconds where bound_to is "us" */
    const char *bound_to;               /* "product", "f32 layer", "us"; NULL: there is no bound */
    enum standing standing;
};

/* Verifies and, where that is good, times one case. peak: operations a second, 0: not known.
 * kernel: NULL, or the row to force. 0; 1 when the backend cannot do it (said on stderr); -1. */
int run_contest(struct result *result, fbn_context *context, const struct bench_case *c,
                fbn_dtype dtype, const char *kernel, int64_t rounds, double peak);

/* ------------------------------------------------------------------------------ bench_report.c */

enum format { FORMAT_TABLE, FORMAT_CSV, FORMAT_JSON };

struct machine {
    char processor[128];
    char blas[128];
    int threads;
    const char *context; /* fbn_context_describe() */
    const char *commit;  /* of the sources; NULL: not known */
    double peak[2];      /* FBN_F32, FBN_F64: operations a second; 0: not known */
};

struct report {
    FILE *file;
    enum format format;
    int64_t results;
};

void machine_describe(struct machine *machine, const fbn_context *context, const char *commit);
const char *standing_name(enum standing standing);

void report_begin(struct report *r, const struct machine *machine);
void report_result(struct report *r, const struct result *result);
void report_end(struct report *r);

#endif
