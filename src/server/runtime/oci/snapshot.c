#include "server/runtime/oci/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "fmt/json.h"
#include "io/spawn.h"
#include "server/errors.h"
#include "server/runtime/oci/sandbox.h"

enum { COPY_MS = 600000, ERRORS_MAX = 4096, LAYER_JSON_MAX = 8192, NAME_SIZE = 96 };

#define TMP_PREFIX ".tmp-"

static bool id_is_name(const char *id) {
    return id && *id && *id != '.' && !strpbrk(id, "/:") && strlen(id) < SANDBOX_ID_SIZE;
}

// ---- bases ----

static json_int_t id_base(const struct oci *o) {
    return o->user_namespaces ? o->settings.id_base : 0;
}

json_t *base_of_image(const struct oci *o, const char *image_id) {
    return json_pack("{s:s, s:[], s:I}", "image", image_id, "layers", "ids", id_base(o));
}

json_t *base_read(const char *text, struct error *err) {
    cleanup_json json_t *j = json_parse(text, strlen(text), NULL, err);
    const json_t *layers = json_object_get(j, "layers"), *layer;
    size_t i;
    bool ok = json_is_string(json_object_get(j, "image")) && json_is_array(layers) &&
              json_array_size(layers) <= SNAPSHOT_LAYERS_MAX;
    json_array_foreach(layers, i, layer) {
        ok = ok && id_is_name(json_string_value(layer));
    }
    if (ok)
        return TAKE_PTR(j);
    (void)error_set(err, EINVAL, "the stored base of the sandbox is damaged");
    return NULL;
}

const char *base_image(const json_t *base) {
    return json_string_value(json_object_get(base, "image"));
}

size_t base_layers(const json_t *base) {
    return json_array_size(json_object_get(base, "layers"));
}

static const char *layer_at(const json_t *base, size_t i) {
    return json_string_value(json_array_get(json_object_get(base, "layers"), i));
}

// ---- references ----

int base_hold(struct oci *o, const json_t *base, const char *user, struct error *err) {
    json_int_t ids = json_integer_value(json_object_get(base, "ids"));
    if (ids != id_base(o))
        return error_server(err, ERR_SNAPSHOT_INVALID_RESTORE_CONFIG,
                            "the files of the snapshot belong to ids from %lld on, sandboxes have "
                            "those from %lld on: oci.id_base or oci.user_namespace was changed",
                            (long long)ids, (long long)id_base(o));
    for (size_t i = 0; i < base_layers(base); i++) {
        char name[NAME_SIZE];
        (void)snprintf(name, sizeof name, "%s:%s", user, layer_at(base, i));
        cleanup_close int fd =
            openat(o->layer_refs, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
            return error_errno(err, errno, "reference to snapshot %s", layer_at(base, i));
        // removal looks for references first and renames the layer then; we the other way round
        if (faccessat(o->layers, layer_at(base, i), F_OK, AT_SYMLINK_NOFOLLOW))
            return error_server(err, ERR_SNAPSHOT_NOT_FOUND, "snapshot %s is not there any more",
                                layer_at(base, i));
    }
    return image_store_ref(o->images, base_image(base), user, err);
}

// Calls f for every reference, "user" and "layer" apart; its non-zero return ends it.
static int each_reference(struct oci *o, int (*f)(const char *name, const char *layer, void *arg),
                          void *arg) {
    int r = 0, fd = openat(o->layer_refs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        (void)close(fd);
    for (struct dirent *e; d && !r && (e = readdir(d));) {
        const char *colon = strchr(e->d_name, ':');
        if (colon)
            r = f(e->d_name, colon + 1, arg);
    }
    if (d)
        (void)closedir(d);
    return d ? r : -1;
}

struct release {
    int refs;
    const char *user;
};

static int release_one(const char *name, const char *layer, void *arg) {
    const struct release *x = arg;
    size_t len = strlen(x->user);
    (void)layer;
    if (strncmp(name, x->user, len) == 0 && name[len] == ':')
        (void)unlinkat(x->refs, name, 0); // gone already is as good
    return 0;
}

void base_release(struct oci *o, const char *user) {
    struct release x = {.refs = o->layer_refs, .user = user};
    if (o->layer_refs >= 0)
        (void)each_reference(o, release_one, &x); // what stays is swept at start
    if (o->images)
        image_store_unref(o->images, user);
}

static int is_layer(const char *name, const char *layer, void *arg) {
    (void)name;
    return strcmp(layer, arg) == 0;
}

int base_link(const json_t *base, int dir, struct error *err) {
    for (size_t i = 0; i < base_layers(base); i++) {
        char name[24], target[NAME_SIZE];
        (void)snprintf(name, sizeof name, "l%zu", i);
        (void)snprintf(target, sizeof target, "../../layers/%s/rootfs", layer_at(base, i));
        if (symlinkat(target, dir, name))
            return error_errno(err, errno, "layer %zu of the sandbox", i);
    }
    return 0;
}

// ---- taking ----

static int copy_tree(struct oci *o, const char *id, const char *tmp, struct error *err) {
    char from[OCI_PATH_SIZE + 128], to[OCI_PATH_SIZE + 128];
    cleanup_strbuf struct strbuf words;
    struct exit_status status;
    strbuf_init(&words, ERRORS_MAX);
    (void)snprintf(from, sizeof from, "%s/sandboxes/%s/upper", o->dir_path, id);
    (void)snprintf(to, sizeof to, "%s/layers/%s/rootfs", o->dir_path, tmp);
    const char *const argv[] = {"cp", "-a", "--reflink=auto", "-T", "--", from, to, NULL};
    static char *const env[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
    const struct spawn s = {.argv = (char *const *)argv,
                            .envp = env,
                            .stdio = {-1, -1, -1},
                            .flags = SPAWN_NEW_GROUP | SPAWN_DIE_WITH_US | SPAWN_SEARCH_PATH};
    if (spawn_run(&s, NULL, 0, NULL, &words, COPY_MS, &status, err))
        return error_wrap(err, "copy the sandbox's files");
    if (!status.code && !status.signal)
        return 0;
    bool full = strstr(words.data, strerror(ENOSPC)) != NULL;
    return full ? error_server(err, ERR_R_DISK_FULL, "copy the sandbox's files: %.300s", words.data)
                : error_set(err, EIO, "copy the sandbox's files: %.300s", words.data);
}

// What a restore makes anew goes, and so does whatever a sandbox put in the place of a mount point:
// runc 1.1.5 follows a linked /dev to the host (oci-runtime.md section 6).
static int clean_layer(int root, struct error *err) {
    static const char *const points[] = {"dev", "proc", "sys"};
    static const char *const files[] = {"hosts", "hostname", "resolv.conf"};
    struct stat st;
    for (size_t i = 0; i < ARRAY_SIZE(points); i++)
        if (!fstatat(root, points[i], &st, AT_SYMLINK_NOFOLLOW) && !S_ISDIR(st.st_mode) &&
            unlinkat(root, points[i], 0))
            return error_errno(err, errno, "/%s of the snapshot", points[i]);
    cleanup_close int etc = openat(root, "etc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    for (size_t i = 0; etc >= 0 && i < ARRAY_SIZE(files); i++)
        if (path_remove_tree(etc, files[i], err))
            return -1;
    return 0;
}

static int write_layer_json(int tmp, const json_t *artifact, struct error *err) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, LAYER_JSON_MAX);
    if (json_write(artifact, &sb))
        return error_set(err, ENOMEM, "out of memory");
    return fd_replace_file(tmp, "layer.json", sb.data, sb.len, 0600, err);
}

static json_t *artifact_of(const char *base, const char *snapshot_id, struct error *err) {
    cleanup_json json_t *j = base_read(base, err);
    if (j && base_layers(j) == SNAPSHOT_LAYERS_MAX) {
        (void)error_server(err, ERR_INVALID_PARAMETER,
                           "the sandbox stands on %d snapshots already, the most there may be",
                           SNAPSHOT_LAYERS_MAX);
        return NULL;
    }
    if (j)
        (void)json_array_append_new(json_object_get(j, "layers"), json_string(snapshot_id));
    return TAKE_PTR(j);
}

static int return_artifact(const json_t *artifact, char *ret, struct error *err) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, RUNTIME_STATE_MAX - 1);
    if (json_write(artifact, &sb))
        return error_set(err, EOVERFLOW, "the snapshot's description is too long");
    memcpy(ret, sb.data, sb.len + 1);
    return 0;
}

static int copy_frozen(struct oci *o, const char *id, const char *tmp, struct error *err) {
    struct error thaw;
    char mark[SANDBOX_ID_SIZE + sizeof "/" SNAPSHOT_FROZEN_FILE];
    (void)snprintf(mark, sizeof mark, "%s/" SNAPSHOT_FROZEN_FILE, id);
    cleanup_close int fd =
        openat(o->sandboxes, mark, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, errno, "mark of the frozen sandbox");
    int r = cgroup_freeze(&o->cgroups, id, err) ? error_wrap(err, "freeze the sandbox")
                                                : copy_tree(o, id, tmp, err);
    if (cgroup_thaw(&o->cgroups, id, &thaw) && !r)
        r = error_set(err, thaw.kind, "thaw the sandbox: %s", thaw.message);
    (void)unlinkat(o->sandboxes, mark, 0); // one that stays is looked at by an adoption only
    return r;
}

static int fill(struct oci *o, const char *id, const char *tmp, const json_t *artifact,
                struct error *err) {
    cleanup_close int dir = openat(o->layers, tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return error_errno(err, errno, "directory of the snapshot");
    if (copy_frozen(o, id, tmp, err))
        return -1;
    cleanup_close int root = openat(dir, "rootfs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (root < 0)
        return error_errno(err, errno, "root of the snapshot");
    return clean_layer(root, err) || write_layer_json(dir, artifact, err) ? -1 : 0;
}

int snapshot_make(struct oci *o, const char *id, const char *snapshot_id, char *ret_artifact,
                  struct error *err) {
    const struct box *b = box_find(o, id);
    char tmp[NAME_SIZE];
    struct error undo;
    if (!b || b->retired || !b->base || !id_is_name(snapshot_id))
        return error_server(err, ERR_R_SANDBOX_NOT_FOUND, "no sandbox %s", id);
    cleanup_json json_t *artifact = artifact_of(b->base, snapshot_id, err);
    cleanup_json json_t *below = artifact ? base_read(b->base, err) : NULL;
    if (!below || return_artifact(artifact, ret_artifact, err))
        return -1;
    (void)snprintf(tmp, sizeof tmp, TMP_PREFIX "%s", snapshot_id);
    if (mkdirat(o->layers, tmp, 0700))
        return error_errno(err, errno, "directory of the snapshot");
    if (!base_hold(o, below, snapshot_id, err) && !fill(o, id, tmp, artifact, err)) {
        if (!renameat(o->layers, tmp, o->layers, snapshot_id))
            return 0;
        (void)error_errno(err, errno, "publish the snapshot");
    }
    base_release(o, snapshot_id);
    (void)path_remove_tree(o->layers, tmp, &undo); // tried again at start
    return -1;
}

// ---- finding and removing ----

int snapshot_look(struct oci *o, const char *snapshot_id, char *ret_artifact, struct error *err) {
    char name[NAME_SIZE];
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, LAYER_JSON_MAX);
    if (!id_is_name(snapshot_id) || faccessat(o->layers, snapshot_id, F_OK, AT_SYMLINK_NOFOLLOW))
        return 0;
    (void)snprintf(name, sizeof name, "%s/layer.json", snapshot_id);
    if (fd_read_file(o->layers, name, &sb, err))
        return -1;
    cleanup_json json_t *j = base_read(sb.data, err);
    if (!j || return_artifact(j, ret_artifact, err))
        return -1;
    return 1;
}

int snapshot_destroy(struct oci *o, const char *snapshot_id, struct error *err) {
    int used = id_is_name(snapshot_id) ? each_reference(o, is_layer, (void *)snapshot_id) : 0;
    if (used < 0)
        return error_errno(err, errno, "references to snapshots");
    if (used)
        return error_set(err, EBUSY, "snapshot %s is in use", snapshot_id);
    if (id_is_name(snapshot_id) && chores_discard(o->chores, o->layers, snapshot_id, err))
        return -1;
    base_release(o, snapshot_id);
    return 0;
}

// ---- the start ----

static int open_dir(struct oci *o, const char *name, int *ret, struct error *err) {
    if (mkdirat(o->dir, name, 0700) && errno != EEXIST)
        return error_errno(err, errno, "directory %s", name);
    *ret = openat(o->dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *ret < 0 ? error_errno(err, errno, "directory %s", name) : 0;
}

static int remove_ruins(struct oci *o, struct error *err) {
    int r = 0, fd = openat(o->layers, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            (void)close(fd);
        return error_errno(err, errno, "directory of snapshots");
    }
    for (struct dirent *e; !r && (e = readdir(d));)
        if (strncmp(e->d_name, TMP_PREFIX, strlen(TMP_PREFIX)) == 0) {
            base_release(o, e->d_name + strlen(TMP_PREFIX));
            // moved, not emptied here: the copy of a server that was killed may still be dying
            r = chores_discard(o->chores, o->layers, e->d_name, err);
        }
    (void)closedir(d);
    return r;
}

int snapshots_open(struct oci *o, struct error *err) {
    if (open_dir(o, "layers", &o->layers, err) || open_dir(o, "layer-refs", &o->layer_refs, err))
        return -1;
    return remove_ruins(o, err);
}
