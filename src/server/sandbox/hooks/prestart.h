// Waiting for the preStart hook of a sandbox (compat-1.1.1.md L10, E21), which may take three
// hours: nothing is held meanwhile but a connection to its execd, and nothing is polled. The
// sandbox is Pending, its record is in the store with all that adopt() needs, so the wait ends with
// the server and goes on with the next one. Loop thread.
#ifndef SERVER_SANDBOX_HOOKS_PRESTART_H
#define SERVER_SANDBOX_HOOKS_PRESTART_H

#include "server/sandbox/domain.h"

struct prestart;
struct prestart_wait {
    struct prestart *at; // NULL: it does not wait
    // Once. err NULL: the hook has succeeded and the entrypoint runs.
    void (*done)(struct prestart_wait *w, const struct error *err);
};

// For a sandbox of which the store has all that adopt() needs: from here on it says that the hook
// is running. -1 with err: it does not begin.
int prestart_join(struct domain *d, struct prestart_wait *w, struct sandbox *sb, struct error *err);
void prestart_leave(struct prestart_wait *w); // done() is not called; fine when it does not wait
// A sandbox that was Pending when the server ended, and was adopted: waits on; `over`: its
// entrypoint has run since, and ended.
void prestart_resume(struct domain *d, struct sandbox *sb, bool over);

#endif
