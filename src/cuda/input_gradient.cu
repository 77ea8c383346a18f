/* SPDX-License-Identifier: BSD-3-Clause
 *
 * du = alpha (g + (du_u (u - c) + du_1)), with g recomputed from dy and u; frozen: du = alpha g
 * (du_1 is 0, or NaN where the saved buffer is another's).
 *
 * du is stored as reals, or for the half types as a sum of parts of which each product with a bf16
 * or f16 number is exact on the tensor cores, since rounding du itself to a half type would cost
 * what the layer promises to keep (half types round once, at the end):
 *
 *     bf16x3:  du = low + middle + high, each the rounding to bf16 (8 bits) of what the parts above
 *              it leave: 24 bits. Two parts would be half a part too few: where dx cancels, the
 *              2^-17 that they leave of du passed the bound on the error up to 500 times.
 *     tf32x2:  du = low + high, each the rounding to TF32 (11 bits) of what is left: 23 bits
 *
 * The parts lie side by side in the columns of one matrix, the smallest first: one product with as
 * many copies of W below each other adds them all.
 *
 * A block is a slab of columns wide; its threads go down the rows, 4 rows in flight each, from the
 * first row: the sums were taken the other way.
 */
#include "gradients.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = FBNI_CUDA_BLOCK, ROWS = 4;

/* Blocks that a multiprocessor holds, as far as registers go. */
template <typename R>
constexpr int BLOCKS = sizeof(R) == sizeof(double) ? 1 : FBNI_CUDA_GRADIENT_BLOCKS;

/* a = v rounded to bf16, but never to an infinity: the rest is then finite. */
__device__ inline __nv_bfloat16 bf16_part(float v)
{
    const __nv_bfloat16 a = __float2bfloat16_rn(v);
    return isinf(__bfloat162float(a)) && !isinf(v) ? __float2bfloat16_rz(v) : a;
}

/* What a part leaves: nothing of an infinity or a NaN, which would be one. */
__device__ inline float rest_of(float v, float part)
{
    return isfinite(v) ? v - part : 0.0f;
}

/* v rounded to 11 bits; a carry into the exponent is right, but for the last binade. */
__device__ inline float tf32_part(float v)
{
    const unsigned bits = __float_as_uint(v), rounded = (bits + 0x1000u) & 0xffffe000u;
    const float part = __uint_as_float(rounded);
    if (!isfinite(v))
        return v;
    return isinf(part) ? __uint_as_float(bits & 0xffffe000u) : part;
}

template <fbni_cuda_parts PARTS, typename R, bool WIDE>
struct writer;

template <typename R, bool WIDE>
struct writer<FBNI_CUDA_PARTS_REAL, R, WIDE> {
    template <int COUNT>
    __device__ static void store(const columns<R, WIDE> &cols, const fbni_cuda_input_gradient &to,
                                 int64_t row, int64_t O, R (&du)[COUNT])
    {
        cols.store((R *)to.du + row * O, du);
    }
};

template <bool WIDE>
struct writer<FBNI_CUDA_PARTS_BF16X3, float, WIDE> {
    template <int COUNT>
    __device__ static void store(const columns<float, WIDE> &cols,
                                 const fbni_cuda_input_gradient &to, int64_t row, int64_t O,
                                 float (&du)[COUNT])
    {
        __nv_bfloat16 *parts = (__nv_bfloat16 *)to.du + 3 * row * O;
#pragma unroll
        for (int part = 2; part >= 0; part--) {
            float values[COUNT];
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                values[k] = __bfloat162float(bf16_part(du[k]));
                du[k] = rest_of(du[k], values[k]);
            }
            cols.store(parts + part * O, values);
        }
    }
};

template <bool WIDE>
struct writer<FBNI_CUDA_PARTS_TF32X2, float, WIDE> {
    template <int COUNT>
    __device__ static void store(const columns<float, WIDE> &cols,
                                 const fbni_cuda_input_gradient &to, int64_t row, int64_t O,
                                 float (&du)[COUNT])
    {
        float *low = (float *)to.du + 2 * row * O;
        float values[COUNT];
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            values[k] = tf32_part(du[k]);
            du[k] = tf32_part(rest_of(du[k], values[k]));
        }
        cols.store(low, du);
        cols.store(low + O, values);
    }
};

template <typename T, fbn_activation ACT, fbni_cuda_parts PARTS, bool WIDE>
__global__ void __launch_bounds__(BLOCK, BLOCKS<real_t<T>>)
    input_gradient(fbni_cuda_gradient a, fbni_cuda_input_gradient to, int lanes)
{
    using R = real_t<T>;
    constexpr int COUNT = columns<R, WIDE>::COUNT;
    const int step = BLOCK / lanes;
    const columns<R, WIDE> cols(blockIdx.x, (int)threadIdx.x % lanes, lanes, a.O);
    const affine_of<R> v(cols, a.affine);
    const bool frozen = a.saved->frozen != 0;
    R du_u[COUNT], du_1[COUNT], alpha[COUNT];
    float most[COUNT] = {};

    if (!cols.any())
        return;
    cols.load(du_u, (const R *)to.slopes.du_u);
    cols.load(du_1, (const R *)to.slopes.du_1);
#pragma unroll
    for (int k = 0; k < COUNT; k++)
        alpha[k] = v.alpha[k] * (to.maxima ? (R)power_of_two(-power_of((float)v.alpha[k])) : (R)1);
    for (int64_t row = (int64_t)blockIdx.y * (step * ROWS) + (int)threadIdx.x / lanes; row < a.N;
         row += (int64_t)gridDim.y * (step * ROWS)) {
        R u[ROWS][COUNT], g[ROWS][COUNT];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row + i * step < a.N) {
                cols.load(g[i], (const T *)a.dy + (row + i * step) * a.lddy);
                if (ACT != FBN_ACT_NONE || !frozen)
                    cols.load(u[i], (const R *)a.u + (row + i * step) * a.ldu);
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row + i * step < a.N) {
                gradient_row<ACT>(g[i], u[i], v, a, row + i * step);
#pragma unroll
                for (int k = 0; k < COUNT; k++) {
                    const R mean_part = frozen ? du_1[k] : fma(du_u[k], u[i][k] - v.c[k], du_1[k]);
                    g[i][k] = alpha[k] * (g[i][k] + mean_part);
                    if (to.maxima && isfinite(g[i][k]))
                        most[k] = fmaxf(most[k], fabsf((float)g[i][k]));
                }
                writer<PARTS, R, WIDE>::store(cols, to, row + i * step, a.O, g[i]);
            }
        }
    }
    if (to.maxima) {
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            if (k < cols.count)
                raise(&to.maxima[cols.first + k * cols.stride], __float_as_uint(most[k]));
    }
}

template <fbni_cuda_parts PARTS>
struct launch_gradient {
    const fbni_cuda_queue *queue;
    const fbni_cuda_gradient &a;
    const fbni_cuda_input_gradient &to;

    template <typename T, fbn_activation ACT>
    cudaError_t operator()() const
    {
        using R = real_t<T>;
        const int lanes = fbni_cuda_lanes(a.O, sizeof(R));
        const int64_t slabs = fbni_cuda_slabs(a.O, lanes, sizeof(R));
        const int blocks = fbni_cuda_share_rows(slabs, (int64_t)queue->processors * BLOCKS<R>,
                                                ceil_div(a.N, BLOCK / lanes * ROWS));
        return launch(gradient_is_wide<T>(a) ? input_gradient<T, ACT, PARTS, true>
                                             : input_gradient<T, ACT, PARTS, false>,
                      dim3((unsigned)slabs, (unsigned)blocks), BLOCK, queue->stream, a, to, lanes);
    }
};

} // namespace

/* Each half type has one kind of parts; which type that is says src/cuda/cuda_rows.c. */
cudaError_t fbni_cuda_input_gradient_of(const fbni_cuda_queue *queue,
                                        const fbni_cuda_gradient *gradient,
                                        const fbni_cuda_input_gradient *input)
{
    if (input->parts == FBNI_CUDA_PARTS_REAL)
        return for_gradient(*gradient,
                            launch_gradient<FBNI_CUDA_PARTS_REAL>{queue, *gradient, *input});
    if (input->parts == FBNI_CUDA_PARTS_BF16X3)
        return for_activation<__nv_bfloat16>(
            gradient->activation,
            launch_gradient<FBNI_CUDA_PARTS_BF16X3>{queue, *gradient, *input});
    return for_activation<__half>(
        gradient->activation, launch_gradient<FBNI_CUDA_PARTS_TF32X2>{queue, *gradient, *input});
}
