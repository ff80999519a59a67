// Taking a snapshot, and finishing what a crash left half taken.
#include <errno.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

struct taking { // an operation on the source, so that nothing else is done to it meanwhile
    struct operation op;
    char snapshot_id[SANDBOX_ID_SIZE];
    char artifact[RUNTIME_STATE_MAX];
    snapshot_done_fn *done; // NULL: told
    void *arg;
};

static struct taking *taking_of(struct operation *op) {
    return CONTAINER_OF(op, struct taking, op);
}
// Nobody removes a Creating one. One that is there already may be deleted while its last commit is
// tried again: then this is NULL.
static struct snapshot *snapshot_of(struct operation *op) {
    return snapshot_get(op->domain, taking_of(op)->snapshot_id);
}

static int is_running(struct operation *op, struct error *err) {
    return op->sandbox->state == SANDBOX_RUNNING && !op->sandbox->deleting
               ? STEP_DONE
               : error_server(err, ERR_SNAPSHOT_INVALID_SOURCE_STATE,
                              "only a Running sandbox can be kept; %s is %s", op->id,
                              sandbox_state_name(op->sandbox->state));
}

static int commit(struct operation *op, struct error *err) {
    const struct snapshot *s = snapshot_of(op);
    return s && !s->removal ? snapshot_fill(s, &op->change, err) : STEP_SKIP;
}

static int accepted(struct operation *op, struct error *err) {
    struct taking *t = taking_of(op);
    (void)err;
    t->done(snapshot_of(op), NULL, t->arg);
    t->done = NULL;
    return STEP_DONE;
}

static int take(struct operation *op, struct error *err) {
    struct taking *t = taking_of(op);
    struct runtime *r = op->domain->settings.runtime;
    return r->ops->snapshot(r, op->id, t->snapshot_id, t->artifact, err);
}

static int taken(struct operation *op, struct error *err) {
    struct taking *t = taking_of(op);
    struct snapshot *s = snapshot_of(op);
    (void)err;
    if (op->step_failed) {
        bool late = op->step_error.kind == ETIMEDOUT;
        snapshot_become(s, SNAPSHOT_FAILED,
                        late ? "snapshot_runtime_timeout" : "snapshot_runtime_failed",
                        op->step_error.message);
        return STEP_DONE;
    }
    (void)snprintf(s->artifact, sizeof s->artifact, "%s", t->artifact);
    snapshot_become(s, SNAPSHOT_READY, "snapshot_runtime_ready", "Snapshot is ready.");
    return STEP_DONE;
}

static void end(struct operation *op, const struct error *err) {
    struct taking *t = taking_of(op);
    struct snapshot *s = snapshot_of(op);
    if (err && t->done) { // refused, or its row could not be made durable
        if (!op->domain->freeing)
            t->done(NULL, err, t->arg);
        if (s)
            snapshot_remove(op->domain, s);
    } else if (err && s) { // in memory it is right, in the store it is Creating
        log_warning("snapshot %s: %s; the next start finishes it", t->snapshot_id, err->message);
    }
    free(t);
}

// What is known at once; an image may be long on its way.
static bool can_take(const struct domain *d, const struct sandbox *sb, struct error *err) {
    if (d->stopping)
        (void)error_server(err, ERR_NOT_READY, "the server is stopping");
    else if (sb->state == SANDBOX_PENDING)
        (void)error_server(err, ERR_SNAPSHOT_INVALID_SOURCE_STATE, "sandbox %s is Pending", sb->id);
    else if (spec_is_windows(sb->spec))
        (void)error_server(err, ERR_SNAPSHOT_INVALID_SOURCE_STATE,
                           "the disk of a Windows guest is in a volume, which no snapshot holds");
    return !err->kind;
}

void snapshot_take(struct domain *d, const char *sandbox_id, const char *name,
                   snapshot_done_fn *done, void *arg) {
    static const struct step steps[] = {
        {"running", STEP_LOOP, 0, is_running, NULL},
        {"commit Creating", STEP_STORE, 0, commit, NULL},
        {"accepted", STEP_LOOP, 0, accepted, NULL},
        {"take", STEP_WORKER, STEP_OPTIONAL, take, NULL},
        {"taken", STEP_LOOP, 0, taken, NULL},
        {"commit the snapshot", STEP_STORE, STEP_RETRY, commit, NULL},
    };
    static const struct operation_kind kind = {.name = "snapshot",
                                               .steps = steps,
                                               .count = ARRAY_SIZE(steps),
                                               .survives_delete = true,
                                               .end = end};
    struct error err = {0};
    struct sandbox *sb = domain_sandbox(d, sandbox_id, &err);
    struct taking *t = NULL;
    struct snapshot *s = NULL;
    if (sb && can_take(d, sb, &err) && (t = calloc(1, sizeof *t))) {
        random_uuid(t->snapshot_id);
        s = snapshot_add(d, t->snapshot_id, clock_wall_us());
        if (s && name && !(s->name = strdup(name))) {
            snapshot_remove(d, s);
            s = NULL;
        }
    }
    if (sb && !s && !err.kind)
        (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
    if (!s) {
        free(t);
        done(NULL, &err, arg);
        return;
    }
    (void)snprintf(s->source_id, sizeof s->source_id, "%s", sb->id);
    s->spec = spec_ref(sb->spec);
    snapshot_become(s, SNAPSHOT_CREATING, "snapshot_accepted", "Snapshot creation accepted.");
    s->changed_us = s->created_us;
    t->done = done;
    t->arg = arg;
    operation_start(d, sb, &t->op, &kind, false);
}

// ---- recovery: Creating becomes Ready when the artifact is whole, else Failed ----

struct recovery {
    struct job job;
    struct change change;
    struct domain *domain;
    struct snapshot *snapshot;
    char artifact[RUNTIME_STATE_MAX];
    int found;
    struct error error;
};

static void find_run(struct job *job) {
    struct recovery *x = CONTAINER_OF(job, struct recovery, job);
    struct runtime *r = x->domain->settings.runtime;
    x->found = r->ops->snapshot_find(r, x->snapshot->id, x->artifact, &x->error);
}

static void recovered(struct recovery *x) {
    struct domain *d = x->domain;
    change_clear(&x->change);
    free(x);
    domain_started_one(d);
}

static void committed(struct change *c, const struct error *err) {
    struct recovery *x = CONTAINER_OF(c, struct recovery, change);
    x->domain->inflight--;
    if (err) // in memory it is right; the next start does it again
        log_warning("snapshot %s: %s", x->snapshot->id, err->message);
    recovered(x);
}

static void find_done(struct job *job) {
    struct recovery *x = CONTAINER_OF(job, struct recovery, job);
    struct domain *d = x->domain;
    struct snapshot *s = x->snapshot;
    struct error err = {0};
    d->inflight--;
    if (x->found > 0) {
        (void)snprintf(s->artifact, sizeof s->artifact, "%s", x->artifact);
        snapshot_become(s, SNAPSHOT_READY, "snapshot_recovery_ready",
                        "Snapshot was finished after a restart.");
    } else {
        snapshot_become(
            s, SNAPSHOT_FAILED,
            x->found < 0 ? "snapshot_recovery_failed" : "snapshot_recovery_missing_image",
            x->found < 0 ? x->error.message : "The server ended while the snapshot was taken.");
    }
    x->change.done = committed;
    if (!d->freeing && snapshot_fill(s, &x->change, &err) == 0 &&
        store_commit(d->settings.store, &x->change) == 0)
        d->inflight++;
    else
        recovered(x);
}

static int recover_one(struct domain *d, struct snapshot *s, struct error *err) {
    struct recovery *x = calloc(1, sizeof *x);
    if (!x)
        return error_errno(err, ENOMEM, "recovery of snapshots");
    *x = (struct recovery){.domain = d, .snapshot = s, .job = {.run = find_run, .done = find_done}};
    if (domain_submit(d, &x->job) < 0) {
        free(x);
        return error_set(err, EAGAIN, "the workers' queue is full");
    }
    d->starting++;
    return 0;
}

int snapshots_recover(struct domain *d, struct error *err) {
    LIST_EACH(&d->snapshots_by_age, node) {
        struct snapshot *s = LIST_ENTRY(node, struct snapshot, order);
        if (s->state == SNAPSHOT_CREATING && recover_one(d, s, err) < 0)
            return -1;
        if (s->state == SNAPSHOT_DELETING)
            snapshot_take_away(d, s, NULL, NULL);
    }
    return 0;
}
