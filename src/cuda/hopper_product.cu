/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The launcher of the Hopper product (hopper_product_kernel.cuh, hopper_direct.cu).
 */
#include "device.cuh"
#include "hopper_variants.cuh"

namespace
{

using namespace fbni;

/* Before a product that others follow: nothing is stored yet. */
constexpr int CLEAR_BLOCK = 128;

__global__ void __launch_bounds__(CLEAR_BLOCK) clear_counts(unsigned *counts, int count)
{
    let_kernels_ahead();
    wait_for_kernels();
    for (int i = (int)threadIdx.x; i < count; i += CLEAR_BLOCK)
        counts[i] = 0;
}

const product_variant *const tables[] = {single_variants, parts_variants, direct_variants,
                                         held_variants};

const product_variant *find_variant(fbni_hopper_kind kind, int columns, product_form form)
{
    for (const product_variant *v : tables)
        for (; v->function; v++)
            if (v->kind == kind && v->columns == columns && v->form == form)
                return v;
    return NULL;
}

} // namespace

int fbni_hopper_tile_columns(fbni_hopper_kind kind, int index)
{
    for (const product_variant *v : tables)
        for (; v->function; v++)
            if (v->kind == kind && v->form == PLAIN && index-- == 0)
                return v->columns;
    return 0;
}

int fbni_hopper_may_follow(fbni_hopper_kind kind, int columns)
{
    return find_variant(kind, columns, FOLLOWED) != NULL;
}

cudaError_t fbni_hopper_allow_product(fbni_hopper_kind kind)
{
    cudaError_t error = cudaSuccess;

    for (const product_variant *v : tables)
        for (; v->function; v++)
            if (v->kind == kind && error == cudaSuccess)
                error = cudaFuncSetAttribute(
                    v->function, cudaFuncAttributeMaxDynamicSharedMemorySize, v->shared);
    return error;
}

cudaError_t fbni_hopper_multiply(const fbni_cuda_queue *queue, const fbni_hopper_product *p)
{
    const product_variant *v = find_variant(p->kind, p->columns,
                                            p->holders > 0           ? HOLDING
                                            : p->follow.clusters > 0 ? FOLLOWED
                                                                     : PLAIN);
    const int slices = p->slices ? p->slices : 1;
    product_arguments a = {};

    if (!v || (slices > 1 && (p->kind == FBNI_HOPPER_DIRECT || v->form != PLAIN)))
        return cudaErrorInvalidValue;
    a.N = p->N;
    a.O = p->O;
    a.blocks = (int)ceil_div(ceil_div(p->I, TILE_DEPTH), slices);
    a.before = p->before;
    a.pairs = p->pairs ? p->pairs : (int)ceil_div(p->O, TILE_FEATURES * CLUSTER) - p->before;
    a.beside = p->beside;
    a.tiles = (int)ceil_div(p->N, p->columns);
    a.count = a.tiles / slices;
    a.band = p->band;
    a.w_exponents = p->w_exponents;
    a.x_exponents = p->x_exponents;
    a.rescue = p->rescue;
    a.out = p->out;
    a.ldout = p->ldout;
    a.partials = p->partials;
    a.holders = p->holders;
    a.merged = p->merged;
    a.held = p->held;
    a.stored = p->stored;
    a.finish = p->finish;
    a.clusters = p->clusters;
    a.rescues = p->rescues;
    a.columns_of_w = p->columns_of_w;
    a.columns = p->I;
    if (p->follow.clusters > 0) {
        const cudaError_t error =
            launch_ahead(clear_counts, 1, CLEAR_BLOCK, queue, 0, p->follow.done, p->follow.pairs);
        if (error != cudaSuccess)
            return error;
        a.followed = p->follow.pairs;
        a.done = p->follow.done;
    }
    return launch_ahead(v->function, (unsigned)((p->clusters + p->follow.clusters) * v->cluster),
                        THREADS, queue, (size_t)v->shared, p->w, p->x, p->w_rescue, p->result,
                        p->follow, a);
}
