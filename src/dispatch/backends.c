/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of backends, and which of them a context gets.
 */
#include "error.h"
#include "internal.h"
#include "loader.h"

#include <stdlib.h>
#include <string.h>

static fbn_status open_cpu(const fbni_backend **backend)
{
    *backend = &fbni_cpu_backend;
    return FBN_OK;
}

/* In the order in which FBN_BACKEND_AUTO tries them. */
static const struct backend_row {
    fbn_backend id;
    const char *name;
    fbn_status (*open)(const fbni_backend **backend);
} rows[] = {
    {FBN_BACKEND_CUDA, "cuda", fbni_cuda_module},
    {FBN_BACKEND_CPU, "cpu", open_cpu},
};
enum { ROWS = sizeof rows / sizeof rows[0] };

static fbn_status open_row(const struct backend_row *row, const fbni_backend **backend)
{
    const fbni_backend *opened = NULL;
    fbn_status status = row->open(&opened);

    if (status == FBN_OK)
        status = opened->available(&fbni_core_host);
    if (status == FBN_OK)
        *backend = opened;
    return status;
}

/* The first that can be used. Why those before it cannot is no failure of this call, but is worth a
 * line to those who ask. */
static fbn_status open_first(const fbni_backend **backend)
{
    fbni_error_text before;
    fbn_status status = FBN_ERR_NO_BACKEND;

    fbni_error_keep(&before);
    for (size_t i = 0; i < ROWS; i++) {
        status = open_row(&rows[i], backend);
        if (status == FBN_OK) {
            fbni_error_restore(&before);
            return FBN_OK;
        }
        fbni_log("backend %s not used: %s", rows[i].name, fbn_last_error());
    }
    return status;
}

/* FBN_BACKEND_AUTO, with FUSEDBN_BACKEND. */
static fbn_status open_auto(const fbni_backend **backend)
{
    const char *wanted = getenv("FUSEDBN_BACKEND");

    if (!wanted || strcmp(wanted, "") == 0 || strcmp(wanted, "auto") == 0)
        return open_first(backend);
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(wanted, rows[i].name) == 0) {
            const fbn_status status = open_row(&rows[i], backend);
            if (status == FBN_OK)
                return FBN_OK;
            return fbni_fail(status, "FUSEDBN_BACKEND is %s: %s", wanted, fbn_last_error());
        }
    return fbni_fail(FBN_ERR_ENUM, "FUSEDBN_BACKEND is \"%.100s\", not auto, cpu or cuda", wanted);
}

fbn_status fbni_backend_find(fbn_backend id, const fbni_backend **backend)
{
    if (id == FBN_BACKEND_AUTO)
        return open_auto(backend);
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].id == id)
            return open_row(&rows[i], backend);
    return fbni_fail(FBN_ERR_ENUM, "backend is %d, which is no fbn_backend", (int)id);
}

fbn_status fbn_backend_available(fbn_backend backend)
{
    const fbni_backend *found;

    return fbni_backend_find(backend, &found);
}
