#include "egress/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/random.h"
#include "fmt/json.h"
#include "io/spawn.h"

enum {
    BACKOFF_MIN_MS = 1000,
    BACKOFF_MAX_MS = 30000,
    STABLE_MS = 60000,
    BURST_MAX = 10,
    BURST_WINDOW_MS = 300000,
    GRACE_MS = 20000
};

struct supervisor {
    const char *self;
    pid_t pid; // 0: none runs
    unsigned attempt;
    int64_t started_ms, backoff_ms;
    int64_t launches[BURST_MAX]; // ring
    bool stopping;
    sigset_t signals;
};

static void tell(const struct supervisor *s, const char *event, json_t *fields) {
    char ts[CLOCK_TEXT_MAX];
    cleanup_json json_t *owned = fields;
    cleanup_strbuf struct strbuf line;
    clock_format(clock_wall_us(), ts);
    cleanup_json json_t *j = json_pack("{s:s,s:s,s:s,s:i,s:i}", "ts", ts, "name", "egress", "event",
                                       event, "pid", (int)s->pid, "attempt", (int)s->attempt);
    strbuf_init(&line, 4096);
    if (j && (!owned || !json_object_update(j, owned)) && !json_write(j, &line) &&
        !strbuf_addc(&line, '\n'))
        (void)fd_write_all(2, line.data, line.len);
}

static int launch(struct supervisor *s) {
    extern char **environ;
    char *argv[] = {(char *)s->self, "worker", NULL};
    struct error err;
    int pidfd;
    struct spawn spawn = {.argv = argv,
                          .envp = environ,
                          .stdio = {-1, 1, 2},
                          .exec_fd = -1,
                          .flags = SPAWN_NEW_GROUP | SPAWN_DIE_WITH_US};
    // the socket of the API, when one was handed to us
    for (int fd = 3; fd < 3 + SPAWN_PASS_MAX && fcntl(fd, F_GETFD) >= 0; fd++)
        spawn.pass[spawn.pass_count++] = fd;
    s->launches[s->attempt++ % BURST_MAX] = s->started_ms = clock_boot_ms();
    if (spawn_start(&spawn, &s->pid, &pidfd, &err) < 0) {
        s->pid = 0;
        tell(s, "exit", json_pack("{s:s,s:s}", "reason", "launch_failed", "error", err.message));
        return -1;
    }
    (void)close(pidfd); // waited for by number
    tell(s, "start", NULL);
    return 0;
}

// Waits for a signal; -1 at the end of the time.
static int next_signal(const struct supervisor *s, int64_t ms) {
    struct timespec limit = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    int number;
    do
        number = ms < 0 ? sigwaitinfo(&s->signals, NULL) : sigtimedwait(&s->signals, NULL, &limit);
    while (number < 0 && errno == EINTR);
    return number;
}

// Reaps everybody (we may be PID 1); true when the worker was among them.
static bool reap(struct supervisor *s, int *ret_status) {
    int status;
    bool found = false;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == s->pid) {
            *ret_status = status;
            found = true;
        }
    return found;
}

static void stop(struct supervisor *s) {
    int status;
    int64_t until = clock_boot_ms() + GRACE_MS;
    tell(s, "shutdown", NULL);
    if (!s->pid)
        return;
    (void)kill(s->pid, SIGTERM);
    while (!reap(s, &status)) {
        int64_t left = until - clock_boot_ms();
        if (left <= 0) {
            (void)kill(-s->pid, SIGKILL);
            (void)waitpid(s->pid, &status, 0);
            return;
        }
        (void)next_signal(s, left);
    }
}

// Waits for the worker's end. False: we were told to stop.
static bool watch(struct supervisor *s, int *ret_status) {
    while (!reap(s, ret_status)) {
        int number = next_signal(s, -1);
        if (number == SIGTERM || number == SIGINT)
            return false;
    }
    int code = WIFEXITED(*ret_status) ? WEXITSTATUS(*ret_status) : -1;
    int number = WIFSIGNALED(*ret_status) ? WTERMSIG(*ret_status) : 0;
    tell(s, "exit",
         json_pack("{s:s,s:i,s:i,s:I}", "reason",
                   number ? "signaled"
                   : code ? "crashed"
                          : "exited",
                   "exit_code", code, "signal", number, "duration_ms",
                   (json_int_t)(clock_boot_ms() - s->started_ms)));
    s->pid = 0;
    return true;
}

// False: told to stop meanwhile.
static bool pause_before_next(struct supervisor *s) {
    uint8_t random;
    random_bytes(&random, 1);
    if (clock_boot_ms() - s->started_ms >= STABLE_MS)
        s->backoff_ms = 0;
    s->backoff_ms = s->backoff_ms ? s->backoff_ms * 2 : BACKOFF_MIN_MS;
    s->backoff_ms = s->backoff_ms > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : s->backoff_ms;
    int64_t ms = s->backoff_ms + s->backoff_ms * ((int64_t)random - 128) / 1280; // a tenth
    int64_t until = clock_boot_ms() + ms;
    tell(s, "backoff", json_pack("{s:I}", "sleep_ms", (json_int_t)ms));
    for (int64_t left; (left = until - clock_boot_ms()) > 0;) {
        int number = next_signal(s, left), status;
        if (number == SIGTERM || number == SIGINT)
            return false;
        (void)reap(s, &status);
    }
    return true;
}

static bool is_burst(const struct supervisor *s) {
    return s->attempt >= BURST_MAX &&
           clock_boot_ms() - s->launches[s->attempt % BURST_MAX] < BURST_WINDOW_MS;
}

int supervisor_run(const char *self) {
    struct supervisor s = {.self = self};
    sigemptyset(&s.signals);
    sigaddset(&s.signals, SIGTERM);
    sigaddset(&s.signals, SIGINT);
    sigaddset(&s.signals, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &s.signals, NULL);
    for (;;) {
        int status = 0;
        if (!launch(&s) && !watch(&s, &status)) {
            stop(&s);
            return SUPERVISOR_OK;
        }
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
        if (code == SUPERVISOR_SETUP || code == SUPERVISOR_NO_RIGHT)
            return code;
        if (is_burst(&s)) {
            tell(&s, "burst_exit", json_pack("{s:i}", "attempts", (int)s.attempt));
            return SUPERVISOR_BURST;
        }
        if (!pause_before_next(&s)) {
            stop(&s);
            return SUPERVISOR_OK;
        }
    }
}
