/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The exponents of a float operand's rows by a sample of each, for the product that reads the
 * operand itself (hopper_direct.cu): 32 stretches of 64 bytes, evenly apart, or all of a short row.
 * The largest of them becomes 2^SAMPLED to 2^(SAMPLED + 1), so that entries 2^7 times as large still
 * fit in f16; the product looks whether all do. A row that is zero in the sample is read as a whole:
 * the product would not see it lose all of its bits. The columns' largest, likewise: rows take
 * turns, so that every column is in the sample of some.
 *
 *     rows   0  x . . . x . . . x . . .      A block has rows of the same turn: their columns'
 *            1  . x . . . x . . . x . .      largest come together in it.
 *            2  . . x . . . x . . . x .
 *
 * 1/16 of 8192 x 8192 is 17 MB, 4 us, beside the split of x.
 */
#include "hopper_split.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256, WARPS = BLOCK / 32, SAMPLED = 8;
constexpr int STRETCH = 16, STRETCHES = 32;        /* entries of one; of a row */
constexpr int TOGETHER = 2, PARTS = STRETCHES / 8; /* rows of a warp; stretches of a lane */

/* Where the lane's entries of its part of a row are. */
__device__ inline int64_t column_of(int part, int turn, int turns)
{
    const int lane = (int)threadIdx.x % 32;
    return ((int64_t)(lane / 4 + 8 * part) * turns + turn) * STRETCH + lane % 4 * 4;
}

/* Of all of a row. */
__device__ float largest_of_row(const float *row, int64_t I)
{
    float largest = 0;

#pragma unroll 8
    for (int64_t column = threadIdx.x % 32; column < I; column += 32)
        largest = fmaxf(largest, finite_magnitude(row[column]));
    return warp_reduce(largest, largest_magnitude());
}

__global__ void __launch_bounds__(BLOCK) hopper_sample(fbni_hopper_operand o, int64_t I, int turns)
{
    __shared__ float shared[WARPS][STRETCHES * STRETCH];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int turn = (int)blockIdx.x % turns;
    const int64_t first = ((int64_t)blockIdx.x / turns * WARPS + warp) * TOGETHER;
    float v[TOGETHER][PARTS][4], most[PARTS][4] = {};

    let_kernels_ahead();
#pragma unroll
    for (int r = 0; r < TOGETHER; r++) {
        const int64_t row = (first + r) * turns + turn;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int64_t column = column_of(part, turn, turns) + k;
                v[r][part][k] = row < o.rows && column < I
                                    ? finite_magnitude(o.from[row * o.ldfrom + column])
                                    : 0;
            }
        }
    }
    wait_for_kernels(); /* they clear o.largest */
#pragma unroll
    for (int r = 0; r < TOGETHER; r++) {
        const int64_t row = (first + r) * turns + turn;
        float largest = 0;
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                largest = fmaxf(largest, v[r][part][k]);
        largest = warp_reduce(largest, largest_magnitude());
        if (largest == 0 && row < o.rows)
            largest = largest_of_row(o.from + row * o.ldfrom, I);
        const int e = exponent_for(largest, SAMPLED);
        if (lane == 0 && row < o.rows)
            o.exponents[row] = e;
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                most[part][k] = fmaxf(most[part][k], v[r][part][k] * power_of_two(e));
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++)
        *(float4 *)(void *)&shared[warp][(lane + 32 * part) * 4] =
            make_float4(most[part][0], most[part][1], most[part][2], most[part][3]);
    __syncthreads();
    for (int at = (int)threadIdx.x; at < STRETCHES * STRETCH; at += BLOCK) {
        const int64_t column = ((int64_t)(at / STRETCH) * turns + turn) * STRETCH + at % STRETCH;
        float largest = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            largest = fmaxf(largest, shared[w][at]);
        if (column < I && largest > 0)
            (void)atomicMax(o.largest + column, __half_as_ushort(__float2half_rn(largest)));
    }
}

} // namespace

cudaError_t fbni_hopper_sample(const fbni_cuda_queue *queue, const fbni_hopper_operand *w,
                               int64_t I)
{
    const int turns = (int)ceil_div(I, STRETCH * STRETCHES);
    const int64_t blocks = turns * ceil_div(w->rows, (int64_t)turns * WARPS * TOGETHER);
    return launch_ahead(hopper_sample, (unsigned)blocks, BLOCK, queue, 0, *w, I, turns);
}
