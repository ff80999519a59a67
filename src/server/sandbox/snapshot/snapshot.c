#include "server/sandbox/snapshot/snapshot.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

static const char *const names[SNAPSHOT_STATE_COUNT] = {
    [SNAPSHOT_CREATING] = "Creating",
    [SNAPSHOT_READY] = "Ready",
    [SNAPSHOT_FAILED] = "Failed",
    [SNAPSHOT_DELETING] = "Deleting",
};
// Every reason there is, so that a row's text finds its constant again.
static const char *const reasons[] = {
    "snapshot_accepted",        "snapshot_runtime_ready",          "snapshot_runtime_failed",
    "snapshot_runtime_timeout", "snapshot_delete_requested",       "snapshot_recovery_ready",
    "snapshot_recovery_failed", "snapshot_recovery_missing_image",
};

const char *snapshot_state_name(enum snapshot_state s) {
    return names[s];
}

int snapshot_state_parse(const char *name, enum snapshot_state *ret) {
    for (int i = 0; i < SNAPSHOT_STATE_COUNT; i++) {
        if (strcmp(names[i], name) == 0) {
            *ret = (enum snapshot_state)i;
            return 0;
        }
    }
    return -1;
}

struct snapshot *snapshot_get(const struct domain *d, const char *id) {
    return map_get(&d->snapshots, id);
}

void snapshots_each(const struct domain *d, bool (*f)(const struct snapshot *s, void *arg),
                    void *arg) {
    LIST_EACH(&d->snapshots_by_age, node) {
        if (!f(LIST_ENTRY(node, struct snapshot, order), arg))
            return;
    }
}

bool snapshot_creating_of(const struct domain *d, const char *sandbox_id) {
    LIST_EACH(&d->snapshots_by_age, node) {
        const struct snapshot *s = LIST_ENTRY(node, struct snapshot, order);
        if (s->state == SNAPSHOT_CREATING && strcmp(s->source_id, sandbox_id) == 0)
            return true;
    }
    return false;
}

struct snapshot *snapshot_ready(const struct domain *d, const char *id, struct error *err) {
    struct snapshot *s = snapshot_get(d, id);
    if (s && s->state == SNAPSHOT_READY)
        return s;
    if (s)
        (void)error_server(err, ERR_SNAPSHOT_NOT_READY, "snapshot %s is %s", id, names[s->state]);
    else
        (void)error_server(err, ERR_SNAPSHOT_NOT_FOUND, "no snapshot has the id %.80s", id);
    return NULL;
}

static bool older(const struct snapshot *a, const struct snapshot *b) {
    return a->created_us != b->created_us ? a->created_us < b->created_us
                                          : strcmp(a->id, b->id) < 0;
}

struct snapshot *snapshot_add(struct domain *d, const char *id, int64_t created_us) {
    struct snapshot *s = calloc(1, sizeof *s);
    if (!s || map_put(&d->snapshots, id, s) < 0) {
        free(s);
        return NULL;
    }
    (void)snprintf(s->id, sizeof s->id, "%s", id);
    s->created_us = created_us;
    s->reason = reasons[0];
    list_init(&s->removals);
    struct list *at = &d->snapshots_by_age;
    while (at->next != &d->snapshots_by_age &&
           older(s, LIST_ENTRY(at->next, struct snapshot, order)))
        at = at->next;
    list_insert(at, &s->order);
    return s;
}

void snapshot_remove(struct domain *d, struct snapshot *s) {
    (void)map_remove(&d->snapshots, s->id);
    list_remove(&s->order);
    spec_unref(s->spec);
    free(s->name);
    free(s);
}

void snapshots_clear(struct domain *d) {
    while (!list_empty(&d->snapshots_by_age))
        snapshot_remove(d, LIST_ENTRY(d->snapshots_by_age.next, struct snapshot, order));
    map_clear(&d->snapshots);
}

void snapshot_become(struct snapshot *s, enum snapshot_state state, const char *reason,
                     const char *message) {
    s->state = state;
    s->reason = reason;
    s->changed_us = clock_wall_us();
    (void)snprintf(s->message, sizeof s->message, "%s", message);
}

int snapshot_fill(const struct snapshot *s, struct change *c, struct error *err) {
    struct snapshot_record *r = &change_put(c, STORE_SNAPSHOTS)->snapshot;
    *r = (struct snapshot_record){
        .source_id = strdup(s->source_id),
        .name = s->name ? strdup(s->name) : NULL,
        .state = strdup(names[s->state]),
        .reason = strdup(s->reason),
        .message = strdup(s->message),
        .spec = spec_to_text(s->spec),
        .artifact = strdup(s->artifact),
        .created_us = s->created_us,
        .changed_us = s->changed_us,
    };
    memcpy(r->id, s->id, sizeof r->id);
    if (r->source_id && r->state && r->reason && r->message && r->spec && r->artifact &&
        (r->name || !s->name))
        return 0;
    change_clear(c);
    return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
}

// ---- the start ----

static const char *reason_of(const char *text) {
    for (size_t i = 0; text && i < ARRAY_SIZE(reasons); i++)
        if (strcmp(reasons[i], text) == 0)
            return reasons[i];
    return "";
}

struct loading {
    struct domain *domain;
    struct error *err;
};

static int load_one(const union store_record *record, void *arg) {
    const struct snapshot_record *r = &record->snapshot;
    struct loading *l = arg;
    struct sandbox_spec *spec = spec_from_text(r->spec, l->err);
    struct snapshot *s = spec ? snapshot_add(l->domain, r->id, r->created_us) : NULL;
    if (!s) {
        spec_unref(spec);
        return l->err->kind ? error_wrap(l->err, "store: snapshot %s", r->id)
                            : error_errno(l->err, ENOMEM, "store");
    }
    s->spec = spec;
    s->name = r->name ? strdup(r->name) : NULL;
    s->reason = reason_of(r->reason);
    s->changed_us = r->changed_us;
    (void)snprintf(s->source_id, sizeof s->source_id, "%s", r->source_id);
    (void)snprintf(s->message, sizeof s->message, "%s", r->message ? r->message : "");
    (void)snprintf(s->artifact, sizeof s->artifact, "%s", r->artifact ? r->artifact : "");
    if (snapshot_state_parse(r->state, &s->state) < 0)
        return error_set(l->err, EINVAL, "store: snapshot %s has the unknown state \"%.40s\"",
                         r->id, r->state);
    return 0;
}

int snapshots_load(struct domain *d, struct error *err) {
    struct error why = {0}; // load_one()'s reason is better than the store's
    struct loading l = {.domain = d, .err = &why};
    int r = store_load(d->settings.store, STORE_SNAPSHOTS, load_one, &l, err);
    if (r < 0 && why.kind)
        *err = why;
    return r;
}
