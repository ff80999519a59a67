// What to do with each record and each thing found after a start. Pure: testable without a kernel.
#ifndef SERVER_SANDBOX_RECONCILE_H
#define SERVER_SANDBOX_RECONCILE_H

#include "server/runtime/runtime.h"
#include "server/sandbox/sandbox.h"

enum reconcile_action {
    RECONCILE_KEEP,     // only the record is left, and it stays
    RECONCILE_ADOPT,    // take over what lives, or find out how it ended
    RECONCILE_LOST,     // ran, and nothing of it is left
    RECONCILE_TEARDOWN, // half-made, half-removed or expired
    RECONCILE_DESTROY   // exists without a record: was never acknowledged
};

struct reconcile_record {
    char id[SANDBOX_ID_SIZE];
    enum sandbox_state state;
    int64_t deadline_us; // 0: none
    bool begun;          // Pending, but all of it runs: its preStart hook is waited for
};
struct reconcile_result {
    char id[SANDBOX_ID_SIZE];
    enum reconcile_action action;
};

// One action per record in their order, then one per found id without a record. ret has room for
// both counts. Returns how many, or -1: no memory.
long reconcile(const struct reconcile_record *records, size_t record_count,
               const struct runtime_found *found, size_t found_count, int64_t now_us,
               struct reconcile_result *ret);

#endif
