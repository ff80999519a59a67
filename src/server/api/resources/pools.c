// Pools over HTTP (kubernetes.md 4, lifecycle-api.md 12).
#include <string.h>

#include "base/clock.h"
#include "server/api/api.h"
#include "server/api/create.h"
#include "server/api/handlers.h"
#include "server/sandbox/pool/pool.h"

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

// ---- bodies ----

static void read_capacity(struct problems *p, const json_t *body, struct pool_capacity *ret) {
    struct field spec = field_get(&place_body, body, "capacitySpec");
    const json_t *o = field_object(p, &spec, true);
    const struct {
        const char *name;
        int64_t *ret;
    } numbers[] = {{"bufferMax", &ret->buffer_max},
                   {"bufferMin", &ret->buffer_min},
                   {"poolMax", &ret->pool_max},
                   {"poolMin", &ret->pool_min}};
    for (size_t i = 0; o && i < sizeof numbers / sizeof *numbers; i++) {
        struct field f = field_get(&spec.at, o, numbers[i].name);
        if (field_int(p, &f, 0, numbers[i].ret) == 0)
            problem_add(p, &f.at, "missing", "Field required");
    }
    if (!problems_any(p) && ret->buffer_min > ret->buffer_max)
        problem_add(p, &spec.at, "value_error", "Value error, bufferMin is larger than bufferMax");
    if (!problems_any(p) && ret->pool_min > ret->pool_max)
        problem_add(p, &spec.at, "value_error", "Value error, poolMin is larger than poolMax");
}

static const char *read_name(struct problems *p, const json_t *body) {
    struct field f = field_get(&place_body, body, "name");
    const char *name = field_text(p, &f, true);
    if (!name || !text_length(p, &f, name, 1, POOL_NAME_MAX))
        return NULL;
    if (!is_dns_label(name, POOL_NAME_MAX))
        problem_add(p, &f.at, "string_pattern_mismatch",
                    "String should match pattern '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'");
    return name;
}

// NULL: problems, err, or there is none and it is not required.
static struct sandbox_spec *read_template(struct http_exchange *x, struct problems *p,
                                          const json_t *body, bool required, struct error *err) {
    struct field f = field_get(&place_body, body, "template");
    const json_t *o = field_object(p, &f, required);
    return o && !problems_any(p) ? template_read(api_of(x), &f.at, o, p, err) : NULL;
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
    struct pool_capacity c = {0};
    json_t *body = body_object(x);
    if (!body)
        return;
    const char *name = read_name(&p, body);
    read_capacity(&p, body, &c);
    struct sandbox_spec *spec = read_template(x, &p, body, true, &err);
    if (!refused(x, &p, &err))
        pool_create(api_of(x)->domain, name, spec, &c, created, x);
    spec_unref(spec);
    json_decref(body);
}

void handle_pool_update(struct http_exchange *x) {
    struct problems p = {0};
    struct error err = {0};
    struct pool_capacity c = {0};
    json_t *body = body_object(x);
    if (!body)
        return;
    read_capacity(&p, body, &c);
    struct sandbox_spec *spec = read_template(x, &p, body, false, &err);
    if (!refused(x, &p, &err))
        pool_update(api_of(x)->domain, http_param(x, "pool_name"), spec, &c, updated, x);
    spec_unref(spec);
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
