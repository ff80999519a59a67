#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/random.h"

enum { LOCK_TRIES = 100, LOCK_PAUSE_MS = 20 };

int fd_write_all(int fd, const void *data, size_t len) {
    for (const char *p = data; len;) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_read_all(int fd, struct strbuf *sb, struct error *err) {
    enum { PIECE = 64 * 1024 };
    for (;;) {
        size_t left = sb->max - sb->len, want = left < PIECE ? left : PIECE;
        char extra = 0, *at = want ? strbuf_reserve(sb, want) : &extra;
        if (!at)
            return error_errno(err, ENOMEM, "read");
        ssize_t n = read(fd, at, want ? want : 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, errno, "read");
        if (n == 0)
            break;
        if (!want)
            return error_set(err, EFBIG, "more than %zu bytes", sb->max);
        sb->len += (size_t)n;
        sb->data[sb->len] = 0;
    }
    if (sb->capacity)
        sb->data[sb->len] = 0;
    return 0;
}

int fd_read_file(int at, const char *path, struct strbuf *sb, struct error *err) {
    cleanup_close int fd = openat(at, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        return error_errno(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "%s: not a regular file", path);
    return fd_read_all(fd, sb, err) < 0 ? error_wrap(err, "%s", path) : 0;
}

int fd_write_text(int at, const char *path, const char *text, struct error *err) {
    cleanup_close int fd = openat(at, path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text)); // control files take one write or none
    return n < 0 ? error_errno(err, errno, "%s", path) : 0;
}

int fd_read_text(int at, const char *path, char *text, size_t size, struct error *err) {
    cleanup_close int fd = openat(at, path, O_RDONLY | O_CLOEXEC);
    ssize_t n;
    do
        n = fd < 0 ? -1 : read(fd, text, size - 1);
    while (n < 0 && fd >= 0 && errno == EINTR);
    if (n < 0)
        return error_errno(err, errno, "%s", path);
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = 0;
    return 0;
}

int fd_sync_dir(int at, const char *path) {
    cleanup_close int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -1 : fsync(fd);
}

int fd_replace_file(int at, const char *path, const void *data, size_t len, mode_t mode,
                    struct error *err) {
    char beside[4096], parent[4096], salt[9];
    random_hex(salt, 8);
    if (snprintf(beside, sizeof beside, "%s.tmp-%s", path, salt) >= (int)sizeof beside)
        return error_errno(err, ENAMETOOLONG, "%s", path);
    (void)snprintf(parent, sizeof parent, "%s", path);
    cleanup_close int fd =
        openat(at, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return error_errno(err, errno, "%s", beside);
    if (fchmod(fd, mode) || fd_write_all(fd, data, len) || fsync(fd) ||
        renameat(at, beside, at, path)) {
        int why = errno;
        (void)unlinkat(at, beside, 0); // best effort: the failure that counts is `why`
        return error_errno(err, why, "%s", path);
    }
    return fd_sync_dir(at, dirname(parent)) ? error_errno(err, errno, "%s", path) : 0;
}

int fd_lock(int fd) {
    const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};
    for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB); tries++) {
        if (errno != EWOULDBLOCK || tries == LOCK_TRIES)
            return -1;
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
    return 0;
}
