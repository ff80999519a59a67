#include "base/path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/random.h"

// Every level of a walk or a tree holds a descriptor; whoever makes the tree does not choose how
// many.
enum { LINKS_MAX = 40, WALK_DEPTH_MAX = 256, TREE_DEPTH_MAX = 64, MEASURE_DEPTH_MAX = 256 };

static bool fallback_forced;

void path_force_fallback(bool on) {
    fallback_forced = on;
}

// ---- the walk, for kernels without openat2(2): one component at a time, links read and never
// followed by the kernel ----

struct walk {
    int fds[WALK_DEPTH_MAX]; // the directories from the root (borrowed) down to where we are
    int depth;               // of the last one
    enum path_scope scope;
    unsigned links;
};

static int walk_at(const struct walk *w) {
    return w->fds[w->depth];
}

static void walk_back(struct walk *w, int depth) {
    for (; w->depth > depth; w->depth--)
        (void)close(w->fds[w->depth]);
}

static int walk_down(struct walk *w, const char *name) {
    if (w->depth + 1 == WALK_DEPTH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = openat(walk_at(w), name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    w->fds[++w->depth] = fd;
    return 0;
}

// ".." is the directory that we came from, never the one that is the parent by now: whoever moves
// directories meanwhile would lead us out of the root.
static int walk_up(struct walk *w) {
    if (w->depth == 0 && w->scope != PATH_IN_ROOT) {
        errno = EXDEV;
        return -1;
    }
    walk_back(w, w->depth ? w->depth - 1 : 0);
    return 0;
}

static int walk_path(struct walk *w, const char *path, int flags, mode_t mode);

static int walk_link(struct walk *w, const char *name, const char *rest, int flags, mode_t mode) {
    char target[PATH_MAX];
    ssize_t n = readlinkat(walk_at(w), name, target, sizeof target - 1);
    if (n < 0)
        return -1;
    target[n] = 0;
    if (w->scope == PATH_NO_SYMLINKS || ++w->links > LINKS_MAX) {
        errno = ELOOP;
        return -1;
    }
    if (target[0] == '/') {
        if (w->scope != PATH_IN_ROOT) {
            errno = EXDEV;
            return -1;
        }
        walk_back(w, 0);
    }
    cleanup_free char *joined = NULL;
    if (asprintf(&joined, "%s/%s", target, rest) < 0)
        return -1;
    return walk_path(w, *rest ? joined : target, flags, mode);
}

// Opens `path` from where the walk is. The last component gets `flags`; the others must be
// directories.
static int walk_path(struct walk *w, const char *path, int flags, mode_t mode) {
    for (;;) {
        path += strspn(path, "/");
        size_t n = strcspn(path, "/");
        const char *rest = path + n + strspn(path + n, "/");
        char name[NAME_MAX + 1];
        if (n > NAME_MAX) {
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(name, path, n);
        name[n] = 0;
        if (!n || (n == 1 && name[0] == '.')) {
            if (!*rest)
                return openat(walk_at(w), ".", flags & ~(O_CREAT | O_EXCL), mode);
        } else if (n == 2 && !strcmp(name, "..")) {
            if (walk_up(w) < 0)
                return -1;
            if (!*rest)
                return openat(walk_at(w), ".", flags & ~(O_CREAT | O_EXCL), mode);
        } else {
            struct stat st;
            bool there = !fstatat(walk_at(w), name, &st, AT_SYMLINK_NOFOLLOW);
            bool follow = *rest || path[n] == '/' || !(flags & O_NOFOLLOW);
            if (there && S_ISLNK(st.st_mode) && follow && !(flags & O_EXCL && !*rest))
                return walk_link(w, name, rest, flags, mode);
            if (!*rest)
                return openat(walk_at(w), name,
                              flags | O_NOFOLLOW | (path[n] == '/' ? O_DIRECTORY : 0), mode);
            if (walk_down(w, name) < 0)
                return -1;
        }
        path = rest;
    }
}

static int open_walking(int root, const char *path, enum path_scope scope, int flags, mode_t mode) {
    struct walk w = {.fds = {root}, .scope = scope};
    if (*path == '/' && scope != PATH_IN_ROOT) {
        errno = EXDEV;
        return -1;
    }
    if (!*path) {
        errno = ENOENT;
        return -1;
    }
    int fd = walk_path(&w, path, flags | O_CLOEXEC, mode), kept = errno;
    walk_back(&w, 0);
    errno = kept;
    return fd;
}

int path_open(int root, const char *path, enum path_scope scope, int flags, mode_t mode) {
    static const uint64_t resolve[] = {
        [PATH_IN_ROOT] = RESOLVE_IN_ROOT,
        [PATH_BENEATH] = RESOLVE_BENEATH,
        [PATH_NO_SYMLINKS] = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    };
    bool creates = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
    struct open_how how = {.flags = (unsigned)(flags | O_CLOEXEC),
                           .mode = creates ? mode : 0,
                           .resolve = resolve[scope] | RESOLVE_NO_MAGICLINKS};
    if (fallback_forced)
        return open_walking(root, path, scope, flags, mode);
    for (int tries = 0;; tries++) {
        long fd = syscall(SYS_openat2, root, path, &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno == ENOSYS || errno == EPERM) // EPERM: an old seccomp profile around us
            return open_walking(root, path, scope, flags, mode);
        if (errno != EAGAIN || tries >= 64) // EAGAIN: a rename raced with ".."
            return -1;
    }
}

int path_make_dirs(int root, const char *path, mode_t mode) {
    int at = fcntl(root, F_DUPFD_CLOEXEC, 3);
    while (at >= 0 && *(path += strspn(path, "/"))) {
        char name[NAME_MAX + 1];
        size_t n = strcspn(path, "/");
        int next = -1;
        if (n > NAME_MAX || (n == 2 && path[0] == '.' && path[1] == '.')) {
            errno = n > NAME_MAX ? ENAMETOOLONG : EXDEV;
        } else {
            memcpy(name, path, n);
            name[n] = 0;
            if (!mkdirat(at, name, mode) || errno == EEXIST)
                next = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        }
        int kept = errno;
        (void)close(at);
        errno = kept;
        at = next;
        path += n;
    }
    return at;
}

// ---- whole trees ----

struct remover {
    int first_error;
    int top;    // first directory of the tree: what lies too deep moves here
    bool moved; // something did
};

static void remove_failed(struct remover *r, int why) {
    r->first_error = r->first_error ? r->first_error : why;
}

// A tree can be deeper than we have descriptors: its lower part is renamed into its top and has its
// turn there.
static void move_to_top(struct remover *r, int at, const char *name) {
    char fresh[33];
    random_hex(fresh, 32);
    if (!renameat(at, name, r->top, fresh))
        r->moved = true;
    else if (errno != ENOENT)
        remove_failed(r, errno);
}

static void remove_entry(struct remover *r, int at, const char *name, unsigned depth);

static void remove_contents(struct remover *r, DIR *d, unsigned depth) {
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_entry(r, dirfd(d), e->d_name, depth + 1);
}

static void remove_entry(struct remover *r, int at, const char *name, unsigned depth) {
    if (!unlinkat(at, name, 0) || errno == ENOENT)
        return;
    if (errno != EISDIR && errno != EPERM) {
        remove_failed(r, errno);
        return;
    }
    if (depth == TREE_DEPTH_MAX) {
        move_to_top(r, at, name);
        return;
    }
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (errno != ENOENT)
            remove_failed(r, errno);
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    if (depth == 0)
        r->top = fd;
    remove_contents(r, d, depth);
    while (depth == 0 && r->moved && !r->first_error) {
        r->moved = false;
        rewinddir(d);
        remove_contents(r, d, depth);
    }
    (void)closedir(d);
    if (unlinkat(at, name, AT_REMOVEDIR) && errno != ENOENT)
        remove_failed(r, errno);
}

int path_remove_tree(int at, const char *name, struct error *err) {
    struct remover r = {.top = -1};
    remove_entry(&r, at, name, 0);
    return r.first_error ? error_errno(err, r.first_error, "remove %s", name) : 0;
}

struct measure {
    uint64_t bytes, entries, max_bytes, max_entries;
};

static int measure_entry(struct measure *m, int at, const char *name, unsigned depth) {
    struct stat st;
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW))
        return -1;
    m->entries++;
    m->bytes += S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    if (m->entries > m->max_entries || m->bytes > m->max_bytes) {
        errno = m->entries > m->max_entries ? EOVERFLOW : EFBIG;
        return -1;
    }
    if (!S_ISDIR(st.st_mode))
        return 0;
    if (depth == MEASURE_DEPTH_MAX) {
        errno = EOVERFLOW;
        return -1;
    }
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return -1;
    }
    int result = 0;
    for (struct dirent *e; !result && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            result = measure_entry(m, dirfd(d), e->d_name, depth + 1);
    int kept = errno;
    (void)closedir(d);
    errno = kept;
    return result;
}

int path_measure_tree(int at, const char *name, uint64_t max_bytes, uint64_t max_entries,
                      uint64_t *ret_bytes) {
    struct measure m = {.max_bytes = max_bytes, .max_entries = max_entries};
    if (measure_entry(&m, at, name, 0) < 0)
        return -1;
    *ret_bytes = m.bytes;
    return 0;
}

bool path_is_clean(const char *path) {
    if (path[0] != '/')
        return false;
    if (!path[1])
        return true;
    for (const char *p = path; *p;) {
        size_t n = strcspn(++p, "/");
        if (!n || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        p += n;
    }
    return true;
}

bool path_covers(const char *prefix, const char *path) {
    size_t n = strlen(prefix);
    if (!strcmp(prefix, "/"))
        return path[0] == '/';
    return !strncmp(prefix, path, n) && (path[n] == 0 || path[n] == '/');
}
