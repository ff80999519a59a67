#include "execd/files/who.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "base/path.h"

enum { WHO_ARENA_MAX = 64 << 20 };

static bool route_id(struct http_exchange *x, const char *name, unsigned *ret) {
    uint64_t id;
    if (parse_u64(http_param(x, name), 0, UINT32_MAX - 1, &id) < 0) {
        execd_fail(x, 400, CODE_BODY, "%s must be a decimal number from 0 to 4294967294", name);
        return false;
    }
    *ret = (unsigned)id;
    return true;
}

bool files_who_init(struct files_who *w, struct http_exchange *x) {
    *w = (struct files_who){.root = -1, .own_uid = geteuid(), .own_gid = getegid()};
    w->base = (struct files_base){files_environ, NULL, getenv("HOME"), execd_of(x)->cwd};
    if (http_param(x, "uid")) {
        if (!route_id(x, "uid", &w->uid) || !route_id(x, "gid", &w->gid))
            return false;
        // an unprivileged execd may still serve its own identity
        w->other = w->own_uid == 0 || w->uid != w->own_uid || w->gid != w->own_gid;
        w->base = (struct files_base){NULL, NULL, w->home, "/"};
    }
    arena_init(&w->arena, WHO_ARENA_MAX);
    files_accounts_init(&w->accounts);
    return true;
}

void files_who_clear(struct files_who *w) {
    if (w->root >= 0)
        (void)close(w->root);
    files_accounts_free(&w->accounts);
    arena_free(&w->arena);
    free(w->own_groups);
}

// Raw calls, because these change this thread alone.
static long set_ids(const gid_t *groups, size_t count, gid_t gid, uid_t uid, bool back) {
    if (back && syscall(SYS_setresuid, -1, uid, -1)) // first of all: the others need it
        return -1;
    if (syscall(SYS_setgroups, count, groups) || syscall(SYS_setresgid, -1, gid, -1))
        return -1;
    return back ? 0 : syscall(SYS_setresuid, -1, uid, -1);
}

static int switch_user(struct files_who *w, struct error *err) {
    gid_t groups[ACCOUNT_GROUPS_MAX];
    size_t count = 0;
    if (!files_account(&w->accounts, w->uid, w->home, groups, &count))
        (void)snprintf(w->home, sizeof w->home, "/");
    if (!w->other)
        return 0;
    if (!w->own_groups) {
        w->own_count = getgroups(0, NULL);
        w->own_groups = calloc((size_t)w->own_count + 1, sizeof *w->own_groups);
        if (!w->own_groups || getgroups(w->own_count, w->own_groups) != w->own_count)
            return error_errno(err, ENOMEM, "groups");
    }
    // without root the effective capabilities of execd would stay: no true switch
    if (w->own_uid == 0 && !set_ids(groups, count, w->gid, w->uid, false))
        return 0;
    int why = w->own_uid ? EPERM : errno;
    if (w->own_uid == 0)
        files_who_leave(w);
    return error_api(err, 503, CODE_IDENTITY, "cannot work as user %u group %u: %s", w->uid, w->gid,
                     strerrordesc_np(why));
}

int files_who_enter(struct files_who *w, struct error *err) {
    if (w->root < 0 && (w->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        return error_errno(err, errno, "open /");
    return w->base.home == w->home ? switch_user(w, err) : 0;
}

void files_who_leave(struct files_who *w) {
    if (w->other && set_ids(w->own_groups, (size_t)w->own_count, w->own_gid, w->own_uid, true))
        abort(); // a worker must never go on as somebody else
}

char *files_resolve(struct files_who *w, const char *given, struct error *err) {
    char *path;
    if (files_expand(&w->arena, given, &w->base, &path, err) < 0) {
        (void)error_api(err, 500, CODE_RUNTIME, "error resolving path %.200s. %.600s", given,
                        err->message);
        return NULL;
    }
    return path;
}

int files_open(const struct files_who *w, const char *path, int flags) {
    return path_open(w->root, path, PATH_IN_ROOT, flags, 0);
}

int files_open_parent(const struct files_who *w, const char *path, const char **ret_name) {
    const char *slash = strrchr(path, '/');
    size_t len = slash == path ? 1 : (size_t)(slash - path);
    cleanup_free char *parent = strndup(path, len);
    if (!parent)
        return -1;
    *ret_name = slash[1] ? slash + 1 : ".";
    return files_open(w, parent, O_PATH | O_DIRECTORY);
}

int files_error(struct error *err, int why, const char *what, const char *path) {
    if (why == ENOENT)
        return error_api(err, 404, CODE_NOT_FOUND, "file not found. %s", path);
    const char *reason = why == EACCES  ? "permission denied"
                         : why == EPERM ? "permission denied, Operation not permitted"
                                        : strerrordesc_np(why);
    (void)error_api(err, 500, CODE_RUNTIME, "%s %s: %s", what, path, reason);
    err->kind = why;
    return -1;
}
