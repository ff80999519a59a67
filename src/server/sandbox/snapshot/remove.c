// The way down of a snapshot: Deleting is durable first, then the artifact goes, then the row. Who
// asks meanwhile waits with the first.
#include <errno.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

struct removal_wait {
    struct list node;
    snapshot_done_fn *done;
    void *arg;
};

struct removing {
    struct job job;
    struct change change;
    struct domain *domain;
    struct snapshot *snapshot;
    struct snapshot was; // what a failure leaves it as, until it is Deleting in the store
    bool durable;
    struct error error;
};

static void put_back(const struct removing *x) {
    struct snapshot *s = x->snapshot;
    snapshot_become(s, x->was.state, x->was.reason, x->was.message);
    s->changed_us = x->was.changed_us;
}

static void over(struct removing *x, const struct error *err) {
    struct snapshot *s = x->snapshot;
    struct list *node;
    struct list waits;
    list_init(&waits);
    while ((node = list_pop(&s->removals)))
        list_push_back(&waits, node);
    s->removal = NULL;
    if (!err)
        snapshot_remove(x->domain, s);
    else if (!x->durable)
        put_back(x);
    bool tells = !x->domain->freeing;
    struct error copy = err ? *err : (struct error){0};
    change_clear(&x->change);
    free(x);
    while ((node = list_pop(&waits))) {
        struct removal_wait *w = LIST_ENTRY(node, struct removal_wait, node);
        if (tells && w->done)
            w->done(NULL, err ? &copy : NULL, w->arg);
        free(w);
    }
}

static void commit(struct removing *x, void (*done)(struct change *, const struct error *)) {
    struct error err = {0};
    x->change.done = done;
    if (store_commit(x->domain->settings.store, &x->change) == 0) {
        x->domain->inflight++;
        return;
    }
    (void)error_server(&err, ERR_OVERLOADED, "the store's queue is full");
    over(x, &err);
}

static void row_removed(struct change *c, const struct error *err) {
    struct removing *x = CONTAINER_OF(c, struct removing, change);
    x->domain->inflight--;
    over(x, err);
}

static void remove_run(struct job *job) {
    struct removing *x = CONTAINER_OF(job, struct removing, job);
    struct runtime *r = x->domain->settings.runtime;
    // x->error says how it went
    (void)r->ops->snapshot_remove(r, x->snapshot->id, x->snapshot->artifact, &x->error);
}

static void kept(struct change *c, const struct error *err) {
    struct removing *x = CONTAINER_OF(c, struct removing, change);
    struct error conflict = {0};
    x->domain->inflight--;
    if (err) // in memory it is right, and the next start finds out again
        log_warning("snapshot %s: %s", x->snapshot->id, err->message);
    (void)error_server(&conflict, ERR_SNAPSHOT_DELETE_CONFLICT, "%s", x->error.message);
    over(x, &conflict);
}

// Somebody stands on it, so it is whole: as good as before.
static void keep(struct removing *x) {
    struct error err = {0};
    snapshot_become(x->snapshot, SNAPSHOT_READY, "snapshot_runtime_ready", "Snapshot is ready.");
    if (snapshot_fill(x->snapshot, &x->change, &err) < 0)
        over(x, &err);
    else
        commit(x, kept);
}

static void remove_done(struct job *job) {
    struct removing *x = CONTAINER_OF(job, struct removing, job);
    struct error err = x->error;
    x->domain->inflight--;
    if (!err.kind) {
        union store_record *r = change_remove(&x->change, STORE_SNAPSHOTS);
        (void)snprintf(r->snapshot.id, sizeof r->snapshot.id, "%s", x->snapshot->id);
        commit(x, row_removed);
        return;
    }
    log_warning("snapshot %s: %s", x->snapshot->id, err.message);
    if (err.kind == EBUSY)
        keep(x);
    else // it stays Deleting; a later delete tries again
        over(x, &err);
}

static void deleting(struct change *c, const struct error *err) {
    struct removing *x = CONTAINER_OF(c, struct removing, change);
    struct error full = {0};
    x->domain->inflight--;
    change_clear(c);
    if (err) {
        over(x, err);
        return;
    }
    x->durable = true;
    x->job = (struct job){.run = remove_run, .done = remove_done};
    if (domain_submit(x->domain, &x->job) == 0)
        return;
    (void)error_server(&full, ERR_OVERLOADED, "the workers' queue is full");
    over(x, &full);
}

void snapshot_take_away(struct domain *d, struct snapshot *s, snapshot_done_fn *done, void *arg) {
    struct error err = {0};
    struct removal_wait *w = calloc(1, sizeof *w);
    struct removing *x = s->removal ? s->removal : calloc(1, sizeof *x);
    if (!w || !x) {
        free(w);
        if (!s->removal)
            free(x);
        (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
        if (done)
            done(NULL, &err, arg);
        return;
    }
    *w = (struct removal_wait){.done = done, .arg = arg};
    list_push_back(&s->removals, &w->node);
    if (s->removal)
        return;
    s->removal = x;
    *x = (struct removing){.domain = d, .snapshot = s, .was = *s};
    snapshot_become(s, SNAPSHOT_DELETING, "snapshot_delete_requested",
                    "Snapshot is being deleted.");
    if (snapshot_fill(s, &x->change, &err) < 0)
        over(x, &err);
    else
        commit(x, deleting);
}

void snapshot_delete(struct domain *d, const char *id, snapshot_done_fn *done, void *arg) {
    struct error err = {0};
    struct snapshot *s = snapshot_get(d, id);
    if (s && s->state != SNAPSHOT_CREATING && !d->stopping) {
        snapshot_take_away(d, s, done, arg);
        return;
    }
    if (!s)
        (void)error_server(&err, ERR_SNAPSHOT_NOT_FOUND, "no snapshot has the id %.80s", id);
    else if (s->state == SNAPSHOT_CREATING)
        (void)error_server(&err, ERR_SNAPSHOT_INVALID_STATE, "snapshot %s is still Creating", id);
    else
        (void)error_server(&err, ERR_NOT_READY, "the server is stopping");
    done(NULL, &err, arg);
}
