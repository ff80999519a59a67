// What can be told about one sandbox to whoever looks for a fault. Loop thread.
#ifndef SERVER_SANDBOX_DIAGNOSE_DIAGNOSE_H
#define SERVER_SANDBOX_DIAGNOSE_DIAGNOSE_H

#include "base/strbuf.h"
#include "server/sandbox/sandbox.h"

enum { DIAGNOSE_LOG_MAX = 8 * 1024 * 1024 };
enum diagnose_part { DIAGNOSE_LOG = 1 << 0, DIAGNOSE_FACTS = 1 << 1, DIAGNOSE_EGRESS = 1 << 2 };

struct domain;
// A part that was not asked for, or that the runtime does not have, is empty.
struct diagnosis {
    struct strbuf log;    // output of the entrypoint, oldest first
    struct pairs facts;   // of the runtime, no secret among them
    struct strbuf egress; // what its egress refused: JSON as of its /events
    struct error log_error, facts_error, egress_error;
};
// sb and g are valid for the call. err: the sandbox is not there (any more), or nothing could be
// asked; a part that failed has its own error. A Pending sandbox has no parts yet.
typedef void diagnose_done_fn(const struct sandbox *sb, const struct diagnosis *g,
                              const struct error *err, void *arg);
void diagnose(struct domain *d, const char *id, unsigned parts, diagnose_done_fn *done, void *arg);

#endif
