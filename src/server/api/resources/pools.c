// Pools over HTTP (kubernetes.md 4, lifecycle-api.md 12).
#include <string.h>

#include "base/clock.h"
#include "server/api/api.h"
#include "server/api/handlers.h"
#include "server/api/resources/bodies.h"

static json_t *render(const struct pool *p) {
    const struct pool_capacity *c = &p->capacity;
    char created[CLOCK_TEXT_MAX];
    const json_int_t ready = (json_int_t)p->ready_count, given = (json_int_t)p->allocated;
    clock_format(p->created_us, created);
    return json_pack("{s:s, s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:s}, s:s}", "name", p->name,
                     "capacitySpec", "bufferMax", (json_int_t)c->buffer_max, "bufferMin",
                     (json_int_t)c->buffer_min, "poolMax", (json_int_t)c->pool_max, "poolMin",
                     (json_int_t)c->pool_min, "status", "total", ready + given, "allocated", given,
                     "available", ready, "revision", p->revision, "createdAt", created);
}

// ---- requests ----

static void created(const struct pool *p, const struct error *err, void *arg) {
    if (err)
        api_fail(arg, err);
    else
        http_reply_json(arg, 201, render(p));
}

static void updated(const struct pool *p, const struct error *err, void *arg) {
    if (err)
        api_fail(arg, err);
    else
        http_reply_json(arg, 200, render(p));
}

static void removed(const struct pool *p, const struct error *err, void *arg) {
    if (err)
        api_fail(arg, err);
    else
        http_reply_empty(arg, 204);
}

// Ends the exchange when the body was wrong.
static bool refused(struct http_exchange *x, struct problems *p, const struct error *err) {
    if (problems_any(p))
        problems_reply(x, p);
    else if (err->kind)
        api_fail(x, err);
    else
        return false;
    return true;
}

void handle_pool_create(struct http_exchange *x) {
    struct problems p = {0};
    struct error err = {0};
    struct pool_form f = {0};
    json_t *body = body_object(x);
    if (!body)
        return;
    pool_read(api_of(x), body, true, &f, &p, &err);
    if (!refused(x, &p, &err))
        pool_create(api_of(x)->domain, f.name, f.spec, &f.capacity, created, x);
    spec_unref(f.spec);
    json_decref(body);
}

void handle_pool_update(struct http_exchange *x) {
    struct problems p = {0};
    struct error err = {0};
    struct pool_form f = {0};
    json_t *body = body_object(x);
    if (!body)
        return;
    pool_read(api_of(x), body, false, &f, &p, &err);
    if (!refused(x, &p, &err))
        pool_update(api_of(x)->domain, http_param(x, "pool_name"), f.spec, &f.capacity, updated, x);
    spec_unref(f.spec);
    json_decref(body);
}

void handle_pool_get(struct http_exchange *x) {
    const char *name = http_param(x, "pool_name");
    const struct pool *p = pool_get(api_of(x)->domain, name);
    if (p)
        http_reply_json(x, 200, render(p));
    else
        api_refuse(x, ERR_POOL_NOT_FOUND, "no pool has the name %.80s", name);
}

static bool gather(const struct pool *p, void *arg) {
    (void)json_array_append_new(arg, render(p));
    return true;
}

void handle_pool_list(struct http_exchange *x) {
    json_t *items = json_array();
    pools_each(api_of(x)->domain, gather, items);
    http_reply_json(x, 200, json_pack("{s:o}", "items", items));
}

void handle_pool_delete(struct http_exchange *x) {
    pool_delete(api_of(x)->domain, http_param(x, "pool_name"), removed, x);
}
