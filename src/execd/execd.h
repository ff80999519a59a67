// What every room of execd shares: one loop, one HTTP server, the process's own environment, and
// the registries of what lives longer than a request. A handler finds it by execd_of(x).
//
// Rules of the house (docs/architecture.md sections 3 and 9): everything runs on the loop thread;
// what blocks on a disk is a job for execd_workers(). Children are made by process_start() only
// (execd/process.h), so that the one reaper knows them. Output of children goes into a struct
// output (execd/output.h), and to clients by events (execd/events.h).
#ifndef EXECD_EXECD_H
#define EXECD_EXECD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/encode.h"
#include "base/map.h"
#include "execd/hooks/journal.h"
#include "execd/metrics/cgroup.h"
#include "execd/output.h"
#include "execd/process.h"
#include "http/server.h"
#include "io/loop.h"
#include "io/workers.h"

enum {
    EXECD_PORT = 44772,
    EXECD_ID_HEX = 32,         // command ids: lower-case hex, no dashes
    EXECD_ID_SIZE = 40,        // room for a uuid and its NUL
    EXECD_SCRATCH = 64 * 1024, // one read from a pipe or spool
    EXECD_JSON_MAX = 64 << 20, // buffered request bodies
    EXECD_STREAM_BUFFER = 256 * 1024,
    EXECD_COMMANDS_MAX = 4096, // records of finished commands
    EXECD_TEXTS_MAX = 8 << 20, // bytes of their texts
    EXECD_SESSIONS_MAX = 1024, // and as many PTYs
    EXECD_PATH_SIZE = 4096
};

// Error codes of the API (execd.md 2.1, compat-1.1.1.md E25), so that nobody misspells one.
#define CODE_BODY        "INVALID_REQUEST_BODY"
#define CODE_QUERY       "MISSING_QUERY"
#define CODE_RUNTIME     "RUNTIME_ERROR"
#define CODE_CONTEXT     "CONTEXT_NOT_FOUND"
#define CODE_NOT_FOUND   "FILE_NOT_FOUND"
#define CODE_FILE        "INVALID_FILE"
#define CODE_CONTENT     "INVALID_FILE_CONTENT"
#define CODE_METADATA    "INVALID_FILE_METADATA"
#define CODE_IDENTITY    "FILESYSTEM_IDENTITY_UNAVAILABLE"
#define CODE_UNKNOWN     "UNKNOWN"
#define CODE_UNAVAILABLE "SERVICE_UNAVAILABLE"
#define CODE_UNSUPPORTED "NOT_SUPPORTED"

struct execd {
    struct loop loop;
    struct http_server *http;
    struct workers *workers;             // NULL until the first execd_workers()
    unsigned port;                       // of the TCP listener, 0: none
    bool guarded;                        // a token is demanded
    uint8_t token[SHA256_SIZE];          // its SHA-256
    struct reaper reaper;                // children, orphans
    struct output_space outputs;         // of all spools
    struct map commands;                 // struct command by id
    struct map sessions;                 // struct session by id
    struct map ptys;                     // struct pty by id
    struct http_upstreams *proxy;        // of execd/proxy.c
    char cwd[EXECD_PATH_SIZE];           // at the start: base of relative paths
    char *scratch;                       // EXECD_SCRATCH bytes, free between any two callbacks
    struct init *init;                   // NULL unless we are the sandbox's init (execd/init.h)
    struct hooks *hooks;                 // NULL: the sandbox has none (execd/hooks/hooks.h)
    struct journal journal;              // what the entrypoint and the hooks write
    struct list leftovers;               // of execd/capture.c
    uint64_t nofile_soft;                // limit of descriptors that children get, as we found it
    struct list history;                 // struct command, oldest first
    size_t history_count, history_bytes; // records; what the commands' texts take
    struct usage usage; // last reading of metrics/, and the share of the processor since the
    double busy;        // one before
    struct telemetry *telemetry; // of telemetry/, NULL: off
    bool stopping;
};

static inline struct execd *execd_of(const struct http_exchange *x) {
    return http_server_user(x->server);
}

// Threads for file trees and the like: started by the first call, so that an idle sandbox has one
// thread. NULL with err when that fails.
struct workers *execd_workers(struct execd *e, struct error *err);

// ---- replies and requests that every file needs (execd/routes.c) ----

// One error reply in one line. Always answers.
void execd_fail(struct http_exchange *x, unsigned status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// The body as a JSON object with its keys in any case (execd.md 2.1): members are looked up by
// execd_member(). An empty body is {} when `optional`. Otherwise answers 400 CODE_BODY and returns
// NULL. The caller owns it.
json_t *execd_body(struct http_exchange *x, bool optional);
// The same for JSON_ARRAY, too; null is an empty one of either.
json_t *execd_body_of(struct http_exchange *x, json_type type, bool optional);
// Member by name without case; NULL when absent or null. Exact spelling wins.
json_t *execd_member(const json_t *object, const char *name);
// First value of a query parameter, decoded by Go's rules (execd.md 2.1); NULL when absent. Lives
// in the arena of x.
const char *execd_query(struct http_exchange *x, const char *name);
// All values of a repeated one, NULL-terminated.
const char **execd_query_all(struct http_exchange *x, const char *name);

// ---- rooms: what has a life beside requests. A row in routes.c, cleared in reverse order. ----
struct execd_room {
    const char *name;
    int (*start)(struct execd *e, struct error *err); // may be NULL
    // Ends what is left: processes killed, handles closed. After it only close callbacks remain.
    void (*stop)(struct execd *e);
    // DELETE /command?id= and /code?id= ask every room in turn. 1: mine, and interrupted; 0: not
    // mine; -1 with err: mine, and cannot be. May be NULL.
    int (*interrupt)(struct execd *e, const char *id, struct error *err);
};
extern const struct execd_room execd_rooms[]; // ends with a NULL name

#endif
