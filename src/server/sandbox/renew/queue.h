// Renew intents of others (an ingress gateway, say) out of a list in Redis, lifecycle-api.md 9. A
// thread of its own waits for them, and for Redis when that is away: the server never does.
#ifndef SERVER_SANDBOX_RENEW_QUEUE_H
#define SERVER_SANDBOX_RENEW_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/random.h"

struct loop;
struct domain;
struct renew_queue_settings {
    const char *dsn;     // redis_address_read()
    const char *key;     // of the list
    const char *ca_file; // of the authorities of rediss://; NULL: the system's
};

struct renew_queue;
// Refuses a dsn that cannot be read; its message never shows the password. Strings are copied.
struct renew_queue *renew_queue_new(struct loop *l, struct domain *d,
                                    const struct renew_queue_settings *s, struct error *err);
// At most as long as Redis may be silent (1 s). Before the domain goes. NULL is fine.
void renew_queue_free(struct renew_queue *q);

// One intent: a JSON object with sandbox_id and observed_at (RFC 3339). False: it is none, or too
// old. For tests. Any thread.
bool renew_intent_read(const char *text, size_t len, char id[UUID_TEXT_SIZE]);

#endif
