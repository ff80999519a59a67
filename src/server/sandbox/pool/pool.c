#include "server/sandbox/pool/pool.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/parse.h"
#include "server/errors.h"
#include "server/sandbox/domain.h"

// ---- the table ----

struct pool *pool_get(const struct domain *d, const char *name) {
    struct pool *p = map_get(&d->pools, name);
    return p && p->durable && !p->deleting ? p : NULL;
}

void pools_each(const struct domain *d, bool (*f)(const struct pool *p, void *arg), void *arg) {
    LIST_EACH(&d->pools_by_age, node) {
        const struct pool *p = LIST_ENTRY(node, struct pool, order);
        if (p->durable && !p->deleting && !f(p, arg))
            return;
    }
}

static struct pool *need(const struct domain *d, const char *name, struct error *err) {
    struct pool *p = pool_get(d, name);
    if (!p)
        (void)error_server(err, ERR_POOL_NOT_FOUND, "no pool has the name %.80s", name);
    return p;
}

struct pool *pool_find(struct domain *d, const char *ref, struct error *err) {
    struct pool *any = NULL;
    if (strcmp(ref, "*") != 0)
        return need(d, ref, err);
    LIST_EACH(&d->pools_by_age, node) {
        struct pool *p = LIST_ENTRY(node, struct pool, order);
        if (p->durable && !p->deleting && (!any || p->ready_count > any->ready_count))
            any = p;
    }
    if (!any)
        (void)error_server(err, ERR_POOL_NOT_FOUND, "there is no pool");
    return any;
}

static int set_spec(struct pool *p, struct sandbox_spec *spec) {
    if (spec_hash(spec, p->hash) < 0)
        return -1;
    for (size_t i = 0; i < (POOL_REVISION_SIZE - 1) / 2; i++)
        (void)snprintf(p->revision + 2 * i, 3, "%02x", p->hash[i]);
    spec_ref(spec);
    spec_unref(p->spec);
    p->spec = spec;
    return 0;
}

static bool count_member(struct sandbox *sb, void *arg) {
    struct pool *p = arg;
    p->allocated += sb->in_pool && strcmp(sb->pool, p->name) == 0;
    return true;
}

static struct pool *pool_add(struct domain *d, const char *name, struct sandbox_spec *spec,
                             const struct pool_capacity *c, int64_t created_us) {
    struct pool *p = calloc(1, sizeof *p);
    if (!p || set_spec(p, spec) < 0 || map_put(&d->pools, name, p) < 0) {
        if (p)
            spec_unref(p->spec);
        free(p);
        return NULL;
    }
    (void)snprintf(p->name, sizeof p->name, "%s", name);
    p->domain = d;
    p->capacity = *c;
    p->created_us = p->changed_us = created_us;
    stock_init(p);
    list_init(&p->writings);
    list_push_back(&d->pools_by_age, &p->order);
    registry_each(d->registry, count_member, p); // of an earlier pool of that name
    return p;
}

static void pool_remove(struct pool *p) { // from memory
    struct domain *d = p->domain;
    timer_stop(&p->rest);
    stock_forget(p);
    (void)map_remove(&d->pools, p->name);
    list_remove(&p->order);
    spec_unref(p->spec);
    free(p);
}

void pools_clear(struct domain *d) {
    while (!list_empty(&d->pools_by_age))
        pool_remove(LIST_ENTRY(d->pools_by_age.next, struct pool, order));
    map_clear(&d->pools);
}

// ---- rows ----

static const struct {
    const char *name;
    size_t offset;
} numbers[] = {
    {"bufferMin", offsetof(struct pool_capacity, buffer_min)},
    {"bufferMax", offsetof(struct pool_capacity, buffer_max)},
    {"poolMin", offsetof(struct pool_capacity, pool_min)},
    {"poolMax", offsetof(struct pool_capacity, pool_max)},
};

static int64_t *number_at(struct pool_capacity *c, size_t i) {
    return (int64_t *)(void *)((char *)c + numbers[i].offset);
}

static char *capacity_text(struct pool_capacity c) {
    struct pairs p = {0};
    char *text = NULL, digits[24];
    size_t i = 0;
    for (; i < ARRAY_SIZE(numbers); i++) {
        (void)snprintf(digits, sizeof digits, "%lld", (long long)*number_at(&c, i));
        if (pairs_add(&p, numbers[i].name, digits) < 0)
            break;
    }
    if (i == ARRAY_SIZE(numbers))
        text = pairs_to_text(&p);
    pairs_clear(&p);
    return text;
}

static int capacity_parse(const char *text, struct pool_capacity *ret, struct error *err) {
    struct pairs p = {0};
    int rc = pairs_from_text(&p, text, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(numbers); i++) {
        const char *digits = pairs_get(&p, numbers[i].name);
        if (!digits || parse_i64(digits, 0, INT64_MAX, number_at(ret, i)) < 0)
            rc = error_set(err, EINVAL, "%s is missing or no number", numbers[i].name);
    }
    pairs_clear(&p);
    return rc;
}

static int fill(const char *name, const struct sandbox_spec *spec, const struct pool_capacity *c,
                int64_t created_us, int64_t changed_us, struct change *change, struct error *err) {
    struct pool_record *r = &change_put(change, STORE_POOLS)->pool;
    *r = (struct pool_record){.name = strdup(name),
                              .spec = spec_to_text(spec),
                              .capacity = capacity_text(*c),
                              .created_us = created_us,
                              .changed_us = changed_us};
    if (r->name && r->spec && r->capacity)
        return 0;
    change_clear(change);
    return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
}

struct loading {
    struct domain *domain;
    struct error *err;
};

static int load_one(const union store_record *record, void *arg) {
    const struct pool_record *r = &record->pool;
    struct loading *l = arg;
    struct pool_capacity c = {0};
    struct sandbox_spec *spec = spec_from_text(r->spec, l->err);
    struct pool *p = NULL;
    if (spec && capacity_parse(r->capacity, &c, l->err) == 0 &&
        !(p = pool_add(l->domain, r->name, spec, &c, r->created_us)))
        (void)error_errno(l->err, ENOMEM, "out of memory");
    spec_unref(spec);
    if (!p)
        return error_wrap(l->err, "store: pool %.80s", r->name);
    p->changed_us = r->changed_us;
    p->durable = true;
    return 0;
}

int pools_load(struct domain *d, struct error *err) {
    struct error why = {0}; // load_one()'s reason is better than the store's
    struct loading l = {.domain = d, .err = &why};
    int r = store_load(d->settings.store, STORE_POOLS, load_one, &l, err);
    if (r < 0 && why.kind)
        *err = why;
    return r;
}

// ---- changes: what is asked for becomes true when it is durable, in the order of asking. One of a
// pool is written at a time: what the next one leaves as it is, the one before it may change ----

struct writing {
    struct list node;
    struct change change;
    struct pool *pool;
    struct sandbox_spec *spec; // NULL: as it is
    struct pool_capacity capacity;
    bool removal, first;
    pool_done_fn *done;
    void *arg;
};

static void apply(struct writing *w) {
    struct pool *p = w->pool;
    if (w->spec && set_spec(p, w->spec) < 0)
        abort(); // its hash was made before the commit
    p->capacity = w->capacity;
    p->changed_us = clock_wall_us();
    p->durable = true;
    if (w->spec)
        stock_clear(p);
    stock_balance(p);
}

// False: the pool is gone with it.
static bool over(struct writing *w, const struct error *err) {
    struct pool *p = w->pool;
    struct domain *d = p->domain;
    bool tells = !d->freeing; // else the next start finds it
    bool gone = tells && (w->removal ? !err : w->first && err);
    if (gone) {
        stock_clear(p);
        pool_remove(p);
    } else if (tells && !err) {
        apply(w);
    }
    if (w->removal && !gone)
        p->deleting = false;
    if (tells)
        w->done(gone ? NULL : p, err, w->arg);
    if (!gone)
        list_remove(&w->node);
    change_clear(&w->change);
    spec_unref(w->spec);
    free(w);
    return !gone;
}

// 0: nothing new, the stock stays; 1: another template.
static int differs(const struct pool *p, struct sandbox_spec *spec, struct error *err) {
    uint8_t hash[SHA256_SIZE];
    if (spec && spec_hash(spec, hash) < 0)
        return error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    return spec && memcmp(hash, p->hash, sizeof hash) != 0;
}

static int build(struct writing *w, struct error *err) {
    const struct pool *p = w->pool;
    if (w->removal) {
        char *key = change_remove(&w->change, STORE_POOLS)->pool.name = strdup(p->name);
        return key ? 0 : error_server(err, ERR_INTERNAL_ERROR, "out of memory");
    }
    int other = differs(p, w->spec, err);
    if (other < 0)
        return -1;
    if (!other) {
        spec_unref(w->spec);
        w->spec = NULL;
    }
    return fill(p->name, other ? w->spec : p->spec, &w->capacity, p->created_us,
                w->first ? p->created_us : clock_wall_us(), &w->change, err);
}

static void next(struct pool *p);

static void written(struct change *c, const struct error *err) {
    struct writing *w = CONTAINER_OF(c, struct writing, change);
    struct pool *p = w->pool;
    p->domain->inflight--;
    if (over(w, err))
        next(p);
}

static int commit(struct writing *w, struct error *err) {
    struct domain *d = w->pool->domain;
    if (d->freeing)
        return error_set(err, ECANCELED, "the server is stopping");
    if (build(w, err) < 0)
        return -1;
    w->change.done = written;
    if (store_commit(d->settings.store, &w->change) < 0)
        return error_server(err, ERR_OVERLOADED, "the store's queue is full");
    d->inflight++;
    return 0;
}

static void next(struct pool *p) {
    while (!list_empty(&p->writings)) {
        struct writing *w = LIST_ENTRY(p->writings.next, struct writing, node);
        struct error err = {0};
        if (commit(w, &err) == 0 || !over(w, &err))
            return;
    }
}

// Takes w.
static void queue(struct writing *w) {
    struct pool *p = w->pool;
    bool idle = list_empty(&p->writings);
    list_push_back(&p->writings, &w->node);
    if (idle)
        next(p);
}

static struct writing *writing_new(struct pool *p, struct sandbox_spec *spec,
                                   const struct pool_capacity *c, pool_done_fn *done, void *arg) {
    struct writing *w = calloc(1, sizeof *w);
    if (w)
        *w = (struct writing){.pool = p,
                              .spec = spec ? spec_ref(spec) : NULL,
                              .capacity = c ? *c : p->capacity,
                              .done = done,
                              .arg = arg};
    return w;
}

static int refuse_stopping(const struct domain *d, struct error *err) {
    return d->stopping ? error_server(err, ERR_NOT_READY, "the server is stopping") : 0;
}

void pool_create(struct domain *d, const char *name, struct sandbox_spec *spec,
                 const struct pool_capacity *c, pool_done_fn *done, void *arg) {
    struct error err = {0};
    struct writing *w = NULL;
    struct pool *p = NULL;
    if (refuse_stopping(d, &err) < 0)
        ;
    else if (map_get(&d->pools, name))
        (void)error_server(&err, ERR_POOL_ALREADY_EXISTS, "there is a pool %.80s already", name);
    else if (d->pools.count >= POOLS_MAX)
        (void)error_server(&err, ERR_TOO_MANY, "there are %d pools, as many as there may be",
                           POOLS_MAX);
    else if (!(p = pool_add(d, name, spec, c, clock_wall_us())) ||
             !(w = writing_new(p, NULL, c, done, arg)))
        (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
    if (w) {
        w->first = true;
        queue(w);
        return;
    }
    if (p)
        pool_remove(p);
    done(NULL, &err, arg);
}

void pool_update(struct domain *d, const char *name, struct sandbox_spec *spec,
                 const struct pool_capacity *c, pool_done_fn *done, void *arg) {
    struct error err = {0};
    struct pool *p = refuse_stopping(d, &err) < 0 ? NULL : need(d, name, &err);
    struct writing *w = p ? writing_new(p, spec, c, done, arg) : NULL;
    if (w) {
        queue(w);
        return;
    }
    if (p)
        (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
    done(NULL, &err, arg);
}

void pool_delete(struct domain *d, const char *name, pool_done_fn *done, void *arg) {
    struct error err = {0};
    struct pool *p = refuse_stopping(d, &err) < 0 ? NULL : need(d, name, &err);
    struct writing *w = p ? writing_new(p, NULL, NULL, done, arg) : NULL;
    if (w) {
        w->removal = p->deleting = true;
        queue(w);
        return;
    }
    if (p)
        (void)error_server(&err, ERR_INTERNAL_ERROR, "out of memory");
    done(NULL, &err, arg);
}

// ---- what a create makes of the template ----

struct sandbox_spec *pool_spec(const struct pool *p, const struct sandbox_spec *asked) {
    struct error ignored;
    char *text = spec_to_text(p->spec);
    struct sandbox_spec *s = text ? spec_from_text(text, &ignored) : NULL;
    free(text);
    if (!s)
        return NULL;
    s->has_metadata |= asked->has_metadata;
    s->secure_access |= asked->secure_access;
    s->timeout_s = asked->timeout_s;
    bool own = asked->entrypoint_count && !spec_entrypoint_idles(asked);
    if (pairs_patch(&s->env, &asked->env) == 0 &&
        pairs_patch(&s->metadata, &asked->metadata) == 0 &&
        pairs_patch(&s->extensions, &asked->extensions) == 0 &&
        (!own || spec_set_entrypoint(s, asked->entrypoint, asked->entrypoint_count) == 0))
        return s;
    spec_unref(s);
    return NULL;
}
