/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the test programs share: settings from the environment, contexts, kernel rows, and a main().
 *
 *   FUSEDBN_TEST_BACKEND=cpu|cuda   the backend under test (default cpu)
 *   FUSEDBN_TEST_SEED=number        the base of every draw (default 1)
 *   FUSEDBN_TEST_CASE=text          only the cases whose name contains text
 *   FUSEDBN_TEST_SHORT=1            reduced tables (sanitizers); FUSEDBN_TEST_LONG=1: full ones
 */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include "cases.h"

#include <check.h>

typedef enum test_tier { TIER_SHORT, TIER_MEDIUM, TIER_LONG } test_tier;

test_tier harness_tier(void);
uint64_t harness_seed(void);
fbn_backend harness_backend(void);

/* True where a case of this name is to run. */
bool harness_selects(const char *name);

/* Marks where a test is, for messages and for a crash; prints nothing. Returns name. */
const char *harness_enter(const char *name);

/* Fails the test with the case, what was wrong, and a line that runs this case alone. */
__attribute__((format(printf, 1, 2))) void harness_fail(const char *format, ...);

/* Fails unless a call of the library gave FBN_OK. */
#define HARNESS_OK(call) harness_ok((call), #call)
void harness_ok(fbn_status status, const char *call);

/* What a workspace must be aligned to, as fusedbn.h says, and `saved`. */
size_t harness_workspace_alignment(void);
enum { SAVED_ALIGNMENT = 64 };

/* A context of the backend under test with this many threads, kept until the program ends. */
fbn_context *harness_context(int threads);

/* One kernel row of the backend. */
typedef struct kernel_row {
    const char *name;
    const char *refusal; /* NULL: this machine can run it */
    bool serves[4];      /* by fbn_dtype: a layer of this type can be forced onto it */
    bool tf32;           /* f32 in FBN_MATH_TF32 alone */
} kernel_row;

/* The rows, fastest first; refused rows are printed as skipped, once a program. */
const kernel_row *harness_rows(size_t *count);

/* Adds to a table, for every kernel row that runs here and every dtype that it serves, the cases
 * that add(table, base) adds from a base with that row and dtype. harness_finish() takes those out
 * again whose layer the row refuses, and says so; a row that refuses all of a dtype's is a failure
 * of the program. */
void harness_for_rows(case_table *table, const test_case *base,
                      void (*add)(case_table *table, const test_case *base));

/* Leaves only the cases that FUSEDBN_TEST_CASE selects and whose forced kernel row takes them, and
 * groups them (table_group). */
void harness_finish(case_table *table);

/* Runs the suite in this process (a fork after OpenMP has run would hang) and returns the exit
 * status: 77 where the backend is not there or nothing was selected. add fills the suite and may
 * use everything above. */
int harness_main(const char *program, void (*add)(Suite *suite));

/* Adds one test; or one run of it (argument _i) for each of `count` cases. */
void harness_add(Suite *suite, const char *name, const TTest *test, size_t count);

#endif
