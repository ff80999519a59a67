// Two threads that work for the runtime in the background: one begins the kernel's grace period
// early (oci-runtime.md 8.1), one deletes what lies in the trash and, once a day, images past the
// limits, at the lowest priority.
#ifndef SERVER_RUNTIME_OCI_CHORES_H
#define SERVER_RUNTIME_OCI_CHORES_H

#include "base/error.h"

struct chores;
struct image_store;
// self_procs: cgroup.procs of our own group or -1; trash: directory to be emptied. All borrowed.
struct chores *chores_new(int self_procs, int trash, struct image_store *images, struct error *err);
void chores_free(struct chores *c); // NULL is fine. Empties the trash as far as 2 s go
// Moving ourselves to where we are makes the kernel wait for its grace period now instead of in the
// coming create. Any thread, does not block.
void chores_expect(struct chores *c);
// Moves <at>/<name> into the trash under a fresh name; it is deleted later. A missing one is fine.
int chores_discard(struct chores *c, int at, const char *name, struct error *err);
void chores_empty(struct chores *c); // whatever is in the trash (at start)

#endif
