// Runs a helper program (skopeo, umoci, tar, cp) on bytes of strangers: a pid namespace that ends
// with it, no descriptor but its own, a mount namespace in which one directory can be changed and
// nothing else, a bound on file sizes and time. It dies with the calling thread. Private to image/.
// Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_IMAGE_TOOL_H
#define SERVER_RUNTIME_OCI_IMAGE_TOOL_H

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/strbuf.h"

enum { TOOL_WORDS_MAX = 32 };

struct tool {
    const char *argv[TOOL_WORDS_MAX]; // argv[0] is searched in PATH
    const char *writable;             // absolute path of the directory
    const char *seen_at;              // where the program finds it; NULL: at its own path
    uid_t uid;                        // and gid, of the program; 0: root
    int pass;                         // becomes descriptor 3; 0: none
    uint64_t file_max;                // bytes of one file; 0: no limit
    int64_t deadline_ms;              // boot clock
    struct strbuf *out;               // NULL: stdout is discarded
    // Called every 200 ms; what it refuses is killed and its error returned. NULL: never.
    int (*tick)(void *arg, struct error *err);
    void *arg;
};
// 0 when it ended with 0. Else the error has its last words, and a kind: ENOSPC, EFBIG, ETIMEDOUT,
// ENOENT (no such program), EIO.
int tool_run(const struct tool *t, struct error *err);

#endif
