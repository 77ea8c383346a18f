/* SPDX-License-Identifier: BSD-3-Clause
 * The `fusedbn` command.
 */
#include "commands.h"
#include "replace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What was printed counts as done only when it has arrived: a full disk is a failure. */
static enum exit_status close_stdout(enum exit_status status)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "fusedbn: standard output: %s\n", strerror(errno));
        return EXIT_FAILED;
    }
    return status;
}

int main(int argc, char **argv)
{
    struct options options;
    enum exit_status status;

    if (options_parse(argc, argv, &options, &status)) {
        replacement_handle_signals();
        switch (options.command) {
        case COMMAND_RUN:
            status = command_run(&options);
            break;
        case COMMAND_FOLD:
            status = command_fold(&options);
            break;
        case COMMAND_INFO:
            status = command_info();
            break;
        }
    }
    return (int)close_stdout(status);
}
