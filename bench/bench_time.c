/* SPDX-License-Identifier: BSD-3-Clause
 * Timing: contestants in turns, so that what disturbs the machine disturbs all of them.
 */
#include "bench.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A sample lasts at least 100 us, beside which reading the clock (some 30 ns) is nothing. */
static const double least_sample = 100e-6;
static const double case_seconds = 2;

enum { LEAST_ROUNDS = 11, MOST_ROUNDS = 1001, PEAK_SIZE = 1024, PEAK_RUNS = 10 };

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Seconds a run: the mean of `inner` runs, after one that is not timed. Cold: that of one run, for
 * which the caches have just been emptied. */
static int sample(const struct runner *runner, bool cold, int64_t inner, double *seconds)
{
    if (cold ? evict_caches() != 0 : runner->run(runner->state) != 0)
        return -1;
    const double start = seconds_now();
    for (int64_t i = 0; i < inner; i++)
        if (runner->run(runner->state) != 0)
            return -1;
    *seconds = (seconds_now() - start) / (double)inner;
    return 0;
}

/* How many runs make a sample long enough: doubled until they do. */
static int choose_inner(const struct runner *runner, bool cold, int64_t *inner, double *seconds)
{
    for (*inner = 1;; *inner *= 2) {
        if (sample(runner, cold, *inner, seconds) != 0)
            return -1;
        if (cold || *seconds * (double)*inner >= least_sample)
            return 0;
    }
}

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Sorts; between two samples the quantile is interpolated. */
static double quantile(const double *sorted, int64_t count, double fraction)
{
    const double at = fraction * (double)(count - 1);
    const int64_t low = (int64_t)at;
    const int64_t high = low + 1 < count ? low + 1 : low;
    return sorted[low] + (at - (double)low) * (sorted[high] - sorted[low]);
}

static void summarise(struct timing *t, double *samples, int64_t rounds)
{
    qsort(samples, (size_t)rounds, sizeof *samples, compare_doubles);
    t->rounds = rounds;
    t->minimum = samples[0];
    t->quartile1 = quantile(samples, rounds, 0.25);
    t->median = quantile(samples, rounds, 0.5);
    t->quartile3 = quantile(samples, rounds, 0.75);
}

int time_runners(const struct runner *runners, int count, bool cold, int64_t rounds,
                 struct timing *timings)
{
    int result = -1;
    double *samples = NULL, round_seconds = 0;

    for (int k = 0; k < count; k++) {
        double seconds;
        memset(&timings[k], 0, sizeof timings[k]);
        timings[k].name = runners[k].name;
        if (choose_inner(&runners[k], cold, &timings[k].inner, &seconds) != 0)
            return -1;
        round_seconds += seconds * (double)(timings[k].inner + 1);
    }
    if (rounds == 0)
        rounds = (int64_t)fmin(fmax(case_seconds / round_seconds, LEAST_ROUNDS), MOST_ROUNDS);
    samples = malloc((size_t)(count * rounds) * sizeof *samples);
    if (samples == NULL) {
        fprintf(stderr, "bench: no memory for %lld samples\n", (long long)(count * rounds));
        return -1;
    }
    for (int64_t i = 0; i < rounds; i++) {
        for (int turn = 0; turn < count; turn++) {
            const int k = (int)((i + turn) % count); /* another one begins each round */
            if (sample(&runners[k], cold, timings[k].inner, &samples[k * rounds + i]) != 0)
                goto out;
        }
    }
    for (int k = 0; k < count; k++)
        summarise(&timings[k], samples + k * rounds, rounds);
    result = 0;
out:
    free(samples);
    return result;
}

int measure_peak(fbn_dtype real, double *flops_per_second)
{
    const int n = PEAK_SIZE;
    const size_t elements = (size_t)n * (size_t)n;
    double best = INFINITY;
    double *a = calloc(elements, sizeof *a), *b = calloc(elements, sizeof *b);
    double *c = calloc(elements, sizeof *c);

    for (size_t i = 0; i < elements && a != NULL && b != NULL; i++)
        a[i] = b[i] = 1;
    for (int i = 0; i < PEAK_RUNS && a != NULL && b != NULL && c != NULL; i++) {
        const double start = seconds_now();
        if (real == FBN_F64)
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1, a, n, b, n, 0, c, n);
        else
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1, (float *)a, n,
                        (float *)b, n, 0, (float *)c, n);
        best = fmin(best, seconds_now() - start);
    }
    free(c);
    free(b);
    free(a);
    if (best == INFINITY) {
        fputs("bench: no memory to measure the peak\n", stderr);
        return -1;
    }
    *flops_per_second = 2 * (double)n * (double)n * (double)n / best;
    return 0;
}
