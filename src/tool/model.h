/* SPDX-License-Identifier: BSD-3-Clause
 * A layer's tensors within a file, under the names that PyTorch gives them.
 */
#ifndef MODEL_H
#define MODEL_H

#include "tensor.h"

/* I and O, and the layer's tensors; those that the file has not are NULL. All view the set. */
struct model {
    int64_t in_features, out_features;
    struct tensor *weight; /* gemm.weight [O,I]; there always is one */
    struct tensor *bias;   /* gemm.bias [O] */
    struct tensor *scale;  /* scale, one entry or [O] */
    struct tensor *gamma;  /* bn.weight [O] */
    struct tensor *beta;   /* bn.bias [O] */
    struct tensor *mean;   /* bn.running_mean [O]; with var, or neither */
    struct tensor *var;    /* bn.running_var [O] */
    struct tensor *count;  /* bn.num_batches_tracked, one entry, I64 */
};

/*
 * Finds them under prefix and checks element types (F64, F32, BF16 or F16, but for the count) and
 * shapes. Errors: FILE_MISSING_TENSOR, FILE_WRONG_DTYPE, FILE_WRONG_SHAPE.
 */
enum file_status model_find(const struct tensor_set *set, const char *prefix, struct model *model,
                            struct file_error *err);

/* FILE_MISSING_TENSOR where the running statistics are absent; why ends the sentence: "... is
 * missing, which inference needs". */
enum file_status model_need_statistics(const struct model *model, const char *prefix,
                                       const char *why, struct file_error *err);

#endif
