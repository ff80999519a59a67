// What the server asks of the execd in a sandbox, over the runtime's dial(). execd is an untrusted
// upstream: answers are bounded, and nothing they say is believed but that they came. Blocking:
// workers.
#ifndef SERVER_RUNTIME_EXECD_H
#define SERVER_RUNTIME_EXECD_H

#include "server/runtime/runtime.h"

// Variables (a JSON object of texts) that every process it starts from now on gets.
int execd_set_environment(struct runtime *r, const char *sandbox_id, const char *token,
                          const char *env_json, struct error *err);

#endif
