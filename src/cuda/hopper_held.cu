/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The product of the half types for layers that are no deeper than FBNI_HOPPER_HELD and much longer
 * than wide: a block keeps its features of W in registers and goes down the batch.
 *
 *                 batch rows n               Two blocks make a cluster, as in hopper_product.cuh:
 *            +-----+-----+-----+---          each holds 128 features, and they share the rows of
 *   block 0  |  0  |  1  |  2  | ...         x, of which each fetches half for both. Warpgroup g
 *            +-----+-----+-----+---          of a block holds 64 of its features, 128 registers a
 *   block 1  |  0  |  1  |  2  | ...         thread; its tile is 64 x 128 rows, 64 registers.
 *            +-----+-----+-----+---
 *
 * So of the operands nothing but x comes through shared memory, and the warpgroups can take turns: one
 * finishes a tile while the other's products run, which take 2,050 cycles. Both need the same rows, a
 * tile's time apart: the ring has more slots than a tile has. Two warps beside the one that loads
 * store what they finish, so that nobody there waits for the copy engine.
 *
 * A cluster stays with its pair of feature tiles; so a block adds up the moments of its tiles, and
 * few sets of them are left to merge.
 */
#include "device.cuh"
#include "hopper_variants.cuh"

#include <type_traits>

namespace
{

using namespace fbni;

constexpr int ROWS = FBNI_HOPPER_HELD_ROWS; /* of a tile */
constexpr int BLOCKS = FBNI_HOPPER_HELD / TILE_DEPTH, STEPS = TILE_DEPTH / 16, COUNT = ROWS / 2;
constexpr int ROW_BYTES = TILE_DEPTH * 2, SLOT_BYTES = ROWS * ROW_BYTES, SLOTS = 11;
constexpr int BUFFER_BYTES = ROWS * 128; /* of a warpgroup: 64 features of 16 bits, or 32 floats */
static_assert(ROWS == TILE_FEATURES, "a slot has place for a block of W too");

using held_ring = walk<SLOT_BYTES, SLOTS>;

/* A cluster's tiles: of its pair of feature tiles every a.holders-th. */
struct share {
    int pair, first;

    __device__ share(const product_arguments &a)
    {
        const int cluster = (int)blockIdx.x / CLUSTER;
        pair = cluster % a.pairs;
        first = cluster / a.pairs;
    }
    __device__ int feature() const /* the block's first */
    {
        return (pair * CLUSTER + (int)cluster_rank()) * TILE_FEATURES;
    }
};

/* ---- load ---- */

/* W's blocks, in the ring's first slots, and then x's. */
__device__ void load(held_ring r, const share &s, const product_arguments &a, const CUtensorMap *w,
                     const CUtensorMap *x)
{
    constexpr int SHARE = ROWS / CLUSTER;
    const int rank = (int)cluster_rank();

    for (int block = 0; block < a.blocks; block++, r.next()) {
        barrier_wait(r.empty(), r.phase ^ 1);
        barrier_expect(r.full(), SLOT_BYTES);
        copy_box(r.slot(), w, r.full(), block * TILE_DEPTH, s.feature(), 0);
    }
    for (int tile = s.first; tile < a.tiles; tile += a.holders) {
        for (int block = 0; block < a.blocks; block++, r.next()) {
            barrier_wait(r.empty(), r.phase ^ 1);
            barrier_expect(r.full(), SLOT_BYTES);
            copy_box_to(r.slot() + (uint32_t)(rank * SHARE * ROW_BYTES), x, r.full(),
                        block * TILE_DEPTH, tile * ROWS + rank * SHARE, 0, (1 << CLUSTER) - 1);
        }
    }
}

/* ---- compute ---- */

/* Gives the slot of this barrier back to those who fill it: both blocks. */
__device__ inline void give_back(uint32_t empty)
{
    if (threadIdx.x % GROUP < CLUSTER)
        barrier_arrive_at(empty, threadIdx.x % GROUP);
}

/* What a warpgroup keeps of W, as wgmma wants it. */
struct held_weights {
    uint32_t at[BLOCKS][STEPS][4];

    /* Walks over the slots in which it comes. */
    __device__ void load(held_ring &r, int blocks)
    {
        const int group = (int)threadIdx.x / GROUP - 1, lane = (int)threadIdx.x % 32;
        const int row = ((int)threadIdx.x / 32 - 4) * 16 + lane % 16;

#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
            if (block < blocks) {
                barrier_wait(r.full(), r.phase);
#pragma unroll
                for (int step = 0; step < STEPS; step++)
                    load_lines(at[block][step],
                               r.slot() + swizzled(row, step * 32 + lane / 16 * 16));
                named_wait(ALONE + group, GROUP); /* all have read */
                give_back(r.empty());
                r.next();
            }
        }
    }
};

/* d: the products over the whole depth. */
template <half_type TYPE>
__device__ inline void multiply_depth(float (&d)[COUNT], const held_weights &w, held_ring &r,
                                      int blocks)
{
    const int group = (int)threadIdx.x / GROUP - 1;
    uint32_t before = 0; /* the barrier of the slot before */

    named_wait(TURN + group, 2 * GROUP);
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
        if (block < blocks) {
            const uint64_t x = operand_descriptor(r.slot());
            barrier_wait(r.full(), r.phase);
            wgmma_begin();
#pragma unroll
            for (int step = 0; step < STEPS; step++)
                wgmma_registers<TYPE, ROWS>::multiply(d, w.at[block][step], x + 2 * step,
                                                      block > 0 || step > 0);
            wgmma_commit();
            if (block > 0) {
                wgmma_wait<1>(); /* the block before is done */
                give_back(before);
            }
            before = r.empty();
            r.next();
        }
    }
    named_arrive(TURN + 1 - group, 2 * GROUP);
    wgmma_wait<0>();
    give_back(before);
    pin(d);
}

/* ---- moments ---- */

/* Of a feature over a tile, about shift: sums of (u - shift) 2^-power and of its square. */
struct tile_sums {
    float shift, sum, squares;
    int power;
};

/* Of a feature over a block's tiles, about the shift of the first. */
struct merged_sums {
    double sum, squares;
    float shift;

    __device__ void add(const tile_sums &tile, int rows, bool first)
    {
        const double unit = double_power_of_two(tile.power), n = (double)rows;
        const double tile_sum = (double)tile.sum * unit;

        shift = first ? tile.shift : shift;
        const double by = (double)tile.shift - (double)shift;
        squares += (double)tile.squares * (unit * unit) + by * (2 * tile_sum + n * by);
        sum += tile_sum + n * by;
    }

    /* As a chunk of fbni_hopper_product.merged, in a unit in which its squares are floats. */
    __device__ void store(float *to, int64_t O, int rows) const
    {
        const int exponent = (int)((unsigned long long)__double_as_longlong(squares) >> 52 & 2047);
        const int power = exponent > 0 && exponent < 2047 ? (exponent - 1023) / 2 : 0;
        const double unit = double_power_of_two(-power), near = (double)__frcp_rn((float)rows);
        const double m2 = squares - sum * (near * (2 - (double)rows * near)) * sum;

        to[0] = shift;
        to[O] = (float)(sum * unit);
        to[2 * O] = (float)((m2 < 0 ? 0 : m2) * unit * unit);
        to[3 * O] = (float)power;
    }
};

/* ---- a warpgroup's tile: 64 features x ROWS, a thread's as hopper_moments.cuh says ---- */

struct place {
    int thread;    /* of the warpgroup */
    int feature;   /* the warpgroup's first */
    int features;  /* O */
    int row, rows; /* the tile's first; those that are there */

    /* Worked out for each tile: there are no registers to keep it in. */
    __device__ place(const product_arguments &a, const share &s, int tile)
    {
        const int64_t left = a.N - (int64_t)tile * ROWS;

        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
        feature = s.feature() + (thread / GROUP - 1) * GROUP_FEATURES;
        features = (int)a.O;
        thread %= GROUP;
        row = tile * ROWS;
        rows = left < ROWS ? (int)left : ROWS;
    }
    __device__ int feature_of(int h) const
    {
        return feature + thread / 32 * 16 + thread % 32 / 4 + 8 * h;
    }
    __device__ bool has(int j, int e) const
    {
        return 8 * j + 2 * (thread % 4) + e < rows;
    }
};

/* ---- what is stored: from a warpgroup to the warp that stores it ---- */

/* A warpgroup's buffer for some rows; and what the two tell each other: the sums of its features, the
 * first row in the buffer, and how many rows the sums are of, 0: they are not there. */
struct outbox {
    static constexpr int SUMS = 0, ROW = GROUP_FEATURES * (int)sizeof(tile_sums), OF = ROW + 4;
    static constexpr int FULL = ROW + 16, EMPTY = FULL + 8, BYTES = FULL + 16;
    uint32_t buffer, control;
    uint32_t phase;

    __device__ void init_barriers() const
    {
        barrier_init(control + FULL, GROUP / 32);
        barrier_init(control + EMPTY, 1);
    }

    /* Until what was sent is stored. */
    __device__ void open() const
    {
        barrier_wait(control + EMPTY, phase ^ 1);
    }
    /* 16 rows of the tile from row `at`, of 16 bits. */
    __device__ void put(int at, const uint32_t (&words)[4])
    {
        store_matrices(matrices_place(buffer) + (uint32_t)(at * 128), words);
    }
    /* Floats: half of the tile's rows are sent, the others are left to send. */
    __device__ void put(const place &p, const float (&d)[COUNT])
    {
        constexpr int PIECE = ROWS / 2;

#pragma unroll
        for (int at = 0; at < ROWS; at += PIECE) {
            if (at > 0)
                send(p.row, 0);
            open();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int h = k % 2, e = k / 2, column = p.feature_of(h) - p.feature;
                const uint32_t to = buffer + (uint32_t)(column / 32 * (PIECE * 128)) +
                                    swizzled(2 * (p.thread % 4) + e, column % 32 * 4);
#pragma unroll
                for (int j = 0; j < PIECE / 8; j++) /* every 8 rows are swizzled alike */
                    store_shared(to + (uint32_t)(8 * j * 128), d[4 * (at / 8 + j) + 2 * h + e]);
            }
        }
    }
    __device__ void put(const place &p, const tile_sums (&m)[2])
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint4 words;
            memcpy(&words, &m[h], sizeof words);
            if (p.thread % 4 == h)
                store_shared(control + SUMS + (uint32_t)((p.feature_of(h) - p.feature) * 16),
                             words);
        }
    }
    /* of: rows that the sums are of. */
    __device__ void send(int row, int of)
    {
        copy_fence();
        __syncwarp();
        if (threadIdx.x % GROUP == 0) {
            store_shared(control + ROW, (uint32_t)row);
            store_shared(control + OF, (uint32_t)of);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            barrier_arrive(control + FULL);
        phase ^= 1;
    }
};

/* By hand, where the copy engine cannot: rows and features that are there. */
template <typename T>
__device__ inline void copy_rows(const product_arguments &a, uint32_t buffer, int row, int feature)
{
    constexpr int WIDTH = 128 / (int)sizeof(T),
                  PIECE = BUFFER_BYTES / (GROUP_FEATURES * (int)sizeof(T));

    for (int r = 0; r < PIECE && row + r < a.N; r++)
        for (int k = (int)threadIdx.x % 32; k < GROUP_FEATURES && feature + k < a.O; k += 32)
            ((T *)a.out)[(row + r) * a.ldout + feature + k] =
                load_shared<T>(buffer + (uint32_t)(k / WIDTH * (PIECE * 128)) +
                               swizzled(r, k % WIDTH * (int)sizeof(T)));
}

/* Two features a thread. */
constexpr int MINE = GROUP_FEATURES / 32;

/* A tile's shifts and powers, parts 0 and 3 of partials, for those who unpack. */
__device__ inline void store_packing(const product_arguments &a, const tile_sums (&m)[MINE],
                                     int feature, int tile)
{
    float *to = a.partials + (int64_t)(a.tiles - 1 - tile) * 4 * a.O + feature + threadIdx.x % 32;

#pragma unroll
    for (int i = 0; i < MINE; i++, to += 32) {
        if (feature + (int)threadIdx.x % 32 + 32 * i < a.O) {
            to[0] = m[i].shift;
            to[3 * a.O] = (float)m[i].power;
        }
    }
}

/* A warp: all that its warpgroup sends. feature: the warpgroup's first. */
__device__ inline void store_pieces(const product_arguments &a, const share &s,
                                    const CUtensorMap *out, outbox o, int feature)
{
    const int size = a.stored == FBNI_HOPPER_U ? 4 : 2, lane = (int)threadIdx.x % 32;
    merged_sums merged[MINE] = {};
    int rows = 0;

    for (bool last = false; !last; o.phase ^= 1) {
        barrier_wait(o.control + outbox::FULL, o.phase);
        const int row = (int)load_shared<uint32_t>(o.control + outbox::ROW);
        const int of = (int)load_shared<uint32_t>(o.control + outbox::OF);
        last = row / ROWS + a.holders >= a.tiles && (size == 2 || row % ROWS > 0);
        if (a.out && size == 4) {
            copy_rows<uint32_t>(a, o.buffer, row, feature);
        } else if (a.out) {
            copy_rows<uint16_t>(a, o.buffer, row, feature);
        } else if (lane == 0) {
            store_box(out, o.buffer, feature, row);
            if (size == 4)
                store_box(out, o.buffer + BUFFER_BYTES / 2, feature + 32, row);
            store_commit();
        }
        tile_sums m[MINE];
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            const float4 words = load_shared(o.control + outbox::SUMS + (lane + 32 * i) * 16);
            memcpy(&m[i], &words, sizeof m[i]);
        }
        store_wait<0>();
        __syncwarp();
        if (lane == 0)
            barrier_arrive(o.control + outbox::EMPTY);
        /* The rest is not waited for: added up before, 65536 x 512 -> 512 took 8 us more. */
        if (of == 0)
            continue;
        if (a.stored == FBNI_HOPPER_PACKED)
            store_packing(a, m, feature, row / ROWS);
#pragma unroll
        for (int i = 0; i < MINE; i++)
            merged[i].add(m[i], of, rows == 0);
        rows += of;
    }
    if (!a.merged)
        return;
    float *to =
        a.merged + (int64_t)((a.tiles - 1 - s.first) % a.holders) * 4 * a.O + feature + lane;
#pragma unroll
    for (int i = 0; i < MINE; i++, to += 32)
        if (feature + lane + 32 * i < a.O)
            merged[i].store(to, a.O, rows);
}

/* ---- finishing a tile ---- */

/* The spread by all rows, the largest of which becomes 2^14 to 2^15. */
template <bool WHOLE>
__device__ inline int spread_of_all(const float (&d)[COUNT], const place &p, int h, float shift)
{
    const int least = least_spread(shift);
    float most = 0;

#pragma unroll
    for (int j = 0; j < COUNT / 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (WHOLE || p.has(j, e))
                most = fmaxf(most, fabsf(d[4 * j + 2 * h + e] - shift));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
    const int spread = (int)(__float_as_uint(most) >> 23 & 255) - 127 - 4;
    return spread > least ? spread : least;
}

/* Puts u, packed or as it is, and adds it up. */
template <bool PACKED, bool WHOLE>
__device__ inline void put_u(tile_sums (&m)[2], const float (&d)[COUNT], const place &p, outbox &o)
{
    const packing by[2] = {packing(m[0].shift, m[0].power + 10),
                           packing(m[1].shift, m[1].power + 10)};

    m[0].sum = m[0].squares = m[1].sum = m[1].squares = 0;
#pragma unroll
    for (int at = 0; at < ROWS; at += 16) {
        uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int h = k % 2, j = at / 8 + k / 2;
            float v = fmaf(d[4 * j + 2 * h], by[h].scale, by[h].minus);
            float w = fmaf(d[4 * j + 2 * h + 1], by[h].scale, by[h].minus);
            const __half2 pair = __floats2half2_rn(v, w);
            memcpy(&words[k], &pair, sizeof pair);
            v = WHOLE || p.has(j, 0) ? v : 0;
            w = WHOLE || p.has(j, 1) ? w : 0;
            m[h].sum += v + w;
            m[h].squares = fmaf(v, v, fmaf(w, w, m[h].squares));
        }
        if constexpr (PACKED)
            o.put(at, words);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h].sum = add_quad(m[h].sum);
        m[h].squares = add_quad(m[h].squares);
    }
}

/* With the spread of 16 rows, and where others are too far away from those again; or of those that
 * are there. */
template <bool PACKED, bool WHOLE>
__device__ inline void store_u(const float (&d)[COUNT], const place &p, outbox &o)
{
    constexpr float MOST = 0x1p30f; /* of squares: none is more than 2^15 */
    tile_sums m[2];

#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h].shift =
            WHOLE ? shift_of<true>(d, h, ROWS, ROWS) : __shfl_sync(0xffffffffu, d[2 * h], 0, 4);
        m[h].power =
            (WHOLE ? spread_of_few(d, h, m[h].shift) : spread_of_all<false>(d, p, h, m[h].shift)) -
            10;
    }
    if (PACKED)
        o.open();
    for (bool again = !WHOLE;; again = true) {
        put_u<PACKED, WHOLE>(m, d, p, o);
        const bool fits = m[0].squares < MOST && m[1].squares < MOST;
        if (again || !__any_sync(0xffffffffu, !fits))
            break;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            asm volatile("" : "+f"(m[h].shift)); /* or it is worked out for every tile */
            m[h].power = spread_of_all<true>(d, p, h, m[h].shift) - 10;
        }
    }
    if (!PACKED)
        o.put(p, d);
    o.put(p, m);
    o.send(p.row + (PACKED ? 0 : ROWS / 2), p.rows);
}

template <typename T>
__device__ inline void store_y(float (&d)[COUNT], const product_arguments &a, const place &p,
                               outbox &o)
{
    finish_registers(d, p, a.finish);
    o.open();
#pragma unroll
    for (int at = 0; at < ROWS; at += 16) {
        uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int i = 4 * (at / 8 + k / 2) + 2 * (k % 2);
            const pack<T, 2> pair = {from_real<T>(d[i]), from_real<T>(d[i + 1])};
            memcpy(&words[k], &pair, sizeof pair);
        }
        o.put(at, words);
    }
    o.send(p.row, 0);
}

/* ---- a warpgroup ---- */

/* STORED: a.stored, with registers for what that needs alone. */
template <typename T, half_type TYPE, fbni_hopper_result STORED>
__device__ inline void consume(held_ring r, const share &s, const product_arguments &a, outbox o)
{
    const int group = (int)threadIdx.x / GROUP - 1;
    held_weights w;

    if (group == 1)
        named_arrive(TURN, 2 * GROUP);
    w.load(r, a.blocks);
    for (int tile = s.first; tile < a.tiles; tile += a.holders) {
        float d[COUNT];

        multiply_depth<TYPE>(d, w, r, a.blocks);
        const place p(a, s, tile);
        if constexpr (STORED == FBNI_HOPPER_Y) {
            store_y<T>(d, a, p, o);
        } else {
            if (p.rows == ROWS)
                store_u<STORED == FBNI_HOPPER_PACKED, true>(d, p, o);
            else
                store_u<STORED == FBNI_HOPPER_PACKED, false>(d, p, o);
        }
    }
    if (group == 0)
        named_wait(TURN, 2 * GROUP);
}

/* ---- kernel ---- */

struct layout {
    static constexpr int BUFFERS = SLOTS * SLOT_BYTES;
    static constexpr int OUTBOXES = BUFFERS + 2 * BUFFER_BYTES;
    static constexpr int BARRIERS = OUTBOXES + 2 * outbox::BYTES;
    static constexpr int BYTES = BARRIERS + SLOTS * 16 + SHARED_ALIGN;
};
static_assert(layout::BYTES <= SHARED_MOST, "all of it fits");

constexpr int FEWER_REGISTERS = 40, MORE_REGISTERS = 232; /* 3 x 168 */

template <typename T, half_type TYPE>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    hopper_held(const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap x,
                const __grid_constant__ CUtensorMap, const __grid_constant__ CUtensorMap out,
                const __grid_constant__ fbni_hopper_follow,
                const __grid_constant__ product_arguments a)
{
    extern __shared__ char dynamic[];
    const uint32_t base =
        (shared_address(dynamic) + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
    const held_ring r(base, base + layout::BARRIERS);
    const share s(a);
    /* the warpgroup's, or the one of the warpgroup that warp 1 or 2 stores for */
    const int group = (int)threadIdx.x / (threadIdx.x < GROUP ? 32 : GROUP) - 1;
    const outbox o = {base + layout::BUFFERS + (uint32_t)(group * BUFFER_BYTES),
                      base + layout::OUTBOXES + (uint32_t)(group * outbox::BYTES), 0};

    if (threadIdx.x == 0) {
        prefetch_map(&w);
        prefetch_map(&x);
        r.init_barriers(CLUSTER * (THREADS / GROUP - 1));
        barrier_init_fence();
    }
    if (threadIdx.x % GROUP == 0 && threadIdx.x > 0) {
        o.init_barriers();
        barrier_init_fence();
    }
    __syncthreads();
    cluster_arrive_relaxed();
    cluster_wait();
    wait_for_kernels();
    let_kernels_ahead();
    if (threadIdx.x < GROUP) {
        keep_registers<FEWER_REGISTERS>();
        if (threadIdx.x == 0)
            load(r, s, a, &w, &x);
        if (group == 0 || group == 1)
            store_pieces(a, s, &out, o, s.feature() + group * GROUP_FEATURES);
    } else {
        take_registers<MORE_REGISTERS>();
        if (a.stored == FBNI_HOPPER_PACKED)
            consume<T, TYPE, FBNI_HOPPER_PACKED>(r, s, a, o);
        else if (a.stored == FBNI_HOPPER_Y)
            consume<T, TYPE, FBNI_HOPPER_Y>(r, s, a, o);
        else
            consume<T, TYPE, FBNI_HOPPER_U>(r, s, a, o);
    }
    __syncwarp();
    cluster_arrive(); /* the other block may still be writing to this one's shared memory */
    cluster_wait();
}

} // namespace

const product_variant fbni::held_variants[] = {
    {FBNI_HOPPER_F16, ROWS, HOLDING, CLUSTER, layout::BYTES, hopper_held<__half, half_type::F16>},
    {FBNI_HOPPER_BF16, ROWS, HOLDING, CLUSTER, layout::BYTES,
     hopper_held<__nv_bfloat16, half_type::BF16>},
    {},
};
