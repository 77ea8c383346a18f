/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the judge of a split needs (hopper_split.cuh): the largest entries of the columns of both
 * operands, out of those that the blocks of a split found, and their sums.
 *
 * A block takes 64 columns at a time: 8 threads side by side, 8 columns each, 32 of the blocks'
 * rows at once. Nothing is counted or cleared: what follows adds the blocks' sums up itself.
 */
#include "hopper_split.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256, COLUMNS = FBNI_HOPPER_JUDGED, VECTOR = 8, ACROSS = COLUMNS / VECTOR;

/* Whether f16 loses what a row of x needs that has one column alone, largest entries x and w.
 * marks: of FBNI_HOPPER_DIRECT. */
__device__ inline bool loses_alone(fbni_hopper_kind kind, float x, float w, unsigned marks)
{
    if (kind == FBNI_HOPPER_DIRECT)
        return marks & FBNI_HOPPER_BEYOND || (marks & FBNI_HOPPER_BELOW && x > 0 && w < 0x1p-28f);
    return x > 0 && w > 0 && w < (kind == FBNI_HOPPER_FP32 ? 0x1p-12f : 0x1p-24f);
}

/* The largest of 64 columns, in shared memory by warps. */
__device__ void gather(const fbni_hopper_columns &c, int64_t ld, int64_t first,
                       uint16_t (&shared)[BLOCK / 32][COLUMNS])
{
    const int64_t column = first + threadIdx.x % ACROSS * VECTOR;
    vector16 most = {};

    if (column < ld) {
#pragma unroll 8
        for (int row = (int)threadIdx.x / ACROSS; row < c.count; row += BLOCK / ACROSS)
            most = largest_of(most, load_vector16(c.rows + row * ld + column));
    }
#pragma unroll
    for (int offset = 16; offset >= ACROSS; offset /= 2) {
        vector16 other;
#pragma unroll
        for (int k = 0; k < VECTOR / 2; k++)
            other.pair[k] = __shfl_xor_sync(0xffffffffu, most.pair[k], offset);
        most = largest_of(most, other);
    }
    if (threadIdx.x % 32 < ACROSS)
        store_vector16(&shared[threadIdx.x / 32][threadIdx.x % ACROSS * VECTOR], most);
}

__global__ void __launch_bounds__(BLOCK) hopper_judge(fbni_hopper_judgement j)
{
    __shared__ alignas(16) uint16_t shared[2][BLOCK / 32][COLUMNS];
    __shared__ float warps[2][2];
    float sum = 0, squares = 0;

    let_kernels_ahead();
    wait_for_kernels();
    for (int64_t first = (int64_t)blockIdx.x * COLUMNS; first < j.ld;
         first += (int64_t)gridDim.x * COLUMNS) {
        const int64_t column = first + threadIdx.x;
        for (int i = 0; i < 2; i++)
            if (j.of[i].count > 0)
                gather(j.of[i], j.ld, first, shared[i]);
        __syncthreads();
        if (threadIdx.x < COLUMNS && column < j.ld) {
            float largest[2] = {};
            unsigned marks = 0;
            for (int i = 0; i < 2; i++) {
                unsigned bits = j.of[i].some ? j.of[i].largest[column] : 0;
                marks = bits & (FBNI_HOPPER_BEYOND | FBNI_HOPPER_BELOW); /* w comes last */
                bits &= 0xffff;
                if (j.of[i].count > 0) {
#pragma unroll
                    for (int w = 0; w < BLOCK / 32; w++)
                        bits = max(bits, (unsigned)shared[i][w][threadIdx.x]);
                    j.of[i].largest[column] = bits;
                }
                largest[i] = __half2float(__ushort_as_half((unsigned short)bits)) * 0x1p-15f;
            }
            const float x = largest[0], w = largest[1];
            if (loses_alone(j.kind, x, w, marks)) {
                sum = __int_as_float(0x7f800000);
            } else {
                sum += x + w;
                squares += (x * w) * (x * w);
            }
        }
        __syncthreads();
    }
    if (!j.control)
        return;
    sum = warp_reduce(sum, add_up());
    squares = warp_reduce(squares, add_up());
    if (threadIdx.x % 32 == 0 && threadIdx.x < COLUMNS) {
        warps[threadIdx.x / 32][0] = sum;
        warps[threadIdx.x / 32][1] = squares;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        j.control->sums[blockIdx.x][0] = warps[0][0] + warps[1][0];
        j.control->sums[blockIdx.x][1] = warps[0][1] + warps[1][1];
    }
}

} // namespace

cudaError_t fbni_hopper_judge(const fbni_cuda_queue *queue, const fbni_hopper_judgement *j)
{
    const int64_t blocks = j->control ? judges_of(j->ld) : ceil_div(j->ld, COLUMNS);

    return launch_ahead(hopper_judge, (unsigned)blocks, BLOCK, queue, 0, *j);
}
