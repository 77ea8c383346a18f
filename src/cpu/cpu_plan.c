/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a call is cut into tiles. Two shapes of cut:
 *   row blocks: ~BLOCK_ROWS rows × all features. A block's moments are taken while its product is
 *   in the cache; the
 *               normalise pass comes after all blocks.
 *   panels:     all rows × some features. A panel is finished at once, in the cache; for short
 *               batches, where row blocks
 *               would repack W too often or leave threads idle.
 */
#include "cpu_internal.h"

enum {
    BLOCK_ROWS = 512,
    MIN_ROWS = 16,        /* the moments kernel's group */
    PANEL_BATCH = 512,    /* batches up to this are cut into panels */
    PANEL_FEATURES = 256, /* at most; 512 × 256 floats are half a megabyte */
    MIN_FEATURES = 16,
    SERIAL_WORK = 1 << 18 /* multiply-adds below which starting threads costs more than it gives */
};

static int64_t round_up(int64_t value, int64_t multiple)
{
    return fbni_ceil_div(value, multiple) * multiple;
}

/* Cuts `length` into pieces of at most `most`, as many as a multiple of threads where that leaves
 * `least` each. */
static int64_t piece_of(int64_t length, int64_t most, int64_t least, int threads)
{
    const int64_t pieces = fbni_ceil_div(length, most * threads) * threads;
    const int64_t piece = round_up(fbni_ceil_div(length, pieces), least);
    return piece < least ? least : piece;
}

static fbni_cpu_plan cut(const fbni_cpu_context *context, int64_t batch, const fbn_layer_desc *desc,
                         bool panels)
{
    const double work = (double)batch * (double)desc->in_features * (double)desc->out_features;
    fbni_cpu_plan plan;
    plan.threads = work < SERIAL_WORK ? 1 : context->threads;
    plan.rows = panels ? batch : piece_of(batch, BLOCK_ROWS, MIN_ROWS, plan.threads);
    plan.features = panels
                        ? piece_of(desc->out_features, PANEL_FEATURES, MIN_FEATURES, plan.threads)
                        : desc->out_features;
    plan.row_blocks = fbni_ceil_div(batch, plan.rows);
    plan.panels = fbni_ceil_div(desc->out_features, plan.features);
    return plan;
}

fbni_cpu_plan fbni_cpu_plan_forward(const fbni_cpu_context *context, int64_t batch,
                                    const fbn_layer_desc *desc)
{
    return cut(context, batch, desc, batch <= PANEL_BATCH);
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
