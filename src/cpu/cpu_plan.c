/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a call is cut into tiles. Two shapes of cut:
 *   row blocks: ~BLOCK_ROWS rows × all features. A block's moments are taken while its product is
 *   in
 *               the cache; the normalise pass comes after all blocks.
 *   panels:     all rows × some features. A panel is finished at once, in the cache; for short
 *               batches, where row blocks would repack W too often.
 * Where that gives fewer tiles than threads, the other side is cut as well.
 */
#include "cpu_internal.h"

enum {
    BLOCK_ROWS = 512,
    PANEL_BATCH = 512,    /* batches up to this are cut into panels */
    PANEL_FEATURES = 256, /* at most; 512 × 256 floats are half a megabyte */
    MIN_ROWS = 8,         /* the moments kernel's group */
    MIN_FEATURES = 16,    /* a vector */
    SERIAL_WORK = 1 << 18 /* multiply-adds below which starting threads costs more than it gives */
};

/* Cuts `length` into `pieces` or fewer, of a multiple of `least` each. */
static int64_t piece_of(int64_t length, int64_t pieces, int64_t least)
{
    return fbni_ceil_div(fbni_ceil_div(length, pieces), least) * least;
}

/* The fewest pieces of at most `most` that share out evenly among the threads. */
static int64_t even_pieces(int64_t length, int64_t most, int threads)
{
    return fbni_ceil_div(length, most * threads) * threads;
}

static fbni_cpu_plan cut(const fbni_cpu_context *context, int64_t batch, const fbn_layer_desc *desc,
                         bool panels)
{
    const int64_t O = desc->out_features;
    const double work = (double)batch * (double)desc->in_features * (double)O;
    fbni_cpu_plan plan = {work < SERIAL_WORK ? 1 : context->threads, batch, 1, O, 1};

    if (panels)
        plan.features = piece_of(O, even_pieces(O, PANEL_FEATURES, plan.threads), MIN_FEATURES);
    else
        plan.rows = piece_of(batch, even_pieces(batch, BLOCK_ROWS, plan.threads), MIN_ROWS);
    plan.panels = fbni_ceil_div(O, plan.features);
    plan.row_blocks = fbni_ceil_div(batch, plan.rows);
    return plan;
}

/* Cuts the side that is still whole, so that there is a tile for every thread. */
static void cut_more(fbni_cpu_plan *plan, bool panels, int64_t batch, int64_t O)
{
    const int64_t missing = fbni_ceil_div(plan->threads, plan->panels * plan->row_blocks);
    if (missing > 1 && panels) {
        plan->rows = piece_of(batch, missing, MIN_ROWS);
        plan->row_blocks = fbni_ceil_div(batch, plan->rows);
    } else if (missing > 1) {
        plan->features = piece_of(O, missing, MIN_FEATURES);
        plan->panels = fbni_ceil_div(O, plan->features);
    }
}

fbni_cpu_plan fbni_cpu_plan_forward(const fbni_cpu_context *context, int64_t batch,
                                    const fbn_layer_desc *desc)
{
    const bool panels = batch <= PANEL_BATCH;
    fbni_cpu_plan plan = cut(context, batch, desc, panels);
    cut_more(&plan, panels, batch, desc->out_features);
    return plan;
}

fbni_cpu_plan fbni_cpu_plan_backward(const fbni_cpu_context *context, int64_t batch,
                                     const fbn_layer_desc *desc)
{
    return cut(context, batch, desc, false);
}

int64_t fbni_cpu_plan_most_blocks(const fbni_cpu_context *context, int64_t batch)
{
    const int64_t threads = context->threads;
    const int64_t full = fbni_ceil_div(batch, BLOCK_ROWS * threads) * threads;
    return fbni_min(full, fbni_ceil_div(batch, MIN_ROWS));
}
