/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the kernels of a Hopper product are told beside their maps, and what a warpgroup of theirs
 * makes of a finished tile: u, packed u or y, and the column moments.
 */
#ifndef FBNI_CUDA_HOPPER_FINISH_CUH
#define FBNI_CUDA_HOPPER_FINISH_CUH

#include "hopper_epilogue.cuh"
#include "hopper_product.cuh"

namespace fbni
{

/* The kernel's arguments beside the maps. */
struct product_arguments {
    int64_t N, O;
    int blocks; /* of a slice of the depth */
    int before, pairs, tiles, band;
    int count; /* of the tiles, those of a slice */
    const int *w_exponents, *x_exponents, *rescue;
    void *out; /* NULL: the copy engine stores, by the map */
    int64_t ldout;
    fbni_hopper_result stored;
    float *partials;
    fbni_cuda_finish finish; /* of FBNI_HOPPER_Y, and of what follows */
    int clusters;            /* that multiply */
    int followed;            /* the pairs whose tiles are counted */
    unsigned *done;
    bool rescues; /* nothing is multiplied unless *rescue is not 0 */
    bool beside;  /* the kernel before is not waited for until the end */
    int holders;  /* fbni_hopper_product.holders, merged */
    float *merged;
    unsigned *held;         /* fbni_hopper_product.held */
    unsigned *columns_of_w; /* fbni_hopper_product.columns_of_w */
    int64_t columns;        /* of them: I */
};

/* The kernels' arguments: w, x, w_rescue, the result; what follows; the rest. */
typedef void product_kernel(const CUtensorMap, const CUtensorMap, const CUtensorMap,
                            const CUtensorMap, const fbni_hopper_follow, const product_arguments);

template <typename T, int COLUMNS>
__device__ inline void store(const float (&d)[COLUMNS / 2], const product_arguments &a,
                             const fragment &f, const outlet &o)
{
    if (a.out)
        store_tile(d, f, (T *)a.out, a.ldout);
    else
        copy_tile<T, tile_of<COLUMNS>::template PIECE<T>>(d, o);
}

/* Packed, and the moments, in one pass if that will do. */
template <int COLUMNS>
__device__ inline void store_packed(tile_moments (&m)[2], float (&d)[COLUMNS / 2],
                                    const product_arguments &a, const fragment &f, const outlet &o)
{
    constexpr int PIECE = tile_of<COLUMNS>::template PIECE<__half>;
    const int rows = rows_of<COLUMNS / 2>(f);

    if (!a.out && rows == COLUMNS && pack_tile<PIECE>(m, d, o))
        return;
    pack_registers(m, d, rows);
    store<__half, COLUMNS>(d, a, f, o);
}

template <typename T, int COLUMNS>
__device__ inline void finish(float (&d)[COLUMNS / 2], const product_arguments &a,
                              const CUtensorMap *out, uint32_t buffers, int feature_tile,
                              int batch_tile, bool scaled)
{
    const int group = (int)threadIdx.x / GROUP - 1, t = (int)threadIdx.x % GROUP;
    const int feature = feature_tile * TILE_FEATURES + group * GROUP_FEATURES,
              row = batch_tile * COLUMNS;
    fragment f;
    f.feature = feature + t / 32 * 16 + t % 32 / 4;
    f.row = row + t % 4 * 2;
    f.features = a.O;
    f.rows = a.N;

    const outlet o = {out,     buffers + (uint32_t)(group * tile_of<COLUMNS>::STORE_BYTES / 2),
                      feature, row,
                      t,       ALONE + group};
    tile_moments m[2];

    if (scaled)
        unscale(d, f, a.w_exponents, a.x_exponents);
    if (a.stored == FBNI_HOPPER_Y) {
        finish_registers(d, f, a.finish);
        store<T, COLUMNS>(d, a, f, o);
    } else if (sizeof(T) == 2 && a.stored == FBNI_HOPPER_PACKED) {
        store_packed<COLUMNS>(m, d, a, f, o);
    } else {
        if (a.partials)
            take_moments(m, d, rows_of<COLUMNS / 2>(f));
        store<float, COLUMNS>(d, a, f, o);
    }
    if (a.partials)
        store_moments(m, f, a.partials + (int64_t)(a.tiles - 1 - batch_tile) * 4 * a.O);
}

} // namespace fbni

#endif
