/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Contexts on CUDA: the order of work across fbn_context_set_stream, threads with a context and a
 * stream each, several devices, the caller's current device, memory of every kind, and the nth
 * device allocation failing, for every n.
 */
#include "cuda_driver.h"
#include "trial.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static test_case full_case(int i)
{
    test_case c = case_default(true);
    c.dtype = (fbn_dtype)(i % 4);
    c.n = 67, c.i = 31, c.o = 129;
    c.bias = c.gamma = c.beta = c.batch_stats = c.saved = true;
    c.pre_scale = FBN_SCALE_FEATURE;
    c.post_scale = FBN_SCALE_SCALAR;
    c.activation = i / 4 % 2 ? FBN_ACT_SOFTMAX : FBN_ACT_GELU;
    return c;
}

static void step(trial *t)
{
    HARNESS_OK(trial_forward(t));
    trial_check_forward(t);
    HARNESS_OK(trial_backward(t));
    trial_check_backward(t);
}

/* ---- streams --------------------------------------------------------------------------------- */

static atomic_bool gate_open;

static void wait_at_gate(void *user)
{
    const struct timespec pause = {0, 100000};
    (void)user;
    while (!atomic_load(&gate_open))
        nanosleep(&pause, NULL);
}

/* The old stream is held up before the forward; the backward on the new one has to wait for it. */
START_TEST(test_stream_order)
{
    const struct timespec a_while = {0, 100000000};
    trial t;
    test_case c = full_case(_i);
    harness_enter("stream order");
    cuda_use(0);
    void *first = cuda_stream(), *second = cuda_stream();
    fbn_context *context = cuda_context(0, first);
    trial_create(&t, &c, harness_seed(), context, true);
    step(&t); /* kernels are loaded now, which the device might have to be idle for */
    trial_reset(&t);

    atomic_store(&gate_open, false);
    CUDA_OK(cuda.launch_host(first, wait_at_gate, NULL));
    fbn_status forward = trial_forward(&t);
    fbn_status moved = fbn_context_set_stream(context, second);
    fbn_status backward = trial_backward(&t);
    nanosleep(&a_while, NULL);
    int early = cuda.stream_query(second);
    atomic_store(&gate_open, true);
    HARNESS_OK(forward);
    HARNESS_OK(moved);
    HARNESS_OK(backward);
    if (early != CUDA_NOT_READY)
        harness_fail("the new stream did not wait for the old one: its state is %d", early);
    HARNESS_OK(fbn_context_synchronize(context));
    CUDA_OK(cuda.stream_query(first));
    trial_accept(&t); /* y and the statistics, which the backward leaves alone */
    trial_check_backward(&t);
    trial_reset(&t);
    step(&t);

    trial_destroy(&t);
    fbn_context_destroy(context);
    CUDA_OK(cuda.stream_destroy(first));
    CUDA_OK(cuda.stream_destroy(second));
}
END_TEST

/* ---- threads and devices --------------------------------------------------------------------- */

enum { WORKERS = 4 };

typedef struct worker {
    pthread_t thread;
    int device;
    void *stream;
    fbn_context *context;
    trial t;
    fbn_status status;
    void *current; /* the thread's own current context after the library's calls */
} worker;

static void *work(void *argument_)
{
    worker *w = argument_;
    w->status = trial_steps(&w->t, 20);
    if (w->status == FBN_OK)
        w->status = fbn_context_synchronize(w->context);
    if (cuda.get_current(&w->current) != 0)
        w->current = w;
    return NULL;
}

/* Each thread has a context, a stream and a device of its own, as far as there are devices; all
 * run at once, and each gets what the oracle says. Threads that never chose a device still have
 * none afterwards. */
START_TEST(test_workers)
{
    worker workers[WORKERS];
    int devices;
    harness_enter("workers");
    CUDA_OK(cuda.device_count(&devices));
    for (int k = 0; k < WORKERS; k++) {
        worker *w = &workers[k];
        test_case c = full_case(_i + k);
        w->device = k % devices;
        cuda_use(w->device);
        w->stream = cuda_stream();
        w->context = cuda_context(w->device, w->stream);
        trial_create(&w->t, &c, harness_seed() + (uint64_t)k, w->context, true);
    }
    for (int k = 0; k < WORKERS; k++)
        ck_assert_int_eq(pthread_create(&workers[k].thread, NULL, work, &workers[k]), 0);
    for (int k = 0; k < WORKERS; k++)
        pthread_join(workers[k].thread, NULL);
    for (int k = 0; k < WORKERS; k++) {
        worker *w = &workers[k];
        HARNESS_OK(w->status);
        ck_assert_ptr_null(w->current);
        trial_accept(&w->t);
        trial_check_backward(&w->t);
        trial_reset(&w->t);
        step(&w->t);
        trial_destroy(&w->t);
        fbn_context_destroy(w->context);
        CUDA_OK(cuda.stream_destroy(w->stream));
    }
    cuda_use(0);
}
END_TEST

/* Every device: right results, the caller's current device as it was, and memory of another device
 * refused in words. */
START_TEST(test_devices)
{
    int devices;
    void *mine, *now;
    trial here, there;
    test_case c = full_case(_i);
    harness_enter("devices");
    cuda_use(0);
    CUDA_OK(cuda.device_count(&devices));
    CUDA_OK(cuda.get_current(&mine));
    if (devices == 1)
        printf("test_cuda_contexts: skipped: a second device: there is one\n");
    trial_create(&here, &c, harness_seed(), NULL, true);
    for (int device = 1; device < devices; device++) {
        fbn_context *context = cuda_context(device, NULL);
        trial_create(&there, &c, harness_seed(), context, true);
        step(&there);
        fbn_forward_args args = there.forward;
        args.x = here.forward.x;
        if (fbn_forward_train(there.layer, &there.params, &args) != FBN_ERR_MEMORY_KIND ||
            !strstr(fbn_last_error(), "memory of device 0"))
            harness_fail("memory of device 0 on device %d: \"%s\"", device, fbn_last_error());
        CUDA_OK(cuda.get_current(&now));
        ck_assert_ptr_eq(now, mine);
        trial_destroy(&there);
        fbn_context_destroy(context);
    }
    step(&here);
    CUDA_OK(cuda.get_current(&now));
    ck_assert_ptr_eq(now, mine);
    trial_destroy(&here);

    fbn_context_options options;
    fbn_context *none = NULL;
    fbn_context_options_init(&options, sizeof options);
    options.backend = FBN_BACKEND_CUDA;
    for (int k = 0; k < 2; k++) {
        options.device = k ? -1 : devices;
        ck_assert_int_eq(fbn_context_create(&none, &options), FBN_ERR_INVALID_ARGUMENT);
        ck_assert_ptr_null(none);
        if (!strstr(fbn_last_error(), k ? "-1" : "CUDA device"))
            harness_fail("device %d: \"%s\"", options.device, fbn_last_error());
    }
}
END_TEST

/* ---- kinds of memory ------------------------------------------------------------------------- */

/* x in pinned, y in managed memory: what the device reaches is accepted, whoever allocated it. */
START_TEST(test_memory_kinds)
{
    trial t;
    test_case c = full_case(_i);
    void *pinned;
    uintptr_t managed;
    harness_enter("memory kinds");
    cuda_use(0);
    c.activation = FBN_ACT_NONE;
    trial_create(&t, &c, harness_seed(), NULL, false);
    size_t x = (size_t)(c.n * c.i) * t.a[ARG_X].element;
    size_t y = (size_t)(c.n * c.o) * t.a[ARG_Y].element;
    CUDA_OK(cuda.allocate_pinned(&pinned, x, 0));
    CUDA_OK(cuda.allocate_managed(&managed, y, CUDA_ATTACH_GLOBAL));
    memcpy(pinned, t.a[ARG_X].image + t.a[ARG_X].offset, x);
    t.forward.x = pinned;
    t.forward.y = (void *)managed;
    HARNESS_OK(trial_forward(&t));
    HARNESS_OK(fbn_context_synchronize(t.context));
    unsigned char *got = malloc(y);
    ck_assert_ptr_nonnull(got);
    HARNESS_OK(fbn_download(t.context, got, t.forward.y, y));
    HARNESS_OK(fbn_upload(t.context, t.a[ARG_Y].data, got, y));
    free(got);
    trial_check_forward(&t);
    trial_destroy(&t);
    CUDA_OK(cuda.release_pinned(pinned));
    CUDA_OK(cuda.release(managed));
}
END_TEST

/* ---- the nth allocation fails ---------------------------------------------------------------- */

typedef struct ledger {
    int live, calls, fails_at;
    bool bad;
} ledger;

static void *ledger_allocate(void *user, size_t size, size_t alignment)
{
    ledger *l = user;
    uintptr_t memory;
    if (size == 0 || alignment == 0 || (alignment & (alignment - 1)))
        l->bad = true;
    if (++l->calls == l->fails_at || cuda.allocate(&memory, size) != 0)
        return NULL;
    l->live++;
    return (void *)memory;
}

static void ledger_deallocate(void *user, void *pointer)
{
    ledger *l = user;
    l->bad |= !pointer || cuda.release((uintptr_t)pointer) != 0;
    l->live--;
}

static fbn_status create_with(ledger *l, fbn_context **context)
{
    fbn_allocator allocator;
    fbn_context_options options;
    fbn_allocator_init(&allocator, sizeof allocator);
    allocator.allocate = ledger_allocate;
    allocator.deallocate = ledger_deallocate;
    allocator.user = l;
    fbn_context_options_init(&options, sizeof options);
    options.backend = FBN_BACKEND_CUDA;
    options.device_allocator = &allocator; /* both go out of scope: they must have been copied */
    return fbn_context_create(context, &options);
}

/* Everything that allocates on the device, until the first failure. */
static fbn_status make_everything(ledger *l, trial *t)
{
    fbn_layer_desc desc = case_desc(&t->c);
    fbn_context *context = NULL;
    fbn_layer *layer = NULL;
    fbn_prepared *prepared = NULL;
    void *memory = NULL;
    fbn_status status = create_with(l, &context);
    if (status != FBN_OK)
        goto out;
    status = fbn_layer_create(&layer, context, &desc);
    if (status != FBN_OK)
        goto out;
    status = fbn_prepare_infer(&prepared, layer, &t->params);
    if (status != FBN_OK)
        goto out;
    status = fbn_alloc(context, 1000, &memory);
    if (status != FBN_OK)
        goto out;
    HARNESS_OK(fbn_forward_infer(layer, &t->params, &t->forward));
    HARNESS_OK(fbn_free(context, memory));
    memory = NULL;
out:
    ck_assert_ptr_null(memory); /* out-pointers are set on success alone */
    fbn_prepared_destroy(prepared);
    fbn_layer_destroy(layer);
    fbn_context_destroy(context);
    return status;
}

START_TEST(test_nth_allocation)
{
    trial t;
    int n;
    test_case c = full_case(_i);
    harness_enter("nth device allocation fails");
    c.training = c.batch_stats = false;
    cuda_use(0);
    trial_create(&t, &c, harness_seed(), NULL, false);
    for (n = 1; n < 100; n++) {
        ledger l = {.fails_at = n};
        fbn_status status = make_everything(&l, &t);
        if (l.live != 0)
            harness_fail("allocation %d failed: %d allocations were not given back", n, l.live);
        if (l.bad)
            harness_fail("the allocator was called with what its contract excludes");
        if (l.calls < n) { /* it never came to the nth */
            HARNESS_OK(status);
            break;
        }
        if (status != FBN_ERR_OUT_OF_MEMORY)
            harness_fail("allocation %d failed, and the status is \"%s\"", n,
                         fbn_status_string(status));
        if (!strstr(fbn_last_error(), "bytes"))
            harness_fail("the message is \"%s\"", fbn_last_error());
    }
    /* The workspaces of cuBLAS and of the layer, a prepared layer's weights, fbn_alloc. */
    if (n < 5)
        harness_fail("only %d allocations went through the context's allocator", n - 1);
    trial_check_forward(&t);
    trial_destroy(&t);
}
END_TEST

static void add(Suite *suite)
{
    if (harness_selects("stream order"))
        harness_add(suite, "stream_order", test_stream_order, 8);
    if (harness_selects("workers"))
        harness_add(suite, "workers", test_workers, 4);
    if (harness_selects("devices"))
        harness_add(suite, "devices", test_devices, 4);
    if (harness_selects("memory kinds"))
        harness_add(suite, "memory_kinds", test_memory_kinds, 4);
    if (harness_selects("nth device allocation fails"))
        harness_add(suite, "nth_allocation", test_nth_allocation, 4);
}

int main(void)
{
    return cuda_main("test_cuda_contexts", add);
}
