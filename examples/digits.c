/* SPDX-License-Identifier: BSD-3-Clause
 * Trains a network of three fused layers on handwritten digits and saves it.
 *
 * The network and its training are in digits_net.c, serving in digits_serve.c, the data and the
 * files in digits_data.c. To start a program of your own from this one:
 *
 *     cc -o digits digits*.c $(pkg-config --cflags --libs fusedbn) -lm    (without digits_check.c)
 */
#include "digits_data.h"
#include "digits_net.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USAGE = 2, HELD_OUT = 360, BAR_WIDTH = 30, PATH_CAPACITY = 4096 };

static const double momentum = 0.9;

struct options {
    const char *data;   /* the digits */
    const char *output; /* directory for the files */
    fbn_backend backend;
    int64_t epochs, batch, threads, seed;
    double rate;
};

static void print_help(FILE *file)
{
    fputs("Usage: digits [OPTION]...\n"
          "\n"
          "Trains a 64-256-256-10 network of fused linear and batch normalisation layers on\n"
          "handwritten digits, keeping 360 of them from training, and writes model.safetensors,\n"
          "heldout.npy (the images kept) and labels.npy (what they show).\n"
          "\n"
          "  --data FILE       images, one a line: 64 pixels from 0 to 16, then the digit\n"
          "                    (default: digits.csv)\n"
          "  --output DIR      existing directory for the three files (default: .)\n"
          "  --backend NAME    auto, cpu or cuda (default: auto)\n"
          "  --threads N       most threads to use on the CPU (default: 0, OpenMP's own choice)\n"
          "  --epochs N        passes over the training images (default: 30)\n"
          "  --batch N         images a step (default: 64)\n"
          "  --rate X          learning rate, falling to 0 along a cosine (default: 0.05)\n"
          "  --seed N          of the split, the initial weights and the order (default: 1)\n"
          "  --help            print this and exit\n",
          file);
}

/* --------------------------------------------------------------------------------- command line */

static int usage(const char *option, const char *value, const char *expected)
{
    fprintf(stderr, "digits: --%s %s: expected %s\n", option, value, expected);
    return EXIT_USAGE;
}

static bool parse_integer(const char *text, int64_t least, int64_t most, int64_t *value)
{
    char *end;
    errno = 0;
    const long long number = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || number < least || number > most)
        return false;
    *value = number;
    return true;
}

static bool parse_real(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*value) && *value >= 0;
}

static bool parse_backend(const char *text, fbn_backend *backend)
{
    static const char *const names[] = {
        [FBN_BACKEND_AUTO] = "auto", [FBN_BACKEND_CPU] = "cpu", [FBN_BACKEND_CUDA] = "cuda"};
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *backend = (fbn_backend)i;
            return true;
        }
    }
    return false;
}

/* Returns 0, EXIT_USAGE, or -1 when the help was printed and nothing is left to do. */
static int parse_options(struct options *o, int argc, char **argv)
{
    enum { DATA, OUTPUT, BACKEND, THREADS, EPOCHS, BATCH, RATE, SEED, HELP };
    static const struct option known[] = {{"data", required_argument, NULL, DATA},
                                          {"output", required_argument, NULL, OUTPUT},
                                          {"backend", required_argument, NULL, BACKEND},
                                          {"threads", required_argument, NULL, THREADS},
                                          {"epochs", required_argument, NULL, EPOCHS},
                                          {"batch", required_argument, NULL, BATCH},
                                          {"rate", required_argument, NULL, RATE},
                                          {"seed", required_argument, NULL, SEED},
                                          {"help", no_argument, NULL, HELP},
                                          {0}};
    *o = (struct options){
        .data = "digits.csv", .output = ".", .epochs = 30, .batch = 64, .seed = 1, .rate = 0.05};

    for (int option, index = 0; (option = getopt_long(argc, argv, "", known, &index)) != -1;) {
        bool good = true;
        const char *expected = "an integer";
        switch (option) {
        case DATA:
            o->data = optarg;
            break;
        case OUTPUT:
            o->output = optarg;
            break;
        case BACKEND:
            expected = "auto, cpu or cuda";
            good = parse_backend(optarg, &o->backend);
            break;
        case THREADS:
            expected = "an integer >= 0";
            good = parse_integer(optarg, 0, INT_MAX, &o->threads);
            break;
        case EPOCHS:
            expected = "an integer >= 1";
            good = parse_integer(optarg, 1, INT_MAX, &o->epochs);
            break;
        case BATCH:
            expected = "an integer >= 2";
            good = parse_integer(optarg, 2, INT_MAX, &o->batch);
            break;
        case RATE:
            expected = "a number >= 0";
            good = parse_real(optarg, &o->rate);
            break;
        case SEED:
            good = parse_integer(optarg, INT64_MIN, INT64_MAX, &o->seed);
            break;
        case HELP:
            print_help(stdout);
            return -1;
        default:
            fputs("Try 'digits --help'.\n", stderr);
            return EXIT_USAGE;
        }
        if (!good)
            return usage(known[index].name, optarg, expected);
    }
    if (optind < argc) {
        fprintf(stderr, "digits: %s: unexpected argument\n", argv[optind]);
        return EXIT_USAGE;
    }
    return 0;
}

/* ------------------------------------------------------------------------------------ training */

/* A bar that moves on a terminal; plain lines in a pipe or a file. */
static void report(int64_t epoch, int64_t epochs, double loss, double percent, bool terminal)
{
    if (terminal) {
        static const char full[BAR_WIDTH + 1] = "==============================";
        const int done = (int)(BAR_WIDTH * epoch / epochs);
        printf("\r\033[Ktraining [%.*s%*s]", done, full, BAR_WIDTH - done, "");
    } else {
        printf("training:");
    }
    printf(" epoch %" PRId64 "/%" PRId64 ", loss %.4f, held-out %.2f %%", epoch, epochs, loss,
           percent);
    if (!terminal || epoch == epochs)
        putchar('\n');
    fflush(stdout);
}

/* What an epoch works with. */
struct trainer {
    struct net *net;
    const struct digits *digits;
    int64_t *order;  /* [digits->count] */
    float *pixels;   /* [batch, 64]: the batch's images, gathered */
    int64_t *labels; /* [batch] */
    int64_t batch;
    int64_t steps; /* made so far */
    double loss;   /* the last epoch's mean */
};

/* Every image once, in random order. A last image on its own is left out: batch statistics need
 * two. */
static int train_epoch(struct trainer *t, double rate, uint64_t *random)
{
    double sum = 0, loss;
    int64_t seen = 0;
    random_permutation(t->order, t->digits->count, random);
    while (t->digits->count - seen >= 2) {
        const int64_t left = t->digits->count - seen;
        const int64_t count = left < t->batch ? left : t->batch;
        for (int64_t i = 0; i < count; i++) {
            const int64_t image = t->order[seen + i];
            memcpy(t->pixels + i * DIGITS_PIXELS, t->digits->pixels + image * DIGITS_PIXELS,
                   DIGITS_PIXELS * sizeof(float));
            t->labels[i] = t->digits->labels[image];
        }
        if (net_train(t->net, t->pixels, t->labels, count, rate, momentum, &loss) != 0)
            return -1;
        sum += loss * (double)count;
        seen += count;
        t->steps++;
    }
    t->loss = sum / (double)seen;
    return 0;
}

static int train(const struct options *o, struct net *net, const struct digits *digits,
                 const struct digits *held_out, uint64_t *random)
{
    const double pi = 3.14159265358979323846;
    const bool terminal = isatty(STDOUT_FILENO) != 0;
    int result = -1;
    int64_t right = 0;
    double seconds = 0;
    struct trainer t = {.net = net, .digits = digits, .batch = o->batch};

    t.order = calloc((size_t)digits->count, sizeof *t.order);
    t.pixels = calloc((size_t)o->batch, DIGITS_PIXELS * sizeof *t.pixels);
    t.labels = calloc((size_t)o->batch, sizeof *t.labels);
    if (t.order == NULL || t.pixels == NULL || t.labels == NULL) {
        fprintf(stderr, "digits: no memory for batches of %" PRId64 "\n", o->batch);
        goto out;
    }
    for (int64_t i = 0; i < digits->count; i++)
        t.order[i] = i;

    for (int64_t epoch = 0; epoch < o->epochs; epoch++) {
        const double rate = o->rate * (1 + cos(pi * (double)epoch / (double)o->epochs)) / 2;
        const double before = seconds_now();
        if (train_epoch(&t, rate, random) != 0)
            goto out;
        seconds += seconds_now() - before;
        if (net_score(net, held_out, &right) != 0)
            goto out;
        report(epoch + 1, o->epochs, t.loss, 100 * (double)right / (double)held_out->count,
               terminal);
    }
    printf("held-out images right: %" PRId64 " of %" PRId64 "\n", right, held_out->count);
    printf("time a batch, training %" PRId64 " images: %.0f us (forward, backward, update)\n",
           o->batch, 1e6 * seconds / (double)t.steps);
    result = 0;
out:
    free(t.labels);
    free(t.pixels);
    free(t.order);
    return result;
}

/* ---------------------------------------------------------------------------------------- files */

static int join_path(char *path, const char *directory, const char *name)
{
    const int length = snprintf(path, PATH_CAPACITY, "%s/%s", directory, name);
    if (length >= 0 && length < PATH_CAPACITY)
        return 0;
    fprintf(stderr, "digits: %s: the path is too long\n", directory);
    return -1;
}

static int write_files(const char *directory, struct net *net, const struct digits *held_out)
{
    char path[PATH_CAPACITY];
    const struct file_tensor images = {.dtype = "F32",
                                       .ndim = 2,
                                       .shape = {held_out->count, DIGITS_PIXELS},
                                       .data = held_out->pixels};
    const struct file_tensor labels = {
        .dtype = "I64", .ndim = 1, .shape = {held_out->count}, .data = held_out->labels};

    if (join_path(path, directory, "heldout.npy") != 0 || npy_write(path, &images) != 0 ||
        join_path(path, directory, "labels.npy") != 0 || npy_write(path, &labels) != 0 ||
        join_path(path, directory, "model.safetensors") != 0 || net_save(net, path) != 0)
        return -1;
    printf("wrote model.safetensors, heldout.npy and labels.npy to %s\n", directory);
    return 0;
}

int main(int argc, char **argv)
{
    int result = EXIT_FAILURE;
    struct options o;
    struct digits digits = {0}, held_out = {0};
    struct net net = {0};
    fbn_context *context = NULL;
    fbn_context_options context_options;
    double serving;

    const int parsed = parse_options(&o, argc, argv);
    if (parsed != 0)
        return parsed > 0 ? parsed : EXIT_SUCCESS;
    uint64_t random = (uint64_t)o.seed;

    fbn_context_options_init(&context_options, sizeof context_options);
    context_options.backend = o.backend;
    context_options.threads = (int)o.threads;
    if (net_check(fbn_context_create(&context, &context_options), "fbn_context_create") != 0 ||
        digits_read(&digits, o.data) != 0 ||
        digits_hold_out(&digits, &held_out, HELD_OUT, &random) != 0)
        goto out;
    printf("%s\n%" PRId64 " images to train on, %" PRId64 " held out\n",
           fbn_context_describe(context), digits.count, held_out.count);

    if (net_create(&net, context, o.batch, &random) != 0 ||
        train(&o, &net, &digits, &held_out, &random) != 0 ||
        net_time_serving(&net, &held_out, &serving) != 0)
        goto out;
    printf("time a batch, serving %" PRId64 " images: %.0f us\n", held_out.count, 1e6 * serving);
    if (write_files(o.output, &net, &held_out) != 0)
        goto out;
    if (fflush(stdout) != 0) {
        fprintf(stderr, "digits: standard output: %s\n", strerror(errno));
        goto out;
    }
    result = EXIT_SUCCESS;
out:
    net_destroy(&net);
    fbn_context_destroy(context);
    digits_free(&held_out);
    digits_free(&digits);
    return result;
}
