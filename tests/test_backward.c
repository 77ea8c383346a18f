/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Backward after both forwards, on every kernel row and dtype, against the oracle: every option
 * alone, every pair of options; under FUSEDBN_TEST_LONG the full product. Among the options: which
 * gradients are asked for, adding instead of overwriting, and dW's type.
 */
#include "harness.h"
#include "trial.h"

static case_table table;

static void add_backward(case_table *cases, const test_case *base)
{
    case_factor options[] = {
        factor_shape,  factor_activation, factor_pre_scale,  factor_post_scale, factor_bias,
        factor_gamma,  factor_beta,       factor_eps,        factor_input,      factor_running,
        factor_padded, factor_accumulate, factor_weight_f32, factor_grads,      factor_threads};
    const case_factor numbers[] = {factor_activation, factor_pre_scale, factor_post_scale,
                                   factor_bias,       factor_gamma,     factor_beta,
                                   factor_eps,        factor_accumulate};
    const case_factor asked[] = {factor_grads, factor_accumulate, factor_weight_f32};
    enum { COUNT = sizeof options / sizeof *options };

    table_add_single(cases, base, options, COUNT);
    if (harness_tier() != TIER_LONG)
        options[0].levels = FEW_SHAPES;
    if (harness_tier() != TIER_SHORT)
        table_add_pairs(cases, base, options, COUNT);
    if (harness_tier() == TIER_LONG) {
        table_add_product(cases, base, numbers, sizeof numbers / sizeof *numbers);
        table_add_product(cases, base, asked, sizeof asked / sizeof *asked);
    }
}

START_TEST(test_backward)
{
    trial_run(&table.cases[_i], true);
}
END_TEST

static void add(Suite *suite)
{
    for (int training = 0; training < 2; training++) {
        test_case base = case_default(training);
        harness_for_rows(&table, &base, add_backward);
    }
    harness_finish(&table);
    harness_add(suite, "backward", test_backward, table.count);
}

int main(void)
{
    int status = harness_main("test_backward", add);
    table_clear(&table);
    return status;
}
