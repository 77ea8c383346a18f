/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The environment variables FUSEDBN_BACKEND, FUSEDBN_KERNEL and FUSEDBN_VERBOSE; the list of kernel
 * rows; the library's silence where it was not asked to print.
 */
#include "harness.h"
#include "trial.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void clear(void)
{
    unsetenv("FUSEDBN_BACKEND");
    unsetenv("FUSEDBN_KERNEL");
    unsetenv("FUSEDBN_VERBOSE");
}

static void expect(fbn_status got, fbn_status expected, const char *word)
{
    if (got != expected)
        harness_fail("gave \"%s\", expected \"%s\"; the message is \"%s\"", fbn_status_string(got),
                     fbn_status_string(expected), fbn_last_error());
    if (got != FBN_OK && !strstr(fbn_last_error(), word))
        harness_fail("the message \"%s\" lacks \"%s\"", fbn_last_error(), word);
}

/* ---- FUSEDBN_BACKEND ------------------------------------------------------------------------- */

static fbn_status create(fbn_backend backend, fbn_backend *chosen)
{
    fbn_context_options options;
    fbn_context *context;
    fbn_context_options_init(&options, sizeof options);
    options.backend = backend;
    fbn_status status = fbn_context_create(&context, backend == FBN_BACKEND_AUTO ? NULL : &options);
    if (status == FBN_OK) {
        *chosen = fbn_context_backend(context);
        ck_assert_str_ne(fbn_context_describe(context), "");
        fbn_context_destroy(context);
    }
    return status;
}

START_TEST(test_backend)
{
    fbn_backend chosen = FBN_BACKEND_AUTO;
    bool cuda = fbn_backend_available(FBN_BACKEND_CUDA) == FBN_OK;
    harness_enter("FUSEDBN_BACKEND");
    clear();
    if (!cuda) {
        /* A reason in words, not only that it is so. */
        expect(fbn_backend_available(FBN_BACKEND_CUDA), FBN_ERR_NO_BACKEND, " ");
        ck_assert_uint_gt(strlen(fbn_last_error()), strlen("CUDA is not available"));
        expect(create(FBN_BACKEND_CUDA, &chosen), FBN_ERR_NO_BACKEND, " ");
    }
    expect(fbn_backend_available(FBN_BACKEND_CPU), FBN_OK, "");
    expect(fbn_backend_available(FBN_BACKEND_AUTO), FBN_OK, "");
    expect(create(FBN_BACKEND_AUTO, &chosen), FBN_OK, "");
    ck_assert_int_eq(chosen, cuda ? FBN_BACKEND_CUDA : FBN_BACKEND_CPU);

    setenv("FUSEDBN_BACKEND", "cpu", 1);
    expect(create(FBN_BACKEND_AUTO, &chosen), FBN_OK, "");
    ck_assert_int_eq(chosen, FBN_BACKEND_CPU);
    setenv("FUSEDBN_BACKEND", "auto", 1);
    expect(create(FBN_BACKEND_AUTO, &chosen), FBN_OK, "");
    ck_assert_int_eq(chosen, cuda ? FBN_BACKEND_CUDA : FBN_BACKEND_CPU);
    setenv("FUSEDBN_BACKEND", "cuda", 1);
    expect(create(FBN_BACKEND_AUTO, &chosen), cuda ? FBN_OK : FBN_ERR_NO_BACKEND, " ");
    setenv("FUSEDBN_BACKEND", "tpu", 1);
    expect(create(FBN_BACKEND_AUTO, &chosen), FBN_ERR_ENUM, "tpu");
    expect(create(FBN_BACKEND_CPU, &chosen), FBN_OK, ""); /* it decides what AUTO means, no more */
    ck_assert_int_eq(chosen, FBN_BACKEND_CPU);
    clear();
}
END_TEST

/* ---- FUSEDBN_KERNEL and the list of rows ----------------------------------------------------- */

/* Largest batches: of a layer whose fastest row of each operation is the first that takes it; and
 * of one that every row takes. */
enum { LARGE = 1024, ANY = 256 };

/* With softmax: the layer has a stage for each row of CUDA's table. */
static fbn_status create_layer(int64_t batch, const char *kernel, char *description, size_t size)
{
    test_case c = case_default(true);
    c.n = batch, c.i = 2048, c.o = 1024;
    c.activation = FBN_ACT_SOFTMAX;
    fbn_layer_desc desc = case_desc(&c);
    fbn_layer *layer;
    desc.kernel = kernel;
    fbn_status status = fbn_layer_create(&layer, harness_context(1), &desc);
    if (status == FBN_OK) {
        snprintf(description, size, "%s", fbn_layer_describe(layer));
        fbn_layer_destroy(layer);
    }
    return status;
}

/* Whether a row runs the layer: it is f32, in FBN_MATH_FP32, and rows may refuse softmax. */
static bool runs_layer(const kernel_row *row)
{
    char description[500];

    return !row->refusal && row->serves[FBN_F32] && !row->tf32 &&
           create_layer(ANY, row->name, description, sizeof description) == FBN_OK;
}

START_TEST(test_kernel)
{
    size_t count;
    const kernel_row *rows = harness_rows(&count);
    char description[500], first[500];
    const char *fastest = NULL;
    harness_enter("FUSEDBN_KERNEL");
    clear();
    ck_assert_uint_gt(count, 0);
    ck_assert_ptr_null(rows[count - 1].refusal); /* the generic row runs everywhere */
    ck_assert_ptr_null(fbn_context_kernel(harness_context(1), (int64_t)count, NULL));
    ck_assert_ptr_null(fbn_context_kernel(harness_context(1), INT64_MAX, NULL));
    for (size_t r = 0; r < count; r++) {
        ck_assert_str_eq(fbn_context_kernel(harness_context(1), (int64_t)r, NULL), rows[r].name);
        for (size_t other = 0; other < r; other++)
            ck_assert_str_ne(rows[r].name, rows[other].name);
        if (runs_layer(&rows[r]) && !fastest)
            fastest = rows[r].name;
    }
    expect(create_layer(LARGE, NULL, first, sizeof first), FBN_OK, "");
    if (!strstr(first, fastest))
        harness_fail("the layer took \"%s\", but %s is the fastest row that runs here", first,
                     fastest);

    for (size_t r = 0; r < count; r++) {
        if (!rows[r].refusal && !runs_layer(&rows[r]))
            continue;
        setenv("FUSEDBN_KERNEL", rows[r].name, 1);
        expect(create_layer(ANY, NULL, description, sizeof description),
               rows[r].refusal ? FBN_ERR_UNSUPPORTED : FBN_OK, rows[r].name);
        if (!rows[r].refusal && !strstr(description, rows[r].name))
            harness_fail("forced onto %s, the layer says \"%s\"", rows[r].name, description);
        if (rows[r].refusal && !strstr(fbn_last_error(), rows[r].refusal))
            harness_fail("the message \"%s\" lacks the reason \"%s\"", fbn_last_error(),
                         rows[r].refusal);
    }
    setenv("FUSEDBN_KERNEL", "nonesuch", 1);
    expect(create_layer(ANY, NULL, description, sizeof description), FBN_ERR_UNSUPPORTED,
           "nonesuch");
    /* The description comes before the variable. */
    expect(create_layer(ANY, fastest, description, sizeof description), FBN_OK, "");
    clear();
}
END_TEST

/* ---- FUSEDBN_VERBOSE, and silence ------------------------------------------------------------ */

typedef struct capture {
    FILE *file;
    int saved[2]; /* of stdout and stderr */
} capture;

static void capture_begin(capture *c)
{
    fflush(stdout);
    fflush(stderr);
    c->file = tmpfile();
    ck_assert_ptr_nonnull(c->file);
    for (int fd = 1; fd <= 2; fd++) {
        c->saved[fd - 1] = dup(fd);
        dup2(fileno(c->file), fd);
    }
}

static void capture_end(capture *c, char *text, size_t size)
{
    fflush(stdout);
    fflush(stderr);
    for (int fd = 1; fd <= 2; fd++) {
        dup2(c->saved[fd - 1], fd);
        close(c->saved[fd - 1]);
    }
    rewind(c->file);
    text[fread(text, 1, size - 1, c->file)] = '\0';
    fclose(c->file);
}

/* One of everything, right and wrong. */
static void use_the_library(void)
{
    test_case c = case_default(true);
    trial t;
    char description[500];
    fbn_backend chosen;
    trial_create_unchecked(&t, &c, harness_seed(), NULL);
    trial_forward(&t);
    trial_backward(&t);
    t.forward.ldx = 1;
    trial_forward(&t);
    fbn_backward(NULL, NULL, NULL, NULL);
    trial_destroy(&t);
    create(FBN_BACKEND_CUDA, &chosen);
    create_layer(ANY, "nonesuch", description, sizeof description);
}

START_TEST(test_verbose)
{
    static const char *const silent[] = {NULL, "", "0"};
    char text[4000], description[500];
    size_t count;
    const kernel_row *rows = harness_rows(&count);
    capture c;
    harness_enter("FUSEDBN_VERBOSE");
    clear();
    for (size_t k = 0; k < sizeof silent / sizeof *silent; k++) {
        if (silent[k])
            setenv("FUSEDBN_VERBOSE", silent[k], 1);
        capture_begin(&c);
        use_the_library();
        capture_end(&c, text, sizeof text);
        if (text[0])
            harness_fail("with FUSEDBN_VERBOSE %s it printed: %s", silent[k] ? silent[k] : "unset",
                         text);
    }

    setenv("FUSEDBN_VERBOSE", "1", 1);
    const kernel_row *last = &rows[count - 1];
    fbn_status status;
    capture_begin(&c);
    status = create_layer(LARGE, NULL, description, sizeof description);
    capture_end(&c, text, sizeof text);
    HARNESS_OK(status);
    bool chosen = false;
    for (size_t r = 0; r < count && !chosen; r++) {
        if (!rows[r].refusal && !runs_layer(&rows[r]))
            continue;
        chosen = !rows[r].refusal;
        if (!strstr(text, rows[r].name) || (rows[r].refusal && !strstr(text, rows[r].refusal)))
            harness_fail("it printed \"%s\", which lacks row %s (%s)", text, rows[r].name,
                         chosen ? "chosen" : rows[r].refusal);
    }
    /* Forced onto the last: its name, once more on stderr. */
    capture_begin(&c);
    status = create_layer(ANY, last->name, description, sizeof description);
    capture_end(&c, text, sizeof text);
    if (status == FBN_OK && !strstr(text, last->name))
        harness_fail("it printed \"%s\", which lacks the forced row %s", text, last->name);
    clear();
}
END_TEST

static void add(Suite *suite)
{
    if (harness_selects("FUSEDBN_BACKEND"))
        harness_add(suite, "backend", test_backend, 1);
    if (harness_selects("FUSEDBN_KERNEL"))
        harness_add(suite, "kernel", test_kernel, 1);
    if (harness_selects("FUSEDBN_VERBOSE"))
        harness_add(suite, "verbose", test_verbose, 1);
}

int main(void)
{
    clear();
    return harness_main("test_environment", add);
}
