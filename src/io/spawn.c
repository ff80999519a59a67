#include "io/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

enum {
    STACK = 64 * 1024,
    AWAY = 3 + SPAWN_PASS_MAX // descriptors are first moved behind the last that a child can get
};

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

static int limit_descriptors(uint64_t soft) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return -1;
    limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

// Raw calls: glibc's wrappers would change the ids of our own threads too (signals to all of them).
static int set_user(struct launch *l) {
    const struct spawn *s = l->s;
    if (syscall(SYS_setgroups, s->group_count, s->groups) < 0)
        return fail(l, "setgroups");
    if (syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0)
        return fail(l, "setgid");
    if (syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0)
        return fail(l, "setuid");
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
    if (s->nofile_soft && limit_descriptors(s->nofile_soft) < 0)
        return fail(l, "descriptor limit");
    if (s->cwd && chdir(s->cwd))
        return fail(l, "working directory");
    if (s->flags & SPAWN_SET_USER && set_user(l) < 0)
        return -1;
    if (s->flags & SPAWN_DIE_WITH_US && prctl(PR_SET_PDEATHSIG, SIGKILL)) // a new user clears it
        return fail(l, "prctl");
    return 0;
}

static void default_signals(void) {
    // The kernel's own call: the C library's leaves out the two signals that it uses itself, and
    // they may have been ignored by whoever started us. SIGKILL and SIGSTOP fail, they have no
    // handlers.
    static const unsigned long plain[4]; // handler SIG_DFL, flags, restorer, mask: all zero
    sigset_t none;
    for (int i = 1; i < NSIG; i++)
        (void)syscall(SYS_rt_sigaction, i, plain, NULL, sizeof(unsigned long));
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

// ---- kernels without pidfds (gVisor) ----

struct stand_in {
    pid_t pid;
    int fd;
};

static void *await_end(void *arg) {
    struct stand_in s = *(struct stand_in *)arg;
    siginfo_t info;
    free(arg);
    while (waitid(P_PID, (id_t)s.pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    (void)fd_write_all(s.fd, &s.pid, sizeof s.pid); // fits into an empty pipe
    (void)close(s.fd);
    return NULL;
}

// The end of a pipe that becomes readable when the child has ended, as a pidfd would: a thread
// waits for it. -1: errno.
static int stand_in_new(pid_t pid) {
    int fds[2];
    pthread_t thread;
    pthread_attr_t attr;
    struct stand_in *s = calloc(1, sizeof *s);
    if (!s || pipe2(fds, O_CLOEXEC) < 0) {
        free(s);
        return -1;
    }
    *s = (struct stand_in){.pid = pid, .fd = fds[1]};
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, STACK);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(&thread, &attr, await_end, s);
    (void)pthread_attr_destroy(&attr);
    if (!r)
        return fds[0];
    (void)close(fds[0]);
    (void)close(fds[1]);
    free(s);
    errno = r;
    return -1;
}

static int stand_in_wait(int fd, int64_t time_out_ms, struct exit_status *ret) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    siginfo_t info = {0};
    struct stat st;
    pid_t pid;
    if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode)) {
        errno = EBADF;
        return -1;
    }
    int n = poll(&p, 1, time_out_ms < 0 || time_out_ms > INT32_MAX ? -1 : (int)time_out_ms);
    if (n <= 0) {
        errno = n ? errno : ETIMEDOUT;
        return -1;
    }
    if (read(fd, &pid, sizeof pid) != sizeof pid || waitid(P_PID, (id_t)pid, &info, WEXITED) < 0) {
        errno = ECHILD;
        return -1;
    }
    *ret = (struct exit_status){.code = -1};
    *(info.si_code == CLD_EXITED ? &ret->code : &ret->signal) = info.si_status;
    return 0;
}

// ---- start and end ----

int spawn_start(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd, struct error *err) {
    struct launch l = {.s = s, .exec_fd = s->exec_fd};
    sigset_t all, old;
    int pidfd = -1;
    const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK;
    // cppcheck-suppress invalidFunctionArg ; -1 is what MAP_ANONYMOUS asks for
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, kind, -1, 0);
    if (stack == MAP_FAILED)
        return error_errno(err, errno, "spawn");
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all,
                    &old); // no handler of ours may run in the child, on our memory
    pid_t pid =
        clone(child_main, stack + STACK,
              (int)(CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | s->clone_flags), &l, &pidfd);
    if (pid > 0 && pidfd < 0 && !l.step)
        pidfd = stand_in_new(pid);
    int why = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)munmap(stack, STACK);
    if (pid < 0)
        return error_errno(err, why, "spawn");
    if (l.step || pidfd < 0) {
        (void)kill(pid, SIGKILL); // with a step it is dead already
        (void)waitpid(pid, NULL, 0);
        if (pidfd >= 0)
            (void)close(pidfd);
        return error_errno(err, l.step ? l.error : why, "%s", l.step ? l.step : "watch a child");
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
            return errno == EBADF || errno == EINVAL ? stand_in_wait(pidfd, time_out_ms, ret) : -1;
        }
        if (info.si_pid) {
            *ret = (struct exit_status){.code = -1};
            *(info.si_code == CLD_EXITED ? &ret->code : &ret->signal) = info.si_status;
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

enum { IN, OUT, ERRORS }; // the child's descriptors, and their pipes

struct running {
    int pipe[3][2];
    int pidfd;
    const char *input;
    size_t input_len;
    struct strbuf *sb[3];
};

static void close_end(int *fd) {
    if (*fd >= 0)
        (void)close(*fd); // pipes hold nothing that a close could lose
    *fd = -1;
}

static void running_clear(struct running *r) {
    for (int i = 0; i < 3; i++) {
        close_end(&r->pipe[i][0]);
        close_end(&r->pipe[i][1]);
    }
    close_end(&r->pidfd);
}

// Reads once from a pipe into sb, dropping what does not fit. Closes at the end.
static void drain(int *fd, struct strbuf *sb) {
    char piece[16 * 1024];
    ssize_t n = read(*fd, piece, sizeof piece);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        close_end(fd);
        return;
    }
    if (sb) {
        size_t room = sb->max - sb->len;
        (void)strbuf_add(sb, piece, (size_t)n < room ? (size_t)n : room); // `failed` tells
    }
}

static void feed(struct running *r) {
    ssize_t n = write(r->pipe[IN][1], r->input, r->input_len);
    if (n > 0) {
        r->input += n;
        r->input_len -= (size_t)n;
    }
    if (!r->input_len || (n < 0 && errno != EINTR && errno != EAGAIN))
        close_end(&r->pipe[IN][1]);
}

// Waits for one event and moves what is ready. Returns whether output came, or ended.
static bool serve(struct running *r, bool alive, int64_t wait_ms, bool *ret_exit) {
    struct pollfd p[] = {{.fd = r->pipe[IN][1], .events = POLLOUT},
                         {.fd = r->pipe[OUT][0], .events = POLLIN},
                         {.fd = r->pipe[ERRORS][0], .events = POLLIN},
                         {.fd = alive ? r->pidfd : -1, .events = POLLIN}};
    *ret_exit = false;
    if (poll(p, ARRAY_SIZE(p), wait_ms > INT32_MAX ? INT32_MAX : (int)wait_ms) <= 0)
        return false;
    if (p[IN].revents)
        feed(r);
    for (int i = OUT; i <= ERRORS; i++)
        if (p[i].revents)
            drain(&r->pipe[i][0], r->sb[i]);
    *ret_exit = p[3].revents;
    return p[OUT].revents || p[ERRORS].revents;
}

// Until the child has ended and its pipes are empty; grandchildren may hold them open for ever. -1
// with ETIMEDOUT while it lives.
static int exchange_all(struct running *r, int64_t end, struct exit_status *ret) {
    for (bool alive = true, ended;;) {
        int64_t left = end - clock_boot_ms();
        if (left <= 0 && !alive)
            return 0;
        if (left <= 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        bool output = serve(r, alive, alive ? left : 0, &ended);
        if (!alive && !output)
            return 0;
        if (ended && spawn_wait(r->pidfd, 0, ret) == 0)
            alive = false;
        else if (ended && errno != ETIMEDOUT)
            return -1;
    }
}

int spawn_run(const struct spawn *s, const char *input, size_t input_len, struct strbuf *out,
              struct strbuf *errors, int64_t time_out_ms, struct exit_status *ret,
              struct error *err) {
    cleanup(running_clear) struct running r = {.pipe = {{-1, -1}, {-1, -1}, {-1, -1}},
                                               .pidfd = -1,
                                               .input = input ? input : "",
                                               .input_len = input_len,
                                               .sb = {NULL, out, errors}};
    struct spawn own = *s;
    pid_t pid;
    for (int i = 0; i < 3; i++) {
        if (pipe2(r.pipe[i], O_CLOEXEC) < 0)
            return error_errno(err, errno, "pipe");
        own.stdio[i] = r.pipe[i][i != IN];
    }
    (void)fcntl(r.pipe[IN][1], F_SETFL, O_NONBLOCK); // fresh pipes take flags
    own.flags |= SPAWN_NEW_GROUP;
    if (spawn_start(&own, &pid, &r.pidfd, err) < 0)
        return -1;
    for (int i = 0; i < 3; i++)
        close_end(&r.pipe[i][i != IN]);
    if (!input_len)
        feed(&r);
    if (exchange_all(&r, time_out_ms < 0 ? INT64_MAX : clock_boot_ms() + time_out_ms, ret) == 0)
        return 0;
    int why = errno;
    (void)kill(-pid, SIGKILL); // the group may be gone
    (void)spawn_wait(r.pidfd, -1, ret);
    return error_set(err, why, "%s: %s", s->file ? s->file : s->argv[0],
                     why == ETIMEDOUT ? "timed out" : strerrordesc_np(why));
}
