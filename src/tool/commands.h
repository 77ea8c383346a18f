/* SPDX-License-Identifier: BSD-3-Clause
 * The commands. Each prints what fails to stderr; files are written last, and whole or not at all.
 */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "options.h"

enum exit_status command_run(const struct options *options);
enum exit_status command_fold(const struct options *options);
enum exit_status command_info(void);

#endif
