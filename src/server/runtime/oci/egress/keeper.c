#include "server/runtime/oci/egress/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "io/lookout.h"

struct kept {
    char id[SANDBOX_ID_SIZE];
    int dir, net, pidfd; // pidfd -1: none lives
    int64_t started_ms, wait_ms, due_ms;
};

struct keeper {
    const struct egress_program *program;
    struct lookout *lookout;
    pthread_mutex_t lock; // guards what follows
    struct map all;
    int64_t next_ms; // when the first one is due; INT64_MAX: none is
};

static void close_kept(struct kept *e) {
    (void)close(e->dir);
    (void)close(e->net);
    if (e->pidfd >= 0)
        (void)close(e->pidfd);
    free(e);
}

static int watch_process(struct keeper *k, struct kept *e) {
    e->started_ms = clock_boot_ms();
    return lookout_add(k->lookout, e->pidfd);
}

static void plan(struct kept *e) {
    bool stable = clock_boot_ms() - e->started_ms >= KEEPER_STABLE_MS;
    e->wait_ms = stable || !e->wait_ms ? KEEPER_FIRST_MS : e->wait_ms * 2;
    if (e->wait_ms > KEEPER_LAST_MS)
        e->wait_ms = KEEPER_LAST_MS;
    e->due_ms = clock_boot_ms() + e->wait_ms;
}

static void bury(struct keeper *k, struct kept *e) {
    siginfo_t info = {.si_pid = 0};
    struct error err;
    lookout_remove(k->lookout, e->pidfd);
    (void)waitid(P_PIDFD, (id_t)e->pidfd, &info, WEXITED | WNOHANG);
    plan(e);
    log_warning("sandbox %s: its egress ended (%s %d); it stays closed, another one starts in %lld "
                "ms",
                e->id, info.si_code == CLD_EXITED ? "status" : "signal", info.si_status,
                (long long)e->wait_ms);
    if (egress_end(k->program, e->id, TAKE_FD(e->pidfd), &err) < 0)
        log_warning("%s", err.message); // the next start meets the same
}

static void start_again(struct keeper *k, struct kept *e) {
    struct error err;
    if (egress_start(k->program, e->id, e->dir, e->net, &e->pidfd, &err) == 0 &&
        watch_process(k, e) == 0)
        return;
    if (e->pidfd >= 0) { // not watched: no use
        (void)egress_end(k->program, e->id, TAKE_FD(e->pidfd), &err);
        (void)error_set(&err, ENOSPC, "it cannot be watched");
    }
    log_warning("sandbox %s: egress: %s", e->id, err.message);
    plan(e);
}

static bool look_at(const char *id, void *value, void *arg) {
    struct keeper *k = arg;
    struct kept *e = value;
    struct pollfd ended = {.fd = e->pidfd, .events = POLLIN};
    (void)id;
    if (e->pidfd >= 0 && poll(&ended, 1, 0) == 1)
        bury(k, e);
    if (e->pidfd < 0 && clock_boot_ms() >= e->due_ms)
        start_again(k, e);
    if (e->pidfd < 0 && e->due_ms < k->next_ms)
        k->next_ms = e->due_ms;
    return true;
}

static int look(bool late, void *arg) {
    struct keeper *k = arg;
    (void)late;
    (void)pthread_mutex_lock(&k->lock);
    k->next_ms = INT64_MAX;
    map_each(&k->all, look_at, k);
    int64_t left = k->next_ms - clock_boot_ms();
    int wait = k->next_ms == INT64_MAX ? -1 : left > 0 ? (int)left : 0;
    (void)pthread_mutex_unlock(&k->lock);
    return wait;
}

struct keeper *keeper_new(const struct egress_program *program, struct error *err) {
    struct keeper *k = calloc(1, sizeof *k);
    if (!k)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    k->program = program;
    (void)pthread_mutex_init(&k->lock, NULL);
    map_init(&k->all);
    if ((k->lookout = lookout_new("keeper of egress", -1, look, k, err)))
        return k;
    keeper_free(k);
    return NULL;
}

static bool free_kept(const char *id, void *value, void *arg) {
    (void)id;
    (void)arg;
    close_kept(value);
    return true;
}

void keeper_free(struct keeper *k) {
    if (!k)
        return;
    lookout_free(k->lookout);
    map_each(&k->all, free_kept, NULL);
    map_clear(&k->all);
    (void)pthread_mutex_destroy(&k->lock);
    free(k);
}

int keeper_add(struct keeper *k, const char *id, int dir, int net_fd, int pidfd,
               struct error *err) {
    struct kept *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, ENOMEM, "out of memory");
    (void)snprintf(e->id, sizeof e->id, "%s", id);
    e->pidfd = -1;
    e->dir = fcntl(dir, F_DUPFD_CLOEXEC, 0);
    e->net = fcntl(net_fd, F_DUPFD_CLOEXEC, 0);
    int r = e->dir < 0 || e->net < 0 ? errno : 0;
    (void)pthread_mutex_lock(&k->lock);
    if (!r && map_put(&k->all, id, e) < 0)
        r = ENOMEM;
    if (!r) {
        e->pidfd = pidfd;
        if (pidfd >= 0 && watch_process(k, e) < 0) {
            r = errno;
            e->pidfd = -1;
            (void)map_remove(&k->all, id);
        }
    }
    (void)pthread_mutex_unlock(&k->lock);
    if (!r) {
        lookout_wake(k->lookout); // it may have ended before it was watched
        return 0;
    }
    close_kept(e);
    return error_errno(err, r, "egress of the sandbox");
}

int keeper_remove(struct keeper *k, const char *id) {
    (void)pthread_mutex_lock(&k->lock);
    struct kept *e = map_remove(&k->all, id);
    int pidfd = e ? TAKE_FD(e->pidfd) : -1;
    if (pidfd >= 0)
        lookout_remove(k->lookout, pidfd);
    (void)pthread_mutex_unlock(&k->lock);
    if (e)
        close_kept(e);
    return pidfd;
}
