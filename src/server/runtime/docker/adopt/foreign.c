// Finding them, marking them, and taking along what a marked one leaves behind.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/runtime/docker/adopt/parts.h"
#include "server/runtime/docker/windows/windows.h"

#define MARK             "opensandbox-adopted-"
#define LABEL_SIDECAR    LABEL "adopted-sidecar" // of a mark: the container that goes with it
#define LABEL_SIDECAR_OF LABEL "egress-sidecar-for"

static const char *id_of(const json_t *labels) {
    const char *id = foreign_label(labels, LABEL_ID);
    return id && strlen(id) == SANDBOX_ID_SIZE - 1 && !foreign_label(labels, LABEL_SERVER) ? id
                                                                                           : NULL;
}

// The server whose mark a sandbox has, "" for none.
static int marked_by(struct engine *e, const char *id, char server[16], struct error *err) {
    cleanup_json json_t *volume = NULL;
    struct strbuf path cleanup_strbuf;
    strbuf_init(&path, ENGINE_PATH_MAX);
    server[0] = '\0';
    (void)strbuf_adds(&path, "/volumes/" MARK);
    engine_escape(&path, id);
    const struct engine_call c = {.method = "GET", .path = path.data};
    if (engine_do(e, &c, &volume, err))
        return err->kind == ENOENT ? engine_forgive(err) : -1;
    const char *owner = foreign_label(json_object_get(volume, "Labels"), LABEL_SERVER);
    (void)snprintf(server, 16, "%s", owner ? owner : "?");
    return 0;
}

static const char *sidecar_of(const json_t *containers, const char *id) {
    const json_t *one;
    size_t i;
    json_array_foreach(containers, i, one) {
        const char *of = foreign_label(json_object_get(one, "Labels"), LABEL_SIDECAR_OF);
        if (of && strcmp(of, id) == 0)
            return json_string_value(json_object_get(one, "Id"));
    }
    return NULL;
}

static json_t *mark_of(const char *instance, const char *id, const char *sidecar,
                       const json_t *container) {
    json_t *labels = json_pack("{s:s,s:s}", LABEL_ID, id, LABEL_SERVER, instance);
    char *volumes cleanup_free = foreign_volumes(container);
    if (sidecar)
        json_object_set_new(labels, LABEL_SIDECAR, json_string(sidecar));
    if (volumes)
        json_object_set_new(labels, LABEL_MANAGED_BY, json_string(volumes));
    return labels;
}

struct search {
    struct engine *engine;
    const char *instance;
    const json_t *containers;
    foreign_fn *each;
    void *arg;
};

static int tell(struct search *s, const json_t *found, const char *id, struct error *err) {
    struct foreign f = {.expires_us = 0};
    char owner[16];
    cleanup_json json_t *container = NULL;
    const char *name = json_string_value(json_object_get(found, "Id"));
    if (marked_by(s->engine, id, owner, err))
        return -1;
    if (strcmp(owner, s->instance) == 0)
        return 0; // ours already
    if (engine_get(s->engine, &container, err, "/containers/%s/json", name ? name : ""))
        return err->kind == ENOENT ? engine_forgive(err) : -1;
    (void)snprintf(f.id, sizeof f.id, "%s", id);
    int r = foreign_describe(container, &f, err);
    if (!r && *owner)
        (void)snprintf(f.problem, sizeof f.problem, "server %s has taken it over", owner);
    f.mark = mark_of(s->instance, id, sidecar_of(s->containers, id), container);
    if (!r)
        r = s->each(&f, s->arg, err);
    json_decref(f.mark);
    spec_unref(f.spec);
    return r;
}

static int list(struct engine *e, json_t **ret, struct error *err) {
    return engine_get(e, ret, err, "/containers/json?all=1");
}

int foreign_each(struct engine *e, const char *instance, foreign_fn *each, void *arg,
                 struct error *err) {
    cleanup_json json_t *containers = NULL;
    const json_t *one;
    size_t i;
    if (list(e, &containers, err))
        return -1;
    struct search s = {
        .engine = e, .instance = instance, .containers = containers, .each = each, .arg = arg};
    json_array_foreach(containers, i, one) {
        const char *id = id_of(json_object_get(one, "Labels"));
        if (id && tell(&s, one, id, err))
            return -1;
    }
    return 0;
}

int foreign_count(struct engine *e, size_t *ret, struct error *err) {
    cleanup_json json_t *containers = NULL;
    const json_t *one;
    size_t i, n = 0;
    char owner[16];
    if (list(e, &containers, err))
        return -1;
    json_array_foreach(containers, i, one) {
        const char *id = id_of(json_object_get(one, "Labels"));
        if (id && marked_by(e, id, owner, err))
            return -1;
        n += id && !*owner;
    }
    *ret = n;
    return 0;
}

int foreign_claim(struct engine *e, const char *instance, const struct foreign *f,
                  struct error *err) {
    cleanup_json json_t *reply = NULL;
    cleanup_json json_t *body =
        json_pack("{s:o,s:O}", "Name", json_sprintf(MARK "%s", f->id), "Labels", f->mark);
    const struct engine_call c = {.method = "POST", .path = "/volumes/create", .body = body};
    if (engine_do(e, &c, &reply, err))
        return error_wrap(err, "mark of sandbox %s", f->id);
    const char *owner = foreign_label(json_object_get(reply, "Labels"), LABEL_SERVER);
    return owner && strcmp(owner, instance) == 0 // of one that is there already the engine tells
               ? 0
               : error_set(err, EEXIST, "sandbox %s: server %.16s has taken it over", f->id,
                           owner ? owner : "?");
}

// ---- what a mark takes along ----

static int remove_one(struct engine *e, const char *what, const char *name, const char *query,
                      struct error *err) {
    struct strbuf path cleanup_strbuf;
    strbuf_init(&path, ENGINE_PATH_MAX);
    (void)strbuf_adds(&path, what);
    engine_escape(&path, name);
    (void)strbuf_adds(&path, query);
    const struct engine_call c = {.method = "DELETE", .path = path.data};
    if (engine_do(e, &c, NULL, err) == 0 || err->kind == ENOENT)
        return engine_forgive(err);
    return error_wrap(err, "%s%s", what, name);
}

// Only what the reference has marked as made by itself, or named after the sandbox.
static int remove_volume(struct engine *e, const char *name, const char *id, struct error *err) {
    cleanup_json json_t *volume = NULL;
    struct strbuf path cleanup_strbuf;
    strbuf_init(&path, ENGINE_PATH_MAX);
    (void)strbuf_adds(&path, "/volumes/");
    engine_escape(&path, name);
    const struct engine_call c = {.method = "GET", .path = path.data};
    if (engine_do(e, &c, &volume, err))
        return err->kind == ENOENT ? engine_forgive(err) : -1;
    const char *by = foreign_label(json_object_get(volume, "Labels"), LABEL_MANAGED_BY);
    bool made = by && strcmp(by, "server") == 0;
    bool guests = strncmp(name, WINDOWS_OEM, strlen(WINDOWS_OEM)) == 0 &&
                  strcmp(name + strlen(WINDOWS_OEM), id) == 0;
    return made || guests ? remove_one(e, "/volumes/", name, "", err) : 0;
}

int foreign_follow(struct engine *e, const json_t *volume, struct error *err) {
    const char *name = json_string_value(json_object_get(volume, "Name"));
    const json_t *labels = json_object_get(volume, "Labels"), *one;
    struct error ignored;
    size_t i;
    if (!name || strncmp(name, MARK, strlen(MARK)) != 0)
        return 0;
    const char *sidecar = foreign_label(labels, LABEL_SIDECAR);
    const char *text = foreign_label(labels, LABEL_MANAGED_BY);
    if (sidecar && remove_one(e, "/containers/", sidecar, "?force=1&v=1", err))
        return -1;
    cleanup_json json_t *names = text ? json_parse(text, strlen(text), NULL, &ignored) : NULL;
    json_array_foreach(names, i, one) {
        if (json_is_string(one) &&
            remove_volume(e, json_string_value(one), name + strlen(MARK), err))
            return -1;
    }
    return 0;
}

// ---- snapshots ----

bool foreign_snapshot(const char *snapshot_id, const char *image,
                      char artifact[RUNTIME_STATE_MAX]) {
    char own[128];
    (void)snprintf(own, sizeof own, SNAPSHOT_IMAGES ":%.64s", snapshot_id);
    (void)snprintf(artifact, RUNTIME_STATE_MAX, "{\"image\":\"%s\"}", own);
    return !image || strcmp(image, own) == 0;
}
