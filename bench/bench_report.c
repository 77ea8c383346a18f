/* SPDX-License-Identifier: BSD-3-Clause
 * What the benchmark prints: a table for people, CSV and JSON for programs.
 */
#include "bench.h"

#include <inttypes.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown"
#endif

const char *standing_name(enum standing standing)
{
    static const char *const names[] = {[NO_BOUND] = "no bound",
                                        [MET] = "met",
                                        [WITHIN_NOISE] = "met within noise",
                                        [MISSED] = "MISSED"};
    return names[standing];
}

/* ------------------------------------------------------------------------------------- machine */

/* There where the BLAS is OpenBLAS. */
extern char *openblas_get_config(void) __attribute__((weak));
extern char *openblas_get_corename(void) __attribute__((weak));

/* The first "model name" of /proc/cpuinfo. */
static void find_processor(char *text, size_t capacity)
{
    char line[256];
    snprintf(text, capacity, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value != NULL) {
            snprintf(text, capacity, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
            break;
        }
    }
    if (file != NULL)
        fclose(file);
}

void machine_describe(struct machine *machine, const fbn_context *context, const char *commit)
{
    memset(machine, 0, sizeof *machine);
    find_processor(machine->processor, sizeof machine->processor);
    snprintf(machine->blas, sizeof machine->blas, "unknown");
    if (openblas_get_config && openblas_get_corename)
        snprintf(machine->blas, sizeof machine->blas, "%s; core %s", openblas_get_config(),
                 openblas_get_corename());
    machine->context = fbn_context_describe(context);
    machine->commit = commit;
#ifdef _OPENMP
    machine->threads = omp_get_max_threads();
#else
    machine->threads = 1;
#endif
}

/* --------------------------------------------------------------------------------------- table */

static void table_begin(FILE *f, const struct machine *m)
{
    fprintf(f, "processor  %s; the peers use %d threads\n", m->processor, m->threads);
    fprintf(f, "library    libfusedbn %s%s%s; %s\n", fbn_version(), m->commit ? ", commit " : "",
            m->commit ? m->commit : "", m->context);
    fprintf(f, "BLAS       %s\n", m->blas);
    fprintf(f, "compiler   " COMPILER "\n");
    if (m->peak[FBN_F32] > 0)
        fprintf(f, "peak       %.0f GFLOP/s f32, %.0f GFLOP/s f64 (product of 1024 x 1024)\n",
                1e-9 * m->peak[FBN_F32], 1e-9 * m->peak[FBN_F64]);
    fputs("\n"
          "Medians of interleaved runs in us, with the layer's quartiles. product: bare CBLAS;\n"
          "unfused: the steps one by one; layer/: the layer's time over that; floor: the products\n"
          "at CBLAS's best rate, or the memory traffic; err: the layer's error as a part of that\n"
          "allowed.\n"
          "\n",
          f);
    fprintf(f, "%-31s %-5s %9s %19s %9s %7s %9s %7s %9s %8s %6s %5s  %s\n", "case", "dtype",
            "layer", "quartiles", "product", "layer/", "unfused", "layer/", "floor", "GFLOP/s",
            "GB/s", "err", "bound");
}

static void table_peer(FILE *f, const struct timing *layer, const struct timing *peer)
{
    if (peer->name == NULL)
        fprintf(f, " %9s %7s", "-", "-");
    else
        fprintf(f, " %9.1f %7.2f", 1e6 * peer->median, layer->median / peer->median);
}

static void table_result(FILE *f, const struct result *r)
{
    const struct bench_case *c = r->bench_case;
    const struct timing *layer = &r->timings[LAYER];
    char quartiles[32];

    fprintf(f, "%-31s %-5s", c->name, dtype_name(r->dtype));
    if (!r->verdict.good) {
        fprintf(f, " WRONG: %s is off by %g, allowed are %g\n", tensor_name(r->verdict.worst),
                r->verdict.error, r->verdict.allowed);
        return;
    }
    snprintf(quartiles, sizeof quartiles, "%.1f..%.1f", 1e6 * layer->quartile1,
             1e6 * layer->quartile3);
    fprintf(f, " %9.1f %19s", 1e6 * layer->median, quartiles);
    table_peer(f, layer, &r->timings[PRODUCT]);
    table_peer(f, layer, &r->timings[UNFUSED]);
    fprintf(f, " %9.1f %8.1f %6.1f %5.2f", 1e6 * r->floor, 1e-9 * case_flops(c) / layer->median,
            1e-9 * case_bytes(c, r->dtype) / layer->median,
            r->verdict.allowed > 0 ? r->verdict.error / r->verdict.allowed : 0);
    if (r->standing != NO_BOUND)
        fprintf(f, "  %.2f %s%s, at most %.2f: %s", r->measured,
                strcmp(r->bound_to, "us") == 0 ? "" : "x ", r->bound_to, r->bound,
                standing_name(r->standing));
    fputc('\n', f);
}

/* ----------------------------------------------------------------------------------------- CSV */

static void csv_begin(FILE *f, const struct machine *m)
{
    fprintf(f,
            "# processor: %s; threads: %d; library: %s; commit: %s; context: %s; BLAS: %s; "
            "compiler: " COMPILER "\n",
            m->processor, m->threads, fbn_version(), m->commit ? m->commit : "unknown", m->context,
            m->blas);
    fputs("case,operation,chain,batch,in,out,cold,dtype,contestant,rounds,inner,minimum_us,"
          "quartile1_us,median_us,quartile3_us,gflops,gbytes_per_s,floor_us,verified,measured,"
          "bound,bound_to,standing\n",
          f);
}

static void csv_result(FILE *f, const struct result *r)
{
    const struct bench_case *c = r->bench_case;
    for (int k = 0; k < CONTESTANTS; k++) {
        const struct timing *t = &r->timings[k];
        if (t->name == NULL && k != LAYER)
            continue;
        fprintf(f, "%s,%s,%s,%" PRId64 ",%" PRId64 ",%" PRId64 ",%d,%s,%s", c->name,
                operation_name(c->operation), chain_name(c->chain), c->batch, c->in, c->out,
                c->cold, dtype_name(r->dtype), t->name ? t->name : "layer");
        if (t->name == NULL) {
            fputs(",,,,,,,,,,no,,,,\n", f);
            continue;
        }
        fprintf(f, ",%" PRId64 ",%" PRId64 ",%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,yes", t->rounds,
                t->inner, 1e6 * t->minimum, 1e6 * t->quartile1, 1e6 * t->median, 1e6 * t->quartile3,
                1e-9 * case_flops(c) / t->median, 1e-9 * case_bytes(c, r->dtype) / t->median,
                1e6 * r->floor);
        if (k == LAYER && r->standing != NO_BOUND)
            fprintf(f, ",%.4f,%.4f,%s,%s\n", r->measured, r->bound, r->bound_to,
                    standing_name(r->standing));
        else
            fputs(",,,,\n", f);
    }
}

/* ---------------------------------------------------------------------------------------- JSON */

static void json_string(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            fprintf(f, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            fprintf(f, "\\u%04x", (unsigned)(unsigned char)*text);
        else
            fputc(*text, f);
    }
    fputc('"', f);
}

static void json_member(FILE *f, const char *key, const char *text)
{
    fprintf(f, ", \"%s\": ", key);
    if (text == NULL)
        fputs("null", f);
    else
        json_string(f, text);
}

static void json_begin(FILE *f, const struct machine *m)
{
    fprintf(f,
            "{\n\"machine\": {\"threads\": %d, \"peak_gflops_f32\": %.1f, "
            "\"peak_gflops_f64\": %.1f",
            m->threads, 1e-9 * m->peak[FBN_F32], 1e-9 * m->peak[FBN_F64]);
    json_member(f, "processor", m->processor);
    json_member(f, "library", fbn_version());
    json_member(f, "commit", m->commit);
    json_member(f, "context", m->context);
    json_member(f, "blas", m->blas);
    json_member(f, "compiler", COMPILER);
    fputs("},\n\"results\": [", f);
}

static void json_timings(FILE *f, const struct result *r)
{
    const char *separator = "";
    fputs(",\n  \"timings\": [", f);
    for (int k = 0; k < CONTESTANTS; k++) {
        const struct timing *t = &r->timings[k];
        if (t->name == NULL)
            continue;
        fprintf(f,
                "%s\n    {\"contestant\": \"%s\", \"rounds\": %" PRId64 ", \"inner\": %" PRId64
                ", \"minimum_us\": %.3f, \"quartile1_us\": %.3f, \"median_us\": %.3f, "
                "\"quartile3_us\": %.3f, \"gflops\": %.3f, \"gbytes_per_s\": %.3f}",
                separator, t->name, t->rounds, t->inner, 1e6 * t->minimum, 1e6 * t->quartile1,
                1e6 * t->median, 1e6 * t->quartile3, 1e-9 * case_flops(r->bench_case) / t->median,
                1e-9 * case_bytes(r->bench_case, r->dtype) / t->median);
        separator = ",";
    }
    fputc(']', f);
}

static void json_result(FILE *f, const struct result *r, bool first)
{
    const struct bench_case *c = r->bench_case;
    fprintf(f,
            "%s\n {\"case\": \"%s\", \"operation\": \"%s\", \"chain\": \"%s\", \"batch\": %" PRId64
            ", \"in\": %" PRId64 ", \"out\": %" PRId64 ", \"cold\": %s, \"dtype\": \"%s\"",
            first ? "" : ",", c->name, operation_name(c->operation), chain_name(c->chain), c->batch,
            c->in, c->out, c->cold ? "true" : "false", dtype_name(r->dtype));
    json_member(f, "layer", r->description);
    fprintf(f, ",\n  \"verified\": %s", r->verdict.good ? "true" : "false");
    json_member(f, "worst_result", tensor_name(r->verdict.worst));
    if (r->verdict.error <= 1e300) /* JSON has no infinity */
        fprintf(f, ", \"error\": %g, \"allowed\": %g", r->verdict.error, r->verdict.allowed);
    if (r->verdict.good) {
        json_timings(f, r);
        fprintf(f, ",\n  \"floor_us\": %.3f", 1e6 * r->floor);
        if (r->standing != NO_BOUND)
            fprintf(f, ", \"measured\": %.4f, \"bound\": %.4f", r->measured, r->bound);
        json_member(f, "bound_to", r->bound_to);
        json_member(f, "standing", standing_name(r->standing));
    }
    fputc('}', f);
}

/* ------------------------------------------------------------------------------------------ all */

void report_begin(struct report *r, const struct machine *machine)
{
    r->results = 0;
    if (r->format == FORMAT_TABLE)
        table_begin(r->file, machine);
    else if (r->format == FORMAT_CSV)
        csv_begin(r->file, machine);
    else
        json_begin(r->file, machine);
    fflush(r->file);
}

void report_result(struct report *r, const struct result *result)
{
    if (r->format == FORMAT_TABLE)
        table_result(r->file, result);
    else if (r->format == FORMAT_CSV)
        csv_result(r->file, result);
    else
        json_result(r->file, result, r->results == 0);
    r->results++;
    fflush(r->file);
}

void report_end(struct report *r)
{
    if (r->format == FORMAT_JSON)
        fputs("\n]\n}\n", r->file);
}
