#include "server/runtime/oci/egress/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"

enum { EVENTS = 16 };

struct kept {
    char id[SANDBOX_ID_SIZE];
    int dir, net, pidfd; // pidfd -1: none lives
    int64_t started_ms, wait_ms, due_ms;
};

struct keeper {
    const struct egress_program *program;
    pthread_t thread;
    pthread_mutex_t lock; // guards what follows
    int epoll, wake;
    bool ending;
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
    struct epoll_event event = {.events = EPOLLIN};
    e->started_ms = clock_boot_ms();
    return epoll_ctl(k->epoll, EPOLL_CTL_ADD, e->pidfd, &event);
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
    (void)epoll_ctl(k->epoll, EPOLL_CTL_DEL, e->pidfd, NULL);
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

static void *run(void *arg) {
    struct keeper *k = arg;
    for (int wait = -1;;) {
        struct epoll_event events[EVENTS];
        eventfd_t ignored;
        int n = epoll_wait(k->epoll, events, EVENTS, wait);
        if (n < 0 && errno != EINTR)
            return NULL; // our own descriptor: cannot happen
        (void)pthread_mutex_lock(&k->lock);
        (void)eventfd_read(k->wake, &ignored);
        bool ending = k->ending;
        k->next_ms = INT64_MAX;
        if (!ending)
            map_each(&k->all, look_at, k);
        int64_t left = k->next_ms - clock_boot_ms();
        wait = k->next_ms == INT64_MAX ? -1 : left > 0 ? (int)left : 0;
        (void)pthread_mutex_unlock(&k->lock);
        if (ending)
            return NULL;
    }
}

struct keeper *keeper_new(const struct egress_program *program, struct error *err) {
    struct keeper *k = calloc(1, sizeof *k);
    if (!k)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    struct epoll_event e = {.events = EPOLLIN};
    k->program = program;
    (void)pthread_mutex_init(&k->lock, NULL);
    map_init(&k->all);
    k->epoll = epoll_create1(EPOLL_CLOEXEC);
    k->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r =
        k->epoll < 0 || k->wake < 0 || epoll_ctl(k->epoll, EPOLL_CTL_ADD, k->wake, &e) ? errno : 0;
    if (!r)
        r = pthread_create(&k->thread, NULL, run, k);
    if (!r)
        return k;
    (void)error_errno(err, r, "keeper of egress");
    if (k->epoll >= 0)
        (void)close(k->epoll);
    if (k->wake >= 0)
        (void)close(k->wake);
    free(k);
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
    (void)pthread_mutex_lock(&k->lock);
    k->ending = true;
    (void)pthread_mutex_unlock(&k->lock);
    (void)eventfd_write(k->wake, 1);
    (void)pthread_join(k->thread, NULL);
    map_each(&k->all, free_kept, NULL);
    map_clear(&k->all);
    (void)close(k->epoll);
    (void)close(k->wake);
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
        (void)eventfd_write(k->wake, 1); // it may have ended before it was watched
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
        (void)epoll_ctl(k->epoll, EPOLL_CTL_DEL, pidfd, NULL);
    (void)pthread_mutex_unlock(&k->lock);
    if (e)
        close_kept(e);
    return pidfd;
}
