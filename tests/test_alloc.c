/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory: the nth allocation failing, for every n, leaks nothing and leaves out-pointers alone; all
 * of the library's memory comes from the context's allocator; after warm-up forward, backward, fold
 * and prepared inference allocate nothing, neither there nor from the C library.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* dladdr */
#endif

#include "harness.h"
#include "trial.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the C library's own allocations, counted ------------------------------------------------ */

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&       \
    !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer) &&                       \
    !__has_feature(memory_sanitizer)
#define COUNTS_MALLOC 1
static atomic_bool counting;
static atomic_int counted;
enum { MOST_CALLERS = 64 };
static void *callers[MOST_CALLERS]; /* where the first ones were asked for */

static void count(void *caller)
{
    if (!atomic_load_explicit(&counting, memory_order_relaxed))
        return;
    int k = atomic_fetch_add(&counted, 1);
    if (k < MOST_CALLERS)
        callers[k] = caller;
}

/* What CUDA's driver allocates for itself, now and then, is neither the library's nor cuBLAS's. */
static int counted_of_driver(void)
{
    int of_driver = 0;
    for (int k = 0; k < counted && k < MOST_CALLERS; k++) {
        Dl_info where;
        const char *file = dladdr(callers[k], &where) && where.dli_fname ? where.dli_fname : "?";
        bool is_driver = strstr(file, "libcuda.so") != NULL;
        of_driver += is_driver;
        printf("test_alloc: %s allocated%s\n", file, is_driver ? ", which is not counted" : "");
    }
    return of_driver;
}

/* glibc's own names of its allocator: these definitions stand before it for the whole process, the
 * worker threads of OpenMP and BLAS included. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    count(__builtin_return_address(0));
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(number, size);
}

void *realloc(void *pointer, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_realloc(pointer, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_memalign(alignment, size);
}

void *memalign(size_t alignment, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
    count(__builtin_return_address(0));
    void *memory = __libc_memalign(alignment, size);
    if (memory)
        *pointer = memory;
    return memory ? 0 : 12; /* ENOMEM */
}
#else
#define COUNTS_MALLOC 0
static int counting, counted;
static int counted_of_driver(void)
{
    return 0;
}
#endif

/* ---- the context's allocator ----------------------------------------------------------------- */

typedef struct ledger {
    atomic_long live;     /* allocations not yet given back */
    atomic_long calls;    /* allocations asked for */
    atomic_long fails_at; /* the call that fails, from 1; 0: none */
    atomic_bool bad;      /* asked for 0 bytes or no power of two, or given NULL back */
} ledger;

static void *ledger_allocate(void *user, size_t size, size_t alignment)
{
    ledger *l = user;
    void *pointer = NULL;
    if (size == 0 || alignment == 0 || (alignment & (alignment - 1)))
        atomic_store(&l->bad, true);
    if (atomic_fetch_add(&l->calls, 1) + 1 == atomic_load(&l->fails_at))
        return NULL;
    size_t least = alignment < sizeof(void *) ? sizeof(void *) : alignment;
    if (posix_memalign(&pointer, least, size) != 0)
        return NULL;
    memset(pointer, 0xff, size); /* whoever expects zeros computes with NaN */
    atomic_fetch_add(&l->live, 1);
    return pointer;
}

static void ledger_deallocate(void *user, void *pointer)
{
    ledger *l = user;
    if (!pointer)
        atomic_store(&l->bad, true);
    atomic_fetch_sub(&l->live, 1);
    free(pointer);
}

static fbn_status create_context(ledger *l, fbn_context **context)
{
    fbn_allocator allocator;
    fbn_context_options options;
    fbn_allocator_init(&allocator, sizeof allocator);
    allocator.allocate = ledger_allocate;
    allocator.deallocate = ledger_deallocate;
    allocator.user = l;
    fbn_context_options_init(&options, sizeof options);
    options.backend = harness_backend();
    options.threads = 2;
    options.host_allocator = &allocator; /* both go out of scope: they must have been copied */
    return fbn_context_create(context, &options);
}

static void balanced(ledger *l, const char *after)
{
    if (atomic_load(&l->live) != 0)
        harness_fail("%s: %ld allocations were not given back", after, atomic_load(&l->live));
    if (atomic_load(&l->bad))
        harness_fail("%s: the allocator was called with what its contract excludes", after);
}

/* ---- the nth allocation fails ---------------------------------------------------------------- */

static test_case full_case(int i)
{
    test_case c = case_default(true);
    c.dtype = (fbn_dtype)(i % 4);
    c.n = 37, c.i = 29, c.o = 19;
    c.bias = c.gamma = c.beta = c.running = c.batch_stats = c.saved = true;
    c.pre_scale = c.post_scale = FBN_SCALE_FEATURE;
    c.activation = i / 4 % 2 ? FBN_ACT_LOG_SOFTMAX : FBN_ACT_GELU;
    c.threads = 2;
    return c;
}

/* Everything that may allocate, until the first failure. Outputs must be set on success alone. */
static fbn_status make_everything(ledger *l, const test_case *c, const fbn_params *params)
{
    static char mark;
    fbn_layer_desc desc = case_desc(c);
    fbn_context *context = (void *)&mark;
    fbn_layer *layer = (void *)&mark;
    fbn_prepared *prepared = (void *)&mark;
    void *memory = &mark;
    fbn_status status = create_context(l, &context);
    if (status != FBN_OK) {
        ck_assert_ptr_eq(context, &mark);
        return status;
    }
    status = fbn_layer_create(&layer, context, &desc);
    if (status != FBN_OK) {
        ck_assert_ptr_eq(layer, &mark);
        goto destroy_context;
    }
    status = fbn_prepare_infer(&prepared, layer, params);
    if (status != FBN_OK) {
        ck_assert_ptr_eq(prepared, &mark);
        goto destroy_layer;
    }
    status = fbn_alloc(context, 1000, &memory);
    if (status == FBN_OK)
        fbn_free(context, memory);
    else
        ck_assert_ptr_eq(memory, &mark);
    fbn_prepared_destroy(prepared);
destroy_layer:
    fbn_layer_destroy(layer);
destroy_context:
    fbn_context_destroy(context);
    return status;
}

START_TEST(test_nth_failure)
{
    test_case c = full_case(_i);
    trial t;
    long n;
    harness_enter("nth allocation fails");
    trial_create_unchecked(&t, &c, harness_seed(), NULL);
    for (n = 1; n < 100; n++) {
        ledger l = {.fails_at = n};
        fbn_status status = make_everything(&l, &c, &t.params);
        balanced(&l, "after a failure");
        if (atomic_load(&l.calls) < n) { /* it never came to the nth */
            HARNESS_OK(status);
            break;
        }
        if (status != FBN_ERR_OUT_OF_MEMORY)
            harness_fail("allocation %ld failed, and the status is \"%s\"", n,
                         fbn_status_string(status));
        if (!strstr(fbn_last_error(), "memory") && !strstr(fbn_last_error(), "bytes"))
            harness_fail("the message is \"%s\"", fbn_last_error());
    }
    /* A context, a layer and its workspace, a prepared layer and its weights, fbn_alloc. */
    if (n < 6)
        harness_fail("only %ld allocations went through the context's allocator", n - 1);
    trial_destroy(&t);
}
END_TEST

/* ---- the hot path ---------------------------------------------------------------------------- */

typedef struct hot {
    trial t;
    fbn_layer_desc desc;
    fbn_prepared *prepared;
    array workspace, folded_weight, folded_bias;
    fbn_forward_args infer;
    fbn_run_args run;
} hot;

static void hot_calls(hot *h)
{
    HARNESS_OK(trial_forward(&h->t));
    HARNESS_OK(trial_backward(&h->t));
    HARNESS_OK(fbn_forward_infer(h->t.layer, &h->t.params, &h->infer));
    HARNESS_OK(fbn_fold(h->t.layer, &h->t.params, h->folded_weight.data, h->folded_weight.ld,
                        h->folded_bias.data));
    HARNESS_OK(fbn_prepared_run(h->prepared, &h->run));
}

static void hot_prepare(hot *h, const test_case *c, fbn_context *context)
{
    size_t bytes;
    trial_create_unchecked(&h->t, c, harness_seed(), context);
    HARNESS_OK(fbn_prepare_infer(&h->prepared, h->t.layer, &h->t.params));
    HARNESS_OK(fbn_prepared_workspace_size(h->prepared, c->n, &bytes));
    array_create_bytes(&h->workspace, context, bytes, harness_workspace_alignment());
    array_create(&h->folded_weight, context, c->dtype, c->o, c->i, c->i, true);
    array_create(&h->folded_bias, context, c->dtype == FBN_F64 ? FBN_F64 : FBN_F32, 1, c->o, c->o,
                 true);
    h->infer = h->t.forward;
    h->infer.batch_mean = h->infer.batch_var = h->infer.saved = NULL;
    fbn_run_args_init(&h->run, sizeof h->run);
    h->run.batch = c->n;
    h->run.x = h->t.forward.x, h->run.ldx = h->t.forward.ldx;
    h->run.y = h->t.forward.y, h->run.ldy = h->t.forward.ldy;
    h->run.workspace = h->workspace.data, h->run.workspace_size = bytes;
}

/* A BLAS that starts threads of its own allocates for each product; it starts none in the library's
 * parallel loops, where it is OpenMP's too. */
static bool blas_allocates(const fbn_context *context)
{
    const char *text = fbn_context_describe(context);
    if (fbn_context_backend(context) == FBN_BACKEND_CUDA)
        return false;
#ifdef _OPENMP
    if (strstr(text, "(OpenMP)"))
        return false;
#endif
    return !strstr(text, "(serial)");
}

START_TEST(test_hot_path)
{
    ledger l = {0};
    fbn_context *context;
    hot h = {0};
    test_case c = full_case(_i);
    harness_enter("hot path");
    if (_i >= 8) /* large enough for blocks, threads and the products' own buffers */
        c.n = 700, c.i = 130, c.o = 150;
    HARNESS_OK(create_context(&l, &context));
    hot_prepare(&h, &c, context);
    for (int warm = 0; warm < 3; warm++)
        hot_calls(&h);
    long before = atomic_load(&l.calls);
    counted = 0;
    counting = 1;
    for (int run = 0; run < 10; run++)
        hot_calls(&h);
    counting = 0;
    if (atomic_load(&l.calls) != before)
        harness_fail("%ld allocations from the context's allocator in 10 runs",
                     atomic_load(&l.calls) - before);
    if (counted != 0 && !blas_allocates(context) && counted != counted_of_driver())
        harness_fail("%d allocations from the C library in 10 runs", (int)counted);

    fbn_prepared_destroy(h.prepared);
    array_destroy(&h.workspace);
    array_destroy(&h.folded_weight);
    array_destroy(&h.folded_bias);
    trial_destroy(&h.t);
    fbn_context_destroy(context);
    balanced(&l, "after the hot path");
}
END_TEST

/* The counters themselves count, what a library allocates too: strdup, the C library's. */
START_TEST(test_counters)
{
    harness_enter("counters");
#if COUNTS_MALLOC
    counted = 0;
    counting = 1;
    void *volatile memory[] = {malloc(1), calloc(1, 1), aligned_alloc(64, 64), strdup("text")};
    counting = 0;
    ck_assert_int_eq(counted, 4);
    for (int k = 0; k < 4; k++)
        free(memory[k]);
#else
    printf("test_alloc: the C library's allocations are not counted in this build\n");
#endif
}
END_TEST

static void add(Suite *suite)
{
    if (harness_selects("counters"))
        harness_add(suite, "counters", test_counters, 1);
    if (harness_selects("nth allocation fails"))
        harness_add(suite, "nth_failure", test_nth_failure, 8);
    if (harness_selects("hot path"))
        harness_add(suite, "hot_path", test_hot_path, 16);
}

int main(void)
{
    return harness_main("test_alloc", add);
}
