/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of instruction sets that the CPU kernels are compiled for, fastest first.
 */
#include "cpu_kernels.h"

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

extern const fbni_cpu_kernels fbni_cpu_f32_baseline, fbni_cpu_f64_baseline;

#if defined(FBNI_HAVE_AVX512) || defined(FBNI_HAVE_AVX2)
#include <cpuid.h>

/* What both sets need; __builtin_cpu_supports also asks whether the system saves the registers. */
static const char *refuse_avx2(void)
{
    unsigned eax, ebx, ecx = 0, edx;
    if (!__builtin_cpu_supports("avx2"))
        return "this CPU has no AVX2";
    if (!__builtin_cpu_supports("fma"))
        return "this CPU has no FMA";
    /* Clang 14 does not know the name "f16c". */
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_F16C))
        return "this CPU has no F16C";
    return NULL;
}
#endif

#ifdef FBNI_HAVE_AVX2
extern const fbni_cpu_kernels fbni_cpu_f32_avx2, fbni_cpu_f64_avx2;
#endif

#ifdef FBNI_HAVE_AVX512
extern const fbni_cpu_kernels fbni_cpu_f32_avx512, fbni_cpu_f64_avx512;

static const char *refuse_avx512(void)
{
    if (!__builtin_cpu_supports("avx512f"))
        return "this CPU has no AVX-512 F";
    if (!__builtin_cpu_supports("avx512bw"))
        return "this CPU has no AVX-512 BW";
    if (!__builtin_cpu_supports("avx512dq"))
        return "this CPU has no AVX-512 DQ";
    if (!__builtin_cpu_supports("avx512vl"))
        return "this CPU has no AVX-512 VL";
    return refuse_avx2();
}
#endif

static const char *refuse_never(void)
{
    return NULL;
}

const fbni_cpu_isa fbni_cpu_isas[] = {
#ifdef FBNI_HAVE_AVX512
    {"avx512", refuse_avx512, &fbni_cpu_f32_avx512, &fbni_cpu_f64_avx512},
#endif
#ifdef FBNI_HAVE_AVX2
    {"avx2", refuse_avx2, &fbni_cpu_f32_avx2, &fbni_cpu_f64_avx2},
#endif
    {"baseline", refuse_never, &fbni_cpu_f32_baseline, &fbni_cpu_f64_baseline},
};

const size_t fbni_cpu_isa_count = sizeof fbni_cpu_isas / sizeof fbni_cpu_isas[0];
