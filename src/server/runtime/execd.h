// What the server asks of the execd in a sandbox, over the runtime's dial(). execd is an untrusted
// upstream: answers are bounded, and nothing they say is believed but that they came. Blocking:
// workers.
#ifndef SERVER_RUNTIME_EXECD_H
#define SERVER_RUNTIME_EXECD_H

#include "server/runtime/runtime.h"

// Variables (a JSON object of texts) that every process it starts from now on gets.
int execd_set_environment(struct runtime *r, const char *sandbox_id, const char *token,
                          const char *env_json, struct error *err);

// ---- whether a sandbox has started (GET /start, which answers once that is known) ----
struct execd_question;
// Asks. *ret_fd is borrowed: readable when there is an answer, or the end of the connection.
struct execd_question *execd_ask_start(struct runtime *r, const char *sandbox_id, const char *token,
                                       int *ret_fd, struct error *err);
// Takes the question. 0: it has started. -1 with a code: it has not and will not, and why; without
// one: execd gave no answer.
int execd_read_start(struct execd_question *q, struct error *err);
void execd_drop_question(struct execd_question *q); // any thread; NULL is fine
// It gave none again and again: *err becomes what the sandbox said last.
void execd_explain_silence(struct runtime *r, const char *sandbox_id, struct error *err);

#endif
