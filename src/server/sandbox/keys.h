// Idempotency keys of creates: each remembers, for 24 hours, which body it came with and which
// sandbox that made. Loop thread. Private to the domain.
#ifndef SERVER_SANDBOX_KEYS_H
#define SERVER_SANDBOX_KEYS_H

#include "base/encode.h"
#include "base/list.h"
#include "server/sandbox/sandbox.h"
#include "server/store/store.h"

enum { KEYS_MAX = 100000 }; // remembered at a time; a further create with a key answers 429

struct create;
struct key {
    struct list age; // oldest first
    char text[SHA256_HEX_SIZE], body[SHA256_HEX_SIZE];
    char sandbox_id[SANDBOX_ID_SIZE];
    int64_t created_us;
    struct create *create; // while it runs
};

struct domain;
// The key, if it is remembered. Forgets those whose time is over first, but none that a sandbox
// points to.
struct key *key_find(struct domain *d, const char *text);
// NULL with err: no memory, or too many. Durable with the change that key_fill() builds.
struct key *key_add(struct domain *d, const char *text, const char *body, const char *sandbox_id,
                    struct error *err);
int key_put(const struct key *k, struct change *c, struct error *err); // adds its row
void key_remove(const struct key *k, struct change *c);                // adds the row's removal
void key_forget(struct domain *d, struct key *k);
int keys_load(struct domain *d, struct error *err); // at start, after the sandboxes
void keys_clear(struct domain *d);

#endif
