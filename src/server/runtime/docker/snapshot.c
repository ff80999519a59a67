// Snapshots: the engine's commit of a container, as an image of a name of our own
// (docker-runtime.md section 7).
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/docker/internal.h"

enum { NAMES_MAX = 16384 };

static int image_path(const char *snapshot_id, const char *suffix, struct strbuf *path) {
    strbuf_init(path, ENGINE_PATH_MAX);
    (void)strbuf_adds(path, "/images/" SNAPSHOT_IMAGES ":");
    engine_escape(path, snapshot_id);
    return strbuf_adds(path, suffix);
}

static bool has_variable(const json_t *env, const char *assignment) {
    size_t i, n = strcspn(assignment, "=");
    const json_t *one;
    json_array_foreach(env, i, one) {
        if (strncmp(json_string_value(one), assignment, n) == 0 &&
            strchr("=", json_string_value(one)[n]))
            return true;
    }
    return false;
}

// The engine's own, which Podman lists among the container's.
static bool is_engines(const char *assignment, size_t n) {
    static const char *const names[] = {"PATH", "HOME", "TERM", "HOSTNAME", "container"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strlen(names[i]) == n && strncmp(names[i], assignment, n) == 0)
            return true;
    return false;
}

// A commit bakes the whole environment in, secrets too. What the image did not have is noted, so
// that a restored sandbox gets none of it (B14). Names that a label cannot hold are no names of
// variables that anybody uses.
static void add_names(const json_t *env, const json_t *of_image, struct strbuf *names) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    size_t i;
    const json_t *one;
    json_array_foreach(env, i, one) {
        const char *text = json_string_value(one);
        size_t n = text ? strcspn(text, "=") : 0;
        if (!n || strspn(text, plain) < n || is_engines(text, n) || has_variable(of_image, text))
            continue;
        (void)strbuf_addf(names, "%s%.*s", names->len ? "," : "", (int)n, text);
    }
}

static int find_names(struct docker *d, const char *id, struct strbuf *names, struct error *err) {
    cleanup_json json_t *container = NULL;
    cleanup_json json_t *image = NULL;
    if (engine_get(d->engine, &container, err, "/containers/sandbox-%s/json", id))
        return -1;
    const char *image_id = json_string_value(json_object_get(container, "Image"));
    if (engine_get(d->engine, &image, err, "/images/%s/json", image_id ? image_id : "")) {
        if (err->kind != ENOENT)
            return -1;
        (void)engine_forgive(err); // removed by force: then all names are noted
    }
    const char *older = json_string_value( // of the snapshot that it was restored from
        json_object_get(json_object_get(json_object_get(image, "Config"), "Labels"),
                        LABEL_SNAPSHOT_ENV));
    (void)strbuf_adds(names, older ? older : "");
    add_names(json_object_get(json_object_get(container, "Config"), "Env"),
              json_object_get(json_object_get(image, "Config"), "Env"), names);
    return names->failed ? error_set(err, E2BIG, "the environment is too large to be kept") : 0;
}

static void write_artifact(const char *snapshot_id, char *ret) {
    (void)snprintf(ret, RUNTIME_STATE_MAX, "{\"image\":\"" SNAPSHOT_IMAGES ":%s\"}", snapshot_id);
}

static int commit(struct docker *d, const char *id, const char *snapshot_id, const char *names,
                  struct error *err) {
    struct strbuf path cleanup_strbuf, change cleanup_strbuf;
    cleanup_json json_t *nothing = json_object();
    strbuf_init(&path, 4 * NAMES_MAX);
    strbuf_init(&change, 2 * NAMES_MAX);
    (void)strbuf_addf(&path, "/commit?container=sandbox-%s&repo=" SNAPSHOT_IMAGES "&tag=", id);
    engine_escape(&path, snapshot_id);
    (void)strbuf_addf(&change, "LABEL " LABEL_SNAPSHOT_ENV "=%s", *names ? names : ",");
    // without control groups nothing can be made to stand still
    (void)strbuf_addf(&path, "&pause=%s&changes=", d->no_limits ? "false" : "true");
    engine_escape(&path, change.data);
    const struct engine_call c = {
        .method = "POST", .path = path.data, .body = nothing, .patient = true};
    if (path.failed || change.failed)
        return error_set(err, E2BIG, "the environment is too large to be kept");
    return engine_do(d->engine, &c, NULL, err);
}

int docker_snapshot(struct docker *d, const char *id, const char *snapshot_id, char *ret_artifact,
                    struct error *err) {
    struct strbuf names cleanup_strbuf;
    strbuf_init(&names, NAMES_MAX);
    if (find_names(d, id, &names, err) || commit(d, id, snapshot_id, names.data, err)) {
        if (err->kind == ENOENT)
            return error_server(err, ERR_R_SANDBOX_NOT_FOUND, "the engine has no sandbox %s", id);
        return -1;
    }
    write_artifact(snapshot_id, ret_artifact);
    return 0;
}

int docker_snapshot_find(struct docker *d, const char *snapshot_id, char *ret_artifact,
                         struct error *err) {
    struct strbuf path cleanup_strbuf;
    if (image_path(snapshot_id, "/json", &path))
        return error_set(err, ENOMEM, "out of memory");
    const struct engine_call c = {.method = "GET", .path = path.data};
    if (engine_do(d->engine, &c, NULL, err))
        return err->kind == ENOENT ? engine_forgive(err) : -1;
    write_artifact(snapshot_id, ret_artifact);
    return 1;
}

// The engine keeps the layers that others stand on; it refuses only while a container uses the
// image.
int docker_snapshot_remove(struct docker *d, const char *snapshot_id, struct error *err) {
    struct strbuf path cleanup_strbuf;
    if (image_path(snapshot_id, "", &path))
        return error_set(err, ENOMEM, "out of memory");
    const struct engine_call c = {.method = "DELETE", .path = path.data};
    if (engine_do(d->engine, &c, NULL, err) == 0)
        return 0;
    return err->kind == ENOENT ? engine_forgive(err) : -1;
}
