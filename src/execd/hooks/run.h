// One run of one hook: a process group with the environment, user and directory of a command, its
// output in the sandbox's log, and an end at its time-out. Loop thread.
#ifndef EXECD_HOOKS_RUN_H
#define EXECD_HOOKS_RUN_H

#include "execd/execd.h"
#include "execd/hooks/plan.h"

enum { HOOK_FAILURE_MAX = 128 };

// Embedded by its owner; zeroed before the first run.
struct hook_run {
    struct execd *e;
    const struct hook *hook;
    struct process process;
    struct timer limit;
    int group; // held once it was told to end, for what it leaves behind
    bool late;
    uint64_t oom_kills;
    // failure: NULL, or why it was none: "exit status 3", "signal: killed", "timed out after 60 s".
    void (*over)(struct hook_run *r, const char *failure);
};

// err as of process_start(). The group gets SIGTERM at the time-out, and SIGKILL 3 s later or when
// its leader has ended.
int hook_run_start(struct hook_run *r, struct error *err);
static inline bool hook_runs(const struct hook_run *r) {
    return process_running(&r->process);
}
void hook_run_stop(struct hook_run *r); // kills it; over() is not called

#endif
