/* SPDX-License-Identifier: BSD-3-Clause
 * The results on the device against the unfused computation in double.
 */
#include "bench_cuda.h"

#include <float.h>
#include <math.h>

int gpu_error_of(struct gpu_error *e, struct gpu *g, fbn_dtype dtype, int64_t count,
                 const void *values, const double *exact)
{
    double partials[GPU_BLOCKS][4];
    double squares = 0, sizes = 0;
    if (check_cuda(gpu_compare(g->stream, dtype, count, values, exact, g->comparison), "compare") !=
            0 ||
        check_cuda(cudaMemcpyAsync(partials, g->comparison, sizeof partials, cudaMemcpyDeviceToHost,
                                   g->stream),
                   "cudaMemcpyAsync") != 0 ||
        check_cuda(cudaStreamSynchronize(g->stream), "compare") != 0)
        return -1;
    e->largest = e->size = 0;
    for (int i = 0; i < GPU_BLOCKS; i++) {
        squares += partials[i][0];
        sizes += partials[i][1];
        e->largest = fmax(e->largest, partials[i][2]);
        e->size = fmax(e->size, partials[i][3]);
    }
    e->relative = sizes > 0 ? sqrt(squares / sizes) : sqrt(squares);
    return 0;
}

static double epsilon_of(fbn_dtype dtype)
{
    static const double epsilon[] = {
        [FBN_F32] = FLT_EPSILON, [FBN_F64] = DBL_EPSILON, [FBN_BF16] = 0x1p-7, [FBN_F16] = 0x1p-10};
    return epsilon[dtype];
}

/* Of the unfused computation's intermediate matrices, or of a TF32 product's operands: half of these
 * digits is what its results can be asked to have. */
static double coarsest_epsilon(const struct gpu_data *data)
{
    return data->precision == P_TF32 ? 0x1p-10 : epsilon_of(data->shape.matrix_type);
}

struct errors {
    struct gpu_error of[TENSORS];
};

/* One run on the first set, into results full of NaN. */
static int run_once(struct errors *errors, struct gpu *g, struct gpu_data *data, gpu_queue *queue,
                    void *state, const struct gpu_data *exact)
{
    if (gpu_data_reset(data, g) != 0 || gpu_data_poison(data, g) != 0 || queue(state, 0) != 0)
        return -1;
    for (int i = T_MEAN; i < TENSORS; i++) {
        const enum tensor_id id = (enum tensor_id)i;
        if (data->shape.count[id] > 0 &&
            gpu_error_of(&errors->of[id], g, tensor_type(&data->shape, id), data->shape.count[id],
                         data->set[0][id], exact->set[0][id]) != 0)
            return -1;
    }
    return gpu_data_reset(data, g);
}

/*
 * As bench_verify.c has it: the layer may err twice as much as the unfused computation in the same
 * precision, and 4 units in the last place. It can err much: two rows that differ by less than the
 * data's type can tell have any z. But an unfused computation that has nothing right is wrong itself,
 * and judges nothing. d bias must be 0 exactly. d scale before the normalisation is proportional to
 * eps, a difference of large numbers in any unfused computation: half of its digits.
 */
static double allowed_error(const struct gpu_data *data, enum tensor_id id,
                            const struct gpu_error *unfused)
{
    const double epsilon = epsilon_of(tensor_type(&data->shape, id));
    const double half_the_digits = sqrt(coarsest_epsilon(data)) * unfused->size;
    if (id == T_DBIAS)
        return 0;
    if (id == T_DSCALE && data->bench_case->chain != CHAIN_BN_SCALE_SOFTMAX)
        return half_the_digits;
    if (!(unfused->largest <= unfused->size / 2))
        return -1;
    return 2 * unfused->largest + 4 * epsilon * unfused->size;
}

static void judge(struct gpu_verdict *v, const struct gpu_data *data, const struct errors *layer,
                  const struct errors *unfused)
{
    v->good = true;
    v->used = -1;
    v->relative = layer->of[T_Y].relative;
    for (int i = T_MEAN; i < TENSORS; i++) {
        const enum tensor_id id = (enum tensor_id)i;
        if (data->shape.count[id] == 0)
            continue;
        const double allowed = allowed_error(data, id, &unfused->of[id]);
        const double error = layer->of[id].largest;
        const bool good = error <= allowed;
        const double used = !good ? INFINITY : allowed > 0 ? error / allowed : 0;
        if (allowed < 0)
            fprintf(stderr, "bench: %s of the unfused computation is wrong: off by %g of %g\n",
                    tensor_name(id), unfused->of[id].largest, unfused->of[id].size);
        else if (!good)
            fprintf(stderr, "bench: %s of the layer is wrong: off by %g of %g, allowed %g\n",
                    tensor_name(id), error, layer->of[id].size, allowed);
        if (used > v->used) {
            v->used = used;
            v->worst = id;
        }
        v->good = v->good && good;
    }
}

/* d bias is compared with 0, and not with the reference's noise. */
static int make_exact(struct gpu_unfused *exact, struct gpu *g, const struct gpu_data *from)
{
    struct gpu_data *to = exact->data;
    if (gpu_data_to_double(to, from, g) != 0 || gpu_unfused_queue(exact, 0) != 0)
        return -1;
    return to->shape.count[T_DBIAS] == 0
               ? 0
               : check_cuda(cudaMemsetAsync(to->set[0][T_DBIAS], 0,
                                            tensor_bytes(&to->shape, T_DBIAS), g->stream),
                            "cudaMemsetAsync");
}

int gpu_verify(struct gpu_verdict *v, struct gpu *g, struct gpu_layer *layer,
               struct gpu_unfused *unfused, bool sampled)
{
    struct gpu_data *data = layer->data, double_data = {0};
    struct gpu_unfused exact = {0};
    struct errors by_layer, by_unfused;
    int result = -1;

    if (gpu_data_create(&double_data, g, data->bench_case, P_F64, 1) != 0 ||
        gpu_unfused_create(&exact, g, &double_data) != 0 || gpu_data_reset(data, g) != 0 ||
        make_exact(&exact, g, data) != 0)
        goto out;
    if (sampled) {
        result = gpu_check_exact(g, &exact);
        if (result != 0)
            goto out;
        result = -1;
    }
    if (run_once(&by_layer, g, data, gpu_layer_queue, layer, &double_data) != 0 ||
        run_once(&by_unfused, g, data, gpu_unfused_queue, unfused, &double_data) != 0)
        goto out;
    judge(v, data, &by_layer, &by_unfused);
    result = 0;
out:
    gpu_unfused_destroy(&exact);
    gpu_data_destroy(&double_data);
    return result;
}
