/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Buffers that are not what they are given as: a saved of another forward, memory that the device
 * cannot reach.
 */
#include "scene.h"

#include <math.h>
#include <stdlib.h>

/* ---- `saved` --------------------------------------------------------------------------------- */

/* A saved of another N (its forward's and then its backward's is 4), of another layer, of no
 * forward at all. */
enum { FOREIGN_FORWARD, FOREIGN_LAYER, FOREIGN_BYTES, FOREIGN_BACKWARD, FOREIGN_KINDS };

static void make_foreign(scene *s, int kind, fbn_layer *other)
{
    switch (kind) {
    case FOREIGN_FORWARD:
        s->t.forward.batch = 4;
        HARNESS_OK(scene_call(s, TRAIN));
        break;
    case FOREIGN_LAYER:
        s->layer = other;
        break;
    case FOREIGN_BYTES:
        array_poison(&s->t.a[ARG_SAVED]);
        break;
    default:
        s->t.backward.batch = 4;
        break;
    }
}

/* Gradients hold zeros, so that a NaN in them has been written. */
static void clear_gradients(scene *s)
{
    const double zeros[64] = {0};
    for (argument k = ARG_DX; k < ARGS; k++)
        if (s->t.a[k].memory)
            array_set(&s->t.a[k], zeros);
}

static void gradients_are_nan(scene *s)
{
    double got[64];
    for (argument k = ARG_DX; k < ARGS; k++) {
        array *a = &s->t.a[k];
        int64_t count = k == ARG_DX ? s->t.backward.batch : a->rows;
        if (!a->memory)
            continue;
        array_get(a, got);
        for (int64_t e = 0; e < count * a->cols; e++)
            if (!isnan(got[e]))
                harness_fail("%s[%lld] is %g, but saved is another's", argument_names[k],
                             (long long)e, got[e]);
    }
}

/* The CPU looks into the buffer and refuses it. On CUDA only the device can: every gradient that is
 * asked for becomes NaN. */
START_TEST(test_saved)
{
    static const char *const words[2] = {"saved", ""}, *const batches[2] = {"6", "4"};
    scene s;
    fbn_layer *other;
    harness_enter("saved");
    scene_create(&s, FBN_F32, true);
    HARNESS_OK(fbn_layer_create(&other, s.context, &s.desc));
    scene_aim(&s, BACKWARD);
    make_foreign(&s, _i, other);
    clear_gradients(&s);
    trial_accept(&s.t);
    if (harness_backend() == FBN_BACKEND_CPU) {
        scene_must_fail(&s, BACKWARD, FBN_ERR_SAVED,
                        _i == FOREIGN_FORWARD || _i == FOREIGN_BACKWARD ? batches : words);
    } else {
        HARNESS_OK(scene_call(&s, BACKWARD));
        gradients_are_nan(&s);
    }
    fbn_layer_destroy(other);
    scene_destroy(&s);
}
END_TEST

/* ---- memory of the wrong kind ---------------------------------------------------------------- */

/* Calls, with one argument in plain host memory: a sentence, and nothing touched. */
static void refuses_host(scene *s, entry which, const char *name)
{
    const char *words[2] = {name, "host memory"};
    scene_must_fail(s, which, FBN_ERR_MEMORY_KIND, words);
}

/* Every pointer of every call, one after the other. */
START_TEST(test_host_memory)
{
    static unsigned char host[4096] __attribute__((aligned(256)));
    static const struct {
        argument which;
        entry entry;
        const char *name;
    } arguments[] = {
        {ARG_X, TRAIN, "x"},
        {ARG_W, TRAIN, "weight"},
        {ARG_BIAS, TRAIN, "bias"},
        {ARG_PRE, TRAIN, "pre_scale"},
        {ARG_POST, TRAIN, "post_scale"},
        {ARG_GAMMA, TRAIN, "gamma"},
        {ARG_BETA, TRAIN, "beta"},
        {ARG_RUNNING_MEAN, TRAIN, "running_mean"},
        {ARG_RUNNING_VAR, TRAIN, "running_var"},
        {ARG_BATCHES, TRAIN, "num_batches_tracked"},
        {ARG_Y, TRAIN, "y"},
        {ARG_SAVED, TRAIN, "saved"},
        {ARG_BATCH_MEAN, TRAIN, "batch_mean"},
        {ARG_BATCH_VAR, TRAIN, "batch_var"},
        {ARG_DY, BACKWARD, "dy"},
        {ARG_SAVED, BACKWARD, "saved"},
        {ARG_DX, BACKWARD, "dx"},
        {ARG_DW, BACKWARD, "grads->weight"},
        {ARG_DBIAS, BACKWARD, "grads->bias"},
        {ARG_DPRE, BACKWARD, "grads->pre_scale"},
        {ARG_DPOST, BACKWARD, "grads->post_scale"},
        {ARG_DGAMMA, BACKWARD, "grads->gamma"},
        {ARG_DBETA, BACKWARD, "grads->beta"},
    };
    scene s;
    harness_enter("host memory");
    scene_create(&s, FBN_F32, true);
    for (size_t k = 0; k < sizeof arguments / sizeof *arguments; k++) {
        array *a = &s.t.a[arguments[k].which];
        void *data = a->data;
        scene_reset(&s);
        scene_aim(&s, arguments[k].entry);
        a->data = host;
        trial_point(&s.t);
        a->data = data;
        refuses_host(&s, arguments[k].entry, arguments[k].name);
    }
    scene_reset(&s);
    s.run.x = host;
    refuses_host(&s, RUN, "x");
    scene_reset(&s);
    s.run.y = host;
    refuses_host(&s, RUN, "y");
    scene_reset(&s);
    scene_aim(&s, FOLD);
    s.fold_weight = host;
    refuses_host(&s, FOLD, "weight");
    scene_reset(&s);
    s.desc.workspace = host;
    s.desc.workspace_size = sizeof host;
    if (s.workspace_bytes <= sizeof host)
        refuses_host(&s, CREATE, "workspace");
    scene_reset(&s);
    s.copy_target = host;
    refuses_host(&s, UPLOAD, "target");
    scene_reset(&s);
    s.copy_source = host;
    refuses_host(&s, DOWNLOAD, "source");
    for (size_t k = 0; k < sizeof host; k++)
        if (host[k] != 0)
            harness_fail("the host memory was written");
    scene_destroy(&s);
}
END_TEST

static void add(Suite *suite)
{
    if (harness_selects("saved"))
        harness_add(suite, "saved", test_saved, FOREIGN_KINDS);
    if (harness_selects("host memory") && harness_backend() == FBN_BACKEND_CUDA)
        harness_add(suite, "host_memory", test_host_memory, 1);
}

int main(void)
{
    return harness_main("test_buffers", add);
}
