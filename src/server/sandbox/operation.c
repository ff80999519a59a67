#include "server/sandbox/operation.h"

#include <errno.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

enum { RETRY_FIRST_MS = 100, RETRY_MAX_MS = 30000 };

static void advance(struct operation *op);
static void start_next(struct sandbox *sb);

static const struct step *step_of(const struct operation *op) {
    return &op->kind->steps[op->at];
}

static void finish(struct operation *op) {
    struct domain *d = op->domain;
    struct sandbox *sb = op->sandbox;
    char id[SANDBOX_ID_SIZE];
    bool starting = op->starting;
    struct error error = op->error;
    (void)snprintf(id, sizeof id, "%s", op->id);
    list_remove(&op->all);
    if (sb->running == op)
        sb->running = NULL;
    op->kind->end(op, error.kind ? &error : NULL);
    sb = registry_get(d->registry, id); // gone after a teardown
    if (sb && !sb->running)
        start_next(sb);
    if (starting)
        domain_started_one(d);
    domain_progress(d);
}

// ---- failing: undo from the failed step down, then finish ----

static void undo_run(struct job *job) {
    struct operation *op = CONTAINER_OF(job, struct operation, job);
    step_of(op)->undo(op);
}

static void undo_done(struct job *job);

static void undo(struct operation *op) {
    while (op->at > 0) {
        op->at--;
        const struct step *step = step_of(op);
        if (!step->undo)
            continue;
        if (step->place == STEP_WORKER) {
            op->job = (struct job){.run = undo_run, .done = undo_done};
            if (domain_submit(op->domain, &op->job) == 0)
                return;
            log_error("sandbox %s: %s: %s could not be undone: the workers' queue is full", op->id,
                      op->kind->name, step->name);
        } else {
            step->undo(op);
        }
    }
    finish(op);
}

static void undo_done(struct job *job) {
    struct operation *op = CONTAINER_OF(job, struct operation, job);
    op->domain->inflight--;
    undo(op);
}

static void fail(struct operation *op, const struct error *err) {
    op->error = *err;
    op->undoing = true;
    undo(op);
}

static void on_retry(struct timer *t) {
    advance(CONTAINER_OF(t, struct operation, retry));
}

// The current step has failed.
static void step_failed(struct operation *op, const struct error *err) {
    struct domain *d = op->domain;
    unsigned flags = step_of(op)->flags;
    bool leaves = op->sandbox->deleting && op->kind != &teardown_kind; // its teardown waits for it
    if (flags & STEP_RETRY && !leaves && !d->stopping && !d->freeing) {
        unsigned shift = op->tries < 9 ? op->tries : 9;
        int64_t wait_ms = (int64_t)RETRY_FIRST_MS << shift;
        log_warning("sandbox %s: %s: %s: %s; tried again", op->id, op->kind->name,
                    step_of(op)->name, err->message);
        op->tries++;
        timer_start(d->settings.loop, &op->retry, wait_ms < RETRY_MAX_MS ? wait_ms : RETRY_MAX_MS,
                    on_retry);
        domain_tried(op);
    } else if (flags & STEP_OPTIONAL && !d->freeing) {
        log_warning("sandbox %s: %s: %s: %s", op->id, op->kind->name, step_of(op)->name,
                    err->message);
        op->step_failed = true;
        op->step_error = *err;
        op->at++;
        advance(op);
    } else {
        fail(op, err);
    }
}

static void step_done(struct operation *op) {
    op->at++;
    op->tries = 0;
    advance(op);
}

// ---- waits that last ----

static void park(struct operation *op) {
    struct sandbox *sb = op->sandbox;
    sb->parked = op;
    sb->running = NULL;
    if (op->domain->stopping)
        operation_cancel(op);
    else
        start_next(sb);
}

// Back, to run or to fail.
static void unpark(struct operation *op, bool run) {
    struct sandbox *sb = op->sandbox;
    if (sb->parked != op)
        return;
    sb->parked = NULL;
    if (run)
        sb->running = op;
}

// ---- the steps ----

static void on_run(struct job *job) {
    struct operation *op = CONTAINER_OF(job, struct operation, job);
    struct error err = {0};
    if (step_of(op)->run(op, &err) < 0)
        op->error = err;
}

static void on_done(struct job *job) {
    struct operation *op = CONTAINER_OF(job, struct operation, job);
    op->domain->inflight--;
    struct error err = op->error;
    op->error = (struct error){0};
    if (err.kind)
        step_failed(op, &err);
    else
        step_done(op);
}

static void on_committed(struct change *c, const struct error *err) {
    struct operation *op = CONTAINER_OF(c, struct operation, change);
    op->domain->inflight--;
    change_clear(c);
    if (err)
        step_failed(op, err);
    else
        step_done(op);
}

static int submit(struct operation *op, struct error *err) {
    if (step_of(op)->place != STEP_LOOP) // a loop step may ask how the one before it went
        op->step_failed = false;
    if (step_of(op)->place == STEP_WORKER) {
        op->job = (struct job){.run = on_run, .done = on_done};
        if (domain_submit(op->domain, &op->job) < 0)
            return error_server(err, ERR_OVERLOADED, "the workers' queue is full");
        return STEP_WAIT;
    }
    int r = step_of(op)->run(op, err);
    if (step_of(op)->place == STEP_LOOP)
        return r;
    if (r != STEP_DONE) {
        change_clear(&op->change);
        return r;
    }
    op->change.done = on_committed;
    if (store_commit(op->domain->settings.store, &op->change) < 0) {
        change_clear(&op->change);
        return error_server(err, ERR_OVERLOADED, "the store's queue is full");
    }
    op->domain->inflight++;
    return STEP_WAIT;
}

static void advance(struct operation *op) {
    while (op->at < op->kind->count) {
        struct error err = {0};
        if (op->domain->freeing) {
            (void)error_set(&err, ECANCELED, "the server is stopping");
            op->error = err;
            finish(op);
            return;
        }
        if (op->sandbox->deleting && !op->kind->survives_delete) {
            (void)error_server(&err, ERR_R_SANDBOX_NOT_FOUND, "sandbox %s was deleted", op->id);
            fail(op, &err);
            return;
        }
        op->waiting = step_of(op)->place == STEP_LOOP;
        int r = submit(op, &err);
        if (r == STEP_WAIT && step_of(op)->flags & STEP_LASTING)
            park(op);
        if (r == STEP_WAIT)
            return;
        op->waiting = false;
        if (r < 0) {
            step_failed(op, &err);
            return;
        }
        op->at++;
        op->tries = 0;
    }
    finish(op);
}

void operation_continue(struct operation *op, const struct error *err) {
    struct sandbox *sb = op->sandbox;
    if (sb->parked == op && sb->running) {
        op->ready = true;
        op->answer = err ? *err : (struct error){0};
        return;
    }
    unpark(op, true);
    op->waiting = false;
    if (err)
        step_failed(op, err);
    else
        step_done(op);
}

void operation_cancel(struct operation *op) {
    struct error err = {0};
    (void)error_server(&err, ERR_R_SANDBOX_NOT_FOUND, "sandbox %s was deleted", op->id);
    if (timer_armed(&op->retry)) {
        timer_stop(&op->retry);
        fail(op, &err);
    } else if (op->waiting) {
        op->waiting = false;
        unpark(op, false);
        op->kind->cancel(op);
        fail(op, &err);
    } // else a step is under way; advance() looks when it is done
}

bool operation_can_be_left(const struct operation *op) {
    return timer_armed(&op->retry) || (op->waiting && step_of(op)->flags & STEP_LASTING);
}

// ---- the queue ----

static void start_next(struct sandbox *sb) {
    if (sb->parked && sb->parked->ready) {
        struct error answer = sb->parked->answer;
        operation_continue(sb->parked, answer.kind ? &answer : NULL);
        return;
    }
    struct list *node = list_pop(&sb->queued);
    if (!node)
        return;
    struct operation *op = LIST_ENTRY(node, struct operation, node);
    sb->running = op;
    advance(op);
}

void operation_start(struct domain *d, struct sandbox *sb, struct operation *op,
                     const struct operation_kind *kind, bool first) {
    op->kind = kind;
    op->domain = d;
    op->sandbox = sb;
    (void)snprintf(op->id, sizeof op->id, "%s", sb->id);
    list_push_back(&d->operations, &op->all);
    if (op->starting)
        d->starting++;
    if (first)
        list_push_front(&sb->queued, &op->node);
    else
        list_push_back(&sb->queued, &op->node);
    if (!sb->running)
        start_next(sb);
}

void operation_flush(struct sandbox *sb, const struct error *err) {
    struct list *node;
    while ((node = list_pop(&sb->queued))) {
        struct operation *op = LIST_ENTRY(node, struct operation, node);
        struct domain *d = op->domain;
        bool starting = op->starting;
        list_remove(&op->all);
        op->kind->end(op, err);
        if (starting)
            domain_started_one(d);
    }
}

void operation_drop(struct operation *op) {
    if (timer_armed(&op->retry))
        timer_stop(&op->retry);
    if (op->waiting && (op->sandbox->running == op || op->sandbox->parked == op)) {
        op->waiting = false;
        unpark(op, false);
        op->kind->cancel(op);
    }
    list_remove(&op->node);
    (void)error_set(&op->error, ECANCELED, "the server is stopping");
    finish(op);
}
