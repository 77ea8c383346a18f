/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Float operands as sums of 16-bit ones, for the tensor cores, along their rows.
 * hopper_split.cuh says which numbers, and when f16 will do.
 *
 * A block takes rows of one operand: LANES threads a row, each the same columns of every row, 8 at
 * a time. What it finds largest in each column, it leaves to the judge.
 *
 * How much a multiprocessor has on its way from memory decides: about 64 KB at once are best, less
 * waits and more crowds the memory (bench/results/h200-hopper.txt, part 7). That is two blocks, or
 * one that fetches a row AHEAD of the one that it has. Counting the columns' largest into all
 * blocks' by atomics took 15 us at the end, where all of them come together.
 */
#include "hopper_split.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256, BLOCKS = 2, VECTOR = 8, HELD = 4; /* HELD vectors stay in registers */

/* ---- a vector of 8 entries ---- */

template <bool WIDE>
__device__ void load_vector(float (&v)[VECTOR], const float *row, int64_t column, int64_t columns)
{
    if (WIDE && column + VECTOR <= columns) {
        const pack<float, 4> a = load_pack<float, 4>(row + column);
        const pack<float, 4> b = load_pack<float, 4>(row + column + 4);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            v[k] = a.at[k];
            v[k + 4] = b.at[k];
        }
    } else {
#pragma unroll
        for (int k = 0; k < VECTOR; k++)
            v[k] = column + k < columns ? row[column + k] : 0;
    }
}

/* hi in the order of hopper_direct.cu: of 32 entries 8 t + 4 b + 2 h + e is 16 b + 8 h + 2 t + e. */
__device__ inline void store_paired(uint16_t *row, int64_t column, const vector16 &hi)
{
    uint16_t *to = row + column / 32 * 32 + column % 32 / 4;
#pragma unroll
    for (int k = 0; k < VECTOR / 2; k++)
        *(__half2 *)(void *)(to + 8 * k) = hi.pair[k];
}

/* hi (and lo) of 8 entries; the largest finite hi of each column so far, in shared memory. */
template <bool LOW, bool PAIRED>
__device__ void split_vector(const float (&v)[VECTOR], float scale, uint16_t *row, int64_t column,
                             int64_t stride, uint16_t *largest)
{
    const __half2 infinity = __half2half2(__ushort_as_half(0x7c00));
    vector16 hi, lo, most = load_vector16(largest + column);

#pragma unroll
    for (int k = 0; k < VECTOR / 2; k++) {
        split_pair<LOW>(v[2 * k] * scale, v[2 * k + 1] * scale, &hi.pair[k], &lo.pair[k]);
        const __half2 magnitude = __habs2(hi.pair[k]);
        most.pair[k] = __hmax2(most.pair[k], and_pair(magnitude, __hlt2_mask(magnitude, infinity)));
    }
    if (PAIRED)
        store_paired(row, column, hi);
    else
        store_vector16(row + column, hi);
    if (LOW)
        store_vector16(row + column + stride, lo);
    store_vector16(largest + column, most);
}

/* ---- rows ---- */

/* The largest of the warps of a row, which a barrier of their own joins. */
template <int LANES>
__device__ float merge_warps(float magnitude, float *shared)
{
    constexpr int WARPS = LANES / 32;
    const int set = (int)threadIdx.x / LANES;

    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = magnitude;
    asm volatile("bar.sync %0, %1;" ::"r"(1 + set), "n"(LANES) : "memory");
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        magnitude = fmaxf(magnitude, shared[set * WARPS + w]);
    return magnitude;
}

/* What of a row is held, from column `mine` on. */
template <int LANES, bool WIDE>
__device__ void load_held(float (&held)[HELD][VECTOR], const float *row, int64_t mine, int64_t I)
{
#pragma unroll
    for (int i = 0; i < HELD; i++)
        load_vector<WIDE>(held[i], row, mine + i * (LANES * VECTOR), I);
}

__device__ void raise_magnitude(float &most, const float (&v)[VECTOR])
{
#pragma unroll
    for (int k = 0; k < VECTOR; k++)
        most = fmaxf(most, finite_magnitude(v[k]));
}

/* AHEAD: all of a row is held. PAIRED: in the other order, and up to ld, with zeros. */
template <int LANES, bool WIDE, bool LOW, bool AHEAD, bool PAIRED>
__device__ void split_rows(const fbni_hopper_operand &o, int64_t I, int64_t ld, int64_t first,
                           int64_t step, uint16_t *largest)
{
    constexpr int64_t NEXT = LANES * VECTOR;
    constexpr bool MORE = LANES == BLOCK && !AHEAD; /* there may be more than is held */
    __shared__ float shared[2][BLOCK / 32];
    const int64_t mine = (int64_t)(threadIdx.x % LANES) * VECTOR, stride = o.rows * ld;
    const int64_t width = PAIRED ? ld : I;
    float next[HELD][VECTOR];
    int turn = 0;

    if (AHEAD && first < o.rows)
        load_held<LANES, WIDE>(next, o.from + first * o.ldfrom, mine, I);
    for (int64_t row = first; row < o.rows; row += step, turn ^= 1) {
        const float *from = o.from + row * o.ldfrom;
        uint16_t *to = o.parts + row * ld;
        float held[HELD][VECTOR], more[VECTOR], magnitude = 0;

        if (AHEAD) {
            memcpy(held, next, sizeof held);
            if (row + step < o.rows)
                load_held<LANES, WIDE>(next, from + step * o.ldfrom, mine, I);
        } else {
            load_held<LANES, WIDE>(held, from, mine, I);
        }
#pragma unroll
        for (int i = 0; i < HELD; i++)
            raise_magnitude(magnitude, held[i]);
        for (int64_t column = mine + HELD * NEXT; MORE && column < I; column += NEXT) {
            load_vector<WIDE>(more, from, column, I);
            raise_magnitude(magnitude, more);
        }
        magnitude = warp_reduce(magnitude, largest_magnitude());
        if (LANES > 32)
            magnitude = merge_warps<LANES>(magnitude, shared[turn]);
        const int e = exponent_for(magnitude);
        const float scale = power_of_two(e);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int64_t column = mine + i * NEXT;
            if (column < width)
                split_vector<LOW, PAIRED>(held[i], scale, to, column, stride, largest);
        }
        for (int64_t column = mine + HELD * NEXT; MORE && column < width; column += NEXT) {
            load_vector<WIDE>(more, from, column, I);
            split_vector<LOW, PAIRED>(more, scale, to, column, stride, largest);
        }
        if (threadIdx.x % LANES == 0)
            o.exponents[row] = e;
    }
}

/* The largest entries of the block's `sets` sets. */
__device__ void merge_largest(const uint16_t *largest, int sets, int64_t ld, uint16_t *to)
{
    __syncthreads();
    for (int64_t k = threadIdx.x * VECTOR; k < ld; k += BLOCK * VECTOR) {
        vector16 most = load_vector16(largest + k);
        for (int i = 1; i < sets; i++)
            most = largest_of(most, load_vector16(largest + i * ld + k));
        store_vector16(to + k, most);
    }
}

/* Both operands' blocks: how many, how they load, and where they leave their largest entries. */
struct shares {
    int blocks[2];
    bool wide[2];
    uint16_t *notes[2];
};

template <int LANES, bool LOW, bool AHEAD, bool PAIRED>
__global__ void __launch_bounds__(BLOCK, BLOCKS) hopper_split(fbni_hopper_split s, shares share)
{
    extern __shared__ uint4 dynamic[];
    constexpr int SETS = BLOCK / LANES;
    const bool second = (int)blockIdx.x >= share.blocks[0];
    const fbni_hopper_operand o = second ? s.operand[1] : s.operand[0];
    const int block = (int)blockIdx.x - (second ? share.blocks[0] : 0);
    const int blocks = second ? share.blocks[1] : share.blocks[0];
    const int set = (int)threadIdx.x / LANES;
    uint16_t *all = (uint16_t *)(void *)dynamic, *largest = all + set * s.ld;

    let_kernels_ahead();
    for (int64_t k = (int64_t)blockIdx.x * BLOCK + threadIdx.x; PAIRED && k < s.ld;
         k += (int64_t)gridDim.x * BLOCK)
        s.operand[1].largest[k] = 0;
    for (int64_t k = (int64_t)threadIdx.x * VECTOR; k < SETS * s.ld; k += BLOCK * VECTOR)
        *(uint4 *)(void *)(all + k) = make_uint4(0, 0, 0, 0);
    __syncthreads();
    if (second ? share.wide[1] : share.wide[0])
        split_rows<LANES, true, LOW, AHEAD, PAIRED>(o, s.I, s.ld, block * SETS + set, blocks * SETS,
                                                    largest);
    else
        split_rows<LANES, false, LOW, AHEAD, PAIRED>(o, s.I, s.ld, block * SETS + set,
                                                     blocks * SETS, largest);
    merge_largest(all, SETS, s.ld, (second ? share.notes[1] : share.notes[0]) + block * s.ld);
}

/* ---- where f16 will not do ---- */

__global__ void __launch_bounds__(BLOCK) hopper_rescue(fbni_hopper_split s, int parts)
{
    let_kernels_ahead();
    wait_for_kernels();
    if (s.control && !needs_rescue(s.kind, s.ld, s.control))
        return;
    for (int which = 0; which < 2; which++) {
        const fbni_hopper_operand &o = s.operand[which];
        if (!o.from)
            continue;
        for (int64_t row = blockIdx.x; row < o.rows; row += gridDim.x) {
#pragma unroll 4
            for (int64_t k = threadIdx.x; k < s.I; k += BLOCK) {
                float rest = o.from[row * o.ldfrom + k];
                for (int p = 0; p < parts; p++)
                    o.rescue[(p * o.rows + row) * s.ld + k] = truncate(&rest);
            }
        }
    }
}

/* ---- launching ---- */

typedef void split_kernel(fbni_hopper_split, shares);

/* How rows of I entries are split. */
struct method {
    split_kernel *kernel;
    int lanes, blocks; /* threads of a row; blocks of a multiprocessor */
};

template <int LANES, bool AHEAD>
method method_of(fbni_hopper_kind kind, int blocks)
{
    return {kind == FBNI_HOPPER_DIRECT ? hopper_split<LANES, false, AHEAD, true>
            : kind == FBNI_HOPPER_TF32 ? hopper_split<LANES, false, AHEAD, false>
                                       : hopper_split<LANES, true, AHEAD, false>,
            LANES, blocks};
}

method method_of(int64_t I, fbni_hopper_kind kind)
{
    constexpr int MOST = HELD * VECTOR; /* entries of a thread */
    const bool low = !fbni_hopper_is_single(kind);
    const int64_t one = 6144; /* entries of the rows of a block, for which one is enough */

    if (I <= 32 * MOST)
        return method_of<32, false>(kind, BLOCKS);
    if (I <= 128 * MOST)
        return method_of<128, true>(kind, I * (BLOCK / 128) > one ? 1 : BLOCKS);
    if (I <= BLOCK * MOST && low)
        return {hopper_split<BLOCK, true, true, false>, BLOCK, I > one ? 1 : BLOCKS};
    return method_of<BLOCK, false>(kind, BLOCKS);
}

/* The blocks, dealt out by rows, at least one where there are rows; none has more blocks than rows:
 * its notes fit in the last part of the rescue. */
shares share_blocks(const fbni_hopper_split &s, int sets, int64_t most)
{
    const int64_t rows0 = s.operand[0].from ? s.operand[0].rows : 0;
    const int64_t rows1 = s.operand[1].from ? s.operand[1].rows : 0;
    const int64_t blocks =
        least(ceil_div(rows0, sets) + ceil_div(rows1, sets), most > 1 ? most : 2);
    const int64_t last_part = (fbni_hopper_parts(s.kind) - 1) * s.ld;
    int64_t first = blocks * rows0 / (rows0 + rows1);
    shares share;

    if (rows0 > 0 && first == 0)
        first = 1;
    if (rows1 > 0 && first == blocks)
        first = blocks - 1;
    share.blocks[0] = (int)first;
    share.blocks[1] = (int)(blocks - first);
    for (int i = 0; i < 2; i++) {
        const fbni_hopper_operand &o = s.operand[i];
        share.wide[i] = (uintptr_t)o.from % 16 == 0 && o.ldfrom % 4 == 0;
        share.notes[i] = o.from ? o.rescue + last_part * o.rows : NULL;
    }
    return share;
}

/* Blocks that share the rows of a split, and how they do it. */
struct plan {
    method of;
    int sets;
    shares share;
};

plan plan_of(const fbni_cuda_queue *queue, const fbni_hopper_split &s)
{
    const method m = method_of(s.I, s.kind);
    const int sets = BLOCK / m.lanes;
    return {m, sets, share_blocks(s, sets, (int64_t)queue->processors * m.blocks)};
}

fbni_hopper_columns columns_of(const fbni_hopper_split &s, const plan &p, int which)
{
    const fbni_hopper_operand &o = s.operand[which];
    const bool some = o.from == NULL || (which == 1 && s.kind == FBNI_HOPPER_DIRECT);
    return {o.largest, p.share.notes[which], p.share.blocks[which], some && o.largest};
}

} // namespace

cudaError_t fbni_hopper_allow_split(void)
{
    cudaError_t error = cudaSuccess;

    /* the others stay below what is allowed anyway */
    for (const fbni_hopper_kind kind : {FBNI_HOPPER_DIRECT, FBNI_HOPPER_TF32, FBNI_HOPPER_FP32})
        if (error == cudaSuccess)
            error = cudaFuncSetAttribute(method_of(FBNI_HOPPER_DEPTH_MOST, kind).kernel,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)(FBNI_HOPPER_DEPTH_MOST * sizeof(uint16_t)));
    return error;
}

cudaError_t fbni_hopper_split_rows(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    const plan p = plan_of(queue, *s);
    return launch_shared(p.of.kernel, (unsigned)(p.share.blocks[0] + p.share.blocks[1]), BLOCK,
                         queue->stream, (size_t)(s->ld * p.sets) * sizeof(uint16_t), *s, p.share);
}

cudaError_t fbni_hopper_judge_split(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    const plan p = plan_of(queue, *s);
    const fbni_hopper_judgement judgement = {
        s->kind, s->ld, {columns_of(*s, p, 0), columns_of(*s, p, 1)}, s->control};
    return fbni_hopper_judge(queue, &judgement);
}

cudaError_t fbni_hopper_split_operands(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    const cudaError_t error = fbni_hopper_split_rows(queue, s);
    return error == cudaSuccess ? fbni_hopper_judge_split(queue, s) : error;
}

cudaError_t fbni_hopper_rescue_operands(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    return launch_ahead(hopper_rescue, (unsigned)(queue->processors * 4), BLOCK, queue, 0, *s,
                        fbni_hopper_parts(s->kind));
}
