#include "server/sandbox/domain.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/errors.h"

enum { STOP_MS = 10000, LAST_MS = 5000, SPARE_WORKERS = 4 };

struct domain *domain_new(const struct domain_settings *s, struct error *err) {
    struct domain *d = calloc(1, sizeof *d);
    if (!d) {
        (void)error_errno(err, ENOMEM, "domain");
        return NULL;
    }
    d->settings = *s;
    list_init(&d->operations);
    list_init(&d->slots);
    list_init(&d->keys_by_age);
    map_init(&d->keys);
    list_init(&d->snapshots_by_age);
    map_init(&d->snapshots);
    list_init(&d->pools_by_age);
    map_init(&d->pools);
    map_init(&d->flights);
    expiry_init(d);
    // deletes, pauses and dials always find a worker
    unsigned most = s->workers > SPARE_WORKERS ? s->workers - SPARE_WORKERS : 1;
    d->slots_max = s->creates_running < most ? s->creates_running : most;
    if (d->slots_max == 0)
        d->slots_max = 1;
    d->registry = registry_new();
    if (!d->registry)
        (void)error_errno(err, ENOMEM, "domain");
    if (!d->registry || !(d->workers = workers_new(s->loop, s->workers, s->queue_max, 0, err)) ||
        !(d->pull_workers = workers_new(s->loop, s->pull_workers, s->queue_max, 10, err))) {
        domain_free(d);
        return NULL;
    }
    return d;
}

struct registry *domain_registry(struct domain *d) {
    return d->registry;
}
const struct domain_metrics *domain_metrics(const struct domain *d) {
    return &d->metrics;
}
bool domain_ready(const struct domain *d) {
    return d->ready && !d->stopping;
}

int domain_submit(struct domain *d, struct job *job) {
    if (workers_submit(d->workers, job) < 0)
        return -1;
    d->inflight++;
    return 0;
}

struct sandbox *domain_sandbox(struct domain *d, const char *id, struct error *err) {
    struct sandbox *sb = registry_visible(d->registry, id);
    if (!sb)
        (void)error_server(err, ERR_R_SANDBOX_NOT_FOUND, "no sandbox has the id %.80s", id);
    return sb;
}

static char *text_of(const char *text) {
    return *text ? strdup(text) : NULL;
}

const char *domain_notice(const struct domain *d, const struct sandbox_spec *spec) {
    const struct runtime *r = d->settings.runtime;
    return r->ops->notice ? r->ops->notice(r, spec) : NULL;
}

int record_fill(struct operation *op, enum sandbox_state as, struct error *err) {
    const struct sandbox *sb = op->sandbox;
    struct sandbox_record *r = &change_put(&op->change, STORE_SANDBOXES)->sandbox;
    bool same = as == sb->state;
    *r = (struct sandbox_record){
        .state = strdup(sandbox_state_name(as)),
        .reason = strdup(same ? sb->reason : state_reason(as)),
        .message = strdup(same ? sb->message : state_message(as)),
        .spec = spec_to_text(sb->spec),
        .metadata = pairs_to_text(&sb->metadata),
        .runtime = strdup(op->domain->settings.runtime->ops->name),
        .runtime_state = text_of(sb->runtime_state),
        .image_id = text_of(sb->image_id),
        .pool = sb->pool ? strdup(sb->pool) : NULL,
        .stock = sb->reserved ? 2 : sb->stock,
        .created_us = sb->created_us,
        .changed_us = same ? sb->changed_us : clock_wall_us(),
        .expires_us = sb->expires_us,
        .forget_us = sb->forget_us,
    };
    memcpy(r->id, sb->id, sizeof r->id);
    if (r->state && r->reason && r->message && r->spec && r->metadata && r->runtime &&
        (r->runtime_state || !*sb->runtime_state) && (r->image_id || !*sb->image_id) &&
        (r->pool || !sb->pool))
        return STEP_DONE;
    return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
}

int domain_commit_running(struct operation *op, struct error *err) {
    return record_fill(op, SANDBOX_RUNNING, err);
}

int domain_running(struct operation *op, struct error *err) {
    struct sandbox *sb = op->sandbox;
    if (state_apply(op->domain->registry, sb, EVENT_PROVISIONED) < 0)
        return error_server(err, ERR_INTERNAL_ERROR, "sandbox %s is not Pending", op->id);
    if (sb->end_told)
        ended_check(op->domain, sb, false);
    return STEP_DONE;
}

// ---- the end ----

static void stopped(struct domain *d) {
    void (*done)(void *) = d->stopped;
    timer_stop(&d->stop_limit);
    d->stopped = NULL;
    if (done)
        done(d->stopped_arg);
}

static void on_stop_limit(struct timer *t) {
    stopped(CONTAINER_OF(t, struct domain, stop_limit));
}

void domain_progress(struct domain *d) {
    if (d->stopping && list_empty(&d->operations))
        stopped(d);
}

static bool leave_one(struct domain *d) {
    LIST_EACH(&d->operations, node) {
        struct operation *op = LIST_ENTRY(node, struct operation, all);
        if (operation_can_be_left(op)) {
            operation_cancel(op);
            return true; // others may have ended with it: look from the beginning
        }
    }
    return false;
}

void domain_stop(struct domain *d, void (*done)(void *arg), void *arg) {
    d->stopping = true;
    d->stopped = done;
    d->stopped_arg = arg;
    timer_stop(&d->alarm); // what expires now is found by the next start
    timer_start(d->settings.loop, &d->stop_limit, STOP_MS, on_stop_limit);
    while (leave_one(d))
        ;
    domain_progress(d);
}

static bool drop_holds(struct sandbox *sb, void *arg) {
    (void)arg;
    holds_drop(sb);
    return true;
}

static void on_last_limit(struct timer *t) {
    log_warning("%zu calls of the runtime do not end: ending without them; the next start finds "
                "what they leave",
                CONTAINER_OF(t, struct domain, stop_limit)->inflight);
    _exit(0); // as a crash, after which nothing that was answered is lost
}

void domain_free(struct domain *d) {
    if (!d)
        return;
    d->stopping = d->freeing = true;
    d->stopped = NULL;
    timer_stop(&d->stop_limit);
    if (d->inflight)
        timer_start(d->settings.loop, &d->stop_limit, LAST_MS, on_last_limit);
    while (d->inflight) // runtime calls and commits that cannot be interrupted
        (void)uv_run(&d->settings.loop->uv, UV_RUN_ONCE);
    timer_stop(&d->stop_limit);
    while (!list_empty(&d->operations))
        operation_drop(LIST_ENTRY(d->operations.next, struct operation, all));
    start_free(d);
    workers_free(d->workers);
    workers_free(d->pull_workers);
    if (d->registry)
        registry_each(d->registry, drop_holds, NULL);
    expiry_close(d);
    pools_clear(d);
    registry_free(d->registry);
    map_clear(&d->flights);
    keys_clear(d);
    snapshots_clear(d);
    free(d);
}
