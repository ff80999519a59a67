// What a server hands to `execd init` as descriptors, and finds in them afterwards (oci-runtime.md
// 0.7).
//
//   3  listening unix socket of execd's API
//   4  file: before the start a JSON object for execd (below), emptied by execd at once; after the
//   end the exit record 5  file: ring of the last HANDOFF_LOG_BYTES of the entrypoint's output
//
// The environment variable HANDOFF_VARIABLE holds the first number ("3") and is removed by execd.
// Whoever reads 4 and 5 on the host treats them as untrusted data. Shared by execd and the server;
// no state. Any thread.
//
// Start object:  {"token_sha256": hex, "entrypoint": [..], "idle": bool, "cwd": "/", "env": {"K":
// "V"}}
//                idle: there is nothing to run, execd itself is the sandbox's first and only
//                process
// Exit record:   {"code": 0..255, "signal": 0..64, "oom": bool, "time_us": wall clock}
#ifndef BASE_HANDOFF_H
#define BASE_HANDOFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

#define HANDOFF_VARIABLE "OPENSANDBOX_HANDOFF_FD"
enum {
    HANDOFF_FIRST_FD = 3,
    HANDOFF_FDS = 3,
    HANDOFF_LOG_BYTES = 1024 * 1024,
    HANDOFF_START_MAX = 4 * 1024 * 1024
};

// Lifecycle hooks (compat-1.1.1.md L10): JSON that the server writes and execd reads from this
// variable of its start object or environment, and takes out of what children are given.
//   {"preStart": {"command": [..], "timeoutSeconds": n},
//    "periodic": [{"name": "..", "schedule": "..", "command": [..], "timeoutSeconds": n}]}
// One variable of a process may have 128 KiB.
#define LIFECYCLE_VARIABLE "OPENSANDBOX_LIFECYCLE"
enum {
    LIFECYCLE_MAX = 64 * 1024,
    LIFECYCLE_HOOKS_MAX = 100,
    LIFECYCLE_SECONDS = 60, // when a hook has no time-out of its own
    LIFECYCLE_START_SECONDS_MAX = 10800,
    LIFECYCLE_PERIODIC_SECONDS_MAX = 300
};

// The ring: 16 bytes of header (8 magic "OSBLOG1\n", 8 little-endian bytes ever written), then the
// ring itself.
struct handoff_log {
    int fd;
    uint64_t total;
};
int handoff_log_open(struct handoff_log *log, int fd); // writes the header when empty; -1 errno
int handoff_log_append(struct handoff_log *log, const void *data, size_t len); // pwrite; -1 errno
int handoff_log_read(int fd, struct strbuf *sb); // oldest to newest; -1 when it is no ring

#endif
