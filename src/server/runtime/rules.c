#include "server/runtime/rules.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "io/lookout.h"

enum { QUIET_MS = 20, EVENTS_MAX = 65536, DRAIN_MAX = 1000 };

struct rule_watch {
    int period_ms;
    void (*changed)(bool period, void *arg);
    void *arg;
    int events;
    struct lookout *lookout;
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

static int look(bool late, void *arg) {
    struct rule_watch *w = arg;
    if (!late)
        drain(w);
    w->changed(late, w->arg);
    return w->period_ms ? w->period_ms : -1;
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
    static const char what[] = "watch of the firewall rules";
    struct rule_watch *w = calloc(1, sizeof *w);
    if (!w)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    w->period_ms = period_ms;
    w->changed = changed;
    w->arg = arg;
    w->events = subscribe();
    if (w->events >= 0)
        w->lookout = lookout_new(what, period_ms ? period_ms : -1, look, w, err);
    if (w->lookout && lookout_add(w->lookout, w->events) == 0)
        return w;
    if (w->events < 0 || w->lookout)
        (void)error_errno(err, errno, "%s", what);
    rule_watch_free(w);
    return NULL;
}

void rule_watch_free(struct rule_watch *w) {
    if (!w)
        return;
    lookout_free(w->lookout);
    if (w->events >= 0)
        (void)close(w->events);
    free(w);
}
