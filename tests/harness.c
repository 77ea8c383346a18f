/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the test programs share. See harness.h.
 */
#include "harness.h"

#include "formats.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_THREADS = 16, MOST_ROWS = 64, EXIT_SKIPPED = 77 };

static const char *program_name = "test";
static char current[CASE_NAME_SIZE];
static fbn_context *contexts[MOST_THREADS + 1];
static int tests_added;
static bool uses_rows;

static const char *setting(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

static bool switched_on(const char *name)
{
    const char *text = setting(name);
    return text && strcmp(text, "0") != 0;
}

test_tier harness_tier(void)
{
    if (switched_on("FUSEDBN_TEST_LONG"))
        return TIER_LONG;
    return switched_on("FUSEDBN_TEST_SHORT") ? TIER_SHORT : TIER_MEDIUM;
}

uint64_t harness_seed(void)
{
    const char *text = setting("FUSEDBN_TEST_SEED");
    return text ? strtoull(text, NULL, 0) : 1;
}

fbn_backend harness_backend(void)
{
    const char *text = setting("FUSEDBN_TEST_BACKEND");
    if (!text || strcmp(text, "cpu") == 0)
        return FBN_BACKEND_CPU;
    if (strcmp(text, "cuda") == 0)
        return FBN_BACKEND_CUDA;
    fprintf(stderr, "%s: FUSEDBN_TEST_BACKEND is %s, but must be cpu or cuda\n", program_name,
            text);
    exit(EXIT_FAILURE);
}

bool harness_selects(const char *name)
{
    const char *only = setting("FUSEDBN_TEST_CASE");
    return !only || strstr(name, only);
}

const char *harness_enter(const char *name)
{
    snprintf(current, sizeof current, "%s", name);
    return name;
}

/* "FUSEDBN_TEST_...=... program", which runs the current case alone. */
static void reproduction(char *text, size_t size)
{
    const char *backend = setting("FUSEDBN_TEST_BACKEND");
    snprintf(text, size, "%s%s%sFUSEDBN_TEST_SEED=%llu FUSEDBN_TEST_CASE='%s' %s",
             backend ? "FUSEDBN_TEST_BACKEND=" : "", backend ? backend : "", backend ? " " : "",
             (unsigned long long)harness_seed(), current, program_name);
}

void harness_fail(const char *format, ...)
{
    char what[700], again[CASE_NAME_SIZE + 200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    reproduction(again, sizeof again);
    ck_abort_msg("%s: %s\n    again: %s", current, what, again);
}

void harness_ok(fbn_status status, const char *call)
{
    if (status != FBN_OK)
        harness_fail("%s gave %s: %s", call, fbn_status_string(status), fbn_last_error());
}

fbn_context *harness_context(int threads)
{
    if (contexts[threads])
        return contexts[threads];
    fbn_context_options options;
    fbn_context_options_init(&options, sizeof options);
    options.backend = harness_backend();
    options.threads = threads;
    HARNESS_OK(fbn_context_create(&contexts[threads], &options));
    return contexts[threads];
}

size_t harness_workspace_alignment(void)
{
    return harness_backend() == FBN_BACKEND_CUDA ? 256 : 64;
}

/* The status of a layer of this case: FBN_OK or FBN_ERR_UNSUPPORTED, which is a forced row's. */
static fbn_status layer_status(const test_case *c)
{
    fbn_layer_desc desc = case_desc(c);
    size_t bytes;
    fbn_status status = fbn_layer_workspace_size(harness_context(1), &desc, &bytes);
    if (status != FBN_OK && (status != FBN_ERR_UNSUPPORTED || !c->kernel))
        harness_fail("forcing row %s gave %s: %s", c->kernel ? c->kernel : "(none)",
                     fbn_status_string(status), fbn_last_error());
    return status;
}

static bool row_serves(const char *kernel, fbn_dtype dtype, fbn_math math)
{
    test_case c = case_default(true);
    c.kernel = kernel;
    c.dtype = dtype;
    c.math = math;
    return layer_status(&c) == FBN_OK;
}

const kernel_row *harness_rows(size_t *count)
{
    static kernel_row rows[MOST_ROWS];
    static size_t found;
    for (bool listed = found > 0; !listed && found < MOST_ROWS; found++) {
        kernel_row *row = &rows[found];
        row->name = fbn_context_kernel(harness_context(1), (int64_t)found, &row->refusal);
        if (!row->name)
            break;
        if (row->refusal)
            printf("%s: skipped: kernel row %s: %s\n", program_name, row->name, row->refusal);
        for (int dtype = 0; dtype < 4 && !row->refusal; dtype++)
            row->serves[dtype] = row_serves(row->name, (fbn_dtype)dtype, FBN_MATH_FP32);
        row->tf32 =
            !row->refusal && !row->serves[FBN_F32] && row_serves(row->name, FBN_F32, FBN_MATH_TF32);
        row->serves[FBN_F32] |= row->tf32;
    }
    *count = found;
    return rows;
}

void harness_for_rows(case_table *table, const test_case *base,
                      void (*add)(case_table *table, const test_case *base))
{
    size_t count;
    const kernel_row *rows = harness_rows(&count);
    uses_rows = true;
    for (size_t r = 0; r < count; r++) {
        for (int dtype = 0; dtype < 4; dtype++) {
            test_case c = *base;
            c.kernel = rows[r].name;
            c.dtype = (fbn_dtype)dtype;
            c.math = dtype == FBN_F32 && rows[r].tf32 ? FBN_MATH_TF32 : FBN_MATH_FP32;
            if (rows[r].serves[dtype])
                add(table, &c);
        }
    }
}

/* How many cases each row took and refused, by dtype, in all tables of the program. */
static struct tally {
    size_t taken[4], refused[4];
    char reason[200];
} tallies[MOST_ROWS];

static struct tally *tally_of(const char *kernel)
{
    size_t count;
    const kernel_row *rows = harness_rows(&count);
    for (size_t r = 0; r < count; r++)
        if (strcmp(rows[r].name, kernel) == 0)
            return &tallies[r];
    harness_fail("there is no kernel row %s", kernel);
    return NULL;
}

/* False where the case's row, forced, refuses its layer: such a case is skipped, not passed. */
static bool is_taken(const test_case *c)
{
    if (!c->kernel)
        return true;
    struct tally *t = tally_of(c->kernel);
    bool taken = layer_status(c) == FBN_OK;
    (taken ? t->taken : t->refused)[c->dtype]++;
    if (!taken)
        snprintf(t->reason, sizeof t->reason, "%s", fbn_last_error());
    return taken;
}

void harness_finish(case_table *table)
{
    char name[CASE_NAME_SIZE];
    size_t kept = 0;
    for (size_t k = 0; k < table->count; k++)
        if (harness_selects(case_name(&table->cases[k], name, sizeof name)) &&
            is_taken(&table->cases[k]))
            table->cases[kept++] = table->cases[k];
    table->count = kept;
    table_group(table);
}

static void report_refusals(void)
{
    for (size_t r = 0; r < MOST_ROWS; r++) {
        size_t refused = 0;
        for (int dtype = 0; dtype < 4; dtype++)
            refused += tallies[r].refused[dtype];
        if (refused > 0)
            printf("%s: skipped: %zu cases: %s\n", program_name, refused, tallies[r].reason);
    }
}

/* A row that runs here took a case of every dtype that it serves. */
START_TEST(test_rows_taken)
{
    size_t count;
    const kernel_row *rows = harness_rows(&count);
    harness_enter("rows taken");
    for (size_t r = 0; r < count; r++)
        for (int dtype = 0; dtype < 4; dtype++)
            if (rows[r].serves[dtype] && tallies[r].taken[dtype] == 0)
                harness_fail("kernel row %s refused every case of dtype %d: %s", rows[r].name,
                             dtype, tallies[r].reason);
}
END_TEST

void harness_add(Suite *suite, const char *name, const TTest *test, size_t count)
{
    if (count == 0)
        return;
    TCase *tcase = tcase_create(name);
    tcase_add_loop_test(tcase, test, 0, (int)count);
    suite_add_tcase(suite, tcase);
    tests_added++;
}

/* Under AddressSanitizer too, memory that there is not is NULL and no abort: tests ask for it. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

/* Says which case a crash was in; nothing here may allocate. */
static void crashed(int signal_number)
{
    static const char text[] = "\ncrashed in case: ";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    ignored = write(STDERR_FILENO, current, strlen(current));
    ignored = write(STDERR_FILENO, "\n", 1);
    (void)ignored;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int harness_main(const char *program, void (*add)(Suite *suite))
{
    int failed;
    program_name = program;
    setvbuf(stdout, NULL, _IOLBF, 0);
    harness_enter("start");
    signal(SIGSEGV, crashed);
    signal(SIGFPE, crashed);
    signal(SIGABRT, crashed);

    if (fbn_backend_available(harness_backend()) != FBN_OK) {
        printf("%s: skipped: %s\n", program, fbn_last_error());
        return EXIT_SKIPPED;
    }
    Suite *suite = suite_create(program);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    add(suite);
    report_refusals();
    if (uses_rows && !setting("FUSEDBN_TEST_CASE"))
        harness_add(suite, "rows_taken", test_rows_taken, 1);
    if (tests_added == 0)
        printf("%s: skipped: no case is selected\n", program);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    for (int t = 0; t <= MOST_THREADS; t++)
        fbn_context_destroy(contexts[t]);
    if (failed)
        return EXIT_FAILURE;
    return tests_added == 0 ? EXIT_SKIPPED : EXIT_SUCCESS;
}
