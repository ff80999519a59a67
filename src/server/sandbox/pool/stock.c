// The stock of a pool: made, taken, trimmed, found again.
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/sandbox/domain.h"

// After a take the pool waits until nobody takes any more, so that making does not compete with
// those who use what they were given; an empty stock is filled at once.
enum { QUIET_MS = 100, BACK_OFF_MS = 1000, BACK_OFF_SHIFT_MAX = 6 };

struct making {
    struct list node;
    struct pool *pool;
    struct create_ticket *ticket;
};

void stock_init(struct pool *p) {
    list_init(&p->ready);
    list_init(&p->making);
}

static void on_rest_over(struct timer *t) {
    stock_balance(CONTAINER_OF(t, struct pool, rest));
}

static void rest(struct pool *p, int64_t ms) {
    timer_start(p->domain->settings.loop, &p->rest, ms, on_rest_over);
}

// Not within the caller, who is at work on a sandbox.
static void soon(struct pool *p) {
    if (!timer_armed(&p->rest))
        rest(p, 0);
}

static void put(struct pool *p, struct sandbox *sb) {
    list_push_back(&p->ready, &sb->stocked);
    p->ready_count++;
}

static void forget(struct making *m) {
    m->pool->making_count--;
    list_remove(&m->node);
    free(m);
}

static void made(const struct sandbox *told, const struct error *err, void *arg) {
    struct making *m = arg;
    struct pool *p = m->pool;
    struct domain *d = p->domain;
    forget(m);
    if (d->stopping || d->freeing)
        return;
    if (!err) {
        p->failures = 0;
        put(p, registry_get(d->registry, told->id));
    } else {
        unsigned shift = p->failures < BACK_OFF_SHIFT_MAX ? p->failures : BACK_OFF_SHIFT_MAX;
        p->failures++;
        log_warning("pool %s: a sandbox for its stock failed: %s", p->name, err->message);
        rest(p, (int64_t)BACK_OFF_MS << shift);
    }
    stock_balance(p);
}

// False: not now.
static bool make_one(struct pool *p) {
    const struct create_request q = {.spec = p->spec, .stock_of = p->name};
    struct making *m = calloc(1, sizeof *m);
    if (!m)
        return false;
    m->pool = p;
    list_push_back(&p->making, &m->node);
    p->making_count++;
    unsigned failures = p->failures;
    struct create_ticket *ticket = lifecycle_create(p->domain, &q, made, m);
    if (ticket) // else made() was called, and m is gone
        m->ticket = ticket;
    return ticket || p->failures == failures;
}

static void drop_ready(struct pool *p) {
    struct sandbox *sb = LIST_ENTRY(p->ready.next, struct sandbox, stocked);
    teardown_begin(p->domain, sb, NULL); // leaves the stock
}

static void drop_making(struct pool *p) {
    struct making *m = LIST_ENTRY(p->making.prev, struct making, node);
    struct create_ticket *ticket = m->ticket;
    forget(m);
    lifecycle_abandon(ticket);
}

static size_t least(int64_t a, size_t b) {
    return a < 0 ? 0 : (uint64_t)a < b ? (size_t)a : b;
}

void stock_balance(struct pool *p) {
    struct domain *d = p->domain;
    const struct pool_capacity *c = &p->capacity;
    if (!d->ready || d->stopping || d->freeing || !p->durable || p->deleting)
        return;
    int64_t allocated = (int64_t)p->allocated, low = c->buffer_min, high = c->buffer_max;
    if (low < c->pool_min - allocated)
        low = c->pool_min - allocated;
    if (high < low)
        high = low;
    size_t room = least(c->pool_max - allocated, SIZE_MAX);
    size_t floor = least(low, room), most = least(high, room);
    size_t at_once = d->slots_max > 1 ? d->slots_max / 2 : 1; // creates of clients get the rest
    while (p->ready_count + p->making_count > most && p->making_count)
        drop_making(p);
    while (p->ready_count > most)
        drop_ready(p);
    if (p->ready_count + p->making_count < floor)
        p->filling = true;
    if (p->ready_count + p->making_count >= most)
        p->filling = false;
    while (p->filling && !timer_armed(&p->rest) && p->making_count < at_once &&
           p->ready_count + p->making_count < most)
        if (!make_one(p))
            return;
}

void stock_clear(struct pool *p) {
    while (p->making_count)
        drop_making(p);
    while (p->ready_count)
        drop_ready(p);
}

void stock_forget(struct pool *p) {
    while (!list_empty(&p->making))
        forget(LIST_ENTRY(p->making.next, struct making, node));
}

// The entrypoint of a stocked one runs already, without what the taker would have given it.
static bool fits(const struct pool *p, const struct sandbox_spec *spec) {
    const struct sandbox_spec *t = p->spec;
    if (spec->entrypoint_count != t->entrypoint_count ||
        (spec->env.count != t->env.count && !spec_entrypoint_idles(t)))
        return false;
    for (size_t i = 0; i < spec->entrypoint_count; i++)
        if (strcmp(spec->entrypoint[i], t->entrypoint[i]) != 0)
            return false;
    for (size_t i = 0; i < spec->env.count && !spec_entrypoint_idles(t); i++) {
        const char *value = pairs_get(&t->env, spec->env.items[i].name);
        if (!value || strcmp(value, spec->env.items[i].value) != 0)
            return false;
    }
    return true;
}

struct sandbox *stock_take(struct pool *p, const struct sandbox_spec *spec) {
    if (!p->ready_count || !fits(p, spec))
        return NULL;
    struct sandbox *sb = LIST_ENTRY(p->ready.next, struct sandbox, stocked);
    list_remove(&sb->stocked);
    p->ready_count--;
    if (!p->failures && p->ready_count)
        rest(p, QUIET_MS);
    else if (!p->failures)
        timer_stop(&p->rest);
    return sb;
}

// ---- who counts ----

void pool_join(struct domain *d, struct sandbox *sb) {
    struct pool *p = map_get(&d->pools, sb->pool);
    sb->in_pool = true;
    if (!p)
        return;
    p->allocated++;
    soon(p);
}

void pool_leave(struct domain *d, struct sandbox *sb) {
    struct pool *p = sb->pool ? map_get(&d->pools, sb->pool) : NULL;
    bool stocked = sb->stocked.next != NULL;
    if (!stocked && !sb->in_pool)
        return;
    list_remove(&sb->stocked);
    if (p && stocked)
        p->ready_count--;
    if (p && sb->in_pool)
        p->allocated--;
    sb->in_pool = false;
    if (p && !p->deleting)
        soon(p);
}

// ---- after a start ----

bool stock_wants(struct domain *d, const struct sandbox *sb) {
    uint8_t hash[SHA256_SIZE];
    const struct pool *p = pool_get(d, sb->pool);
    return p && !sb->reserved && sb->state == SANDBOX_RUNNING && spec_hash(sb->spec, hash) == 0 &&
           memcmp(hash, p->hash, sizeof hash) == 0;
}

void stock_adopt(struct domain *d, struct sandbox *sb) {
    struct pool *p = pool_get(d, sb->pool);
    spec_unref(sb->spec);
    sb->spec = spec_ref(p->spec); // equal, and shared by all of the stock
    put(p, sb);
}

void stock_start(struct domain *d) {
    LIST_EACH(&d->pools_by_age, node)
    stock_balance(LIST_ENTRY(node, struct pool, order));
}
