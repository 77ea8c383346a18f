/* SPDX-License-Identifier: BSD-3-Clause
 * Whether Jansson has run out of memory.
 *
 * Where an allocation fails, Jansson 2.14 does not always say so. Its parser reports an error of
 * syntax, or goes on without the character that it wanted to keep; its printer leaves out a piece
 * of the text. A good file would be called bad, and a damaged one written. So its allocations are
 * watched, and no result is used after one has failed.
 */
#ifndef JSON_WATCH_H
#define JSON_WATCH_H

#include <stdbool.h>

/* From now on, in this thread. */
void json_watch_begin(void);

/* An allocation has failed since. */
bool json_watch_failed(void);

/* For tests: how many allocations succeed until one fails; negative: all. */
extern long json_watch_allowed;

#endif
