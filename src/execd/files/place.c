#include "execd/files/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/random.h"

enum {
    LINKS_MAX = 40,
    COPY_SIZE = 128 * 1024,
    // written pages go to the disk meanwhile, so that the sync at the end is short
    FLUSH_STEP = 8 << 20
};

void files_place_init(struct files_place *p) {
    *p = (struct files_place){.fd = -1, .dir = -1, .existing = -1};
}

void files_place_clear(struct files_place *p) {
    if (p->temp[0])
        (void)unlinkat(p->dir, p->temp, 0); // nothing else can be done about it
    int fds[] = {p->fd, p->dir, p->existing};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    files_place_init(p);
}

static int open_unnamed(const char *dir) {
    char name[PATH_MAX];
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || snprintf(name, sizeof name, "%s/.execd-XXXXXX", dir) >= (int)sizeof name)
        return fd;
    fd = mkostemp(name, O_CLOEXEC); // file systems without unnamed files
    if (fd >= 0)
        (void)unlink(name);
    return fd;
}

int files_place_spool(struct files_who *w, struct files_place *p, struct error *err) {
    files_who_leave(w); // execd's own directory: the user may have no right there
    const char *dir = process_temporary();
    p->fd = open_unnamed(dir);
    int why = errno;
    if (files_who_enter(w, err) < 0)
        return -1;
    return p->fd < 0 ? files_error(err, why == ENOENT ? EIO : why, "error creating file in", dir)
                     : 0;
}

// Where a name leads when it is a link; 1 and *path replaced, 0 when it is none.
static int follow(struct files_who *w, int dir, const char *name, const char **path) {
    char target[PATH_MAX];
    ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
    if (n < 0)
        return errno == EINVAL || errno == ENOENT ? 0 : -1;
    target[n] = 0;
    size_t parent = (size_t)(strrchr(*path, '/') - *path) + 1;
    // ".." behind a link means the link's parent: not cleaned as a text
    const char *next = target[0] == '/'
                           ? arena_strdup(&w->arena, target)
                           : arena_printf(&w->arena, "%.*s%s", (int)parent, *path, target);
    if (!next) {
        errno = ENOMEM;
        return -1;
    }
    *path = next;
    return 1;
}

// Opens the directory of the place, through a final link and what that leads to.
static int open_directory(struct files_who *w, struct files_place *p, const char *path) {
    for (int links = 0; links < LINKS_MAX; links++) {
        const char *name;
        int dir = files_open_parent(w, path, &name), r = dir < 0 ? -1 : follow(w, dir, name, &path);
        if (r == 0) {
            p->dir = dir;
            if (strlen(name) < sizeof p->name) {
                memcpy(p->name, name, strlen(name) + 1);
                return 0;
            }
            errno = ENAMETOOLONG;
            return -1;
        }
        int why = errno;
        if (dir >= 0)
            (void)close(dir);
        errno = why;
        if (r < 0)
            return -1;
    }
    errno = ELOOP;
    return -1;
}

// Opened for writing, so that the kernel says whether that is allowed.
static int open_existing(struct files_place *p) {
    p->existing =
        openat(p->dir, p->name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (p->existing < 0)
        return errno == ENOENT ? 0 : -1;
    if (fstat(p->existing, &p->st))
        return -1;
    if (S_ISREG(p->st.st_mode))
        return 0;
    errno = EINVAL;
    return -1;
}

// Whether a file with another inode can stand for the existing one.
static bool replaceable(const struct files_place *p) {
    return p->st.st_nlink == 1 && !fchown(p->fd, p->st.st_uid, p->st.st_gid) &&
           !fchmod(p->fd, p->st.st_mode & 07777);
}

static int open_beside(struct files_who *w, struct files_place *p, const char *path,
                       struct error *err) {
    char random[17];
    random_hex(random, 16);
    (void)snprintf(p->temp, sizeof p->temp, ".opensandbox-%s", random);
    p->fd = openat(p->dir, p->temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0777);
    if (p->fd >= 0 && (p->existing < 0 || replaceable(p)))
        return 0;
    int why = errno;
    if (p->fd >= 0) {
        (void)unlinkat(p->dir, p->temp, 0);
        (void)close(p->fd);
        p->fd = -1;
    }
    p->temp[0] = 0;
    return p->existing >= 0 ? files_place_spool(w, p, err)
                            : files_error(err, why == ENOENT ? EIO : why,
                                          "error opening destination file", path);
}

int files_place_open(struct files_who *w, struct files_place *p, const char *path, bool parents,
                     const struct files_meta *meta, struct error *err) {
    const char *slash = strrchr(path, '/');
    if (parents && slash != path) {
        char *parent = arena_strndup(&w->arena, path, (size_t)(slash - path));
        if (!parent)
            return error_errno(err, ENOMEM, "path");
        cleanup_close int made = files_make_dirs(w, parent, 0777, meta, err);
        if (made < 0)
            return error_wrap(err, "error creating target directory %s", parent);
    }
    if (open_directory(w, p, path) < 0 || open_existing(p) < 0)
        return files_error(err, errno == ENOENT ? EIO : errno, "error opening destination file",
                           path);
    return open_beside(w, p, path, err);
}

int files_place_write(struct files_place *p, const void *data, size_t len) {
    if (fd_write_all(p->fd, data, len) < 0)
        return -1;
    p->size += len;
    if (p->size - p->flushed >= FLUSH_STEP) {
        // only a hint: the sync at the end is what counts; sync_file_range(2) would do nothing on
        // overlayfs, which has no pages of its own, but this reaches the file below it
        (void)posix_fadvise(p->fd, (off_t)p->flushed, (off_t)(p->size - p->flushed),
                            POSIX_FADV_DONTNEED);
        p->flushed = p->size;
    }
    return 0;
}

// Copies from the beginning of `from` to where `to` stands.
static int copy_all(int from, int to) {
    off_t at = 0;
    for (ssize_t n; (n = copy_file_range(from, &at, to, NULL, 1 << 30, 0));)
        if (n < 0)
            break;
    if (errno == ENOSPC || errno == EDQUOT || errno == EIO)
        return -1;
    cleanup_free char *buffer = malloc(COPY_SIZE); // file systems that cannot
    if (!buffer) {
        errno = ENOMEM;
        return -1;
    }
    for (ssize_t n; (n = pread(from, buffer, COPY_SIZE, at)); at += n)
        if ((n < 0 && errno != EINTR) || (n > 0 && fd_write_all(to, buffer, (size_t)n) < 0))
            return -1;
    return 0;
}

int files_place_copy(struct files_place *p, int from) {
    struct stat st;
    errno = 0;
    if (copy_all(from, p->fd) < 0 || fstat(p->fd, &st))
        return -1;
    p->size = (uint64_t)st.st_size;
    return 0;
}

// Into the file that is there, its inode kept.
static int commit_inside(struct files_place *p) {
    errno = 0;
    if (ftruncate(p->existing, 0) || copy_all(p->fd, p->existing) < 0)
        return -1;
    return fsync(p->existing);
}

static int commit_rename(struct files_place *p) {
    if (fsync(p->fd) || renameat(p->dir, p->temp, p->dir, p->name))
        return -1;
    p->temp[0] = 0;
    (void)fd_sync_dir(p->dir, "."); // a directory that we may not read cannot be synced
    return 0;
}

int files_place_commit(struct files_who *w, struct files_place *p, const char *path,
                       const struct files_meta *meta, struct error *err) {
    struct error late;
    bool inside = !p->temp[0];
    int applied = meta ? files_meta_apply(w, meta, inside ? p->existing : p->fd, path, &late) : 0;
    int r = inside ? commit_inside(p) : commit_rename(p);
    if (r < 0 && !inside && p->existing >= 0 && (errno == EBUSY || errno == EXDEV)) {
        // a mount point; its own mode and owner are touched as asked
        if (meta)
            applied = files_meta_apply(w, meta, p->existing, path, &late);
        r = commit_inside(p);
    }
    if (r < 0)
        return files_error(err, errno == ENOENT ? EIO : errno, "error copying file", path);
    if (applied < 0)
        *err = late;
    return applied;
}
