/* SPDX-License-Identifier: BSD-3-Clause
 *
 * More than 2^31 elements on CUDA: N O = 2.4e9; and more than 2^31 rows. Under FUSEDBN_TEST_LONG
 * alone: it takes 40 GB of the device's memory.
 *
 * The batch is a small one, repeated: then its mean and variance, and every row of y and dx, are the
 * small batch's, and the gradients summed over rows are COPIES times the small batch's. So the
 * ordinary reference serves, and all rows can be foretold; the first, the last and those about
 * element 2^31 are looked at. What is allowed is what a naive computation of the whole batch may
 * lose, which is measured on a few of the columns, each of which has a batch of its own.
 */
#include "cuda_driver.h"
#include "formats.h"
#include "trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 60, COPIES = 10000, FEW = 4 };
static const int64_t rows = (int64_t)SMALL * COPIES;

static test_case large_case(int i)
{
    static const struct {
        fbn_dtype dtype;
        fbn_activation activation;
        bool training;
        const char *kernel;
    } kinds[] = {
        {FBN_F32, FBN_ACT_SILU, true, NULL},
        {FBN_F32, FBN_ACT_LOG_SOFTMAX, true, "softmax_online"},
        {FBN_BF16, FBN_ACT_SOFTMAX, true, "softmax_registers"},
        {FBN_F16, FBN_ACT_NONE, true, NULL},
        {FBN_F32, FBN_ACT_RELU, false, NULL},
    };
    test_case c = case_default(kinds[i].training);
    c.dtype = kinds[i].dtype;
    c.activation = kinds[i].activation;
    c.kernel = kinds[i].kernel;
    c.n = SMALL, c.i = 8, c.o = 4000;
    c.gamma = c.beta = c.saved = true;
    c.pre_scale = FBN_SCALE_FEATURE;
    c.batch_stats = c.training;
    c.grads = GRADS_ALL;
    return c;
}
enum { KINDS = 5 };

/* ---- what a naive computation of the whole batch loses ---------------------------------------- */

/* Raises the reference's factors to those of the naive computation over all rows, measured on FEW
 * columns. Only what is summed over rows loses more there: the moments, and through them y, and the
 * gradients. */
static void raise_factors(reference *r)
{
    fbn_dtype real = format_param(r->c.dtype);
    double unit = (double)format_ulp(real, 1) / 2, least = (double)format_ulp(real, 0);
    double *x = malloc((size_t)(rows * r->p.i) * sizeof *x);
    double *dy = malloc((size_t)(rows * FEW) * sizeof *dy), *condition[OUTPUTS];
    problem p = r->p;
    ck_assert(x && dy);
    for (int64_t n = 0; n < rows; n++) {
        memcpy(x + n * p.i, r->p.x + n % SMALL * p.i, (size_t)p.i * sizeof *x);
        memcpy(dy + n * FEW, r->p.dy + n % SMALL * p.o, FEW * sizeof *dy);
    }
    p.n = rows, p.o = FEW, p.x = x, p.dy = dy;
    trace *exact = trace_create(&p), *naive = trace_create(&p);
    for (int k = 0; k < OUTPUTS; k++)
        condition[k] = calloc((size_t)exact->size[k] + 1, sizeof(double));
    oracle_forward(REAL_DOUBLE, &p, exact);
    oracle_forward(REAL_FLOAT, &p, naive);
    oracle_backward(REAL_DOUBLE, &p, exact);
    oracle_backward(REAL_FLOAT, &p, naive);
    condition_compute(&p, exact, unit, least, true, condition);
    for (int k = 0; k < OUTPUTS; k++) {
        for (int64_t e = 0; e < exact->size[k]; e++) {
            double error = (double)fabsl(naive->out[k][e] - exact->out[k][e]);
            if (error > r->factor[k] * condition[k][e] && isfinite(condition[k][e]))
                r->factor[k] = error / condition[k][e];
        }
        free(condition[k]);
    }
    trace_destroy(exact);
    trace_destroy(naive);
    free(x);
    free(dy);
}

/* ---- the batch on the device ------------------------------------------------------------------ */

typedef struct large {
    trial t; /* the small batch: its parameters and small outputs are used as they are */
    fbn_layer *layer;
    void *x, *y, *dy, *dx, *saved;
    size_t saved_size;
} large;

/* COPIES times the small array, by doubling. */
static void *repeat(large *l, const array *small)
{
    size_t block = (size_t)(small->rows * small->cols) * small->element, total = block * COPIES;
    void *memory;
    HARNESS_OK(fbn_alloc(l->t.context, total, &memory));
    HARNESS_OK(fbn_context_synchronize(l->t.context));
    CUDA_OK(cuda.copy((uintptr_t)memory, (uintptr_t)small->data, block, NULL));
    for (size_t done = block; done < total; done *= 2)
        CUDA_OK(cuda.copy((uintptr_t)memory + done, (uintptr_t)memory,
                          done < total - done ? done : total - done, NULL));
    CUDA_OK(cuda.stream_synchronize(NULL));
    return memory;
}

static void *poisoned(large *l, const array *small)
{
    array_poison((array *)(uintptr_t)small);
    return repeat(l, small);
}

static void create(large *l, const test_case *c)
{
    fbn_layer_desc desc = case_desc(c);
    *l = (large){0};
    trial_create(&l->t, c, harness_seed(), NULL, true);
    desc.max_batch = rows;
    HARNESS_OK(fbn_layer_create(&l->layer, l->t.context, &desc));
    HARNESS_OK(fbn_layer_saved_size(l->layer, rows, &l->saved_size));
    HARNESS_OK(fbn_alloc(l->t.context, l->saved_size, &l->saved));
    l->x = repeat(l, &l->t.a[ARG_X]);
    l->y = poisoned(l, &l->t.a[ARG_Y]);
    l->dy = repeat(l, &l->t.a[ARG_DY]);
    l->dx = poisoned(l, &l->t.a[ARG_DX]);
    l->t.forward.batch = l->t.backward.batch = rows;
    l->t.forward.x = l->t.backward.x = l->x;
    l->t.forward.y = l->y;
    l->t.forward.saved = l->saved, l->t.backward.saved = l->saved;
    l->t.forward.saved_size = l->t.backward.saved_size = l->saved_size;
    l->t.backward.dy = l->dy;
    l->t.grads.dx = l->dx;
}

static void destroy(large *l)
{
    void *const memory[] = {l->x, l->y, l->dy, l->dx, l->saved};
    for (size_t k = 0; k < sizeof memory / sizeof *memory; k++)
        HARNESS_OK(fbn_free(l->t.context, memory[k]));
    fbn_layer_destroy(l->layer);
    trial_destroy(&l->t);
}

/* SMALL rows from copy `copy` of a matrix into the small array, where they are compared. */
static void check_copy(large *l, const void *matrix, int64_t copy, argument which, output k)
{
    char message[500];
    array *a = &l->t.a[which];
    size_t block = (size_t)(a->rows * a->cols) * a->element;
    double *got = malloc((size_t)(a->rows * a->cols) * sizeof *got);
    ck_assert_ptr_nonnull(got);
    CUDA_OK(cuda.copy((uintptr_t)a->data, (uintptr_t)matrix + (size_t)copy * block, block, NULL));
    CUDA_OK(cuda.stream_synchronize(NULL));
    array_get(a, got);
    if (!reference_matches(l->t.expected, k, fbn_layer_describe(l->t.layer), a->type, got, NULL,
                           message, sizeof message))
        harness_fail("copy %lld of the batch: %s", (long long)copy, message);
    free(got);
}

/* The first copy, the last, and those that element 2^31 and its neighbours lie in. */
static void check_copies(large *l, const void *matrix, argument which, output k)
{
    const array *a = &l->t.a[which];
    int64_t border = (INT64_C(1) << 31) / (a->rows * a->cols);
    check_copy(l, matrix, 0, which, k);
    check_copy(l, matrix, COPIES - 1, which, k);
    for (int64_t copy = border - 1; copy <= border + 1 && copy < COPIES; copy++)
        check_copy(l, matrix, copy, which, k);
}

/* Statistics as they are (divisor 1), and sums over the rows: COPIES times the small batch's. */
static void check_vector(large *l, argument which, output k, double divisor)
{
    char message[500];
    array *a = &l->t.a[which];
    if (!a->memory)
        return;
    double *got = malloc((size_t)(a->rows * a->cols) * sizeof *got);
    ck_assert_ptr_nonnull(got);
    array_get(a, got);
    for (int64_t e = 0; e < a->rows * a->cols; e++)
        got[e] /= divisor;
    if (!reference_matches(l->t.expected, k, fbn_layer_describe(l->t.layer), a->type, got, NULL,
                           message, sizeof message))
        harness_fail("divided by %g: %s", divisor, message);
    free(got);
}

static bool enough_memory(void)
{
    size_t available, total;
    CUDA_OK(cuda.memory_info(&available, &total));
    if (available >= (size_t)48 << 30)
        return true;
    printf("test_cuda_large: skipped: %zu MB of device memory are free, of 49152\n",
           available >> 20);
    return false;
}

START_TEST(test_large)
{
    large l;
    char name[CASE_NAME_SIZE];
    test_case c = large_case(_i);
    harness_enter(case_name(&c, name, sizeof name));
    cuda_use(0);
    if (!enough_memory())
        return;
    create(&l, &c);
    raise_factors(l.t.expected);
    HARNESS_OK(c.training ? fbn_forward_train(l.layer, &l.t.params, &l.t.forward)
                          : fbn_forward_infer(l.layer, &l.t.params, &l.t.forward));
    HARNESS_OK(fbn_backward(l.layer, &l.t.params, &l.t.backward, &l.t.grads));
    HARNESS_OK(fbn_context_synchronize(l.t.context));
    check_copies(&l, l.y, ARG_Y, OUT_Y);
    check_copies(&l, l.dx, ARG_DX, OUT_DX);
    check_vector(&l, ARG_BATCH_MEAN, OUT_BATCH_MEAN, 1);
    check_vector(&l, ARG_BATCH_VAR, OUT_BATCH_VAR, 1);
    check_vector(&l, ARG_DGAMMA, OUT_DGAMMA, COPIES);
    check_vector(&l, ARG_DBETA, OUT_DBETA, COPIES);
    check_vector(&l, ARG_DPRE, OUT_DPRE, COPIES);
    if (c.dtype == FBN_F32) /* a half type has rounded, or overflowed */
        check_vector(&l, ARG_DW, OUT_DW, COPIES);
    printf("test_cuda_large: %s: N O = %lld\n", name, (long long)(rows * c.o));
    destroy(&l);
}
END_TEST

/* ---- rows ------------------------------------------------------------------------------------- */

/* Zeros on the device, by doubling. */
static void *zeros(fbn_context *context, size_t bytes)
{
    static const char block[1 << 20];
    void *memory;
    HARNESS_OK(fbn_alloc(context, bytes, &memory));
    HARNESS_OK(fbn_upload(context, memory, block, sizeof block));
    for (size_t done = sizeof block; done < bytes; done *= 2)
        CUDA_OK(cuda.copy((uintptr_t)memory + done, (uintptr_t)memory,
                          done < bytes - done ? done : bytes - done, NULL));
    CUDA_OK(cuda.stream_synchronize(NULL));
    return memory;
}

/* y of rows [first, first + ROWS): relu(beta), but for the batch's last rows relu(x w + beta). */
static void check_rows(fbn_context *context, const uint16_t *y, int64_t n, int64_t first)
{
    enum { ROWS = 1000, LAST = 7 };
    uint16_t got[ROWS];
    HARNESS_OK(fbn_download(context, got, y + first, sizeof got));
    for (int64_t k = first; k < first + ROWS; k++) {
        double expected = k < n - LAST ? 0.5 : (double)(k - (n - LAST)) * 2 + 0.5;
        if (format_load(FBN_BF16, got, k - first) != expected)
            harness_fail("y[%lld] is %g, expected %g", (long long)k,
                         format_load(FBN_BF16, got, k - first), expected);
    }
}

/* More than 2^31 rows through a prepared layer, whose max_batch is 8: test_large.c has the same. */
START_TEST(test_rows_beyond_32_bits)
{
    enum { LAST = 7 };
    const int64_t n = INT64_C(0x80000000) + 1000;
    const double weight = 2, mean = 0, var = 1, beta = 0.5;
    test_case c = case_default(false);
    size_t size;
    uint16_t last[LAST];
    trial t;
    fbn_prepared *prepared;
    fbn_run_args run;
    harness_enter("rows beyond 32 bits");
    cuda_use(0);
    if (!enough_memory())
        return;
    c.dtype = FBN_BF16;
    c.n = 8, c.i = c.o = 1;
    c.beta = true;
    c.eps = 0;
    c.activation = FBN_ACT_RELU;
    trial_create_unchecked(&t, &c, harness_seed(), NULL);
    array_set(&t.a[ARG_W], &weight);
    array_set(&t.a[ARG_RUNNING_MEAN], &mean);
    array_set(&t.a[ARG_RUNNING_VAR], &var);
    array_set(&t.a[ARG_BETA], &beta);
    HARNESS_OK(fbn_prepare_infer(&prepared, t.layer, &t.params));
    HARNESS_OK(fbn_prepared_workspace_size(prepared, n, &size));
    uint16_t *x = zeros(t.context, (size_t)n * 2), *y = zeros(t.context, (size_t)n * 2);
    for (int k = 0; k < LAST; k++)
        format_store(FBN_BF16, last, k, k);
    HARNESS_OK(fbn_upload(t.context, x + n - LAST, last, sizeof last));
    fbn_run_args_init(&run, sizeof run);
    run.batch = n;
    run.x = x;
    run.y = y;
    HARNESS_OK(fbn_alloc(t.context, size, &run.workspace));
    run.workspace_size = size;
    HARNESS_OK(fbn_prepared_run(prepared, &run));
    for (int64_t first = 0; first < n; first += INT64_C(1) << 29) {
        check_rows(t.context, y, n, first);
        if (first > 0)
            check_rows(t.context, y, n, first - 1000);
    }
    printf("test_cuda_large: N = %lld, %s\n", (long long)n, fbn_layer_describe(t.layer));
    fbn_prepared_destroy(prepared);
    HARNESS_OK(fbn_free(t.context, run.workspace));
    HARNESS_OK(fbn_free(t.context, x));
    HARNESS_OK(fbn_free(t.context, y));
    trial_destroy(&t);
}
END_TEST

static void add(Suite *suite)
{
    if (harness_tier() != TIER_LONG)
        printf("test_cuda_large: skipped: FUSEDBN_TEST_LONG is not set\n");
    if (harness_tier() == TIER_LONG && harness_selects("large"))
        harness_add(suite, "large", test_large, KINDS);
    if (harness_tier() == TIER_LONG && harness_selects("rows beyond 32 bits"))
        harness_add(suite, "rows_beyond_32_bits", test_rows_beyond_32_bits, 1);
}

int main(void)
{
    return cuda_main("test_cuda_large", add);
}
