// How a sandbox ended. Three witnesses: the exit record that execd wrote (data of a stranger:
// range-checked), the status that the kernel gave us as the reaper, and the out-of-memory counter.
// The verdict is kept in the file "end" of the sandbox's directory once the control group goes.
// Source: oci-runtime.md 0.7, 3.3. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_EXIT_H
#define SERVER_RUNTIME_OCI_EXIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/strbuf.h"
#include "server/runtime/runtime.h"

#define EXIT_RECORD_FILE "exit" // descriptor 4 of execd
#define EXIT_LOG_FILE    "log"  // descriptor 5
#define EXIT_END_FILE    "end"  // ours alone

enum { EXIT_STATUS_UNKNOWN = -1 };

// Fills ret for a sandbox whose first process is gone. status: wait status, or EXIT_STATUS_UNKNOWN;
// oom: the counter rose.
void exit_judge(int dir, int status, bool oom, struct inspection *ret);
// The verdict of an earlier time; false when there is none.
bool exit_load(int dir, struct inspection *ret);
int exit_save(int dir, const struct inspection *i, struct error *err);
// The last output of the entrypoint, oldest first; empty when there is none.
int exit_logs(int dir, struct strbuf *ret, struct error *err);

#endif
