// A sandbox as the control plane knows it. Owned by the registry, loop thread only. `state` is
// assigned in state.c alone.
#ifndef SERVER_SANDBOX_SANDBOX_H
#define SERVER_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/heap.h"
#include "base/list.h"
#include "server/runtime/runtime.h"

enum sandbox_state {
    SANDBOX_PENDING,
    SANDBOX_RUNNING,
    SANDBOX_PAUSING,
    SANDBOX_PAUSED,
    SANDBOX_RESUMING,
    SANDBOX_STOPPING,
    SANDBOX_TERMINATED,
    SANDBOX_FAILED,
    SANDBOX_STATE_COUNT
};

enum { SANDBOX_REASON_MAX = 64, SANDBOX_TOKEN_SIZE = 48 };

struct operation;
struct sandbox {
    // What a listing of thousands looks at, in one cache line.
    struct list order; // registry.c: newest first
    enum sandbox_state state;
    bool stock;    // it waits in its pool and is nobody's: no look-up finds it
    bool deleting; // a delete was accepted: GET answers 404, the list does not show it

    char id[SANDBOX_ID_SIZE];
    char reason[SANDBOX_REASON_MAX];
    char message[ERROR_MESSAGE_MAX];
    const char *notice; // of the runtime: what is not as asked while it runs; NULL: nothing
    struct sandbox_spec *spec;
    struct pairs metadata; // current map (spec->metadata is the one of the create)
    char *pool;            // that it was made for; NULL: none
    bool reserved;         // of its stock, and somebody is getting it: no server takes it over
    char image_id[96];
    char runtime_state[RUNTIME_STATE_MAX];
    int64_t created_us, changed_us;
    int64_t expires_us; // wall clock; 0: until deleted
    int64_t forget_us;  // an ended sandbox's record goes then; 0 while it lives
    struct runtime_phase phases[RUNTIME_PHASES_MAX]; // of its provisioning
    unsigned phase_count;
    bool untouched;       // its create failed before the runtime had begun: nothing to destroy
    struct error failure; // why provisioning failed, for endpoint look-ups of a Failed one
    void *upstreams;      // api/proxy.c: per-port upstreams; released through registry_on_release()
    // private to the domain
    struct heap_node expiry;   // expiry.c
    struct operation *running; // at most one operation at a time
    struct operation *parked;  // one that waits in a STEP_LASTING
    struct list queued;        // operations that wait for it
    struct list holds;         // endpoint.c: proxy requests held while Pending
    bool end_told;             // while it was Pending: domain_running() looks what is true
    struct teardown *teardown; // teardown.c: the one that runs or has failed
    unsigned renewing;         // renewals on their way: the old deadline does not count
    bool access_renewing;      // renew.c: one of them is of an access
    int64_t access_next_ms;    // boot clock; no access renews before
    struct list stocked;       // pool/stock.c: in pool.ready
    bool in_pool;              // pool/stock.c: given out, and counted there
    struct key *key;           // keys.c: its create came with it and has not succeeded yet
};

const char *sandbox_state_name(
    enum sandbox_state s); // "Pending" ...; Pausing, Resuming, Stopping as the wire knows them
int sandbox_state_parse(const char *name, enum sandbox_state *ret); // any case; -1 unknown

#endif
