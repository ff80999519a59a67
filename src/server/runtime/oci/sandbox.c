#include "server/runtime/oci/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/path.h"
#include "fmt/json.h"
#include "server/errors.h"
#include "server/runtime/inside.h"
#include "server/runtime/oci/exit.h"
#include "server/runtime/oci/volume/named.h"

enum {
    KILL_WAIT_MS = 10000,
    DIAL_WAIT_MS = 2000,
    STAT_START_FIELD = 22,
    SEND_BYTES = 1024 * 1024 // on their way to an execd: fewer turns of its loop for an upload
};

// ---- the table ----

struct box *box_new(const char *id) {
    struct box *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    (void)snprintf(b->id, sizeof b->id, "%s", id);
    b->dir = b->pidfd = b->egress = -1;
    b->named = true;
    b->net = (struct network_entry){.net_fd = -1, .user_fd = -1};
    return b;
}

void box_free(struct box *b) {
    if (!b)
        return;
    if (b->dir >= 0)
        (void)close(b->dir);
    if (b->pidfd >= 0)
        (void)close(b->pidfd);
    if (b->egress >= 0)
        (void)close(b->egress);
    free(b->base);
    free(b);
}

struct box *box_find(struct oci *o, const char *id) {
    (void)pthread_mutex_lock(&o->lock);
    struct box *b = map_get(&o->boxes, id);
    (void)pthread_mutex_unlock(&o->lock);
    return b;
}

int box_put(struct oci *o, struct box *b, struct error *err) {
    (void)pthread_mutex_lock(&o->lock);
    int r = map_get(&o->boxes, b->id) ? EEXIST : map_put(&o->boxes, b->id, b) ? ENOMEM : 0;
    (void)pthread_mutex_unlock(&o->lock);
    return r ? error_errno(err, r, "sandbox %s", b->id) : 0;
}

struct box *box_take(struct oci *o, const char *id) {
    (void)pthread_mutex_lock(&o->lock);
    struct box *b = map_remove(&o->boxes, id);
    (void)pthread_mutex_unlock(&o->lock);
    return b;
}

static struct box *need(struct oci *o, const char *id, struct error *err) {
    struct box *b = box_find(o, id);
    if (!b)
        (void)error_server(err, ERR_R_SANDBOX_NOT_FOUND, "no sandbox %s", id);
    return b;
}

uint64_t process_start_time(pid_t pid) {
    char name[32], text[1024];
    struct error ignored;
    uint64_t start = 0;
    (void)snprintf(name, sizeof name, "/proc/%d/stat", pid);
    if (fd_read_text(AT_FDCWD, name, text, sizeof text, &ignored))
        return 0;
    char *p = strrchr(text, ')'); // the name before it may hold anything; field 3 follows
    for (int field = 2; p && field < STAT_START_FIELD; field++)
        if ((p = strchr(p, ' ')))
            p++;
    if (p)
        (void)parse_u64n(p, strspn(p, "0123456789"), 1, UINT64_MAX, &start);
    return start;
}

// ---- ends ----

static bool has_ended(int pidfd) {
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

// SIGKILL to the first process takes its whole PID namespace with it. Then the thaw: frozen tasks
// ignore signals on v1.
static int kill_box(struct oci *o, struct box *b, struct error *err) {
    struct error ignored;
    if (b->pidfd < 0)
        return 0;
    struct pollfd p = {.fd = b->pidfd, .events = POLLIN};
    (void)pidfd_send_signal(b->pidfd, SIGKILL, NULL, 0); // ESRCH: it is dead already
    if (poll(&p, 1, 0) == 0 && cgroup_frozen(&o->cgroups, b->id))
        (void)cgroup_thaw(&o->cgroups, b->id, &ignored);
    int64_t end = clock_boot_ms() + KILL_WAIT_MS;
    for (int r; (r = poll(&p, 1, (int)(end - clock_boot_ms()))) != 1;)
        if (r == 0 || errno != EINTR || clock_boot_ms() >= end)
            return error_set(err, EBUSY,
                             "process %d of the sandbox survives SIGKILL; it waits in the kernel",
                             b->pid);
    return 0;
}

// The status of an ended first process, from whoever reaped it.
static int take_status(struct oci *o, struct box *b) {
    siginfo_t info = {.si_pid = 0};
    int status = watch_remove(o->watch, b->id);
    if (status != WATCH_STATUS_ALIVE && status != WATCH_STATUS_UNKNOWN)
        return status;
    if (b->pidfd < 0 || waitid(P_PIDFD, (id_t)b->pidfd, &info, WEXITED | WNOHANG) || !info.si_pid)
        return EXIT_STATUS_UNKNOWN;
    return info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status & 0x7f;
}

static bool oom_rose(struct oci *o, const char *id) {
    uint64_t kills = 0;
    return !cgroup_oom_kills(&o->cgroups, id, &kills) && kills > 0;
}

// After the last process of the sandbox, and before its network.
static int end_egress(struct oci *o, const char *id, struct box *b, struct error *err) {
    int pidfd = keeper_remove(o->keeper, id);
    if (pidfd < 0 && b)
        pidfd = TAKE_FD(b->egress);
    if (pidfd < 0 && b && b->dir >= 0 && !egress_is_prepared(b->dir))
        return 0; // as most: it never had one
    return egress_end(&o->egress, id, pidfd, err);
}

// Processes, control groups, the runtime's record, network: everything but the directory. box may
// be NULL (ruins).
static int tear_down(struct oci *o, const char *id, struct box *b, struct error *err) {
    if (b && kill_box(o, b, err))
        return -1;
    if (!b || b->pidfd < 0)
        (void)cgroup_kill(&o->cgroups, id); // no handle of it: by the group's members
    if (cgroup_remove(&o->cgroups, id, err) || end_egress(o, id, b, err))
        return -1;
    if (o->state >= 0 && path_remove_tree(o->state, id, err))
        return -1;
    if (b && b->has_net) {
        (void)pthread_mutex_lock(&o->lock); // dial duplicates these under the lock
        struct network_entry net = b->net;
        b->net.net_fd = b->net.user_fd = -1;
        b->has_net = false;
        (void)pthread_mutex_unlock(&o->lock);
        network_release(o->network, id, &net);
    }
    return 0;
}

static bool id_is_name(const char *id) {
    return *id && *id != '.' && !strchr(id, '/');
}

int sandbox_destroy(struct oci *o, const char *id, struct error *err) {
    struct box *b = box_find(o, id);
    if (!id_is_name(id))
        return 0;                     // never one of ours
    (void)watch_remove(o->watch, id); // nobody asks how it ends from here on
    if (tear_down(o, id, b, err))
        goto failed;
    if (b)
        (void)take_status(o, b); // reaps
    if (chores_discard(o->chores, o->sandboxes, id, err))
        goto failed;
    base_release(o, id);
    if (!b || b->named)
        named_release(o, id);
    box_free(box_take(o, id));
    return 0;
failed : {
    struct error cause = *err;
    (void)error_server(err, ERR_R_SANDBOX_DELETE_FAILED, "%s", cause.message);
    return -1;
}
}

// How it ended, kept before the counters go with the control group. What was kept already stands: a
// server was killed in the middle of this.
static int judge(struct oci *o, struct box *b, struct inspection *ret, struct error *err) {
    if (kill_box(o, b, err))
        return -1;
    int status = take_status(o, b);
    if (exit_load(b->dir, ret))
        return 0;
    exit_judge(b->dir, status, oom_rose(o, b->id), ret);
    return exit_save(b->dir, ret, err);
}

// What is left to be read is small; the writable layer and the image go.
static int discard_layer(struct oci *o, const char *id, struct error *err) {
    static const char *const names[] = {"upper", "work"};
    char path[SANDBOX_ID_SIZE + 8];
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", id, names[i]);
        if (chores_discard(o->chores, o->sandboxes, path, err))
            return -1;
    }
    base_release(o, id);
    return 0;
}

int sandbox_retire(struct oci *o, const char *id, struct error *err) {
    struct box *b = box_find(o, id); // NULL: ruins, and nothing is known of its end
    struct inspection end = {.exit_code = -1};
    if (b && b->retired)
        return 0;
    if ((b && judge(o, b, &end, err)) || tear_down(o, id, b, err) || discard_layer(o, id, err))
        return -1;
    if (!b)
        return 0;
    (void)pthread_mutex_lock(&o->lock);
    if (b->pidfd >= 0)
        (void)close(b->pidfd);
    b->pidfd = -1;
    b->end = end;
    b->retired = true;
    (void)pthread_mutex_unlock(&o->lock);
    return 0;
}

// ---- life ----

int sandbox_pause(struct oci *o, const char *id, struct error *err) {
    struct error cause;
    if (!need(o, id, err))
        return -1;
    return cgroup_freeze(&o->cgroups, id, &cause)
               ? error_server(err, ERR_R_SANDBOX_PAUSE_FAILED, "%s", cause.message)
               : 0;
}

int sandbox_resume(struct oci *o, const char *id, struct error *err) {
    struct error cause;
    if (!need(o, id, err))
        return -1;
    return cgroup_thaw(&o->cgroups, id, &cause)
               ? error_server(err, ERR_R_SANDBOX_RESUME_FAILED, "%s", cause.message)
               : 0;
}

int sandbox_inspect(struct oci *o, const char *id, struct inspection *ret, struct error *err) {
    struct box *b = need(o, id, err);
    if (!b)
        return -1;
    if (b->retired) {
        *ret = b->end;
    } else if (b->pidfd >= 0 && !has_ended(b->pidfd)) {
        *ret = (struct inspection){
            .alive = true, .exit_code = -1, .paused = cgroup_frozen(&o->cgroups, id)};
    } else if (!exit_load(b->dir, ret)) {
        int status = watch_status(o->watch, id);
        exit_judge(b->dir, status == WATCH_STATUS_ALIVE ? EXIT_STATUS_UNKNOWN : status,
                   oom_rose(o, id), ret);
    }
    return 0;
}

// ---- adoption ----

struct saved {
    pid_t pid;
    uint64_t started;
    const char *address; // of the parsed state
    const json_t *base;
};

static int read_state(const json_t *j, struct saved *s, struct error *err) {
    const json_t *pid = json_object_get(j, "pid"), *started = json_object_get(j, "started"),
                 *address = json_object_get(j, "address");
    if (!json_is_integer(pid) || !json_is_integer(started) || !json_is_string(address) ||
        json_integer_value(pid) < 2 || json_integer_value(pid) > INT32_MAX)
        return error_set(err, EINVAL, "the stored state of the sandbox is damaged");
    s->pid = (pid_t)json_integer_value(pid);
    s->started = (uint64_t)json_integer_value(started);
    s->address = json_string_value(address);
    s->base = json_object_get(j, "base");
    return 0;
}

// Whether the pid is still the process of then; opens it first and looks afterwards, so that it
// cannot change between.
static bool open_process(struct oci *o, struct box *b, const struct saved *s) {
    b->pidfd = pidfd_open(s->pid, 0);
    if (b->pidfd >= 0 && process_start_time(s->pid) == s->started &&
        cgroup_holds(&o->cgroups, b->id, s->pid)) {
        b->pid = s->pid;
        b->started = s->started;
        return true;
    }
    if (b->pidfd >= 0)
        (void)close(b->pidfd);
    b->pidfd = -1;
    return false;
}

static int adopt_living(struct oci *o, struct box *b, const struct saved *s, struct error *err) {
    char path[40];
    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", b->pid);
    b->net.net_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (b->net.net_fd < 0 ||
        has_ended(
            b->pidfd)) { // it ended this very moment; the descriptor may be another's namespace
        if (b->net.net_fd >= 0)
            (void)close(b->net.net_fd);
        b->net.net_fd = -1;
    }
    b->has_net = true;
    if (network_adopt(o->network, b->id, s->address, &b->net, err))
        return -1;
    // one that ended with the server that kept it is started again; until then the rules are there
    if (b->net.net_fd >= 0 && egress_is_prepared(b->dir)) {
        b->egress = egress_find(&o->egress, b->id, b->dir);
        if (keeper_add(o->keeper, b->id, b->dir, b->net.net_fd, b->egress, err))
            return -1;
        b->egress = -1;
    }
    return watch_add(o->watch, b->id, b->pidfd, err);
}

int sandbox_adopt(struct oci *o, const char *id, const char *state, struct inspection *ret,
                  struct error *err) {
    struct saved saved = {.pid = 0};
    struct error damage;
    cleanup_json json_t *j =
        state && *state ? json_parse(state, strlen(state), NULL, &damage) : NULL;
    struct box *b = box_new(id);
    if (!b)
        return error_set(err, ENOMEM, "out of memory");
    b->dir = openat(o->sandboxes, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (b->dir < 0 || read_state(j, &saved, &damage)) {
        // no directory, or one that was never announced as running: an end of which nothing is
        // known
        *ret = (struct inspection){.exit_code = -1};
        box_free(b);
        return 0;
    }
    b->named = !json_is_false(json_object_get(j, "named"));
    b->base = json_dumps(saved.base, JSON_COMPACT); // NULL: it cannot be kept as a snapshot
    if (box_put(o, b, err)) {
        box_free(b);
        return -1;
    }
    // It stays in the map when what follows fails: a retire or destroy finds all of it.
    if (exit_load(b->dir, ret)) {
        if (sandbox_retire(o, id, &damage)) // again: a server may have been killed in the middle
            log_warning("sandbox %s has ended, and not all of it goes: %s", id, damage.message);
    } else if (open_process(o, b, &saved)) {
        if (!unlinkat(b->dir, SNAPSHOT_FROZEN_FILE, 0) && cgroup_thaw(&o->cgroups, id, err))
            return -1;
        if (adopt_living(o, b, &saved, err))
            return -1;
    }
    return sandbox_inspect(o, id, ret, err);
}

// ---- reaching it ----

static int dial_execd(int dir, struct error *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/s", dir);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a,
                          sizeof a)) // EAGAIN: its backlog is full, the caller may try again
        return error_errno(err, errno, "execd of the sandbox");
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &(int){SEND_BYTES}, sizeof(int));
    return TAKE_FD(fd);
}

static int connect_inside(int net, uint32_t address, unsigned port, struct error *err) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = address};
    cleanup_close int fd = inside_socket(net, err);
    if (fd < 0)
        return -1;
    int failed = connect(fd, (struct sockaddr *)&a, sizeof a) ? errno : 0;
    if (failed == EINPROGRESS) { // local to the namespace: the answer is there at once unless the
                                 // listener's queue is full
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t len = sizeof failed;
        if (poll(&p, 1, DIAL_WAIT_MS) != 1)
            failed = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len))
            failed = errno;
    }
    return failed ? error_errno(err, failed, "port %u of the sandbox", port) : TAKE_FD(fd);
}

static int dup_or_minus(int fd) {
    return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static int dial_port(int net, uint32_t address, unsigned port, struct error *err) {
    struct error first; // the address is tried before the loopback; only the last refusal is told
    int fd = address ? connect_inside(net, address, port, &first) : -1;
    if (fd < 0) // services that listen on 127.0.0.1 only
        fd = connect_inside(net, htonl(INADDR_LOOPBACK), port, err);
    return fd;
}

int sandbox_dial(struct oci *o, const char *id, unsigned port, int *ret_fd, struct error *err) {
    (void)pthread_mutex_lock(&o->lock); // a dial may meet a destroy: what it uses is duplicated
    struct box *b = map_get(&o->boxes, id);
    bool usable = b && !b->retired, by_socket = port == EXECD_PORT || port == EGRESS_PORT;
    cleanup_close int dir = usable && by_socket ? dup_or_minus(b->dir) : -1;
    cleanup_close int net = usable && !by_socket ? dup_or_minus(b->net.net_fd) : -1;
    uint32_t address = usable ? b->net.address : 0;
    (void)pthread_mutex_unlock(&o->lock);
    if (dir < 0 && net < 0)
        return error_set(err, ENOTCONN, "sandbox %s does not run", id);
    int fd = port == EGRESS_PORT  ? egress_dial(dir, err)
             : port == EXECD_PORT ? dial_execd(dir, err)
                                  : dial_port(net, address, port, err);
    if (fd >= 0)
        *ret_fd = fd;
    return fd < 0 ? -1 : 0;
}
