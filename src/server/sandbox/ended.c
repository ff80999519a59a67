// Sandboxes that stay visible after their end, and the commits that only write down what is.
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

struct ended {
    struct operation op;
    struct inspection found;
    struct error unknown; // set: nobody can tell how it ended
    struct error why;     // of a loss or a burial: all that there is to say
    // of a burial
    int64_t failed_us;
    bool durable;
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

static void describe(struct sandbox *sb, const struct ended *e) {
    const struct inspection *i = &e->found;
    const struct error *unknown = &e->unknown;
    int n;
    if (i->oom) {
        (void)snprintf(sb->reason, sizeof sb->reason, "OOM_KILLED");
        n = snprintf(sb->message, sizeof sb->message,
                     "The sandbox ran out of memory and was killed (exit code %d).", i->exit_code);
    } else if (i->signal) {
        n = snprintf(sb->message, sizeof sb->message, "The entrypoint was killed by signal %d.",
                     i->signal);
    } else if (e->why.kind) {
        n = snprintf(sb->message, sizeof sb->message, "%s", e->why.message);
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
    describe(sb, e);
    if (e->found.ended_us)
        sb->changed_us = e->found.ended_us;
    d->metrics.exited++;
    pool_leave(d, sb);
    registry_release(d->registry, sb);
    if (e->why.kind)
        log_warning("sandbox %s: %s", sb->id, sb->message);
    else
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

// One like `like`.
static void start(struct domain *d, struct sandbox *sb, const struct operation_kind *kind,
                  const struct ended *like) {
    struct ended *e = calloc(1, sizeof *e);
    if (!e) {
        log_error("sandbox %s: %s: out of memory", sb->id, kind->name);
        return;
    }
    *e = *like;
    operation_start(d, sb, &e->op, kind, false);
}

// Those who know that it has ended leave out the first ones.
static const struct step end_steps[] = {
    {"live", STEP_LOOP, 0, is_live, NULL},
    {"inspect", STEP_WORKER, 0, inspect, NULL},
    {"dead", STEP_LOOP, 0, is_dead, NULL},
    {"retire", STEP_WORKER, STEP_OPTIONAL, retire, NULL}, // the teardown removes what stays
    {"ended", STEP_LOOP, 0, apply, NULL},
    {"commit the end", STEP_STORE, STEP_RETRY, commit, NULL},
};
enum { STEP_OF_RETIRE = 3, STEP_OF_APPLY = 4 };

void ended_check(struct domain *d, struct sandbox *sb, bool starting) {
    static const struct operation_kind kind = {
        .name = "exit", .steps = end_steps, .count = ARRAY_SIZE(end_steps), .end = end};
    start(d, sb, &kind, &(struct ended){.op.starting = starting});
}

void ended_lost(struct domain *d, struct sandbox *sb, const struct error *why, bool remains) {
    static const struct operation_kind whole = {.name = "loss",
                                                .steps = end_steps + STEP_OF_RETIRE,
                                                .count = ARRAY_SIZE(end_steps) - STEP_OF_RETIRE,
                                                .end = end},
                                       gone = {.name = "loss",
                                               .steps = end_steps + STEP_OF_APPLY,
                                               .count = ARRAY_SIZE(end_steps) - STEP_OF_APPLY,
                                               .end = end};
    start(d, sb, remains ? &whole : &gone,
          &(struct ended){.op.starting = true, .found.exit_code = -1, .why = *why});
}

void record_now(struct domain *d, struct sandbox *sb, bool starting) {
    static const struct step steps[] = {
        {"commit the state", STEP_STORE, STEP_RETRY, commit, NULL},
    };
    static const struct operation_kind kind = {
        .name = "record", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    start(d, sb, &kind, &(struct ended){.op.starting = starting});
}

// ---- a create that failed after a Pending reply ----

static int replace(char **at, const char *text) {
    free(*at);
    *at = strdup(text);
    return *at ? 0 : -1;
}

static int commit_failed(struct operation *op, struct error *err) {
    struct ended *e = ended_of(op);
    if (e->durable)
        return STEP_SKIP;
    if (record_fill(op, SANDBOX_FAILED, err) < 0)
        return -1;
    struct sandbox_record *r = &op->change.rows[0].record.sandbox;
    r->changed_us = e->failed_us;
    r->forget_us = e->failed_us + op->domain->settings.failed_retention_s * 1000000;
    if (replace(&r->reason, e->why.code) < 0 || replace(&r->message, e->why.message) < 0)
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    if (op->sandbox->key)
        key_remove(op->sandbox->key, &op->change);
    return STEP_DONE;
}

static int become_failed(struct operation *op, struct error *err) {
    struct ended *e = ended_of(op);
    struct sandbox *sb = op->sandbox;
    (void)err;
    e->durable = !op->step_failed;
    (void)state_apply(op->domain->registry, sb, EVENT_PROVISION_FAILED); // it is Pending
    sb->failure = e->why;
    (void)snprintf(sb->reason, sizeof sb->reason, "%s", e->why.code);
    (void)snprintf(sb->message, sizeof sb->message, "%s", e->why.message);
    sb->changed_us = e->failed_us;
    sb->forget_us = e->failed_us + op->domain->settings.failed_retention_s * 1000000;
    if (e->durable)
        release_key(op->domain, sb);
    pool_leave(op->domain, sb);
    expiry_set(op->domain, sb);
    holds_release(sb);
    return STEP_DONE;
}

static int destroy(struct operation *op, struct error *err) {
    struct runtime *r = op->domain->settings.runtime;
    return r->ops->destroy(r, op->id, err);
}

static int buried(struct operation *op, struct error *err) {
    (void)err;
    release_key(op->domain, op->sandbox);
    return STEP_DONE;
}

// Failed is told as soon as it is durable, whatever its remains take; only a full disk must not
// keep them from going, as they may be what fills it.
void ended_bury(struct domain *d, struct sandbox *sb, const struct error *why) {
    static const struct step steps[] = {
        {"commit Failed", STEP_STORE, STEP_OPTIONAL, commit_failed, NULL},
        {"failed", STEP_LOOP, 0, become_failed, NULL},
        {"destroy", STEP_WORKER, STEP_RETRY, destroy, NULL},
        {"commit Failed at last", STEP_STORE, STEP_RETRY, commit_failed, NULL},
        {"buried", STEP_LOOP, 0, buried, NULL},
    };
    static const struct operation_kind kind = {
        .name = "bury", .steps = steps, .count = ARRAY_SIZE(steps), .end = end};
    start(d, sb, &kind, &(struct ended){.why = *why, .failed_us = clock_wall_us()});
}
