#include "server/runtime/oci/net/guard.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

enum { LOOK_MS = 60000, QUIET_MS = 20, REPORT_MAX = 4096, EVENTS_MAX = 65536, DRAIN_MAX = 1000 };

struct guard {
    const struct firewall *firewall;
    bool repair;
    int events, end;
    char last_report[REPORT_MAX]; // told once
    pthread_t thread;
};

static void look_at_others(struct guard *g) {
    cleanup_strbuf struct strbuf report;
    struct error err;
    strbuf_init(&report, REPORT_MAX - 1);
    if (firewall_foreign(g->firewall, g->repair, &report, &err)) {
        log_debug("other firewalls: %s", err.message);
        return;
    }
    if (report.len && strcmp(report.data, g->last_report) != 0)
        log_warning("another firewall drops the packets of sandboxes; remedy: %s", report.data);
    (void)snprintf(g->last_report, sizeof g->last_report, "%s", report.data);
}

static void look_at_ours(const struct guard *g) {
    struct error err;
    if (firewall_intact(g->firewall))
        return;
    if (firewall_load(g->firewall, &err))
        log_error("somebody removed the firewall rules of sandboxes, and they cannot be loaded: %s",
                  err.message);
    else
        log_warning("somebody removed the firewall rules of sandboxes; they are loaded again");
}

// Reads away what has come; a change of rules comes as many messages, also our own.
static void drain(int fd) {
    static char ignored[EVENTS_MAX]; // one thread
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (unsigned i = 0; i < DRAIN_MAX && poll(&p, 1, QUIET_MS) == 1; i++)
        if (recv(fd, ignored, sizeof ignored, MSG_DONTWAIT) < 0 && errno != ENOBUFS &&
            errno != EINTR)
            return;
}

static void *run(void *arg) {
    struct guard *g = arg;
    for (;;) {
        struct pollfd p[2] = {{.fd = g->end, .events = POLLIN},
                              {.fd = g->events, .events = POLLIN}};
        int n = poll(p, 2, LOOK_MS);
        if (n < 0 && errno != EINTR)
            return NULL; // cannot happen: both are ours
        if (p[0].revents)
            return NULL;
        if (n > 0)
            drain(g->events);
        look_at_ours(g);
        if (n == 0)
            look_at_others(g);
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

struct guard *guard_new(const struct firewall *f, bool repair, struct error *err) {
    struct guard *g = calloc(1, sizeof *g);
    if (!g)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    *g = (struct guard){
        .firewall = f, .repair = repair, .events = subscribe(), .end = eventfd(0, EFD_CLOEXEC)};
    int r = g->events < 0 || g->end < 0 ? errno : 0;
    if (!r) {
        look_at_others(g);
        r = pthread_create(&g->thread, NULL, run, g);
    }
    if (!r)
        return g;
    (void)error_errno(err, r, "watch of the firewall rules");
    if (g->events >= 0)
        (void)close(g->events);
    if (g->end >= 0)
        (void)close(g->end);
    free(g);
    return NULL;
}

void guard_free(struct guard *g) {
    if (!g)
        return;
    (void)eventfd_write(g->end, 1);
    (void)pthread_join(g->thread, NULL);
    (void)close(g->events);
    (void)close(g->end);
    free(g);
}
