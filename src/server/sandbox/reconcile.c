#include "server/sandbox/reconcile.h"

#include <stdio.h>

#include "base/map.h"

// By the state of the record, and whether anything of the sandbox was found.
static const enum reconcile_action table[SANDBOX_STATE_COUNT][2] = {
    //                      nothing found       found
    [SANDBOX_PENDING] = {RECONCILE_TEARDOWN, RECONCILE_TEARDOWN},
    [SANDBOX_RUNNING] = {RECONCILE_LOST, RECONCILE_ADOPT},
    [SANDBOX_PAUSING] = {RECONCILE_LOST, RECONCILE_ADOPT},
    [SANDBOX_PAUSED] = {RECONCILE_LOST, RECONCILE_ADOPT},
    [SANDBOX_RESUMING] = {RECONCILE_LOST, RECONCILE_ADOPT},
    [SANDBOX_STOPPING] = {RECONCILE_TEARDOWN, RECONCILE_TEARDOWN},
    // adopted too, so that the sweep leaves its log and exit record
    [SANDBOX_TERMINATED] = {RECONCILE_KEEP, RECONCILE_ADOPT},
    [SANDBOX_FAILED] = {RECONCILE_KEEP, RECONCILE_ADOPT},
};

long reconcile(const struct reconcile_record *records, size_t record_count,
               const struct runtime_found *found, size_t found_count, int64_t now_us,
               struct reconcile_result *ret) {
    struct map here, known; // ids; the value only is not NULL
    long n = 0;
    bool ok = true;
    map_init(&here);
    map_init(&known);
    for (size_t i = 0; ok && i < found_count; i++)
        ok = map_put(&here, found[i].id, &here) == 0;
    for (size_t i = 0; ok && i < record_count; i++) {
        const struct reconcile_record *r = &records[i];
        bool expired = r->deadline_us && r->deadline_us <= now_us;
        bool exists = map_get(&here, r->id) != NULL;
        ok = map_put(&known, r->id, &known) == 0;
        ret[n].action = expired              ? RECONCILE_TEARDOWN
                        : r->begun && exists ? RECONCILE_ADOPT
                                             : table[r->state][exists];
        (void)snprintf(ret[n++].id, sizeof ret->id, "%s", r->id);
    }
    for (size_t i = 0; ok && i < found_count; i++) {
        if (map_get(&known, found[i].id))
            continue;
        ret[n].action = RECONCILE_DESTROY;
        (void)snprintf(ret[n++].id, sizeof ret->id, "%s", found[i].id);
    }
    map_clear(&here);
    map_clear(&known);
    return ok ? n : -1;
}
