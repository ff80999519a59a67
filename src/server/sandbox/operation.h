// One thing that is done to one sandbox: a table of steps, each of which says where it runs and
// what undoes it. A sandbox has one running operation; the others wait in its queue. Loop thread.
// One that waits in a STEP_LASTING is parked meanwhile: others run, and it goes on between two.
#ifndef SERVER_SANDBOX_OPERATION_H
#define SERVER_SANDBOX_OPERATION_H

#include "io/workers.h"
#include "server/sandbox/sandbox.h"
#include "server/store/store.h"

struct domain;
struct operation;

enum step_place {
    STEP_LOOP,  // run and undo on the loop
    STEP_STORE, // run on the loop fills op->change, which is then committed; undo on the loop
    STEP_WORKER // run and undo on a worker: they touch nothing but the operation's own members
};
enum step_flags {
    STEP_RETRY = 1 << 0,    // a failure is tried again with back-off until it works
    STEP_OPTIONAL = 1 << 1, // a failure is logged, and the operation goes on
    STEP_LASTING = 1 << 2   // of the loop: waits for as long as a user wants; left at a stop
};
enum step_result { STEP_DONE = 0, STEP_WAIT = 1, STEP_SKIP = 2 }; // negative: failed, err set

struct step {
    const char *name;
    enum step_place place;
    unsigned flags;
    // STEP_LOOP may answer STEP_WAIT: somebody calls operation_continue() later.
    // STEP_STORE may answer STEP_SKIP: nothing to commit.
    int (*run)(struct operation *op, struct error *err);
    void (*undo)(struct operation *op); // NULL: nothing to undo
};

struct operation_kind {
    const char *name;
    const struct step *steps;
    unsigned count;
    bool survives_delete; // others fail at the next step when the sandbox is being deleted
    void (*cancel)(struct operation *op); // leaves what a STEP_WAIT waits for; NULL: never waits
    // After the last step, or after the undoing. Frees the operation. err NULL: all steps are done.
    void (*end)(struct operation *op, const struct error *err);
};

struct operation { // embedded in the struct of its kind
    const struct operation_kind *kind;
    struct domain *domain;
    struct sandbox *sandbox;
    char id[SANDBOX_ID_SIZE]; // for workers
    struct change change;
    bool step_failed; // the last STEP_OPTIONAL, with
    struct error step_error;
    bool starting; // part of reconcile: domain_start waits for it
    // private
    struct list node; // in sandbox.queued
    struct list all;  // in domain.operations
    struct job job;
    struct timer retry;
    unsigned at, tries;
    bool undoing, waiting;
    bool ready; // parked, and to go on with `answer` when nothing else runs
    struct error error, answer;
};

// Queues it, or starts it; `first`: before others that wait. end() may be called before the return.
void operation_start(struct domain *d, struct sandbox *sb, struct operation *op,
                     const struct operation_kind *kind, bool first);
// The end of a STEP_WAIT; err NULL: go on.
void operation_continue(struct operation *op, const struct error *err);
// The sandbox is being deleted or the domain stops: what waits (also for a retry) fails now.
void operation_cancel(struct operation *op);
// What waits for another try or in a STEP_LASTING is left to the next start of the server.
bool operation_can_be_left(const struct operation *op);
// Fails all that wait in the queue of a sandbox that goes away.
void operation_flush(struct sandbox *sb, const struct error *err);
// domain_free: ends it where it stands; no step of it is under way.
void operation_drop(struct operation *op);

#endif
