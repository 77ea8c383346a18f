/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A look at a module's file before the dynamic linker gets it. See module_file.h.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "module_file.h"

#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef HAVE_LINK_H
#include <link.h>
#endif

#ifdef ElfW

static bool read_at(int file, void *to, size_t size, uint64_t offset)
{
    return offset <= INT64_MAX && pread(file, to, size, (off_t)offset) == (ssize_t)size;
}

/* Sizes and offsets are the file's word: they are compared, and used for reading alone. */
static bool holds_segments(int file, const ElfW(Ehdr) * header, uint64_t size)
{
    for (unsigned i = 0; i < header->e_phnum; i++) {
        ElfW(Phdr) segment;
        const uint64_t offset = header->e_phoff + (uint64_t)i * header->e_phentsize;

        if (!read_at(file, &segment, sizeof segment, offset))
            return false;
        if (segment.p_offset > size || segment.p_filesz > size - segment.p_offset)
            return false;
    }
    return true;
}

static bool is_cut_short(int file, uint64_t size)
{
    ElfW(Ehdr) header;

    return read_at(file, &header, sizeof header, 0) &&
           memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
           header.e_phentsize == sizeof(ElfW(Phdr)) && !holds_segments(file, &header, size);
}

#else

static bool is_cut_short(int file, uint64_t size)
{
    (void)file;
    (void)size;
    return false;
}

#endif

static fbn_status check_open_file(int file, const char *path)
{
    struct stat status;

    if (fstat(file, &status) != 0)
        return fbni_fail(FBN_ERR_NO_BACKEND, "cannot open the module %s: %s", path,
                         strerror(errno));
    if (!S_ISREG(status.st_mode))
        return fbni_fail(FBN_ERR_NO_BACKEND, "cannot open the module %s: it is no regular file",
                         path);
    if (is_cut_short(file, (uint64_t)status.st_size))
        return fbni_fail(FBN_ERR_NO_BACKEND,
                         "cannot open the module %s: its %lld bytes are only a part of it", path,
                         (long long)status.st_size);
    return FBN_OK;
}

fbn_status fbni_module_file_check(const char *path)
{
    /* a named pipe would wait for its writer */
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    fbn_status status;

    if (file < 0)
        return fbni_fail(FBN_ERR_NO_BACKEND, "cannot open the module %s: %s", path,
                         strerror(errno));
    status = check_open_file(file, path);
    close(file);
    return status;
}
