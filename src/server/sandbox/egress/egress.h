// What is asked of the egress of a sandbox with a network policy. It belongs to no operation: it
// waits for nobody, and egress itself serialises changes. Loop thread.
#ifndef SERVER_SANDBOX_EGRESS_EGRESS_H
#define SERVER_SANDBOX_EGRESS_EGRESS_H

#include "base/strbuf.h"
#include "server/sandbox/sandbox.h"

struct domain;
// err NULL: egress answered, with any status; the text is valid for the call.
typedef void egress_done_fn(unsigned status, const struct strbuf *answer, const struct error *err,
                            void *arg);
// method and target are static; body is copied, NULL: none. A paused sandbox's egress answers too.
void egress_request(struct domain *d, const char *id, const char *method, const char *target,
                    const char *body, egress_done_fn *done, void *arg);
// Whether it has an egress to ask now: it has a policy and has not ended; else err says why.
bool egress_answers(const struct sandbox *sb, struct error *err);

#endif
