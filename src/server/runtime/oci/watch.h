// Ends of sandboxes: one thread polls their pidfds, reaps (the server is the subreaper of its
// sandboxes) and tells the loop.
#ifndef SERVER_RUNTIME_OCI_WATCH_H
#define SERVER_RUNTIME_OCI_WATCH_H

#include <stdbool.h>

#include "base/error.h"
#include "io/loop.h"
#include "server/runtime/runtime.h"

enum { WATCH_STATUS_ALIVE = -2, WATCH_STATUS_UNKNOWN = -1 };

struct watch;
struct watch *watch_new(struct error *err);
void watch_free(struct watch *w); // NULL is fine; ends the thread
// From now on ends are told on the loop; those of before too. Loop thread.
void watch_deliver(struct watch *w, struct loop *l, runtime_event_fn *event, void *arg);
void watch_stop(struct watch *w); // loop thread: nothing is told afterwards

// Any thread. The pidfd is borrowed until watch_remove() returned.
int watch_add(struct watch *w, const char *id, int pidfd, struct error *err);
// Forgets the sandbox and returns its wait status, or one of the values above.
int watch_remove(struct watch *w, const char *id);
int watch_status(struct watch *w, const char *id);

#endif
