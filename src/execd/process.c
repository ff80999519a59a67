#include "execd/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/parse.h"
#include "execd/execd.h"
#include "execd/files/account.h"
#include "io/stream.h"

enum { OOM_SCORE_RAISE = 300, SCORE_PATH = 64 };
#ifndef PIDFD_SIGNAL_PROCESS_GROUP
#define PIDFD_SIGNAL_PROCESS_GROUP (1u << 2) // linux/pidfd.h, 6.9
#endif

// ---- the reaper ----

struct child {
    struct list node;
    struct reaper *reaper;
    struct process *owner; // NULL: forgotten
    struct stream *end;    // a pidfd
    pid_t pid;
};

static void drop_child(struct child *c) {
    list_remove(&c->node);
    stream_close(c->end);
    free(c);
}

static void on_end(struct stream *s, unsigned events, void *arg) {
    struct child *c = arg;
    struct reaper *r = c->reaper;
    struct process *p = c->owner;
    siginfo_t info = {.si_pid = 0};
    (void)s;
    (void)events;
    if (waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
        return;
    struct exit_status status = {.code = -1};
    *(info.si_code == CLD_EXITED ? &status.code : &status.signal) = info.si_status;
    drop_child(c);
    if (!p)
        return;
    p->child = NULL;
    r->running--;
    if (p->ended)
        p->ended(p, status);
    if (!r->running && r->quiet)
        r->quiet(r);
}

void reaper_start(struct reaper *r, struct loop *l) {
    *r = (struct reaper){.loop = l};
    list_init(&r->children);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); // PID 1 is one anyway; without it orphans go elsewhere
}

void reaper_signal(struct reaper *r, int signal_number) {
    LIST_EACH(&r->children, node) {
        const struct child *c = LIST_ENTRY(node, struct child, node);
        if (c->owner)
            process_kill_group(c->owner, signal_number);
    }
}

void reaper_stop(struct reaper *r) {
    LIST_EACH(&r->children, node)
    drop_child(LIST_ENTRY(node, struct child, node));
}

// ---- children ----

static int watch_child(struct reaper *r, struct process *p, int pidfd) {
    struct child *c = calloc(1, sizeof *c);
    if (!c) {
        (void)close(pidfd);
        errno = ENOMEM;
        return -1;
    }
    c->end = stream_open(r->loop, pidfd, on_end, c);
    if (!c->end) {
        int why = errno;
        free(c);
        errno = why;
        return -1;
    }
    c->reaper = r;
    c->owner = p;
    c->pid = p->pid;
    stream_want(c->end, STREAM_READABLE);
    list_push_back(&r->children, &c->node);
    p->reaper = r;
    p->child = c;
    r->running++;
    return 0;
}

int process_start(struct execd *e, struct process *p, const struct spawn *s, struct error *err) {
    char path[SCORE_PATH], score[8];
    struct error ignored;
    int pidfd = -1;
    if (spawn_start(s, &p->pid, &pidfd, err) < 0)
        return -1;
    if (watch_child(&e->reaper, p, pidfd) < 0) {
        int why = errno;
        (void)kill(p->pid, SIGKILL);
        (void)waitpid(p->pid, NULL, 0);
        return error_errno(err, why, "watch for the end of a process");
    }
    (void)snprintf(path, sizeof path, "/proc/%d/oom_score_adj", p->pid);
    (void)snprintf(score, sizeof score, "%d", OOM_SCORE_RAISE);
    (void)fd_write_text(AT_FDCWD, path, score, &ignored); // without /proc it is not raised
    return 0;
}

void process_kill_group(const struct process *p, int signal_number) {
    if (process_running(p))
        (void)kill(-p->pid, signal_number); // an empty group needs no signal
}

void process_forget(struct process *p) {
    if (!process_running(p))
        return;
    p->child->owner = NULL;
    p->child = NULL;
    p->reaper->running--;
}

int process_hold_group(const struct process *p) {
    return process_running(p) ? fcntl(stream_fd(p->child->end), F_DUPFD_CLOEXEC, 0) : -1;
}

void process_kill_held(int held, const struct process *p, int signal_number) {
    if (held >= 0 &&
        syscall(SYS_pidfd_send_signal, held, signal_number, NULL, PIDFD_SIGNAL_PROCESS_GROUP) < 0 &&
        (errno == EINVAL || errno == ENOSYS || errno == EBADF)) // before Linux 6.9; gVisor
        (void)kill(-p->pid, signal_number);
}

// ---- users ----

void process_user(struct spawn *s, int64_t uid, int64_t gid) {
    if (uid < 0 || (uid == geteuid() && (gid < 0 || gid == getegid())))
        return;
    char home[ACCOUNT_HOME_MAX];
    gid_t groups[ACCOUNT_GROUPS_MAX];
    size_t count = 0;
    cleanup(files_accounts_free) struct files_accounts accounts;
    files_accounts_init(&accounts);
    (void)files_account(&accounts, (uid_t)uid, home, groups, &count); // unknown: no groups
    s->flags |= SPAWN_SET_USER;
    s->uid = (uid_t)uid;
    s->gid = gid >= 0 ? (gid_t)gid : count ? groups[0] : (gid_t)uid; // the primary one is the first
    s->group_count = count < SPAWN_GROUPS_MAX ? (unsigned)count : SPAWN_GROUPS_MAX;
    memcpy(s->groups, groups, s->group_count * sizeof *groups);
}

// ---- memory ----

static bool read_control(const char *root, const char *v2, const char *v1, char *text,
                         size_t size) {
    struct error ignored;
    char path[EXECD_PATH_SIZE];
    (void)snprintf(path, sizeof path, "%s/sys/fs/cgroup/%s", root, v2);
    if (!fd_read_text(AT_FDCWD, path, text, size, &ignored))
        return true;
    (void)snprintf(path, sizeof path, "%s/sys/fs/cgroup/memory/%s", root, v1);
    return !fd_read_text(AT_FDCWD, path, text, size, &ignored);
}

uint64_t process_oom_kills_below(const char *root) {
    char text[512];
    uint64_t count = 0;
    if (!read_control(root, "memory.events", "memory.oom_control", text, sizeof text))
        return 0;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, "oom_kill ", 9))
            (void)parse_u64n(line + 9, strcspn(line + 9, "\n"), 0, UINT64_MAX, &count);
    }
    return count;
}

bool process_out_of_memory_below(const char *root, struct exit_status status, uint64_t before) {
    return (status.signal == SIGKILL || status.code == 128 + SIGKILL) &&
           process_oom_kills_below(root) > before;
}

uint64_t process_memory_limit_below(const char *root) {
    static const uint64_t unlimited = 1ull << 62; // v1 says 2^63 less a page
    char text[32];
    uint64_t limit = 0;
    if (!read_control(root, "memory.max", "memory.limit_in_bytes", text, sizeof text) ||
        parse_u64(text, 0, UINT64_MAX, &limit) < 0 || limit >= unlimited)
        return 0;
    return limit;
}

// ---- words ----

const char *process_describe(struct exit_status status, char *text, size_t size) {
    static const struct {
        int number;
        const char *name;
    } words[] = {{SIGHUP, "hangup"},
                 {SIGINT, "interrupt"},
                 {SIGQUIT, "quit"},
                 {SIGILL, "illegal instruction"},
                 {SIGTRAP, "trace/breakpoint trap"},
                 {SIGABRT, "aborted"},
                 {SIGBUS, "bus error"},
                 {SIGFPE, "floating point exception"},
                 {SIGKILL, "killed"},
                 {SIGUSR1, "user defined signal 1"},
                 {SIGSEGV, "segmentation fault"},
                 {SIGUSR2, "user defined signal 2"},
                 {SIGPIPE, "broken pipe"},
                 {SIGALRM, "alarm clock"},
                 {SIGTERM, "terminated"}};
    if (status.signal <= 0) {
        (void)snprintf(text, size, "exit status %d", status.code);
        return text;
    }
    (void)snprintf(text, size, "signal: signal %d", status.signal);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (words[i].number == status.signal)
            (void)snprintf(text, size, "signal: %s", words[i].name);
    return text;
}
