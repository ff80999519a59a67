#include "server/runtime/oci/image/publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/oci/image/user.h"

enum { DEPTH_MAX = 256, RECORD_MAX = 16 * 1024 * 1024 };

// ---- the walk ----

struct walk {
    struct publish_report *report;
    uint64_t max_bytes, max_entries;
    struct error *err;
};

static int walk(struct walk *w, int dir, unsigned depth);

static int visit(struct walk *w, int at, const char *name, unsigned depth) {
    struct stat st;
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW))
        return error_errno(w->err, errno, "image's %.100s", name);
    w->report->entries++;
    if (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode)) {
        // crun drops `nodev` of the root (oci-runtime.md section 6)
        w->report->devices++;
        return unlinkat(at, name, 0) ? error_errno(w->err, errno, "device node %.100s", name) : 0;
    }
    if (S_ISREG(st.st_mode)) // a file with many names is counted once
        w->report->bytes += (uint64_t)st.st_size / (st.st_nlink ? st.st_nlink : 1);
    if (w->report->bytes > w->max_bytes || w->report->entries > w->max_entries)
        return error_set(w->err, EFBIG, "limits");
    if (!S_ISDIR(st.st_mode))
        return 0;
    if (depth == DEPTH_MAX)
        return error_set(w->err, ELOOP, "directories nested deeper than %d", (int)DEPTH_MAX);
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? error_errno(w->err, errno, "image's %.100s", name) : walk(w, fd, depth + 1);
}

// Takes the descriptor.
static int walk(struct walk *w, int dir, unsigned depth) {
    DIR *d = fdopendir(dir);
    int result = 0;
    if (!d) {
        (void)close(dir);
        return error_errno(w->err, ENOMEM, "image");
    }
    for (struct dirent *e; !result && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            result = visit(w, dirfd(d), e->d_name, depth);
    (void)closedir(d);
    return result;
}

// ---- what must be there ----

enum keep { KEEP, EMPTY };
static const struct needed {
    const char *name;
    mode_t mode;
    enum keep keep; // what the sandbox's own mounts cover is not needed
} needed[] = {{"dev", 0755, EMPTY}, {"proc", 0555, EMPTY}, {"sys", 0555, EMPTY},
              {"etc", 0755, KEEP},  {"run", 0755, KEEP},   {"tmp", 01777, KEEP}};

// runc 1.1.5 follows a linked /dev to the host (CVE-2026-41579 and kin).
static int need_directory(int root, const struct needed *n, struct publish_report *r,
                          struct error *err) {
    struct stat st;
    bool there = !fstatat(root, n->name, &st, AT_SYMLINK_NOFOLLOW);
    if (there && S_ISDIR(st.st_mode) && n->keep == KEEP)
        return 0;
    r->replaced += there && !S_ISDIR(st.st_mode);
    if (path_remove_tree(root, n->name, err))
        return -1;
    if (mkdirat(root, n->name, 0700) || fchmodat(root, n->name, n->mode, 0))
        return error_errno(err, errno, "/%s of the image", n->name);
    return 0;
}

// Runtimes read it while they start, and wait for ever at a FIFO: a regular file of the image, or
// an empty one in its place.
static int need_file(int root, const char *path, struct publish_report *r, struct error *err) {
    struct stat st;
    cleanup_close int there = path_open(root, path, PATH_IN_ROOT, O_PATH, 0), fd = -1;
    if (there >= 0 && !fstat(there, &st) && S_ISREG(st.st_mode))
        return 0;
    r->replaced += !fstatat(root, path, &st, AT_SYMLINK_NOFOLLOW);
    if (path_remove_tree(root, path, err))
        return -1;
    fd = openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 || fchmod(fd, 0644))
        return error_errno(err, errno, "/%s of the image", path);
    return 0;
}

static void add_file(int dir, const char *name, mode_t mode, uid_t uid, gid_t gid) {
    cleanup_close int fd =
        openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || fchown(fd, uid, gid) || fchmod(fd, mode)) // whatever the umask
        return; // layer.c sees that it is not as it must be
}

// What every sandbox needs: the place that execd is mounted on, and an empty file of variables that
// the image's user can write. A link of the image on the way stays: then each sandbox gets them in
// its own layer (layer.c).
static void add_tools(int root, const char *user_text) {
    struct user user;
    struct error none;
    cleanup_close int bin = path_make_dirs(root, "opt/opensandbox/bin", 0755);
    if (bin < 0)
        return;
    add_file(bin, "execd", 0755, 0, 0);
    if (user_resolve(root, user_text ? user_text : "", &user, &none) == 0)
        add_file(bin, "../.env", 0600, user.uid, user.gid);
}

int publish_check(int rootfs, const char *user, uint64_t max_bytes, uint64_t max_entries,
                  struct publish_report *ret, struct error *err) {
    struct walk w = {ret, max_bytes, max_entries, err};
    *ret = (struct publish_report){.bytes = 0};
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (need_directory(rootfs, &needed[i], ret, err))
            return -1;
    if (need_file(rootfs, "etc/passwd", ret, err) || need_file(rootfs, "etc/group", ret, err))
        return -1;
    add_tools(rootfs, user);
    int dir = openat(rootfs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir < 0 ? error_errno(err, errno, "image") : walk(&w, dir, 0);
}

// ---- the rename ----

static int boot_id(char text[64], struct error *err) {
    return fd_read_text(AT_FDCWD, "/proc/sys/kernel/random/boot_id", text, 64, err);
}

static int write_record(int dir, const json_t *j, struct error *err) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, RECORD_MAX);
    if (!j || json_write(j, &sb))
        return error_set(err, ENOMEM, "the record of the image is too large");
    return fd_replace_file(dir, "image.json", sb.data, sb.len, 0600, err);
}

static int make_record(const struct work *w, const char *image_id,
                       const struct image_config *config, const struct publish_report *r,
                       struct error *err) {
    char boot[64] = "";
    if (boot_id(boot, err))
        return -1;
    cleanup_json json_t *j = json_pack(
        "{s:s,s:s,s:I,s:I,s:I,s:s,s:o}", "id", image_id, "source", w->what, "bytes",
        (json_int_t)r->bytes, "entries", (json_int_t)r->entries, "created_us",
        (json_int_t)clock_wall_us(), "boot", boot, "config", image_config_to_json(config));
    return write_record(w->dir, j, err);
}

static int confirm(int dir, json_t *j, struct error *err) {
    struct publish_report r = {.bytes = 0};
    struct walk w = {&r, UINT64_MAX, UINT64_MAX, err};
    struct stat st;
    int rootfs = openat(dir, "rootfs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (rootfs < 0)
        return error_errno(err, errno, "rootfs");
    if (walk(&w, rootfs, 0))
        return -1;
    if ((json_int_t)r.bytes != json_integer_value(json_object_get(j, "bytes")) ||
        (json_int_t)r.entries != json_integer_value(json_object_get(j, "entries")))
        return error_set(err, EIO, "%llu bytes in %llu files are left of it",
                         (unsigned long long)r.bytes, (unsigned long long)r.entries);
    json_object_del(j, "boot");
    if (fstat(dir, &st))
        return error_errno(err, errno, "image");
    if (write_record(dir, j, err))
        return -1;
    const struct timespec times[] = {st.st_atim, st.st_mtim};
    (void)futimens(dir, times); // of the last use; a later one does no harm
    return 0;
}

int publish_confirm(int images, const char *image_id, struct error *err) {
    char boot[64] = "";
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, RECORD_MAX);
    cleanup_close int dir =
        openat(images, image_id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return error_errno(err, errno, "%s", image_id);
    if (boot_id(boot, err) || fd_read_file(dir, "image.json", &sb, err))
        return -1;
    cleanup_json json_t *j = json_parse(sb.data, sb.len, NULL, err);
    if (!j)
        return -1;
    const char *published = json_string_value(json_object_get(j, "boot"));
    return !published || !strcmp(published, boot) ? 0 : confirm(dir, j, err);
}

// What tools left beside the tree.
static int remove_others(const struct work *w, struct error *err) {
    int fd = openat(w->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return error_errno(err, ENOMEM, "directory of the image");
    }
    for (struct dirent *e; !result && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            strcmp(e->d_name, "rootfs") != 0)
            result = path_remove_tree(w->dir, e->d_name, err);
    (void)closedir(d);
    return result;
}

static int give_name(struct work *w, const char *image_id, struct error *err) {
    if (!renameat2(w->images, w->name, w->images, image_id, RENAME_NOREPLACE)) {
        w->name[0] = '\0'; // no longer ours to remove
        return fsync(w->images) ? error_errno(err, errno, "images") : 0;
    }
    return errno == EEXIST ? 0 : error_errno(err, errno, "image %s", image_id);
}

int publish(struct work *w, const char *image_id, const struct image_config *config,
            struct error *err) {
    struct publish_report r = {.bytes = 0};
    cleanup_close int rootfs =
        openat(w->dir, "rootfs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    work_step(w, "checking", "rootfs", 0);
    int result = rootfs < 0 ? error_errno(err, errno, "rootfs")
                            : publish_check(rootfs, config->user, w->settings->image_max_bytes,
                                            w->settings->image_max_entries, &r, err);
    if (!result)
        result = remove_others(w, err);
    if (!result)
        result = make_record(w, image_id, config, &r, err);
    if (!result)
        result = give_name(w, image_id, err);
    if (result)
        return work_failed(w, ERR_R_IMAGE_INVALID, err);
    if (r.devices || r.replaced)
        log_info("image %s: removed %u device nodes, replaced %u links or files by directories",
                 w->what, r.devices, r.replaced);
    log_info("image %s: %s, %llu MiB in %llu files, after %lld ms", w->what, image_id,
             (unsigned long long)(r.bytes >> 20), (unsigned long long)r.entries,
             (long long)(clock_boot_ms() - w->started_ms));
    return 0;
}
