/* SPDX-License-Identifier: BSD-3-Clause
 * One case in one dtype: its contestants are made, verified and timed.
 */
#include "bench.h"

#include <math.h>
#include <string.h>

/* The noise that the bounds on ratios are given with. */
static const double noise = 0.05;

struct contest {
    const struct bench_case *c;
    fbn_dtype dtype;
    bool on_host; /* the peers run where the layer does */
    struct tensors inputs, inputs_f32, results;
    struct layer_runner layer, layer_f32;
    struct unfused_runner unfused;
    struct product_runner product;
    struct memory_runner memory;
};

static bool is_half(fbn_dtype dtype)
{
    return dtype == FBN_BF16 || dtype == FBN_F16;
}

/* 0, 1 when the backend refuses, or -1. */
static int create_layer(struct layer_runner *r, fbn_context *context, const struct bench_case *c,
                        const struct tensors *inputs, const char *kernel)
{
    const char *refusal;
    if (layer_runner_create(r, context, c, inputs, kernel, &refusal) == 0)
        return 0;
    if (refusal == NULL)
        return -1;
    fprintf(stderr, "bench: %s %s is left out: %s\n", c->name, dtype_name(inputs->matrix_type),
            refusal);
    return 1;
}

static int create_contest(struct contest *t, fbn_context *context, const char *kernel)
{
    const fbn_dtype real = param_type_of(t->dtype);
    if (tensors_create(&t->inputs, t->c, t->dtype, real) != 0)
        return -1;
    tensors_fill(&t->inputs);
    const int created = create_layer(&t->layer, context, t->c, &t->inputs, kernel);
    if (created != 0)
        return created;
    if (tensors_create(&t->results, t->c, t->dtype, real) != 0 ||
        unfused_runner_create(&t->unfused, t->c, &t->inputs) != 0 ||
        product_runner_create(&t->product, t->c, &t->unfused.real) != 0 ||
        memory_runner_create(&t->memory, t->c, t->dtype) != 0)
        return -1;
    if (!is_half(t->dtype))
        return 0;
    if (tensors_create(&t->inputs_f32, t->c, FBN_F32, FBN_F32) != 0)
        return -1;
    tensors_copy_inputs(&t->inputs_f32, &t->inputs);
    return create_layer(&t->layer_f32, context, t->c, &t->inputs_f32, kernel);
}

static void destroy_contest(struct contest *t)
{
    memory_runner_destroy(&t->memory);
    product_runner_destroy(&t->product);
    unfused_runner_destroy(&t->unfused);
    layer_runner_destroy(&t->layer_f32);
    layer_runner_destroy(&t->layer);
    tensors_destroy(&t->results);
    tensors_destroy(&t->inputs_f32);
    tensors_destroy(&t->inputs);
}

static int verify_contest(struct contest *t, struct verdict *verdict)
{
    if (layer_runner_run(&t->layer) != 0 || layer_runner_results(&t->layer, &t->results) != 0 ||
        unfused_runner_run(&t->unfused) != 0)
        return -1;
    return verify(verdict, t->c, &t->inputs, &t->results, unfused_runner_results(&t->unfused));
}

static int time_contest(struct contest *t, int64_t rounds, struct timing *timings)
{
    const struct runner all[CONTESTANTS] = {
        [LAYER] = {"layer", layer_runner_run, &t->layer},
        [PRODUCT] = {"product", product_runner_run, &t->product},
        [UNFUSED] = {"unfused", unfused_runner_run, &t->unfused},
        [MEMORY] = {"memory", memory_runner_run, &t->memory},
        [LAYER_F32] = {"f32 layer", layer_runner_run, &t->layer_f32},
    };
    struct runner runners[CONTESTANTS];
    struct timing measured[CONTESTANTS];
    int places[CONTESTANTS], count = 0;

    for (int k = 0; k < CONTESTANTS; k++) {
        const bool runs = k == LAYER || (k == LAYER_F32 ? is_half(t->dtype) : t->on_host);
        if (runs) {
            places[count] = k;
            runners[count++] = all[k];
        }
    }
    if (time_runners(runners, count, t->c->cold, rounds, measured) != 0)
        return -1;
    for (int k = 0; k < count; k++)
        timings[places[k]] = measured[k];
    return 0;
}

/* What would be left if everything but the products and the memory traffic were free: the products
 * at the best rate seen through CBLAS, on the square product or on this one. A layer whose blocks
 * suit the BLAS better than the whole product does can come out below it. */
static double floor_of(const struct bench_case *c, const struct timing *timings, double peak)
{
    const double products = fmin(case_flops(c) / peak, timings[PRODUCT].minimum);
    return peak > 0 ? fmax(products, timings[MEMORY].median) : 0;
}

static void judge(struct result *r)
{
    const struct bench_case *c = r->bench_case;
    const struct timing *t = r->timings;
    const bool bounded = c->product_bound > 0 || c->time_bound > 0;
    double tolerance = noise;

    r->standing = NO_BOUND;
    if (is_half(r->dtype) && bounded) {
        r->bound_to = "f32 layer";
        r->bound = HALF_BOUND;
        r->measured = t[LAYER].median / t[LAYER_F32].median;
    } else if (r->dtype == FBN_F32 && c->product_bound > 0 && t[PRODUCT].name != NULL) {
        r->bound_to = "product";
        r->bound = c->product_bound;
        r->measured = t[LAYER].median / t[PRODUCT].median;
    } else if (r->dtype == FBN_F32 && c->time_bound > 0) {
        r->bound_to = "us";
        r->bound = c->time_bound;
        r->measured = 1e6 * t[LAYER].median;
        tolerance = 0;
    } else {
        return;
    }
    r->standing = r->measured <= r->bound               ? MET
                  : r->measured <= r->bound + tolerance ? WITHIN_NOISE
                                                        : MISSED;
}

int run_contest(struct result *result, fbn_context *context, const struct bench_case *c,
                fbn_dtype dtype, const char *kernel, int64_t rounds, double peak)
{
    struct contest t = {.c = c, .dtype = dtype};
    t.on_host = fbn_context_backend(context) == FBN_BACKEND_CPU;

    memset(result, 0, sizeof *result);
    result->bench_case = c;
    result->dtype = dtype;
    int status = create_contest(&t, context, kernel);
    if (status != 0)
        goto out;
    snprintf(result->description, sizeof result->description, "%s",
             fbn_layer_describe(t.layer.layer));
    status = verify_contest(&t, &result->verdict);
    if (status != 0 || !result->verdict.good)
        goto out;
    status = time_contest(&t, rounds, result->timings);
    if (status != 0)
        goto out;
    if (t.on_host)
        result->floor = floor_of(c, result->timings, peak);
    judge(result);
out:
    destroy_contest(&t);
    return status;
}
