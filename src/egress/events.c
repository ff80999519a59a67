#include "egress/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "fmt/json.h"

enum { KEY_MAX = 1200, LINE_MAX = 64 * 1024 };

static const char *const kinds[] = {"name", "cname", "address", "rebinding", "budget"};

struct event {
    struct list node;
    char *key;
    enum event_kind kind;
    uint64_t number, count;
    int64_t first_us, last_us, folded_ms;
    char *target, *reason;
    char by[16], rule[POLICY_TARGET_MAX + 1];
};

void events_init(struct events *e, const json_t *attributes, int fd) {
    *e = (struct events){.attributes = attributes, .fd = fd, .next = 1};
    map_init(&e->fresh);
    list_init(&e->order);
}

static void forget(struct events *e, struct event *v) {
    if (v->key && map_get(&e->fresh, v->key) == v)
        (void)map_remove(&e->fresh, v->key);
    list_remove(&v->node);
    free(v->key);
    free(v->target);
    free(v->reason);
    free(v);
}

void events_clear(struct events *e) {
    while (!list_empty(&e->order))
        forget(e, LIST_ENTRY(e->order.next, struct event, node));
    map_clear(&e->fresh);
}

// ---- lines ----

bool events_would_log(struct events *e) {
    int64_t second = clock_boot_ms() / 1000;
    if (second != e->second) {
        e->second = second;
        e->lines = 0;
    }
    if (e->lines < EVENTS_LINES_PER_SECOND)
        return true;
    e->dropped++;
    return false;
}

void events_log(struct events *e, enum log_level level, const char *message, json_t *fields) {
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    char ts[CLOCK_TEXT_MAX];
    cleanup_strbuf struct strbuf line;
    cleanup_json json_t *owned = fields;
    strbuf_init(&line, LINE_MAX);
    if (!log_enabled(level))
        return;
    clock_format(clock_wall_us() / 1000 * 1000, ts);
    cleanup_json json_t *j = json_pack("{s:s,s:s,s:s,s:s}", "level", levels[level], "ts", ts,
                                       "logger", "opensandbox.egress", "msg", message);
    if (!j || json_object_update(j, (json_t *)e->attributes) < 0 ||
        (owned && json_object_update(j, owned) < 0))
        return; // no memory for a line
    if (e->dropped && level == LOG_LEVEL_INFO) {
        (void)json_object_set_new(j, "dropped", json_integer((json_int_t)e->dropped));
        e->dropped = 0;
    }
    if (!json_write(j, &line) && !strbuf_addc(&line, '\n'))
        (void)fd_write_all(e->fd, line.data, line.len); // a log that is full stops nothing
}

void events_log_sampled(struct events *e, const char *message, json_t *fields) {
    e->lines++;
    events_log(e, LOG_LEVEL_INFO, message, fields);
}

// ---- events ----

static json_t *event_json(const struct event *v) {
    char first[CLOCK_TEXT_MAX], last[CLOCK_TEXT_MAX];
    clock_format(v->first_us, first);
    clock_format(v->last_us, last);
    json_t *j = json_pack("{s:I,s:s,s:s,s:s,s:s,s:I}", "id", (json_int_t)v->number, "time", last,
                          "since", first, "kind", kinds[v->kind], "target", v->target, "count",
                          (json_int_t)v->count);
    if (j && *v->by)
        (void)json_object_set_new(j, "by", json_string(v->by));
    if (j && *v->rule)
        (void)json_object_set_new(j, "rule", json_string(v->rule));
    if (j && v->reason)
        (void)json_object_set_new(j, "reason", json_string(v->reason));
    return j;
}

static struct event *make(struct events *e, enum event_kind kind, const char *target,
                          const char *key, const char *reason) {
    struct event *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->kind = kind;
    v->key = strdup(key);
    v->target = strdup(target);
    v->reason = reason ? strdup(reason) : NULL;
    v->first_us = clock_wall_us();
    v->folded_ms = clock_boot_ms();
    list_push_back(&e->order, &v->node);
    if (!v->key || !v->target || (reason && !v->reason) || map_put(&e->fresh, key, v) < 0) {
        forget(e, v);
        return NULL;
    }
    if (++e->count > EVENTS_MAX) {
        forget(e, LIST_ENTRY(e->order.next, struct event, node));
        e->count--;
        e->lost++;
    }
    return v;
}

bool events_denied(struct events *e, enum event_kind kind, const char *target,
                   const struct verdict *by, const char *reason) {
    char key[KEY_MAX];
    (void)snprintf(key, sizeof key, "%d %s", kind, target);
    struct event *v = map_get(&e->fresh, key);
    bool is_new = !v || clock_boot_ms() - v->folded_ms >= EVENTS_FOLD_MS;
    if (is_new && !(v = make(e, kind, target, key, reason)))
        return false;
    v->count++;
    v->number = e->next++;
    v->last_us = clock_wall_us();
    list_remove(&v->node);
    list_push_back(&e->order, &v->node);
    if (by) {
        (void)snprintf(v->by, sizeof v->by, "%s", index_source_name(by->source));
        (void)snprintf(v->rule, sizeof v->rule, "%s", by->rule ? by->rule->target : "");
    }
    if (is_new && events_would_log(e)) {
        json_t *fields = json_pack("{s:s,s:s,s:s}", "opensandbox.event", "egress.denied", "kind",
                                   kinds[kind], "target", target);
        if (fields && *v->by)
            (void)json_object_set_new(fields, "by", json_string(v->by));
        if (fields && *v->rule)
            (void)json_object_set_new(fields, "rule", json_string(v->rule));
        if (fields && reason)
            (void)json_object_set_new(fields, "reason", json_string(reason));
        events_log_sampled(e, "denied", fields);
    }
    return is_new;
}

json_t *events_json(const struct events *e, uint64_t since) {
    json_t *list = json_array();
    LIST_EACH((struct list *)&e->order, node) {
        const struct event *v = LIST_ENTRY(node, struct event, node);
        if (v->number >= since && list)
            (void)json_array_append_new(list, event_json(v)); // NULL is refused
    }
    return list ? json_pack("{s:o,s:I,s:I}", "events", list, "next", (json_int_t)e->next, "lost",
                            (json_int_t)e->lost)
                : NULL;
}
