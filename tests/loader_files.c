/* SPDX-License-Identifier: BSD-3-Clause
 *
 * For tests/test_loader.c: modules whose files are cut short, damaged or no files; and where a
 * module is looked for, by copies of this program that are started in places of their own. All
 * files are in a directory of the build tree.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "loader_process.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef HAVE_GETAUXVAL
#include <sys/auxv.h>
#endif

#define SCRATCH MODULE_DIR "/loader_files.tmp"
#define PROGRAM SCRATCH "/program"
#define BESIDE SCRATCH "/" PACKAGE
#define BESIDE_MODULE BESIDE "/fusedbn-cuda.so"
#define SCRATCH_MODULE SCRATCH "/module.so"
#define USABLE MODULE_DIR "/module_usable.so"

/* ---- files ---- */

typedef struct bytes {
    unsigned char *at;
    size_t count;
} bytes;

static bytes read_file(const char *path)
{
    bytes file = {NULL, 0};
    FILE *stream = fopen(path, "rb");

    ck_assert_msg(stream != NULL, "%s: %s", path, strerror(errno));
    ck_assert_int_eq(fseek(stream, 0, SEEK_END), 0);
    file.count = (size_t)ftell(stream);
    file.at = malloc(file.count);
    ck_assert_ptr_nonnull(file.at);
    rewind(stream);
    ck_assert_uint_eq(fread(file.at, 1, file.count, stream), file.count);
    fclose(stream);
    return file;
}

static void write_file(const char *path, const unsigned char *from, size_t count)
{
    FILE *stream = fopen(path, "wb");

    ck_assert_msg(stream != NULL, "%s: %s", path, strerror(errno));
    ck_assert_uint_eq(fwrite(from, 1, count, stream), count);
    ck_assert_int_eq(fclose(stream), 0);
}

static void remove_scratch(void)
{
    unlink(PROGRAM);
    unlink(BESIDE_MODULE);
    unlink(SCRATCH_MODULE);
    rmdir(BESIDE);
    rmdir(SCRATCH);
}

static void make_scratch(void)
{
    remove_scratch();
    ck_assert_int_eq(mkdir(SCRATCH, 0755), 0);
    ck_assert_int_eq(mkdir(BESIDE, 0755), 0);
}

/* ---- files that are no module ---- */

/* Cut short, it is refused or, where only what is not loaded is missing, opened: it ends no
 * process. */
START_TEST(cut_short)
{
    enum { CUTS = 150 };
    static const char *const words[] = {"cannot open", SCRATCH_MODULE};
    const bytes whole = read_file(USABLE);
    int refused = 0;

    make_scratch();
    for (int i = 0; i < CUTS; i++) {
        outcome result;

        write_file(SCRATCH_MODULE, whole.at, whole.count / CUTS * (size_t)i);
        result = with_module(SCRATCH_MODULE, ask);
        if (result.status == FBN_OK)
            continue;
        refused++;
        ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
        expect_words(result.error, words, 2);
    }
    ck_assert_int_gt(refused, 10);
    free(whole.at);
    remove_scratch();
}
END_TEST

/* Bytes of a 64-bit ELF file's header. */
static const struct damage {
    size_t at;
    unsigned char bytes[8];
    size_t count;
} damages[] = {
    {0, "MZ", 2},                                              /* no ELF file */
    {0, "#!/bin/", 8},                                         /* a script */
    {4, {1}, 1},                                               /* e_ident[EI_CLASS]: 32 bits */
    {16, {2, 0}, 2},                                           /* e_type: a program */
    {18, {0xff, 0xff}, 2},                                     /* e_machine: none */
    {32, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8}, /* e_phoff: beyond everything */
    {32, {0, 0, 0, 0x10, 0, 0, 0, 0}, 8},                      /* e_phoff: beyond the end */
    {54, {1, 0}, 2},                                           /* e_phentsize */
    {56, {0xff, 0xff}, 2},                                     /* e_phnum: more than there are */
    {56, {0, 0}, 2},                                           /* e_phnum: none */
    {64 + 8, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0}, 8},   /* p_offset of the first segment */
    {64 + 32, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8}, /* its p_filesz */
};

START_TEST(damaged)
{
    static const char *const words[] = {"cannot open", SCRATCH_MODULE};
    const struct damage *damage = &damages[_i];
    const bytes file = read_file(USABLE);
    outcome result;

    make_scratch();
    memcpy(file.at + damage->at, damage->bytes, damage->count);
    write_file(SCRATCH_MODULE, file.at, file.count);
    result = with_module(SCRATCH_MODULE, ask);
    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    expect_words(result.error, words, 2);
    free(file.at);
    remove_scratch();
}
END_TEST

/* A pipe that nobody writes to would wait for ever. */
START_TEST(named_pipe)
{
    static const char *const words[] = {"no regular file", SCRATCH_MODULE};
    outcome result;

    make_scratch();
    ck_assert_int_eq(mkfifo(SCRATCH_MODULE, 0600), 0);
    result = with_module(SCRATCH_MODULE, ask);
    ck_assert_int_eq(result.status, FBN_ERR_NO_BACKEND);
    expect_words(result.error, words, 2);
    remove_scratch();
}
END_TEST

/* ---- where a module is looked for ---- */

/* The library is in this program, so that "beside the library" is beside a copy of it. */
void answer(void)
{
    bool privileged = false;

#ifdef HAVE_GETAUXVAL
    privileged = getauxval(AT_SECURE) != 0;
#endif
    if (!dlopen(MODULE_DIR "/module_driver.so", RTLD_NOW | RTLD_LOCAL))
        printf("%s\n", dlerror()); /* a privileged program may not be let into the build tree */
    else if (fbn_backend_available(FBN_BACKEND_CUDA) == FBN_OK)
        printf("%davailable\n", privileged);
    else
        printf("%d%s\n", privileged, fbn_last_error());
    fflush(stdout);
    _exit(EXIT_SUCCESS); /* without LeakSanitizer, which a privileged program cannot run */
}

/* Runs the copy as `name`, from its directory, and stores what it says; true if it ended well. */
static bool run_copy(const char *name, const char *variable, char *said, size_t size)
{
    int channel[2], exit_status;
    size_t length = 0;
    ssize_t got;
    pid_t child;

    ck_assert_int_eq(pipe(channel), 0);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        dup2(channel[1], STDOUT_FILENO);
        unsetenv("FUSEDBN_CUDA_MODULE");
        if (variable)
            setenv("FUSEDBN_CUDA_MODULE", variable, 1);
        if (chdir(SCRATCH) == 0)
            execl(PROGRAM, name, "ask", (char *)NULL);
        _exit(EXIT_FAILURE);
    }
    close(channel[1]);
    while (length < size - 1 && (got = read(channel[0], said + length, size - 1 - length)) > 0)
        length += (size_t)got;
    said[length] = '\0';
    close(channel[0]);
    ck_assert_int_eq(waitpid(child, &exit_status, 0), child);
    return exit_status == 0;
}

static void expect_copy(const char *name, const char *variable, char *said, size_t size)
{
    ck_assert_msg(run_copy(name, variable, said, size), "%s failed: %s", name, said);
}

static void make_copies(void)
{
    const bytes program = read_file("/proc/self/exe"), module = read_file(USABLE);

    make_scratch();
    write_file(PROGRAM, program.at, program.count);
    ck_assert_int_eq(chmod(PROGRAM, 0755), 0);
    write_file(BESIDE_MODULE, module.at, module.count);
    free(program.at);
    free(module.at);
}

/* Beside the library is found; but never by a name that starts in the current directory. */
START_TEST(beside_the_library)
{
    char said[600];

    make_copies();
    expect_copy(PROGRAM, NULL, said, sizeof said);
    ck_assert_str_eq(said, "0available\n");
    expect_copy("./program", NULL, said, sizeof said);
    ck_assert_msg(strcmp(said, "0available\n") != 0, "a relative name was followed");
    expect_copy("program", NULL, said, sizeof said);
    ck_assert_msg(strcmp(said, "0available\n") != 0, "the current directory was looked into");
    /* the variable goes first */
    expect_copy(PROGRAM, MODULE_DIR "/module_refuses.so", said, sizeof said);
    ck_assert_str_eq(said, "0the driver has version 3, 12 is needed\n");
    remove_scratch();
}
END_TEST

/* A program with more rights than its user does what neither that user's variables nor that user's
 * name for it say. Only root can make one here. */
START_TEST(more_rights_than_its_user)
{
    enum { NOBODY = 65534 };
    char by_variable[600], by_name[600];
    bool ran;

    make_copies();
    if (geteuid() != 0 || chown(PROGRAM, NOBODY, NOBODY) != 0 || chmod(PROGRAM, 04755) != 0) {
        printf("test_loader: skipped: more_rights_than_its_user: not root\n");
        remove_scratch();
        return;
    }
    /* where libraries are found by LD_LIBRARY_PATH alone, which such a program ignores, it fails */
    ran = run_copy("program", USABLE, by_variable, sizeof by_variable) &&
          run_copy(PROGRAM, NULL, by_name, sizeof by_name);
    remove_scratch();
    if (!ran || by_variable[0] != '1') {
        printf("test_loader: skipped: more_rights_than_its_user: it %s: %s\n",
               ran ? "got none" : "does not start", by_variable);
        return;
    }
    ck_assert_msg(!strstr(by_variable, "available") && !strstr(by_variable, USABLE), "%s",
                  by_variable);
    ck_assert_str_eq(by_name, by_variable);
}
END_TEST

void add_files(TCase *tcase)
{
    tcase_add_test(tcase, cut_short);
    tcase_add_loop_test(tcase, damaged, 0, (int)(sizeof damages / sizeof damages[0]));
    tcase_add_test(tcase, named_pipe);
    tcase_add_test(tcase, beside_the_library);
    tcase_add_test(tcase, more_rights_than_its_user);
}
