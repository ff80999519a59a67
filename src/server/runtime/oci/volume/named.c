#include "server/runtime/oci/volume/named.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/runtime/oci/sandbox.h"

bool named_any(const struct sandbox_spec *spec) {
    for (size_t i = 0; i < spec->volume_count; i++)
        if (spec->volumes[i].kind == VOLUME_NAMED)
            return true;
    return false;
}

// Calls f for every entry but "." and "..".
static void each(struct oci *o, void (*f)(struct oci *o, const char *name, const char *id),
                 const char *id) {
    int fd = openat(o->volumes, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        (void)close(fd);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            f(o, e->d_name, id);
    if (d)
        (void)closedir(d);
}

static void remove_half_made(struct oci *o, const char *name, const char *id) {
    struct error err;
    (void)id;
    if (*name == '.' && chores_discard(o->chores, o->volumes, name, &err))
        log_warning("volume %s, which was never whole: %s", name, err.message);
}

int named_start(struct oci *o, struct error *err) {
    if (mkdirat(o->dir, "volumes", 0700) && errno != EEXIST)
        return error_errno(err, errno, "directory of the named volumes");
    o->volumes = openat(o->dir, "volumes", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (o->volumes < 0)
        return error_errno(err, errno, "directory of the named volumes");
    each(o, remove_half_made, NULL);
    return 0;
}

static int failed(const struct volume_spec *v, struct error *err) {
    int kind = errno;
    (void)error_server(err, ERR_VOLUME_PVC_INSPECT_FAILED, "volume \"%s\": %s: %s", v->name,
                       v->source, strerror(kind));
    err->kind = kind;
    return -1;
}

static int touch(int dir, const char *name) {
    cleanup_close int fd = openat(dir, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? -1 : 0;
}

static int open_dir(int at, const char *name) {
    return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

// Under another name until it is whole, so that a crash leaves nothing half made in its place.
static int make(struct oci *o, const char *id, const struct volume_spec *v, uid_t uid, gid_t gid) {
    char fresh[SANDBOX_ID_SIZE + 8];
    (void)snprintf(fresh, sizeof fresh, ".new-%s", id);
    if (mkdirat(o->volumes, fresh, 0700) && errno != EEXIST)
        return -1;
    cleanup_close int dir = open_dir(o->volumes, fresh);
    if (dir < 0 || (mkdirat(dir, "data", 0755) && errno != EEXIST) ||
        (mkdirat(dir, "users", 0700) && errno != EEXIST) || fchownat(dir, "data", uid, gid, 0) ||
        fchmodat(dir, "data", 0755, 0) || (v->delete_with_sandbox && touch(dir, "temporary")))
        return -1;
    return renameat(o->volumes, fresh, o->volumes, v->source);
}

static int hold(struct oci *o, const char *id, const struct volume_spec *v, uid_t uid, gid_t gid,
                struct error *err) {
    char users[300];
    (void)snprintf(users, sizeof users, "%s/users", v->source);
    if (faccessat(o->volumes, v->source, F_OK, AT_SYMLINK_NOFOLLOW)) {
        if (v->must_exist)
            return error_server(err, ERR_VOLUME_PVC_NOT_FOUND,
                                "volume \"%s\": there is no volume %s, and createIfNotExists is "
                                "false",
                                v->name, v->source);
        if (make(o, id, v, uid, gid))
            return failed(v, err);
    }
    cleanup_close int dir = open_dir(o->volumes, users);
    return dir < 0 || touch(dir, id) ? failed(v, err) : 0;
}

int named_hold(struct oci *o, const char *id, const struct sandbox_spec *spec, uid_t uid, gid_t gid,
               struct error *err) {
    int r = 0;
    (void)pthread_mutex_lock(&o->volume_lock);
    for (size_t i = 0; !r && i < spec->volume_count; i++)
        if (spec->volumes[i].kind == VOLUME_NAMED)
            r = hold(o, id, &spec->volumes[i], uid, gid, err);
    (void)pthread_mutex_unlock(&o->volume_lock);
    return r;
}

static bool is_empty(int dir) {
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    bool empty = d != NULL;
    if (!d && fd >= 0)
        (void)close(fd);
    for (struct dirent *e; d && (e = readdir(d));)
        empty &= !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    if (d)
        (void)closedir(d);
    return empty;
}

static void release(struct oci *o, const char *name, const char *id) {
    char path[300];
    struct error err;
    if (*name == '.')
        return;
    (void)snprintf(path, sizeof path, "%s/users", name);
    cleanup_close int users = open_dir(o->volumes, path);
    if (users < 0 || (unlinkat(users, id, 0) && errno != ENOENT))
        return;
    (void)snprintf(path, sizeof path, "%s/temporary", name);
    if (!is_empty(users) || faccessat(o->volumes, path, F_OK, AT_SYMLINK_NOFOLLOW))
        return;
    if (chores_discard(o->chores, o->volumes, name, &err))
        log_warning("volume %s, which was to go with its last user: %s", name, err.message);
}

// Every volume is asked: a sandbox in ruins does not tell which were its own.
void named_release(struct oci *o, const char *id) {
    (void)pthread_mutex_lock(&o->volume_lock);
    if (o->volumes >= 0)
        each(o, release, id);
    (void)pthread_mutex_unlock(&o->volume_lock);
}
