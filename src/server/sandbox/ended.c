// Sandboxes that stay visible after their end, and the commits that only write down what is.
#include <errno.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

struct ended {
    struct operation op;
    struct inspection found;
    struct error unknown; // set: nobody can tell how it ended
};

static struct ended *ended_of(struct operation *op) {
    return CONTAINER_OF(op, struct ended, op);
}

static bool lives(enum sandbox_state s) {
    return s == SANDBOX_RUNNING || s == SANDBOX_PAUSED;
}

// An end that was reported twice, or for a sandbox that was never Running, is none.
static int is_live(struct operation *op, struct error *err) {
    return lives(op->sandbox->state)
               ? STEP_DONE
               : error_set(err, EALREADY, "sandbox %s has ended already", op->id);
}

static int inspect(struct operation *op, struct error *err) {
    struct ended *e = ended_of(op);
    struct runtime *r = op->domain->settings.runtime;
    (void)err;
    if (r->ops->inspect(r, op->id, &e->found, &e->unknown) < 0)
        e->found = (struct inspection){.exit_code = -1};
    return STEP_DONE;
}

static int is_dead(struct operation *op, struct error *err) {
    return ended_of(op)->found.alive ? error_set(err, EAGAIN, "sandbox %s lives", op->id)
                                     : STEP_DONE;
}

static int retire(struct operation *op, struct error *err) {
    struct runtime *r = op->domain->settings.runtime;
    return r->ops->retire(r, op->id, err);
}

static void describe(struct sandbox *sb, const struct inspection *i, const struct error *unknown) {
    int n;
    if (i->oom) {
        (void)snprintf(sb->reason, sizeof sb->reason, "OOM_KILLED");
        n = snprintf(sb->message, sizeof sb->message,
                     "The sandbox ran out of memory and was killed (exit code %d).", i->exit_code);
    } else if (i->signal) {
        n = snprintf(sb->message, sizeof sb->message, "The entrypoint was killed by signal %d.",
                     i->signal);
    } else if (i->exit_code >= 0) {
        n = snprintf(sb->message, sizeof sb->message, "The entrypoint exited with code %d.",
                     i->exit_code);
    } else {
        n = snprintf(sb->message, sizeof sb->message, "The sandbox ended; how is not known%s%.800s",
                     unknown->kind ? ": " : ".", unknown->kind ? unknown->message : "");
    }
    (void)n; // the texts are bounded, and cut where they are not
}

static int apply(struct operation *op, struct error *err) {
    struct ended *e = ended_of(op);
    struct sandbox *sb = op->sandbox;
    struct domain *d = op->domain;
    bool well = e->found.exit_code == 0 && !e->found.signal && !e->found.oom;
    if (state_apply(d->registry, sb, well ? EVENT_EXITED_OK : EVENT_EXITED_BADLY) < 0)
        return error_set(err, EALREADY, "sandbox %s has ended already", op->id);
    describe(sb, &e->found, &e->unknown);
    if (e->found.ended_us)
        sb->changed_us = e->found.ended_us;
    d->metrics.exited++;
    pool_leave(d, sb);
    registry_release(d->registry, sb);
    log_info("sandbox %s: %s: %s", sb->id, sandbox_state_name(sb->state), sb->message);
    return STEP_DONE;
}

static int commit(struct operation *op, struct error *err) {
    return record_fill(op, op->sandbox->state, err);
}

static void end(struct operation *op, const struct error *err) {
    struct sandbox *sb = op->sandbox;
    if (err)
        log_debug("%s", err->message);
    else if (sb->stock && !lives(sb->state) && !op->domain->freeing)
        teardown_begin(op->domain, sb, NULL); // nobody will look at its end
    free(ended_of(op));
}

static void start(struct domain *d, struct sandbox *sb, const struct operation_kind *kind,
                  bool starting) {
    struct ended *e = calloc(1, sizeof *e);
    if (!e) {
        log_error("sandbox %s: %s: out of memory", sb->id, kind->name);
        return;
    }
    e->op.starting = starting;
    operation_start(d, sb, &e->op, kind, false);
}

void ended_check(struct domain *d, struct sandbox *sb, bool starting) {
    static const struct step steps[] = {
        {"live", STEP_LOOP, 0, is_live, NULL},
        {"inspect", STEP_WORKER, 0, inspect, NULL},
        {"dead", STEP_LOOP, 0, is_dead, NULL},
        {"retire", STEP_WORKER, STEP_OPTIONAL, retire, NULL}, // the teardown removes what stays
        {"ended", STEP_LOOP, 0, apply, NULL},
        {"commit the end", STEP_STORE, STEP_RETRY, commit, NULL},
    };
    static const struct operation_kind kind = {
        .name = "exit", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    start(d, sb, &kind, starting);
}

void record_now(struct domain *d, struct sandbox *sb, bool starting) {
    static const struct step steps[] = {
        {"commit the state", STEP_STORE, STEP_RETRY, commit, NULL},
    };
    static const struct operation_kind kind = {
        .name = "record", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    start(d, sb, &kind, starting);
}

static int destroy(struct operation *op, struct error *err) {
    struct runtime *r = op->domain->settings.runtime;
    return r->ops->destroy(r, op->id, err);
}

static int commit_failed(struct operation *op, struct error *err) {
    if (commit(op, err) < 0)
        return -1;
    if (op->sandbox->key)
        key_remove(op->sandbox->key, &op->change);
    return STEP_DONE;
}

static int buried(struct operation *op, struct error *err) {
    (void)err;
    release_key(op->domain, op->sandbox);
    return STEP_DONE;
}

void ended_bury(struct domain *d, struct sandbox *sb, const struct error *why) {
    static const struct step steps[] = {
        {"destroy", STEP_WORKER, STEP_RETRY, destroy, NULL},
        {"commit Failed", STEP_STORE, STEP_RETRY, commit_failed, NULL},
        {"buried", STEP_LOOP, 0, buried, NULL},
    };
    static const struct operation_kind kind = {
        .name = "bury", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    (void)state_apply(d->registry, sb, EVENT_PROVISION_FAILED); // it is Pending
    sb->failure = *why;
    pool_leave(d, sb);
    (void)snprintf(sb->reason, sizeof sb->reason, "%s", why->code);
    (void)snprintf(sb->message, sizeof sb->message, "%s", why->message);
    sb->forget_us = sb->changed_us + d->settings.failed_retention_s * 1000000;
    expiry_set(d, sb);
    holds_release(sb);
    start(d, sb, &kind, false);
}
