/* SPDX-License-Identifier: BSD-3-Clause
 * The data on the device, in several sets.
 */
#include "bench_cuda.h"

#include <math.h>
#include <string.h>

/* Together, the sets are so many times the cache. */
enum { TIMES_CACHE = 4, SEEDS = 64 };

void *gpu_allocate(size_t bytes)
{
    void *pointer = NULL;
    if (bytes > 0)
        (void)check_cuda(cudaMalloc(&pointer, bytes), "cudaMalloc");
    return pointer;
}

static bool is_matrix(int id)
{
    return id == T_X || id == T_W || id == T_DY || id == T_Y || id == T_DX || id == T_DW;
}

int gpu_sets_for(const struct gpu *g, const struct bench_case *c, enum precision precision)
{
    const double bytes = case_bytes(c, precision_dtype(precision));
    const double sets = ceil((double)TIMES_CACHE * g->cache / bytes);
    return sets < 2 ? 2 : sets > MOST_SETS ? MOST_SETS : (int)sets;
}

/* As tensors_fill() fills the host's: x of mean 0.5, W as PyTorch initialises it, dy like that of a
 * mean over the batch, the rest around its neutral value. */
static struct gpu_filling filling_of(const struct gpu_data *d, int id, int set)
{
    struct gpu_filling f = {.distribution = GPU_UNIFORM, .width = 1};
    f.seed = (uint64_t)(id + 1) * SEEDS + (uint64_t)set;
    switch (id) {
    case T_X:
        f.middle = 0.5;
        break;
    case T_W:
        f.width = 1 / sqrt((double)d->bench_case->in);
        break;
    case T_BIAS:
        f.width = 0.1;
        break;
    case T_SCALE:
    case T_GAMMA:
        f.middle = 1;
        f.width = 0.5;
        break;
    case T_MEAN:
        f.middle = 0.1;
        f.width = 0.5;
        break;
    case T_VAR:
        f.middle = 0.5;
        f.width = 0.25;
        break;
    case T_BETA:
        f.width = 0.5;
        break;
    default:
        break;
    }
    return f;
}

static int fill_tensor(struct gpu_data *d, struct gpu *g, int id, int set)
{
    const struct gpu_filling filling = filling_of(d, id, set);
    return check_cuda(gpu_fill(g->stream, tensor_type(&d->shape, (enum tensor_id)id),
                               d->shape.count[id], d->set[set][id], &filling),
                      "fill");
}

int gpu_data_create(struct gpu_data *d, struct gpu *g, const struct bench_case *c,
                    enum precision precision, int sets)
{
    const fbn_dtype dtype = precision_dtype(precision);
    memset(d, 0, sizeof *d);
    d->bench_case = c;
    d->precision = precision;
    tensors_describe(&d->shape, c, dtype, param_type_of(dtype));
    for (d->sets = 0; d->sets < sets; d->sets++) {
        void **data = d->set[d->sets];
        for (int id = 0; id < TENSORS; id++) {
            if (d->shape.count[id] == 0)
                continue;
            if (d->sets > 0 && !is_matrix(id)) {
                data[id] = d->set[0][id];
                continue;
            }
            data[id] = gpu_allocate(tensor_bytes(&d->shape, (enum tensor_id)id));
            if (data[id] == NULL || (id < T_Y && fill_tensor(d, g, id, d->sets) != 0)) {
                d->sets++;
                return -1;
            }
        }
    }
    return 0;
}

void gpu_data_destroy(struct gpu_data *d)
{
    for (int set = 0; set < d->sets; set++)
        for (int id = 0; id < TENSORS; id++)
            if (set == 0 || is_matrix(id))
                (void)cudaFree(d->set[set][id]);
    memset(d, 0, sizeof *d);
}

int gpu_data_reset(struct gpu_data *d, struct gpu *g)
{
    return fill_tensor(d, g, T_MEAN, 0) != 0 || fill_tensor(d, g, T_VAR, 0) != 0 ? -1 : 0;
}

int gpu_data_poison(struct gpu_data *d, struct gpu *g)
{
    for (int id = T_Y; id < TENSORS; id++)
        if (d->shape.count[id] > 0 &&
            check_cuda(cudaMemsetAsync(d->set[0][id], 0xff,
                                       tensor_bytes(&d->shape, (enum tensor_id)id), g->stream),
                       "cudaMemsetAsync") != 0)
            return -1;
    return 0;
}

int gpu_data_to_double(struct gpu_data *to, const struct gpu_data *from, struct gpu *g)
{
    for (int id = 0; id < T_Y; id++)
        if (from->shape.count[id] > 0 &&
            check_cuda(gpu_to_double(g->stream, tensor_type(&from->shape, (enum tensor_id)id),
                                     from->shape.count[id], from->set[0][id], to->set[0][id]),
                       "conversion") != 0)
            return -1;
    return 0;
}
