/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a block of hopper_small.cu makes of the features that it owns, one warp for a feature: their
 * statistics, those of the batch or frozen ones, and y.
 */
#ifndef FBNI_CUDA_HOPPER_SMALL_FINISH_CUH
#define FBNI_CUDA_HOPPER_SMALL_FINISH_CUH

#include "activations.cuh"
#include "features.cuh"
#include "hopper_small_load.cuh"

namespace fbni
{
namespace small
{

struct arguments {
    operands from;
    bool keeps_u; /* u is wanted, not only y */
    fbni_cuda_features features;
    fbni_cuda_finish finish;
};

struct trained_feature {
    fbni_feature parameters;
    running_state running;
    trained result;
};

/* The features that a block finishes: mine..mine + owned of O, by a lane each. */
struct own_features {
    int64_t mine, O;
    int owned;

    __device__ bool has_lane() const
    {
        const int f = (int)threadIdx.x - (THREADS - 32); /* the last warp: the first has to fetch */
        return f >= 0 && f < owned && mine + f < O;
    }
    /* Wanted much later. */
    template <bool TRAINS>
    __device__ void load(const arguments &a, trained_feature *features) const
    {
        const int f = (int)threadIdx.x % 32;
        if (!has_lane())
            return;
        if (!TRAINS && a.from.statistics == FBNI_SMALL_FOLDED) {
            features[f].result.affine = load_affine<float>(a.finish.affine, mine + f);
            return;
        }
        features[f].parameters = feature_of<float>(a.features.params, mine + f);
        features[f].running = TRAINS ? running_of<float>(a.features, mine + f)
                                     : frozen_state_of<float>(a.features, mine + f);
    }
    template <bool TRAINS>
    __device__ void keep(const arguments &a, const trained_feature *features) const
    {
        const int f = (int)threadIdx.x % 32;
        if (!has_lane() || (!TRAINS && a.from.statistics == FBNI_SMALL_FOLDED))
            return;
        if (TRAINS)
            keep_feature<float>(a.features, mine + f, features[f].running, features[f].result);
        else
            keep_frozen<float>(a.features, mine + f, features[f].result);
        if (mine + f == 0)
            once(a.features, !TRAINS);
    }
};

/* A lane's rows of a column: VECTOR of each 32 VECTOR, which lie together. */
template <int ROWS>
struct lane_rows {
    static constexpr int COUNT = ROWS / 32, VECTOR = COUNT < 4 ? COUNT : 4;
    using vector = pack<float, VECTOR>;

    __device__ static int row(int i)
    {
        return i / VECTOR * 32 * VECTOR + (int)threadIdx.x % 32 * VECTOR + i % VECTOR;
    }
    __device__ static void load(float (&to)[COUNT], const float *column)
    {
#pragma unroll
        for (int v = 0; v < COUNT; v += VECTOR) {
            const vector part = *(const vector *)(column + row(v));
#pragma unroll
            for (int i = 0; i < VECTOR; i++)
                to[v + i] = part.at[i];
        }
    }
    __device__ static void store(float *column, const float (&from)[COUNT])
    {
#pragma unroll
        for (int v = 0; v < COUNT; v += VECTOR) {
            vector part;
#pragma unroll
            for (int i = 0; i < VECTOR; i++)
                part.at[i] = from[v + i];
            *(vector *)(column + row(v)) = part;
        }
    }
};

template <fbn_activation ACT, int COUNT>
__device__ void activate_all(float (&y)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        y[i] = activate<ACT>(y[i]);
}

template <int COUNT>
__device__ void activate_as(fbn_activation activation, float (&y)[COUNT])
{
    switch (activation) {
    case FBN_ACT_RELU:
        activate_all<FBN_ACT_RELU>(y);
        break;
    case FBN_ACT_GELU:
        activate_all<FBN_ACT_GELU>(y);
        break;
    case FBN_ACT_SILU:
        activate_all<FBN_ACT_SILU>(y);
        break;
    default: /* none; rows of y need all columns: another kernel */
        break;
    }
}

/* The feature of these rows of u, by one warp. */
template <int COUNT>
__device__ trained train_rows(const arguments &a, const fbni_feature &parameters,
                              const float (&u)[COUNT], double per_row)
{
    /* In double about one of the values, which is at most sqrt(N) standard deviations from the
     * mean: of their 53 bits the difference of squares loses 8 at most. Equal values leave 0. */
    const float some = __shfl_sync(0xffffffffu, u[0], 0), shift_by = isfinite(some) ? some : 0.f;
    double sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const double d =
            lane_rows<COUNT * 32>::row(i) < a.from.N ? (double)u[i] - (double)shift_by : 0;
        sum += d;
        squares = fma(d, d, squares);
    }
    sum = warp_reduce(sum, add_up());
    squares = warp_reduce(squares, add_up());
    const double mean = sum * per_row, var = (squares - sum * mean) * per_row;
    return train_of<float>(a.features, parameters, (double)shift_by, mean, var < 0 ? 0 : var);
}

/* A feature, of which the inbox has `ranks` parts `stride` floats apart: y, and u, to columns of
 * shared memory; by one warp. */
template <bool TRAINS, int ROWS>
__device__ void finish_feature(const arguments &a, trained_feature &feature, const float *inbox,
                               int ranks, int stride, double per_row, float *y_column,
                               float *u_column)
{
    using lane = lane_rows<ROWS>;
    float u[lane::COUNT], more[lane::COUNT];

    lane::load(u, inbox);
#pragma unroll 4
    for (int rank = 1; rank < ranks; rank++) {
        lane::load(more, inbox + rank * stride);
#pragma unroll
        for (int i = 0; i < lane::COUNT; i++)
            u[i] += more[i];
    }

    trained result = {};
    if (TRAINS)
        result = train_rows(a, feature.parameters, u, per_row);
    else if (a.from.statistics == FBNI_SMALL_FROZEN)
        result = frozen_of<float>(a.features, feature.parameters, feature.running);
    else
        result.affine = feature.result.affine;
    __syncwarp(); /* it has been read */
    if (threadIdx.x % 32 == 0)
        feature.result = result;

    const float alpha = (float)result.affine.alpha, c = (float)result.affine.c;
    const float shift = (float)result.affine.shift;
    float y[lane::COUNT];
#pragma unroll
    for (int i = 0; i < lane::COUNT; i++)
        y[i] = fmaf(alpha, u[i] - c, shift);
    if (a.keeps_u)
        lane::store(u_column, u);
    activate_as(a.finish.activation, y);
    lane::store(y_column, y);
}

/* A block's columns from shared memory to a matrix: a feature a thread, neighbours together. */
template <typename T, int ROWS>
__device__ void store_columns(const float *columns, const own_features &own, T *to, int64_t ld,
                              int64_t N)
{
    const int rows = THREADS / own.owned; /* at once */
    const int column = (int)threadIdx.x % own.owned, first = (int)threadIdx.x / own.owned;

    if (first < rows && own.mine + column < own.O)
        for (int row = first; row < (int)N; row += rows)
            to[row * ld + own.mine + column] =
                from_real<T>(columns[column * tile_of<ROWS>::COLUMN + row]);
}

} // namespace small
} // namespace fbni

#endif
