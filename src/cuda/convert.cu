/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Matrices between a half type and float: operands of products that cuBLAS has for float alone, and
 * gradients that are rounded once, after everything has been added up in float. (And float
 * gradients that are added to what is there.)
 */
#include "device.cuh"

namespace
{

using namespace fbni;

constexpr int BLOCK = FBNI_CUDA_BLOCK;

template <typename FROM, typename TO, bool WIDE>
__global__ void __launch_bounds__(BLOCK)
    convert(int64_t rows, int64_t O, const FROM *from, int64_t ldfrom, TO *to, int64_t ldto,
            int lanes, bool accumulate)
{
    constexpr int COUNT = columns<float, WIDE>::COUNT;
    const int step = BLOCK / lanes;
    const columns<float, WIDE> cols(blockIdx.x, (int)threadIdx.x % lanes, lanes, O);
    for (int64_t row = (int64_t)blockIdx.y * step + (int)threadIdx.x / lanes; row < rows;
         row += (int64_t)gridDim.y * step) {
        float value[COUNT], before[COUNT];
        cols.load(value, from + row * ldfrom);
        if (accumulate) {
            cols.load(before, to + row * ldto);
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                value[k] += before[k];
        }
        cols.store(to + row * ldto, value);
    }
}

template <typename FROM, typename TO>
cudaError_t launch_convert(const fbni_cuda_queue *queue, int64_t rows, int64_t O, const void *from,
                           int64_t ldfrom, void *to, int64_t ldto, bool accumulate)
{
    constexpr int COUNT = 4;
    const int lanes = fbni_cuda_lanes(O, sizeof(float));
    const int64_t slabs = fbni_cuda_slabs(O, lanes, sizeof(float));
    const int blocks =
        fbni_cuda_share_rows(slabs, (int64_t)queue->processors * 8, ceil_div(rows, BLOCK / lanes));
    const bool wide =
        is_wide(from, ldfrom, O, COUNT, sizeof(FROM)) && is_wide(to, ldto, O, COUNT, sizeof(TO));
    return launch(wide ? convert<FROM, TO, true> : convert<FROM, TO, false>,
                  dim3((unsigned)slabs, (unsigned)blocks), BLOCK, queue->stream, rows, O,
                  (const FROM *)from, ldfrom, (TO *)to, ldto, lanes, accumulate);
}

} // namespace

cudaError_t fbni_cuda_to_float(const fbni_cuda_queue *queue, fbn_dtype dtype, int64_t rows,
                               int64_t columns, const void *from, int64_t ldfrom, float *to,
                               int64_t ldto)
{
    return dtype == FBN_BF16
               ? launch_convert<__nv_bfloat16, float>(queue, rows, columns, from, ldfrom, to, ldto,
                                                      false)
               : launch_convert<__half, float>(queue, rows, columns, from, ldfrom, to, ldto, false);
}

cudaError_t fbni_cuda_from_float(const fbni_cuda_queue *queue, fbn_dtype dtype, int64_t rows,
                                 int64_t columns, const float *from, int64_t ldfrom, void *to,
                                 int64_t ldto, int accumulate)
{
    if (dtype == FBN_F32)
        return launch_convert<float, float>(queue, rows, columns, from, ldfrom, to, ldto,
                                            accumulate != 0);
    return dtype == FBN_BF16 ? launch_convert<float, __nv_bfloat16>(
                                   queue, rows, columns, from, ldfrom, to, ldto, accumulate != 0)
                             : launch_convert<float, __half>(queue, rows, columns, from, ldfrom, to,
                                                             ldto, accumulate != 0);
}
