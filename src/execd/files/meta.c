#include "execd/files/meta.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/log.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

static int text_member(const json_t *object, const char *name, const char *code, const char **ret,
                       struct error *err) {
    json_t *value = execd_member(object, name);
    if (value && !json_is_string(value))
        return error_api(err, 400, code, "%s must be a string", name);
    *ret = json_string_value(value);
    return 0;
}

int files_meta_parse(const json_t *object, const char *code, struct files_meta *ret,
                     struct error *err) {
    *ret = (struct files_meta){0};
    if (json_is_null(object))
        return 0; // nothing is asked for
    if (!json_is_object(object))
        return error_api(err, 400, code, "an object with owner, group and mode is expected");
    json_t *mode = execd_member(object, "mode");
    if (mode && !json_is_integer(mode))
        return error_api(err, 400, code, "mode must be an integer such as 644");
    ret->mode = json_integer_value(mode);
    if (text_member(object, "owner", code, &ret->owner, err) < 0)
        return -1;
    return text_member(object, "group", code, &ret->group, err);
}

// A descriptor that was opened O_PATH knows no fchmod(2).
static int change_mode(int fd, mode_t mode) {
    if (!syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH))
        return 0;
    if (errno != ENOSYS && errno != EPERM) // before 6.6; EPERM: an old seccomp profile
        return -1;
    char name[40];
    (void)snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    return chmod(name, mode);
}

static void find_ids(struct files_who *w, const struct files_meta *m, uid_t *ret_uid,
                     gid_t *ret_gid) {
    *ret_uid = (uid_t)-1;
    *ret_gid = (gid_t)-1;
    if (m->owner && *m->owner && !files_owner_id(&w->accounts, m->owner, ret_uid))
        log_warning("no such user, the owner stays as it is: %s", m->owner);
    if (m->group && *m->group && !files_group_id(&w->accounts, m->group, ret_gid))
        log_warning("no such group, the group stays as it is: %s", m->group);
}

static int change_owner(struct files_who *w, const struct files_meta *m, int fd) {
    uid_t uid;
    gid_t gid;
    find_ids(w, m, &uid, &gid);
    if (uid == (uid_t)-1 && gid == (gid_t)-1)
        return 0;
    return fchownat(fd, "", uid, gid, AT_EMPTY_PATH);
}

int files_meta_apply(struct files_who *w, const struct files_meta *m, int fd, const char *path,
                     struct error *err) {
    mode_t mode;
    if (files_mode_parse(m->mode, &mode) < 0)
        return error_api(err, 500, CODE_RUNTIME,
                         "error changing permissions for %s. %lld is no octal mode such as 644",
                         path, m->mode);
    if (change_owner(w, m, fd) < 0)
        return files_error(err, errno, "error changing owner of", path);
    if (m->mode && change_mode(fd, mode) < 0)
        return files_error(err, errno, "error changing permissions for", path);
    return 0;
}

// One component below `at`: what is there, followed through links by the caller's path, else made.
static int make_one(struct files_who *w, int at, const char *path, const char *name, mode_t mode,
                    const struct files_meta *meta) {
    int fd = files_open(w, path, O_PATH | O_DIRECTORY);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    if (mkdirat(at, name, mode) < 0 && errno != EEXIST)
        return -1;
    fd = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && meta && change_owner(w, meta, fd) < 0) {
        int why = errno;
        (void)close(fd);
        errno = why;
        fd = -1;
    }
    return fd;
}

int files_make_dirs(struct files_who *w, const char *path, mode_t mode,
                    const struct files_meta *meta, struct error *err) {
    int at = files_open(w, path, O_PATH | O_DIRECTORY);
    if (at >= 0)
        return at;
    char *copy = arena_strdup(&w->arena, path);
    if (!copy)
        return error_errno(err, ENOMEM, "path");
    at = files_open(w, "/", O_PATH | O_DIRECTORY);
    for (char *p = copy; at >= 0 && *p;) {
        char *name = p + 1, *end = name + strcspn(name, "/"), kept = *end;
        *end = 0;
        int next = make_one(w, at, copy, name, mode, meta), why = errno;
        *end = kept;
        (void)close(at);
        errno = why;
        at = next;
        p = end;
    }
    if (at < 0) {
        int why = errno;
        (void)files_error(err, why == ENOENT ? ENOTDIR : why, "error accessing file: mkdir", path);
    }
    return at;
}
