// Children of execd: how they are made (environment, directory, user, shell) and how their end is
// learnt: by a pidfd each, so that nothing waits for a lock of the kernel while strangers end.
// Orphans are reaped by another thread (orphans.h), what a worker spawns by that worker. Loop
// thread, unless stated.
#ifndef EXECD_PROCESS_H
#define EXECD_PROCESS_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/list.h"
#include "io/signals.h"
#include "io/spawn.h"

struct execd;

// Embedded by its owner, who must process_forget() it before the memory goes.
struct process {
    struct child *child; // of the reaper, while it runs
    struct reaper *reaper;
    pid_t pid; // also its process group when started with SPAWN_NEW_GROUP or _SESSION
    void (*ended)(struct process *p,
                  struct exit_status status); // reaped; the pid is free from now on
};

struct reaper {
    struct loop *loop;
    struct list children;            // struct child: those that run, the forgotten ones too
    unsigned running;                // not forgotten ones
    void (*quiet)(struct reaper *r); // the last of these was reaped; may be NULL
};
void reaper_start(struct reaper *r, struct loop *l);
void reaper_stop(struct reaper *r);
void reaper_signal(struct reaper *r, int signal_number); // to the groups of all known ones

// Spawns and watches. Its signals and limits are the defaults, its OOM score is raised after the
// exec, so that the kernel prefers it to execd. err as of spawn_start().
int process_start(struct execd *e, struct process *p, const struct spawn *s, struct error *err);
static inline bool process_running(const struct process *p) {
    return p->child != NULL;
}
// To the whole group while its leader is not reaped; nothing otherwise (E6: children of a finished
// command live on).
void process_kill_group(const struct process *p, int signal_number);
// For what must reach the group after its leader's end too (an escalating interrupt): a descriptor
// of the group while the leader is not reaped, -1 when it is; then the signal, and close it.
int process_hold_group(const struct process *p);
void process_kill_held(int held, const struct process *p, int signal_number);
void process_forget(struct process *p); // its end is not told; it is reaped all the same

// ---- what a child is given; all memory from the arena ----

// execd's environment <- EXECD_ENVS file (read now; execd.md 3.4, compat E8) <- envs, an object of
// strings, may be NULL. NULL-terminated.
char **process_environment(struct arena *a, const json_t *envs, struct error *err);
const char *process_variable(char *const *envp, const char *name); // NULL when unset
// A path as clients write it (execd/files/expand.h) by the variables of envp (NULL: execd's own),
// HOME and cwd of execd. EINVAL naming the undefined ones.
char *process_absolute(struct arena *a, const struct execd *e, char *const *envp, const char *path,
                       struct error *err);
// $TMPDIR, made when it is missing (execd.md 3.2), else /tmp. Lives as long as the environment.
const char *process_temporary(void);
// Absolute path of bash, else of sh, in PATH of execd; NULL when there is neither. *ret_bash tells.
const char *process_shell(struct arena *a, bool *ret_bash);
// Credentials of uid (and gid, -1: the account's, else = uid) into s; nothing when both are ours.
// Groups from /etc/passwd and /etc/group (no NSS in a static binary).
void process_user(struct spawn *s, int64_t uid, int64_t gid);

// What the kernel counted of processes killed for want of memory in our cgroup (v1 and v2), 0 when
// unreadable, and the limit in bytes, 0 for none. For naming an OOM: compare before and after.
// root: "" or a directory that holds sys/, for tests.
uint64_t process_oom_kills_below(const char *root);
uint64_t process_memory_limit_below(const char *root);
static inline uint64_t process_oom_kills(void) {
    return process_oom_kills_below("");
}
static inline uint64_t process_memory_limit(void) {
    return process_memory_limit_below("");
}
// Whether a process ended for want of memory: it, or a child of which a shell tells with 137, was
// killed, and the count has grown since `before`. No other end is one, whatever happened beside it.
bool process_out_of_memory_below(const char *root, struct exit_status status, uint64_t before);
static inline bool process_out_of_memory(struct exit_status status, uint64_t before) {
    return process_out_of_memory_below("", status, before);
}

// Text of an end as the reference words it: "exit status 3", "signal: killed".
const char *process_describe(struct exit_status status, char *text, size_t size);

#endif
