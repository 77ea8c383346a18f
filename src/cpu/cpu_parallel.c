/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The one place where the CPU backend starts threads.
 */
#include "cpu_internal.h"

#ifdef _OPENMP
#include <omp.h>
#endif

int fbni_cpu_threads(int wanted)
{
#ifdef _OPENMP
    /* libgomp ends the process when it cannot start a thread, so nobody gets thousands */
    const int most = omp_get_num_procs() > 16 ? 4 * omp_get_num_procs() : 64;
    const int limit = omp_get_thread_limit() < most ? omp_get_thread_limit() : most;
    if (wanted == 0)
        wanted = omp_get_max_threads();
    return wanted < limit ? wanted : limit;
#else
    (void)wanted;
    return 1;
#endif
}

void fbni_cpu_for(int threads, int64_t count, fbni_cpu_task *task, void *job)
{
#ifdef _OPENMP
    if (threads > 1 && count > 1) { /* always as many: libgomp ends threads when a team shrinks */
#pragma omp parallel num_threads(threads)
        {
            const int thread = omp_get_thread_num();
            const int team = omp_get_num_threads(); /* may be fewer: nested, or a limit is set */
            const int64_t end = count * (thread + 1) / team;
            for (int64_t item = count * thread / team; item < end; item++)
                task(job, item, thread);
        }
        return;
    }
#else
    (void)threads;
#endif
    for (int64_t item = 0; item < count; item++)
        task(job, item, 0);
}
