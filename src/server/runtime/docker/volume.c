// Volumes of a sandbox: host directories, and named volumes of the engine (docker-runtime.md
// section 6).
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/path.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/docker/adopt/adopt.h"
#include "server/runtime/docker/container.h"
#include "server/runtime/docker/volume/ossfs.h"

enum { PATH_SIZE = 4096 };

struct preparing {
    struct docker *d;
    const struct provision_request *q;
    const struct volume_spec *v;
    json_t *binds;
    bool own; // a volume was made that goes with the sandbox
};

static int add_bind(struct preparing *p, const char *source, struct error *err) {
    if (strchr(source, ':') || strchr(p->v->mount_path, ':'))
        return error_server(err, ERR_VOLUME_INVALID_MOUNT_PATH,
                            "volume \"%s\": the engine takes no path with a colon", p->v->name);
    return json_array_append_new(p->binds, json_sprintf("%s:%s:%s", source, p->v->mount_path,
                                                        p->v->read_only ? "ro" : "rw"))
               ? error_set(err, ENOMEM, "out of memory")
               : 0;
}

// ---- beneath a directory, without links: their target could change before the engine mounts it
// ----

static int open_beneath(int root, const char *path, const struct volume_spec *v, int *ret_fd,
                        struct error *err) {
    int fd = path_open(root, path, PATH_NO_SYMLINKS, O_PATH, 0);
    if (fd < 0 && errno == ENOENT)
        fd = path_make_dirs(root, path, 0755);
    if (fd >= 0) {
        *ret_fd = fd;
        return 0;
    }
    if (errno == ELOOP)
        return error_server(err, ERR_VOLUME_HOST_PATH_NOT_ALLOWED,
                            "volume \"%s\": a component of \"%s\" is a symbolic link", v->name,
                            path);
    return error_server(err, ERR_VOLUME_HOST_PATH_CREATE_FAILED, "volume \"%s\": \"%s\": %s",
                        v->name, path, strerror(errno));
}

static const char *rest_of(const char *base, const char *path) {
    const char *rest = path + (strcmp(base, "/") != 0 ? strlen(base) : 0);
    return *rest == '/' && rest[1] ? rest + 1 : ".";
}

static int host_source(struct preparing *p, char source[PATH_SIZE], struct error *err) {
    const struct volume_spec *v = p->v;
    bool sub = v->sub_path && *v->sub_path;
    docker_list allowed = p->d->settings.allowed_host_paths;
    if (snprintf(source, PATH_SIZE, "%s%s%s", v->source, sub ? "/" : "", sub ? v->sub_path : "") >=
            PATH_SIZE ||
        !path_is_clean(source))
        return error_server(err, sub ? ERR_VOLUME_INVALID_SUB_PATH : ERR_VOLUME_INVALID_HOST_PATH,
                            "volume \"%s\": host.path and subPath make no clean path", v->name);
    while (allowed && *allowed && !path_covers(*allowed, v->source))
        allowed++;
    if (!allowed || !*allowed)
        return error_server(err, ERR_VOLUME_HOST_PATH_NOT_ALLOWED,
                            "volume \"%s\": host.path %s lies under none of "
                            "storage.allowed_host_paths",
                            v->name, v->source);
    if (!engine_is_socket(p->d->engine))
        return 0; // the path is one of the engine's host, which we cannot look at
    cleanup_close int root = open(*allowed, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1;
    if (root < 0)
        return error_server(err, ERR_VOLUME_HOST_PATH_CREATE_FAILED, "volume \"%s\": %s: %s",
                            v->name, *allowed, strerror(errno));
    return open_beneath(root, rest_of(*allowed, source), v, &fd, err);
}

// ---- named volumes ----

static int volume_path(const char *name, struct strbuf *path) {
    strbuf_init(path, ENGINE_PATH_MAX);
    (void)strbuf_adds(path, "/volumes/");
    engine_escape(path, name);
    return path->failed ? -1 : 0;
}

static int pvc_failed(const struct preparing *p, struct error *err) {
    struct error cause = *err;
    if (engine_is_away(&cause))
        return -1;
    return error_server(err, ERR_VOLUME_PVC_INSPECT_FAILED, "volume \"%s\": %.900s", p->v->name,
                        cause.message);
}

static int make_volume(struct preparing *p, json_t **ret, struct error *err) {
    cleanup_json json_t *labels = json_pack("{s:s}", LABEL_MANAGED_BY, "server");
    if (p->v->delete_with_sandbox) { // it is the sandbox's own: found again by these
        cleanup_json json_t *owner = docker_owner_labels(p->d, p->q->id);
        (void)json_object_update(labels, owner);
        p->own = true;
    }
    cleanup_json json_t *body = json_pack("{s:s,s:O}", "Name", p->v->source, "Labels", labels);
    const struct engine_call c = {.method = "POST", .path = "/volumes/create", .body = body};
    return engine_do(p->d->engine, &c, ret, err);
}

static int find_volume(struct preparing *p, json_t **ret, struct error *err) {
    struct strbuf path cleanup_strbuf;
    if (volume_path(p->v->source, &path))
        return error_set(err, ENOMEM, "out of memory");
    const struct engine_call c = {.method = "GET", .path = path.data};
    if (engine_do(p->d->engine, &c, ret, err) == 0)
        return 0;
    if (err->kind != ENOENT)
        return pvc_failed(p, err);
    if (p->v->must_exist)
        return error_server(err, ERR_VOLUME_PVC_NOT_FOUND, "volume \"%s\": there is no volume %s",
                            p->v->name, p->v->source);
    (void)engine_forgive(err);
    if (make_volume(p, ret, err) == 0)
        return 0;
    if (err->kind != EINVAL)
        return pvc_failed(p, err);
    struct error cause = *err; // engines want two letters at least
    return error_server(err, ERR_VOLUME_INVALID_PVC_NAME, "volume \"%s\": %.900s", p->v->name,
                        cause.message);
}

// A directory of a volume: beneath its mount point on this host, without links.
static int sub_source(struct preparing *p, const json_t *volume, char source[PATH_SIZE],
                      struct error *err) {
    const char *driver = json_string_value(json_object_get(volume, "Driver"));
    const char *mount = json_string_value(json_object_get(volume, "Mountpoint"));
    const struct volume_spec *v = p->v;
    if (!driver || strcmp(driver, "local") != 0 || !mount || !*mount ||
        !engine_is_socket(p->d->engine))
        return error_server(err, ERR_VOLUME_PVC_SUBPATH_UNSUPPORTED_DRIVER,
                            "volume \"%s\": subPath needs a volume of the driver \"local\" on an "
                            "engine of this host",
                            v->name);
    if (snprintf(source, PATH_SIZE, "%s/%s", mount, v->sub_path) >= PATH_SIZE ||
        !path_is_clean(source))
        return error_server(err, ERR_VOLUME_INVALID_SUB_PATH,
                            "volume \"%s\": subPath \"%s\" is not relative and clean", v->name,
                            v->sub_path);
    cleanup_close int root = open(mount, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1;
    if (root < 0)
        return error_server(err, ERR_VOLUME_PVC_SUBPATH_UNSUPPORTED_DRIVER,
                            "volume \"%s\": this server cannot look into %s: %s", v->name, mount,
                            strerror(errno));
    if (open_beneath(root, v->sub_path, v, &fd, err))
        return error_server(err, ERR_VOLUME_INVALID_SUB_PATH,
                            "volume \"%s\": subPath \"%s\" is no directory beneath the volume",
                            v->name, v->sub_path);
    return 0;
}

static int named(struct preparing *p, struct error *err) {
    char source[PATH_SIZE];
    cleanup_json json_t *volume = NULL;
    if (find_volume(p, &volume, err))
        return -1;
    if (!p->v->sub_path || !*p->v->sub_path)
        return add_bind(p, p->v->source, err);
    return sub_source(p, volume, source, err) ? -1 : add_bind(p, source, err);
}

static int host(struct preparing *p, struct error *err) {
    char source[PATH_SIZE];
    return host_source(p, source, err) ? -1 : add_bind(p, source, err);
}

static int bucket(struct preparing *p, struct error *err) {
    char source[PATH_SIZE];
    p->own = true; // also after a failure: what is mounted goes with the destroy
    return ossfs_mount(p->d, p->q->id, p->v, source, err) ? -1 : add_bind(p, source, err);
}

int docker_volumes_prepare(struct docker *d, const struct provision_request *q, json_t *binds,
                           bool *ret_own, struct error *err) {
    struct preparing p = {.d = d, .q = q, .binds = binds};
    int r = 0;
    for (size_t i = 0; i < q->spec->volume_count && !r; i++) {
        p.v = &q->spec->volumes[i];
        r = p.v->kind == VOLUME_HOST    ? host(&p, err)
            : p.v->kind == VOLUME_OSSFS ? bucket(&p, err)
                                        : named(&p, err);
    }
    *ret_own = p.own; // also after a failure: the destroy takes them away
    return r;
}

int docker_volumes_remove(struct docker *d, const char *id, struct error *err) {
    cleanup_json json_t *volumes = NULL;
    cleanup_json json_t *filters =
        json_pack("{s:[o]}", "label", json_sprintf("%s=%s", LABEL_ID, id));
    struct strbuf text cleanup_strbuf, path cleanup_strbuf;
    const json_t *one;
    size_t i;
    strbuf_init(&text, 1024);
    strbuf_init(&path, ENGINE_PATH_MAX);
    if (ossfs_release(d, id, err))
        return -1;
    if (!filters || json_write(filters, &text))
        return error_set(err, ENOMEM, "out of memory");
    (void)strbuf_adds(&path, "/volumes?filters=");
    engine_escape(&path, text.data);
    const struct engine_call list = {.method = "GET", .path = path.data};
    if (engine_do(d->engine, &list, &volumes, err))
        return -1;
    json_array_foreach(json_object_get(volumes, "Volumes"), i, one) {
        const char *name = json_string_value(json_object_get(one, "Name"));
        strbuf_free(&path);
        if (!name || volume_path(name, &path))
            continue;
        if (foreign_follow(d->engine, one, err))
            return -1;
        const struct engine_call c = {.method = "DELETE", .path = path.data};
        if (engine_do(d->engine, &c, NULL, err) && err->kind != ENOENT)
            return error_wrap(err, "volume %s", name);
        (void)engine_forgive(err);
    }
    return 0;
}
