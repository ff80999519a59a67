// One file request as one job: its handler reads the request on the loop, work() runs on a worker
// as whoever the route names, the reply is sent on the loop. A client that goes away ends long work
// early.
#ifndef EXECD_FILES_TASK_H
#define EXECD_FILES_TASK_H

#include <stdatomic.h>

#include "execd/files/who.h"

struct files_task {
    struct job job;
    struct http_exchange *x;
    struct files_who who;
    atomic_bool gone;
    int (*work)(struct files_task *t, struct error *err); // worker; 0, or -1 with err
    // of the request, as far as the route has it
    json_t *body;        // owned
    const char **paths;  // NULL-terminated, of the query
    const char *pattern; // of a search
    uint64_t depth;      // of a list
    bool verbose;        // of a replacement
    // what work() brings
    struct strbuf reply; // JSON text; empty: 200 without a body
    int result;
    struct error err;
};
// NULL: answered already (wrong ids in the route, no memory).
struct files_task *files_task_new(struct http_exchange *x);
// The body, of the given type; false: answered 400 and freed.
bool files_task_body(struct files_task *t, json_type type);
// Submits; answers by itself in the end, and frees.
void files_task_start(struct files_task *t, int (*work)(struct files_task *t, struct error *err));
void files_task_free(struct files_task *t); // of one that was not started

// Makes `value` (taken; NULL: no memory) the reply.
int files_task_reply(struct files_task *t, json_t *value, struct error *err);
// Replies that are arrays of any length: each element is written and freed at once. err 500 when
// the whole grows past FILES_REPLY_MAX.
int files_task_element(struct files_task *t, json_t *value, struct error *err);
int files_task_array_end(struct files_task *t, struct error *err);

// workers_submit() for every job of files; false: the queue is full or there are no workers,
// answered 503. x is over then.
bool files_submit(struct http_exchange *x, struct job *job);

#endif
