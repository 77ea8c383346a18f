/* SPDX-License-Identifier: BSD-3-Clause
 * Running the `fusedbn` command on files in a directory of its own, and the layer that its tests
 * compute with.
 */
#ifndef TOOL_HARNESS_H
#define TOOL_HARNESS_H

#include "tensor_file.h"

#include <check.h>

/* ---- the command */

struct outcome {
    int status; /* the exit status, or 128 + the signal's number */
    char out[8192], err[4096];
};

/* Finds the command: $FUSEDBN_COMMAND, or fusedbn in the current directory. */
void find_command(void);

/* Fixture: an empty directory, which is the command's current one, and its removal. */
void make_directory(void);
void remove_directory(void);

/* The path of a file in it. */
struct path {
    char text[256];
};
struct path in_directory(const char *name);

/* "M.safetensors x.npy": the directory's files in order of their names. */
struct path list_directory(void);

/* Runs the command with the arguments, which spaces separate. */
void run_command(struct outcome *outcome, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* run_command() with a limit on the size of files, which fails writes as a full disk does. */
void run_limited(struct outcome *outcome, long limit, const char *arguments);

/* run_command() with stdout on a device, as /dev/full. */
void run_into(struct outcome *outcome, const char *device, const char *arguments);

/* Fails unless the command succeeded and said nothing. */
void check_silent(const struct outcome *outcome);

/* ---- files */

void write_set(const char *name, const struct tensor_set *set);
void read_set(const char *name, struct tensor_set *set);

/* The bytes of a file, to be freed. */
unsigned char *read_file(const char *name, size_t *size);

/* ---- the layer
 *
 * All numbers are small and every variance is a power of 4 (with --eps 0), so that the expected
 * results are exact in every type, and neighbouring ones lie far apart. The library may round a few
 * times on its way to them (a fifth has no exact representation).
 */

#define ROWS 5
#define INPUTS 3
#define FEATURES 4

/* Two columns with mean 0 and variance 2, orthogonal to each other, and a constant. */
extern const double layer_x[ROWS][INPUTS];
extern const double layer_weight[FEATURES][INPUTS];

/* Which tensors the model has, and of which types. */
struct layer {
    const char *prefix;
    enum dtype weight_dtype, param_dtype;
    bool bias, gamma, beta, statistics, count;
    int scale; /* entries: 0, 1 or FEATURES */
};

extern const struct layer full_layer; /* all of it, in F32 */

struct chain_name {
    const char *name;
    bool scale_first;
};
extern const struct chain_name chains[2];

/* The model with two tensors that are none of the layer's, and metadata; tensor_set_free(). */
void make_model(const struct layer *layer, struct tensor_set *set);

/* X with one tensor of that name (NULL for .npy). */
void make_input(const char *name, enum dtype dtype, struct tensor_set *set);

/* A set's tensors with values given as doubles. */
void add_tensor(struct tensor_set *set, const char *name, enum dtype dtype, size_t ndim,
                const int64_t *shape, const double *values);

/* v = the layer before its activation, from the definition; and what training makes of the
 * running statistics with momentum 1/2. */
struct expected {
    double v[ROWS][FEATURES];
    double mean[FEATURES], var[FEATURES];
};
void compute_expected(const struct layer *layer, const struct chain_name *chain, bool train,
                      struct expected *expected);

/* How far rounding on the way may lead, where parameters are of this type: 8 roundings, each of
 * half a unit in the last place of a number below 64, as all of z and v are. */
double layer_slack(enum dtype param_dtype);

/* The tensor has this type and shape, and each value is one of type `via`: the expected one, within
 * a unit in its last place and the slack of param_dtype. */
void check_values(const struct tensor *tensor, enum dtype dtype, size_t ndim, const int64_t *shape,
                  const double *expected, enum dtype via, enum dtype param_dtype);

/* The tensor of that name is the same in both. */
void check_unchanged(const struct tensor_set *before, const struct tensor_set *after,
                     const char *name);

/* The four types of the library, and their words on the command line. */
struct type_name {
    enum dtype dtype;
    const char *name;
};
extern const struct type_name types[4];

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

#endif
