/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Normalisation behind the product, in the same launch. Where the tiles of a product fill its waves
 * without all multiprocessors (16 waves of 64 clusters at 16384 x 4096 -> 4096, of an H200's 66),
 * the clusters left over take the pairs of feature tiles that the others have completed: they merge
 * the moments, make the features, and turn u into y, while the others multiply the next pairs. What
 * is complete too late is left to the kernels that come after (cuda_hopper_plan.c says how much).
 *
 *     blocks that multiply       band 0 | band 1 | band 2 | band 3 |
 *     blocks that follow                | y of 0 | y of 1 | y of 2 |
 *     kernels after                                                | y of 3
 *
 * A block takes every so many pairs, all rows of 256 features, by stages (hopper_stages.cuh).
 *
 * On an H100, whose L2 cache the product keeps busy, a block moves 38 GB/s either way, 0.85 us a
 * stage; what the 256 do is hidden behind that: all loads of a stage before its arithmetic, or one
 * row after the other, made no difference. y stored by them took 1.13 us, boxes of 128 bytes x 16
 * rows, 32 a stage, 1.7.
 */
#ifndef FBNI_CUDA_HOPPER_FOLLOW_CUH
#define FBNI_CUDA_HOPPER_FOLLOW_CUH

#include "hopper_epilogue.cuh"
#include "hopper_stages.cuh"

namespace fbni
{

static_assert(STAGED_BYTES <= tile_of<176>::SHARED_BYTES - SHARED_ALIGN, "the smallest of tiles");

/* Stages in the order of rows, and of the block's pairs. */
struct follow_walk {
    int pair, step, pairs, rows, height, tile_rows, row;

    __device__ bool there() const
    {
        return pair < pairs;
    }
    __device__ int tile() const
    {
        return row / tile_rows;
    }
    __device__ void next()
    {
        row += height;
        if (row >= rows) {
            row = 0;
            pair += step;
        }
    }
};

/* ---- a block that follows ---- */

/* follower: the block's number among those that follow. T: of y. */
template <typename T>
__device__ void follow_product(char *memory, uint32_t base, int follower,
                               const fbni_hopper_follow &of, int tiles, int tile_rows,
                               const float *partials, fbn_activation activation)
{
    const fbni_cuda_features &features = of.features;
    const fbni_cuda_packed packed = {partials, tile_rows, tiles, 0, 0};
    const chunk_rows rows = chunk_rows_of({features.batch, tile_rows, tiles, tiles, 0, 4});
    const follow_walk walk = {follower,
                              of.clusters * CLUSTER,
                              of.pairs,
                              (int)features.batch,
                              stage_of<(int)sizeof(T)>::ROWS,
                              tile_rows,
                              0};
    const auto wait = [&](int pair) {
        wait_for_count(of.done + pair, (unsigned)(2 * CLUSTER * tiles)); /* warpgroups */
    };

    if (threadIdx.x == 0)
        init_stages(base);
    __syncthreads();
    if (threadIdx.x == 0) {
        carry_stages(base, walk, &of.from, &of.to, [&](const follow_walk &w) {
            if (w.row == 0) {
                wait(w.pair);
                copy_fence_all();
            }
        });
    } else if (threadIdx.x >= GROUP) {
        const auto stored = [&](int pair) {
            if (threadIdx.x == GROUP)
                wait(pair);
            named_wait(ALONE, FINISHERS);
        };
        finish_stages<T>(
            memory, base, walk, activation, packed, features.O, stored, [](int) {},
            [&](int64_t j) {
                return feature_scale(chunks_feature(features, rows, j, true).make(partials));
            });
    }
}

} // namespace fbni

#endif
