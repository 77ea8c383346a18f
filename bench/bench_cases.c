/* SPDX-License-Identifier: BSD-3-Clause
 * What is measured: the shapes, and the bounds that the library is held to on two threads.
 */
#include <stdio.h>
#include <string.h>

#include "bench.h"

/* clang-format off */
const struct bench_case bench_cases[] = {
    /* name                         N      I     O  operation          chain                   cold   usual  ratio us */
    {"train-2048x1024x1024",     2048,  1024, 1024, OP_TRAIN,          CHAIN_SCALE_BN,         false, true,  1.08, 0},
    {"infer-2048x1024x1024",     2048,  1024, 1024, OP_INFER,          CHAIN_SCALE_BN,         false, true,  1.06, 0},
    {"train-4096x64x1024",       4096,    64, 1024, OP_TRAIN,          CHAIN_SCALE_BN,         false, true,  1.25, 0},
    {"softmax-4096x64x1024",     4096,    64, 1024, OP_TRAIN,          CHAIN_BN_SCALE_SOFTMAX, false, true,  1.80, 0},
    {"train-65536x64x256",      65536,    64,  256, OP_TRAIN,          CHAIN_SCALE_BN,         false, true,  1.00, 0},
    {"train-8x64x64",               8,    64,   64, OP_TRAIN,          CHAIN_SCALE_BN,         false, true,  0,    4},
    {"prepared-1x1024x1024",        1,  1024, 1024, OP_PREPARED,       CHAIN_SCALE_BN,         false, true,  1.10, 0},
    {"prepared-cold-1x1024x1024",   1,  1024, 1024, OP_PREPARED,       CHAIN_SCALE_BN,         true,  true,  1.10, 0},
    {"backward-2048x1024x1024",  2048,  1024, 1024, OP_TRAIN_BACKWARD, CHAIN_SCALE_BN,         false, true,  1.12, 0},

    /* The other shapes on which the peers were measured; nothing is promised. */
    {"train-32x256x256",           32,   256,  256, OP_TRAIN,          CHAIN_SCALE_BN,         false, false, 0,    0},
    {"train-128x1024x512",        128,  1024,  512, OP_TRAIN,          CHAIN_SCALE_BN,         false, false, 0,    0},
    {"softmax-128x1024x512",      128,  1024,  512, OP_TRAIN,          CHAIN_BN_SCALE_SOFTMAX, false, false, 0,    0},
    {"backward-128x1024x512",     128,  1024,  512, OP_TRAIN_BACKWARD, CHAIN_SCALE_BN,         false, false, 0,    0},
    {"prepared-128x1024x512",     128,  1024,  512, OP_PREPARED,       CHAIN_SCALE_BN,         false, false, 0,    0},
    {"train-16x4096x4096",         16,  4096, 4096, OP_TRAIN,          CHAIN_SCALE_BN,         false, false, 0,    0},
    {"softmax-2048x1024x1024",   2048,  1024, 1024, OP_TRAIN,          CHAIN_BN_SCALE_SOFTMAX, false, false, 0,    0},
    {"softmax-infer-2048x1024x1024", 2048, 1024, 1024, OP_INFER,       CHAIN_BN_SCALE_SOFTMAX, false, false, 0,    0},
    {"softmax-backward-2048x1024x1024", 2048, 1024, 1024, OP_TRAIN_BACKWARD, CHAIN_BN_SCALE_SOFTMAX, false, false, 0, 0},
    {"softmax-backward-4096x64x1024", 4096, 64, 1024, OP_TRAIN_BACKWARD, CHAIN_BN_SCALE_SOFTMAX, false, false, 0, 0},
    {"backward-65536x64x256",   65536,    64,  256, OP_TRAIN_BACKWARD, CHAIN_SCALE_BN,         false, false, 0,    0},

    /* KernelBench level 2, problems 33, 39 and 84: minutes each on a few cores. */
    {"train-1024x8192x8192",     1024,  8192, 8192, OP_TRAIN,          CHAIN_SCALE_BN,         false, false, 0,    0},
    {"softmax-1024x8192x8192",   1024,  8192, 8192, OP_TRAIN,          CHAIN_BN_SCALE_SOFTMAX, false, false, 0,    0},
    {"train-16384x4096x4096",   16384,  4096, 4096, OP_TRAIN,          CHAIN_SCALE_BN,         false, false, 0,    0},
};
/* clang-format on */

const int bench_case_count = sizeof bench_cases / sizeof *bench_cases;

const char *operation_name(enum operation operation)
{
    static const char *const names[] = {
        [OP_TRAIN] = "train",
        [OP_INFER] = "infer",
        [OP_PREPARED] = "prepared",
        [OP_TRAIN_BACKWARD] = "train+backward",
    };
    return names[operation];
}

const char *chain_name(enum chain chain)
{
    return chain == CHAIN_SCALE_BN ? "linear-scale-bn" : "linear-bn-scale-softmax";
}

const char *dtype_name(fbn_dtype dtype)
{
    static const char *const names[] = {
        [FBN_F32] = "f32", [FBN_F64] = "f64", [FBN_BF16] = "bf16", [FBN_F16] = "f16"};
    return names[dtype];
}

bool case_trains(const struct bench_case *c)
{
    return c->operation == OP_TRAIN || c->operation == OP_TRAIN_BACKWARD;
}

bool case_is_chosen(const struct bench_case *c, const char *names)
{
    if (names == NULL)
        return c->usual;
    for (const char *text = names; *text != '\0'; text += *text == ',') {
        char part[64];
        const size_t length = strcspn(text, ",");
        snprintf(part, sizeof part, "%.*s", (int)length, text);
        if (strcmp(part, "all") == 0 || (length > 0 && strstr(c->name, part) != NULL))
            return true;
        text += length;
    }
    return false;
}

double case_flops(const struct bench_case *c)
{
    const double products = c->operation == OP_TRAIN_BACKWARD ? 3 : 1;
    return products * 2 * (double)c->batch * (double)c->in * (double)c->out;
}

double case_bytes(const struct bench_case *c, fbn_dtype dtype)
{
    struct tensors t;
    double bytes = 0;
    tensors_describe(&t, c, dtype, param_type_of(dtype));
    for (int id = 0; id < TENSORS; id++)
        bytes += (double)tensor_bytes(&t, (enum tensor_id)id);
    return bytes;
}
