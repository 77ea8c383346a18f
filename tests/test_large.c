/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sizes beyond 32 bits on the CPU: leading dimensions above INT32_MAX, in sparse memory of which
 * only the rows themselves are ever touched; under FUSEDBN_TEST_LONG more than 2^31 rows. Skipped
 * with a message where the machine refuses the address space or the memory.
 */
#include "formats.h"
#include "harness.h"
#include "trial.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

/* Zeroed address space, without a promise of memory behind it; NULL where refused. */
static void *map_sparse(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static size_t span(int64_t rows, int64_t cols, int64_t ld, fbn_dtype type)
{
    return (size_t)((rows - 1) * ld + cols) * format_size(type);
}

/* Copies rows between a dense array of the harness and sparse memory. */
static void copy_rows(void *to, int64_t to_ld, const void *from, int64_t from_ld, int64_t rows,
                      int64_t cols, size_t element)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy((char *)to + (size_t)(r * to_ld) * element,
               (const char *)from + (size_t)(r * from_ld) * element, (size_t)cols * element);
}

/* x, W, y, dy, dx and dW, each with a leading dimension that 32 bits do not hold. */
START_TEST(test_leading_dimensions)
{
    static const argument matrices[] = {ARG_X, ARG_W, ARG_Y, ARG_DY, ARG_DX, ARG_DW};
    enum { MATRICES = 6 };
    void *sparse[MATRICES] = {NULL};
    size_t bytes[MATRICES];
    int64_t lds[MATRICES];
    bool refused = false;
    test_case c = case_default(_i < 4);
    trial t;
    harness_enter("leading dimensions");
    c.dtype = (fbn_dtype)(_i % 4);
    c.n = 3, c.i = 5, c.o = 4;
    c.bias = c.gamma = c.beta = true;
    c.threads = 2;
    trial_create(&t, &c, harness_seed(), NULL, true);
    for (int k = 0; k < MATRICES; k++) {
        const array *a = &t.a[matrices[k]];
        lds[k] = INT64_C(0x80000000) + 3 + k;
        bytes[k] = span(a->rows, a->cols, lds[k], a->type);
        sparse[k] = map_sparse(bytes[k]);
        refused |= !sparse[k];
        if (sparse[k])
            copy_rows(sparse[k], lds[k], a->data, a->ld, a->rows, a->cols, a->element);
    }
    if (refused) {
        printf("test_large: skipped: no address space for leading dimensions above 2^31\n");
    } else {
        t.forward.x = t.backward.x = sparse[0], t.forward.ldx = t.backward.ldx = lds[0];
        t.params.weight = sparse[1], t.params.ldw = lds[1];
        t.forward.y = sparse[2], t.forward.ldy = lds[2];
        t.backward.dy = sparse[3], t.backward.lddy = lds[3];
        t.grads.dx = sparse[4], t.grads.lddx = lds[4];
        t.grads.weight = sparse[5], t.grads.lddw = lds[5];
        HARNESS_OK(trial_forward(&t));
        copy_rows(t.a[ARG_Y].data, t.a[ARG_Y].ld, sparse[2], lds[2], c.n, c.o, t.a[ARG_Y].element);
        trial_check_forward(&t);
        HARNESS_OK(trial_backward(&t));
        copy_rows(t.a[ARG_DX].data, t.a[ARG_DX].ld, sparse[4], lds[4], c.n, c.i,
                  t.a[ARG_DX].element);
        copy_rows(t.a[ARG_DW].data, t.a[ARG_DW].ld, sparse[5], lds[5], c.o, c.i,
                  t.a[ARG_DW].element);
        trial_check_backward(&t);
    }
    for (int k = 0; k < MATRICES; k++)
        if (sparse[k])
            munmap(sparse[k], bytes[k]);
    trial_destroy(&t);
}
END_TEST

/* More than 2^31 rows through a prepared layer. x is all zeros (sparse), but for its last rows, so
 * that every y is known: relu(beta) or relu(x w + beta). */
START_TEST(test_rows_beyond_32_bits)
{
    const int64_t n = INT64_C(0x80000000) + 5;
    const size_t bytes = (size_t)n * 2,
                 available = (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    const double weight = 2, mean = 0, var = 1, beta = 0.5;
    test_case c = case_default(false);
    harness_enter("rows beyond 32 bits");
    uint16_t *x = map_sparse(bytes), *y = map_sparse(bytes);
    if (!x || !y || available < bytes + bytes / 2) {
        printf("test_large: skipped: no memory for %lld rows\n", (long long)n);
        goto out;
    }
    c.dtype = FBN_BF16;
    c.n = 8, c.i = c.o = 1;
    c.beta = true;
    c.eps = 0;
    c.activation = FBN_ACT_RELU;
    c.threads = 2;
    trial t;
    fbn_prepared *prepared;
    size_t size;
    trial_create_unchecked(&t, &c, harness_seed(), NULL);
    array_set(&t.a[ARG_W], &weight);
    array_set(&t.a[ARG_RUNNING_MEAN], &mean);
    array_set(&t.a[ARG_RUNNING_VAR], &var);
    array_set(&t.a[ARG_BETA], &beta);
    HARNESS_OK(fbn_prepare_infer(&prepared, t.layer, &t.params));
    HARNESS_OK(fbn_prepared_workspace_size(prepared, n, &size));
    fbn_run_args run;
    fbn_run_args_init(&run, sizeof run);
    void *workspace = NULL;
    HARNESS_OK(fbn_alloc(t.context, size, &workspace));
    run.batch = n;
    run.x = x;
    run.y = y;
    run.workspace = workspace;
    run.workspace_size = size;
    for (int64_t k = 0; k < 7; k++)
        format_store(FBN_BF16, x, n - 7 + k, (double)k);
    HARNESS_OK(fbn_prepared_run(prepared, &run));
    for (int64_t k = 0; k < n; k += k < n - 100000 ? 65537 : 1) {
        double expected = k < n - 7 ? beta : (double)(k - (n - 7)) * weight + beta;
        double got = format_load(FBN_BF16, y, k);
        if (got != expected)
            harness_fail("y[%lld] is %g, expected %g", (long long)k, got, expected);
    }
    fbn_free(t.context, workspace);
    fbn_prepared_destroy(prepared);
    trial_destroy(&t);
out:
    if (x)
        munmap(x, bytes);
    if (y)
        munmap(y, bytes);
}
END_TEST

static void add(Suite *suite)
{
    if (harness_backend() != FBN_BACKEND_CPU)
        return; /* sparse host memory is nothing to a device */
    if (harness_selects("leading dimensions"))
        harness_add(suite, "leading_dimensions", test_leading_dimensions, 8);
    if (harness_tier() == TIER_LONG && harness_selects("rows beyond 32 bits"))
        harness_add(suite, "rows_beyond_32_bits", test_rows_beyond_32_bits, 1);
}

int main(void)
{
    return harness_main("test_large", add);
}
