/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The features, and y = act(alpha (u - c) + shift), element by element, of u that the product that
 * holds W (hopper_held.cu) left packed. Two kernels whose blocks start as blocks of the one
 * before end. They do not wait for that kernel, but for what they need of it, by counts:
 *
 *     product     | tiles of cluster c |  done
 *     features    | all clusters of a pair are done ... made |
 *     y                | loads what c has stored ............ | ... y ... |
 *
 * Nothing waits for blocks that may not be resident: a kernel is started when all blocks of the one
 * before have begun, and cleared their counts.
 *
 * y by stages (hopper_stages.cuh): two blocks for each cluster of the product, every other
 * stage of its tiles for each, the last first: it is still in the L2 cache. Their first loads come
 * back while the features are made.
 *
 * 65536 x 512 -> 512 bf16 on an H200: all is stored 60 us after the product's start, the features are
 * made 5 us later, and y is written in 27: 134 MB, of which a sixth has been loaded before, at 4.3
 * TB/s. What matters for the 5 us is latency: instructions that come from memory (features.cuh), and
 * few loads, behind which no others queue. The versions are in bench/results/h200-hopper.txt, part 14.
 */
#include "hopper_stages.cuh"

namespace
{

using namespace fbni;

/* ---- features ---- */

constexpr int FEATURES = FBNI_HOPPER_HELD_FEATURES, LANES = 8, TOGETHER = 5;

__global__ void __launch_bounds__(FEATURES *LANES)
    features_held(const __grid_constant__ fbni_hopper_held_finish a,
                  const __grid_constant__ chunk_rows rows)
{
    __shared__ double shared[2][LANES][FEATURES];
    const int64_t O = a.features.O, j = (int64_t)blockIdx.x * FEATURES + threadIdx.x;
    const int lane = (int)threadIdx.y, t = lane * FEATURES + (int)threadIdx.x;
    const unsigned *const done = a.done + (int64_t)blockIdx.x * FEATURES / PAIR * a.holders;

    if (t == 0)
        begin_count(a.made + blockIdx.x);
    __syncthreads();
    let_kernels_ahead();
    const chunks_feature feature(a.features, rows, least(j, O - 1), lane == 0 && j < O);
    for (int i = t; i < a.holders; i += FEATURES * LANES)
        wait_for_count(done + i, FBNI_HOPPER_HELD_DONE);
    __syncthreads();
    merged_chunks merged = feature.merge<TOGETHER>(a.moments, lane, LANES);
    sum_lanes(merged, shared);
    if (feature.keeps)
        (void)feature.finish(merged);
    __syncthreads();
    if (t == 0)
        count_up(a.made + blockIdx.x);
    wait_for_kernels(); /* whoever waits for this one waits for the product too */
}

/* ---- y ---- */

constexpr int SHARED_BYTES = STAGED_BYTES + SHARED_ALIGN;
constexpr int ROWS = stage_of<2>::ROWS, PARTS = FBNI_HOPPER_HELD_ROWS / ROWS; /* of a tile */
constexpr int MADE = PAIR / FEATURES;                                         /* counts of a pair */

/* A block's stages: of a holder's tiles, from the last one on, the same part. */
struct finish_walk {
    int pair, holder, every; /* of so many holders */
    int part, at, row;

    __device__ finish_walk(const fbni_hopper_held_finish &a, int block)
        : pair(block % a.pairs), holder(block / a.pairs / PARTS), every(a.holders),
          part(block / a.pairs % PARTS)
    {
        const int last = (int)a.chunks.groups - 1; /* tile */
        enter(last - (last - holder) % every);
    }
    __device__ void enter(int tile)
    {
        at = tile;
        row = tile * FBNI_HOPPER_HELD_ROWS + part * ROWS;
    }
    __device__ bool there() const
    {
        return at >= 0;
    }
    __device__ int tile() const
    {
        return at;
    }
    __device__ void next()
    {
        enter(at - every);
    }
};

template <typename T>
__global__ void __launch_bounds__(THREADS, 1)
    finish_held(const __grid_constant__ fbni_hopper_held_finish a)
{
    extern __shared__ char dynamic[];
    const uint32_t base = aligned_address(dynamic);
    const finish_walk walk(a, (int)blockIdx.x);
    const int t = (int)threadIdx.x - GROUP;
    const auto wait_stored = [&] {
        wait_for_count(a.done + walk.pair * a.holders + walk.holder, FBNI_HOPPER_HELD_DONE);
    };

    if (threadIdx.x == 0) {
        prefetch_map(&a.from);
        prefetch_map(&a.to);
        init_stages(base);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        wait_stored();
        copy_fence_all();
        carry_stages(base, walk, &a.from, &a.to, [](const finish_walk &) {});
    } else if (t >= 0) {
        const auto stored = [&](int) {
            if (t == 0)
                wait_stored();
            named_wait(ALONE, FINISHERS);
        };
        const auto ready = [&](int pair) {
            if (t < MADE && (int64_t)pair * PAIR + t * FEATURES < a.finish.O)
                wait_for_count(a.made + pair * MADE + t, 1);
            named_wait(ALONE, FINISHERS);
        };
        finish_stages<T>(dynamic + (base - shared_address(dynamic)), base, walk,
                         a.finish.activation, a.finish.packed, a.finish.O, stored, ready,
                         [&](int64_t j) { return feature_scale(a.finish.affine, j); });
    }
    __syncwarp();       /* a warp waits as a whole */
    wait_for_kernels(); /* whoever waits for this one waits for the product too */
}

template <typename T>
cudaError_t launch_finish(const fbni_cuda_queue *queue, const fbni_hopper_held_finish *f)
{
    const cudaError_t error =
        launch_ahead(features_held, (unsigned)ceil_div(f->finish.O, FEATURES),
                     dim3(FEATURES, LANES), queue, 0, *f, chunk_rows_of(f->chunks));

    if (error != cudaSuccess)
        return error;
    return launch_ahead(finish_held<T>, (unsigned)(f->pairs * f->holders * PARTS), THREADS, queue,
                        SHARED_BYTES, *f);
}

template <typename T>
cudaError_t allow_finish()
{
    return cudaFuncSetAttribute(finish_held<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                SHARED_BYTES);
}

} // namespace

cudaError_t fbni_hopper_allow_held_finish(void)
{
    const cudaError_t error = allow_finish<__half>();

    return error == cudaSuccess ? allow_finish<__nv_bfloat16>() : error;
}

cudaError_t fbni_hopper_finish_held(const fbni_cuda_queue *queue, const fbni_hopper_held_finish *f)
{
    return f->finish.dtype == FBN_BF16 ? launch_finish<__nv_bfloat16>(queue, f)
                                       : launch_finish<__half>(queue, f);
}
