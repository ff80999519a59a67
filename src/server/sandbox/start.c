// The start: what the store remembers meets what the runtime really holds, and only then is
// anything served (docs/architecture.md section 4).
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"
#include "server/sandbox/hooks/prestart.h"
#include "server/sandbox/reconcile.h"

struct start {
    struct job job;
    struct domain *domain;
    struct runtime_found *found;
    size_t found_count;
    struct error error;
    void (*done)(const struct error *err, void *arg);
    void *arg;
};

// A server that leaves ruins lying, to prove that the checks would see them (tests/checks).
static bool leaves_ruins(void) {
#if FAILPOINTS
    return getenv("OPENSANDBOX_NO_SWEEP") != NULL;
#else
    return false;
#endif
}

void start_free(struct domain *d) {
    if (!d->start)
        return;
    free(d->start->found);
    free(d->start);
    d->start = NULL;
}

static void over(struct domain *d, const struct error *err) {
    struct start *s = d->start;
    struct error copy = err ? *err : (struct error){0};
    void (*done)(const struct error *, void *) = s->done;
    void *arg = s->arg;
    d->ready = !err;
    if (d->ready)
        stock_start(d);
    start_free(d);
    if (!d->freeing)
        done(err ? &copy : NULL, arg);
}

// ---- last: the sweep ----

static void sweep_run(struct job *job) {
    struct start *s = CONTAINER_OF(job, struct start, job);
    struct runtime *r = s->domain->settings.runtime;
    if (!leaves_ruins())
        (void)r->ops->sweep(r, &s->error); // s->error says it
}

static void sweep_done(struct job *job) {
    struct start *s = CONTAINER_OF(job, struct start, job);
    s->domain->inflight--;
    over(s->domain, s->error.kind ? &s->error : NULL);
}

void domain_started_one(struct domain *d) {
    if (--d->starting || d->freeing || !d->start)
        return;
    struct error err = d->start->error;
    if (err.kind) {
        over(d, &err);
        return;
    }
    d->start->job = (struct job){.run = sweep_run, .done = sweep_done};
    if (domain_submit(d, &d->start->job) < 0) {
        (void)error_set(&err, EAGAIN, "the workers' queue is full");
        over(d, &err);
    }
}

// ---- what reconcile() asks for ----

struct adopt {
    struct operation op;
    bool snapshot; // one of it was under way: if it stands still, then for that
    struct inspection found;
};

static int adopt_run(struct operation *op, struct error *err) {
    struct adopt *a = CONTAINER_OF(op, struct adopt, op);
    const struct sandbox *sb = op->sandbox; // nothing else touches it while this operation runs
    struct runtime *r = op->domain->settings.runtime;
    if (r->ops->adopt(r, op->id, sb->spec, sb->runtime_state, &a->found, err))
        return -1;
    if (!a->snapshot || !a->found.alive || !a->found.paused)
        return 0;
    a->found.paused = false;
    return r->ops->resume(r, op->id, err);
}

// The runtime itself is away: nothing is known of any sandbox, and no record changes. The next
// start asks again.
static bool is_away(const struct error *err) {
    return err && error_is(err, ERR_R_UNAVAILABLE);
}

static bool ended_well(const struct inspection *i) {
    return !i->alive && i->has_record && !i->exit_code && !i->signal && !i->oom;
}

static void adopt_end(struct operation *op, const struct error *err) {
    struct adopt *a = CONTAINER_OF(op, struct adopt, op);
    struct domain *d = op->domain;
    struct sandbox *sb = op->sandbox;
    bool lived = sb->state == SANDBOX_RUNNING || sb->state == SANDBOX_PAUSED;
    if (is_away(err) && d->start) {
        d->start->error = *err;
    } else if (sb->state == SANDBOX_PENDING && !sb->deleting && !d->freeing) {
        // also when it has ended: its last words tell why; a hook that fails is no good end
        prestart_resume(d, sb, !err && ended_well(&a->found));
    } else if (sb->deleting || d->freeing || !lived) {
        ; // nothing to find out
    } else if (sb->stock) {
        if (!err && a->found.alive && !a->found.paused)
            stock_adopt(d, sb);
        else
            teardown_begin(d, sb, NULL);
    } else if (err) {
        struct error why = {0};
        (void)error_set(&why, err->kind, "The sandbox could not be taken over: %.900s",
                        err->message);
        ended_lost(d, sb, &why, true);
    } else if (!a->found.alive) {
        ended_check(d, sb, true);
    } else if (state_apply(d->registry, sb,
                           a->found.paused ? EVENT_FOUND_PAUSED : EVENT_FOUND_RUNNING) == 0) {
        record_now(d, sb, true);
    }
    free(a);
}

static const struct step adopt_steps[] = {{"adopt", STEP_WORKER, 0, adopt_run, NULL}};
static const struct operation_kind adopt_kind = {
    .name = "adopt", .steps = adopt_steps, .count = ARRAY_SIZE(adopt_steps), .end = adopt_end};

static int adopt_start(struct domain *d, struct sandbox *sb, struct error *err) {
    struct adopt *a = calloc(1, sizeof *a);
    if (!a)
        return error_errno(err, ENOMEM, "adopt");
    a->op.starting = true;
    a->snapshot = sb->state == SANDBOX_RUNNING && snapshot_creating_of(d, sb->id);
    operation_start(d, sb, &a->op, &adopt_kind, false);
    return 0;
}

static void removed(struct teardown_wait *w, const struct error *err) {
    struct domain *d = w->domain;
    if (err)
        log_warning("start: %s", err->message); // it goes on behind us
    free(w);
    domain_started_one(d);
}

static int remove_start(struct domain *d, struct sandbox *sb, struct error *err) {
    if (leaves_ruins()) {
        expiry_clear(d, sb);
        registry_remove(d->registry, sb);
        return 0;
    }
    struct teardown_wait *w = calloc(1, sizeof *w);
    if (!w)
        return error_errno(err, ENOMEM, "teardown");
    w->done = removed;
    d->starting++;
    teardown_begin(d, sb, w);
    return 0;
}

struct destroy {
    struct job job;
    struct domain *domain;
    char id[SANDBOX_ID_SIZE];
    struct error error;
};

static void destroy_run(struct job *job) {
    struct destroy *x = CONTAINER_OF(job, struct destroy, job);
    struct runtime *r = x->domain->settings.runtime;
    (void)r->ops->destroy(r, x->id, &x->error); // x->error says it
}

static void destroy_done(struct job *job) {
    struct destroy *x = CONTAINER_OF(job, struct destroy, job);
    struct domain *d = x->domain;
    d->inflight--;
    if (x->error.kind) // the sweep tries again
        log_warning("what is left of sandbox %s: %s", x->id, x->error.message);
    free(x);
    domain_started_one(d);
}

static int destroy_start(struct domain *d, const char *id, struct error *err) {
    if (leaves_ruins())
        return 0;
    struct destroy *x = calloc(1, sizeof *x);
    if (!x)
        return error_errno(err, ENOMEM, "destroy");
    x->domain = d;
    x->job = (struct job){.run = destroy_run, .done = destroy_done};
    (void)snprintf(x->id, sizeof x->id, "%s", id);
    if (domain_submit(d, &x->job) < 0) {
        free(x);
        return error_set(err, EAGAIN, "the workers' queue is full");
    }
    d->starting++;
    return 0;
}

static void lost(struct domain *d, struct sandbox *sb) {
    struct error why = {0};
    (void)error_set(&why, ESRCH, "The sandbox was gone when the server came back.");
    ended_lost(d, sb, &why, false);
}

static int act(struct domain *d, const struct reconcile_result *x, struct error *err) {
    struct sandbox *sb = registry_get(d->registry, x->id);
    if (!sb) // known to the runtime alone
        return destroy_start(d, x->id, err);
    expiry_set(d, sb);
    if (sb->stock && (x->action != RECONCILE_ADOPT || !stock_wants(d, sb)))
        return remove_start(d, sb, err);
    switch (x->action) {
    case RECONCILE_KEEP: return 0;
    case RECONCILE_ADOPT: // of a create that failed nothing is kept
        return sb->failure.kind ? destroy_start(d, x->id, err) : adopt_start(d, sb, err);
    case RECONCILE_LOST: lost(d, sb); return 0;
    case RECONCILE_TEARDOWN: return remove_start(d, sb, err);
    case RECONCILE_DESTROY: break; // never of what is in the registry
    }
    return 0;
}

// ---- records to sandboxes ----

// Why a create failed, for endpoint look-ups: its code is the reason of the record.
static void restore_failure(struct sandbox *sb) {
    if (sb->state != SANDBOX_FAILED || !strstr(sb->reason, "::"))
        return;
    for (int i = 0; i < ERROR_ID_COUNT; i++) {
        if (strcmp(error_code((enum error_id)i), sb->reason) == 0) {
            (void)error_server(&sb->failure, (enum error_id)i, "%s", sb->message);
            return;
        }
    }
}

// Commits hold lasting states only; the passing ones are those of a server that was killed.
static int restore_state(struct domain *d, struct sandbox *sb, const char *name) {
    enum sandbox_state state;
    if (sandbox_state_parse(name, &state) < 0)
        return -1;
    state_restore(d->registry, sb,
                  state == SANDBOX_PAUSING    ? SANDBOX_RUNNING
                  : state == SANDBOX_RESUMING ? SANDBOX_PAUSED
                                              : state);
    return 0;
}

static int load_one(const union store_record *record, void *arg) {
    const struct sandbox_record *r = &record->sandbox;
    struct domain *d = arg;
    struct error *err = &d->start->error;
    struct sandbox_spec *spec = spec_from_text(r->spec, err);
    struct sandbox *sb = spec ? registry_add(d->registry, r->id, spec, r->created_us) : NULL;
    if (!sb) {
        spec_unref(spec);
        return err->kind ? error_wrap(err, "store: sandbox %s", r->id)
                         : error_errno(err, ENOMEM, "store");
    }
    sb->notice = domain_notice(d, spec);
    sb->changed_us = r->changed_us;
    sb->expires_us = r->expires_us;
    sb->forget_us = r->forget_us;
    (void)snprintf(sb->reason, sizeof sb->reason, "%s", r->reason ? r->reason : "");
    (void)snprintf(sb->message, sizeof sb->message, "%s", r->message ? r->message : "");
    (void)snprintf(sb->image_id, sizeof sb->image_id, "%s", r->image_id ? r->image_id : "");
    (void)snprintf(sb->runtime_state, sizeof sb->runtime_state, "%s",
                   r->runtime_state ? r->runtime_state : "");
    sb->stock = r->stock != 0;
    sb->reserved = r->stock == 2;
    if (r->pool && !(sb->pool = strdup(r->pool)))
        return error_errno(err, ENOMEM, "store");
    if (restore_state(d, sb, r->state) < 0)
        return error_set(err, EINVAL, "store: sandbox %s has the unknown state \"%.40s\"", r->id,
                         r->state);
    if (pairs_from_text(&sb->metadata, r->metadata, err) < 0)
        return error_wrap(err, "store: sandbox %s: metadata", r->id);
    restore_failure(sb);
    if (sb->pool && !sb->stock && (sb->state == SANDBOX_RUNNING || sb->state == SANDBOX_PAUSED))
        pool_join(d, sb);
    return 0;
}

struct gather {
    struct reconcile_record *records;
    size_t count;
};

static bool gather(struct sandbox *sb, void *arg) {
    struct gather *g = arg;
    struct reconcile_record *r = &g->records[g->count++];
    memcpy(r->id, sb->id, sizeof r->id);
    r->state = sb->state;
    r->deadline_us = sb->forget_us ? sb->forget_us : sb->expires_us;
    r->begun = sb->state == SANDBOX_PENDING && *sb->runtime_state;
    return true;
}

static int compare_and_act(struct domain *d, struct error *err) {
    struct start *s = d->start;
    size_t count = registry_count(d->registry);
    struct reconcile_record *records cleanup_free = calloc(count + 1, sizeof *records);
    struct reconcile_result *results cleanup_free =
        calloc(count + s->found_count + 1, sizeof *results);
    struct gather g = {.records = records};
    if (!records || !results)
        return error_errno(err, ENOMEM, "reconcile");
    registry_each(d->registry, gather, &g);
    long n = reconcile(records, count, s->found, s->found_count, clock_wall_us(), results);
    if (n < 0)
        return error_errno(err, ENOMEM, "reconcile");
    for (long i = 0; i < n; i++)
        if (act(d, &results[i], err) < 0)
            return -1;
    return 0;
}

// ---- first: the runtime ----

static void on_event(const struct runtime_event *e, void *arg) {
    struct domain *d = arg;
    struct sandbox *sb = registry_get(d->registry, e->id);
    if (!sb || sb->deleting || d->stopping)
        return;
    if (sb->state == SANDBOX_PENDING)
        sb->end_told = true;
    else
        ended_check(d, sb, false);
}

static void begin_run(struct job *job) {
    struct start *s = CONTAINER_OF(job, struct start, job);
    struct runtime *r = s->domain->settings.runtime;
    if (r->ops->start(r, &s->error) == 0)
        (void)r->ops->list(r, &s->found, &s->found_count, &s->error); // s->error says it
}

static void begin_done(struct job *job) {
    struct start *s = CONTAINER_OF(job, struct start, job);
    struct domain *d = s->domain;
    struct runtime *r = d->settings.runtime;
    struct error err = {0};
    d->inflight--;
    if (d->freeing)
        return;
    if (!s->error.kind && // load_one()'s reason is better
        pools_load(d, &err) == 0 &&
        store_load(d->settings.store, STORE_SANDBOXES, load_one, d, &err) == 0 &&
        keys_load(d, &err) == 0)
        (void)snapshots_load(d, &err);
    if (s->error.kind || err.kind) {
        over(d, s->error.kind ? &s->error : &err);
        return;
    }
    r->ops->watch(r, d->settings.loop, on_event, d);
    d->starting++; // so that it is not over before all are under way
    if (compare_and_act(d, &err) < 0 || snapshots_recover(d, &err) < 0) {
        over(d, &err);
        return;
    }
    domain_started_one(d);
}

void domain_start(struct domain *d, void (*done)(const struct error *err, void *arg), void *arg) {
    struct error err = {0};
    struct start *s = calloc(1, sizeof *s);
    if (!s) {
        (void)error_errno(&err, ENOMEM, "start");
        done(&err, arg);
        return;
    }
    d->start = s;
    s->domain = d;
    s->done = done;
    s->arg = arg;
    s->job = (struct job){.run = begin_run, .done = begin_done};
    if (domain_submit(d, &s->job) < 0) {
        (void)error_set(&err, EAGAIN, "the workers' queue is full");
        over(d, &err);
    }
}
