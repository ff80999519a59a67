#include "server/runtime/oci/volume/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/path.h"
#include "server/errors.h"

enum { CLAIM_MAX = 253 };

// Mounts and files of the sandbox itself: nothing may be mounted on them or below.
static const char *const reserved[] = {"/proc",
                                       "/sys",
                                       "/dev",
                                       "/opt/opensandbox",
                                       "/run/opensandbox",
                                       "/etc/hosts",
                                       "/etc/hostname",
                                       "/etc/resolv.conf"};

static int check_mount_path(const struct sandbox_spec *spec, size_t i, struct error *err) {
    const struct volume_spec *v = &spec->volumes[i];
    const enum error_id code = ERR_VOLUME_INVALID_MOUNT_PATH;
    if (!v->mount_path || !path_is_clean(v->mount_path) || !strcmp(v->mount_path, "/"))
        return error_server(
            err, code, "volume \"%s\": mountPath \"%s\" is not an absolute, clean path below /",
            v->name, v->mount_path ? v->mount_path : "");
    for (size_t k = 0; k < ARRAY_SIZE(reserved); k++)
        if (path_covers(reserved[k], v->mount_path))
            return error_server(err, code,
                                "volume \"%s\": mountPath %s belongs to the sandbox itself (%s)",
                                v->name, v->mount_path, reserved[k]);
    if (path_covers(v->mount_path, "/opt/opensandbox"))
        return error_server(
            err, code, "volume \"%s\": mountPath %s would hide /opt/opensandbox; mount below it",
            v->name, v->mount_path);
    for (size_t k = 0; k < i; k++)
        if (!strcmp(spec->volumes[k].mount_path, v->mount_path))
            return error_server(err, code, "volumes \"%s\" and \"%s\" share the mountPath %s",
                                spec->volumes[k].name, v->name, v->mount_path);
    return 0;
}

// The allowed directory that holds `source`; *ret_rest is what follows, "." when nothing does.
static const char *find_allowed(oci_list allowed, const char *source, const char **ret_rest) {
    for (; allowed && *allowed; allowed++)
        if (path_covers(*allowed, source)) {
            const char *rest = source + (strcmp(*allowed, "/") != 0 ? strlen(*allowed) : 0);
            *ret_rest = *rest == '/' && rest[1] ? rest + 1 : ".";
            return *allowed;
        }
    return NULL;
}

static int check_sub_path(const struct volume_spec *v, struct error *err) {
    char full[4096];
    if (!v->sub_path || !*v->sub_path)
        return 0;
    if (snprintf(full, sizeof full, "/%s", v->sub_path) >= (int)sizeof full || !path_is_clean(full))
        return error_server(err, ERR_VOLUME_INVALID_SUB_PATH,
                            "volume \"%s\": subPath \"%s\" is not relative and clean", v->name,
                            v->sub_path);
    return 0;
}

static int check_named(const struct volume_spec *v, int named, struct error *err) {
    if (named < 0)
        return error_server(err, ERR_VOLUME_UNSUPPORTED_BACKEND,
                            "volume \"%s\": named volumes are not supported here", v->name);
    if (!v->source || !*v->source || *v->source == '.' || strchr(v->source, '/') ||
        strlen(v->source) > CLAIM_MAX)
        return error_server(err, ERR_VOLUME_INVALID_PVC_NAME,
                            "volume \"%s\": \"%.260s\" is no name of a volume", v->name,
                            v->source ? v->source : "");
    return check_sub_path(v, err);
}

static int check_source(const struct volume_spec *v, oci_list allowed, int named,
                        struct error *err) {
    const char *rest;
    if (v->kind == VOLUME_NAMED)
        return check_named(v, named, err);
    if (!v->source || !path_is_clean(v->source))
        return error_server(err, ERR_VOLUME_INVALID_HOST_PATH,
                            "volume \"%s\": host.path \"%s\" is not absolute and clean", v->name,
                            v->source ? v->source : "");
    if (!find_allowed(allowed, v->source, &rest))
        return error_api(
            err, 400, "VOLUME::HOST_PATH_NOT_ALLOWED",
            "volume \"%s\": host.path %s lies under none of storage.allowed_host_paths", v->name,
            v->source);
    return check_sub_path(v, err);
}

int volumes_check(const struct sandbox_spec *spec, oci_list allowed, int named, struct error *err) {
    if (spec->volume_count > VOLUMES_MAX)
        return error_server(err, ERR_INVALID_PARAMETER, "at most %d volumes", VOLUMES_MAX);
    for (size_t i = 0; i < spec->volume_count; i++)
        if (check_mount_path(spec, i, err) || check_source(&spec->volumes[i], allowed, named, err))
            return -1;
    return 0;
}

// Opens `path` beneath `root`, making missing directories. Links are never followed: their target
// could change.
static int open_beneath(int root, const char *path, const struct volume_spec *v,
                        struct error *err) {
    int fd = path_open(root, path, PATH_NO_SYMLINKS, O_PATH, 0);
    if (fd < 0 && errno == ENOENT)
        fd = path_make_dirs(root, path, 0755);
    if (fd >= 0)
        return fd;
    if (errno == ELOOP)
        return error_server(err,
                            v->kind == VOLUME_NAMED ? ERR_VOLUME_INVALID_SUB_PATH
                                                    : ERR_VOLUME_HOST_PATH_NOT_ALLOWED,
                            "volume \"%s\": a component of \"%s\" is a symbolic link", v->name,
                            path);
    int kind = errno;
    (void)error_server(err, ERR_VOLUME_HOST_PATH_CREATE_FAILED, "volume \"%s\": \"%s\": %s",
                       v->name, path, strerror(kind));
    err->kind = kind;
    return -1;
}

// What sandboxes have put there is a stranger's: no link is followed.
static int open_named(const struct volume_spec *v, int named, struct error *err) {
    char path[CLAIM_MAX + 8];
    (void)snprintf(path, sizeof path, "%s/data", v->source);
    cleanup_close int data = path_open(named, path, PATH_NO_SYMLINKS, O_PATH, 0);
    if (data < 0)
        return error_server(err, ERR_VOLUME_PVC_INSPECT_FAILED, "volume \"%s\": %s: %s", v->name,
                            v->source, strerror(errno));
    return v->sub_path && *v->sub_path ? open_beneath(data, v->sub_path, v, err) : TAKE_FD(data);
}

static int open_source(const struct volume_spec *v, oci_list allowed, int named,
                       struct error *err) {
    if (v->kind == VOLUME_NAMED)
        return open_named(v, named, err);
    const char *rest = ".", *base = find_allowed(allowed, v->source, &rest);
    if (!base)
        return check_source(v, allowed, named, err);
    cleanup_close int root = open(base, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return error_server(err, ERR_VOLUME_HOST_PATH_CREATE_FAILED, "volume \"%s\": %s: %s",
                            v->name, base, strerror(errno));
    cleanup_close int source = open_beneath(root, rest, v, err);
    if (source < 0 || !v->sub_path || !*v->sub_path)
        return TAKE_FD(source);
    return open_beneath(source, v->sub_path, v, err);
}

static int detach(int source, const struct volume_spec *v, int user_namespace, struct error *err) {
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                          (v->read_only ? MOUNT_ATTR_RDONLY : 0U)};
    if (user_namespace >= 0) {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = (unsigned)user_namespace;
    }
    cleanup_close int tree =
        open_tree(source, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree >= 0 && !mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr))
        return TAKE_FD(tree);
    int kind = errno;
    (void)error_server(err, ERR_VOLUME_HOST_PATH_CREATE_FAILED,
                       "volume \"%s\": %s cannot be mounted%s: %s", v->name, v->source,
                       tree >= 0 && user_namespace >= 0
                           ? " with mapped ids (its file system must support that)"
                           : "",
                       strerror(kind));
    err->kind = kind;
    return -1;
}

static int by_depth(const void *a, const void *b) {
    const struct volume *x = a, *y = b;
    size_t n = strlen(x->mount_path), m = strlen(y->mount_path); // a prefix is always shorter
    return (n > m) - (n < m);
}

int volumes_open(const struct sandbox_spec *spec, oci_list allowed, int named, int user_namespace,
                 struct volumes *ret, struct error *err) {
    struct volumes v = {.count = 0};
    if (volumes_check(spec, allowed, named, err))
        return -1;
    for (size_t i = 0; i < spec->volume_count; i++) {
        const struct volume_spec *want = &spec->volumes[i];
        struct stat st;
        cleanup_close int source = open_source(want, allowed, named, err);
        int tree = source < 0           ? -1
                   : fstat(source, &st) ? error_errno(err, errno, "%s", want->source)
                                        : 0;
        if (!tree && !S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
            tree = error_server(err, ERR_VOLUME_INVALID_HOST_PATH,
                                "volume \"%s\": %s is neither a directory nor a regular file",
                                want->name, want->source);
        if (!tree)
            tree = detach(source, want, user_namespace, err);
        if (tree < 0) {
            volumes_close(&v);
            return -1;
        }
        v.items[v.count++] = (struct volume){.fd = tree,
                                             .is_directory = S_ISDIR(st.st_mode),
                                             .read_only = want->read_only,
                                             .mount_path = want->mount_path};
    }
    qsort(v.items, v.count, sizeof v.items[0], by_depth);
    *ret = v;
    return 0;
}

void volumes_close(struct volumes *v) {
    for (size_t i = 0; i < v->count; i++)
        (void)close(v->items[i].fd);
    v->count = 0;
}
