/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What tests of the CUDA backend need beside the library: streams, graphs, other kinds of memory.
 *
 * From the driver, libcuda.so.1, opened at run time: it is there wherever the backend runs, so these
 * tests are built on any machine and with no toolkit, as a program that uses the library is. The
 * driver's streams are the runtime's.
 */
#ifndef TESTS_CUDA_DRIVER_H
#define TESTS_CUDA_DRIVER_H

#include "harness.h"

typedef struct cuda_driver {
    int (*device_count)(int *count);
    int (*retain_primary)(void **context, int device);
    int (*set_current)(void *context);
    int (*get_current)(void **context);
    int (*stream_create)(void **stream, unsigned flags);
    int (*stream_destroy)(void *stream);
    int (*stream_synchronize)(void *stream);
    int (*stream_query)(void *stream);
    int (*begin_capture)(void *stream, int mode);
    int (*end_capture)(void *stream, void **graph);
    int (*instantiate)(void **executable, void *graph, unsigned long long flags);
    int (*launch)(void *executable, void *stream);
    int (*executable_destroy)(void *executable);
    int (*graph_destroy)(void *graph);
    int (*launch_host)(void *stream, void (*function)(void *user), void *user);
    int (*allocate)(uintptr_t *memory, size_t bytes);
    int (*release)(uintptr_t memory);
    int (*copy)(uintptr_t to, uintptr_t from, size_t bytes, void *stream);
    int (*allocate_pinned)(void **memory, size_t bytes, unsigned flags);
    int (*release_pinned)(void *memory);
    int (*allocate_managed)(uintptr_t *memory, size_t bytes, unsigned flags);
    int (*memory_info)(size_t *free, size_t *total);
} cuda_driver;

enum { CUDA_NOT_READY = 600, CUDA_NON_BLOCKING = 1, CUDA_ATTACH_GLOBAL = 1 };

extern cuda_driver cuda;

/* Fails the test unless a call of the driver gave 0. */
#define CUDA_OK(call) cuda_ok((call), #call)
void cuda_ok(int error, const char *call);

/* Makes a device's primary context the thread's current one. */
void cuda_use(int device);
void *cuda_stream(void);

/* A context of the library on this device and stream. */
fbn_context *cuda_context(int device, void *stream);

/* A main() for programs that concern CUDA alone: 77 where that is not the backend under test. */
int cuda_main(const char *program, void (*add)(Suite *suite));

#endif
