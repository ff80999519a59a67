// The parts of the domain, for the files of this directory only. Loop thread.
#ifndef SERVER_SANDBOX_DOMAIN_H
#define SERVER_SANDBOX_DOMAIN_H

#include "base/map.h"
#include "server/sandbox/keys.h"
#include "server/sandbox/lifecycle.h"
#include "server/sandbox/measure/measure.h"
#include "server/sandbox/operation.h"
#include "server/sandbox/pool/pool.h"
#include "server/sandbox/snapshot/snapshot.h"
#include "server/sandbox/state.h"

struct start;
struct domain {
    struct domain_settings settings;
    struct registry *registry;
    struct workers *workers, *pull_workers;
    struct list operations; // all, by operation.all
    size_t inflight;        // jobs and commits whose done() is to come
    bool ready, stopping, freeing;
    size_t starting; // what reconcile still waits for
    struct start *start;
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct timer stop_limit;
    // creates
    struct map flights; // image.c: pulls under way
    struct list slots;  // creates that wait for their turn
    unsigned creates, slots_used, slots_max;
    struct map keys; // keys.c: by their text
    struct list keys_by_age;
    struct map snapshots; // snapshot/snapshot.c: by id
    struct list snapshots_by_age;
    struct map pools; // pool/pool.c: by name
    struct list pools_by_age;
    // expiry
    struct heap deadlines;
    struct timer alarm;
    struct domain_metrics metrics;
    struct measures measures;
};

// ---- domain.c ----
int domain_submit(struct domain *d, struct job *job); // counts it; done() takes 1 from d->inflight
void domain_progress(struct domain *d);    // an operation has ended: perhaps the stop is complete
void domain_started_one(struct domain *d); // one part of reconcile is done
// Fills op->change with the row of its sandbox as it is now, but in the state `as`.
int record_fill(struct operation *op, enum sandbox_state as, struct error *err);
// The last two steps of a start: the commit, and what it promised.
int domain_commit_running(struct operation *op, struct error *err);
int domain_running(struct operation *op, struct error *err);
const char *domain_notice(const struct domain *d, const struct sandbox_spec *spec);
struct sandbox *domain_sandbox(struct domain *d, const char *id,
                               struct error *err); // visible, or err

// ---- image.c: one pull per image for all who wait ----
struct image_wait {
    struct list node;
    // Loop thread; err NULL: info is valid for the call.
    void (*done)(struct image_wait *w, const struct image_info *info, const struct error *err);
};
int image_join(struct domain *d, struct image_wait *w, const struct image_request *q,
               struct error *err);
void image_leave(struct image_wait *w); // the pull goes on

// ---- teardown.c: the one way down ----
struct teardown_wait {
    struct list node;
    struct timer limit;
    struct domain *domain;
    struct teardown *teardown;
    void (*done)(struct teardown_wait *w, const struct error *err); // once; w may be freed in it
};
// Hides the sandbox, cancels what runs and removes everything. w may be NULL; it is answered when
// all is gone, or after 10 s. A second call waits with the first.
void teardown_begin(struct domain *d, struct sandbox *sb, struct teardown_wait *w);
void teardown_leave(struct teardown_wait *w);
// After a failed try of its operation.
void domain_tried(struct operation *op);
extern const struct operation_kind teardown_kind;

// The create of the sandbox is over: its key, if it has one, is not the sandbox's business now.
void release_key(struct domain *d, struct sandbox *sb);

// ---- ended.c: sandboxes that stay visible after their end ----
void ended_check(struct domain *d, struct sandbox *sb, bool starting); // it may have ended
// A start finds that it is gone, or cannot be taken over and is ended (`remains`): Failed.
void ended_lost(struct domain *d, struct sandbox *sb, const struct error *why, bool remains);
// A create has failed after a Pending reply: Failed once that is durable, until its record is
// forgotten.
void ended_bury(struct domain *d, struct sandbox *sb, const struct error *why);
void record_now(struct domain *d, struct sandbox *sb, bool starting); // commits what is

// ---- expiry.c ----
void expiry_init(struct domain *d);
void expiry_set(struct domain *d, struct sandbox *sb); // after any change of its deadlines
void expiry_clear(struct domain *d, struct sandbox *sb);
void expiry_close(struct domain *d);

// ---- endpoint.c ----
void holds_release(struct sandbox *sb); // it has left Pending, or goes away
void holds_drop(struct sandbox *sb);    // domain_free: nobody is told

// ---- start.c ----
void start_free(struct domain *d);

#endif
