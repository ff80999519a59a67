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

enum { OOM_SCORE_RAISE = 300, SCORE_PATH = 64 };
#ifndef PIDFD_SIGNAL_PROCESS_GROUP
#define PIDFD_SIGNAL_PROCESS_GROUP (1u << 2) // linux/pidfd.h, 6.9
#endif

// ---- the reaper ----

static struct list *bucket(struct reaper *r, pid_t pid) {
    return &r->known[(unsigned)pid % REAPER_BUCKETS];
}

static struct process *find(struct reaper *r, pid_t pid) {
    LIST_EACH(bucket(r, pid), node) {
        struct process *p = LIST_ENTRY(node, struct process, node);
        if (p->pid == pid)
            return p;
    }
    return NULL;
}

// One child that has ended, if any. __WNOTHREAD: not those that a worker thread waits for itself.
static bool reap_one(struct reaper *r) {
    siginfo_t info = {.si_pid = 0};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WNOTHREAD) < 0 || !info.si_pid)
        return false;
    struct process *p = find(r, info.si_pid);
    if (!p) {
        r->orphans++;
        return true;
    }
    struct exit_status status = {.code = -1};
    *(info.si_code == CLD_EXITED ? &status.code : &status.signal) = info.si_status;
    list_remove(&p->node);
    r->running--;
    if (p->ended)
        p->ended(p, status);
    if (!r->running && r->quiet)
        r->quiet(r);
    return true;
}

static void reap(struct reaper *r) {
    for (int i = 0; i < REAPER_BATCH; i++)
        if (!reap_one(r))
            return;
    if (!r->again.node.next)
        loop_defer(r->loop, &r->again);
}

static void on_again(struct loop_task *task) {
    reap(CONTAINER_OF(task, struct reaper, again));
}

static void on_child(struct signal_watch *w, int number) {
    (void)number;
    reap(CONTAINER_OF(w, struct reaper, child));
}

int reaper_start(struct reaper *r, struct loop *l, struct error *err) {
    *r = (struct reaper){.loop = l, .again.run = on_again};
    for (size_t i = 0; i < REAPER_BUCKETS; i++)
        list_init(&r->known[i]);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1); // PID 1 is one anyway; without it orphans go elsewhere
    return signal_watch_start(l, &r->child, SIGCHLD, on_child) < 0
               ? error_errno(err, errno, "watch for children")
               : 0;
}

void reaper_signal(struct reaper *r, int signal_number) {
    for (size_t i = 0; i < REAPER_BUCKETS; i++)
        LIST_EACH(&r->known[i], node)
    process_kill_group(LIST_ENTRY(node, struct process, node), signal_number);
}

void reaper_stop(struct reaper *r) {
    signal_watch_stop(&r->child);
    loop_cancel(r->loop, &r->again);
}

// ---- children ----

int process_start(struct execd *e, struct process *p, const struct spawn *s, struct error *err) {
    char path[SCORE_PATH], score[8];
    struct error ignored;
    int pidfd = -1;
    if (spawn_start(s, &p->pid, &pidfd, err) < 0)
        return -1;
    (void)close(pidfd); // the number is ours until we reap it
    (void)snprintf(path, sizeof path, "/proc/%d/oom_score_adj", p->pid);
    (void)snprintf(score, sizeof score, "%d", OOM_SCORE_RAISE);
    (void)fd_write_text(AT_FDCWD, path, score, &ignored); // without /proc it is not raised
    p->reaper = &e->reaper;
    list_push_back(bucket(p->reaper, p->pid), &p->node);
    p->reaper->running++;
    return 0;
}

void process_kill_group(const struct process *p, int signal_number) {
    if (process_running(p))
        (void)kill(-p->pid, signal_number); // an empty group needs no signal
}

void process_forget(struct process *p) {
    if (!process_running(p))
        return;
    list_remove(&p->node);
    p->reaper->running--;
}

int process_hold_group(const struct process *p) {
    return process_running(p) ? (int)syscall(SYS_pidfd_open, p->pid, 0) : -1;
}

void process_kill_held(int held, const struct process *p, int signal_number) {
    if (held >= 0 &&
        syscall(SYS_pidfd_send_signal, held, signal_number, NULL, PIDFD_SIGNAL_PROCESS_GROUP) < 0 &&
        errno == EINVAL) // before Linux 6.9
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
