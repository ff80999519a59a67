#include "server/runtime/oci/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"

struct attributes {
    mode_t mode;
    uid_t uid;
    gid_t gid;
};

static int make_dir(int at, const char *name, struct attributes a) {
    if (mkdirat(at, name, 0700) && errno != EEXIST)
        return -1;
    if ((a.uid || a.gid) && fchownat(at, name, a.uid, a.gid, AT_SYMLINK_NOFOLLOW))
        return -1;
    return fchmodat(at, name, a.mode, 0);
}

static int make_file(int at, const char *name, struct attributes a, const char *text) {
    cleanup_close int fd =
        openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || (*text && fd_write_all(fd, text, strlen(text))))
        return -1;
    if ((a.uid || a.gid) && fchown(fd, a.uid, a.gid))
        return -1;
    return fchmod(fd, a.mode);
}

static struct attributes of_image(const struct layer *l, int fd) {
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        return (struct attributes){0755, l->id_base, l->id_base};
    return (struct attributes){st.st_mode & 07777, l->id_base + st.st_uid, l->id_base + st.st_gid};
}

enum chain { CHAIN_REQUIRED, CHAIN_UNLESS_LINKED };

// Makes "a/b/c" in the upper, each directory like the image's of that name. Links of the image are
// not followed: with CHAIN_UNLESS_LINKED they end the work, else the new directory takes the link's
// place. Returns the last one.
static int make_chain(const struct layer *l, int upper, const char *path, enum chain kind) {
    int at = fcntl(upper, F_DUPFD_CLOEXEC, 0), lower = fcntl(l->lower, F_DUPFD_CLOEXEC, 0);
    for (const char *p = path; at >= 0 && *p;) {
        char name[256];
        size_t len = strcspn(p, "/");
        int below = -1, next = -1;
        if (len >= sizeof name) {
            errno = ENAMETOOLONG;
        } else {
            (void)snprintf(name, sizeof name, "%.*s", (int)len, p);
            if (lower >= 0)
                below = openat(lower, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            bool foreign = lower >= 0 && below < 0 && errno != ENOENT; // a link or a file
            if (!(foreign && kind == CHAIN_UNLESS_LINKED) &&
                !make_dir(at, name, of_image(l, below)))
                next = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        }
        int saved = errno;
        (void)close(at);
        if (lower >= 0)
            (void)close(lower);
        errno = saved;
        at = next;
        lower = below;
        p += len + (p[len] == '/');
    }
    if (lower >= 0)
        (void)close(lower);
    return at;
}

static int make_etc(const struct layer *l, int upper) {
    char text[512];
    struct attributes a = {0644, l->id_base, l->id_base};
    cleanup_close int etc = make_chain(l, upper, "etc", CHAIN_REQUIRED);
    if (etc < 0)
        return -1;
    (void)snprintf(text, sizeof text,
                   "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s%s%s\n",
                   *l->address ? l->address : "127.0.1.1", "\t", l->hostname);
    if (make_file(etc, "hosts", a, text) || make_file(etc, "resolv.conf", a, l->resolv_conf))
        return -1;
    (void)snprintf(text, sizeof text, "%s\n", l->hostname);
    return make_file(etc, "hostname", a, text);
}

// What the image has there, when no component of the way is a link; mode 0: nothing, or it may be
// hidden.
static struct stat look(const struct layer *l, const char *path) {
    struct stat st;
    cleanup_close int fd = path_open(l->lower, path, PATH_NO_SYMLINKS, O_PATH, 0);
    return fd >= 0 && !l->restored && !fstat(fd, &st) ? st : (struct stat){.st_mode = 0};
}

static bool image_has(const struct layer *l, const char *path, mode_t type) {
    return (look(l, path).st_mode & S_IFMT) == type;
}

// As publish.c makes it.
static bool image_has_env(const struct layer *l) {
    struct stat st = look(l, "opt/opensandbox/.env");
    return st.st_mode == (S_IFREG | 0600) && !st.st_size && st.st_uid == l->uid &&
           st.st_gid == l->gid;
}

// Mount points of the runtime are real directories whatever the image (or a layer above it) says:
// runc 1.1.5 follows a linked /dev to the host. A good image has them, and making one costs 0.1 ms.
static int make_mount_points(const struct layer *l, int upper) {
    static const char *const points[] = {"dev", "proc", "sys"};
    for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
        if (image_has(l, points[i], S_IFDIR))
            continue;
        cleanup_close int fd = make_chain(l, upper, points[i], CHAIN_REQUIRED);
        if (fd < 0)
            return -1;
    }
    return 0;
}

static int make_tools(const struct layer *l, int upper) {
    struct attributes user = {0600, l->id_base + l->uid, l->id_base + l->gid},
                      root = {0755, l->id_base, l->id_base};
    bool place = image_has(l, "opt/opensandbox/bin/execd", S_IFREG); // what execd is mounted on
    if (place && image_has_env(l))
        return 0;
    cleanup_close int dir = make_chain(l, upper, "opt/opensandbox", CHAIN_REQUIRED), bin = -1;
    if (dir < 0 || make_file(dir, ".env", user, ""))
        return -1;
    if (place)
        return 0;
    if (make_dir(dir, "bin", root) ||
        (bin = openat(dir, "bin", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        return -1;
    return make_file(bin, "execd", root, "");
}

static int make_upper(const struct layer *l, int dir) {
    cleanup_close int upper = -1;
    if (make_dir(dir, "upper", of_image(l, l->lower)) ||
        (upper = openat(dir, "upper", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        return -1;
    if (make_etc(l, upper) || make_mount_points(l, upper) || make_tools(l, upper))
        return -1;
    // the image's working directory is a wish: where a link is in its way execd tells that it is
    // not there
    bool missing = *l->workdir == '/' && l->workdir[1] && !image_has(l, l->workdir + 1, S_IFDIR);
    cleanup_close int work =
        missing ? make_chain(l, upper, l->workdir + 1, CHAIN_UNLESS_LINKED) : -1;
    (void)work;
    return 0;
}

static int make_volume_points(const struct layer *l, int dir) {
    struct attributes a = {0700, 0, 0};
    if (!l->volumes || !l->volumes->count)
        return 0;
    if (make_dir(dir, "vol", a))
        return -1;
    cleanup_close int vol = openat(dir, "vol", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < l->volumes->count; i++) {
        char name[24];
        (void)snprintf(name, sizeof name, "%zu", i);
        if (vol < 0 || (l->volumes->items[i].is_directory ? make_dir(vol, name, a)
                                                          : make_file(vol, name, a, "")))
            return -1;
    }
    return 0;
}

int layer_make(int at, const char *id, const struct layer *l, int *ret_dir, struct error *err) {
    struct attributes ours = {0700, 0, 0};
    if (mkdirat(at, id, 0700))
        return error_errno(err, errno, "directory of the sandbox");
    cleanup_close int dir = openat(at, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0 || make_dir(dir, "work", ours) || make_dir(dir, "lower", ours) ||
        make_upper(l, dir) || make_volume_points(l, dir))
        return error_errno(err, errno, "writable layer of the sandbox");
    *ret_dir = TAKE_FD(dir);
    return 0;
}
