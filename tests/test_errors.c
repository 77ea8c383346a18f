/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What bad input gets: for each row of error_rows.h its own status and a sentence with the
 * offending value, and outputs, statistics and out-pointers bit for bit as they were. Afterwards
 * the right call works.
 */
#include "formats.h"
#include "scene.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error_rows.h"

#define ALL_ROWS ROWS_OF_FORWARD ROWS_OF_BACKWARD ROWS_OF_SERVING ROWS_OF_LAYER ROWS_OF_CONTEXT

#define ROW(name, entry, status, word, value, statement)                                           \
    static void spoil_##name(scene *s)                                                             \
    {                                                                                              \
        statement;                                                                                 \
    }
ALL_ROWS
#undef ROW

static const struct error_row {
    const char *name;
    entry which;
    fbn_status status;
    const char *words[2];
    void (*spoil)(scene *s);
} rows[] = {
#define ROW(name, entry, status, word, value, statement)                                           \
    {#name, entry, status, {word, value}, spoil_##name},
    ALL_ROWS
#undef ROW
};

START_TEST(test_row)
{
    const struct error_row *row = &rows[_i];
    scene s;
    harness_enter(row->name);
    scene_create(&s, FBN_F32, true);
    fbn_prepared *prepared = s.prepared;
    scene_aim(&s, row->which);
    row->spoil(&s);
    scene_must_fail(&s, row->which, row->status, row->words);

    s.prepared = prepared;
    scene_reset(&s);
    scene_aim(&s, row->which);
    HARNESS_OK(scene_call(&s, row->which));
    scene_release(&s);
    scene_destroy(&s);
}
END_TEST

/* ---- rows that need another stage ------------------------------------------------------------ */

START_TEST(test_other_stages)
{
    static const char *const pre_words[2] = {"pre_scale", ""};
    static const char *const post_words[2] = {"post_scale", ""};
    static const char *const count_words[2] = {"num_batches_tracked", ""};
    static const char *const workspace_words[2] = {"workspace", ""};
    scene s;
    fbn_layer *cumulative;
    harness_enter("other stages");
    scene_create(&s, (fbn_dtype)_i, false);

    /* Gradients of scales, and scales, that the description has not. */
    scene_aim(&s, BACKWARD);
    s.t.grads.pre_scale = s.t.grads.gamma, s.t.grads.gamma = NULL;
    scene_must_fail(&s, BACKWARD, FBN_ERR_INVALID_ARGUMENT, pre_words);
    s.t.grads.post_scale = s.t.grads.pre_scale, s.t.grads.pre_scale = NULL;
    scene_must_fail(&s, BACKWARD, FBN_ERR_INVALID_ARGUMENT, post_words);
    scene_reset(&s);
    s.t.params.pre_scale = s.t.params.gamma;
    scene_must_fail(&s, TRAIN, FBN_ERR_INVALID_ARGUMENT, pre_words);

    /* A cumulative average without a count. */
    scene_reset(&s);
    s.desc.flags = FBN_CUMULATIVE_AVERAGE;
    HARNESS_OK(fbn_layer_create(&cumulative, s.context, &s.desc));
    s.layer = cumulative;
    s.t.params.num_batches_tracked = NULL;
    scene_must_fail(&s, TRAIN, FBN_ERR_MISSING_PARAM, count_words);
    fbn_layer_destroy(cumulative);

    /* Workspaces one byte short. */
    scene_reset(&s);
    if (s.workspace_bytes > 0) {
        s.desc.workspace = s.workspace.data;
        s.desc.workspace_size = s.workspace_bytes - 1;
        scene_must_fail(&s, CREATE, FBN_ERR_WORKSPACE, workspace_words);
    }
    size_t bytes;
    HARNESS_OK(fbn_prepared_workspace_size(s.prepared, 6, &bytes));
    if (bytes > 0) {
        scene_reset(&s);
        s.run.workspace_size = bytes - 1;
        scene_must_fail(&s, RUN, FBN_ERR_WORKSPACE, workspace_words);
        s.run.workspace_size = bytes;
        s.run.workspace = NULL;
        scene_must_fail(&s, RUN, FBN_ERR_WORKSPACE, workspace_words);
        s.run.workspace = BYTE(s.workspace.data, 4);
        scene_must_fail(&s, RUN, FBN_ERR_ALIGNMENT, workspace_words);
    }
    scene_destroy(&s);
}
END_TEST

/* ---- what must be accepted ------------------------------------------------------------------- */

/* Columns of one wide matrix side by side: x, y, dy and dx in one, with equal strides. */
START_TEST(test_side_by_side)
{
    test_case c = case_default(true);
    trial t;
    array wide;
    harness_enter("side by side");
    c.dtype = (fbn_dtype)_i;
    c.n = 6, c.i = 5, c.o = 4;
    c.gamma = c.beta = true;
    trial_create(&t, &c, harness_seed(), NULL, true);
    int64_t ld = 2 * c.i + 2 * c.o;
    double values[6 * 18] = {0};
    for (int64_t n = 0; n < c.n; n++) {
        memcpy(values + n * ld, t.expected->in.x + n * c.i, (size_t)c.i * sizeof *values);
        memcpy(values + n * ld + 9, t.expected->in.dy + n * c.o, (size_t)c.o * sizeof *values);
    }
    array_create(&wide, t.context, c.dtype, c.n, ld, ld, true);
    array_set(&wide, values);
    size_t element = format_size(c.dtype);
    t.forward.x = t.backward.x = wide.data;
    t.forward.y = BYTE(wide.data, 5 * element);
    t.backward.dy = BYTE(wide.data, 9 * element);
    t.grads.dx = BYTE(wide.data, 13 * element);
    t.forward.ldx = t.forward.ldy = t.backward.ldx = t.backward.lddy = t.grads.lddx = ld;
    HARNESS_OK(trial_forward(&t));
    HARNESS_OK(trial_backward(&t));

    double got[6 * 18], y[6 * 4], dx[6 * 5];
    char message[500];
    array_get(&wide, got);
    for (int64_t n = 0; n < c.n; n++) {
        memcpy(y + n * c.o, got + n * ld + 5, sizeof *y * 4);
        memcpy(dx + n * c.i, got + n * ld + 13, sizeof *dx * 5);
        if (memcmp(got + n * ld, values + n * ld, sizeof *got * 5) != 0 ||
            memcmp(got + n * ld + 9, values + n * ld + 9, sizeof *got * 4) != 0)
            harness_fail("x or dy beside the outputs was changed");
    }
    if (!reference_matches(t.expected, OUT_Y, fbn_layer_describe(t.layer), c.dtype, y, NULL,
                           message, sizeof message) ||
        !reference_matches(t.expected, OUT_DX, fbn_layer_describe(t.layer), c.dtype, dx, NULL,
                           message, sizeof message))
        harness_fail("%s", message);
    array_destroy(&wide);
    trial_destroy(&t);
}
END_TEST

/* A struct of a later version: longer, with zeros beyond what this version knows. */
START_TEST(test_longer_structs)
{
    scene s;
    struct {
        fbn_forward_args args;
        uint64_t later[2];
    } longer = {0};
    static const char *const words[2] = {"struct_size", ""};
    harness_enter("longer structs");
    scene_create(&s, FBN_F32, true);
    longer.args = s.t.forward;
    longer.args.struct_size = sizeof longer;
    s.forward = &longer.args;
    longer.later[1] = 1;
    scene_must_fail(&s, TRAIN, FBN_ERR_UNSUPPORTED, words);
    longer.later[1] = 0;
    HARNESS_OK(scene_call(&s, TRAIN));
    scene_destroy(&s);
}
END_TEST

/* ---- messages -------------------------------------------------------------------------------- */

static void *first_error_of_a_thread(void *result)
{
    *(bool *)result = fbn_last_error()[0] == '\0';
    fbn_alloc(NULL, 1, NULL);
    return NULL;
}

START_TEST(test_messages)
{
    harness_enter("messages");
#define EXPECT(name, value, text)                                                                  \
    ck_assert_int_eq(name, value);                                                                 \
    ck_assert_str_eq(fbn_status_string(name), text);
    FBN_STATUS_LIST(EXPECT)
#undef EXPECT
    ck_assert_str_eq(fbn_status_string(FBN_STATUS_COUNT), "unknown status");
    ck_assert_str_eq(fbn_status_string((fbn_status)-1), "unknown status");
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", FBN_VERSION_MAJOR, FBN_VERSION_MINOR,
             FBN_VERSION_PATCH);
    ck_assert_str_eq(fbn_version(), version);

    /* A success leaves the message; each thread has its own. */
    fbn_layer_saved_size(NULL, 1, NULL);
    char before[400];
    snprintf(before, sizeof before, "%s", fbn_last_error());
    ck_assert_str_ne(before, "");
    HARNESS_OK(fbn_backend_available(harness_backend()));
    ck_assert_str_eq(fbn_last_error(), before);
    pthread_t thread;
    bool was_empty = false;
    ck_assert_int_eq(pthread_create(&thread, NULL, first_error_of_a_thread, &was_empty), 0);
    pthread_join(thread, NULL);
    ck_assert(was_empty);
    ck_assert_str_eq(fbn_last_error(), before);

    /* NULL is nothing to destroy or describe. */
    fbn_context_destroy(NULL);
    fbn_layer_destroy(NULL);
    fbn_prepared_destroy(NULL);
    ck_assert_int_eq(fbn_context_backend(NULL), FBN_BACKEND_AUTO);
    ck_assert_str_eq(fbn_context_describe(NULL), "");
    ck_assert_str_eq(fbn_layer_describe(NULL), "");
    ck_assert_ptr_null(fbn_context_kernel(harness_context(1), -1, NULL));
    void *memory = before;
    HARNESS_OK(fbn_alloc(harness_context(1), 0, &memory));
    ck_assert_ptr_null(memory);
}
END_TEST

static void add(Suite *suite)
{
    if (harness_selects("messages"))
        harness_add(suite, "messages", test_messages, 1);
    harness_add(suite, "rows", test_row, sizeof rows / sizeof *rows);
    if (harness_selects("other stages"))
        harness_add(suite, "other_stages", test_other_stages, 4);
    if (harness_selects("side by side"))
        harness_add(suite, "side_by_side", test_side_by_side, 4);
    if (harness_selects("longer structs"))
        harness_add(suite, "longer_structs", test_longer_structs, 1);
}

int main(void)
{
    return harness_main("test_errors", add);
}
