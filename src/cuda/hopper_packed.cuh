/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a block reads matrices of 16-bit entries: a pair of feature tiles wide, 8 columns a thread, 4
 * rows of them on their way.
 */
#ifndef FBNI_CUDA_HOPPER_PACKED_CUH
#define FBNI_CUDA_HOPPER_PACKED_CUH

#include "device.cuh"
#include "hopper_product.cuh"

namespace fbni
{

struct packed_pass {
    static constexpr int BLOCK = 256, COUNT = 8, ROWS = 4;
    static constexpr int WIDTH = TILE_FEATURES * CLUSTER; /* at most BLOCK */
};

template <bool WIDE>
using packed_columns = columns<float, WIDE, packed_pass::COUNT>;

/* A row of a thread's columns, two a word. */
struct packed_values {
    uint32_t words[packed_pass::COUNT / 2];

    template <bool WIDE>
    __device__ void load(const packed_columns<WIDE> &cols, const uint16_t *row)
    {
        if (WIDE && cols.count > 0) {
            const uint4 all = *(const uint4 *)(row + cols.first);
            memcpy(words, &all, sizeof words);
        } else if (!WIDE) {
#pragma unroll
            for (int k = 0; k < packed_pass::COUNT; k++) {
                const uint32_t w = k < cols.count ? row[cols.first + k * cols.stride] : 0;
                words[k / 2] = k % 2 ? words[k / 2] | w << 16 : w;
            }
        }
    }
    template <typename T>
    __device__ float2 pair(int k) const
    {
        return unpack_pair<T>(words[k]);
    }
};

/* A thread's next rows that are there: of the block's rows, the first `left`. */
template <bool WIDE>
__device__ inline void load_rows(packed_values (&w)[packed_pass::ROWS],
                                 const packed_columns<WIDE> &cols, const uint16_t *from, int64_t ld,
                                 int row, int step, int left)
{
#pragma unroll
    for (int i = 0; i < packed_pass::ROWS; i++)
        if (row + i * step < left)
            w[i].load(cols, from + (row + i * step) * ld);
}

} // namespace fbni

#endif
