// Images of the engine: found, or pulled; what is known to be there is remembered until the engine
// tells of a change.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/handoff.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/docker/auth.h"
#include "server/runtime/docker/container.h"
#include "server/runtime/docker/internal.h"

enum { LINE_MAX_BYTES = 1024 * 1024, KEY_MAX = 2048, INHERITED_MAX = 1024 };

static void key_of(const struct image_request *q, char key[KEY_MAX]) {
    (void)snprintf(key, KEY_MAX, "%.32s/%.32s %.1900s", q->os ? q->os : "", q->arch ? q->arch : "",
                   q->reference);
}

static int out_of_memory(struct error *err) {
    return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
}

// ---- what is known ----

bool docker_image_ready(struct docker *d, const struct image_request *q, struct image_info *ret) {
    char key[KEY_MAX];
    if (q->always_pull)
        return false;
    key_of(q, key);
    (void)pthread_mutex_lock(&d->lock);
    const struct image_info *known = map_get(&d->ready, key);
    if (known)
        *ret = *known;
    (void)pthread_mutex_unlock(&d->lock);
    return known != NULL;
}

static void note_ready(struct docker *d, const struct image_request *q,
                       const struct image_info *info) {
    char key[KEY_MAX];
    struct image_info *copy = malloc(sizeof *copy);
    if (!copy)
        return; // it is asked for again
    *copy = *info;
    key_of(q, key);
    (void)pthread_mutex_lock(&d->lock);
    struct image_info *old = map_get(&d->ready, key);
    if (map_put(&d->ready, key, copy)) {
        free(copy);
        old = NULL;
    }
    (void)pthread_mutex_unlock(&d->lock);
    free(old);
}

static bool drop_one(const char *key, void *value, void *arg) {
    struct map *m = arg;
    free(map_remove(m, key));
    (void)value;
    return true;
}

static bool drop_inherited(const char *key, void *value, void *arg) {
    struct map *m = arg;
    (void)map_remove(m, key);
    json_decref(value);
    return true;
}

void docker_image_forget(struct docker *d) {
    (void)pthread_mutex_lock(&d->lock);
    map_each(&d->ready, drop_one, &d->ready);
    (void)pthread_mutex_unlock(&d->lock);
}

void docker_image_clear(struct docker *d) {
    docker_image_forget(d);
    map_each(&d->inherited, drop_inherited, &d->inherited);
    map_clear(&d->ready);
    map_clear(&d->inherited);
}

// ---- what a container would have of its image ----

static void split(const char *names, json_t *list) {
    for (; *names; names += strspn(names, ",")) {
        size_t n = strcspn(names, ",");
        if (n)
            json_array_append_new(list, json_stringn(names, n));
        names += n;
    }
}

static json_t *inherited_of(const json_t *image) {
    json_t *labels = json_object_get(json_object_get(image, "Config"), "Labels");
    json_t *names = json_array(), *env = json_array();
    const char *name;
    json_t *value;
    size_t i;
    json_array_foreach(json_object_get(json_object_get(image, "Config"), "Env"), i, value) {
        const char *one = json_string_value(value);
        if (one && docker_assigns(one, LIFECYCLE_VARIABLE)) // nobody here asked for those
            json_array_append_new(env, json_string(LIFECYCLE_VARIABLE));
    }
    json_object_foreach(labels, name, value) {
        if (strncmp(name, LABEL, strlen(LABEL)) == 0)
            json_array_append_new(names, json_string(name));
        if (strcmp(name, LABEL_SNAPSHOT_ENV) == 0 && json_is_string(value))
            split(json_string_value(value), env);
    }
    return json_pack("{s:o,s:o}", "labels", names, "env", env);
}

static void note_inherited(struct docker *d, const char *id, json_t *labels) {
    (void)pthread_mutex_lock(&d->lock);
    if (d->inherited.count >= INHERITED_MAX)
        map_each(&d->inherited, drop_inherited, &d->inherited);
    json_t *old = map_get(&d->inherited, id);
    if (map_put(&d->inherited, id, json_incref(labels)) < 0)
        old = labels; // the reference that the map did not take
    (void)pthread_mutex_unlock(&d->lock);
    json_decref(old);
}

int docker_image_inherited(struct docker *d, const char *image_id, json_t **ret,
                           struct error *err) {
    cleanup_json json_t *image = NULL;
    (void)pthread_mutex_lock(&d->lock);
    *ret = json_incref(map_get(&d->inherited, image_id));
    (void)pthread_mutex_unlock(&d->lock);
    if (*ret)
        return 0;
    if (engine_get(d->engine, &image, err, "/images/%s/json", image_id))
        return err->kind == ENOENT ? error_server(err, ERR_R_IMAGE_NOT_FOUND,
                                                  "image %s is not there any more", image_id)
                                   : -1;
    *ret = inherited_of(image);
    if (!*ret)
        return out_of_memory(err);
    note_inherited(d, image_id, *ret);
    return 0;
}

// ---- looking ----

static bool same_architecture(const char *wanted, const char *has) {
    static const char *const names[][2] = {{"x86_64", "amd64"},
                                           {"x86-64", "amd64"},
                                           {"aarch64", "arm64"},
                                           {"arm64/v8", "arm64"},
                                           {"arm64v8", "arm64"}};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcasecmp(wanted, names[i][0]) == 0)
            wanted = names[i][1];
        if (strcasecmp(has, names[i][0]) == 0)
            has = names[i][1];
    }
    return strcasecmp(wanted, has) == 0;
}

static const char *text_of(const json_t *j, const char *name) {
    const char *text = json_string_value(json_object_get(j, name));
    return text ? text : "";
}

// Only a platform that was asked for is compared: an image of another one that lies there is
// somebody's choice.
static bool fits(const struct image_request *q, const json_t *image) {
    return (!q->arch || same_architecture(q->arch, text_of(image, "Architecture"))) &&
           (!q->os || strcasecmp(q->os, "windows") == 0 ||
            strcasecmp(q->os, text_of(image, "Os")) == 0);
}

// 1: there; 0: not there, or of another platform; -1 with err.
static int look(struct docker *d, const struct image_request *q, struct image_info *ret,
                struct error *err) {
    cleanup_json json_t *image = NULL;
    struct strbuf path cleanup_strbuf;
    strbuf_init(&path, ENGINE_PATH_MAX);
    engine_escape(&path, q->reference);
    if (path.failed)
        return error_server(err, ERR_R_IMAGE_NOT_FOUND, "image.uri is too long");
    if (engine_get(d->engine, &image, err, "/images/%s/json", path.data)) {
        if (err->kind == ENOENT)
            return engine_forgive(err);
        return err->kind == EINVAL ? error_server(err, ERR_R_IMAGE_NOT_FOUND,
                                                  "image \"%.300s\" is malformed", q->reference)
                                   : -1;
    }
    if (!fits(q, image))
        return 0;
    cleanup_json json_t *labels = inherited_of(image);
    const char *id = text_of(image, "Id");
    if (!labels || !*id || strlen(id) >= sizeof ret->id)
        return error_set(err, EPROTO, "the engine tells no id of image %.300s", q->reference);
    (void)snprintf(ret->id, sizeof ret->id, "%s", id);
    ret->bytes = (uint64_t)json_integer_value(json_object_get(image, "Size"));
    note_inherited(d, ret->id, labels);
    return 1;
}

// ---- pulling ----

struct pull {
    struct strbuf line;
    char error[600];
};

// Errors come inside of a stream that began with 200; the last one counts.
static void read_line(struct pull *p) {
    struct error ignored;
    cleanup_json json_t *j = json_parse(p->line.data, p->line.len, NULL, &ignored);
    const char *message =
        json_string_value(json_object_get(json_object_get(j, "errorDetail"), "message"));
    if (!message)
        message = json_string_value(json_object_get(j, "error"));
    if (message)
        (void)snprintf(p->error, sizeof p->error, "%s", message);
}

static int on_piece(void *arg, const char *data, size_t len) {
    struct pull *p = arg;
    while (len) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        if (strbuf_add(&p->line, data, n))
            return -1;
        if (end) {
            read_line(p);
            strbuf_clear(&p->line);
            n++;
        }
        data += n;
        len -= n;
    }
    return 0;
}

// Engines tell what was wrong in words only. The first that fit count: what a registry sends beside
// another status than 200 may be no JSON without any image being broken.
static int pull_failed(const struct image_request *q, const char *why, int kind,
                       struct error *err) {
    static const struct {
        const char *words;
        enum error_id code;
    } table[] = {{"no space left on device", ERR_R_DISK_FULL},
                 {"error parsing HTTP 404", ERR_R_IMAGE_NOT_FOUND},
                 {"error parsing HTTP", ERR_R_SANDBOX_IMAGE_PULL_FAILED},
                 {"unauthorized", ERR_R_IMAGE_UNAUTHORIZED},
                 {"authentication required", ERR_R_IMAGE_UNAUTHORIZED},
                 {"incorrect username or password", ERR_R_IMAGE_UNAUTHORIZED},
                 {"no basic auth", ERR_R_IMAGE_UNAUTHORIZED},
                 {"denied", ERR_R_IMAGE_UNAUTHORIZED},
                 {"no matching manifest", ERR_R_IMAGE_INVALID},
                 {"json: cannot unmarshal", ERR_R_IMAGE_INVALID},
                 {"invalid character", ERR_R_IMAGE_INVALID},
                 {"unexpected end of JSON", ERR_R_IMAGE_INVALID},
                 {"missing signature key", ERR_R_IMAGE_INVALID},
                 {"unsupported media type", ERR_R_IMAGE_INVALID},
                 {"verification failed for digest", ERR_R_IMAGE_INVALID},
                 {"layers from manifest don't match", ERR_R_IMAGE_INVALID},
                 {"failed to register layer", ERR_R_IMAGE_INVALID},
                 {"cannot be used on this platform", ERR_R_IMAGE_INVALID},
                 {"manifest unknown", ERR_R_IMAGE_NOT_FOUND},
                 {"does not exist", ERR_R_IMAGE_NOT_FOUND},
                 {"invalid reference", ERR_R_IMAGE_NOT_FOUND},
                 {"not found", ERR_R_IMAGE_NOT_FOUND}};
    enum error_id code = kind == ENOENT   ? ERR_R_IMAGE_NOT_FOUND
                         : kind == EACCES ? ERR_R_IMAGE_UNAUTHORIZED
                                          : ERR_R_SANDBOX_IMAGE_PULL_FAILED;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (strcasestr(why, table[i].words)) {
            code = table[i].code;
            break;
        }
    }
    return error_server(err, code, "image \"%.300s\": %.500s", q->reference, why);
}

// "repo[:tag][@digest]"; a colon before the last slash is a port.
static int pull_path(const struct image_request *q, struct strbuf *path) {
    const char *slash = strrchr(q->reference, '/'), *name = slash ? slash : q->reference;
    const char *end = strchr(name, '@');
    const char *tag = end ? end + 1 : NULL;
    if (!end && (end = strchr(name, ':')))
        tag = end + 1;
    char *repo cleanup_free =
        strndup(q->reference, end ? (size_t)(end - q->reference) : strlen(q->reference));
    if (!repo)
        return -1;
    (void)strbuf_adds(path, "/images/create?fromImage=");
    engine_escape(path, repo);
    (void)strbuf_adds(path, "&tag=");
    engine_escape(path, tag && *tag ? tag : "latest");
    if (q->os && q->arch && strcasecmp(q->os, "windows") != 0) {
        (void)strbuf_adds(path, "&platform=");
        (void)strbuf_addf(path, "%.32s/%.32s", q->os, q->arch);
    }
    return path->failed ? -1 : 0;
}

static int pull(struct docker *d, const struct image_request *q, struct error *err) {
    struct strbuf path cleanup_strbuf;
    struct pull p = {.error = ""};
    char *auth = NULL;
    strbuf_init(&path, ENGINE_PATH_MAX);
    strbuf_init(&p.line, LINE_MAX_BYTES);
    if (pull_path(q, &path) || docker_auth_header(q, &auth, err))
        return path.failed ? out_of_memory(err) : -1;
    const struct engine_call c = {.method = "POST",
                                  .path = path.data,
                                  .registry_auth = auth,
                                  .patient = true,
                                  .piece = on_piece,
                                  .arg = &p};
    int r = engine_do(d->engine, &c, NULL, err);
    if (p.line.len)
        read_line(&p);
    strbuf_free(&p.line);
    docker_auth_free(auth);
    if (!r && p.error[0])
        return pull_failed(q, p.error, EIO, err);
    if (r && !engine_is_away(err)) {
        struct error cause = *err;
        return pull_failed(q, cause.message, cause.kind, err);
    }
    return r;
}

int docker_image_ensure(struct docker *d, const struct image_request *q, struct image_info *ret,
                        struct error *err) {
    struct image_info info = {.bytes = 0};
    int there = q->always_pull ? 0 : look(d, q, &info, err);
    if (there < 0)
        return -1;
    if (!there) {
        if (pull(d, q, err))
            return -1;
        there = look(d, q, &info, err);
        if (there < 0)
            return -1;
        if (!there)
            return error_server(
                err, q->arch ? ERR_R_IMAGE_INVALID : ERR_R_SANDBOX_IMAGE_PULL_FAILED,
                "image \"%.300s\" was pulled, but is not there%s%s/%s", q->reference,
                q->arch ? " for platform " : "", q->os ? q->os : "", q->arch ? q->arch : "");
    }
    note_ready(d, q, &info);
    *ret = info;
    return 0;
}
