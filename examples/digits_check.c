/* SPDX-License-Identifier: BSD-3-Clause
 * Scores what `fusedbn run` made of the held-out digits, and compares it with the same network
 * computed without libfusedbn: plain loops, one step after the other, in double.
 */
#include "tool/tensor_file.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_USAGE = 2, LAYERS = 3 };

static const double eps = 1e-5;         /* the library's default */
static const double least_right = 0.97; /* of the images */

/* A layer's parameters as they lie in the file. */
struct layer {
    int64_t in, out, scales; /* scales: 1 or out */
    const float *weight, *bias, *scale, *gamma, *beta, *mean, *var;
};

/* What each elementary operation's result goes through: as it is, or rounded to float. The second
 * gives what float arithmetic gives, as double has more than twice its digits. */
typedef double (*rounding)(double value);

static double to_double(double value)
{
    return value;
}

static double to_float(double value)
{
    return (double)(float)value;
}

/* --------------------------------------------------------------------------------------- files */

static int read_tensors(const char *path, struct tensor_set *set)
{
    struct file_error error;
    if (tensor_file_read(path, set, &error) == FILE_OK)
        return 0;
    fprintf(stderr, "digits_check: %s: %s\n", path, error.text);
    return -1;
}

/* The formats align nothing by themselves; what digits.c writes is aligned. */
static bool is_array_of(const struct tensor *tensor, enum dtype dtype, size_t size)
{
    return tensor->dtype == dtype && (uintptr_t)tensor->data % size == 0;
}

/* The data of a tensor of the model, where it has that many elements of float. */
static const float *find_floats(const struct tensor_set *model, int layer, const char *part,
                                int64_t count)
{
    char name[64];
    snprintf(name, sizeof name, "layer%d.%s", layer + 1, part);
    const struct tensor *tensor = tensor_set_find(model, name);
    if (tensor != NULL && is_array_of(tensor, DT_F32, sizeof(float)) &&
        tensor->nbytes / sizeof(float) == (size_t)count)
        return (const float *)(const void *)tensor->data;
    fprintf(stderr, "digits_check: the model has no F32 tensor %s of %" PRId64 " elements\n", name,
            count);
    return NULL;
}

static int find_layer(const struct tensor_set *model, int k, int64_t in, struct layer *l)
{
    char name[64];
    const int last = k == LAYERS - 1;
    snprintf(name, sizeof name, "layer%d.gemm.weight", k + 1);
    const struct tensor *weight = tensor_set_find(model, name);
    if (weight == NULL || weight->ndim != 2 || weight->shape[1] != in || weight->shape[0] < 1) {
        fprintf(stderr, "digits_check: the model has no tensor %s of %" PRId64 " columns\n", name,
                in);
        return -1;
    }
    l->in = in;
    l->out = weight->shape[0];
    l->scales = last ? 1 : l->out;
    l->weight = find_floats(model, k, "gemm.weight", l->out * in);
    l->bias = find_floats(model, k, "gemm.bias", l->out);
    l->scale = find_floats(model, k, "scale", l->scales);
    l->gamma = find_floats(model, k, "bn.weight", l->out);
    l->beta = find_floats(model, k, "bn.bias", l->out);
    l->mean = find_floats(model, k, "bn.running_mean", l->out);
    l->var = find_floats(model, k, "bn.running_var", l->out);
    return l->weight && l->bias && l->scale && l->gamma && l->beta && l->mean && l->var ? 0 : -1;
}

/* A matrix of floats that is the file's only tensor. */
static const float *find_matrix(const char *path, const struct tensor_set *set, int64_t *rows,
                                int64_t *columns)
{
    const struct tensor *tensor = set->tensors;
    if (set->count != 1 || !is_array_of(tensor, DT_F32, sizeof(float)) || tensor->ndim != 2 ||
        tensor->shape[0] < 1 || tensor->shape[1] < 1) {
        fprintf(stderr, "digits_check: %s: expected one F32 matrix\n", path);
        return NULL;
    }
    *rows = tensor->shape[0];
    *columns = tensor->shape[1];
    return (const float *)(const void *)tensor->data;
}

/* ---------------------------------------------------------------------------------- the network */

static double batch_norm(const struct layer *l, int64_t j, double z, rounding to)
{
    const double deviation = to(sqrt(to((double)l->var[j] + to(eps))));
    const double normal = to(to(z - (double)l->mean[j]) / deviation);
    return to(to(normal * (double)l->gamma[j]) + (double)l->beta[j]);
}

static void log_softmax(double *v, int64_t count, rounding to)
{
    double largest = v[0], sum = 0;
    for (int64_t j = 1; j < count; j++)
        largest = fmax(largest, v[j]);
    for (int64_t j = 0; j < count; j++)
        sum = to(sum + to(exp(to(v[j] - largest))));
    for (int64_t j = 0; j < count; j++)
        v[j] = to(to(v[j] - largest) - to(log(sum)));
}

/* One row through layer k: Linear, scale, BatchNorm, ReLU; or, the last, Linear, BatchNorm, scale,
 * log-softmax. */
static void run_layer(const struct layer *l, int last, const double *x, double *y, rounding to)
{
    for (int64_t j = 0; j < l->out; j++) {
        const float *w = l->weight + j * l->in;
        double u = 0;
        for (int64_t i = 0; i < l->in; i++)
            u = to(u + to(x[i] * (double)w[i]));
        u = to(u + (double)l->bias[j]);
        if (last)
            y[j] = to(batch_norm(l, j, u, to) * (double)l->scale[0]);
        else
            y[j] = fmax(batch_norm(l, j, to(u * (double)l->scale[j]), to), 0);
    }
    if (last)
        log_softmax(y, l->out, to);
}

/* y and scratch have room for the widest layer. */
static void run_network(const struct layer *layers, const float *pixels, double *y, double *scratch,
                        rounding to)
{
    for (int64_t i = 0; i < layers[0].in; i++)
        y[i] = (double)pixels[i];
    for (int k = 0; k < LAYERS; k++) {
        memcpy(scratch, y, (size_t)layers[k].in * sizeof *y);
        run_layer(&layers[k], k == LAYERS - 1, scratch, y, to);
    }
}

/* ------------------------------------------------------------------------------------- verdict */

struct comparison {
    double fused;   /* largest difference of the fused network from the unfused one in double */
    double unfused; /* largest difference of the unfused one in float from that in double */
    double largest; /* |y| */
};

static int compare(const struct layer *layers, int64_t rows, const float *pixels,
                   const float *served, struct comparison *c)
{
    int64_t widest = layers[0].in;
    for (int k = 0; k < LAYERS; k++)
        widest = layers[k].out > widest ? layers[k].out : widest;
    const int64_t out = layers[LAYERS - 1].out;
    double *buffers = calloc((size_t)widest, 3 * sizeof *buffers);
    if (buffers == NULL) {
        fputs("digits_check: no memory\n", stderr);
        return -1;
    }
    double *exact = buffers, *rounded = buffers + widest, *scratch = buffers + 2 * widest;

    *c = (struct comparison){0};
    for (int64_t i = 0; i < rows; i++) {
        run_network(layers, pixels + i * layers[0].in, exact, scratch, to_double);
        run_network(layers, pixels + i * layers[0].in, rounded, scratch, to_float);
        for (int64_t j = 0; j < out; j++) {
            const double difference = fabs((double)served[i * out + j] - exact[j]);
            c->fused = difference > c->fused || isnan(difference) ? difference : c->fused;
            c->unfused = fmax(c->unfused, fabs(rounded[j] - exact[j]));
            c->largest = fmax(c->largest, fabs(exact[j]));
        }
    }
    free(buffers);
    return 0;
}

static int64_t count_right(const float *y, const int64_t *labels, int64_t rows, int64_t classes)
{
    int64_t right = 0;
    for (int64_t i = 0; i < rows; i++, y += classes) {
        int64_t best = 0;
        for (int64_t j = 1; j < classes; j++)
            best = y[j] > y[best] ? j : best;
        right += best == labels[i];
    }
    return right;
}

/* Prints both verdicts and returns whether they are good. The difference may be twice that which
 * float arithmetic makes without fusing, and 4 units in the last place of the largest y. */
static bool report(const struct comparison *c, int64_t right, int64_t rows)
{
    const double ulp = ldexp(FLT_EPSILON, ilogb(c->largest));
    const double allowed = 2 * c->unfused + 4 * ulp;
    const bool accurate = (double)right >= least_right * (double)rows;
    const bool close = c->fused <= allowed;

    printf("held-out images right: %" PRId64 " of %" PRId64 ", %.2f %% (at least %.0f %%: %s)\n",
           right, rows, 100 * (double)right / (double)rows, 100 * least_right,
           accurate ? "yes" : "NO");
    printf("largest difference from the unfused network in double: %.2g (at most %.2g: %s)\n",
           c->fused, allowed, close ? "yes" : "NO");
    printf("the same of the unfused network in float: %.2g (log-probabilities to %.3g)\n",
           c->unfused, -c->largest);
    return accurate && close;
}

int main(int argc, char **argv)
{
    int result = EXIT_FAILURE;
    enum { MODEL = 1, IMAGES, LABELS, SERVED, ARGUMENTS };
    struct tensor_set sets[ARGUMENTS] = {0};
    struct layer layers[LAYERS];
    struct comparison comparison;
    int64_t rows, columns, served_rows, classes;

    if (argc != ARGUMENTS) {
        fputs("Usage: digits_check MODEL.safetensors IMAGES.npy LABELS.npy SERVED.npy\n", stderr);
        return EXIT_USAGE;
    }
    for (int i = MODEL; i < ARGUMENTS; i++) {
        if (read_tensors(argv[i], &sets[i]) != 0)
            goto out;
    }
    const float *pixels = find_matrix(argv[IMAGES], &sets[IMAGES], &rows, &columns);
    const float *served = find_matrix(argv[SERVED], &sets[SERVED], &served_rows, &classes);
    if (pixels == NULL || served == NULL)
        goto out;
    for (int k = 0; k < LAYERS; k++) {
        if (find_layer(&sets[MODEL], k, k == 0 ? columns : layers[k - 1].out, &layers[k]) != 0)
            goto out;
    }
    const struct tensor *labels = sets[LABELS].tensors;
    if (sets[LABELS].count != 1 || !is_array_of(labels, DT_I64, sizeof(int64_t)) ||
        labels->ndim != 1 || labels->shape[0] != rows || served_rows != rows ||
        classes != layers[LAYERS - 1].out) {
        fputs("digits_check: images, labels and served predictions are not of one set\n", stderr);
        goto out;
    }
    if (compare(layers, rows, pixels, served, &comparison) != 0)
        goto out;
    const int64_t right =
        count_right(served, (const int64_t *)(const void *)labels->data, rows, classes);
    if (report(&comparison, right, rows))
        result = EXIT_SUCCESS;
out:
    for (int i = MODEL; i < ARGUMENTS; i++)
        tensor_set_free(&sets[i]);
    return result;
}
