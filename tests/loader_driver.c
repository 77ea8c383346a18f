/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A driver for tests/test_loader.c that takes libcuda.so.1's place: as much of one as the CUDA
 * runtime asks before it gives up. TEST_DRIVER_VERSION is what it supports (12080 for CUDA 12.8),
 * TEST_DRIVER_INIT what cuInit answers (100 for no device); no device is ever there.
 */
#include "fusedbn.h"

#include <stdlib.h>
#include <string.h>

/* The names, numbers and argument lists are the CUDA driver API's (cuda.h). */
enum { SUCCESS = 0, ERROR_INVALID_VALUE = 1, ERROR_NO_DEVICE = 100 };

FBN_API int cuInit(unsigned flags);
FBN_API int cuDriverGetVersion(int *version);
FBN_API int cuDeviceGetCount(int *count);
FBN_API int cuGetExportTable(const void **table, const void *id);
FBN_API int cuGetProcAddress(const char *name, void **entry, int version, uint64_t flags);
FBN_API int cuGetProcAddress_v2(const char *name, void **entry, int version, uint64_t flags,
                                int *found);

static int number(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags)
{
    (void)flags;
    return number("TEST_DRIVER_INIT", SUCCESS);
}

int cuDriverGetVersion(int *version)
{
    *version = number("TEST_DRIVER_VERSION", 1000000);
    return SUCCESS;
}

int cuDeviceGetCount(int *count)
{
    *count = 0;
    return SUCCESS;
}

int cuGetExportTable(const void **table, const void *id)
{
    (void)id;
    *table = NULL;
    return ERROR_INVALID_VALUE;
}

static int anything_else(void)
{
    return ERROR_NO_DEVICE;
}

typedef void (*entry_point)(void);

int cuGetProcAddress_v2(const char *name, void **entry, int version, uint64_t flags, int *found)
{
    static const struct {
        const char *name;
        entry_point entry;
    } entries[] = {
        {"cuInit", (entry_point)cuInit},
        {"cuDriverGetVersion", (entry_point)cuDriverGetVersion},
        {"cuDeviceGetCount", (entry_point)cuDeviceGetCount},
        {"cuGetExportTable", (entry_point)cuGetExportTable},
        {"cuGetProcAddress", (entry_point)cuGetProcAddress_v2},
    };
    entry_point match = (entry_point)anything_else;

    (void)version;
    (void)flags;
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++)
        if (strcmp(name, entries[i].name) == 0)
            match = entries[i].entry;
    memcpy(entry, &match, sizeof match);
    if (found)
        *found = 0;
    return SUCCESS;
}

int cuGetProcAddress(const char *name, void **entry, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(name, entry, version, flags, NULL);
}
