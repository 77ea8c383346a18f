/* SPDX-License-Identifier: BSD-3-Clause
 * Running the command: processes, directories, files.
 */
#define _XOPEN_SOURCE 700
#include "tool_harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char *command_path;
static char directory[64];

void find_command(void)
{
    const char *given = getenv("FUSEDBN_COMMAND");

    command_path = realpath(given != NULL ? given : "./fusedbn", NULL);
    if (command_path == NULL) {
        perror(given != NULL ? given : "./fusedbn");
        exit(99); /* Automake's status for a test that could not be set up */
    }
}

void make_directory(void)
{
    strcpy(directory, "test_tool.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

void remove_directory(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    ck_assert_int_eq(system(command), 0);
}

struct path in_directory(const char *name)
{
    struct path p;

    snprintf(p.text, sizeof p.text, "%s/%s", directory, name);
    return p;
}

static int is_shown(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

struct path list_directory(void)
{
    struct dirent **entries;
    struct path list = {""};
    size_t used = 0;
    int count = scandir(directory, &entries, is_shown, alphasort);

    ck_assert_int_ge(count, 0);
    for (int i = 0; i < count; i++) {
        size_t length = strlen(entries[i]->d_name);

        ck_assert_uint_lt(used + length + 2, sizeof list.text);
        memcpy(list.text + used, entries[i]->d_name, length);
        used += length;
        list.text[used++] = i + 1 < count ? ' ' : '\0';
        free(entries[i]);
    }
    free(entries);
    return list;
}

static void read_stream(FILE *file, char *text, size_t size)
{
    size_t used;

    rewind(file);
    used = fread(text, 1, size, file);
    ck_assert_uint_lt(used, size);
    text[used] = '\0';
    fclose(file);
}

/* The child's part: never returns. */
static void become_command(char *arguments, int out, int err, long limit)
{
    char *argv[64] = {command_path};
    int argc = 1;
    struct rlimit size;

    for (char *word = strtok(arguments, " "); word != NULL && argc < 63; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    if (limit > 0 && getrlimit(RLIMIT_FSIZE, &size) == 0) {
        size.rlim_cur = (rlim_t)limit;
        setrlimit(RLIMIT_FSIZE, &size);
    }
    if (dup2(out, STDOUT_FILENO) >= 0 && dup2(err, STDERR_FILENO) >= 0 && chdir(directory) == 0) {
        execv(command_path, argv);
    }
    _exit(126);
}

static void run_words(struct outcome *outcome, const char *device, long limit,
                      const char *arguments)
{
    char words[2048];
    FILE *out = device != NULL ? fopen(device, "r+") : tmpfile(), *err = tmpfile();
    pid_t child;
    int status;

    ck_assert_uint_lt(strlen(arguments), sizeof words);
    strcpy(words, arguments);
    ck_assert(out != NULL && err != NULL);
    fflush(NULL);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        become_command(words, fileno(out), fileno(err), limit);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    outcome->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome->out[0] = '\0';
    if (device != NULL) {
        fclose(out);
    } else {
        read_stream(out, outcome->out, sizeof outcome->out);
    }
    read_stream(err, outcome->err, sizeof outcome->err);
}

void run_command(struct outcome *outcome, const char *format, ...)
{
    char arguments[2048];
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    ck_assert(length >= 0 && (size_t)length < sizeof arguments);
    run_words(outcome, NULL, 0, arguments);
}

void run_limited(struct outcome *outcome, long limit, const char *arguments)
{
    run_words(outcome, NULL, limit, arguments);
}

void run_into(struct outcome *outcome, const char *device, const char *arguments)
{
    run_words(outcome, device, 0, arguments);
}

void check_silent(const struct outcome *outcome)
{
    ck_assert_msg(outcome->status == 0, "status %d: %s", outcome->status, outcome->err);
    ck_assert_str_eq(outcome->out, "");
    ck_assert_str_eq(outcome->err, "");
}

void write_set(const char *name, const struct tensor_set *set)
{
    struct replacement r;
    struct file_error err;

    ck_assert_msg(tensor_file_write(in_directory(name).text, set, &r, &err) == FILE_OK &&
                      replacement_commit(&r, &err) == FILE_OK,
                  "%s: %s", name, err.text);
}

void read_set(const char *name, struct tensor_set *set)
{
    struct file_error err;

    ck_assert_msg(tensor_file_read(in_directory(name).text, set, &err) == FILE_OK, "%s: %s", name,
                  err.text);
}

unsigned char *read_file(const char *name, size_t *size)
{
    FILE *file = fopen(in_directory(name).text, "rb");
    unsigned char *bytes = malloc(65536);

    ck_assert_msg(file != NULL && bytes != NULL, "%s cannot be opened", name);
    *size = fread(bytes, 1, 65536, file);
    ck_assert_uint_lt(*size, 65536);
    fclose(file);
    return bytes;
}
