// Child processes: clone(CLONE_VM|CLONE_VFORK) and exec, so neither a threaded process is forked
// nor its memory copied. Nothing but async-signal-safe calls happens between. Descriptors: the
// child gets exactly the ones named here.
#ifndef IO_SPAWN_H
#define IO_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/strbuf.h"
#include "io/loop.h"

enum { SPAWN_PASS_MAX = 8, SPAWN_GROUPS_MAX = 64 };

enum spawn_flags {
    SPAWN_NEW_GROUP = 1 << 0,   // setpgid(0, 0)
    SPAWN_NEW_SESSION = 1 << 1, // setsid(); with SPAWN_TTY stdin becomes the controlling terminal
    SPAWN_TTY = 1 << 2,
    SPAWN_SET_USER = 1 << 3, // setgroups, setresgid, setresuid
    SPAWN_DIE_WITH_US =
        1 << 4, // PR_SET_PDEATHSIG SIGKILL (tied to the calling thread: it must outlive the child)
    SPAWN_SEARCH_PATH =
        1 << 5 // argv[0] without '/' is searched in the absolute entries of PATH of `envp`
};

struct spawn {
    const char *file; // NULL: argv[0]
    int exec_fd;      // > 0: execveat() of this descriptor instead of file
    char *const *argv, *const *envp;
    const char *cwd;          // NULL: ours
    int stdio[3];             // borrowed; -1: /dev/null
    int pass[SPAWN_PASS_MAX]; // become 3, 4, ... in the child
    unsigned pass_count;
    unsigned flags;
    uid_t uid;
    gid_t gid;
    gid_t groups[SPAWN_GROUPS_MAX];
    unsigned group_count;
    uint64_t nofile_soft;      // > 0: RLIMIT_NOFILE soft limit of the child
    unsigned long clone_flags; // e.g. CLONE_NEWNS; 0 usually
    // Runs in the child just before descriptors are arranged (async-signal-safe calls only, shares
    // our memory). Returns 0, or -1 with errno and *step naming what failed.
    int (*prepare)(void *arg, const char **step);
    void *prepare_arg;
};

// Returns the pid and a pidfd (on a kernel without them, such as gVisor's, a descriptor that is
// readable once the child has ended; spawn_wait() knows it, waitid(2) does not). On failure
// err->kind is the child's errno (ENOENT, EACCES, E2BIG...) and the message names the step. Any
// thread (workers, loop: microseconds to a few ms).
int spawn_start(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd, struct error *err);

// Exit of a child as the kernel told it: code 0..255, or signal > 0.
struct exit_status {
    int code, signal;
};
// Blocking wait on a worker; time_out_ms < 0: for ever. -1 with ETIMEDOUT, or ECHILD. Reaps.
int spawn_wait(int pidfd, int64_t time_out_ms, struct exit_status *ret);

// Runs a helper program to its end on a worker: own process group, stdin from `input` (may be
// NULL), stdout and stderr collected up to their strbuf maximum (NULL: discarded; more is drained
// and dropped). The group is killed at time_out_ms. 0 with *ret, or -1 (could not start, timed
// out). A non-zero exit is not an error here.
int spawn_run(const struct spawn *s, const char *input, size_t input_len, struct strbuf *out,
              struct strbuf *errors, int64_t time_out_ms, struct exit_status *ret,
              struct error *err);

// Loop side: tells of the end of a child by its pidfd, then reaps it. Stop to forget it (the pidfd
// stays the caller's).
struct child_watch {
    uv_poll_t *poll;
    int pidfd;
    pid_t pid;
    void (*exited)(struct child_watch *w, struct exit_status status);
};
int child_watch_start(struct loop *l, struct child_watch *w, pid_t pid, int pidfd,
                      void (*exited)(struct child_watch *, struct exit_status));
void child_watch_stop(struct child_watch *w);

#endif
