/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The sum of a product's slices (fbni_hopper_product.slices), in their order, so that it is the same
 * each time. They have just been written, and are no more than a wave of tiles: they come from the
 * L2 cache.
 */
#include "device.cuh"
#include "hopper_kernels.h"

namespace
{

using namespace fbni;

constexpr int BLOCK = 256, AHEAD = 4; /* slices on their way */

template <bool WIDE>
__global__ void __launch_bounds__(BLOCK) add_slices(fbni_hopper_slices s, int lanes)
{
    constexpr int COUNT = columns<float, WIDE>::COUNT;
    const int step = BLOCK / lanes;
    const columns<float, WIDE> cols(blockIdx.x, (int)threadIdx.x % lanes, lanes, s.O);
    const bool scaled = *s.rescue == 0;

    for (int64_t row = (int64_t)blockIdx.y * step + (int)threadIdx.x / lanes; row < s.N;
         row += (int64_t)gridDim.y * step) {
        float sum[COUNT] = {};
        for (int first = 0; first < s.slices; first += AHEAD) {
            float v[AHEAD][COUNT] = {};
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (first + i < s.slices)
                    cols.load(v[i], s.from + ((first + i) * s.rows_of_slice + row) * s.ldfrom);
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
#pragma unroll
                for (int k = 0; k < COUNT; k++)
                    sum[k] += v[i][k];
        }
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            if (!scaled || k >= cols.count)
                continue;
            const int all = s.x_exponents[row] + s.w_exponents[cols.first + k * cols.stride];
            const int half = all / 2; /* two steps: each is a float, and so is what they leave */
            sum[k] = sum[k] * power_of_two(-half) * power_of_two(half - all);
        }
        cols.store(s.out + row * s.ldout, sum);
    }
}

} // namespace

cudaError_t fbni_hopper_add_slices(const fbni_cuda_queue *queue, const fbni_hopper_slices *s)
{
    const int lanes = fbni_cuda_lanes(s->O, sizeof(float));
    const int64_t slabs = fbni_cuda_slabs(s->O, lanes, sizeof(float));
    const int blocks =
        fbni_cuda_share_rows(slabs, (int64_t)queue->processors * 8, ceil_div(s->N, BLOCK / lanes));
    const bool wide = is_wide(s->from, s->ldfrom, s->O, 4, sizeof(float)) &&
                      is_wide(s->out, s->ldout, s->O, 4, sizeof(float));

    return launch(wide ? add_slices<true> : add_slices<false>,
                  dim3((unsigned)slabs, (unsigned)blocks), BLOCK, queue->stream, *s, lanes);
}
