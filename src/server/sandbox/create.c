// From an accepted request to a running sandbox (docs/architecture.md section 6).
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/encode.h"
#include "base/log.h"
#include "server/errors.h"
#include "server/sandbox/create.h"

// Who waits for the answer. Several wait for one create when they came with one idempotency key.
struct create_ticket {
    struct list node;
    struct create *create;
    create_done_fn *done;
    void *arg;
    bool early; // answer Pending as soon as that is durable
    bool *over; // set when lifecycle_create() has not returned yet and it is over
    struct timer wait;
};

static void forget_credentials(struct create *t) {
    char **both[] = {&t->username, &t->password};
    for (size_t i = 0; i < ARRAY_SIZE(both); i++) {
        if (*both[i])
            explicit_bzero(*both[i], strlen(*both[i]));
        free(*both[i]);
        *both[i] = NULL;
    }
}

static void ticket_free(struct create_ticket *k) {
    if (k->over)
        *k->over = true;
    timer_stop(&k->wait);
    list_remove(&k->node);
    free(k);
}

static void create_free(struct create *t) {
    while (!list_empty(&t->tickets))
        ticket_free(LIST_ENTRY(t->tickets.next, struct create_ticket, node));
    forget_credentials(t);
    free(t->env);
    spec_unref(t->spec);
    free(t);
}

static void tell(struct create_ticket *k, const struct sandbox *sb, const struct error *err) {
    create_done_fn *done = k->done;
    void *arg = k->arg;
    ticket_free(k);
    done(sb, err, arg);
}

static void tell_all(struct create *t, const struct sandbox *sb, const struct error *err) {
    while (!list_empty(&t->tickets))
        tell(LIST_ENTRY(t->tickets.next, struct create_ticket, node), sb, err);
}

// ---- turns: at most slots_max creates are provisioned at once; who waits holds no worker ----

static void slot_release(struct create *t) {
    struct domain *d = t->domain;
    list_remove(&t->slot_wait);
    if (!t->has_slot)
        return;
    t->has_slot = false;
    d->slots_used--;
    struct list *node = d->freeing ? NULL : list_pop(&d->slots);
    if (!node)
        return;
    struct create *next = LIST_ENTRY(node, struct create, slot_wait);
    next->has_slot = true;
    d->slots_used++;
    operation_continue(&next->op, NULL);
}

// ---- steps ----

static int commit_pending(struct operation *op, struct error *err) {
    if (record_fill(op, SANDBOX_PENDING, err) < 0)
        return -1;
    return op->sandbox->key ? key_put(op->sandbox->key, &op->change, err) : STEP_DONE;
}

static void promise(struct create_ticket *k) {
    struct create *t = k->create;
    // what is taken is there in a moment; what is being removed has failed
    if (!k->early || !t->in_store || t->taking || t->op.sandbox->deleting)
        return;
    t->promised = true;
    tell(k, t->op.sandbox, NULL);
}

static int after_pending(struct operation *op, struct error *err) {
    struct create *t = create_of(op);
    (void)err;
    t->in_store = true;
    LIST_EACH(&t->tickets, node)
    promise(LIST_ENTRY(node, struct create_ticket, node));
    return STEP_DONE;
}

static void on_image(struct image_wait *w, const struct image_info *info, const struct error *err) {
    struct create *t = CONTAINER_OF(w, struct create, image_wait);
    if (!err)
        t->image = *info;
    operation_continue(&t->op, err);
}

static int find_snapshot(struct create *t, struct error *err) {
    const struct snapshot *s = snapshot_ready(t->domain, t->spec->snapshot_id, err);
    if (s)
        memcpy(t->artifact, s->artifact, sizeof t->artifact);
    return s ? STEP_DONE : -1;
}

static int find_image(struct operation *op, struct error *err) {
    struct create *t = create_of(op);
    struct runtime *r = op->domain->settings.runtime;
    if (t->spec->snapshot_id)
        return find_snapshot(t, err);
    const struct image_request q = {.reference = t->spec->image ? t->spec->image : "",
                                    .username = t->username,
                                    .password = t->password,
                                    .os = t->spec->platform_os,
                                    .arch = t->spec->platform_arch};
    bool ready = r->ops->image_ready(r, &q, &t->image);
    int rc = STEP_DONE;
    if (!ready) {
        t->image_wait.done = on_image;
        rc = image_join(op->domain, &t->image_wait, &q, err) < 0 ? -1 : STEP_WAIT;
    }
    forget_credentials(t);
    return rc;
}

static int take_slot(struct operation *op, struct error *err) {
    struct create *t = create_of(op);
    struct domain *d = op->domain;
    (void)err;
    if (d->settings.runtime->ops->expect)
        d->settings.runtime->ops->expect(d->settings.runtime);
    if (d->slots_used >= d->slots_max) {
        list_push_back(&d->slots, &t->slot_wait);
        return STEP_WAIT;
    }
    d->slots_used++;
    t->has_slot = true;
    return STEP_DONE;
}

static int provision(struct operation *op, struct error *err) {
    struct create *t = create_of(op);
    struct runtime *r = op->domain->settings.runtime;
    char egress_token[SANDBOX_TOKEN_SIZE];
    domain_token(op->domain, "egress", op->id, egress_token);
    const struct provision_request q = {.id = op->id,
                                        .spec = t->spec,
                                        .image_id = t->image.id,
                                        .snapshot_id = t->spec->snapshot_id,
                                        .artifact = t->artifact,
                                        .token_sha256_hex = t->token_sha256,
                                        .egress_token =
                                            t->spec->network_policy ? egress_token : NULL};
    t->begun = true;
    return r->ops->provision(r, &q, &t->result, err);
}

static int provisioned(struct operation *op, struct error *err) {
    struct create *t = create_of(op);
    struct sandbox *sb = op->sandbox;
    (void)err;
    memcpy(sb->image_id, t->image.id, sizeof sb->image_id);
    memcpy(sb->runtime_state, t->result.state, sizeof sb->runtime_state);
    memcpy(sb->phases, t->result.phases, sizeof sb->phases);
    sb->phase_count = t->result.phase_count;
    slot_release(t);
    return STEP_DONE;
}

// From here on the next server can take it over.
static int commit_begun(struct operation *op, struct error *err) {
    return op->sandbox->spec->prestart_s ? record_fill(op, SANDBOX_PENDING, err) : STEP_SKIP;
}

static void on_started(struct prestart_wait *w, const struct error *err) {
    operation_continue(&CONTAINER_OF(w, struct create, prestart)->op, err);
}

static int await_prestart(struct operation *op, struct error *err) {
    struct create *t = create_of(op);
    if (!t->spec->prestart_s)
        return STEP_DONE;
    t->uncounted = true;
    op->domain->creates--;
    t->prestart.done = on_started;
    return prestart_join(op->domain, &t->prestart, op->sandbox, err) < 0 ? -1 : STEP_WAIT;
}

static void cancel(struct operation *op) {
    struct create *t = create_of(op);
    t->left = t->uncounted && !op->sandbox->deleting;
    prestart_leave(&t->prestart);
    image_leave(&t->image_wait);
    list_remove(&t->slot_wait);
}

// The reply to a failed create comes when nothing is left of it.
static void on_gone(struct teardown_wait *w, const struct error *err) {
    struct create *t = CONTAINER_OF(w, struct create, teardown);
    (void)err; // why the create failed says more
    if (!t->domain->freeing)
        tell_all(t, NULL, &t->error);
    create_free(t);
}

// No step has left anything outside the process: there is nothing to tear down.
static void drop(struct create *t, struct sandbox *sb) {
    struct domain *d = t->domain;
    struct error error = t->error;
    expiry_clear(d, sb);
    sb->deleting = true;
    release_key(d, sb);
    holds_release(sb);
    pool_leave(d, sb);
    operation_flush(sb, &error);
    registry_remove(d->registry, sb);
    tell_all(t, NULL, &error);
    create_free(t);
}

static void failed(struct create *t, struct sandbox *sb, const struct error *err) {
    struct domain *d = t->domain;
    t->error = *err;
    sb->untouched = !t->taking && (!t->begun || err->kind == EHOSTDOWN);
    if (!t->error.code[0])
        (void)error_server(&t->error, ERR_R_SANDBOX_START_FAILED, "%s", err->message);
    if (t->left && !d->freeing)
        tell_all(t, sb, NULL);   // Pending, which it stays
    if (t->left || d->freeing) { // the next start finds the record
        create_free(t);
        return;
    }
    d->metrics.creates_failed++;
    log_warning("sandbox %s: create: %s", sb->id, err->message);
    if (!t->in_store && !sb->teardown) {
        drop(t, sb);
    } else if (t->promised && !sb->deleting) {
        ended_bury(d, sb, &t->error);
        create_free(t);
    } else if (!list_empty(&t->tickets)) {
        t->teardown.done = on_gone;
        teardown_begin(d, sb, &t->teardown);
    } else {
        teardown_begin(d, sb, NULL);
        create_free(t);
    }
}

static bool try_again(struct create *t, struct sandbox *sb, const struct error *why);

static void end(struct operation *op, const struct error *err) {
    struct create *t = create_of(op);
    struct sandbox *sb = op->sandbox;
    struct domain *d = op->domain;
    if (err && t->taking && try_again(t, sb, err))
        return;
    d->creates -= !t->uncounted;
    slot_release(t);
    if (sb->key)
        sb->key->create = NULL;
    if (err) {
        failed(t, sb, err);
        return;
    }
    if (!sb->stock) {
        d->metrics.creates++;
        measure_create(&d->measures, sb);
    }
    sb->key = NULL; // kept, whatever becomes of the sandbox now
    holds_release(sb);
    tell_all(t, sb, NULL);
    create_free(t);
}

static const struct step steps[] = {
    {"commit Pending", STEP_STORE, 0, commit_pending, NULL},
    {"pending", STEP_LOOP, 0, after_pending, NULL},
    {"image", STEP_LOOP, 0, find_image, NULL},
    {"turn", STEP_LOOP, 0, take_slot, NULL},
    {"provision", STEP_WORKER, 0, provision, NULL},
    {"provisioned", STEP_LOOP, 0, provisioned, NULL},
    {"commit its begin", STEP_STORE, 0, commit_begun, NULL},
    {"preStart", STEP_LOOP, STEP_LASTING, await_prestart, NULL},
    {"commit Running", STEP_STORE, 0, domain_commit_running, NULL},
    {"running", STEP_LOOP, 0, domain_running, NULL},
};

// ---- the request ----

static void on_wait_over(struct timer *timer) {
    struct create_ticket *k = CONTAINER_OF(timer, struct create_ticket, wait);
    k->early = true;
    promise(k);
}

static int admit(const struct domain *d, const struct sandbox_spec *spec, struct error *err) {
    const struct domain_settings *s = &d->settings;
    const struct snapshot *from =
        spec->snapshot_id ? snapshot_ready(d, spec->snapshot_id, err) : NULL;
    if (spec->snapshot_id && !from)
        return -1;
    if (from && from->spec->network_policy && !spec->network_policy)
        return error_server(err, ERR_INVALID_PARAMETER,
                            "networkPolicy is needed: snapshot %s was taken of a sandbox that had "
                            "one, which it does not keep ({\"defaultAction\": \"allow\"} is an "
                            "open one)",
                            spec->snapshot_id);
    if (s->sandboxes_max && registry_count(d->registry) >= s->sandboxes_max)
        return error_server(err, ERR_TOO_MANY,
                            "there are %u sandboxes, as many as this server may hold",
                            s->sandboxes_max);
    if (d->creates >= d->slots_max + s->creates_waiting)
        return error_server(err, ERR_TOO_MANY, "%u sandboxes are being created; try again",
                            d->creates);
    return 0;
}

static int copy(const char *text, char **ret) {
    *ret = text ? strdup(text) : NULL;
    return text && !*ret ? -1 : 0;
}

// Takes the reference of spec.
static struct create *create_new(struct domain *d, const struct create_request *q,
                                 struct sandbox_spec *spec) {
    struct create *t = calloc(1, sizeof *t);
    if (!t) {
        spec_unref(spec);
        return NULL;
    }
    t->domain = d;
    t->spec = spec;
    t->asked_us = clock_wall_us();
    list_init(&t->tickets);
    if (copy(q->image_username, &t->username) < 0 || copy(q->image_password, &t->password) < 0) {
        create_free(t);
        return NULL;
    }
    return t;
}

static struct sandbox *sandbox_new(struct domain *d, struct create *t, const char *pool) {
    char id[SANDBOX_ID_SIZE], token[SANDBOX_TOKEN_SIZE];
    random_uuid(id);
    struct sandbox *sb = registry_add(d->registry, id, spec_ref(t->spec), t->asked_us);
    if (!sb) {
        spec_unref(t->spec);
        return NULL;
    }
    sb->notice = domain_notice(d, t->spec);
    if (t->spec->timeout_s)
        sb->expires_us = t->asked_us + t->spec->timeout_s * 1000000;
    if (pool && !(sb->pool = strdup(pool))) {
        registry_remove(d->registry, sb);
        return NULL;
    }
    domain_token(d, "execd", id, token);
    sha256_hex(token, strlen(token), t->token_sha256);
    return sb;
}

static struct create_ticket *ticket_add(struct create *t, const struct create_request *q,
                                        create_done_fn *done, void *arg) {
    struct domain *d = t->domain;
    int64_t wait_ms = q->wait_ms < 0 ? d->settings.create_wait_ms : q->wait_ms;
    if (q->stock_of)
        wait_ms = -1; // as long as it takes
    struct create_ticket *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    *k = (struct create_ticket){.create = t, .done = done, .arg = arg, .early = wait_ms == 0};
    list_push_back(&t->tickets, &k->node);
    if (wait_ms > 0)
        timer_start(d->settings.loop, &k->wait, wait_ms, on_wait_over);
    return k;
}

// The answer to a key that was seen before: true when there is one, now (*ret NULL) or later.
static bool answered_before(struct domain *d, const struct create_request *q, create_done_fn *done,
                            void *arg, struct create_ticket **ret, struct error *err) {
    struct key *k = q->key ? key_find(d, q->key) : NULL;
    struct sandbox *sb = k ? registry_visible(d->registry, k->sandbox_id) : NULL;
    *ret = NULL;
    if (!k)
        return false;
    if (strcmp(k->body, q->key_body) != 0) {
        (void)error_server(err, ERR_IDEMPOTENCY_CONFLICT,
                           "this Idempotency-Key was used with another request body");
    } else if (k->create) { // a stocked one that is being taken is not visible yet
        if ((*ret = ticket_add(k->create, q, done, arg))) {
            bool over = false;
            (*ret)->over = &over;
            promise(*ret);
            if (over)
                *ret = NULL;
            else
                (*ret)->over = NULL;
            return true;
        }
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    } else if (sb) {
        done(sb, NULL, arg);
        return true;
    } else if (registry_get(d->registry, k->sandbox_id)) {
        (void)error_server(err, ERR_TOO_MANY,
                           "what this Idempotency-Key made is being removed; try again");
    } else {
        (void)error_server(err, ERR_IDEMPOTENCY_CONFLICT,
                           "the sandbox %s of this Idempotency-Key is gone", k->sandbox_id);
    }
    done(NULL, err, arg);
    return true;
}

// The sandbox that t is about from now on: one of the pool's stock, or a new one. NULL with err: t
// is as it was.
static struct sandbox *aim(struct create *t, struct pool *p, const char *stock_of,
                           struct error *err) {
    struct domain *d = t->domain;
    bool tried = p && t->takes >= p->capacity.buffer_max;
    struct sandbox *sb = p && !tried ? stock_take(p, t->spec) : NULL;
    bool taking = sb != NULL;
    if (!sb && p && (int64_t)p->allocated >= p->capacity.pool_max)
        (void)error_server(err, ERR_POOL_EMPTY,
                           "poolMax sandboxes of pool %.80s are in use; try again", p->name);
    else if (!sb && admit(d, t->spec, err) == 0 &&
             !(sb = sandbox_new(d, t, p ? p->name : stock_of)))
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    if (!sb)
        return NULL;
    t->taking = t->in_store = taking;
    t->takes += taking;
    if (p)
        pool_join(d, sb);
    else
        sb->stock = stock_of != NULL;
    t->op = (struct operation){.sandbox = sb};
    return sb;
}

static void begin(struct create *t) {
    // What its steps made is undone by the teardown that end() enters.
    static const struct operation_kind create_kind = {
        .name = "create", .steps = steps, .count = ARRAY_SIZE(steps), .cancel = cancel, .end = end};
    static const struct operation_kind take_kind = {
        .name = "take", .steps = take_steps, .count = TAKE_STEPS, .end = end};
    struct sandbox *sb = t->op.sandbox;
    if (!t->taking)
        expiry_set(t->domain, sb);
    operation_start(t->domain, sb, &t->op, t->taking ? &take_kind : &create_kind, false);
}

// A stocked sandbox that fails is no failure of the create: it goes, and the next one or a new one
// takes its place. False: there is none.
static bool try_again(struct create *t, struct sandbox *sb, const struct error *why) {
    struct domain *d = t->domain;
    struct pool *p = pool_get(d, sb->pool);
    struct key *key = sb->key;
    struct error err = {0};
    if (d->stopping || d->freeing || list_empty(&t->tickets) || !p)
        return false;
    log_warning("pool %s: sandbox %s of its stock: %s", p->name, sb->id, why->message);
    sb->key = NULL;
    teardown_begin(d, sb, NULL);
    free(t->env);
    t->env = NULL;
    struct sandbox *next = aim(t, p, NULL, &err);
    if (!next) {
        sb->key = key;
        return false;
    }
    if (key)
        memcpy(key->sandbox_id, next->id, sizeof key->sandbox_id);
    next->key = key;
    begin(t);
    return true;
}

// A create with its sandbox, key and first ticket; nothing has begun. NULL with err. Takes the
// reference of spec.
static struct create *prepare(struct domain *d, const struct create_request *q,
                              struct sandbox_spec *spec, struct pool *p, create_done_fn *done,
                              void *arg, struct create_ticket **ret_ticket, struct error *err) {
    struct create *t = create_new(d, q, spec);
    struct sandbox *sb = t ? aim(t, p, q->stock_of, err) : NULL;
    *ret_ticket = sb ? ticket_add(t, q, done, arg) : NULL;
    if (!*ret_ticket && !err->kind)
        (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    else if (*ret_ticket && (!q->key || (sb->key = key_add(d, q->key, q->key_body, sb->id, err))))
        return t;
    if (sb && t->taking) {
        teardown_begin(d, sb, NULL);
    } else if (sb) {
        pool_leave(d, sb);
        registry_remove(d->registry, sb);
    }
    if (t)
        create_free(t);
    return NULL;
}

static struct create *take_on(struct domain *d, const struct create_request *q,
                              create_done_fn *done, void *arg, struct create_ticket **ret_ticket,
                              struct error *err) {
    if (d->stopping || !d->ready) {
        (void)error_server(err, ERR_NOT_READY, "the server is %s; try again",
                           d->stopping ? "stopping" : "still starting");
        return NULL;
    }
    struct pool *p = q->pool ? pool_find(d, q->pool, err) : NULL;
    if (q->pool && !p)
        return NULL;
    struct sandbox_spec *spec = p ? pool_spec(p, q->spec) : spec_ref(q->spec);
    if (spec)
        return prepare(d, q, spec, p, done, arg, ret_ticket, err);
    (void)error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    return NULL;
}

struct create_ticket *lifecycle_create(struct domain *d, const struct create_request *q,
                                       create_done_fn *done, void *arg) {
    struct error err = {0};
    struct create_ticket *ticket;
    if (answered_before(d, q, done, arg, &ticket, &err))
        return ticket;
    struct create *t = take_on(d, q, done, arg, &ticket, &err);
    if (!t) {
        d->metrics.creates_refused += !q->stock_of;
        done(NULL, &err, arg);
        return NULL;
    }
    struct sandbox *sb = t->op.sandbox;
    if (sb->key)
        sb->key->create = t;
    d->creates++;
    bool over = false;
    ticket->over = &over;
    begin(t);
    if (over)
        return NULL;
    ticket->over = NULL;
    return ticket;
}

void lifecycle_abandon(struct create_ticket *ticket) {
    struct create *t = ticket->create;
    struct domain *d = t->domain;
    ticket_free(ticket);
    if (!list_empty(&t->tickets))
        return;                 // others wait for it
    if (t->teardown.teardown) { // it has failed already, and waited for its remains to go
        teardown_leave(&t->teardown);
        create_free(t);
        return;
    }
    if (t->promised || t->op.sandbox->key) // somebody knows it, or will ask for it again
        return;
    d->metrics.creates_abandoned++;
    teardown_begin(d, t->op.sandbox, NULL);
}
