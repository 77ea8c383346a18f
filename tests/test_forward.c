/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Forward in training and in inference, on every kernel row and dtype: every option alone, every
 * pair of options; under FUSEDBN_TEST_LONG the full product.
 */
#include "harness.h"
#include "trial.h"

static case_table table;

static void add_training(case_table *cases, const test_case *base)
{
    case_factor options[] = {
        factor_shape,      factor_activation,     factor_pre_scale,   factor_post_scale,
        factor_bias,       factor_gamma,          factor_beta,        factor_eps,
        factor_input,      factor_running,        factor_momentum,    factor_tracked,
        factor_biased_var, factor_skip_nonfinite, factor_batch_stats, factor_saved,
        factor_padded,     factor_threads};
    enum { COUNT = sizeof options / sizeof *options };
    /* What concerns the numbers, less shape and input. */
    const case_factor numbers[] = {factor_activation, factor_pre_scale, factor_post_scale,
                                   factor_bias,       factor_gamma,     factor_beta,
                                   factor_eps,        factor_padded,    factor_saved};
    /* What concerns the running statistics. */
    const case_factor statistics[] = {factor_momentum, factor_tracked, factor_biased_var,
                                      factor_skip_nonfinite, factor_batch_stats};

    table_add_single(cases, base, options, COUNT);
    if (harness_tier() != TIER_LONG)
        options[0].levels = FEW_SHAPES;
    if (harness_tier() != TIER_SHORT)
        table_add_pairs(cases, base, options, COUNT);
    if (harness_tier() == TIER_LONG) {
        test_case c = *base;
        table_add_product(cases, &c, numbers, sizeof numbers / sizeof *numbers);
        c.running = true;
        table_add_product(cases, &c, statistics, sizeof statistics / sizeof *statistics);
    }
}

static void add_inference(case_table *cases, const test_case *base)
{
    case_factor options[] = {factor_shape,  factor_activation, factor_pre_scale, factor_post_scale,
                             factor_bias,   factor_gamma,      factor_beta,      factor_eps,
                             factor_input,  factor_tracked,    factor_saved,     factor_padded,
                             factor_threads};
    const case_factor numbers[] = {factor_activation, factor_pre_scale, factor_post_scale,
                                   factor_bias,       factor_gamma,     factor_beta,
                                   factor_eps,        factor_padded,    factor_saved};
    enum { COUNT = sizeof options / sizeof *options };
    test_case one_row = *base;
    one_row.n = 1;

    table_add_single(cases, base, options, COUNT);
    table_add_single(cases, &one_row, numbers, sizeof numbers / sizeof *numbers);
    if (harness_tier() != TIER_LONG)
        options[0].levels = FEW_SHAPES;
    if (harness_tier() != TIER_SHORT)
        table_add_pairs(cases, base, options, COUNT);
    if (harness_tier() == TIER_LONG)
        table_add_product(cases, base, numbers, sizeof numbers / sizeof *numbers);
}

START_TEST(test_forward)
{
    trial_run(&table.cases[_i], false);
}
END_TEST

/* No dtype may be left without a kernel row that serves it by name, nor a row without a dtype. */
START_TEST(test_rows_serve)
{
    size_t count;
    const kernel_row *rows = harness_rows(&count);
    harness_enter("rows serve");
    for (int dtype = 0; dtype < 4; dtype++) {
        bool served = false;
        for (size_t r = 0; r < count; r++)
            served |= rows[r].serves[dtype];
        if (!served)
            harness_fail("no kernel row serves dtype %d by name", dtype);
    }
    for (size_t r = 0; r < count; r++) {
        bool serves = rows[r].refusal;
        for (int dtype = 0; dtype < 4; dtype++)
            serves |= rows[r].serves[dtype];
        if (!serves)
            harness_fail("kernel row %s serves no dtype", rows[r].name);
    }
}
END_TEST

static void add(Suite *suite)
{
    test_case base = case_default(true);
    harness_for_rows(&table, &base, add_training);
    base = case_default(false);
    harness_for_rows(&table, &base, add_inference);
    harness_finish(&table);
    harness_add(suite, "forward", test_forward, table.count);
    if (harness_selects("rows serve"))
        harness_add(suite, "rows", test_rows_serve, 1);
}

int main(void)
{
    int status = harness_main("test_forward", add);
    table_clear(&table);
    return status;
}
