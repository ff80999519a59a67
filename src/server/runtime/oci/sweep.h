// What really exists of this instance, and the removal of what belongs to nobody
// (oci-runtime.md 7.2). Blocking: start-up.
#ifndef SERVER_RUNTIME_OCI_SWEEP_H
#define SERVER_RUNTIME_OCI_SWEEP_H

#include "base/error.h"
#include "server/runtime/oci/sandbox.h"

// Runtime programs of an earlier server that are still at work, by their --root. They die with the
// thread that started them, so there are none but in the first moments after a crash.
int sweep_runtimes(const char *state_path, struct error *err);
// Ids with a directory, a control group, a record of the runtime or a link. malloc'd.
int sweep_list(struct oci *o, struct runtime_found **ret_found, size_t *ret_count,
               struct error *err);
// Destroys every id that is not in the table, and links, mounts and temporary files without one.
int sweep_all(struct oci *o, struct error *err);

#endif
