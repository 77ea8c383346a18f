/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A layer in one launch for batches of up to 256 rows, sm_90: product, moments, features and y; or,
 * in inference, product and y.
 *
 *                depth, shared by the blocks of a cluster
 *               +-------+-------+-------+--   Small layers are all latency: so every multiprocessor
 *      x, W     | block | block | block | ..  takes a part, and loads all of it at once where it
 *               |   0   |   1   |   2   |     fits. A cluster owns 40 features and all rows, and
 *               +-------+-------+-------+--   needs no other: each of its blocks multiplies a part
 *                                             of the depth, and then owns a part of the features.
 *      features +-------------------------+
 *        0..39  | block 0: the first ones |  part of u -> its owner's shared memory; the owner adds
 *               | block 1: ...            |  the parts in the order of the ranks, one warp for a
 *               +-------------------------+  feature: moments in double, algebra.h, y.
 *                  all N rows, N <= ROWS
 *
 * 128 x 1024 -> 512 on an H200, us, f32 | TF32 | bf16 (cuBLAS and train_slab: 18 | 11.7 | 9.3):
 *   25   | 13.9 | 9.6   the first version
 *   10.9 |  7.9 | 5.9   the cluster's barrier relaxed (release costs a fence of the whole device),
 *                       parts of u by st.async, two blocks on a multiprocessor where need be
 *    9.9 |  7.2 | 5.6   ldmatrix, every warp starts a stage, parameters asked for early
 *    8.4 |  6.5 | 5.1   40 features instead of 32: 13 clusters have their multiprocessors for
 *                       themselves where of 16 one or two shared theirs; vectors from the inbox
 */
#include "hopper_small.cuh"
#include "hopper_small_finish.cuh"

namespace
{

using namespace fbni;
using namespace fbni::small;

/* ---- shared memory ---- */

constexpr int OWNED_MOST = FEATURES_OF / FBNI_SMALL_LEAST;

struct fixed_memory {
    uint64_t full[SLOTS_MOST]; /* mbarriers: the slot is there */
    uint64_t received;         /* mbarrier: the inbox is */
    trained_feature features[OWNED_MOST];
};
constexpr int FIXED_BYTES = 4 * 1024;
static_assert(sizeof(fixed_memory) <= FIXED_BYTES, "");

/* ---- exchange ---- */

/* The block's part of u to the owners: inbox[rank][feature of the owner][row]. Every block begins
 * with its own features, so that they do not all send to one. */
template <int ROWS>
__device__ void send(const float *parts, uint32_t inbox, uint32_t received, int rank, int rank_bits)
{
    using tile = tile_of<ROWS>;
    constexpr int FOURS = ROWS / 4, LEAST_OWNED = FEATURES_OF / FBNI_SMALL_MOST;
    const int owned = FEATURES_OF >> rank_bits;

    for (int i = (int)threadIdx.x; i < FEATURES_OF * FOURS; i += THREADS) {
        const int next = i / FOURS + rank * owned, row = i % FOURS * 4;
        const int feature = next < FEATURES_OF ? next : next - FEATURES_OF;
        const int to = (feature / LEAST_OWNED << rank_bits) / FBNI_SMALL_MOST;
        const float *from = parts + feature * tile::PITCH + row;
        float4 sum = *(const float4 *)from;
#pragma unroll
        for (int group = 1; group < tile::DEPTH_GROUPS; group++) {
            const float4 more = *(const float4 *)(from + group * FEATURES_OF * tile::PITCH);
            sum.x += more.x;
            sum.y += more.y;
            sum.z += more.z;
            sum.w += more.w;
        }
        send_to(inbox + ((rank * owned + feature - to * owned) * ROWS + row) * 4, received,
                (uint32_t)to, sum);
    }
}

/* ---- the kernel ---- */

/* TRAINS: with the batch's statistics; kernels of their own, since instructions come from memory. */
template <fbni_hopper_kind KIND, int ROWS, bool TRAINS>
__global__ void __launch_bounds__(THREADS, 1) small_layer(const __grid_constant__ arguments a)
{
    using tile = tile_of<ROWS>;
    using T = typename element_of<KIND>::type;
    extern __shared__ __align__(128) unsigned char storage[];
    __shared__ fixed_memory fixed;
    const uint32_t excess = shared_address(storage) % SHARED_ALIGN;
    unsigned char *slots = storage + (SHARED_ALIGN - excess) % SHARED_ALIGN;
    float *parts = (float *)slots; /* when all has been multiplied; and then y and u: */
    float *y = parts, *u = y + OWNED_MOST * tile::COLUMN;
    float *inbox = (float *)(slots + area_of<ROWS>(a.from.slots));
    const int rank = (int)cluster_rank(), ranks = 1 << a.from.rank_bits;
    const uint32_t full = shared_address(fixed.full), received = shared_address(&fixed.received);
    const int64_t first = (int64_t)cluster_index() * FEATURES_OF;
    const int owned = FEATURES_OF >> a.from.rank_bits;
    const own_features own = {first + rank * owned, a.from.O, owned};
    const depth_range range = {part_of(a.from.stages, rank, a.from.rank_bits),
                               part_of(a.from.stages, rank + 1, a.from.rank_bits)};

    const int warp = (int)threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) { /* every warp its stage */
        if (warp == 0) {
            barrier_init(received, 1);
            barrier_expect(received, tile::INBOX_BYTES);
        }
        barrier_init(full + 8 * warp, 1);
        barrier_init_fence();
    }
    wait_for_kernels(); /* what is read may be the kernel before's */
    if (threadIdx.x % 32 == 0 && a.from.has_maps && warp < a.from.slots &&
        range.from + warp < range.to)
        fetch_stage<T, ROWS>(a.from, shared_address(slots) + warp * tile::SLOT_BYTES,
                             full + 8 * warp, range.from + warp, first);
    __syncthreads();
    cluster_arrive_relaxed();
    own.load<TRAINS>(a, fixed.features);
    const double per_row = 1 / (double)a.from.N;

    warp_part<KIND, ROWS> part;
    multiply_stages(part, a.from, shared_address(slots), full, range, first);
    const bool plain = KIND == FBNI_HOPPER_FP32 && part.fails();
    __syncthreads(); /* the slots have been read */
    if (plain)
        part.store_plain(parts, a.from, range, first);
    else
        part.store(parts);
    __syncthreads();
    cluster_wait(); /* all blocks have begun: their barriers are there */
    send<ROWS>(parts, shared_address(inbox), received, rank, a.from.rank_bits);
    __syncthreads(); /* the parts have been read */
    barrier_wait(received, 0);

#pragma unroll 1
    for (int f = warp; f < owned && own.mine + f < own.O; f += WARPS)
        finish_feature<TRAINS, ROWS>(a, fixed.features[f], inbox + f * ROWS, ranks, owned * ROWS,
                                     per_row, y + f * tile::COLUMN, u + f * tile::COLUMN);
    __syncthreads();
    own.keep<TRAINS>(a, fixed.features);
    if (a.finish.activation != FBN_ACT_SOFTMAX && a.finish.activation != FBN_ACT_LOG_SOFTMAX)
        store_columns<T, ROWS>(y, own, (T *)a.finish.y, a.finish.ldy, a.from.N);
    if (a.keeps_u)
        store_columns<float, ROWS>(u, own, (float *)a.finish.u, a.finish.ldu, a.from.N);
}

/* ---- launch ---- */

template <fbni_hopper_kind KIND, int ROWS>
cudaError_t launch_rows(const fbni_cuda_queue *queue, arguments a)
{
    using tile = tile_of<ROWS>;
    using T = typename element_of<KIND>::type;
    constexpr int LEFT = SHARED_MOST - FIXED_BYTES - SHARED_ALIGN - tile::INBOX_BYTES;
    constexpr int SLOTS =
        LEFT / tile::SLOT_BYTES < SLOTS_MOST ? LEFT / tile::SLOT_BYTES : SLOTS_MOST;
    static_assert(SLOTS >= 1 && tile::AREA_BYTES <= LEFT, "there is place");
    const int64_t tiles = ceil_div(a.from.O, FEATURES_OF);
    const int ranks = fbni_small_cluster(queue->processors, a.from.O);

    a.from.rank_bits = ranks == 8 ? 3 : ranks == 4 ? 2 : 1;
    a.from.stages = (int)ceil_div(a.from.I, (int64_t)tile::PANELS * PANEL / (int64_t)sizeof(T));
    a.from.slots = (int)least(SLOTS, ceil_div(a.from.stages, ranks));

    cudaLaunchAttribute attribute[2];
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = (unsigned)ranks;
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(tiles * ranks));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes =
        (size_t)(SHARED_ALIGN + area_of<ROWS>(a.from.slots) + tile::INBOX_BYTES);
    config.stream = queue->stream;
    config.attrs = attribute;
    config.numAttrs = queue->launches_ahead ? 2 : 1;
    const cudaError_t error =
        cudaLaunchKernelEx(&config,
                           a.from.statistics == FBNI_SMALL_BATCH ? small_layer<KIND, ROWS, true>
                                                                 : small_layer<KIND, ROWS, false>,
                           a);
    if (error != cudaSuccess)
        (void)cudaGetLastError();
    return error;
}

template <fbni_hopper_kind KIND>
cudaError_t launch_kind(const fbni_cuda_queue *queue, const arguments &a)
{
    switch (fbni_small_rows(a.from.N)) {
    case 32:
        return launch_rows<KIND, 32>(queue, a);
    case 64:
        return launch_rows<KIND, 64>(queue, a);
    case 128:
        return launch_rows<KIND, 128>(queue, a);
    default:
        return launch_rows<KIND, 256>(queue, a);
    }
}

template <fbni_hopper_kind KIND, int ROWS>
cudaError_t allow_rows()
{
    const cudaError_t error = cudaFuncSetAttribute(small_layer<KIND, ROWS, true>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   SHARED_MOST - FIXED_BYTES);
    return error != cudaSuccess ? error
                                : cudaFuncSetAttribute(small_layer<KIND, ROWS, false>,
                                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                       SHARED_MOST - FIXED_BYTES);
}

template <fbni_hopper_kind KIND>
cudaError_t allow_kind()
{
    cudaError_t error = allow_rows<KIND, 32>();
    if (error == cudaSuccess)
        error = allow_rows<KIND, 64>();
    if (error == cudaSuccess)
        error = allow_rows<KIND, 128>();
    return error == cudaSuccess ? allow_rows<KIND, 256>() : error;
}

} // namespace

cudaError_t fbni_hopper_allow_small(fbni_hopper_kind kind)
{
    switch (kind) {
    case FBNI_HOPPER_F16:
        return allow_kind<FBNI_HOPPER_F16>();
    case FBNI_HOPPER_BF16:
        return allow_kind<FBNI_HOPPER_BF16>();
    case FBNI_HOPPER_TF32:
        return allow_kind<FBNI_HOPPER_TF32>();
    default:
        return allow_kind<FBNI_HOPPER_FP32>();
    }
}

cudaError_t fbni_hopper_small(const fbni_cuda_queue *queue, const fbni_small_call *call,
                              const fbni_cuda_features *features, const fbni_cuda_finish *finish)
{
    arguments a = {};
    a.from = {*call, 0, 0, 0};
    a.keeps_u = call->saves_u || finish->activation == FBN_ACT_SOFTMAX ||
                finish->activation == FBN_ACT_LOG_SOFTMAX;
    if (call->statistics != FBNI_SMALL_FOLDED)
        a.features = *features;
    a.finish = *finish;
    switch (call->kind) {
    case FBNI_HOPPER_F16:
        return launch_kind<FBNI_HOPPER_F16>(queue, a);
    case FBNI_HOPPER_BF16:
        return launch_kind<FBNI_HOPPER_BF16>(queue, a);
    case FBNI_HOPPER_TF32:
        return launch_kind<FBNI_HOPPER_TF32>(queue, a);
    default:
        return launch_kind<FBNI_HOPPER_FP32>(queue, a);
    }
}
