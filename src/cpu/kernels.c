/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The CPU kernels of cpu_kernels.h for one instruction set. Compiled once per set with
 * -DFBNI_ISA=avx512, avx2 or baseline and the compiler flags that allow it (see Makefile.am); each
 * compilation defines fbni_cpu_f32_<isa> and fbni_cpu_f64_<isa>.
 */
#include <math.h>
#include <string.h>

#include "cpu_kernels.h"
#include "fusedbn.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#define FBNI_CAT_(a, b) a##b
#define FBNI_CAT(a, b) FBNI_CAT_(a, b)
#define FBNI_TEXT_(a) #a
#define FBNI_TEXT(a) FBNI_TEXT_(a)
#define FBNI_INLINE inline __attribute__((always_inline))
/* Unrolls the next loop, whose count is a small constant, so that an array of vectors that it
 * indexes lives in registers. */
#ifdef __clang__
#define FBNI_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FBNI_UNROLL _Pragma("GCC unroll 32")
#endif

/* What a set is, by its name: the size of its vectors. */
#define FBNI_VEC_BYTES_avx512 64
#define FBNI_VEC_BYTES_avx2 32
#define FBNI_VEC_BYTES_baseline 16
#define FBNI_VEC_BYTES FBNI_CAT(FBNI_VEC_BYTES_, FBNI_ISA)

#if FBNI_VEC_BYTES == 64
#define FBNI_X86 1
#define FBNI_MM_PREFIX _mm512_
#elif FBNI_VEC_BYTES == 32
#define FBNI_X86 1
#define FBNI_MM_PREFIX _mm256_
#elif defined(__SSE2__)
#define FBNI_X86 1
#define FBNI_MM_PREFIX _mm_
#else
#define FBNI_X86 0
#endif

/* How many rows the kernels take together. More are slower: rows that lie a power of two apart
 * share few sets of the first-level cache, and prefetchers follow few streams. */
enum {
    MOMENT_ROWS = 8, /* held in registers between the mean and the squares about it */
    SUM_ROWS = 4,
    STRIP_ROWS = 4, /* elementwise: parameters are loaded once a strip */
};
enum {
    SPLIT = 4,          /* independent accumulators along a row */
    SUM_COLUMNS = 4096, /* columns summed before the sum goes to a double */
};

#define FBNI_REAL_BITS 32
#include "kernels_real.h"
#undef FBNI_REAL_BITS
#define FBNI_REAL_BITS 64
#include "kernels_real.h"
