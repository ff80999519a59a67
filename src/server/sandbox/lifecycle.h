// The domain: what may be asked of sandboxes. Everything here is loop thread; replies come through
// callbacks, once each, possibly before the call returns. The API layer knows this header,
// registry.h and nothing below.
#ifndef SERVER_SANDBOX_LIFECYCLE_H
#define SERVER_SANDBOX_LIFECYCLE_H

#include "io/workers.h"
#include "server/sandbox/registry.h"
#include "server/sandbox/sandbox.h"
#include "server/store/store.h"

struct domain; // registry, store, runtime, workers, expiry: one per server

struct domain_settings {
    struct loop *loop;
    struct store *store;        // owned by the caller
    struct runtime *runtime;    // owned by the caller
    unsigned workers;           // 32
    unsigned pull_workers;      // 4
    unsigned queue_max;         // jobs that wait for either; beyond: 503 OVERLOADED
    unsigned creates_running;   // 2 x cores on oci
    unsigned creates_waiting;   // beyond: 429 SANDBOX::TOO_MANY
    unsigned sandboxes_max;     // 0: no limit
    int64_t create_wait_ms;     // server.create_wait_seconds
    int64_t failed_retention_s; // server.failed_retention_seconds
    int64_t max_timeout_s;      // server.max_sandbox_timeout_seconds; 0: none
    uint64_t default_pids;
    bool renew_on_access;     // renew_intent.enabled
    int64_t renew_interval_s; // renew_intent.min_interval_seconds
};

// Counters since the start.
struct domain_metrics {
    uint64_t creates, creates_failed, creates_refused, creates_abandoned;
    uint64_t deletes, expired, removed, teardown_retries, exited, pauses, resumes, renewals;
    uint64_t dials, dials_failed; // connections into sandboxes
};

struct domain *domain_new(const struct domain_settings *s, struct error *err);
struct registry *domain_registry(struct domain *d);
const struct domain_metrics *domain_metrics(const struct domain *d);
// runtime->start, store_load, reconcile, sweep. done(err) once; only then domain_ready() is true.
void domain_start(struct domain *d, void (*done)(const struct error *err, void *arg), void *arg);
bool domain_ready(const struct domain *d);
// Stops accepting, waits for running operations (bounded), then done(). Sandboxes run on.
void domain_stop(struct domain *d, void (*done)(void *arg), void *arg);
void domain_free(struct domain *d);

// ---- create ----
struct create_request {
    struct sandbox_spec *spec;                   // a reference of its own is taken
    const char *image_username, *image_password; // copied, wiped after the pull
    const char *pool;                            // extensions.poolRef; NULL: none
    const char *stock_of; // it is made for the stock of this pool, and nobody waits; NULL: no
    int64_t wait_ms;      // -1: the configured wait; 0: answer Pending at once
    // Idempotency: digests (domain_digest()) of the caller's key and of the request; NULL: none.
    // The same key answers with the same sandbox for 24 hours, another body with it is refused, a
    // failed create frees it.
    const char *key, *key_body;
};
struct create_ticket;
// done: sb is valid for the call only. err NULL: Running, or Pending when the wait ran out
// (sb->state says which).
typedef void create_done_fn(const struct sandbox *sb, const struct error *err, void *arg);
// Returns a ticket for lifecycle_abandon(), or NULL when done() was already called.
struct create_ticket *lifecycle_create(struct domain *d, const struct create_request *q,
                                       create_done_fn *done, void *arg);
// The client went away before done(): it is not told. The sandbox is torn down when nobody else
// waits for it and no idempotency key stands for it.
void lifecycle_abandon(struct create_ticket *t);

// ---- the rest; done's sb is NULL after a delete ----
typedef void lifecycle_done_fn(const struct sandbox *sb, const struct error *err, void *arg);
void lifecycle_delete(struct domain *d, const char *id, lifecycle_done_fn *done,
                      void *arg); // answers within 10 s
void lifecycle_pause(struct domain *d, const char *id, lifecycle_done_fn *done,
                     void *arg); // when frozen
void lifecycle_resume(struct domain *d, const char *id, lifecycle_done_fn *done, void *arg);
void lifecycle_renew(struct domain *d, const char *id, int64_t expires_us, lifecycle_done_fn *done,
                     void *arg);
// Entries with value NULL are removed (RFC 7396). Validated by the caller.
void lifecycle_patch_metadata(struct domain *d, const char *id, const struct pairs *patch,
                              lifecycle_done_fn *done, void *arg);

// ---- reaching a sandbox ----
// err kinds: as runtime->dial. fd is the callee's.
void lifecycle_dial(struct domain *d, const char *id, unsigned port,
                    void (*done)(int fd, const struct error *err, void *arg), void *arg);
// Dials reach EXECD_PORT alone: HTTP to other ports goes through execd's /proxy/{port}.
bool lifecycle_relays(const struct domain *d, const struct sandbox *sb, unsigned port);
// Calls back when the sandbox has left Pending (sb, or NULL when it is gone) or after 10 s (sb
// still Pending).
struct hold *lifecycle_hold(struct domain *d, const char *id,
                            void (*done)(const struct sandbox *sb, void *arg), void *arg);
void lifecycle_hold_cancel(struct hold *h);

// Token of a sandbox for a purpose ("execd", "egress", "secure-access"):
// base64url(HMAC-SHA-256(store key, purpose, id)).
void domain_token(const struct domain *d, const char *purpose, const char *id,
                  char text[SANDBOX_TOKEN_SIZE]);
// HMAC-SHA-256 of anything with the store's key, in hex: for what must be compared later and not
// kept.
void domain_digest(const struct domain *d, const char *purpose, const void *data, size_t len,
                   char text[SHA256_HEX_SIZE]);

#endif
