/* SPDX-License-Identifier: BSD-3-Clause
 * The benchmark's command line: which cases, in which dtypes, how long, printed how.
 */
#include "bench_cuda.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

enum { EXIT_USAGE = 2, DTYPES = 4 };

struct options {
    const char *cases;  /* parts of names, separated by commas; NULL: the usual ones */
    const char *kernel; /* NULL: the fastest */
    const char *commit;
    const char *dtype_text; /* NULL: all */
    bool dtypes[DTYPES];
    struct cuda_options cuda;
    fbn_backend backend;
    enum format format;
    int64_t threads, rounds;
    bool list, strict;
};

static void print_help(void)
{
    fputs(
        "Usage: bench [OPTION]...\n"
        "\n"
        "Verifies the library's layers against a naive computation in double, then times them\n"
        "in turns with the bare product, the unfused computation and, on the CPU, the memory\n"
        "traffic.\n"
        "\n"
        "  --case NAME,...   cases whose names contain one of these, or all (default: those\n"
        "                    that have a bound)\n"
        "  --dtype T,...     f32, f64, bf16, f16 (default: all)\n"
        "  --threads N       threads for the library and its peers (default: OpenMP's choice)\n"
        "  --repeat N        rounds (default: as many as take two seconds a case, at least 11)\n"
        "  --kernel NAME     force this row of the kernel table\n"
        "  --backend NAME    auto, cpu, cuda (default: cpu); cuda has cases of its own, and tf32\n"
        "                    beside the dtypes\n"
        "  --sweep A:B       cuda: the chosen cases' layers over batches from A to B\n"
        "  --accuracy        cuda: how far x W^T is off on data of several kinds, and cuBLAS's\n"
        "  --format NAME     table, csv, json (default: table)\n"
        "  --commit TEXT     name the sources' commit in the output\n"
        "  --list            list the cases and the kernel rows, and exit\n"
        "  --strict          exit with 1 when a bound is missed\n"
        "  --help            print this and exit\n"
        "\n"
        "Exit status: 0; 1 when a result is wrong or something failed; 2 for wrong usage.\n",
        stdout);
}

/* --------------------------------------------------------------------------------- command line */

static int usage(const char *option, const char *value, const char *expected)
{
    fprintf(stderr, "bench: --%s %s: expected %s\n", option, value, expected);
    return EXIT_USAGE;
}

/* The place of a text among count names, -1 where it is none of them. */
static int find_name(const char *text, size_t length, const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (strlen(names[i]) == length && strncmp(text, names[i], length) == 0)
            return i;
    return -1;
}

static bool parse_dtypes(const char *text, bool *dtypes)
{
    const char *names[DTYPES];
    for (int i = 0; i < DTYPES; i++) {
        names[i] = dtype_name((fbn_dtype)i);
        dtypes[i] = false;
    }
    for (;; text++) {
        const size_t length = strcspn(text, ",");
        const int dtype = find_name(text, length, names, DTYPES);
        if (dtype < 0)
            return false;
        dtypes[dtype] = true;
        text += length;
        if (*text == '\0')
            return true;
    }
}

static bool parse_integer(const char *text, int64_t least, int64_t *value);

/* "A:B", 1 <= A <= B. */
static bool parse_range(const char *text, int64_t *first, int64_t *last)
{
    char part[32];
    const size_t length = strcspn(text, ":");
    if (text[length] == '\0' || length >= sizeof part)
        return false;
    snprintf(part, sizeof part, "%.*s", (int)length, text);
    return parse_integer(part, 1, first) && parse_integer(text + length + 1, *first, last);
}

static bool parse_integer(const char *text, int64_t least, int64_t *value)
{
    char *end;
    errno = 0;
    const long long number = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || number < least || number > INT_MAX)
        return false;
    *value = number;
    return true;
}

/* Returns 0, EXIT_USAGE, or -1 when the help was printed and nothing is left to do. */
static int parse_options(struct options *o, int argc, char **argv)
{
    static const char *const backends[] = {"auto", "cpu", "cuda"};
    static const char *const formats[] = {"table", "csv", "json"};
    static const struct option known[] = {
        {"case", required_argument, NULL, 'c'},    {"dtype", required_argument, NULL, 'd'},
        {"threads", required_argument, NULL, 't'}, {"repeat", required_argument, NULL, 'r'},
        {"kernel", required_argument, NULL, 'k'},  {"backend", required_argument, NULL, 'b'},
        {"format", required_argument, NULL, 'f'},  {"commit", required_argument, NULL, 'g'},
        {"sweep", required_argument, NULL, 'S'},   {"accuracy", no_argument, NULL, 'a'},
        {"list", no_argument, NULL, 'l'},          {"strict", no_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},          {0}};

    *o = (struct options){.dtypes = {true, true, true, true}, .backend = FBN_BACKEND_CPU};
    for (int option, index = 0; (option = getopt_long(argc, argv, "", known, &index)) != -1;) {
        const char *expected = NULL;
        int name = 0;
        switch (option) {
        case 'c':
            o->cases = optarg;
            break;
        case 'd':
            o->dtype_text = optarg;
            break;
        case 't':
            expected = parse_integer(optarg, 1, &o->threads) ? NULL : "a number >= 1";
            break;
        case 'r':
            expected = parse_integer(optarg, 1, &o->rounds) ? NULL : "a number >= 1";
            break;
        case 'k':
            o->kernel = optarg;
            break;
        case 'b':
            name = find_name(optarg, strlen(optarg), backends, 3);
            expected = name < 0 ? "auto, cpu or cuda" : NULL;
            o->backend = (fbn_backend)name;
            break;
        case 'f':
            name = find_name(optarg, strlen(optarg), formats, 3);
            expected = name < 0 ? "table, csv or json" : NULL;
            o->format = (enum format)name;
            break;
        case 'g':
            o->commit = *optarg != '\0' ? optarg : NULL;
            break;
        case 'S':
            expected = parse_range(optarg, &o->cuda.sweep_first, &o->cuda.sweep_last)
                           ? NULL
                           : "two numbers A:B";
            break;
        case 'a':
            o->cuda.accuracy = true;
            break;
        case 'l':
            o->list = true;
            break;
        case 's':
            o->strict = true;
            break;
        case 'h':
            print_help();
            return -1;
        default:
            fputs("Try 'bench --help'.\n", stderr);
            return EXIT_USAGE;
        }
        if (expected != NULL)
            return usage(known[index].name, optarg, expected);
    }
    if (optind == argc)
        return 0;
    fprintf(stderr, "bench: %s: unexpected argument\n", argv[optind]);
    return EXIT_USAGE;
}

/* --------------------------------------------------------------------------------------- cases */

static void list(const fbn_context *context)
{
    const char *refusal, *kernel;
    const bool cuda = fbn_context_backend(context) == FBN_BACKEND_CUDA;
    puts("cases (* runs without --case):");
    if (cuda)
        list_cuda_cases();
    for (int i = 0; i < bench_case_count && !cuda; i++) {
        const struct bench_case *c = &bench_cases[i];
        printf("%c %-31s %s, %s%s\n", c->usual ? '*' : ' ', c->name, chain_name(c->chain),
               operation_name(c->operation), c->cold ? ", caches emptied" : "");
    }
    puts("kernel rows:");
    for (int64_t i = 0; (kernel = fbn_context_kernel(context, i, &refusal)) != NULL; i++)
        printf("  %s%s%s\n", kernel, refusal ? ": " : "", refusal ? refusal : "");
}

/* The library and its peers run on equally many threads. */
extern void openblas_set_num_threads(int threads) __attribute__((weak));

static void set_threads(int threads)
{
#ifdef _OPENMP
    omp_set_dynamic(0); /* the sums of the unfused computation count on equal teams */
    if (threads > 0)
        omp_set_num_threads(threads);
#endif
    if (threads == 0)
        return;
    if (openblas_set_num_threads)
        openblas_set_num_threads(threads);
}

static int run_cases(struct options *o, fbn_context *context)
{
    struct machine machine;
    struct report report = {.file = stdout, .format = o->format};
    int result = EXIT_SUCCESS, chosen = 0;

    if (o->cuda.accuracy || o->cuda.sweep_last > 0) {
        fputs("bench: --sweep and --accuracy need --backend cuda\n", stderr);
        return EXIT_USAGE;
    }
    if (o->dtype_text != NULL && !parse_dtypes(o->dtype_text, o->dtypes))
        return usage("dtype", o->dtype_text, "f32, f64, bf16, f16");
    machine_describe(&machine, context, o->commit);
    if (fbn_context_backend(context) == FBN_BACKEND_CPU &&
        (measure_peak(FBN_F32, &machine.peak[FBN_F32]) != 0 ||
         measure_peak(FBN_F64, &machine.peak[FBN_F64]) != 0))
        return EXIT_FAILURE;
    report_begin(&report, &machine);
    for (int i = 0; i < bench_case_count; i++) {
        if (!case_is_chosen(&bench_cases[i], o->cases))
            continue;
        chosen++;
        for (int dtype = 0; dtype < DTYPES; dtype++) {
            struct result r;
            if (!o->dtypes[dtype])
                continue;
            const double peak = machine.peak[param_type_of((fbn_dtype)dtype)];
            const int status = run_contest(&r, context, &bench_cases[i], (fbn_dtype)dtype,
                                           o->kernel, o->rounds, peak);
            if (status > 0)
                continue;
            if (status < 0)
                return EXIT_FAILURE;
            report_result(&report, &r);
            if (!r.verdict.good || (o->strict && r.standing == MISSED))
                result = EXIT_FAILURE;
        }
    }
    report_end(&report);
    if (chosen == 0) {
        fprintf(stderr, "bench: --case %s: no such case; --list lists them\n", o->cases);
        return EXIT_USAGE;
    }
    return result;
}

static int run_on_cuda(struct options *o, fbn_context *context)
{
    if (o->format != FORMAT_TABLE) {
        fputs("bench: --format: on cuda there is only the table\n", stderr);
        return EXIT_USAGE;
    }
    o->cuda.cases = o->cases;
    o->cuda.dtypes = o->dtype_text;
    o->cuda.kernel = o->kernel;
    o->cuda.commit = o->commit;
    o->cuda.rounds = o->rounds;
    return run_cuda(&o->cuda, context);
}

int main(int argc, char **argv)
{
    struct options o;
    fbn_context *context = NULL;
    fbn_context_options context_options;
    int result = EXIT_SUCCESS;

    const int parsed = parse_options(&o, argc, argv);
    if (parsed != 0)
        return parsed > 0 ? parsed : EXIT_SUCCESS;
    set_threads((int)o.threads);
    fbn_context_options_init(&context_options, sizeof context_options);
    context_options.backend = o.backend;
    context_options.threads = (int)o.threads;
    const fbn_status status = fbn_context_create(&context, &context_options);
    if (status != FBN_OK) {
        fprintf(stderr, "bench: %s: %s\n", fbn_status_string(status), fbn_last_error());
        return EXIT_FAILURE;
    }
    if (o.list)
        list(context);
    else if (fbn_context_backend(context) == FBN_BACKEND_CUDA)
        result = run_on_cuda(&o, context);
    else
        result = run_cases(&o, context);
    evict_caches_free();
    fbn_context_destroy(context);
    if (fflush(stdout) != 0) {
        perror("bench: standard output");
        result = EXIT_FAILURE;
    }
    return result;
}
