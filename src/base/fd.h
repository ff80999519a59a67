// Whole files and whole writes over descriptors. Every descriptor made here is O_CLOEXEC. Blocking:
// workers or start-up.
#ifndef BASE_FD_H
#define BASE_FD_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/strbuf.h"

int fd_write_all(int fd, const void *data, size_t len); // 0, or -1 with errno
// Reads to the end into sb (appending); EFBIG when it would pass sb->max.
int fd_read_all(int fd, struct strbuf *sb, struct error *err);
// A file by name below `at` (AT_FDCWD allowed); regular files only, O_NOFOLLOW on the last
// component, O_NONBLOCK.
int fd_read_file(int at, const char *path, struct strbuf *sb, struct error *err);
// Kernel control files (/proc, /sys, cgroups): one open, one write or read. errno kept in
// err->kind.
int fd_write_text(int at, const char *path, const char *text, struct error *err);
int fd_read_text(int at, const char *path, char *text, size_t size,
                 struct error *err); // trailing newline cut
// Writes "path.tmp-XXXX", syncs, renames over `path`, syncs the directory.
int fd_replace_file(int at, const char *path, const void *data, size_t len, mode_t mode,
                    struct error *err);
// An exclusive flock(2), tried for a moment: a child of a process that was killed holds its lock on
// until its exec. 0, or -1 with errno (EWOULDBLOCK: somebody has it).
int fd_lock(int fd);
int fd_sync_dir(int at, const char *path);

#endif
