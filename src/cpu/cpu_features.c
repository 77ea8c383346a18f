/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Moving per-feature arrays between the layer's real type and the doubles that the algebra works
 * in, a chunk of features at a time.
 */
#include "cpu_internal.h"

void fbni_cpu_reals_load(double *out, const void *reals, int64_t first, int count, bool single)
{
    if (single) {
        const float *from = (const float *)reals + first;
        for (int i = 0; i < count; i++)
            out[i] = from[i];
    } else {
        const double *from = (const double *)reals + first;
        for (int i = 0; i < count; i++)
            out[i] = from[i];
    }
}

void fbni_cpu_reals_store(void *reals, const double *in, int64_t first, int count, bool single)
{
    if (single) {
        float *to = (float *)reals + first;
        for (int i = 0; i < count; i++)
            to[i] = (float)in[i];
    } else {
        double *to = (double *)reals + first;
        for (int i = 0; i < count; i++)
            to[i] = in[i];
    }
}

/* An optional parameter: per-feature, one for all features, or absent. */
static void load_param(double *out, const void *param, fbn_scale kind, double absent,
                       const fbni_cpu_chunk *chunk, bool single)
{
    if (!param || kind == FBN_SCALE_NONE) {
        for (int i = 0; i < chunk->count; i++)
            out[i] = absent;
    } else if (kind == FBN_SCALE_FEATURE) {
        fbni_cpu_reals_load(out, param, chunk->first, chunk->count, single);
    } else {
        fbni_cpu_reals_load(out, param, 0, 1, single);
        for (int i = 1; i < chunk->count; i++)
            out[i] = out[0];
    }
}

void fbni_cpu_chunk_load(fbni_cpu_chunk *chunk, const fbn_layer_desc *desc,
                         const fbn_params *params, int64_t first, int64_t end)
{
    const bool single = fbni_is_single(desc->dtype);
    chunk->first = first;
    chunk->count = (int)fbni_min(FBNI_CHUNK, end - first);
    load_param(chunk->s, params->pre_scale, desc->pre_scale, 1, chunk, single);
    load_param(chunk->t, params->post_scale, desc->post_scale, 1, chunk, single);
    load_param(chunk->b, params->bias, FBN_SCALE_FEATURE, 0, chunk, single);
    load_param(chunk->gamma, params->gamma, FBN_SCALE_FEATURE, 1, chunk, single);
    load_param(chunk->beta, params->beta, FBN_SCALE_FEATURE, 0, chunk, single);
}

fbni_feature fbni_cpu_chunk_feature(const fbni_cpu_chunk *chunk, int i)
{
    const fbni_feature f = {chunk->s[i], chunk->t[i], chunk->b[i], chunk->gamma[i], chunk->beta[i]};
    return f;
}

void fbni_cpu_chunk_frozen(const fbni_cpu_chunk *chunk, const fbn_layer_desc *desc,
                           const fbn_params *params, fbni_norm *norm)
{
    const bool single = fbni_is_single(desc->dtype);
    double mean[FBNI_CHUNK], var[FBNI_CHUNK];
    fbni_cpu_reals_load(mean, params->running_mean, chunk->first, chunk->count, single);
    fbni_cpu_reals_load(var, params->running_var, chunk->first, chunk->count, single);
    for (int i = 0; i < chunk->count; i++)
        norm[i] =
            fbni_norm_frozen(fbni_cpu_chunk_feature(chunk, i), mean[i], var[i], desc->eps, single);
}

void fbni_cpu_chunk_affine(const fbni_cpu_chunk *chunk, const fbni_norm *norm, bool single,
                           const fbni_cpu_affine *to)
{
    double alpha[FBNI_CHUNK], c[FBNI_CHUNK], shift[FBNI_CHUNK];
    for (int i = 0; i < chunk->count; i++) {
        const fbni_affine a = fbni_affine_of(fbni_cpu_chunk_feature(chunk, i), norm[i], single);
        alpha[i] = a.alpha;
        c[i] = a.c;
        shift[i] = a.shift;
    }
    fbni_cpu_reals_store(to->alpha, alpha, chunk->first, chunk->count, single);
    fbni_cpu_reals_store(to->c, c, chunk->first, chunk->count, single);
    fbni_cpu_reals_store(to->shift, shift, chunk->first, chunk->count, single);
}
