/* SPDX-License-Identifier: BSD-3-Clause
 * Whether Jansson has run out of memory.
 */
#include "json_watch.h"

#include <jansson.h>
#include <stdlib.h>

long json_watch_allowed = -1;

static _Thread_local bool failed;

static void *allocate(size_t size)
{
    void *pointer = json_watch_allowed == 0 ? NULL : malloc(size);

    if (json_watch_allowed >= 0) {
        json_watch_allowed--;
    }
    if (pointer == NULL) {
        failed = true;
    }
    return pointer;
}

void json_watch_begin(void)
{
    json_set_alloc_funcs(allocate, free);
    failed = false;
}

bool json_watch_failed(void)
{
    return failed;
}
