#include "server/runtime/rules.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { QUIET_MS = 20, EVENTS_MAX = 65536, DRAIN_MAX = 1000 };

struct rule_watch {
    int period_ms;
    void (*changed)(bool period, void *arg);
    void *arg;
    int events, end;
    pthread_t thread;
    char ignored[EVENTS_MAX];
};

// Reads away what has come; a change of rules comes as many messages, also our own.
static void drain(struct rule_watch *w) {
    struct pollfd p = {.fd = w->events, .events = POLLIN};
    for (unsigned i = 0; i < DRAIN_MAX && poll(&p, 1, QUIET_MS) == 1; i++)
        if (recv(w->events, w->ignored, sizeof w->ignored, MSG_DONTWAIT) < 0 && errno != ENOBUFS &&
            errno != EINTR)
            return;
}

static void *run(void *arg) {
    struct rule_watch *w = arg;
    for (;;) {
        struct pollfd p[2] = {{.fd = w->end, .events = POLLIN},
                              {.fd = w->events, .events = POLLIN}};
        int n = poll(p, 2, w->period_ms ? w->period_ms : -1);
        if (n < 0 && errno != EINTR)
            return NULL; // cannot happen: both are ours
        if (p[0].revents)
            return NULL;
        if (n > 0)
            drain(w);
        w->changed(n == 0, w->arg);
    }
}

static int subscribe(void) {
    struct sockaddr_nl a = {.nl_family = AF_NETLINK};
    int group = NFNLGRP_NFTABLES;
    cleanup_close int fd =
        socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) ||
        setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
        return -1;
    return TAKE_FD(fd);
}

struct rule_watch *rule_watch_new(int period_ms, void (*changed)(bool period, void *arg), void *arg,
                                  struct error *err) {
    struct rule_watch *w = calloc(1, sizeof *w);
    if (!w)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    w->period_ms = period_ms;
    w->changed = changed;
    w->arg = arg;
    w->events = subscribe();
    w->end = eventfd(0, EFD_CLOEXEC);
    int r = w->events < 0 || w->end < 0 ? errno : pthread_create(&w->thread, NULL, run, w);
    if (!r)
        return w;
    (void)error_errno(err, r, "watch of the firewall rules");
    if (w->events >= 0)
        (void)close(w->events);
    if (w->end >= 0)
        (void)close(w->end);
    free(w);
    return NULL;
}

void rule_watch_free(struct rule_watch *w) {
    if (!w)
        return;
    (void)eventfd_write(w->end, 1);
    (void)pthread_join(w->thread, NULL);
    (void)close(w->events);
    (void)close(w->end);
    free(w);
}
