// Pools: ready sandboxes of one template, made before anybody asks for them. A create that names a
// pool is answered from its stock, or made from its template when there is none. Rows of the store,
// copied in memory; a sandbox in stock has a row of its own and is nobody's: no look-up finds it.
// Shapes: kubernetes.md 4. Loop thread.
#ifndef SERVER_SANDBOX_POOL_POOL_H
#define SERVER_SANDBOX_POOL_POOL_H

#include "base/encode.h"
#include "base/error.h"
#include "base/list.h"
#include "server/sandbox/sandbox.h"

enum { POOL_NAME_MAX = 253, POOLS_MAX = 1024, POOL_REVISION_SIZE = 17 };

// When fewer than buffer_min are ready, so many are made that buffer_max are; more than that are
// removed. Ready and given-out ones together are at least pool_min and at most pool_max.
struct pool_capacity {
    int64_t buffer_min, buffer_max, pool_min, pool_max;
};

struct domain;
struct pool {
    char name[POOL_NAME_MAX + 1];
    struct sandbox_spec *spec; // the template
    struct pool_capacity capacity;
    uint8_t hash[SHA256_SIZE];         // of the template
    char revision[POOL_REVISION_SIZE]; // its beginning, in hex
    int64_t created_us, changed_us;
    size_t ready_count, making_count; // in stock; on the way there
    size_t allocated;                 // given out, and not ended yet
    // private
    struct domain *domain;
    struct list order;    // oldest first
    struct list ready;    // sandbox.stocked, oldest first
    struct list making;   // struct making
    struct list writings; // struct writing; the first one is under way
    bool durable, deleting, filling;
    unsigned failures; // of making stock, in a row
    struct timer rest; // while armed, nothing is made
};

struct pool *pool_get(const struct domain *d, const char *name); // NULL: unknown
void pools_each(const struct domain *d, bool (*f)(const struct pool *p, void *arg),
                void *arg); // oldest first

// done: when it is durable; p NULL after a removal. Takes a reference of its own of spec.
typedef void pool_done_fn(const struct pool *p, const struct error *err, void *arg);
void pool_create(struct domain *d, const char *name, struct sandbox_spec *spec,
                 const struct pool_capacity *c, pool_done_fn *done, void *arg);
// spec NULL: stays. Stock of another template is replaced.
void pool_update(struct domain *d, const char *name, struct sandbox_spec *spec,
                 const struct pool_capacity *c, pool_done_fn *done, void *arg);
// The stock goes; what was given out lives on.
void pool_delete(struct domain *d, const char *name, pool_done_fn *done, void *arg);

// ---- for the domain: pool.c ----
// The pool of extensions.poolRef; "*" is any, best one with stock. NULL with err: POOL::NOT_FOUND.
struct pool *pool_find(struct domain *d, const char *ref, struct error *err);
// What a create that names the pool makes: the template with the create's own env, metadata,
// extensions, entrypoint and timeout. NULL: no memory.
struct sandbox_spec *pool_spec(const struct pool *p, const struct sandbox_spec *asked);
int pools_load(struct domain *d, struct error *err); // at start, before the sandboxes
void pools_clear(struct domain *d);

// ---- for the domain: stock.c ----
void stock_init(struct pool *p);
// A ready one that can become `spec` without having been made for it, out of the stock; else NULL.
struct sandbox *stock_take(struct pool *p, const struct sandbox_spec *spec);
// Makes and removes what the capacity demands. Whenever something has changed.
void stock_balance(struct pool *p);
void stock_clear(struct pool *p);                             // all of it goes
void stock_forget(struct pool *p);                            // of what is being made
void stock_adopt(struct domain *d, struct sandbox *sb);       // found alive after a start
bool stock_wants(struct domain *d, const struct sandbox *sb); // whether it may be adopted
void stock_start(struct domain *d);                           // the domain is ready
// One that is given out counts until it ends; one in stock leaves it.
void pool_join(struct domain *d, struct sandbox *sb);
void pool_leave(struct domain *d, struct sandbox *sb);

#endif
