// Reaching a sandbox: requests held while it is Pending, connections to its ports.
#include "base/cleanup.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

enum { HOLD_MS = 10000 };

// ---- holds ----

struct hold {
    struct list node;
    struct timer limit;
    struct domain *domain;
    char id[SANDBOX_ID_SIZE];
    void (*done)(const struct sandbox *sb, void *arg);
    void *arg;
};

static void hold_end(struct hold *h) {
    const struct sandbox *sb = registry_visible(h->domain->registry, h->id);
    void (*done)(const struct sandbox *, void *) = h->done;
    void *arg = h->arg;
    lifecycle_hold_cancel(h);
    done(sb, arg);
}

static void on_limit(struct timer *t) {
    hold_end(CONTAINER_OF(t, struct hold, limit));
}

struct hold *lifecycle_hold(struct domain *d, const char *id,
                            void (*done)(const struct sandbox *sb, void *arg), void *arg) {
    struct sandbox *sb = registry_visible(d->registry, id);
    struct hold *h = sb && sb->state == SANDBOX_PENDING ? calloc(1, sizeof *h) : NULL;
    if (!h) {
        done(sb, arg);
        return NULL;
    }
    h->domain = d;
    h->done = done;
    h->arg = arg;
    (void)snprintf(h->id, sizeof h->id, "%s", id);
    list_push_back(&sb->holds, &h->node);
    timer_start(d->settings.loop, &h->limit, HOLD_MS, on_limit);
    return h;
}

void lifecycle_hold_cancel(struct hold *h) {
    timer_stop(&h->limit);
    list_remove(&h->node);
    free(h);
}

void holds_drop(struct sandbox *sb) {
    for (struct list *node; (node = list_pop(&sb->holds));)
        lifecycle_hold_cancel(LIST_ENTRY(node, struct hold, node));
}

void holds_release(struct sandbox *sb) {
    for (struct list *node; (node = list_pop(&sb->holds));)
        hold_end(LIST_ENTRY(node, struct hold, node));
}

// ---- a dial belongs to no operation: it waits for nobody and changes nothing ----

struct call {
    struct job job;
    struct domain *domain;
    char id[SANDBOX_ID_SIZE];
    unsigned port;
    int fd;
    struct error error;
    void (*dialled)(int fd, const struct error *err, void *arg);
    void *arg;
};

static void dial_run(struct job *job) {
    struct call *c = CONTAINER_OF(job, struct call, job);
    struct runtime *r = c->domain->settings.runtime;
    if (r->ops->dial(r, c->id, c->port, &c->fd, &c->error) < 0)
        c->fd = -1;
}

static void dial_done(struct job *job) {
    struct call *c = CONTAINER_OF(job, struct call, job);
    struct domain *d = c->domain;
    d->inflight--;
    d->metrics.dials++;
    d->metrics.dials_failed += c->error.kind != 0;
    c->dialled(c->fd, c->error.kind ? &c->error : NULL, c->arg);
    free(c);
}

static struct call *call_new(struct domain *d, const char *id, struct error *err) {
    struct call *c = calloc(1, sizeof *c);
    if (!c) {
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
        return NULL;
    }
    c->domain = d;
    c->fd = -1;
    c->job = (struct job){.run = dial_run, .done = dial_done};
    (void)snprintf(c->id, sizeof c->id, "%s", id);
    return c;
}

static int call_submit(struct call *c, struct error *err) {
    if (domain_submit(c->domain, &c->job) == 0)
        return 0;
    free(c);
    return error_server(err, ERR_OVERLOADED, "the workers' queue is full");
}

bool lifecycle_relays(const struct domain *d, const struct sandbox *sb, unsigned port) {
    const struct runtime *r = d->settings.runtime;
    return r->ops->relays && r->ops->relays(r, sb->spec, port);
}

void lifecycle_dial(struct domain *d, const char *id, unsigned port,
                    void (*done)(int fd, const struct error *err, void *arg), void *arg) {
    struct error err = {0};
    const struct sandbox *sb = domain_sandbox(d, id, &err);
    if (sb && sb->state != SANDBOX_RUNNING) {
        (void)error_server(&err, ERR_NOT_RUNNING, "sandbox %s is %s", id,
                           sandbox_state_name(sb->state));
        sb = NULL;
    }
    struct call *c = sb ? call_new(d, id, &err) : NULL;
    if (c) {
        c->port = port;
        c->dialled = done;
        c->arg = arg;
    }
    if (!c || call_submit(c, &err) < 0)
        done(-1, &err, arg);
}
