// Ends of sandboxes on their way from the thread that saw them to the loop. Any thread, unless
// stated.
#ifndef SERVER_RUNTIME_ENDS_H
#define SERVER_RUNTIME_ENDS_H

#include "server/runtime/runtime.h"

struct ends;
struct ends *ends_new(struct error *err);
void ends_free(struct ends *e); // NULL is fine. Loop thread, or when there is no loop any more
// Kept until there is a loop to tell. Without memory the end is lost (a look at the sandbox finds
// it again).
void ends_tell(struct ends *e, const char *id);
// From now on the loop is told, in order; event() may call ends_tell() and ends_stop(). Loop
// thread.
void ends_deliver(struct ends *e, struct loop *l, runtime_event_fn *event, void *arg);
void ends_stop(struct ends *e); // event() is not called any more. Loop thread

#endif
