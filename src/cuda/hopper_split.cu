/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Float operands as sums of 16-bit ones, for the tensor cores, along their rows.
 * hopper_split.cuh says which numbers, and when f16 will do.
 *
 * A block takes rows of one operand: LANES threads a row, each the same columns of every row, 8 at a
 * time.
 */
#include "hopper_split.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256, BLOCKS = 4, VECTOR = 8, HELD = 4; /* HELD vectors stay in registers */

struct largest_magnitude {
    __device__ float operator()(float a, float b) const
    {
        return a > b ? a : b;
    }
};

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

struct vector16 {
    alignas(16) uint16_t at[VECTOR];
};

__device__ void store_vector(uint16_t *to, const vector16 &v)
{
    uint4 w;
    memcpy(&w, &v, sizeof w);
    *(uint4 *)(void *)to = w;
}

/* hi (and lo) of 8 entries; the largest of each column so far, in shared memory. */
template <bool LOW>
__device__ void split_vector(const float (&v)[VECTOR], float scale, uint16_t *to, int64_t stride,
                             uint16_t *largest)
{
    vector16 hi, lo, most;
    uint4 w = *(const uint4 *)(const void *)largest;
    memcpy(&most, &w, sizeof most);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) {
        split_entry<LOW>(v[k] * scale, &hi.at[k], &lo.at[k]);
        const uint16_t magnitude = hi.at[k] & 0x7fff;
        if (magnitude > most.at[k] && magnitude < 0x7c00)
            most.at[k] = magnitude;
    }
    store_vector(to, hi);
    if (LOW)
        store_vector(to + stride, lo);
    memcpy(&w, &most, sizeof w);
    *(uint4 *)(void *)largest = w;
}

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

template <int LANES, bool WIDE, bool LOW>
__device__ void split_rows(const fbni_hopper_operand &o, int64_t I, int64_t ld, int64_t first,
                           int64_t step, uint16_t *largest)
{
    __shared__ float shared[2][BLOCK / 32];
    const int64_t mine = (int64_t)(threadIdx.x % LANES) * VECTOR, stride = o.rows * ld;
    int turn = 0;

    for (int64_t row = first; row < o.rows; row += step, turn ^= 1) {
        const float *from = o.from + row * o.ldfrom;
        uint16_t *to = o.parts + row * ld;
        float held[HELD][VECTOR], more[VECTOR], magnitude = 0;

#pragma unroll
        for (int i = 0; i < HELD; i++)
            load_vector<WIDE>(held[i], from, mine + i * (LANES * VECTOR), I);
#pragma unroll
        for (int i = 0; i < HELD; i++)
#pragma unroll
            for (int k = 0; k < VECTOR; k++)
                magnitude = fmaxf(magnitude, finite_magnitude(held[i][k]));
        for (int64_t column = mine + HELD * (LANES * VECTOR); column < I;
             column += LANES * VECTOR) {
            load_vector<WIDE>(more, from, column, I);
#pragma unroll
            for (int k = 0; k < VECTOR; k++)
                magnitude = fmaxf(magnitude, finite_magnitude(more[k]));
        }
        magnitude = warp_reduce(magnitude, largest_magnitude());
        if (LANES > 32)
            magnitude = merge_warps<LANES>(magnitude, shared[turn]);
        const int e = exponent_for(magnitude);
        const float scale = power_of_two(e);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int64_t column = mine + i * (LANES * VECTOR);
            if (column < I)
                split_vector<LOW>(held[i], scale, to + column, stride, largest + column);
        }
        for (int64_t column = mine + HELD * (LANES * VECTOR); column < I;
             column += LANES * VECTOR) {
            load_vector<WIDE>(more, from, column, I);
            split_vector<LOW>(more, scale, to + column, stride, largest + column);
        }
        if (threadIdx.x % LANES == 0)
            o.exponents[row] = e;
    }
}

/* The block's largest entries (of `sets` sets) into all blocks'. Most are no larger than what is
 * there. */
__device__ void merge_largest(const uint16_t *largest, int sets, int64_t ld, unsigned *all,
                              int64_t I)
{
    __syncthreads();
    for (int64_t k = threadIdx.x; k < I; k += BLOCK) {
        unsigned most = 0;
        for (int i = 0; i < sets; i++)
            most = max(most, (unsigned)largest[i * ld + k]);
        if (most > *(volatile unsigned *)&all[k])
            atomicMax(&all[k], most);
    }
}

template <int LANES, bool LOW>
__global__ void __launch_bounds__(BLOCK, BLOCKS)
    hopper_split(fbni_hopper_split s, int blocks_of_first, bool wide0, bool wide1)
{
    extern __shared__ uint4 dynamic[];
    __shared__ bool last;
    constexpr int SETS = BLOCK / LANES;
    const bool second = (int)blockIdx.x >= blocks_of_first;
    const fbni_hopper_operand o = second ? s.operand[1] : s.operand[0];
    const int block = second ? (int)blockIdx.x - blocks_of_first : (int)blockIdx.x;
    const int blocks = second ? (int)gridDim.x - blocks_of_first : blocks_of_first;
    const int set = (int)threadIdx.x / LANES;
    const int64_t length = (s.I + VECTOR - 1) / VECTOR * VECTOR;
    uint16_t *largest = (uint16_t *)(void *)dynamic;

    for (int64_t k = (int64_t)threadIdx.x * VECTOR; k < SETS * length; k += BLOCK * VECTOR)
        *(uint4 *)(void *)(largest + k) = make_uint4(0, 0, 0, 0);
    __syncthreads();
    if (second ? wide1 : wide0)
        split_rows<LANES, true, LOW>(o, s.I, s.ld, block * SETS + set, blocks * SETS,
                                     largest + set * length);
    else
        split_rows<LANES, false, LOW>(o, s.I, s.ld, block * SETS + set, blocks * SETS,
                                      largest + set * length);
    merge_largest(largest, SETS, length, o.largest, s.I);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(&s.control->done, 1u) == gridDim.x - 1;
    __syncthreads();
    if (last && s.operand[0].largest && s.operand[1].largest) {
        __threadfence();
        judge<BLOCK>(s.kind, s.I, s.operand[0].largest, s.operand[1].largest, s.control);
    }
}

__global__ void __launch_bounds__(BLOCK) hopper_rescue(fbni_hopper_split s, int parts)
{
    if (*(volatile int *)&s.control->rescue == 0)
        return;
    for (int which = 0; which < 2; which++) {
        const fbni_hopper_operand &o = s.operand[which];
        if (!o.from)
            continue;
        for (int64_t row = blockIdx.x; row < o.rows; row += gridDim.x) {
            for (int64_t k = threadIdx.x; k < s.I; k += BLOCK) {
                float rest = o.from[row * o.ldfrom + k];
                for (int p = 0; p < parts; p++)
                    o.rescue[(p * o.rows + row) * s.ld + k] = truncate(&rest);
            }
        }
    }
}

bool is_wide_operand(const fbni_hopper_operand &o)
{
    return (uintptr_t)o.from % 16 == 0 && o.ldfrom % 4 == 0;
}

typedef void split_kernel(fbni_hopper_split, int, bool, bool);

/* The kernel with so many threads a row; low: with the lo part. */
split_kernel *split_of(int lanes, bool low)
{
    switch (lanes) {
    case 32:
        return low ? hopper_split<32, true> : hopper_split<32, false>;
    case 128:
        return low ? hopper_split<128, true> : hopper_split<128, false>;
    default:
        return low ? hopper_split<BLOCK, true> : hopper_split<BLOCK, false>;
    }
}

} // namespace

cudaError_t fbni_hopper_allow_split(void)
{
    cudaError_t error = cudaSuccess;

    for (const int lanes : {32, 128, BLOCK})
        for (const bool low : {false, true})
            if (error == cudaSuccess)
                error = cudaFuncSetAttribute(split_of(lanes, low),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)(FBNI_HOPPER_DEPTH_MOST * sizeof(uint16_t)));
    return error;
}

cudaError_t fbni_hopper_split_operands(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    const int64_t rows0 = s->operand[0].from ? s->operand[0].rows : 0;
    const int64_t rows1 = s->operand[1].from ? s->operand[1].rows : 0;
    const bool low = s->kind != FBNI_HOPPER_TF32;
    const int lanes = s->I <= 32 * VECTOR * HELD ? 32 : s->I <= 128 * VECTOR * HELD ? 128 : BLOCK;
    const int sets = BLOCK / lanes;
    const int64_t blocks =
        least(ceil_div(rows0, sets) + ceil_div(rows1, sets), (int64_t)queue->processors * BLOCKS);
    /* dealt out by rows, at least one block where there are rows */
    int64_t first = blocks * rows0 / (rows0 + rows1);
    if (rows0 > 0 && first == 0)
        first = 1;
    if (rows1 > 0 && first == blocks)
        first = blocks - 1;
    const size_t shared = (size_t)(ceil_div(s->I, VECTOR) * VECTOR * sets) * sizeof(uint16_t);
    split_kernel *kernel = split_of(lanes, low);
    return launch_shared(kernel, (unsigned)blocks, BLOCK, queue->stream, shared, *s, (int)first,
                         is_wide_operand(s->operand[0]), is_wide_operand(s->operand[1]));
}

cudaError_t fbni_hopper_rescue_operands(const fbni_cuda_queue *queue, const fbni_hopper_split *s)
{
    return launch(hopper_rescue, (unsigned)(queue->processors * 8), BLOCK, queue->stream, *s,
                  fbni_hopper_parts(s->kind));
}
