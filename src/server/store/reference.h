// The SQLite file of the reference server (Python), which holds its snapshots and nothing else:
// one table, no version, times as ISO texts (lifecycle-api.md 10.4). It stays that server's: read,
// never written.
#ifndef SERVER_STORE_REFERENCE_H
#define SERVER_STORE_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct reference_snapshot { // texts are valid for the call; NULL where SQL has NULL
    const char *id, *source_id, *name, *restore_config, *state, *reason, *message;
    int64_t created_us, changed_us;
};
typedef int reference_each_fn(const struct reference_snapshot *s, void *arg, struct error *err);

bool reference_is(const char *path); // there is such a file, and it is that server's. Blocking
// Oldest first. each() returns -1 with its err to stop. Blocking.
int reference_each(const char *path, reference_each_fn *each, void *arg, struct error *err);

#endif
