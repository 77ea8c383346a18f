/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backward's two passes over u that training left packed in the saved buffer (hopper_moments.cuh),
 * u = shift + w unit by tiles of rows:
 *
 *     sums:  G = sum g and S = sum g (w 2^-10) over the rows of a tile, from which
 *            K = sum g (u - centre) = (shift - centre) G + (unit S) 2^10
 *            (w is 2^10 where u - shift is their root mean square: S is about as large as G)
 *     du  =  alpha g + (alpha du_u unit) w + alpha (du_u (shift - c) + du_1)
 *
 * with g = act'(a w + b) dy. A block takes some rows of a tile, a pair of feature tiles wide. Its
 * threads have 4 rows of 8 features of w and of dy on their way, and then always the next 4 (hopper_
 * packed.cuh), while they work out the tile's coefficients, a feature each. The sums go from the last
 * tile to the first, and du from the first to the last: what was read last is still in the L2 cache.
 * The floor is memory: 4 bytes an element for the sums, 6 for du.
 */
#include "gradients.cuh"
#include "hopper_moments.cuh"
#include "hopper_packed.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = packed_pass::BLOCK, COUNT = packed_pass::COUNT, ROWS = packed_pass::ROWS;
constexpr int WIDTH = packed_pass::WIDTH;

/* ---- what a block has ---- */

/* `share` rows of a tile, `lanes` threads wide. */
struct place {
    int pair, tile, chunk;
    int64_t first; /* row */
    int left, step, row;

    __device__ place(const fbni_cuda_gradient &a, int block, int lanes, int share)
    {
        const int pairs = (int)((a.O + WIDTH - 1) / WIDTH), parts = (int)a.packed.tile_rows / share;
        pair = block % pairs;
        chunk = block / pairs;
        tile = chunk / parts;
        first = tile * a.packed.tile_rows + chunk % parts * share;
        left = (int)(a.N - first < share ? a.N - first : share);
        step = BLOCK / lanes;
        row = (int)threadIdx.x / lanes;
    }
};

/* w and dy of a thread's rows. */
struct row_values {
    packed_values w[ROWS], dy[ROWS];

    template <bool WIDE>
    __device__ void load(const fbni_cuda_gradient &a, const place &at,
                         const packed_columns<WIDE> &cols, int row)
    {
        load_rows(w, cols, (const uint16_t *)a.u + at.first * a.ldu, a.ldu, row, at.step, at.left);
        load_rows(dy, cols, (const uint16_t *)a.dy + at.first * a.lddy, a.lddy, row, at.step,
                  at.left);
    }
};

/* Of a feature in a tile: the moments' shift and unit. */
struct tile_unit {
    float shift, unit;

    __device__ tile_unit(const fbni_cuda_gradient &a, int tile, int64_t j)
    {
        const float *from = a.packed.partials + (a.packed.tiles - 1 - tile) * 4 * a.O + j;
        shift = from[0];
        unit = power_of_two((int)from[3 * a.O]);
    }
};

/* v = a w + b. */
__device__ inline unpacking unpacking_at(const fbni_cuda_gradient &a, int tile, int64_t j)
{
    const float *from = a.packed.partials + (a.packed.tiles - 1 - tile) * 4 * a.O + j;
    return unpacking(from[0], (int)from[3 * a.O] + 10, ((const float *)a.affine.alpha)[j],
                     ((const float *)a.affine.c)[j], ((const float *)a.affine.shift)[j]);
}

/* The coefficients of a tile, KINDS of them a feature: worked out a feature a thread, and then those
 * of the thread's columns. of(values, j) sets those of feature j. */
template <int KINDS, bool WIDE>
struct coefficients {
    float v[KINDS][COUNT];

    template <typename OF>
    __device__ coefficients(const packed_columns<WIDE> &cols, int pair, int lanes, int64_t O,
                            const OF &of)
    {
        __shared__ float all[KINDS][WIDTH];
        const int t = (int)threadIdx.x;

        if (t < lanes * COUNT && (int64_t)pair * WIDTH + t < O) {
            float mine[KINDS];
            of(mine, (int64_t)pair * WIDTH + t);
#pragma unroll
            for (int i = 0; i < KINDS; i++)
                all[i][t] = mine[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < KINDS; i++)
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                v[i][k] = all[i][cols.first - (int64_t)pair * WIDTH + k * cols.stride];
    }
};

/* take(row, w, g) for each of a thread's rows that is there, w and g of COUNT columns. */
template <typename T, fbn_activation ACT, bool WIDE, int KINDS, typename TAKE>
__device__ inline void walk_rows(const fbni_cuda_gradient &a, const place &at,
                                 const packed_columns<WIDE> &cols, row_values &now,
                                 const coefficients<KINDS, WIDE> &by, const TAKE &take)
{
    row_values next;

    for (int row = at.row; row < at.left; row += ROWS * at.step) {
        next.load(a, at, cols, row + ROWS * at.step);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float w[COUNT], g[COUNT];
#pragma unroll
            for (int k = 0; k < COUNT; k += 2) {
                const float2 pair = now.w[i].pair<__half>(k / 2), dy = now.dy[i].pair<T>(k / 2);
                w[k] = pair.x, w[k + 1] = pair.y;
                g[k] = dy.x, g[k + 1] = dy.y;
            }
            if (ACT != FBN_ACT_NONE) {
#pragma unroll
                for (int k = 0; k < COUNT; k++)
                    g[k] = gradient<ACT>(fmaf(by.v[KINDS - 2][k], w[k], by.v[KINDS - 1][k]), g[k],
                                         row_state<float>());
            }
            if (row + i * at.step < at.left)
                take(row + i * at.step, w, g);
            now.w[i] = next.w[i];
            now.dy[i] = next.dy[i];
        }
    }
}

/* ---- sums ---- */

/* The sums of a thread's columns over the threads of each, the result in the first of them: thread t
 * has feature t of the pair. */
template <bool MOST, bool WIDE>
__device__ inline void add_threads(float (&mine)[2 + MOST], const packed_columns<WIDE> &cols,
                                   const place &at, int lanes, const float (&part)[2 + MOST][COUNT])
{
    __shared__ float all[2 + MOST][BLOCK * COUNT];
    const int features = lanes * COUNT, t = (int)threadIdx.x;

#pragma unroll
    for (int i = 0; i < 2 + MOST; i++)
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            all[i][at.row * features + (int)(cols.first - (int64_t)at.pair * WIDTH) +
                   k * cols.stride] = part[i][k];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2 + MOST; i++)
        mine[i] = 0;
    for (int r = 0; r < at.step && t < features; r++) {
        mine[0] += all[0][r * features + t];
        mine[1] += all[1][r * features + t];
        if (MOST)
            mine[1 + MOST] = fmaxf(mine[1 + MOST], all[1 + MOST][r * features + t]);
    }
}

template <typename T, fbn_activation ACT, bool WIDE>
__global__ void __launch_bounds__(BLOCK, 2)
    packed_sums(const __grid_constant__ fbni_cuda_gradient a, float *partials, int lanes, int share)
{
    constexpr bool MOST = HAS_MOST<T>;
    const place at(a, (int)(gridDim.x - 1 - blockIdx.x), lanes, share);
    const packed_columns<WIDE> cols(at.pair, (int)threadIdx.x % lanes, lanes, a.O);
    const int64_t j = (int64_t)at.pair * WIDTH + threadIdx.x;
    float part[2 + MOST][COUNT] = {}, sum[2 + MOST];
    row_values now;

    if (!is_packed(a))
        return;
    now.load(a, at, cols, at.row);
    const coefficients<2, WIDE> by(cols, at.pair, lanes, a.O, [&](float(&v)[2], int64_t feature) {
        const unpacking u = unpacking_at(a, at.tile, feature);
        v[0] = u.a, v[1] = u.b;
    });
    walk_rows<T, ACT>(a, at, cols, now, by,
                      [&](int, const float(&w)[COUNT], const float(&g)[COUNT]) {
#pragma unroll
                          for (int k = 0; k < COUNT; k++) {
                              part[0][k] += g[k];
                              part[1][k] = fmaf(g[k], w[k] * 0x1p-10f, part[1][k]);
                              if (MOST && isfinite(g[k]))
                                  part[1 + MOST][k] = fmaxf(part[1 + MOST][k], fabsf(g[k]));
                          }
                      });
    add_threads<MOST>(sum, cols, at, lanes, part);
    if (threadIdx.x < lanes * COUNT && j < a.O) {
        const tile_unit u(a, at.tile, j);
        float *to = partials + (int64_t)at.chunk * (2 + MOST) * a.O + j;
        to[0] = sum[0];
        to[a.O] = fmaf(u.shift - ((const float *)a.centre)[j], sum[0], u.unit * sum[1] * 0x1p10f);
        if (MOST)
            to[2 * a.O] = sum[1 + MOST];
    }
}

/* ---- du ---- */

template <typename T, fbn_activation ACT, bool WIDE>
__global__ void __launch_bounds__(BLOCK, 2)
    packed_du(const __grid_constant__ fbni_cuda_gradient a,
              const __grid_constant__ fbni_cuda_input_gradient to, int lanes, int share)
{
    constexpr int KINDS = ACT == FBN_ACT_NONE ? 3 : 5;
    const place at(a, (int)blockIdx.x, lanes, share);
    const packed_columns<WIDE> cols(at.pair, (int)threadIdx.x % lanes, lanes, a.O);
    row_values now;

    if (!is_packed(a))
        return;
    const float scale = to.scale ? power_of_two(scale_power(to.scale)) : 1;
    if (to.scale)
        keep_restore(to.scale, scale_power(to.scale));
    now.load(a, at, cols, at.row);
    const coefficients<KINDS, WIDE> by(cols, at.pair, lanes, a.O, [&](float(&v)[KINDS], int64_t j) {
        const tile_unit u(a, at.tile, j);
        const float alpha = ((const float *)a.affine.alpha)[j];
        const float du_u = ((const float *)to.slopes.du_u)[j];
        const float du_1 = ((const float *)to.slopes.du_1)[j];
        v[0] = alpha;
        v[1] = alpha * (du_u * u.unit);
        v[2] = alpha * fmaf(du_u, u.shift - ((const float *)a.affine.c)[j], du_1);
        if (KINDS == 5) {
            const unpacking y = unpacking_at(a, at.tile, j);
            v[KINDS - 2] = y.a, v[KINDS - 1] = y.b;
        }
    });
    walk_rows<T, ACT>(
        a, at, cols, now, by, [&](int row, const float(&w)[COUNT], const float(&g)[COUNT]) {
            float du[COUNT];
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                du[k] = scale * fmaf(by.v[0][k], g[k], fmaf(by.v[1][k], w[k], by.v[2][k]));
            if (to.rounds) {
                cols.store((T *)to.du + (at.first + row) * a.O, du);
                return;
            }
            float *const line = (float *)to.du + (at.first + row) * a.O + cols.first;
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                if (k < cols.count)
                    line[k * cols.stride] = du[k];
        });
}

/* ---- launching ---- */

struct shape {
    int lanes, share;
    unsigned blocks;
    bool wide; /* u and dy, and du where it is of T */
};

shape shape_of(const fbni_cuda_queue *queue, const fbni_cuda_gradient &a)
{
    const int64_t pairs = ceil_div(a.O, WIDTH);
    shape s;

    s.lanes = fbni_cuda_lanes(a.O, 2);
    s.share =
        fbni_hopper_gradient_share(queue->processors, a.O, a.packed.tiles, a.packed.tile_rows);
    s.blocks = (unsigned)(pairs * fbni_hopper_gradient_chunks(queue, &a));
    s.wide = is_wide(a.u, a.ldu, a.O, COUNT, 2) && is_wide(a.dy, a.lddy, a.O, COUNT, 2);
    return s;
}

struct launch_sums {
    const fbni_cuda_queue *queue;
    const fbni_cuda_gradient &a;
    float *partials;

    template <typename T, fbn_activation ACT>
    cudaError_t operator()() const
    {
        const shape s = shape_of(queue, a);
        return launch(s.wide ? packed_sums<T, ACT, true> : packed_sums<T, ACT, false>, s.blocks,
                      BLOCK, queue->stream, a, partials, s.lanes, s.share);
    }
};

struct launch_du {
    const fbni_cuda_queue *queue;
    const fbni_cuda_gradient &a;
    const fbni_cuda_input_gradient &to;

    template <typename T, fbn_activation ACT>
    cudaError_t operator()() const
    {
        const shape s = shape_of(queue, a);
        return launch(s.wide ? packed_du<T, ACT, true> : packed_du<T, ACT, false>, s.blocks, BLOCK,
                      queue->stream, a, to, s.lanes, s.share);
    }
};

template <typename CALL>
cudaError_t for_half(const fbni_cuda_gradient &a, const CALL &call)
{
    return a.dtype == FBN_BF16 ? for_elementwise<__nv_bfloat16>(a.activation, call)
                               : for_elementwise<__half>(a.activation, call);
}

} // namespace

cudaError_t fbni_hopper_gradient_sums(const fbni_cuda_queue *queue,
                                      const fbni_cuda_gradient *gradient, float *partials)
{
    return for_half(*gradient, launch_sums{queue, *gradient, partials});
}

cudaError_t fbni_hopper_input_gradient(const fbni_cuda_queue *queue,
                                       const fbni_cuda_gradient *gradient,
                                       const fbni_cuda_input_gradient *input)
{
    return for_half(*gradient, launch_du{queue, *gradient, *input});
}
