// The one way down: shared by delete, expiry, abandoned and failed creates, and reconcile.
#include "base/cleanup.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

enum { ANSWER_MS = 10000 };

struct teardown {
    struct operation op;
    bool durable; // STOPPING is committed: whatever happens now, it will be gone
    struct list waits;
};

static struct teardown *teardown_of(struct operation *op) {
    return CONTAINER_OF(op, struct teardown, op);
}

static int stop_record(struct operation *op, struct error *err) {
    if (record_fill(op, SANDBOX_STOPPING, err) < 0)
        return -1;
    if (op->sandbox->key) // the create has failed: its key may be used again
        key_remove(op->sandbox->key, &op->change);
    return STEP_DONE;
}

void release_key(struct domain *d, struct sandbox *sb) {
    if (sb->key)
        key_forget(d, sb->key);
    sb->key = NULL;
}

// A disk too full for that commit is no reason to keep the sandbox: its files may be what fills it.
static int stopped(struct operation *op, struct error *err) {
    (void)err;
    teardown_of(op)->durable = !op->step_failed;
    release_key(op->domain, op->sandbox);
    (void)state_apply(op->domain->registry, op->sandbox, EVENT_STOP); // again after a restart
    return STEP_DONE;
}

static int destroy(struct operation *op, struct error *err) {
    struct runtime *r = op->domain->settings.runtime;
    return op->sandbox->untouched ? 0 : r->ops->destroy(r, op->id, err);
}

static int delete_record(struct operation *op, struct error *err) {
    (void)err;
    struct sandbox_record *r = &change_remove(&op->change, STORE_SANDBOXES)->sandbox;
    (void)snprintf(r->id, sizeof r->id, "%s", op->id);
    return STEP_DONE;
}

static void answer(struct teardown_wait *w, const struct error *err) {
    timer_stop(&w->limit);
    list_remove(&w->node);
    w->teardown = NULL;
    w->done(w, err);
}

static void answer_all(struct teardown *t, const struct error *err) {
    for (struct list *node; (node = list_pop(&t->waits));)
        answer(LIST_ENTRY(node, struct teardown_wait, node), err);
}

static void end(struct operation *op, const struct error *err) {
    struct teardown *t = teardown_of(op);
    struct sandbox *sb = op->sandbox;
    struct domain *d = op->domain;
    if (err) { // only when the server stops: the next one goes on with it
        struct error failed = {0};
        sb->teardown = NULL;
        (void)error_server(&failed, ERR_R_SANDBOX_DELETE_FAILED, "%s", err->message);
        answer_all(t, t->durable ? NULL : &failed);
        free(t);
        return;
    }
    d->metrics.removed++;
    registry_remove(d->registry, sb);
    op->sandbox = NULL;
    answer_all(t, NULL);
    free(t);
}

static const struct step steps[] = {
    {"commit Stopping", STEP_STORE, STEP_OPTIONAL, stop_record, NULL},
    {"stopped", STEP_LOOP, 0, stopped, NULL},
    {"destroy", STEP_WORKER, STEP_RETRY, destroy, NULL},
    {"commit the removal", STEP_STORE, STEP_RETRY, delete_record, NULL},
};
const struct operation_kind teardown_kind = {
    .name = "teardown",
    .steps = steps,
    .count = ARRAY_SIZE(steps),
    .survives_delete = true,
    .end = end,
};

static void on_limit(struct timer *timer) {
    struct teardown_wait *w = CONTAINER_OF(timer, struct teardown_wait, limit);
    struct error late = {0};
    (void)error_server(&late, ERR_R_SANDBOX_DELETE_FAILED,
                       "the removal could not be recorded yet; it is tried again");
    answer(w, w->teardown->durable ? NULL : &late);
}

void domain_tried(struct operation *op) {
    if (op->kind == &teardown_kind)
        op->domain->metrics.teardown_retries++;
}

// What waited for its turn has none any more, and says so at once: the removal may take long. Who
// is told may come back to teardown_begin().
static void dismiss_queued(struct sandbox *sb) {
    struct error gone = {0};
    (void)error_server(&gone, ERR_R_SANDBOX_NOT_FOUND, "sandbox %s was deleted", sb->id);
    operation_flush(sb, &gone);
}

void teardown_begin(struct domain *d, struct sandbox *sb, struct teardown_wait *w) {
    struct teardown *t = sb->teardown;
    bool fresh = !t;
    if (fresh) {
        t = calloc(1, sizeof *t);
        if (!t)
            abort(); // a promise to remove cannot be dropped for want of a few bytes
        list_init(&t->waits);
        sb->teardown = t;
        sb->deleting = true;
        pool_leave(d, sb);
        expiry_clear(d, sb);
        holds_release(sb);
        registry_release(d->registry, sb);
    }
    if (w) {
        w->domain = d;
        w->teardown = t;
        list_push_back(&t->waits, &w->node);
        timer_start(d->settings.loop, &w->limit, ANSWER_MS, on_limit);
    }
    if (!fresh)
        return;
    dismiss_queued(sb);
    // steps that are not done at once: sb is still there when this returns
    operation_start(d, sb, &t->op, &teardown_kind, true);
    if (sb->parked)
        operation_cancel(sb->parked);
    if (sb->running && sb->running != &t->op)
        operation_cancel(sb->running);
}

void teardown_leave(struct teardown_wait *w) {
    timer_stop(&w->limit);
    list_remove(&w->node);
    w->teardown = NULL;
}
