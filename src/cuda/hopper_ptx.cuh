/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The instructions of sm_90a that the Hopper kernels use, one function each (PTX ISA 8.x: mbarrier,
 * cp.async.bulk.tensor, wgmma.mma_async, setmaxnreg, barrier.cluster). Shared-memory addresses are
 * 32-bit, as __cvta_generic_to_shared gives them.
 */
#ifndef FBNI_CUDA_HOPPER_PTX_CUH
#define FBNI_CUDA_HOPPER_PTX_CUH

#include <cuda.h>
#include <stdint.h>

namespace fbni
{

__device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- clusters and warps ---- */

__device__ inline uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* Of a grid of one dimension. */
__device__ inline uint32_t cluster_index()
{
    uint32_t index;
    asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
    return index;
}

__device__ inline void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

/* The same where nothing but initialised barriers is to be seen by the others (barrier_init_fence):
 * release costs a fence of the whole device. */
__device__ inline void cluster_arrive_relaxed()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ inline void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Barriers of the block by number; 0 is __syncthreads. threads: those that wait or arrive. */
__device__ inline void named_wait(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ inline void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Whether any of the threads says so. */
__device__ inline bool named_wait_any(int id, int threads, bool mine)
{
    uint32_t any;
    asm volatile("{\n"
                 ".reg .pred mine, any;\n"
                 "setp.ne.u32 mine, %3, 0;\n"
                 "bar.red.or.pred any, %1, %2, mine;\n"
                 "selp.u32 %0, 1, 0, any;\n"
                 "}\n"
                 : "=r"(any)
                 : "r"(id), "r"(threads), "r"((uint32_t)mine)
                 : "memory");
    return any != 0;
}

template <int REGISTERS>
__device__ inline void keep_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS>
__device__ inline void take_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* ---- mbarriers ---- */

__device__ inline void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

/* Makes initialised barriers visible to the copy engine and to the cluster. */
__device__ inline void barrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

/* Arrives at the barrier that lies at the same place in block `rank` of the cluster. Of this
 * block's scope: what is handed over has been read, nothing was written. (Release to the cluster
 * costs a fence of the whole device.) */
__device__ inline void barrier_arrive_at(uint32_t barrier, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}\n" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}

/* Arrives at a barrier of this block. */
__device__ inline void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Waits until the phase of this parity is complete. */
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra finished;\n"
                 "bra again;\n"
                 "finished:\n"
                 "}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* ---- the copy engine ---- */

__device__ inline void prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* A box of one part of a matrix to shared memory; what lies outside of the matrix is zeros. */
__device__ inline void copy_box(uint32_t to, const CUtensorMap *map, uint32_t barrier, int column,
                                int row, int part)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(part)
        : "memory");
}

/* The box to the same place in every block of `ranks` (a bit each), whose barriers count it. */
__device__ inline void copy_box_to(uint32_t to, const CUtensorMap *map, uint32_t barrier,
                                   int column, int row, int part, uint16_t ranks)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::"
        "cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
        "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(part), "h"(ranks)
        : "memory");
}

/* A box of a matrix of two dimensions, likewise. */
__device__ inline void copy_box(uint32_t to, const CUtensorMap *map, uint32_t barrier, int column,
                                int row)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(column), "r"(row)
        : "memory");
}

/* Makes this thread's writes to shared memory visible to the copy engine. */
__device__ inline void copy_fence()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* A box from shared memory to a matrix; what would lie outside is left out. */
__device__ inline void store_box(const CUtensorMap *map, uint32_t from, int column, int row)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
        "r"(from), "r"(column), "r"(row)
        : "memory");
}

/* The boxes since the last time are a group. */
__device__ inline void store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Until all but PENDING of this thread's groups have been read from shared memory. */
template <int PENDING>
__device__ inline void store_wait()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

/* Until this thread's boxes have been written. */
__device__ inline void store_finish()
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Four bytes to shared memory, and likewise the groups of a thread's words. */
__device__ inline void copy_word(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

__device__ inline void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until all but PENDING of this thread's groups are there. */
template <int PENDING>
__device__ inline void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ inline float4 load_shared(uint32_t from)
{
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}

template <typename T>
__device__ inline T load_shared(uint32_t from);

template <>
__device__ inline uint32_t load_shared<uint32_t>(uint32_t from)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
    return v;
}

template <>
__device__ inline float load_shared<float>(uint32_t from)
{
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(from) : "memory");
    return v;
}

template <>
__device__ inline uint16_t load_shared<uint16_t>(uint32_t from)
{
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(from) : "memory");
    return v;
}

__device__ inline void store_shared(uint32_t to, float v)
{
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
}

__device__ inline void store_shared(uint32_t to, uint32_t v)
{
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
}

/* Four matrices of 8 x 8 16-bit entries, transposed: of matrix m, words[m] is the thread's entries
 * (column t / 4, rows 2 (t % 4) + {0, 1}), and thread 8 m + r has the address of row r. */
__device__ inline void store_matrices(uint32_t to, const uint32_t (&words)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}

/* To the same place in the shared memory of block `rank` of the cluster, whose barrier, at the
 * place of this one, counts the 16 bytes. */
__device__ inline void send_to(uint32_t to, uint32_t barrier, uint32_t rank, float4 v)
{
    asm volatile("{\n"
                 ".reg .b32 there, counter;\n"
                 "mapa.shared::cluster.u32 there, %0, %2;\n"
                 "mapa.shared::cluster.u32 counter, %1, %2;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [there], "
                 "{%3, %4, %5, %6}, [counter];\n"
                 "}\n" ::"r"(to),
                 "r"(barrier), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
}

__device__ inline void store_shared(uint32_t to, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

/* ---- from block to block by way of memory ---- */

/* Before the block lets kernels ahead that wait for it, and before it is counted: a barrier lies
 * between, where other threads do that. */
__device__ inline void begin_count(unsigned *count)
{
    asm volatile("st.relaxed.gpu.global.u32 [%0], 0;\n"
                 "fence.acq_rel.gpu;" ::"l"(count)
                 : "memory");
}

/* One more; whoever sees it sees what this thread has written and seen. */
__device__ inline void count_up(unsigned *count)
{
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
}

/* Until so many are counted. */
__device__ inline void wait_for_count(const unsigned *count, unsigned wanted)
{
    unsigned seen;

    for (;;) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
        if (seen >= wanted)
            break;
        __nanosleep(100);
    }
}

/* Between what the copy engine has to do with memory and what comes before or after by counts. */
__device__ inline void copy_fence_all()
{
    asm volatile("fence.proxy.async;" ::: "memory");
}

/* ---- mma: d[16,8] += a[16,k] b[k,8], by a warp ---- */

/* Four times 8 lines of 16 bytes, those of part i at the addresses that lanes 8 i and on give: word
 * lane % 4 of line lane / 4. */
__device__ inline void load_lines(uint32_t (&to)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

/* Of a and b the 11 leading bits count, what follows is dropped. */
__device__ inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ---- wgmma ---- */

/* Operand in shared memory: rows of 64 16-bit entries along the depth, 128-byte swizzle, groups of
 * 8 rows 1024 bytes apart; begins at a multiple of 1024. Sixteen entries further along the depth
 * are 32 bytes: 2 in the descriptor. */
__device__ inline uint64_t operand_descriptor(uint32_t address)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

__device__ inline void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ inline void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING groups are on their way. */
template <int PENDING>
__device__ inline void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* An accumulator is not to be moved over a wait or a begin. */
template <int COUNT>
__device__ inline void pin(float (&d)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

enum class half_type { F16, BF16 };

/* d[64, COLUMNS] = a[64,16] b[COLUMNS,16]^T (+ d): b in shared memory, d in the registers of a
 * warpgroup, COLUMNS / 2 a thread; a in shared memory too, or in registers: warp w has its rows
 * 16 w + (0 to 15), thread t entries 2 (t % 4) + {0, 1} of row t / 4, the same of row t / 4 + 8,
 * and entries 8 further on of both. */
template <half_type TYPE, int COLUMNS>
struct wgmma;
template <half_type TYPE, int COLUMNS>
struct wgmma_registers;

#define FBNI_D8(i)                                                                                 \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define FBNI_D32(i) FBNI_D8(i), FBNI_D8(i + 8), FBNI_D8(i + 16), FBNI_D8(i + 24)
/* clang-format off */
#define FBNI_WGMMA(TYPE, NAME, COLUMNS, REGISTERS, A, B, SCALE, ...) \
    template <> \
    struct wgmma<half_type::TYPE, COLUMNS> { \
        __device__ static void multiply(float (&d)[COLUMNS / 2], uint64_t a, uint64_t b, int add) \
        { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " SCALE ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." NAME "." NAME " " \
                         REGISTERS A ", " B ", p, 1, 1, 0, 0;\n}\n" \
                         : __VA_ARGS__ : "l"(a), "l"(b), "r"(add)); \
        } \
    };
#define FBNI_R128 \
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
#define FBNI_R176 \
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
                     "%80, %81, %82, %83, %84, %85, %86, %87}, "
#define FBNI_R192 \
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
#define FBNI_R256 \
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
                     "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
                     "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
FBNI_WGMMA(F16, "f16", 128, FBNI_R128, "%64", "%65", "%66", FBNI_D32(0), FBNI_D32(32))
FBNI_WGMMA(BF16, "bf16", 128, FBNI_R128, "%64", "%65", "%66", FBNI_D32(0), FBNI_D32(32))
FBNI_WGMMA(F16, "f16", 176, FBNI_R176, "%88", "%89", "%90", FBNI_D32(0), FBNI_D32(32), FBNI_D8(64), FBNI_D8(72), FBNI_D8(80))
FBNI_WGMMA(BF16, "bf16", 176, FBNI_R176, "%88", "%89", "%90", FBNI_D32(0), FBNI_D32(32), FBNI_D8(64), FBNI_D8(72), FBNI_D8(80))
FBNI_WGMMA(F16, "f16", 192, FBNI_R192, "%96", "%97", "%98", FBNI_D32(0), FBNI_D32(32), FBNI_D32(64))
FBNI_WGMMA(BF16, "bf16", 192, FBNI_R192, "%96", "%97", "%98", FBNI_D32(0), FBNI_D32(32), FBNI_D32(64))
FBNI_WGMMA(F16, "f16", 256, FBNI_R256, "%128", "%129", "%130", FBNI_D32(0), FBNI_D32(32), FBNI_D32(64), FBNI_D32(96))
FBNI_WGMMA(BF16, "bf16", 256, FBNI_R256, "%128", "%129", "%130", FBNI_D32(0), FBNI_D32(32), FBNI_D32(64), FBNI_D32(96))
/* a in registers. */
#define FBNI_WGMMA_REGISTERS(TYPE, NAME, COLUMNS, REGISTERS, A, B, SCALE, ...) \
    template <> \
    struct wgmma_registers<half_type::TYPE, COLUMNS> { \
        __device__ static void multiply(float (&d)[COLUMNS / 2], const uint32_t (&a)[4], uint64_t b, int add) \
        { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " SCALE ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." NAME "." NAME " " \
                         REGISTERS A ", " B ", p, 1, 1, 0;\n}\n" \
                         : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add)); \
        } \
    };
FBNI_WGMMA_REGISTERS(F16, "f16", 128, FBNI_R128, "{%64, %65, %66, %67}", "%68", "%69", FBNI_D32(0), FBNI_D32(32))
FBNI_WGMMA_REGISTERS(BF16, "bf16", 128, FBNI_R128, "{%64, %65, %66, %67}", "%68", "%69", FBNI_D32(0), FBNI_D32(32))
FBNI_WGMMA_REGISTERS(F16, "f16", 256, FBNI_R256, "{%128, %129, %130, %131}", "%132", "%133", FBNI_D32(0), FBNI_D32(32), FBNI_D32(64), FBNI_D32(96))
#undef FBNI_WGMMA_REGISTERS
#undef FBNI_R128
#undef FBNI_R176
#undef FBNI_R192
#undef FBNI_R256
#undef FBNI_WGMMA
#undef FBNI_D32
#undef FBNI_D8
/* clang-format on */

} // namespace fbni

#endif
