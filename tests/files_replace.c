/* SPDX-License-Identifier: BSD-3-Clause
 * Reading from and writing to places that do not play along: the old file stays whole, and no
 * temporary file stays at all.
 */
#define _XOPEN_SOURCE 700
#include "replace.h"
#include "tensor_file.h"
#include "test_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64];

static void make_directory(void)
{
    strcpy(directory, "test_files.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void remove_directory(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    ck_assert_int_eq(system(command), 0);
}

struct path {
    char text[256];
};

static struct path in_directory(const char *name)
{
    struct path p;

    snprintf(p.text, sizeof p.text, "%s/%s", directory, name);
    return p;
}

static int count_entries(void)
{
    DIR *d = opendir(directory);
    int count = 0;

    ck_assert_ptr_nonnull(d);
    while (readdir(d) != NULL) {
        count++;
    }
    closedir(d);
    return count - 2; /* "." and ".." */
}

static void put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");

    ck_assert_ptr_nonnull(file);
    ck_assert(fputs(text, file) >= 0 && fclose(file) == 0);
}

static void check_file(const char *path, const char *text)
{
    char found[64] = "";
    FILE *file = fopen(path, "rb");
    size_t size;

    ck_assert_ptr_nonnull(file);
    size = fread(found, 1, sizeof found - 1, file);
    fclose(file);
    ck_assert_uint_eq(size, strlen(text));
    ck_assert_str_eq(found, text);
}

static enum file_status write_text(struct replacement *r, const char *path, const char *text,
                                   struct file_error *err)
{
    struct piece list[2] = {{text, 1}, {text + 1, strlen(text) - 1}};
    struct pieces pieces = {list, 2, NULL};

    return replacement_write(r, path, &pieces, err);
}

START_TEST(a_file_is_replaced)
{
    struct path path = in_directory("a");
    struct replacement r;
    struct file_error err;

    put_file(path.text, "old");
    ck_file_ok(write_text(&r, path.text, "new text", &err), err);
    check_file(path.text, "old"); /* not before the commit */
    ck_assert_int_eq(count_entries(), 2);
    ck_file_ok(replacement_commit(&r, &err), err);
    check_file(path.text, "new text");
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

START_TEST(a_discarded_file_leaves_nothing)
{
    struct path path = in_directory("a");
    struct replacement r;
    struct file_error err;

    ck_file_ok(write_text(&r, path.text, "new", &err), err);
    replacement_discard(&r);
    ck_assert_int_eq(count_entries(), 0);
    replacement_discard(&r); /* once more does no harm */
}
END_TEST

static mode_t mode_of(const char *path)
{
    struct stat st;

    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void replace_text(const char *path)
{
    struct replacement r;
    struct file_error err;

    ck_file_ok(write_text(&r, path, "new", &err), err);
    ck_file_ok(replacement_commit(&r, &err), err);
}

START_TEST(permissions_are_those_of_the_umask_or_the_old_file)
{
    struct path path = in_directory("a");
    mode_t mask = umask(027);

    replace_text(path.text);
    umask(mask);
    ck_assert_int_eq(mode_of(path.text), 0640);
    ck_assert_int_eq(chmod(path.text, 0604), 0);
    replace_text(path.text);
    ck_assert_int_eq(mode_of(path.text), 0604);
}
END_TEST

START_TEST(a_symbolic_link_is_followed)
{
    struct path path = in_directory("a"), link = in_directory("link"), loose = in_directory("b");
    struct replacement r;
    struct file_error err;
    struct stat st;

    put_file(path.text, "old");
    ck_assert_int_eq(symlink("a", link.text), 0);
    replace_text(link.text);
    check_file(path.text, "new");
    ck_assert(lstat(link.text, &st) == 0 && S_ISLNK(st.st_mode));
    ck_assert_int_eq(symlink("nowhere", loose.text), 0);
    ck_assert_int_eq(write_text(&r, loose.text, "new", &err), FILE_IO);
    ck_assert_int_eq(count_entries(), 3);
}
END_TEST

START_TEST(what_is_no_regular_file_is_left_alone)
{
    struct path fifo = in_directory("fifo.npy"), link = in_directory("full.npy");
    struct replacement r;
    struct file_error err;
    struct tensor_set set;

    ck_assert_int_eq(mkfifo(fifo.text, 0600), 0);
    ck_assert_int_eq(symlink("/dev/full", link.text), 0);
    ck_assert_int_eq(write_text(&r, directory, "new", &err), FILE_NOT_REGULAR);
    ck_assert_int_eq(write_text(&r, fifo.text, "new", &err), FILE_NOT_REGULAR);
    ck_assert_int_eq(write_text(&r, link.text, "new", &err), FILE_NOT_REGULAR);
    /* Reading does not wait for a FIFO's writer, nor read a device. */
    ck_assert_int_eq(tensor_file_read(fifo.text, &set, &err), FILE_NOT_REGULAR);
    ck_assert_int_eq(tensor_file_read(link.text, &set, &err), FILE_NOT_REGULAR);
    ck_assert_int_eq(count_entries(), 2);
}
END_TEST

START_TEST(places_that_cannot_be_written_are_refused)
{
    struct path file = in_directory("a"), below = in_directory("a/b"), none = in_directory("no/b");
    struct replacement r;
    struct file_error err;

    put_file(file.text, "old");
    ck_assert_int_eq(write_text(&r, below.text, "new", &err), FILE_IO);
    ck_assert_ptr_nonnull(strstr(err.text, "Not a directory"));
    ck_assert_int_eq(write_text(&r, none.text, "new", &err), FILE_IO);
    ck_assert_ptr_nonnull(strstr(err.text, "No such file or directory"));
    check_file(file.text, "old");
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

/* Whether writing to path is refused for want of permission. Root may write anywhere, so this asks
 * in a process that becomes somebody else. */
static bool is_denied(const char *path)
{
    struct replacement r;
    struct file_error err;
    int status;
    pid_t child;

    fflush(NULL);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        bool denied = (getuid() != 0 || setuid(65534) == 0) &&
                      write_text(&r, path, "new", &err) == FILE_IO &&
                      strstr(err.text, "Permission denied") != NULL;

        _exit(denied ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

START_TEST(permissions_are_respected)
{
    struct path file = in_directory("a"), other = in_directory("b");
    bool read_only, no_entry;

    put_file(file.text, "old");
    ck_assert_int_eq(chmod(file.text, 0444), 0);
    ck_assert_int_eq(chmod(directory, 0777), 0);
    read_only = is_denied(file.text);
    ck_assert_int_eq(chmod(directory, 0555), 0);
    no_entry = is_denied(other.text);
    ck_assert_int_eq(chmod(directory, 0755), 0);
    ck_assert(read_only && no_entry);
    check_file(file.text, "old");
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

/* A disk that is full after a while: a limit on the file's size fails the same write(). */
START_TEST(a_failed_write_leaves_the_old_file)
{
    struct path path = in_directory("a");
    struct rlimit old, limit;
    char *text = malloc(100001);
    struct replacement r;
    struct file_error err;
    enum file_status status;

    ck_assert_ptr_nonnull(text);
    memset(text, 'x', 100000);
    text[100000] = '\0';
    put_file(path.text, "old");
    replacement_handle_signals(); /* or SIGXFSZ would end the program */
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 70000;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    status = write_text(&r, path.text, text, &err);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    free(text);
    ck_assert_int_eq(status, FILE_IO);
    ck_assert_ptr_nonnull(strstr(err.text, "cannot write: File too large"));
    check_file(path.text, "old");
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

/* Somebody puts a directory there between writing and renaming. */
START_TEST(a_failed_rename_leaves_no_temporary)
{
    struct path path = in_directory("a");
    struct replacement r;
    struct file_error err;

    ck_file_ok(write_text(&r, path.text, "new", &err), err);
    ck_assert_int_eq(mkdir(path.text, 0755), 0);
    ck_assert_int_eq(replacement_commit(&r, &err), FILE_IO);
    ck_assert_ptr_nonnull(strstr(err.text, "cannot rename"));
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

/* A signal between writing and renaming, in a process of its own. */
START_TEST(a_signal_removes_the_temporary)
{
    static const int numbers[] = {SIGHUP, SIGINT, SIGTERM};
    struct path path = in_directory("a");
    pid_t child;
    int status;

    put_file(path.text, "old");
    fflush(NULL);
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct replacement r;
        struct file_error err;

        signal(numbers[_i], SIG_DFL);
        replacement_handle_signals();
        if (write_text(&r, path.text, "new", &err) == FILE_OK) {
            raise(numbers[_i]);
        }
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == numbers[_i]);
    check_file(path.text, "old");
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

START_TEST(files_that_cannot_be_read_are_named)
{
    struct tensor_set set;
    struct file_error err;

    ck_assert_int_eq(tensor_file_read(in_directory("a.npy").text, &set, &err), FILE_IO);
    ck_assert_str_eq(err.text, "cannot open: No such file or directory");
    ck_assert_int_eq(tensor_file_read("a.txt", &set, &err), FILE_UNKNOWN_ENDING);
    ck_assert_int_eq(tensor_file_read(".npy", &set, &err), FILE_UNKNOWN_ENDING);
    ck_assert_int_eq(tensor_file_read(directory, &set, &err), FILE_UNKNOWN_ENDING);
    ck_assert_int_eq(mkdir(in_directory("d.npy").text, 0755), 0);
    ck_assert_int_eq(tensor_file_read(in_directory("d.npy").text, &set, &err), FILE_NOT_REGULAR);
}
END_TEST

/* A sparse file of 4 EiB: more than can be had, found out without reading it. */
START_TEST(a_file_beyond_memory_is_refused)
{
    struct path path = in_directory("huge.npy");
    struct tensor_set set;
    struct file_error err;
    off_t size = (off_t)1 << 62;

    put_file(path.text, "");
    for (; truncate(path.text, size) != 0; size /= 2) { /* the file system has a limit of its own */
        ck_assert(size > 1 << 20);
    }
    if (size >= (off_t)1 << 47) { /* the address space's size */
        ck_assert_int_eq(tensor_file_read(path.text, &set, &err), FILE_OUT_OF_MEMORY);
    }
}
END_TEST

Suite *replace_suite(void)
{
    Suite *suite = suite_create("files in their places");
    TCase *tcase = tcase_create("replace");

    tcase_add_checked_fixture(tcase, make_directory, remove_directory);
    tcase_add_test(tcase, a_file_is_replaced);
    tcase_add_test(tcase, a_discarded_file_leaves_nothing);
    tcase_add_test(tcase, permissions_are_those_of_the_umask_or_the_old_file);
    tcase_add_test(tcase, a_symbolic_link_is_followed);
    tcase_add_test(tcase, what_is_no_regular_file_is_left_alone);
    tcase_add_test(tcase, places_that_cannot_be_written_are_refused);
    tcase_add_test(tcase, permissions_are_respected);
    tcase_add_test(tcase, a_failed_write_leaves_the_old_file);
    tcase_add_test(tcase, a_failed_rename_leaves_no_temporary);
    tcase_add_loop_test(tcase, a_signal_removes_the_temporary, 0, 3);
    tcase_add_test(tcase, files_that_cannot_be_read_are_named);
    tcase_add_test(tcase, a_file_beyond_memory_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}
