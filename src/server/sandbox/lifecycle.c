// What may be asked of a sandbox that exists: delete, pause, resume, renew, metadata.
#include "base/cleanup.h"
#include "base/clock.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

struct request {
    struct operation op;
    lifecycle_done_fn *done;
    void *arg;
    struct pairs metadata; // patch
    int64_t expires_us;    // renew
};

static struct request *request_of(struct operation *op) {
    return CONTAINER_OF(op, struct request, op);
}

static void end(struct operation *op, const struct error *err) {
    struct request *q = request_of(op);
    if (!op->domain->freeing)
        q->done(err ? NULL : op->sandbox, err, q->arg);
    pairs_clear(&q->metadata);
    free(q);
}

static int apply(struct operation *op, enum sandbox_event event, enum error_id refusal,
                 struct error *err) {
    if (state_apply(op->domain->registry, op->sandbox, event) == 0)
        return STEP_DONE;
    return error_server(err, refusal, "sandbox %s is %s", op->id,
                        sandbox_state_name(op->sandbox->state));
}

static struct request *request_new(lifecycle_done_fn *done, void *arg, struct error *err) {
    struct request *q = calloc(1, sizeof *q);
    if (!q) {
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
        return NULL;
    }
    q->done = done;
    q->arg = arg;
    return q;
}

// The sandbox and a new request about it, or NULL after done() was told why not.
static struct request *begin(struct domain *d, const char *id, lifecycle_done_fn *done, void *arg,
                             struct sandbox **ret_sb) {
    struct error err = {0};
    *ret_sb = domain_sandbox(d, id, &err);
    if (*ret_sb && (d->stopping || d->freeing)) {
        (void)error_server(&err, ERR_NOT_READY, "the server is stopping");
        *ret_sb = NULL;
    }
    struct request *q = *ret_sb ? request_new(done, arg, &err) : NULL;
    if (!q)
        done(NULL, &err, arg);
    return q;
}

// A runtime's refusal of its own keeps its code; an unnamed one gets the operation's.
static int named(int r, enum error_id id, struct error *err) {
    if (r == 0 || err->code[0])
        return r;
    struct error why = *err;
    return error_server(err, id, "%s", why.message);
}

// ---- pause and resume ----

static int pause_begin(struct operation *op, struct error *err) {
    return apply(op, EVENT_PAUSE, ERR_R_SANDBOX_NOT_RUNNING, err);
}
static void pause_abort(struct operation *op) {
    (void)state_apply(op->domain->registry, op->sandbox, EVENT_PAUSE_FAILED);
}
static int freeze(struct operation *op, struct error *err) {
    struct runtime *r = op->domain->settings.runtime;
    return named(r->ops->pause(r, op->id, err), ERR_R_SANDBOX_PAUSE_FAILED, err);
}
static int thaw(struct operation *op, struct error *err) {
    struct runtime *r = op->domain->settings.runtime;
    return named(r->ops->resume(r, op->id, err), ERR_R_SANDBOX_RESUME_FAILED, err);
}
static void undo_freeze(struct operation *op) {
    struct error err = {0};
    (void)thaw(op, &err); // the failure that is undone is what the client hears of
}
static void undo_thaw(struct operation *op) {
    struct error err = {0};
    (void)freeze(op, &err); // as above
}
static int commit_paused(struct operation *op, struct error *err) {
    return record_fill(op, SANDBOX_PAUSED, err);
}
static int paused(struct operation *op, struct error *err) {
    op->domain->metrics.pauses++;
    return apply(op, EVENT_PAUSED, ERR_R_SANDBOX_NOT_RUNNING, err);
}
static int resume_begin(struct operation *op, struct error *err) {
    return apply(op, EVENT_RESUME, ERR_R_SANDBOX_NOT_PAUSED, err);
}
static void resume_abort(struct operation *op) {
    (void)state_apply(op->domain->registry, op->sandbox, EVENT_RESUME_FAILED);
}
static int commit_running(struct operation *op, struct error *err) {
    return record_fill(op, SANDBOX_RUNNING, err);
}
static int resumed(struct operation *op, struct error *err) {
    op->domain->metrics.resumes++;
    return apply(op, EVENT_RESUMED, ERR_R_SANDBOX_NOT_PAUSED, err);
}

// What a sandbox that is still being made cannot do would wait for as long as its image comes.
static bool is_early(struct request *q, const struct sandbox *sb, enum error_id refusal) {
    struct error err = {0};
    if (sb->state != SANDBOX_PENDING)
        return false;
    (void)error_server(&err, refusal, "sandbox %s is Pending", sb->id);
    q->done(NULL, &err, q->arg);
    free(q);
    return true;
}

void lifecycle_pause(struct domain *d, const char *id, lifecycle_done_fn *done, void *arg) {
    static const struct step steps[] = {
        {"pausing", STEP_LOOP, 0, pause_begin, pause_abort},
        {"freeze", STEP_WORKER, 0, freeze, undo_freeze},
        {"commit Paused", STEP_STORE, 0, commit_paused, NULL},
        {"paused", STEP_LOOP, 0, paused, NULL},
    };
    static const struct operation_kind kind = {
        .name = "pause", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    struct sandbox *sb;
    struct request *q = begin(d, id, done, arg, &sb);
    if (q && !is_early(q, sb, ERR_R_SANDBOX_NOT_RUNNING))
        operation_start(d, sb, &q->op, &kind, false);
}

void lifecycle_resume(struct domain *d, const char *id, lifecycle_done_fn *done, void *arg) {
    static const struct step steps[] = {
        {"resuming", STEP_LOOP, 0, resume_begin, resume_abort},
        {"thaw", STEP_WORKER, 0, thaw, undo_thaw},
        {"commit Running", STEP_STORE, 0, commit_running, NULL},
        {"resumed", STEP_LOOP, 0, resumed, NULL},
    };
    static const struct operation_kind kind = {
        .name = "resume", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    struct sandbox *sb;
    struct request *q = begin(d, id, done, arg, &sb);
    if (q && !is_early(q, sb, ERR_R_SANDBOX_NOT_PAUSED))
        operation_start(d, sb, &q->op, &kind, false);
}

// ---- renew ----

static int commit_expiry(struct operation *op, struct error *err) {
    if (record_fill(op, op->sandbox->state, err) < 0)
        return -1;
    op->change.rows[0].record.sandbox.expires_us = request_of(op)->expires_us;
    return STEP_DONE;
}

static int renewed(struct operation *op, struct error *err) {
    (void)err;
    op->sandbox->expires_us = request_of(op)->expires_us;
    op->domain->metrics.renewals++;
    return STEP_DONE;
}

static void renew_end(struct operation *op, const struct error *err) {
    op->sandbox->renewing--;
    expiry_set(op->domain, op->sandbox);
    end(op, err);
}

void lifecycle_renew(struct domain *d, const char *id, int64_t expires_us, lifecycle_done_fn *done,
                     void *arg) {
    static const struct step steps[] = {
        {"commit the deadline", STEP_STORE, 0, commit_expiry, NULL},
        {"renewed", STEP_LOOP, 0, renewed, NULL},
    };
    static const struct operation_kind kind = {
        .name = "renew", .steps = steps, .count = ARRAY_SIZE(steps), .end = renew_end};
    struct error err = {0};
    struct sandbox *sb = domain_sandbox(d, id, &err);
    if (sb && expires_us <= clock_wall_us()) {
        (void)error_server(&err, ERR_R_INVALID_EXPIRATION, "expiresAt must lie in the future");
    } else if (sb && !sb->expires_us) {
        (void)error_server(&err, ERR_R_INVALID_EXPIRATION,
                           "sandbox %s has no expiry: it lives until it is deleted", id);
        err.status = 409;
    }
    if (err.kind) {
        done(NULL, &err, arg);
        return;
    }
    struct request *q = begin(d, id, done, arg, &sb);
    if (!q)
        return;
    q->expires_us = expires_us;
    sb->renewing++; // from here on the old deadline does not end it
    operation_start(d, sb, &q->op, &kind, false);
}

// ---- metadata ----

// Applied to what is there when its turn comes, so that two patches both count.
static int merge(struct operation *op, struct error *err) {
    struct request *q = request_of(op);
    struct pairs next = {0};
    if (pairs_copy(&next, &op->sandbox->metadata) < 0 || pairs_patch(&next, &q->metadata) < 0) {
        pairs_clear(&next);
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    }
    pairs_clear(&q->metadata);
    q->metadata = next;
    return STEP_DONE;
}

static int commit_metadata(struct operation *op, struct error *err) {
    char *text = pairs_to_text(&request_of(op)->metadata);
    if (!text || record_fill(op, op->sandbox->state, err) < 0) {
        free(text);
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    }
    free(op->change.rows[0].record.sandbox.metadata);
    op->change.rows[0].record.sandbox.metadata = text;
    return STEP_DONE;
}

static int patched(struct operation *op, struct error *err) {
    struct request *q = request_of(op);
    (void)err;
    pairs_clear(&op->sandbox->metadata);
    op->sandbox->metadata = q->metadata;
    q->metadata = (struct pairs){0};
    return STEP_DONE;
}

void lifecycle_patch_metadata(struct domain *d, const char *id, const struct pairs *patch,
                              lifecycle_done_fn *done, void *arg) {
    static const struct step steps[] = {
        {"merge", STEP_LOOP, 0, merge, NULL},
        {"commit the metadata", STEP_STORE, 0, commit_metadata, NULL},
        {"patched", STEP_LOOP, 0, patched, NULL},
    };
    static const struct operation_kind kind = {
        .name = "metadata", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    struct sandbox *sb;
    struct request *q = begin(d, id, done, arg, &sb);
    if (!q)
        return;
    if (pairs_copy(&q->metadata, patch) < 0) {
        struct error err = {0};
        (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
        free(q);
        done(NULL, &err, arg);
        return;
    }
    operation_start(d, sb, &q->op, &kind, false);
}

// ---- delete ----

struct removal {
    struct teardown_wait wait;
    lifecycle_done_fn *done;
    void *arg;
};

static void removed(struct teardown_wait *w, const struct error *err) {
    struct removal *r = CONTAINER_OF(w, struct removal, wait);
    if (!w->domain->freeing)
        r->done(NULL, err, r->arg);
    free(r);
}

void lifecycle_delete(struct domain *d, const char *id, lifecycle_done_fn *done, void *arg) {
    struct sandbox *sb = registry_get(d->registry, id); // one that is being deleted is waited for
    struct error err = {0};
    struct removal *r = sb && !d->freeing ? calloc(1, sizeof *r) : NULL;
    if (!r) {
        if (sb)
            (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
        else
            (void)error_server(&err, ERR_R_SANDBOX_NOT_FOUND, "no sandbox has the id %.80s", id);
        done(NULL, &err, arg);
        return;
    }
    r->wait.done = removed;
    r->done = done;
    r->arg = arg;
    d->metrics.deletes++;
    teardown_begin(d, sb, &r->wait);
}
