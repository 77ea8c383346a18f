/* SPDX-License-Identifier: BSD-3-Clause
 * The unfused computation, as a careful programmer writes it without this library: the product
 * through CBLAS, then a pass over the matrix for each step, vectorised and shared among threads.
 * The half types are converted to float before and from float after.
 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#define EPS 1e-5 /* the library's default */

/* glibc has vectorised exponentials, but its math.h says so under -ffast-math alone. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(_OPENMP) && !defined(__clang__)
#pragma omp declare simd notinbranch
extern float expf(float);
#pragma omp declare simd notinbranch
extern double exp(double);
#endif

/* Below this many elements a pass is not worth waking other threads. */
enum { ELEMENTS_A_THREAD = 1 << 15, COLUMN_ARRAYS = 6, PARTIAL_ARRAYS = 2, ALIGNMENT = 64 };

/* Elements between the threads' sums: at least a cache line apart. */
static int64_t partial_stride(const struct bench_case *c)
{
    return PARTIAL_ARRAYS * c->out + ALIGNMENT;
}

/* The rows of the calling thread. */
struct share {
    int64_t rows;
    int64_t at;   /* the first one's first element */
    int64_t sums; /* where in `partial` the thread's sums begin */
};

static struct share share_of(const struct bench_case *c)
{
#ifdef _OPENMP
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
#else
    const int64_t threads = 1, thread = 0;
#endif
    const int64_t first = c->batch * thread / threads;
    return (struct share){.rows = c->batch * (thread + 1) / threads - first,
                          .at = first * c->out,
                          .sums = thread * partial_stride(c)};
}

static int most_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static int threads_for(const struct bench_case *c)
{
    const int64_t useful = (c->batch * c->out + ELEMENTS_A_THREAD - 1) / ELEMENTS_A_THREAD;
    return useful < most_threads() ? (int)useful : most_threads();
}

#define REAL float
#define NAME(name) name##_f32
#define EXP expf
#include "bench_unfused_real.h"
#undef REAL
#undef NAME
#undef EXP

#define REAL double
#define NAME(name) name##_f64
#define EXP exp
#include "bench_unfused_real.h"
#undef REAL
#undef NAME
#undef EXP

/* ------------------------------------------------------------------------------------- runner */

int unfused_runner_run(void *unfused_runner)
{
    struct unfused_runner *r = unfused_runner;
    const bool backward = r->bench_case->operation == OP_TRAIN_BACKWARD;
    const fbn_dtype half = r->half.matrix_type;
    const bool convert = r->half.data[T_X] != NULL;

    for (int id = 0; convert && id < T_MEAN; id++)
        if (tensor_type(&r->half, (enum tensor_id)id) == half)
            convert_to_float(half, r->half.count[id], r->half.data[id], r->real.data[id]);
    if (r->real.matrix_type == FBN_F64) {
        forward_f64(r);
        if (backward)
            backward_f64(r);
    } else {
        forward_f32(r);
        if (backward)
            backward_f32(r);
    }
    for (int id = T_Y; convert && id < TENSORS; id++)
        if (tensor_type(&r->half, (enum tensor_id)id) == half)
            convert_from_float(half, r->half.count[id], r->real.data[id], r->half.data[id]);
    return 0;
}

static int allocate(void **pointer, int64_t elements, size_t size)
{
    const size_t bytes = ((size_t)elements * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *pointer = aligned_alloc(ALIGNMENT, bytes);
    if (*pointer == NULL) {
        fprintf(stderr, "bench: no memory for %zu bytes\n", bytes);
        return -1;
    }
    memset(*pointer, 0, bytes);
    return 0;
}

int unfused_runner_create(struct unfused_runner *r, const struct bench_case *c,
                          const struct tensors *inputs)
{
    const fbn_dtype real = param_type_of(inputs->matrix_type);
    const size_t size = dtype_size(real);
    const int64_t elements = c->batch * c->out;

    memset(r, 0, sizeof *r);
    r->bench_case = c;
    if (tensors_create(&r->real, c, real, real) != 0 || allocate(&r->u, elements, size) != 0 ||
        allocate(&r->z, elements, size) != 0 ||
        allocate(&r->columns, COLUMN_ARRAYS * c->out, size) != 0 ||
        allocate(&r->partial, most_threads() * partial_stride(c), size) != 0 ||
        (c->operation == OP_TRAIN_BACKWARD && allocate(&r->gradient, elements, size) != 0) ||
        (inputs->matrix_type != real &&
         tensors_create(&r->half, c, inputs->matrix_type, real) != 0)) {
        unfused_runner_destroy(r);
        return -1;
    }
    tensors_copy_inputs(&r->real, inputs);
    if (inputs->matrix_type != real)
        tensors_copy_inputs(&r->half, inputs);
    return 0;
}

void unfused_runner_destroy(struct unfused_runner *r)
{
    tensors_destroy(&r->half);
    free(r->gradient);
    free(r->partial);
    free(r->columns);
    free(r->z);
    free(r->u);
    tensors_destroy(&r->real);
    memset(r, 0, sizeof *r);
}

const struct tensors *unfused_runner_results(struct unfused_runner *r)
{
    if (r->half.data[T_X] == NULL)
        return &r->real;
    /* the half types' parameters and statistics are floats and were not converted */
    for (int id = 0; id < TENSORS; id++)
        if (tensor_type(&r->half, (enum tensor_id)id) == FBN_F32 && r->half.count[id] > 0)
            memcpy(r->half.data[id], r->real.data[id], tensor_bytes(&r->half, (enum tensor_id)id));
    return &r->half;
}
