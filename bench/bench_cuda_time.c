/* SPDX-License-Identifier: BSD-3-Clause
 * Timing on the device, by events: contestants in turns, as calls on a stream and as replays of a
 * graph.
 */
#include "bench_cuda.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_CONTESTANTS = 8, LEAST_ROUNDS = 7, MOST_ROUNDS = 41 };

/* Of one contestant: a sample lasts at least so long, beside which an event (a few us) is little. */
static const double least_sample = 500e-6;
static const double case_seconds = 1;

struct entry {
    const struct gpu_contestant *contestant;
    cudaGraphExec_t graph;
    int calls; /* in a sample */
    double *stream_samples, *graph_samples;
};

static int queue_calls(const struct entry *e, int sets, int calls)
{
    for (int i = 0; i < calls; i++)
        if (e->contestant->queue(e->contestant->state, i % sets) != 0)
            return -1;
    return 0;
}

/* Seconds a run. */
static int sample(struct gpu *g, const struct entry *e, int sets, bool graph, double *seconds)
{
    float milliseconds;
    if (check_cuda(cudaEventRecord(g->start, g->stream), "cudaEventRecord") != 0)
        return -1;
    if (graph ? check_cuda(cudaGraphLaunch(e->graph, g->stream), "cudaGraphLaunch") != 0
              : queue_calls(e, sets, e->calls) != 0)
        return -1;
    if (check_cuda(cudaEventRecord(g->stop, g->stream), "cudaEventRecord") != 0 ||
        check_cuda(cudaEventSynchronize(g->stop), e->contestant->name) != 0 ||
        check_cuda(cudaEventElapsedTime(&milliseconds, g->start, g->stop), "cudaEventElapsedTime"))
        return -1;
    *seconds = 1e-3 * (double)milliseconds / e->calls;
    return 0;
}

static int capture(struct gpu *g, struct entry *e, int sets)
{
    cudaGraph_t graph = NULL;
    if (check_cuda(cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal),
                   "cudaStreamBeginCapture") != 0)
        return -1;
    const int queued = queue_calls(e, sets, e->calls);
    const cudaError_t ended = cudaStreamEndCapture(g->stream, &graph);
    int result = queued != 0 ? -1 : check_cuda(ended, "cudaStreamEndCapture");
    if (result == 0)
        result = check_cuda(cudaGraphInstantiate(&e->graph, graph, 0), "cudaGraphInstantiate");
    if (graph != NULL)
        (void)cudaGraphDestroy(graph);
    return result;
}

/* Warms up, finds how many runs make a sample long enough (each set as often as any other), and
 * captures as many. */
static int prepare(struct gpu *g, struct entry *e, int sets, double *seconds)
{
    e->calls = sets;
    for (int warm = 0; warm < 2; warm++)
        if (sample(g, e, sets, false, seconds) != 0)
            return -1;
    while (*seconds * e->calls < least_sample)
        e->calls *= 2;
    if (capture(g, e, sets) != 0 || sample(g, e, sets, true, seconds) != 0)
        return -1;
    *seconds *= e->calls;
    return 0;
}

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static struct timing summarise(double *samples, int64_t rounds, const char *name, int calls)
{
    qsort(samples, (size_t)rounds, sizeof *samples, compare_doubles);
    const struct timing t = {.name = name,
                             .minimum = samples[0],
                             .quartile1 = samples[rounds / 4],
                             .median = samples[rounds / 2],
                             .quartile3 = samples[rounds - 1 - rounds / 4],
                             .rounds = rounds,
                             .inner = calls};
    return t;
}

static int take_samples(struct gpu *g, struct entry *entries, int count, int sets, int64_t rounds)
{
    for (int64_t i = 0; i < rounds; i++) {
        for (int turn = 0; turn < count; turn++) {
            struct entry *e = &entries[(i + turn) % count]; /* another one begins each round */
            if (sample(g, e, sets, false, &e->stream_samples[i]) != 0 ||
                sample(g, e, sets, true, &e->graph_samples[i]) != 0)
                return -1;
        }
    }
    return 0;
}

int gpu_time(struct gpu *g, const struct gpu_contestant *contestants, int count, int sets,
             int64_t rounds, struct gpu_timing *timings)
{
    struct entry entries[MOST_CONTESTANTS];
    double round_seconds = 0, seconds;
    int result = -1;

    memset(entries, 0, sizeof entries);
    memset(timings, 0, (size_t)count * sizeof *timings);
    for (int k = 0; k < count; k++) {
        entries[k].contestant = &contestants[k];
        if (prepare(g, &entries[k], sets, &seconds) != 0)
            goto out;
        round_seconds += 2 * seconds;
    }
    if (rounds == 0) {
        rounds = (int64_t)(case_seconds / round_seconds);
        rounds = rounds < LEAST_ROUNDS ? LEAST_ROUNDS : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds;
    }
    for (int k = 0; k < count; k++) {
        entries[k].stream_samples = malloc(2 * (size_t)rounds * sizeof(double));
        if (entries[k].stream_samples == NULL) {
            fprintf(stderr, "bench: no memory for %lld samples\n", (long long)(2 * rounds));
            goto out;
        }
        entries[k].graph_samples = entries[k].stream_samples + rounds;
    }
    if (take_samples(g, entries, count, sets, rounds) != 0)
        goto out;
    for (int k = 0; k < count; k++) {
        const struct entry *e = &entries[k];
        timings[k].name = contestants[k].name;
        timings[k].stream = summarise(e->stream_samples, rounds, e->contestant->name, e->calls);
        timings[k].graph = summarise(e->graph_samples, rounds, e->contestant->name, e->calls);
    }
    result = 0;
out:
    for (int k = 0; k < count; k++) {
        free(entries[k].stream_samples);
        if (entries[k].graph != NULL)
            (void)cudaGraphExecDestroy(entries[k].graph);
    }
    return result;
}
