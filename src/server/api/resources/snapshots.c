// Snapshots over HTTP (lifecycle-api.md 10.1).
#include <string.h>

#include "base/clock.h"
#include "fmt/json.h"
#include "server/api/api.h"
#include "server/api/handlers.h"
#include "server/api/paging.h"
#include "server/api/resources/bodies.h"
#include "server/sandbox/snapshot/snapshot.h"

static json_t *render(const struct snapshot *s) {
    char changed[CLOCK_TEXT_MAX], created[CLOCK_TEXT_MAX];
    clock_format(s->changed_us, changed);
    clock_format(s->created_us, created);
    return json_pack("{s:s, s:s, s:s*, s:{s:s, s:s, s:s, s:s}, s:s}", "id", s->id, "sandboxId",
                     s->source_id, "name", s->name, "status", "state",
                     snapshot_state_name(s->state), "reason", s->reason, "message", s->message,
                     "lastTransitionAt", changed, "createdAt", created);
}

static void taken(const struct snapshot *s, const struct error *err, void *arg) {
    struct http_exchange *x = arg;
    char location[64];
    if (err) {
        api_fail(x, err);
        return;
    }
    (void)snprintf(location, sizeof location, "/v1/snapshots/%s", s->id);
    (void)http_reply_header(x, "Location", location);
    http_reply_json(x, 202, render(s));
}

// The body may be absent, empty, null, {} or {"name": text}. -1: the exchange is over.
static int read_name(struct http_exchange *x, json_t **ret_body, const char **ret_name) {
    struct problems p = {0};
    *ret_body = NULL;
    *ret_name = NULL;
    if (!x->body_len || strcmp(x->body, "null") == 0)
        return 0;
    *ret_body = body_object(x);
    if (!*ret_body)
        return -1;
    *ret_name = snapshot_name_read(*ret_body, &p);
    if (!problems_any(&p))
        return 0;
    json_decref(*ret_body);
    problems_reply(x, &p);
    return -1;
}

void handle_snapshot_create(struct http_exchange *x) {
    json_t *body;
    const char *name;
    if (read_name(x, &body, &name) < 0)
        return;
    snapshot_take(api_of(x)->domain, http_param(x, "sandbox_id"), name, taken, x);
    json_decref(body);
}

void handle_snapshot_get(struct http_exchange *x) {
    const char *id = http_param(x, "snapshot_id");
    const struct snapshot *s = snapshot_get(api_of(x)->domain, id);
    if (s)
        http_reply_json(x, 200, render(s));
    else
        api_refuse(x, ERR_SNAPSHOT_NOT_FOUND, "no snapshot has the id %.80s", id);
}

static void removed(const struct snapshot *s, const struct error *err, void *arg) {
    if (err)
        api_fail(arg, err);
    else
        http_reply_empty(arg, 204);
}

void handle_snapshot_delete(struct http_exchange *x) {
    snapshot_delete(api_of(x)->domain, http_param(x, "snapshot_id"), removed, x);
}

struct listing {
    struct page page;
    const char *source, *name; // NULL: any
    bool any_state, states[SNAPSHOT_STATE_COUNT];
};

static bool gather(const struct snapshot *s, void *arg) {
    struct listing *l = arg;
    bool matches = (!l->source || strcmp(s->source_id, l->source) == 0) &&
                   (!l->name || (s->name && strcmp(s->name, l->name) == 0)) &&
                   (l->any_state || l->states[s->state]);
    struct strbuf *item = matches ? page_item(&l->page) : NULL;
    cleanup_json json_t *o = item ? render(s) : NULL;
    if (item)
        (void)json_write(o, item);
    return true;
}

void handle_snapshot_list(struct http_exchange *x) {
    struct listing l = {.any_state = true};
    if (page_read(x, &l.page) < 0)
        return;
    l.source = url_query_last(l.page.pairs, l.page.count, "sandboxId");
    l.name = url_query_last(l.page.pairs, l.page.count, "name");
    if (l.source && !*l.source)
        l.source = NULL;
    for (long i = 0; i < l.page.count; i++) {
        enum snapshot_state state;
        if (strcmp(l.page.pairs[i].name, "state") != 0)
            continue;
        l.any_state = false; // an unknown one matches nothing
        if (snapshot_state_parse(l.page.pairs[i].value, &state) == 0)
            l.states[state] = true;
    }
    snapshots_each(api_of(x)->domain, gather, &l);
    page_reply(x, &l.page);
}
