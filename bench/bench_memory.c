/* SPDX-License-Identifier: BSD-3-Clause
 * Memory: the time to move every matrix of a case once, and emptying the caches.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef _OPENMP
#include <omp.h>
#endif

enum { LINE = 64, LEAST_EVICTED = 64 << 20 };

/* Returns something that depends on every word. */
CLONES static uint64_t read_words(const uint64_t *words, size_t count)
{
    uint64_t sum = 0;
#pragma omp simd reduction(^ : sum)
    for (size_t i = 0; i < count; i++)
        sum ^= words[i];
    return sum;
}

/* This thread's part of bytes, in whole lines. */
static size_t my_part(size_t bytes, size_t *first)
{
#ifdef _OPENMP
    const size_t threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num();
#else
    const size_t threads = 1, thread = 0;
#endif
    const size_t lines = (bytes + LINE - 1) / LINE;
    const size_t begin = lines * thread / threads * LINE;
    const size_t end = lines * (thread + 1) / threads * LINE;
    *first = begin;
    return (end < bytes ? end : bytes) - begin;
}

int memory_runner_create(struct memory_runner *r, const struct bench_case *c, fbn_dtype dtype)
{
    r->sum = 0;
    return tensors_create(&r->tensors, c, dtype, param_type_of(dtype));
}

void memory_runner_destroy(struct memory_runner *r)
{
    tensors_destroy(&r->tensors);
}

int memory_runner_run(void *memory_runner)
{
    struct memory_runner *r = memory_runner;
#pragma omp parallel
    {
        uint64_t sum = 0;
        for (int id = 0; id < TENSORS; id++) {
            size_t first;
            const size_t bytes = my_part(tensor_bytes(&r->tensors, (enum tensor_id)id), &first);
            unsigned char *data = r->tensors.data[id]; /* nothing but zeros was ever written */
            if (bytes == 0)
                continue;
            if (id < T_Y)
                sum ^= read_words((uint64_t *)(void *)(data + first), bytes / sizeof sum);
            else
                memset(data + first, 0, bytes);
        }
#pragma omp atomic
        r->sum ^= sum; /* so that the reads cannot be left out */
    }
    return 0;
}

/* -------------------------------------------------------------------------------------- caches */

static struct {
    unsigned char *data;
    size_t bytes;
    unsigned char value;
} evicting;

/* Writes twice the size of the largest cache, a part by each thread, which leaves nothing else in it
 * nor in the threads' own caches. */
int evict_caches(void)
{
    if (evicting.data == NULL) {
        const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
        evicting.bytes = cache > LEAST_EVICTED / 2 ? 2 * (size_t)cache : LEAST_EVICTED;
        evicting.data = malloc(evicting.bytes);
        if (evicting.data == NULL) {
            fprintf(stderr, "bench: no memory for %zu bytes to empty the caches\n", evicting.bytes);
            return -1;
        }
    }
    evicting.value++;
#pragma omp parallel
    {
        size_t first;
        const size_t bytes = my_part(evicting.bytes, &first);
        for (size_t at = 0; at < bytes; at += LINE) /* plain stores, which go through the caches */
            memset(evicting.data + first + at, evicting.value,
                   bytes - at < LINE ? bytes - at : LINE);
    }
    return 0;
}

void evict_caches_free(void)
{
    free(evicting.data);
    evicting.data = NULL;
}
