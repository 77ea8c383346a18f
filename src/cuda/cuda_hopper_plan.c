/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The planner of the Hopper product: what it takes, where it is expected to be faster than cuBLAS,
 * and its tiles.
 */
#include <math.h>

#include "cuda_hopper.h"

/* ---- which products it takes ---- */

const char *fbni_hopper_refuse_machine(const fbni_cuda_context *context)
{
#ifdef FBNI_HAVE_HOPPER
    if (context->capability != 90)
        return "the device is no Hopper GPU (sm_90)";
    if (context->queue.processors < FBNI_HOPPER_CLUSTER) /* a share of a device may be small */
        return "the device has fewer than two multiprocessors";
    return context->encode_map ? NULL : "the driver encodes no tensor maps";
#else
    (void)context;
    return "the module was built without sm_90a";
#endif
}

const char *fbni_hopper_refuse_direct(const fbni_cuda_context *context)
{
    const char *refusal = fbni_hopper_refuse_machine(context);
    return !refusal && context->direct_clusters < 1
               ? "the device has no place for a cluster of four blocks"
               : refusal;
}

const char *fbni_hopper_refuse_sizes(int64_t N, int64_t I, int64_t O)
{
    const int64_t most = INT32_MAX - 1024; /* the copy engine's coordinates have 32 bits */

    if (I > FBNI_HOPPER_DEPTH_MOST)
        return "in_features is more than 65536";
    return N > most || O > most ? "max_batch or out_features is 2^31 or more" : NULL;
}

/* What was measured on an H200, in microseconds, TFLOP/s and bytes per microsecond
 * (bench/results): of the kind, one block of 64 of the depth of a tile of 256 columns, what its
 * split takes at least, the bytes that it moves for an entry of x and of W, and the rate of
 * cuBLAS's product. */
static const struct speed {
    double block, split_start, x_bytes, w_bytes, blas;
} speeds[FBNI_HOPPER_KINDS] = {
    [FBNI_HOPPER_F16] = {0.72, 0, 0, 0, 700},       [FBNI_HOPPER_BF16] = {0.72, 0, 0, 0, 720},
    [FBNI_HOPPER_DIRECT] = {0.91, 15, 6, 0.5, 390}, /* with what comes after it */
    [FBNI_HOPPER_TF32] = {0.74, 5, 6, 6, 390},      [FBNI_HOPPER_FP32] = {1.75, 5, 8, 8, 48},
};
static const double tile_start = 5, blas_start = 6, bandwidth = 3.3e6;

/* Where W is held: at the start; and what a tile takes besides half of its products. */
static const double hold_start = 10.5, hold_tile = 0.7;

static double time_of(const fbni_hopper_tiles *t, fbni_hopper_kind kind, int64_t I)
{
    const double depth = (double)((I + 63) / 64) * speeds[kind].block * t->columns / 256;

    if (t->holders == 0)
        return (double)t->waves * (tile_start + depth);
    return hold_start + (double)t->waves * fmax(depth, hold_tile + depth / 2);
}

static double product_time(const fbni_cuda_context *context, fbni_hopper_kind kind, int64_t N,
                           int64_t I, int64_t O)
{
    const fbni_hopper_tiles t = fbni_hopper_tiles_of(context, kind, N, I, O);

    return time_of(&t, kind, I);
}

static double blas_time(fbni_hopper_kind kind, int64_t N, int64_t I, int64_t O)
{
    const double rows = 128 * ceil((double)N / 128), columns = 128 * ceil((double)O / 128);

    return blas_start + 2e-6 * rows * (double)I * columns / speeds[kind].blas; /* in its tiles */
}

double fbni_hopper_whole_time(const fbni_cuda_context *context, fbni_hopper_kind kind, int64_t N,
                              int64_t I, int64_t O)
{
    const struct speed *s = &speeds[kind];
    double start = s->split_start, x = s->x_bytes, w = s->w_bytes;

    if (!fbni_hopper_is_float(kind) && I % 8 != 0) {
        start = 6; /* the copy engine cannot read such rows: two copies */
        x = w = 4;
    }
    return product_time(context, kind, N, I, O) + start +
           (x * (double)N + w * (double)O) * (double)I / bandwidth;
}

const char *fbni_hopper_refuse_speed(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                     int64_t N, int64_t I, int64_t O)
{
    /* What it saves: reading u once more; of the half types also that u has 32 bits both ways. */
    const double bytes = fbni_hopper_is_float(kind) ? 4 : 8;
    const double saved = bytes * (double)N * (double)O / bandwidth;
    const double own = fbni_hopper_whole_time(context, kind, N, I, O);

    if (own > blas_time(kind, N, I, O) + saved)
        return "cuBLAS is faster at this size";
    if (!fbni_hopper_is_single(kind) || fbni_hopper_refuse_direct(context))
        return NULL;
    if (kind == FBNI_HOPPER_DIRECT)
        return own > fbni_hopper_whole_time(context, FBNI_HOPPER_TF32, N, I, O)
                   ? "W is better split first"
                   : NULL;
    return own > fbni_hopper_whole_time(context, FBNI_HOPPER_DIRECT, N, I, O)
               ? "W is better not split first"
               : NULL;
}

/* ---- tiles ---- */

#ifdef FBNI_HAVE_HOPPER
static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Clusters of four leave some multiprocessors out: of an H200's 132 31 of them find a place. Where
 * the last wave is for a few tiles alone, the last pairs of feature tiles are for clusters of two
 * there, at the same time, if they have enough waves. */
static void set_beside(const fbni_cuda_context *context, int64_t pairs, fbni_hopper_tiles *t)
{
    const int64_t clusters = context->direct_clusters;
    const int64_t left =
        (context->queue.processors - FBNI_HOPPER_DIRECT_CLUSTER * clusters) / FBNI_HOPPER_CLUSTER;
    const int64_t waves = pairs * t->steps / clusters, most = waves * clusters / t->steps;

    if (waves < t->waves && most > 0 && left > 0 &&
        ceil_div((pairs - most) * t->count, left) <= waves) {
        t->beside = (int)(pairs - most);
        t->waves = waves;
    }
    t->clusters = (int)ceil_div((pairs - t->beside) * t->steps, t->waves);
}

/* Instead, clusters that hold their part of W, if that takes less time. */
static void hold(const fbni_cuda_context *context, fbni_hopper_kind kind, int64_t N, int64_t I,
                 int64_t O, fbni_hopper_tiles *best)
{
    const int64_t pairs = ceil_div(O, FBNI_HOPPER_PAIR);
    const int64_t count = ceil_div(N, FBNI_HOPPER_HELD_ROWS);
    const int64_t most = context->queue.processors / FBNI_HOPPER_CLUSTER / pairs;
    const int64_t holders = count < most ? count : most;
    const fbni_hopper_tiles held = {
        .columns = FBNI_HOPPER_HELD_ROWS,
        .count = count,
        .steps = count,
        .band = (int)pairs,
        .waves = most > 0 ? ceil_div(count, most) : 0,
        .holders = (int)holders,
        .clusters = (int)(holders * pairs),
    };

    if (!fbni_hopper_is_float(kind) && I <= FBNI_HOPPER_HELD && held.holders > 0 &&
        time_of(&held, kind, I) < time_of(best, kind, I))
        *best = held;
}

/* The tiles that fill the fewest waves of the machine, counted in columns; the wider where two do
 * as well. Four pairs of feature tiles together (1, 2, 4, 8 at 16384 x 4096 -> 4096: 2403, 2299,
 * 2286, 2316 us for float, 824, 782, 769, 767 for bf16): a wave then shares a band of W and x. */
fbni_hopper_tiles fbni_hopper_tiles_of(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                       int64_t N, int64_t I, int64_t O)
{
    const bool direct = kind == FBNI_HOPPER_DIRECT;
    const int64_t clusters =
        direct ? context->direct_clusters : context->queue.processors / FBNI_HOPPER_CLUSTER;
    const int64_t pairs = ceil_div(O, FBNI_HOPPER_FEATURES * FBNI_HOPPER_CLUSTER);
    fbni_hopper_tiles best = {0};
    int columns;

    for (int i = 0; (columns = fbni_hopper_tile_columns(kind, i)) > 0; i++) {
        const int64_t count = ceil_div(N, columns), steps = direct ? ceil_div(count, 2) : count;
        const int64_t waves = ceil_div(pairs * steps, clusters);
        if (best.columns == 0 || waves * columns < best.waves * best.columns) {
            best.columns = columns;
            best.count = count;
            best.steps = steps;
            best.waves = waves;
        }
    }
    best.band = pairs < 4 ? (int)pairs : 4;
    best.clusters = (int)(pairs * best.steps < clusters ? pairs * best.steps : clusters);
    if (direct)
        set_beside(context, pairs, &best);
    hold(context, kind, N, I, O, &best);
    return best;
}

/* ---- slices ---- */

/* What adds them up: a launch, and the bytes per microsecond that it reads from the L2 cache. */
static const double add_start = 4, add_rate = 4e6;
enum { COLUMNS_MOST = 256 }; /* of a tile */

size_t fbni_hopper_slices_size(const fbni_cuda_context *context)
{
    return (size_t)(context->queue.processors / FBNI_HOPPER_CLUSTER) * FBNI_HOPPER_PAIR *
           COLUMNS_MOST * sizeof(float); /* a tile of each cluster */
}

/* Slices are of one wave: what they are summed from is small then, and the waves of whole tiles are
 * full enough where there are several. */
fbni_hopper_tiles fbni_hopper_slice(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                    int64_t N, int64_t I, int64_t O, double *time)
{
    const int64_t clusters = context->queue.processors / FBNI_HOPPER_CLUSTER;
    const int64_t pairs = ceil_div(O, FBNI_HOPPER_PAIR), blocks = ceil_div(I, 64);
    fbni_hopper_tiles best = fbni_hopper_tiles_of(context, kind, N, I, O);
    double least = time_of(&best, kind, I);
    int columns;

    best.slices = 1;
    for (int i = 0; (columns = fbni_hopper_tile_columns(kind, i)) > 0; i++) {
        const int64_t count = ceil_div(N, columns);
        const int64_t most = clusters / (pairs * count);
        if (most < 2 || blocks < 2)
            continue;
        fbni_hopper_tiles t = best;
        const int64_t share = ceil_div(blocks, most), slices = ceil_div(blocks, share);
        const double bytes = 4 * (double)(slices * count * columns) * (double)O;
        t.columns = columns;
        t.count = t.steps = count;
        t.waves = 1;
        t.slices = (int)slices;
        t.clusters = (int)(pairs * count * slices);
        const double takes = time_of(&t, kind, 64 * share) + add_start + bytes / add_rate;
        if (slices > 1 && takes < least) {
            best = t;
            least = takes;
        }
    }
    if (time)
        *time = least;
    return best;
}

/* ---- what follows ---- */

/* Measured on an H100: what a block that follows takes for a pair, and more for each tile of it, in
 * microseconds; and the bytes per microsecond that it reads, and writes, beside the product. */
static const double follow_start = 5, follow_tile = 0.15, follow_rate = 38e3;
enum { FOLLOW_MOST = 8 }; /* clusters */

fbni_cuda_following fbni_hopper_following_of(const fbni_cuda_context *context,
                                             fbni_hopper_kind kind, int64_t N, int64_t I, int64_t O,
                                             bool eager)
{
    const fbni_hopper_tiles t = fbni_hopper_tiles_of(context, kind, N, I, O);
    const int64_t pairs = (O + FBNI_HOPPER_PAIR - 1) / FBNI_HOPPER_PAIR, all = pairs * t.count;
    const double size = fbni_hopper_is_float(kind) ? 4 : 2;
    const double whole = product_time(context, kind, N, I, O);
    const double cost = follow_start + follow_tile * (double)t.count +
                        (double)N * FBNI_HOPPER_PAIR * size / follow_rate;
    double free_at[FOLLOW_MOST * FBNI_HOPPER_CLUSTER] = {0};
    fbni_cuda_following f = {.clusters = t.clusters};
    int64_t idle;

    if (!fbni_hopper_may_follow(kind, t.columns))
        return f;
    f.clusters = (int)((all + t.waves - 1) / t.waves); /* as many waves */
    idle = context->queue.processors / FBNI_HOPPER_CLUSTER - f.clusters;
    f.followers = (int)(idle < FOLLOW_MOST ? idle : FOLLOW_MOST);
    /* band by band, the last one never */
    for (int done = 0; f.followers > 0 && done + t.band < pairs; f.pairs = done) {
        const int64_t tiles = (done + t.band) * t.count;
        const double complete =
            whole * (double)((tiles + f.clusters - 1) / f.clusters) / (double)t.waves;
        for (const int end = done + t.band; done < end; done++) {
            double *at = &free_at[done % (f.followers * FBNI_HOPPER_CLUSTER)];
            *at = (*at > complete ? *at : complete) + cost;
            if (*at > whole && !eager)
                return f;
        }
    }
    return f;
}
#else
size_t fbni_hopper_slices_size(const fbni_cuda_context *context)
{
    (void)context;
    return 0;
}

fbni_hopper_tiles fbni_hopper_slice(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                    int64_t N, int64_t I, int64_t O, double *time)
{
    (void)time;
    return fbni_hopper_tiles_of(context, kind, N, I, O);
}

fbni_hopper_tiles fbni_hopper_tiles_of(const fbni_cuda_context *context, fbni_hopper_kind kind,
                                       int64_t N, int64_t I, int64_t O)
{
    const fbni_hopper_tiles none = {0};

    (void)context, (void)kind, (void)N, (void)I, (void)O;
    return none;
}

fbni_cuda_following fbni_hopper_following_of(const fbni_cuda_context *context,
                                             fbni_hopper_kind kind, int64_t N, int64_t I, int64_t O,
                                             bool eager)
{
    const fbni_cuda_following none = {0};

    (void)context, (void)kind, (void)N, (void)I, (void)O, (void)eager;
    return none;
}
#endif

fbni_cuda_chunks fbni_hopper_chunks_of(const fbni_hopper_tiles *tiles, int64_t N)
{
    const fbni_cuda_chunks chunks = {
        .rows = N,
        .group_rows = tiles->columns,
        .groups = tiles->count,
        .chunks = tiles->holders > 0 ? tiles->holders : (int)tiles->count,
        .reals = 4,
    };
    return chunks;
}

float *fbni_hopper_merged(const fbni_hopper_tiles *tiles, int64_t O, float *partials)
{
    return tiles->holders > 0 ? partials + tiles->count * 4 * O : partials;
}

int64_t fbni_hopper_most_chunks(const fbni_cuda_context *context, int64_t N)
{
    return N / 128 + 1 + context->queue.processors / FBNI_HOPPER_CLUSTER; /* of the narrowest */
}

size_t fbni_hopper_counts(const fbni_cuda_context *context, int64_t O)
{
    return (size_t)(O / FBNI_HOPPER_HELD_FEATURES + 1 +
                    context->queue.processors / FBNI_HOPPER_CLUSTER);
}

int64_t fbni_hopper_most_gradient_chunks(const fbni_cuda_context *context, int64_t N, int64_t O)
{
    const int64_t pairs = (O + FBNI_HOPPER_PAIR - 1) / FBNI_HOPPER_PAIR;
    const int64_t most = 4 * (int64_t)context->queue.processors / pairs; /* of divided tiles */
    const int64_t tiles = N / 128 + 1;

    return tiles > most ? tiles : most;
}
