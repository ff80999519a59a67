// What the server asks of a sandbox's egress, over the runtime's dial(): answers are bounded, and
// nothing in them changes a sandbox's life. Blocking: workers.
#ifndef SERVER_RUNTIME_EGRESS_H
#define SERVER_RUNTIME_EGRESS_H

#include "server/runtime/runtime.h"

enum { EGRESS_ANSWER_MAX = 64 << 20 }; // a policy of 4,096 rules has less than 2 MiB

// body NULL: none. -1: no answer (BACKEND_CONNECTION_FAILED, or BACKEND_RESPONSE_FAILED); any
// status is one.
int egress_ask(struct runtime *r, const char *sandbox_id, const char *token, const char *method,
               const char *target, const char *body, unsigned *ret_status, struct strbuf *ret,
               struct error *err);

#endif
