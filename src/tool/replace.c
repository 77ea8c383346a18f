/* SPDX-License-Identifier: BSD-3-Clause
 * Writing a file whole or not at all.
 */
#define _XOPEN_SOURCE 700
#include "replace.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* write() may refuse counts above SSIZE_MAX, and Linux writes 2 GiB at most. */
#define WRITE_MOST ((size_t)1 << 30)

/* The temporary files that exist, for the signal handler: set before and cleared after. */
#define PENDING_MOST 4
static char *volatile pending[PENDING_MOST];

static void pending_swap(char *from, char *to)
{
    for (int i = 0; i < PENDING_MOST; i++) {
        if (pending[i] == from) {
            pending[i] = to;
            return;
        }
    }
}

static void on_signal(int number)
{
    for (int i = 0; i < PENDING_MOST; i++) {
        if (pending[i] != NULL) {
            unlink(pending[i]);
        }
    }
    signal(number, SIG_DFL);
    raise(number);
}

void replacement_handle_signals(void)
{
    static const int numbers[] = {SIGHUP, SIGINT, SIGTERM};
    struct sigaction action, old;

    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        sigaddset(&action.sa_mask, numbers[i]);
    }
    action.sa_handler = on_signal;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        /* What was ignored, as under nohup, stays ignored. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(numbers[i], &action, NULL);
        }
    }
    signal(SIGXFSZ, SIG_IGN);
}

/* The file that path stands for, links followed, and its permissions, or -1 where there is none. */
static enum file_status resolve(const char *path, char **target, int *mode, struct file_error *err)
{
    struct stat st;

    *mode = -1;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
        *target = realpath(path, NULL);
        if (*target == NULL) {
            return file_fail_errno(err, "cannot follow the symbolic link");
        }
    } else {
        *target = strdup(path);
        if (*target == NULL) {
            return file_fail_memory(err, strlen(path) + 1);
        }
    }
    if (stat(*target, &st) == 0) {
        if (!S_ISREG(st.st_mode)) {
            return file_fail(err, FILE_NOT_REGULAR, "exists and is not a regular file");
        }
        if (access(*target, W_OK) != 0) { /* rename() would not ask */
            return file_fail_errno(err, "cannot replace");
        }
        *mode = (int)(st.st_mode & 0777);
    } else if (errno != ENOENT) {
        return file_fail_errno(err, "cannot look at the file to be replaced");
    }
    return FILE_OK;
}

/* Creates an empty file of a new name in the target's directory; r->temporary is set on success. */
static enum file_status create_temporary(struct replacement *r, int mode, int *fd,
                                         struct file_error *err)
{
    static unsigned serial;
    const char *slash = strrchr(r->target, '/');
    size_t directory = slash != NULL ? (size_t)(slash - r->target) + 1 : 0;
    size_t room = 64; /* ".fusedbn-", two numbers, ".tmp" */
    char *name = malloc(directory + room);
    int error = 0;

    if (name == NULL) {
        return file_fail_memory(err, directory + room);
    }
    memcpy(name, r->target, directory);
    for (int tries = 0; tries < 100; tries++) {
        snprintf(name + directory, room, ".fusedbn-%ld-%u.tmp", (long)getpid(), serial++);
        pending_swap(NULL, name);
        /* What replaces a private file is never more open than it. */
        *fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode >= 0 ? 0600 : 0666);
        if (*fd >= 0) {
            r->temporary = name;
            return FILE_OK;
        }
        error = errno;
        pending_swap(name, NULL);
        if (error != EEXIST) {
            break;
        }
    }
    free(name);
    errno = error;
    return file_fail_errno(err, "cannot create a temporary file beside it");
}

static bool write_piece(int fd, const struct piece *piece)
{
    const char *data = piece->data;
    size_t left = piece->size;

    while (left > 0) {
        ssize_t n = write(fd, data, left < WRITE_MOST ? left : WRITE_MOST);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return false;
        }
        data += n;
        left -= (size_t)n;
    }
    return true;
}

static enum file_status write_pieces(int fd, int mode, const struct pieces *pieces,
                                     struct file_error *err)
{
    if (mode >= 0 && fchmod(fd, (mode_t)mode) != 0) {
        return file_fail_errno(err, "cannot set the permissions");
    }
    for (size_t i = 0; i < pieces->count; i++) {
        if (!write_piece(fd, &pieces->list[i])) {
            return file_fail_errno(err, "cannot write");
        }
    }
    if (fsync(fd) != 0) {
        return file_fail_errno(err, "cannot write to the disk");
    }
    return FILE_OK;
}

enum file_status replacement_write(struct replacement *r, const char *path,
                                   const struct pieces *pieces, struct file_error *err)
{
    enum file_status status;
    int mode = -1, fd = -1;

    memset(r, 0, sizeof *r);
    status = resolve(path, &r->target, &mode, err);
    if (status == FILE_OK) {
        status = create_temporary(r, mode, &fd, err);
    }
    if (status == FILE_OK) {
        status = write_pieces(fd, mode, pieces, err);
        if (close(fd) != 0 && status == FILE_OK) {
            status = file_fail_errno(err, "cannot close");
        }
    }
    if (status != FILE_OK) {
        replacement_discard(r);
    }
    return status;
}

/* Makes the new name last through a crash. Some file systems cannot; the file is whole anyway. */
static void sync_directory(const char *target)
{
    const char *slash = strrchr(target, '/');
    char *directory = slash == NULL     ? strdup(".")
                      : slash == target ? strdup("/")
                                        : strndup(target, (size_t)(slash - target));
    int fd = directory != NULL ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(directory);
}

enum file_status replacement_commit(struct replacement *r, struct file_error *err)
{
    enum file_status status = FILE_OK;

    if (rename(r->temporary, r->target) != 0) {
        status = file_fail_errno(err, "cannot rename the temporary file to it");
    } else {
        sync_directory(r->target);
        pending_swap(r->temporary, NULL);
        free(r->temporary);
        r->temporary = NULL;
    }
    replacement_discard(r);
    return status;
}

void replacement_discard(struct replacement *r)
{
    if (r->temporary != NULL) {
        unlink(r->temporary);
        pending_swap(r->temporary, NULL);
    }
    free(r->temporary);
    free(r->target);
    memset(r, 0, sizeof *r);
}
