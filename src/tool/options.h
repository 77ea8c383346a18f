/* SPDX-License-Identifier: BSD-3-Clause
 * The command line of `fusedbn`.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "tensor.h"

#include <fusedbn.h>

enum exit_status { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

enum command { COMMAND_RUN, COMMAND_FOLD, COMMAND_INFO };

/* The two layers that the library is built for. */
enum chain { CHAIN_LINEAR_SCALE_BN, CHAIN_LINEAR_BN_SCALE_SOFTMAX };

struct options {
    enum command command;
    enum chain chain;
    bool train;
    const char *model;
    const char *prefix; /* "" where not given */
    const char *input;
    const char *output;
    const char *save_model; /* NULL where not given */
    fbn_backend backend;
    bool dtype_given; /* else that of the model's weight */
    enum dtype dtype; /* F64, F32, BF16 or F16 */
    fbn_math math;
    fbn_activation activation; /* the chain's own where not given */
    double eps;
    double momentum;
    bool cumulative; /* --momentum cumulative */
};

/*
 * Reads the arguments. True: *options is complete, go on. False: everything has been said (help or
 * version on stdout, or what is wrong on stderr) and *status is the program's exit status.
 */
bool options_parse(int argc, char **argv, struct options *options, enum exit_status *status);

/* `fusedbn --help`, and that of a command, on stdout. */
void help_general(void);
void help_command(enum command command);

#endif
