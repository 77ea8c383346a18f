/* SPDX-License-Identifier: BSD-3-Clause
 * Tests of the `fusedbn` command, run as a user runs it.
 */
#include "tool_harness.h"
#include "tool_suites.h"

int main(void)
{
    SRunner *runner;
    int failed;

    find_command();
    runner = srunner_create(run_suite());
    srunner_add_suite(runner, model_suite());
    srunner_add_suite(runner, usage_suite());
    srunner_add_suite(runner, refusal_suite());
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
