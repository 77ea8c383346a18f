/* SPDX-License-Identifier: BSD-3-Clause
 *
 * y = act(alpha (u - c) + shift), element by element, of u that the Hopper product left packed
 * (hopper_moments.cuh) in y or in the saved buffer: one read and one write of 16 bits an element.
 *
 * A block takes some rows of a tile of the product, two feature tiles wide. Its threads have 4 rows
 * of 8 features on their way while they work out the coefficients of the tile, a feature each, and
 * then always the next 4. The tiles come in the order in which they were stored, the last first: it
 * is still in the L2 cache. 65536 x 512 bf16: 33 us, of 67 MB each way (42 with 64 rows a block
 * that are all asked for at once).
 *
 * FUSED, for few tiles: each block merges the moments of its features itself, while its first rows
 * are on their way, and one of each pair's keeps what training keeps: a launch less. As many blocks
 * as run at once, where the others have twice as many: 1024 x 8192 -> 8192 bf16 then takes 1.07 of
 * cuBLAS's product (twice as many: 1.09; features before: 1.10).
 */
#include "activations.cuh"
#include "features.cuh"
#include "hopper_moments.cuh"
#include "hopper_packed.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = packed_pass::BLOCK, COUNT = packed_pass::COUNT, ROWS = packed_pass::ROWS;
constexpr int WIDTH = packed_pass::WIDTH; /* BLOCK threads work out as many coefficients */

/* Blocks that a multiprocessor holds, as far as registers go. */
constexpr int blocks_of(fbn_activation activation, bool fused)
{
    return fused ? 2 : activation == FBN_ACT_GELU || activation == FBN_ACT_SILU ? 3 : 4;
}

/* Of feature j in a tile. keep: its features have not been kept by another block. */
template <bool FUSED>
__device__ inline unpacking unpacking_of(const fbni_cuda_finish &a, const fbni_cuda_features &f,
                                         const chunk_rows &rows, int64_t tile, int64_t j, bool keep)
{
    if (!FUSED)
        return unpacking(a, tile, j);
    const float *moments = a.packed.partials + (a.packed.tiles - 1 - tile) * 4 * a.O + j;
    const fbni_affine of = chunks_feature(f, rows, j, keep).make(a.packed.partials);
    return unpacking(moments[0], (int)moments[3 * a.O] + 10, (float)of.alpha, (float)of.c,
                     (float)of.shift);
}

/* The coefficients of a tile, a feature a thread, and then those of the thread's columns. */
template <bool WIDE>
struct coefficients {
    float2 v[COUNT];

    template <typename OF>
    __device__ coefficients(const packed_columns<WIDE> &cols, int64_t pair, int lanes, int64_t O,
                            const OF &of)
    {
        __shared__ float2 all[WIDTH];
        const int t = (int)threadIdx.x;

        if (t < lanes * COUNT && pair * WIDTH + t < O) {
            const unpacking u = of(pair * WIDTH + t);
            all[t] = make_float2(u.a, u.b);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            v[k] = all[cols.first - pair * WIDTH + k * cols.stride];
    }
};

/* lanes: threads of a row; share: rows of a block. */
template <typename T, fbn_activation ACT, bool WIDE, bool FUSED>
__global__ void __launch_bounds__(BLOCK, blocks_of(ACT, FUSED))
    normalise_packed(const __grid_constant__ fbni_cuda_finish a,
                     const __grid_constant__ fbni_cuda_features f,
                     const __grid_constant__ chunk_rows rows, schedule order, int lanes, int share)
{
    const int step = BLOCK / lanes, lane = (int)threadIdx.x % lanes;
    const int parts = (int)a.packed.tile_rows / share;
    packed_values w[ROWS], next[ROWS];
    int pair, tile;

    order.tile = order.pairs * order.tiles - 1 - (int)blockIdx.x / parts;
    order.where(&pair, &tile);
    const packed_columns<WIDE> cols(pair, lane, lanes, a.O);
    const int64_t first = tile * a.packed.tile_rows + (int)blockIdx.x % parts * share;
    const int left = (int)(a.N - first < share ? a.N - first : share);
    const uint16_t *const u = (const uint16_t *)a.u + first * a.ldu;
    T *const y = (T *)a.y + first * a.ldy;
    int row = (int)threadIdx.x / lanes;

    wait_for_kernels();
    load_rows(w, cols, u, a.ldu, row, step, left);
    const bool keep = tile == 0 && (int)blockIdx.x % parts == 0;
    const coefficients<WIDE> by(cols, pair, lanes, a.O, [&](int64_t j) {
        return unpacking_of<FUSED>(a, f, rows, tile, j, keep);
    });
    for (; row < left; row += ROWS * step) {
        load_rows(next, cols, u, a.ldu, row + ROWS * step, step, left);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float value[COUNT];
#pragma unroll
            for (int k = 0; k < COUNT; k += 2) {
                const float2 pair = w[i].pair<__half>(k / 2);
                value[k] = activate<ACT>(fmaf(by.v[k].x, pair.x, by.v[k].y));
                value[k + 1] = activate<ACT>(fmaf(by.v[k + 1].x, pair.y, by.v[k + 1].y));
            }
            if (row + i * step < left)
                cols.store(y + (row + i * step) * a.ldy, value);
            w[i] = next[i];
        }
    }
}

template <typename T, fbn_activation ACT>
cudaError_t launch_activation(const fbni_cuda_queue *queue, const fbni_cuda_finish &a,
                              const fbni_cuda_features *f)
{
    const int lanes = fbni_cuda_lanes(a.O, 2), pairs = (int)ceil_div(a.O, WIDTH);
    const schedule order = {0, pairs, (int)a.packed.tiles, a.packed.band, 0, 1};
    const int64_t units = (int64_t)(pairs - a.packed.pairs_done) * order.tiles; /* the last ones */
    const bool wide = is_wide(a.u, a.ldu, a.O, COUNT, 2) && is_wide(a.y, a.ldy, a.O, COUNT, 2);
    const fbni_cuda_features none = {};
    const fbni_cuda_chunks tiles = {a.N, a.packed.tile_rows, a.packed.tiles, (int)a.packed.tiles, 0,
                                    4};
    const int64_t wanted = (int64_t)queue->processors * (f ? 3 : 6) / 2; /* blocks */
    int share = (int)a.packed.tile_rows;

    while (share > 32 && units * (a.packed.tile_rows / share) < wanted)
        share /= 2;
    return launch_ahead(f      ? wide ? normalise_packed<T, ACT, true, true>
                                      : normalise_packed<T, ACT, false, true>
                             : wide ? normalise_packed<T, ACT, true, false>
                               : normalise_packed<T, ACT, false, false>,
                        (unsigned)(units * (a.packed.tile_rows / share)), BLOCK, queue, 0, a,
                        f ? *f : none, chunk_rows_of(tiles), order, lanes, share);
}

template <typename T>
cudaError_t launch_normalise(const fbni_cuda_queue *queue, const fbni_cuda_finish &a,
                             const fbni_cuda_features *f)
{
    switch (a.activation) {
    case FBN_ACT_RELU:
        return launch_activation<T, FBN_ACT_RELU>(queue, a, f);
    case FBN_ACT_GELU:
        return launch_activation<T, FBN_ACT_GELU>(queue, a, f);
    case FBN_ACT_SILU:
        return launch_activation<T, FBN_ACT_SILU>(queue, a, f);
    default:
        return launch_activation<T, FBN_ACT_NONE>(queue, a, f);
    }
}

} // namespace

cudaError_t fbni_hopper_normalise(const fbni_cuda_queue *queue, const fbni_cuda_finish *finish,
                                  const fbni_cuda_features *features)
{
    return finish->dtype == FBN_BF16 ? launch_normalise<__nv_bfloat16>(queue, *finish, features)
                                     : launch_normalise<__half>(queue, *finish, features);
}
