/* SPDX-License-Identifier: BSD-3-Clause
 * The suites of test_tool.
 */
#ifndef TOOL_SUITES_H
#define TOOL_SUITES_H

#include <check.h>

Suite *run_suite(void);     /* results */
Suite *model_suite(void);   /* updated and folded models */
Suite *usage_suite(void);   /* the command line */
Suite *refusal_suite(void); /* files that are refused, and what is then left */

#endif
