/* SPDX-License-Identifier: BSD-3-Clause
 * The command line: one table of options, each with the commands that take it.
 */
#include "options.h"
#include "tensor_file.h"

#include <float.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN (1u << COMMAND_RUN)
#define FOLD (1u << COMMAND_FOLD)
#define INFO (1u << COMMAND_INFO)

static const char *const command_names[] = {
    [COMMAND_RUN] = "run", [COMMAND_FOLD] = "fold", [COMMAND_INFO] = "info"};

enum option_id {
    OPTION_CHAIN,
    OPTION_MODE,
    OPTION_MODEL,
    OPTION_PREFIX,
    OPTION_INPUT,
    OPTION_OUTPUT,
    OPTION_SAVE_MODEL,
    OPTION_BACKEND,
    OPTION_DTYPE,
    OPTION_MATH,
    OPTION_ACTIVATION,
    OPTION_EPS,
    OPTION_MOMENTUM,
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_COUNT
};

static const struct {
    const char *name;
    int has_value;
    unsigned commands; /* those that take it */
    unsigned required; /* those that cannot do without */
} specs[OPTION_COUNT] = {
    [OPTION_CHAIN] = {"chain", 1, RUN | FOLD, RUN | FOLD},
    [OPTION_MODE] = {"mode", 1, RUN, RUN},
    [OPTION_MODEL] = {"model", 1, RUN | FOLD, RUN | FOLD},
    [OPTION_PREFIX] = {"prefix", 1, RUN | FOLD, 0},
    [OPTION_INPUT] = {"input", 1, RUN, RUN},
    [OPTION_OUTPUT] = {"output", 1, RUN | FOLD, RUN | FOLD},
    [OPTION_SAVE_MODEL] = {"save-model", 1, RUN, 0},
    [OPTION_BACKEND] = {"backend", 1, RUN | FOLD, 0},
    [OPTION_DTYPE] = {"dtype", 1, RUN | FOLD, 0},
    [OPTION_MATH] = {"math", 1, RUN, 0},
    [OPTION_ACTIVATION] = {"activation", 1, RUN, 0},
    [OPTION_EPS] = {"eps", 1, RUN | FOLD, 0},
    [OPTION_MOMENTUM] = {"momentum", 1, RUN, 0},
    [OPTION_HELP] = {"help", 0, RUN | FOLD | INFO, 0},
    [OPTION_VERSION] = {"version", 0, RUN | FOLD | INFO, 0},
};

/* A word that an option takes, and what it stands for; the list ends with a NULL name. */
struct choice {
    const char *name;
    int value;
};

static const struct choice chains[] = {{"linear-scale-bn", CHAIN_LINEAR_SCALE_BN},
                                       {"linear-bn-scale-softmax", CHAIN_LINEAR_BN_SCALE_SOFTMAX},
                                       {NULL, 0}};
static const struct choice modes[] = {{"train", 1}, {"infer", 0}, {NULL, 0}};
static const struct choice backends[] = {
    {"auto", FBN_BACKEND_AUTO}, {"cpu", FBN_BACKEND_CPU}, {"cuda", FBN_BACKEND_CUDA}, {NULL, 0}};
static const struct choice dtypes[] = {
    {"f64", DT_F64}, {"f32", DT_F32}, {"bf16", DT_BF16}, {"f16", DT_F16}, {NULL, 0}};
static const struct choice maths[] = {{"fp32", FBN_MATH_FP32}, {"tf32", FBN_MATH_TF32}, {NULL, 0}};
static const struct choice activations[] = {{"none", FBN_ACT_NONE},
                                            {"relu", FBN_ACT_RELU},
                                            {"gelu", FBN_ACT_GELU},
                                            {"silu", FBN_ACT_SILU},
                                            {"softmax", FBN_ACT_SOFTMAX},
                                            {"log_softmax", FBN_ACT_LOG_SOFTMAX},
                                            {NULL, 0}};

/* The parse in progress: where messages come from, and which options have been seen. */
struct parse {
    struct options *options;
    const char *command;
    unsigned seen;
};

static bool wrong(const struct parse *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Says what is wrong with the command line; returns false. */
static bool wrong(const struct parse *p, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "fusedbn %s: ", p->command);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nTry 'fusedbn %s --help'.\n", p->command);
    return false;
}

static bool choose(const struct parse *p, enum option_id id, const char *word,
                   const struct choice *choices, int *value)
{
    char known[160] = "";

    for (const struct choice *c = choices; c->name != NULL; c++) {
        size_t used = strlen(known);

        if (strcmp(c->name, word) == 0) {
            *value = c->value;
            return true;
        }
        snprintf(known + used, sizeof known - used, "%s%s", used > 0 ? ", " : "", c->name);
    }
    return wrong(p, "--%s is '%s', but must be one of %s", specs[id].name, word, known);
}

static bool parse_number(const struct parse *p, enum option_id id, const char *word, double most,
                         const char *range, double *value)
{
    char *end;

    *value = strtod(word, &end);
    if (end == word || *end != '\0' || !(*value >= 0 && *value <= most)) {
        return wrong(p, "--%s is '%s', but must be %s", specs[id].name, word, range);
    }
    return true;
}

static bool take_option(struct parse *p, enum option_id id, const char *value)
{
    struct options *o = p->options;
    int chosen = 0;
    bool ok = true;

    switch (id) {
    case OPTION_CHAIN:
        ok = choose(p, id, value, chains, &chosen);
        o->chain = (enum chain)chosen;
        break;
    case OPTION_MODE:
        ok = choose(p, id, value, modes, &chosen);
        o->train = chosen != 0;
        break;
    case OPTION_MODEL:
        o->model = value;
        break;
    case OPTION_PREFIX:
        o->prefix = value;
        break;
    case OPTION_INPUT:
        o->input = value;
        break;
    case OPTION_OUTPUT:
        o->output = value;
        break;
    case OPTION_SAVE_MODEL:
        o->save_model = value;
        break;
    case OPTION_BACKEND:
        ok = choose(p, id, value, backends, &chosen);
        o->backend = (fbn_backend)chosen;
        break;
    case OPTION_DTYPE:
        ok = choose(p, id, value, dtypes, &chosen);
        o->dtype = (enum dtype)chosen;
        o->dtype_given = true;
        break;
    case OPTION_MATH:
        ok = choose(p, id, value, maths, &chosen);
        o->math = (fbn_math)chosen;
        break;
    case OPTION_ACTIVATION:
        ok = choose(p, id, value, activations, &chosen);
        o->activation = (fbn_activation)chosen;
        break;
    case OPTION_EPS:
        ok = parse_number(p, id, value, DBL_MAX, "a finite number >= 0", &o->eps);
        break;
    case OPTION_MOMENTUM:
        o->cumulative = strcmp(value, "cumulative") == 0;
        ok = o->cumulative ||
             parse_number(p, id, value, 1, "'cumulative' or a number from 0 to 1", &o->momentum);
        break;
    default:
        break;
    }
    return ok;
}

/* The file's name must have the one ending, or where that is FORMAT_NONE, one of both. */
static bool check_ending(const struct parse *p, enum option_id id, const char *path,
                         enum file_format format)
{
    enum file_format found = path != NULL ? file_format(path) : format;

    if (path == NULL || (found != FORMAT_NONE && (format == FORMAT_NONE || found == format))) {
        return true;
    }
    return wrong(p, "--%s is '%s', but must end in %s", specs[id].name, path,
                 format == FORMAT_NONE ? ".npy or .safetensors" : ".safetensors");
}

/* A file must not be written over another of the same run. (X over itself is taken, and M2 over M:
 * both are read before anything is written.) */
static bool check_distinct(const struct parse *p, enum option_id a, const char *path_a,
                           enum option_id b, const char *path_b)
{
    if (path_a == NULL || path_b == NULL || strcmp(path_a, path_b) != 0) {
        return true;
    }
    return wrong(p, "--%s and --%s are both '%s'", specs[a].name, specs[b].name, path_a);
}

/* What no single option can tell. */
static bool check_together(struct parse *p)
{
    struct options *o = p->options;
    unsigned command = 1u << o->command;

    for (int id = 0; id < OPTION_COUNT; id++) {
        if ((specs[id].required & command) && !(p->seen & 1u << id)) {
            return wrong(p, "--%s is required", specs[id].name);
        }
    }
    if (!(p->seen & 1u << OPTION_ACTIVATION) && o->chain == CHAIN_LINEAR_BN_SCALE_SOFTMAX) {
        o->activation = FBN_ACT_SOFTMAX;
    }
    if (!check_ending(p, OPTION_MODEL, o->model, FORMAT_SAFETENSORS) ||
        !check_ending(p, OPTION_INPUT, o->input, FORMAT_NONE) ||
        !check_ending(p, OPTION_OUTPUT, o->output,
                      o->command == COMMAND_FOLD ? FORMAT_SAFETENSORS : FORMAT_NONE) ||
        !check_ending(p, OPTION_SAVE_MODEL, o->save_model, FORMAT_SAFETENSORS)) {
        return false;
    }
    if (o->save_model != NULL && !o->train) {
        return wrong(p, "--save-model is for --mode train: inference changes nothing in the model");
    }
    if (!check_distinct(p, OPTION_OUTPUT, o->output, OPTION_MODEL, o->model) ||
        !check_distinct(p, OPTION_OUTPUT, o->output, OPTION_SAVE_MODEL, o->save_model) ||
        !check_distinct(p, OPTION_INPUT, o->input, OPTION_SAVE_MODEL, o->save_model)) {
        return false;
    }
    return true;
}

static void print_version(void)
{
    printf("fusedbn %s\n", fbn_version());
}

/* getopt_long() takes any abbreviation that is unique, and so `fold --mode` for `fold --model`; here
 * options are spelt out. */
static bool check_spelling(const struct parse *p, enum option_id id, char **argv)
{
    const char *word = argv[optarg == argv[optind - 1] ? optind - 2 : optind - 1];
    size_t length = strcspn(word, "=");

    if (length == strlen(specs[id].name) + 2) {
        return true;
    }
    return wrong(p, "'%.*s' is no option here", (int)length, word);
}

/* Reads a command's options; argv[0] is the command. */
static bool parse_command(int argc, char **argv, struct parse *p, enum exit_status *status)
{
    struct option longs[OPTION_COUNT + 1];
    int count = 0, id;

    memset(longs, 0, sizeof longs);
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (specs[i].commands & 1u << p->options->command) {
            longs[count++] = (struct option){specs[i].name, specs[i].has_value, NULL, i + 256};
        }
    }
    opterr = 0; /* the messages are ours; ':' tells a missing value from an unknown option */
    while ((id = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
        if (id == ':') {
            return wrong(p, "'%s' needs a value", argv[optind - 1]);
        }
        if (id < 256) {
            return optopt > 0 && optopt < 256
                       ? wrong(p, "'-%c' is no option", optopt)
                       : wrong(p, "'%s' is no option here, or takes no value", argv[optind - 1]);
        }
        id -= 256;
        if (!check_spelling(p, (enum option_id)id, argv)) {
            return false;
        }
        if (id == OPTION_HELP || id == OPTION_VERSION) {
            *status = EXIT_OK;
            (void)(id == OPTION_HELP ? help_command(p->options->command) : print_version());
            return false;
        }
        if (!take_option(p, (enum option_id)id, optarg)) {
            return false;
        }
        p->seen |= 1u << id;
    }
    if (optind < argc) {
        return wrong(p, "'%s' is not expected", argv[optind]);
    }
    return check_together(p);
}

bool options_parse(int argc, char **argv, struct options *options, enum exit_status *status)
{
    struct parse p = {options, "", 0};

    *options = (struct options){.prefix = "", .eps = 1e-5, .momentum = 0.1, .dtype = DT_F32};
    *status = EXIT_USAGE;
    if (argc < 2) {
        fputs("fusedbn: a command is required: run, fold or info\nTry 'fusedbn --help'.\n", stderr);
        return false;
    }
    if (strcmp(argv[1], "--help") == 0) {
        help_general();
        *status = EXIT_OK;
        return false;
    }
    if (strcmp(argv[1], "--version") == 0) {
        print_version();
        *status = EXIT_OK;
        return false;
    }
    for (int i = 0; i < (int)(sizeof command_names / sizeof command_names[0]); i++) {
        if (strcmp(argv[1], command_names[i]) == 0) {
            options->command = (enum command)i;
            p.command = command_names[i];
            return parse_command(argc - 1, argv + 1, &p, status);
        }
    }
    fprintf(stderr,
            "fusedbn: '%s' is no command; there are run, fold and info\nTry 'fusedbn --help'.\n",
            argv[1]);
    return false;
}
