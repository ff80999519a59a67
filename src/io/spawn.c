#include "io/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

enum {
    STACK = 64 * 1024,
    AWAY = 64
}; // descriptors are first moved above AWAY, out of each other's way

// Shared with the child, which runs in our memory until it execs.
struct launch {
    const struct spawn *s;
    const char *step; // what failed
    int error;
    int exec_fd;
    char path[4096];
};

static int fail(struct launch *l, const char *step) {
    l->step = step;
    l->error = errno;
    return -1;
}

static int arrange_descriptors(struct launch *l) {
    const struct spawn *s = l->s;
    int high[3 + SPAWN_PASS_MAX], n = 3 + (int)s->pass_count, null = -1;
    for (int i = 0; i < n; i++) {
        int fd = i < 3 ? s->stdio[i] : s->pass[i - 3];
        if (fd < 0 && null < 0 && (null = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
            return fail(l, "/dev/null");
        if ((high[i] = fcntl(fd < 0 ? null : fd, F_DUPFD_CLOEXEC, AWAY)) < 0)
            return fail(l, "descriptors");
    }
    if (s->exec_fd > 0 && (l->exec_fd = fcntl(s->exec_fd, F_DUPFD_CLOEXEC, AWAY)) < 0)
        return fail(l, "descriptors");
    for (int i = 0; i < n; i++)
        if (dup2(high[i], i) < 0)
            return fail(l, "descriptors");
    // everything else closes at the exec, also what some library opened without O_CLOEXEC
    if (syscall(SYS_close_range, (unsigned)n, ~0u, CLOSE_RANGE_CLOEXEC) < 0 && errno != ENOSYS &&
        errno != EINVAL)
        return fail(l, "close_range");
    return 0;
}

static int become(struct launch *l) {
    const struct spawn *s = l->s;
    if (s->flags & SPAWN_NEW_SESSION && setsid() < 0)
        return fail(l, "setsid");
    if (s->flags & SPAWN_TTY && ioctl(0, TIOCSCTTY, 0) < 0)
        return fail(l, "controlling terminal");
    // the leader of a session leads a group already, and may not be told so again
    if ((s->flags & (SPAWN_NEW_GROUP | SPAWN_NEW_SESSION)) == SPAWN_NEW_GROUP && setpgid(0, 0) < 0)
        return fail(l, "setpgid");
    if (s->nofile_soft) {
        struct rlimit limit;
        if (getrlimit(RLIMIT_NOFILE, &limit))
            return fail(l, "getrlimit");
        limit.rlim_cur = s->nofile_soft < limit.rlim_max ? s->nofile_soft : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit))
            return fail(l, "setrlimit");
    }
    if (s->cwd && chdir(s->cwd))
        return fail(l, "working directory");
    // raw calls: glibc's wrappers would change the ids of our own threads too (signals to all of
    // them)
    if (s->flags & SPAWN_SET_USER) {
        if (syscall(SYS_setgroups, s->group_count, s->groups) < 0)
            return fail(l, "setgroups");
        if (syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0)
            return fail(l, "setgid");
        if (syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0)
            return fail(l, "setuid");
    }
    if (s->flags & SPAWN_DIE_WITH_US && prctl(PR_SET_PDEATHSIG, SIGKILL)) // a new user clears it
        return fail(l, "prctl");
    return 0;
}

static void default_signals(void) {
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int i = 1; i < NSIG; i++)
        (void)sigaction(i, &plain, NULL); // fails for SIGKILL and SIGSTOP, which have no handlers
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static const char *variable(char *const *envp, const char *name) {
    size_t n = strlen(name);
    for (; envp && *envp; envp++)
        if (!strncmp(*envp, name, n) && (*envp)[n] == '=')
            return *envp + n + 1;
    return NULL;
}

// execvp(3) without its surprises: absolute entries of the child's own PATH only, no shell for
// ENOEXEC.
static void exec_searching(struct launch *l, const char *name) {
    const char *path = variable(l->s->envp, "PATH");
    int seen = ENOENT;
    if (!path)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    while (*path) {
        size_t n = strcspn(path, ":");
        if (path[0] == '/' && n + strlen(name) + 2 < sizeof l->path) {
            memcpy(l->path, path, n);
            l->path[n] = '/';
            memcpy(l->path + n + 1, name, strlen(name) + 1);
            (void)execve(l->path, l->s->argv, l->s->envp);
            if (errno != ENOENT && errno != ENOTDIR)
                seen = errno;
        }
        path += n + (path[n] == ':');
    }
    errno = seen;
}

static int child_main(void *arg) {
    struct launch *l = arg;
    const struct spawn *s = l->s;
    const char *file = s->file ? s->file : s->argv[0], *step = "prepare";
    if (s->prepare && s->prepare(s->prepare_arg, &step) < 0)
        fail(l, step);
    else if (!arrange_descriptors(l) && !become(l)) {
        default_signals();
        if (s->exec_fd > 0)
            (void)syscall(SYS_execveat, l->exec_fd, "", s->argv, s->envp, AT_EMPTY_PATH);
        else if (s->flags & SPAWN_SEARCH_PATH && !strchr(file, '/'))
            exec_searching(l, file);
        else
            (void)execve(file, s->argv, s->envp);
        fail(l, file);
    }
    _exit(127);
}

int spawn_start(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd, struct error *err) {
    struct launch l = {.s = s, .exec_fd = s->exec_fd};
    sigset_t all, old;
    int pidfd = -1;
    char *stack =
        mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return error_errno(err, errno, "spawn");
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all,
                    &old); // no handler of ours may run in the child, on our memory
    pid_t pid =
        clone(child_main, stack + STACK,
              (int)(CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | s->clone_flags), &l, &pidfd);
    int why = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)munmap(stack, STACK);
    if (pid < 0)
        return error_errno(err, why, "spawn");
    if (l.step) {
        struct exit_status ended;
        (void)spawn_wait(pidfd, -1, &ended); // it is dead already, this reaps it
        (void)close(pidfd);
        return error_errno(err, l.error, "%s", l.step);
    }
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}

int spawn_wait(int pidfd, int64_t time_out_ms, struct exit_status *ret) {
    int64_t end = time_out_ms < 0 ? INT64_MAX : clock_boot_ms() + time_out_ms;
    for (;;) {
        siginfo_t info = {0};
        int flags = WEXITED | (time_out_ms < 0 ? 0 : WNOHANG);
        if (waitid(P_PIDFD, (id_t)pidfd, &info, flags) < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        if (info.si_pid) {
            *ret = info.si_code == CLD_EXITED
                       ? (struct exit_status){.code = info.si_status}
                       : (struct exit_status){.code = -1, .signal = info.si_status};
            return 0;
        }
        int64_t left = end - clock_boot_ms();
        if (left <= 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        (void)poll(&p, 1, left > INT32_MAX ? INT32_MAX : (int)left);
    }
}

// ---- spawn_run ----

struct running {
    int in, out, errors, pidfd;
    const char *input;
    size_t input_len;
    struct strbuf *sb[2];
};

// Reads once from a pipe into sb, dropping what does not fit. Closes at the end.
static void drain(int *fd, struct strbuf *sb) {
    char piece[16 * 1024];
    ssize_t n = read(*fd, piece, sizeof piece);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        (void)close(*fd);
        *fd = -1;
        return;
    }
    if (sb) {
        size_t room = sb->max - sb->len;
        (void)strbuf_add(sb, piece, (size_t)n < room ? (size_t)n : room);
    }
}

static void feed(struct running *r) {
    ssize_t n = write(r->in, r->input, r->input_len);
    if (n > 0) {
        r->input += n;
        r->input_len -= (size_t)n;
    }
    if (!r->input_len || (n < 0 && errno != EINTR && errno != EAGAIN)) {
        (void)close(r->in);
        r->in = -1;
    }
}

// Until the child has ended and its pipes are empty. -1 with ETIMEDOUT while it lives.
static int exchange_all(struct running *r, int64_t end, struct exit_status *ret) {
    for (bool alive = true;;) {
        struct pollfd p[] = {{.fd = r->in, .events = POLLOUT},
                             {.fd = r->out, .events = POLLIN},
                             {.fd = r->errors, .events = POLLIN},
                             {.fd = alive ? r->pidfd : -1, .events = POLLIN}};
        int64_t left =
            alive ? end - clock_boot_ms() : 0; // grandchildren may hold the pipes for ever
        if (alive && left <= 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        int n = poll(p, ARRAY_SIZE(p), left > INT32_MAX ? INT32_MAX : (int)left);
        if (n > 0 && p[0].revents)
            feed(r);
        if (n > 0 && p[1].revents)
            drain(&r->out, r->sb[0]);
        if (n > 0 && p[2].revents)
            drain(&r->errors, r->sb[1]);
        if (!alive && (n == 0 || (!p[1].revents && !p[2].revents) || clock_boot_ms() >= end))
            return 0;
        if (n > 0 && p[3].revents) {
            if (spawn_wait(r->pidfd, 0, ret) == 0)
                alive = false;
            else if (errno != ETIMEDOUT)
                return -1;
        }
    }
}

int spawn_run(const struct spawn *s, const char *input, size_t input_len, struct strbuf *out,
              struct strbuf *errors, int64_t time_out_ms, struct exit_status *ret,
              struct error *err) {
    cleanup_close int in0 = -1;
    cleanup_close int in1 = -1;
    cleanup_close int out0 = -1;
    cleanup_close int out1 = -1;
    cleanup_close int err0 = -1;
    cleanup_close int err1 = -1;
    int pipes[3][2];
    for (int i = 0; i < 3; i++)
        if (pipe2(pipes[i], O_CLOEXEC) < 0) {
            int why = errno;
            while (i-- > 0) {
                (void)close(pipes[i][0]);
                (void)close(pipes[i][1]);
            }
            return error_errno(err, why, "pipe");
        }
    in0 = pipes[0][0], in1 = pipes[0][1], out0 = pipes[1][0], out1 = pipes[1][1],
    err0 = pipes[2][0], err1 = pipes[2][1];
    (void)fcntl(in1, F_SETFL, O_NONBLOCK); // fresh pipes take flags
    struct spawn own = *s;
    own.stdio[0] = in0;
    own.stdio[1] = out1;
    own.stdio[2] = err1;
    own.flags |= SPAWN_NEW_GROUP;
    pid_t pid;
    int pidfd;
    if (spawn_start(&own, &pid, &pidfd, err) < 0)
        return -1;
    cleanup_close int held = pidfd;
    (void)close(TAKE_FD(in0));
    (void)close(TAKE_FD(out1));
    (void)close(TAKE_FD(err1));
    struct running r = {.in = TAKE_FD(in1),
                        .out = TAKE_FD(out0),
                        .errors = TAKE_FD(err0),
                        .pidfd = pidfd,
                        .input = input ? input : "",
                        .input_len = input_len,
                        .sb = {out, errors}};
    if (!input_len)
        feed(&r);
    int result = exchange_all(&r, time_out_ms < 0 ? INT64_MAX : clock_boot_ms() + time_out_ms, ret),
        why = errno;
    in1 = r.in;
    out0 = r.out;
    err0 = r.errors;
    if (result < 0) {
        (void)kill(-pid, SIGKILL); // the group may be gone
        (void)spawn_wait(pidfd, -1, ret);
        return error_set(err, why, "%s: %s", s->file ? s->file : s->argv[0],
                         why == ETIMEDOUT ? "timed out" : strerrordesc_np(why));
    }
    return 0;
}
