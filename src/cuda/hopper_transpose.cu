/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The transpose of a matrix in 16-bit parts: what the products of the backward pass, whose depth
 * lies down the columns, need of W, x and du. hopper_split.cuh says which parts.
 *
 *        from [rows, columns]                 parts[p] [columns, ld >= rows]
 *               64 columns                            64 of the depth
 *           +---------------+                       +---------------+
 *    64     |  8 warps load |      shared memory    |  a warp stores|
 *    rows   |  2 x (8 rows  |   ----------------->  |  4 lines of   |   64 columns
 *           |  x 32 columns)|   pairs of rows, 32   |  128 bytes    |
 *           +---------------+   bits each           +---------------+
 *
 * A column is scaled by its own power of two, after its largest magnitude, which an earlier pass
 * has found: column_maxima, or the pass that wrote the matrix.
 */
#include "hopper_split.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256, BLOCKS = 4, SIDE = 64;
constexpr int STRIDE = SIDE / 2 + 1; /* pairs of a column, and one so that the banks differ */

/* ---- the largest magnitude of each column ---- */

constexpr int ROWS = 4;

/* Row r is multiplied by 2^(power of scales[r]) first, where there are scales. */
__device__ float power_at(const float *scales, int64_t row)
{
    return scales ? power_of_two(power_of(scales[row])) : 1;
}

template <bool WIDE>
__global__ void __launch_bounds__(BLOCK, BLOCKS) column_maxima(fbni_hopper_transpose t, int lanes)
{
    constexpr int COUNT = columns<float, WIDE>::COUNT;
    __shared__ float shared[COUNT][BLOCK];
    const int step = BLOCK / lanes;
    const columns<float, WIDE> cols(blockIdx.x, (int)threadIdx.x % lanes, lanes, t.columns);
    float most[COUNT] = {};

    for (int64_t row = (int64_t)blockIdx.y * (step * ROWS) + (int)threadIdx.x / lanes; row < t.rows;
         row += (int64_t)gridDim.y * (step * ROWS)) {
        float v[ROWS][COUNT] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (row + i * step < t.rows)
                cols.load(v[i], t.from + (row + i * step) * t.ldfrom);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const float power =
                row + i * step < t.rows ? power_at(t.row_scales, row + i * step) : 1;
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                most[k] = fmaxf(most[k], finite_magnitude(v[i][k] * power));
        }
    }
    /* Of the block, so that few blocks meet at a column: that is what narrow matrices cost. */
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        shared[k][threadIdx.x] = most[k];
    __syncthreads();
    if ((int)threadIdx.x >= lanes)
        return;
    for (int at = (int)threadIdx.x + lanes; at < BLOCK; at += lanes)
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            most[k] = fmaxf(most[k], shared[k][at]);
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        if (k < cols.count)
            raise(&t.maxima[cols.first + k * cols.stride], __float_as_uint(most[k]));
}

/* ---- the transpose ---- */

enum class parts_of { HI, HI_LO, BF16 };

/* e with which a column is scaled, and what the product is told: the same, less the power of two
 * that the matrix was divided by; both such that their powers of two are floats. */
__device__ void column_exponents(const fbni_hopper_transpose &t, int64_t column, int *e, int *told)
{
    const int power = t.column_scales ? power_of(t.column_scales[column]) : 0;
    const int all = exponent_for(__uint_as_float(t.maxima[column])) - power;
    *told = all > 126 ? 126 : all < -126 ? -126 : all;
    *e = *told + power;
}

/* 4 columns of a row; those that are not there read as 0. */
__device__ void load_columns(float (&v)[4], const fbni_hopper_transpose &t, int64_t row,
                             int64_t column, bool wide)
{
    const float *from = t.from + row * t.ldfrom + column;
    if (wide && row < t.rows && column + 4 <= t.columns) {
        const pack<float, 4> p = load_pack<float, 4>(from);
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[k] = p.at[k];
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[k] = row < t.rows && column + k < t.columns ? from[k] : 0;
    }
}

/* Two rows of 4 columns, to shared memory; most: the largest hi of either row. */
template <parts_of OF, int PARTS>
__device__ void split_rows(const float (&v)[2][4], const float (&scale)[4],
                           uint32_t (*shared)[SIDE * STRIDE], int at, unsigned (&most)[2])
{
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint16_t part[2][3];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (OF == parts_of::BF16) {
                float rest = v[e][k] * scale[k];
#pragma unroll
                for (int p = 0; p < PARTS; p++)
                    part[e][p] = truncate(&rest);
            } else {
                split_entry<PARTS == 2>(v[e][k] * scale[k], &part[e][0], &part[e][1]);
                const unsigned magnitude = part[e][0] & 0x7fff;
                if (magnitude > most[e] && magnitude < 0x7c00)
                    most[e] = magnitude;
            }
        }
#pragma unroll
        for (int p = 0; p < PARTS; p++)
            shared[p][at + k * STRIDE] = part[0][p] | (uint32_t)part[1][p] << 16;
    }
}

/* The tile's columns out of shared memory, 16 bytes a thread. */
template <int PARTS>
__device__ void store_columns(const fbni_hopper_transpose &t, uint16_t *to, int64_t row,
                              int64_t column, const uint32_t (*shared)[SIDE * STRIDE])
{
    const int64_t at = row + threadIdx.x % 8 * 8;
#pragma unroll
    for (int i = 0; i < SIDE / (BLOCK / 8); i++) {
        const int c = (int)threadIdx.x / 8 + i * (BLOCK / 8);
        if (at < t.ld && column + c < t.columns) {
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                const uint32_t *from = &shared[p][c * STRIDE + threadIdx.x % 8 * 4];
                *(uint4 *)(void *)(to + (p * t.columns + column + c) * t.ld + at) =
                    make_uint4(from[0], from[1], from[2], from[3]);
            }
        }
    }
}

/* The largest of 8 threads, who have the same two rows: 32 columns of them. */
__device__ void note_largest(uint16_t *shared, unsigned (&most)[2])
{
#pragma unroll
    for (int e = 0; e < 2; e++) {
#pragma unroll
        for (int offset = 1; offset < 8; offset *= 2)
            most[e] = max(most[e], __shfl_xor_sync(0xffffffffu, most[e], offset));
        if (threadIdx.x % 8 == 0)
            shared[e] = (uint16_t)most[e];
    }
}

/* Where the largest entries of the tiles' rows go, one line for each 64 columns: where the last
 * part of the rescue will lie. */
__host__ __device__ uint16_t *notes_of(const fbni_hopper_transpose &t)
{
    return t.rescue + (t.kind == FBNI_HOPPER_TF32 ? 1 : 2) * t.columns * t.ld;
}

template <parts_of OF, int PARTS>
__device__ void transpose_tile(const fbni_hopper_transpose &t, int64_t row, int64_t column,
                               bool wide, uint32_t (*shared)[SIDE * STRIDE])
{
    __shared__ uint16_t largest[2][SIDE]; /* of the left and the right half of the columns */
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int my_column = warp % 2 * 32 + lane % 8 * 4, pair = warp / 2 * 4 + lane / 8;
    float v[2][2][4], scale[4];

#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            load_columns(v[i][e], t, row + 2 * pair + 32 * i + e, column + my_column, wide);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int64_t at = column + my_column + k;
        int e = 0, told = 0;
        if (OF != parts_of::BF16 && at < t.columns)
            column_exponents(t, at, &e, &told);
        else if (OF == parts_of::BF16 && t.column_scales && at < t.columns)
            e = power_of(t.column_scales[at]);
        scale[k] = power_of_two(e);
        if (OF != parts_of::BF16 && at < t.columns && row == 0 && pair == 0)
            t.exponents[at] = told;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        unsigned most[2] = {};
        if (t.row_scales) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int64_t at = row + 2 * pair + 32 * i + e;
                const float power = at < t.rows ? power_at(t.row_scales, at) : 1;
#pragma unroll
                for (int k = 0; k < 4; k++)
                    v[i][e][k] *= power;
            }
        }
        split_rows<OF, PARTS>(v[i], scale, shared, my_column * STRIDE + pair + 16 * i, most);
        if (OF != parts_of::BF16)
            note_largest(&largest[warp % 2][2 * pair + 32 * i], most);
    }
    __syncthreads();
    if (OF != parts_of::BF16 && threadIdx.x < SIDE && row + threadIdx.x < t.ld)
        notes_of(t)[column / SIDE * t.ld + row + threadIdx.x] =
            max(largest[0][threadIdx.x], largest[1][threadIdx.x]);
    store_columns<PARTS>(t, OF == parts_of::BF16 ? t.rescue : t.parts, row, column, shared);
}

template <parts_of OF, int PARTS>
__global__ void __launch_bounds__(BLOCK, BLOCKS)
    hopper_transpose(fbni_hopper_transpose t, bool wide)
{
    __shared__ uint32_t shared[PARTS][SIDE * STRIDE];
    const int64_t across = (t.columns + SIDE - 1) / SIDE, down = (t.rows + SIDE - 1) / SIDE;

    if (OF == parts_of::BF16 && !needs_rescue(t.kind, t.ld, t.control))
        return;
    for (int64_t tile = blockIdx.x; tile < across * down; tile += gridDim.x) {
        transpose_tile<OF, PARTS>(t, tile / across * SIDE, tile % across * SIDE, wide, shared);
        __syncthreads();
    }
}

/* ---- launching ---- */

template <parts_of OF, int PARTS>
cudaError_t launch_parts(const fbni_cuda_queue *queue, const fbni_hopper_transpose &t)
{
    const int64_t tiles = ceil_div(t.columns, SIDE) * ceil_div(t.rows, SIDE);
    const int64_t blocks = least(tiles, (int64_t)queue->processors * BLOCKS);
    const bool wide = (uintptr_t)t.from % 16 == 0 && t.ldfrom % 4 == 0;

    return launch(hopper_transpose<OF, PARTS>, (unsigned)blocks, BLOCK, queue->stream, t, wide);
}

} // namespace

cudaError_t fbni_hopper_column_maxima(const fbni_cuda_queue *queue, const fbni_hopper_transpose *t)
{
    const int lanes = fbni_cuda_lanes(t->columns, sizeof(float));
    const int64_t slabs = fbni_cuda_slabs(t->columns, lanes, sizeof(float));
    const int blocks = fbni_cuda_share_rows(slabs, (int64_t)queue->processors * BLOCKS,
                                            ceil_div(t->rows, BLOCK / lanes * ROWS));
    const bool wide = is_wide(t->from, t->ldfrom, t->columns, 4, sizeof(float));

    return launch(wide ? column_maxima<true> : column_maxima<false>,
                  dim3((unsigned)slabs, (unsigned)blocks), BLOCK, queue->stream, *t, lanes);
}

cudaError_t fbni_hopper_transpose_operand(const fbni_cuda_queue *queue,
                                          const fbni_hopper_transpose *t)
{
    const cudaError_t error = t->kind == FBNI_HOPPER_TF32
                                  ? launch_parts<parts_of::HI, 1>(queue, *t)
                                  : launch_parts<parts_of::HI_LO, 2>(queue, *t);
    const fbni_hopper_judgement judgement = {
        t->kind,
        t->ld,
        {{t->largest, notes_of(*t), (int)ceil_div(t->columns, SIDE), 0}, {}},
        NULL,
    };
    return error == cudaSuccess ? fbni_hopper_judge(queue, &judgement) : error;
}

cudaError_t fbni_hopper_transpose_rescue(const fbni_cuda_queue *queue,
                                         const fbni_hopper_transpose *t)
{
    return t->kind == FBNI_HOPPER_TF32 ? launch_parts<parts_of::BF16, 2>(queue, *t)
                                       : launch_parts<parts_of::BF16, 3>(queue, *t);
}
