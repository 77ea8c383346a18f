/* SPDX-License-Identifier: BSD-3-Clause
 * The data that the contestants work on.
 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

/* ------------------------------------------------------------------------------------- numbers */

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float from_bf16(uint16_t value)
{
    return float_of((uint32_t)value << 16);
}

/* To nearest, ties to even; numbers alone. */
static uint16_t to_bf16(float value)
{
    const uint32_t bits = bits_of(value);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* The bits as a float that is 2^112 times too small (the difference of the exponents' biases);
 * subnormals come out right, too. Numbers alone. */
static float from_f16(uint16_t value)
{
    const float magnitude = float_of((uint32_t)(value & 0x7fff) << 13) * 0x1p112f;
    return float_of(bits_of(magnitude) | (uint32_t)(value & 0x8000) << 16);
}

/* To nearest, ties to even: adding a power of two whose last place is that of the result lets the
 * float addition round (Dukhan's FP16 library, fp16_ieee_from_fp32_value). Numbers alone. */
static uint16_t to_f16(float value)
{
    const uint32_t bits = bits_of(value);
    const uint32_t exponent = (bits << 1) & 0xff000000u;
    const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
    const float magnitude = (fabsf(value) * 0x1p112f) * 0x1p-110f;
    const uint32_t sum = bits_of(float_of((bias >> 1) + 0x07800000u) + magnitude);
    return (uint16_t)((bits >> 16 & 0x8000) + (sum >> 13 & 0x7c00) + (sum & 0x0fff));
}

void convert_to_float(fbn_dtype from, int64_t count, const void *source, float *target)
{
    const uint16_t *half = source;
    if (from == FBN_BF16) {
#pragma omp parallel for simd
        for (int64_t i = 0; i < count; i++)
            target[i] = from_bf16(half[i]);
    } else {
#pragma omp parallel for simd
        for (int64_t i = 0; i < count; i++)
            target[i] = from_f16(half[i]);
    }
}

void convert_from_float(fbn_dtype to, int64_t count, const float *source, void *target)
{
    uint16_t *half = target;
    if (to == FBN_BF16) {
#pragma omp parallel for simd
        for (int64_t i = 0; i < count; i++)
            half[i] = to_bf16(source[i]);
    } else {
#pragma omp parallel for simd
        for (int64_t i = 0; i < count; i++)
            half[i] = to_f16(source[i]);
    }
}

/* splitmix64 (Steele, Lea and Flood, OOPSLA 2014), as a number from -1 to 1. */
static double random_number(uint64_t *state)
{
    uint64_t bits = *state += UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
    bits ^= bits >> 31;
    return (double)(bits >> 11) * 0x1p-52 - 1;
}

/* ------------------------------------------------------------------------------------- tensors */

fbn_dtype param_type_of(fbn_dtype dtype)
{
    return dtype == FBN_F64 ? FBN_F64 : FBN_F32;
}

size_t dtype_size(fbn_dtype dtype)
{
    return dtype == FBN_F64 ? 8 : dtype == FBN_F32 ? 4 : 2;
}

static bool is_matrix(enum tensor_id id)
{
    return id == T_X || id == T_W || id == T_DY || id == T_Y || id == T_DX || id == T_DW;
}

fbn_dtype tensor_type(const struct tensors *t, enum tensor_id id)
{
    return is_matrix(id) ? t->matrix_type : t->param_type;
}

size_t tensor_bytes(const struct tensors *t, enum tensor_id id)
{
    return (size_t)t->count[id] * dtype_size(tensor_type(t, id));
}

const char *tensor_name(enum tensor_id id)
{
    static const char *const names[TENSORS] = {
        [T_X] = "x",
        [T_W] = "w",
        [T_BIAS] = "bias",
        [T_SCALE] = "scale",
        [T_GAMMA] = "gamma",
        [T_BETA] = "beta",
        [T_DY] = "dy",
        [T_MEAN] = "running_mean",
        [T_VAR] = "running_var",
        [T_Y] = "y",
        [T_DX] = "dx",
        [T_DW] = "dW",
        [T_DBIAS] = "dbias",
        [T_DSCALE] = "dscale",
        [T_DGAMMA] = "dgamma",
        [T_DBETA] = "dbeta",
    };
    return names[id];
}

double tensor_get(const struct tensors *t, enum tensor_id id, int64_t i)
{
    const void *data = t->data[id];
    switch (tensor_type(t, id)) {
    case FBN_F64:
        return ((const double *)data)[i];
    case FBN_F32:
        return (double)((const float *)data)[i];
    case FBN_BF16:
        return (double)from_bf16(((const uint16_t *)data)[i]);
    default:
        return (double)from_f16(((const uint16_t *)data)[i]);
    }
}

static void tensor_set(struct tensors *t, enum tensor_id id, int64_t i, double value)
{
    void *data = t->data[id];
    switch (tensor_type(t, id)) {
    case FBN_F64:
        ((double *)data)[i] = value;
        break;
    case FBN_F32:
        ((float *)data)[i] = (float)value;
        break;
    case FBN_BF16:
        ((uint16_t *)data)[i] = to_bf16((float)value);
        break;
    default:
        ((uint16_t *)data)[i] = to_f16((float)value);
    }
}

void tensors_describe(struct tensors *t, const struct bench_case *c, fbn_dtype matrix_type,
                      fbn_dtype param_type)
{
    const bool backward = c->operation == OP_TRAIN_BACKWARD;
    memset(t, 0, sizeof *t);
    t->matrix_type = matrix_type;
    t->param_type = param_type;
    for (int id = 0; id < TENSORS; id++)
        t->count[id] = backward || id < T_DX ? c->out : 0;
    t->count[T_X] = c->batch * c->in;
    t->count[T_W] = c->out * c->in;
    t->count[T_Y] = c->batch * c->out;
    t->count[T_DY] = backward ? c->batch * c->out : 0;
    t->count[T_DX] = backward ? c->batch * c->in : 0;
    t->count[T_DW] = backward ? c->out * c->in : 0;
    if (c->chain == CHAIN_BN_SCALE_SOFTMAX) {
        t->count[T_SCALE] = 1;
        t->count[T_DSCALE] = backward;
    }
}

int tensors_create(struct tensors *t, const struct bench_case *c, fbn_dtype matrix_type,
                   fbn_dtype param_type)
{
    tensors_describe(t, c, matrix_type, param_type);
    for (int id = 0; id < TENSORS; id++) {
        const size_t bytes = tensor_bytes(t, (enum tensor_id)id);
        if (bytes == 0)
            continue;
        const size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        t->data[id] = aligned_alloc(ALIGNMENT, rounded);
        if (t->data[id] == NULL) {
            fprintf(stderr, "bench: no memory for %zu bytes\n", bytes);
            tensors_destroy(t);
            return -1;
        }
        memset(t->data[id], 0, rounded);
    }
    return 0;
}

void tensors_destroy(struct tensors *t)
{
    for (int id = 0; id < TENSORS; id++)
        free(t->data[id]);
    memset(t, 0, sizeof *t);
}

/* Data as it may come in a network: x of mean 0.5, W as PyTorch initialises it, dy like that of a
 * mean over the batch, the rest around its neutral value. */
void tensors_fill(struct tensors *t)
{
    static const struct {
        double middle, half_width;
    } range[T_Y] = {
        [T_X] = {0.5, 1},    [T_BIAS] = {0, 0.1},   [T_SCALE] = {1, 0.5},  [T_GAMMA] = {1, 0.5},
        [T_BETA] = {0, 0.5}, [T_MEAN] = {0.1, 0.5}, [T_VAR] = {0.5, 0.25},
    };
    uint64_t state = 1;
    for (int id = 0; id < T_Y; id++) {
        double middle = range[id].middle, half_width = range[id].half_width;
        if (id == T_W)
            half_width = 1 / sqrt((double)t->count[T_W] / (double)t->count[T_BIAS]);
        if (id == T_DY)
            half_width = 1;
        for (int64_t i = 0; i < t->count[id]; i++)
            tensor_set(t, (enum tensor_id)id, i, middle + half_width * random_number(&state));
    }
}

void tensors_copy_inputs(struct tensors *to, const struct tensors *from)
{
    for (int id = 0; id < T_Y; id++) {
        const enum tensor_id tensor = (enum tensor_id)id;
        if (to->count[id] == 0)
            continue;
        if (tensor_type(to, tensor) == tensor_type(from, tensor)) {
            memcpy(to->data[id], from->data[id], tensor_bytes(to, tensor));
            continue;
        }
        for (int64_t i = 0; i < to->count[id]; i++)
            tensor_set(to, tensor, i, tensor_get(from, tensor, i));
    }
}
