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

struct largest_magnitude {
    __device__ float operator()(float a, float b) const
    {
        return a > b ? a : b;
    }
};

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

/* hi (and lo) of 8 entries; the largest finite hi of each column so far, in shared memory. */
template <bool LOW>
__device__ void split_vector(const float (&v)[VECTOR], float scale, uint16_t *to, int64_t stride,
                             uint16_t *largest)
{
    const __half2 infinity = __half2half2(__ushort_as_half(0x7c00));
    vector16 hi, lo, most = load_vector16(largest);

#pragma unroll
    for (int k = 0; k < VECTOR / 2; k++) {
        split_pair<LOW>(v[2 * k] * scale, v[2 * k + 1] * scale, &hi.pair[k], &lo.pair[k]);
        const __half2 magnitude = __habs2(hi.pair[k]);
        most.pair[k] = __hmax2(most.pair[k], and_pair(magnitude, __hlt2_mask(magnitude, infinity)));
    }
    store_vector16(to, hi);
    if (LOW)
        store_vector16(to + stride, lo);
    store_vector16(largest, most);
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

/* AHEAD: all of a row is held. */
template <int LANES, bool WIDE, bool LOW, bool AHEAD>
__device__ void split_rows(const fbni_hopper_operand &o, int64_t I, int64_t ld, int64_t first,
                           int64_t step, uint16_t *largest)
{
    constexpr int64_t NEXT = LANES * VECTOR;
    constexpr bool MORE = LANES == BLOCK && !AHEAD; /* there may be more than is held */
    __shared__ float shared[2][BLOCK / 32];
    const int64_t mine = (int64_t)(threadIdx.x % LANES) * VECTOR, stride = o.rows * ld;
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
            if (column < I)
                split_vector<LOW>(held[i], scale, to + column, stride, largest + column);
        }
        for (int64_t column = mine + HELD * NEXT; MORE && column < I; column += NEXT) {
            load_vector<WIDE>(more, from, column, I);
            split_vector<LOW>(more, scale, to + column, stride, largest + column);
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

template <int LANES, bool LOW, bool AHEAD>
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
    for (int64_t k = (int64_t)threadIdx.x * VECTOR; k < SETS * s.ld; k += BLOCK * VECTOR)
        *(uint4 *)(void *)(all + k) = make_uint4(0, 0, 0, 0);
    __syncthreads();
    if (second ? share.wide[1] : share.wide[0])
        split_rows<LANES, true, LOW, AHEAD>(o, s.I, s.ld, block * SETS + set, blocks * SETS,
                                            largest);
    else
        split_rows<LANES, false, LOW, AHEAD>(o, s.I, s.ld, block * SETS + set, blocks * SETS,
                                             largest);
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
method method_of(bool low, int blocks)
{
    return {low ? hopper_split<LANES, true, AHEAD> : hopper_split<LANES, false, AHEAD>, LANES,
            blocks};
}

/* low: with the lo part. */
method method_of(int64_t I, bool low)
{
    constexpr int MOST = HELD * VECTOR; /* entries of a thread */
    const int64_t one = 6144; /* entries of the rows of a block, for which one is enough */

    if (I <= 32 * MOST)
        return method_of<32, false>(low, BLOCKS);
    if (I <= 128 * MOST)
        return method_of<128, true>(low, I * (BLOCK / 128) > one ? 1 : BLOCKS);
    if (I <= BLOCK * MOST && low)
        return {hopper_split<BLOCK, true, true>, BLOCK, I > one ? 1 : BLOCKS};
    return method_of<BLOCK, false>(low, BLOCKS);
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

} // namespace

cudaError_t fbni_hopper_allow_split(void)
{
    cudaError_t error = cudaSuccess;

    /* the others stay below what is allowed anyway */
    for (const bool low : {false, true})
        if (error == cudaSuccess)
            error = cudaFuncSetAttribute(method_of(FBNI_HOPPER_DEPTH_MOST, low).kernel,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)(FBNI_HOPPER_DEPTH_MOST * sizeof(uint16_t)));
    return error;
}

cudaError_t fbni_hopper_split_operands(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    const method m = method_of(s->I, s->kind != FBNI_HOPPER_TF32);
    const int sets = BLOCK / m.lanes;
    const shares share = share_blocks(*s, sets, (int64_t)queue->processors * m.blocks);
    const cudaError_t error =
        launch_shared(m.kernel, (unsigned)(share.blocks[0] + share.blocks[1]), BLOCK, queue->stream,
                      (size_t)(s->ld * sets) * sizeof(uint16_t), *s, share);
    const fbni_hopper_judgement judgement = {
        s->kind,
        s->ld,
        {{s->operand[0].largest, share.notes[0], share.blocks[0]},
         {s->operand[1].largest, share.notes[1], share.blocks[1]}},
        s->control,
    };

    return error == cudaSuccess ? fbni_hopper_judge(queue, &judgement) : error;
}

cudaError_t fbni_hopper_rescue_operands(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    return launch_ahead(hopper_rescue, (unsigned)(queue->processors * 4), BLOCK, queue, 0, *s,
                        fbni_hopper_parts(s->kind));
}
