/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The tiles of hopper_small.cu, and how a block's part of x and W comes to its shared memory: in
 * stages, each a panel or more of 128 bytes of every row, by the copy engine, or by all threads
 * where no tensor map can have the matrix.
 */
#ifndef FBNI_CUDA_HOPPER_SMALL_LOAD_CUH
#define FBNI_CUDA_HOPPER_SMALL_LOAD_CUH

#include "device.cuh"
#include "hopper_kernels.h"
#include "hopper_ptx.cuh"

namespace fbni
{
namespace small
{

/* ---- configuration ---- */

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int FEATURES_OF = FBNI_SMALL_FEATURES; /* of a cluster */
constexpr int WARP_ROWS = 32;
constexpr int PIECE = 16;         /* bytes that are swizzled together */
constexpr int PANEL = 128;        /* bytes of a row that the copy engine brings together */
constexpr int SPAN = 64;          /* of which a warp takes two */
constexpr int STEP = 32;          /* bytes of a row that an mma multiplies */
constexpr int SLOTS_MOST = WARPS; /* on their way: a warp starts each */
constexpr int SHARED_MOST = 227 * 1024, SHARED_ALIGN = 1024;

template <fbni_hopper_kind KIND>
struct element_of {
    using type = float;
};
template <>
struct element_of<FBNI_HOPPER_F16> {
    using type = __half;
};
template <>
struct element_of<FBNI_HOPPER_BF16> {
    using type = __nv_bfloat16;
};

template <int ROWS>
struct tile_of {
    static constexpr int ROW_GROUPS = ROWS / WARP_ROWS, DEPTH_GROUPS = WARPS / ROW_GROUPS;
    /* a slot: panels, each with its rows of x and then of W */
    static constexpr int PANELS = DEPTH_GROUPS > 2 ? DEPTH_GROUPS / 2 : 1;
    static constexpr int SPANS = 2 * PANELS / DEPTH_GROUPS; /* a warp's part of a slot */
    static constexpr int PANEL_BYTES = (ROWS + FEATURES_OF) * PANEL;
    static constexpr int SLOT_BYTES = PANELS * PANEL_BYTES;
    /* a warp's part of u: its features below each other, 4 floats apart in the banks */
    static constexpr int PITCH = ROWS + 4;
    static constexpr int PARTS_BYTES = DEPTH_GROUPS * FEATURES_OF * PITCH * 4;
    /* y and u, of a block's features */
    static constexpr int COLUMN = ROWS + 8;
    static constexpr int FINAL_BYTES = 2 * FEATURES_OF / FBNI_SMALL_LEAST * COLUMN * 4;
    static constexpr int AREA_BYTES = PARTS_BYTES > FINAL_BYTES ? PARTS_BYTES : FINAL_BYTES;
    static constexpr int INBOX_BYTES = FEATURES_OF * ROWS * 4;
};

/* x and W, and how a block goes through them. */
struct operands : fbni_small_call {
    int stages; /* of the depth, in all */
    int slots;
    int rank_bits; /* a cluster has 2^rank_bits blocks */
};

/* Stages of the depth. */
struct depth_range {
    int from, to;
};

/* Where part `rank` of 2^bits begins. */
__device__ inline int part_of(int stages, int rank, int bits)
{
    return (int)(((int64_t)stages * rank) >> bits);
}

/* Bytes of the slots, and of what lies in their place later. */
template <int ROWS>
__host__ __device__ constexpr int area_of(int slots)
{
    using tile = tile_of<ROWS>;
    return slots * tile::SLOT_BYTES > tile::AREA_BYTES ? slots * tile::SLOT_BYTES
                                                       : tile::AREA_BYTES;
}

/* Where piece c of a panel's row lies, as the copy engine swizzles. */
__device__ inline int place(int row, int c)
{
    return row * PANEL + (c ^ (row & 7)) * PIECE;
}

/* ---- load ---- */

/* One thread: a stage on its way. What lies outside of a matrix comes as zeros. */
template <typename T, int ROWS>
__device__ void fetch_stage(const operands &a, uint32_t slot, uint32_t full, int stage,
                            int64_t first_feature)
{
    using tile = tile_of<ROWS>;

    barrier_expect(full, tile::SLOT_BYTES);
#pragma unroll
    for (int panel = 0; panel < tile::PANELS; panel++) {
        const uint32_t to = slot + panel * tile::PANEL_BYTES;
        const int column = (stage * tile::PANELS + panel) * (PANEL / (int)sizeof(T));
        copy_box(to, &a.x_map, full, column, 0, 0);
        copy_box(to + ROWS * PANEL, &a.w_map, full, column, (int)first_feature, 0);
    }
}

/* Where the entries come from that the copy engine cannot read. */
struct plain_operands {
    const void *x, *weight;
    int64_t ldx, ldw, N, O, I;
};

/* All threads: a stage of matrices that the copy engine cannot read. */
template <typename T, int ROWS>
__device__ __noinline__ void gather_stage(plain_operands a, uint32_t slot, int stage,
                                          int64_t first_feature)
{
    using tile = tile_of<ROWS>;
    constexpr int COUNT = PIECE / (int)sizeof(T), PIECES = PANEL / PIECE;

    __syncthreads(); /* the slot has been read */
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < tile::PANELS * (ROWS + FEATURES_OF) * PIECES; i += THREADS) {
        const int c = i % PIECES, line = i / PIECES; /* of all panels, as they lie */
        const int row = line % (ROWS + FEATURES_OF), panel = line / (ROWS + FEATURES_OF);
        const int64_t k =
            (int64_t)(stage * tile::PANELS + panel) * (PANEL / (int)sizeof(T)) + c * COUNT;
        const bool is_x = row < ROWS;
        const int64_t at = is_x ? row : first_feature + (row - ROWS);
        const T *from = is_x ? (const T *)a.x + at * a.ldx : (const T *)a.weight + at * a.ldw;
        const int64_t left = at < (is_x ? a.N : a.O) ? a.I - k : 0;
        union {
            T entry[COUNT];
            uint4 all;
        } piece;
        piece.all = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int e = 0; e < COUNT; e++)
            if (e < left)
                piece.entry[e] = from[k + e];
        store_shared(slot + panel * tile::PANEL_BYTES + place(row, c), piece.all);
    }
    __syncthreads();
}

} // namespace small
} // namespace fbni

#endif
