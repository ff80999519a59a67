#include "server/runtime/oci/image/work.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/path.h"
#include "base/random.h"
#include "server/errors.h"

enum { LINE_MS = 5000, WALK_MS = 2000, SLACK_INODES = 10000 };
#define SLACK_BYTES (64ULL << 20)
#define PREFIX      ".tmp-"

// ---- the directory ----

// A sweeper that locked the new directory before us deletes it: then it has no name any more.
static int make_locked(struct work *w) {
    char uuid[UUID_TEXT_SIZE];
    struct stat st;
    for (int tries = 0; tries < 16; tries++) {
        random_uuid(uuid);
        (void)snprintf(w->name, sizeof w->name, PREFIX "%s", uuid);
        if (mkdirat(w->images, w->name, 0700))
            return -1;
        int fd = openat(w->images, w->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && !flock(fd, LOCK_EX) && !fstat(fd, &st) && st.st_nlink) {
            w->dir = fd;
            return 0;
        }
        if (fd >= 0)
            (void)close(fd);
    }
    return -1;
}

static void note_free(struct work *w) {
    struct statvfs v;
    if (fstatvfs(w->dir, &v))
        return;
    w->free_bytes = (uint64_t)v.f_bfree * v.f_frsize;
    w->free_inodes = v.f_ffree;
}

int work_begin(struct work *w, const struct oci_settings *s, int images, const char *images_path,
               const char *what, struct error *err) {
    *w = (struct work){.settings = s, .what = what, .images = images, .dir = -1};
    if (make_locked(w)) {
        (void)error_errno(err, errno, "directory for image %s", what);
        w->name[0] = '\0';
        return work_failed(w, ERR_R_IMAGE_PULL_FAILED, err);
    }
    (void)snprintf(w->path, sizeof w->path, "%s/%s", images_path, w->name);
    w->started_ms = clock_boot_ms();
    w->deadline_ms = w->started_ms + s->pull_timeout_ms;
    note_free(w);
    return 0;
}

void work_end(struct work *w) {
    struct error err;
    if (*w->name && path_remove_tree(w->images, w->name, &err))
        log_warning("%s/%s: %s; the next start tries again", "images", w->name, err.message);
    if (w->dir >= 0)
        (void)close(w->dir); // the lock goes with it
    w->dir = -1;
    w->name[0] = '\0';
}

int work_sweep(int images, struct error *err) {
    int fd = openat(images, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    int result = 0;
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return error_errno(err, errno, "images");
    }
    for (struct dirent *e; !result && (e = readdir(d));) {
        if (strncmp(e->d_name, PREFIX, strlen(PREFIX)) != 0)
            continue;
        cleanup_close int dir =
            openat(images, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir >= 0 && !flock(dir, LOCK_EX | LOCK_NB))
            result = path_remove_tree(images, e->d_name, err);
    }
    (void)closedir(d);
    return result;
}

// ---- progress and guard ----

void work_step(struct work *w, const char *doing, const char *growing, uint64_t total) {
    w->doing = doing;
    w->growing = growing;
    w->total = total;
    w->next_line_ms = clock_boot_ms() + LINE_MS;
    w->next_walk_ms = 0;
    note_free(w);
}

static int too_large(const struct work *w, struct error *err) {
    return error_server(err, ERR_R_IMAGE_INVALID,
                        "image %s is larger than %llu bytes or %llu files (oci.image_max_bytes, "
                        "oci.image_max_entries)",
                        w->what, (unsigned long long)w->settings->image_max_bytes,
                        (unsigned long long)w->settings->image_max_entries);
}

// The file system says when to look, since a walk costs; a file system may have other users, so
// only the walk decides.
static bool suspicious(const struct work *w) {
    struct statvfs v;
    if (fstatvfs(w->dir, &v))
        return false;
    uint64_t bytes = (uint64_t)v.f_bfree * v.f_frsize;
    return (w->free_bytes > bytes &&
            w->free_bytes - bytes > w->settings->image_max_bytes + SLACK_BYTES) ||
           (w->free_inodes > v.f_ffree &&
            w->free_inodes - v.f_ffree > w->settings->image_max_entries + SLACK_INODES) ||
           !v.f_files; // inodes without a number of them
}

int work_tick(void *work, struct error *err) {
    struct work *w = work;
    uint64_t bytes = 0;
    int64_t now = clock_boot_ms();
    bool line = now >= w->next_line_ms;
    if (!line && (now < w->next_walk_ms || !suspicious(w)))
        return 0;
    if (path_measure_tree(w->dir, w->growing, w->settings->image_max_bytes,
                          w->settings->image_max_entries, &bytes) < 0 &&
        (errno == EFBIG || errno == EOVERFLOW))
        return too_large(w, err);
    int64_t took = clock_boot_ms() - now;
    w->next_walk_ms = now + WALK_MS + 10 * took;
    if (line) {
        w->next_line_ms = now + LINE_MS;
        char of[40] = "";
        if (w->total)
            (void)snprintf(of, sizeof of, " of %llu", (unsigned long long)(w->total >> 20));
        log_info("image %s: %s, %llu%s MiB after %lld s", w->what, w->doing,
                 (unsigned long long)(bytes >> 20), of, (long long)(now - w->started_ms) / 1000);
    }
    return 0;
}

int work_failed(const struct work *w, int otherwise, struct error *err) {
    struct error cause = *err;
    if (cause.code[0])
        return -1;
    if (cause.kind == ENOSPC || cause.kind == EDQUOT)
        (void)error_server(err, ERR_R_DISK_FULL,
                           "no space for image %s: %s; free space, or lower "
                           "oci.image_store_max_bytes",
                           w->what, cause.message);
    else if (cause.kind == EFBIG)
        (void)too_large(w, err);
    else
        (void)error_server(err, (enum error_id)otherwise, "image %s: %s", w->what, cause.message);
    err->kind = cause.kind;
    return -1;
}
