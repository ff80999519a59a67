#include "egress/resolve/proxy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "egress/egress.h"

enum { ROUNDS = 4, BACKLOG = 128 };

// ---- replies ----

static void commit(struct egress *e) {
    int r = learned_commit(&e->learned);
    if (r < 0)
        log_warning("addresses could not be admitted: %s", strerror(-r));
}

void proxy_flush(struct egress *e) {
    commit(e);
    datagrams_send(&e->proxy.replies);
}

static void on_turn_end(struct loop_task *task) {
    proxy_flush(CONTAINER_OF(task, struct egress, proxy.flush));
}

static void send_reply(struct egress *e, const struct ask *a, const uint8_t *message, size_t len) {
    uint8_t cut[DNS_SHORT_MAX];
    if (a->client) {
        commit(e);
        proxy_client_reply(a->client, message, len);
        return;
    }
    if (len > a->flight.q.udp_size) {
        e->proxy.truncated++;
        len = dns_write_reply(cut, &a->flight.q, dns_rcode(message), DNS_NO_REASON, true);
        message = cut;
    }
    if (!e->proxy.flush.node.next) // not deferred yet; a flush in between takes nothing back
        loop_defer(&e->loop, &e->proxy.flush);
    if (!datagrams_add(&e->proxy.replies, a->fd, &a->peer, a->peer_size, message, len)) {
        proxy_flush(e);
        (void)datagrams_add(&e->proxy.replies, a->fd, &a->peer, a->peer_size, message, len);
    }
}

static void refuse(struct egress *e, const struct ask *a, enum dns_rcode rcode,
                   enum dns_reason reason) {
    uint8_t out[DNS_SHORT_MAX];
    e->proxy.failed += rcode == DNS_SERVFAIL;
    send_reply(e, a, out, dns_write_reply(out, &a->flight.q, rcode, reason, false));
}

static void deny(struct egress *e, const struct ask *a, enum event_kind kind, const char *name,
                 const struct verdict *by, const char *reason) {
    e->proxy.denied++;
    egress_denied(e, kind, name, by, reason);
    refuse(e, a, kind == EVENT_BUDGET ? DNS_REFUSED : DNS_NXDOMAIN,
           kind == EVENT_BUDGET ? DNS_PROHIBITED : DNS_BLOCKED);
}

// ---- answers ----

struct harvest {
    struct egress *egress;
    const struct dns_chain *chain;
    json_t *addresses; // for the log, else NULL
};

// Private and metadata addresses are no business of a name, unless a rule allows them.
static int take_address(const struct net *address, uint32_t ttl, void *arg) {
    struct harvest *h = arg;
    struct egress *e = h->egress;
    char text[NET_TEXT_MAX];
    net_format(address, text);
    if (net_is_private(address) && !index_lists(&e->index, address, true)) {
        char what[DNS_NAME_TEXT + NET_TEXT_MAX + 8];
        (void)snprintf(what, sizeof what, "%s -> %s", h->chain->names[0], text);
        e->proxy.rebinding++;
        egress_denied(e, EVENT_REBINDING, what, NULL,
                      "a name that points to a private address admits nothing; allow the address");
        return 0;
    }
    if (h->addresses)
        (void)json_array_append_new(h->addresses, json_string(text));
    if (e->options.nft && learned_add(&e->learned, h->chain, address, ttl) < 0)
        log_warning("%s of %s could not be admitted", text, h->chain->names[0]);
    return 0;
}

static void write_line(struct egress *e, const struct ask *a, json_t *addresses) {
    char peer[NET_TEXT_MAX] = "";
    struct net n = {0};
    if (a->peer.sin6_family == AF_INET)
        net_from_bytes((const void *)&((const struct sockaddr_in *)&a->peer)->sin_addr, 4, &n);
    else if (a->peer.sin6_family == AF_INET6)
        net_from_bytes((const void *)&a->peer.sin6_addr, 16, &n);
    if (n.size)
        net_format(&n, peer);
    events_log_sampled(&e->events, "outbound",
                       json_pack("{s:s,s:s,s:O,s:s}", "opensandbox.event", "egress.outbound",
                                 "target.host", a->flight.q.name, "target.ips", addresses, "peer",
                                 peer));
}

static bool is_quiet(const struct egress *e, const char *name) {
    return e->quiet.rules.count && index_name(&e->quiet, name).rule;
}

// A rule that denies a name on the way denies the answer (adversarial case 7).
static bool chain_passes(struct egress *e, const struct ask *a, const struct dns_chain *chain) {
    for (size_t i = 0; i < chain->count; i++) {
        struct verdict v = index_name(&e->index, chain->names[i]);
        if (v.allow || (i > 0 && !v.rule))
            continue;
        deny(e, a, i ? EVENT_CNAME : EVENT_NAME, chain->names[i], &v,
             i ? "an alias of a name that is allowed" : NULL);
        return false;
    }
    return true;
}

static void keep(struct egress *e, const struct dns_query *q, const uint8_t *raw, size_t len) {
    bool records = raw[6] || raw[7] || raw[8] || raw[9], positive = raw[6] || raw[7];
    uint32_t ttl = dns_least_ttl(raw, len);
    if (!positive && ttl > CACHE_NEGATIVE_S)
        ttl = CACHE_NEGATIVE_S;
    if (records)
        cache_put(&e->proxy.cache, q, raw, len, ttl);
}

// `message` is changed; `age` < 0: it is new, and may be kept. Judged by the rules of now, not of
// when it was asked.
static void answer(struct egress *e, const struct ask *a, uint8_t *message, size_t len,
                   int64_t age) {
    struct dns_chain *chain = &e->proxy.chain;
    const struct dns_query *q = &a->flight.q;
    struct harvest h = {.egress = e, .chain = chain};
    if (dns_follow(message, len, q, chain) < 0) {
        refuse(e, a, DNS_SERVFAIL, DNS_NO_REASON);
        return;
    }
    if (!chain_passes(e, a, chain))
        return;
    if (age < 0)
        keep(e, q, message, len);
    dns_adopt(message, len, q, age < 0 ? 0 : (uint32_t)age);
    bool line =
        log_enabled(LOG_LEVEL_INFO) && !is_quiet(e, q->name) && events_would_log(&e->events);
    h.addresses = line ? json_array() : NULL;
    (void)dns_each_address(message, len, chain, take_address, &h);
    e->proxy.answered++;
    send_reply(e, a, message, len);
    if (h.addresses)
        write_line(e, a, h.addresses);
    json_decref(h.addresses);
}

static void on_answer(struct flight *f, uint8_t *message, size_t len) {
    struct ask *a = CONTAINER_OF(f, struct ask, flight);
    struct egress *e = a->egress;
    list_remove(&a->node);
    if (len)
        answer(e, a, message, len, -1);
    else
        refuse(e, a, DNS_SERVFAIL, DNS_UNREACHABLE);
    free(a);
}

// ---- questions ----

static void forward(struct egress *e, const struct ask *from) {
    struct ask *a = malloc(sizeof *a);
    if (!a) {
        refuse(e, from, DNS_SERVFAIL, DNS_NO_REASON);
        return;
    }
    *a = *from;
    a->egress = e;
    a->flight.done = on_answer;
    list_push_back(a->client ? proxy_client_asks(a->client) : &e->proxy.asks, &a->node);
    if (forward_ask(&e->forwarder, &a->flight) < 0) {
        list_remove(&a->node);
        refuse(e, a, DNS_SERVFAIL, DNS_NO_REASON);
        free(a);
    }
}

void proxy_question(struct egress *e, const uint8_t *message, size_t len, const struct ask *from) {
    struct ask a = *from;
    struct dns_query *q = &a.flight.q;
    uint32_t age = 0;
    int r = dns_parse_query(message, len, q);
    if (r < 0)
        return;
    if (r > 0) {
        refuse(e, &a, (enum dns_rcode)r, DNS_NO_REASON);
        return;
    }
    struct verdict v = index_name(&e->index, q->name);
    if (!v.allow) {
        deny(e, &a, EVENT_NAME, q->name, &v, NULL);
        return;
    }
    if (q->type == DNS_AAAA && e->proxy.no_ipv6) {
        refuse(e, &a, DNS_NOERROR, DNS_NO_REASON);
        return;
    }
    size_t cached = cache_get(&e->proxy.cache, q, e->proxy.scratch, &age);
    if (cached) {
        answer(e, &a, e->proxy.scratch, cached, age);
        return;
    }
    if (!budget_spend(&e->proxy.budget, q->name, clock_boot_ms())) {
        deny(e, &a, EVENT_BUDGET, budget_parent(q->name), NULL,
             "more names, bytes of names or questions in a minute than the budget allows");
        return;
    }
    forward(e, &a);
}

static void on_udp(struct stream *s, unsigned events, void *arg) {
    struct egress *e = arg;
    struct datagrams *d = &e->proxy.questions;
    (void)events;
    for (int round = 0; round < ROUNDS; round++) {
        datagrams_receive(d, stream_fd(s));
        for (unsigned i = 0; i < d->count; i++) {
            struct ask from = {.fd = stream_fd(s), .peer = d->peers[i]};
            from.peer_size = d->heads[i].msg_hdr.msg_namelen;
            proxy_question(e, d->parts[i].iov_base, d->heads[i].msg_len, &from);
        }
        if (d->count < DATAGRAMS_IN)
            return;
    }
}

static void on_accept(struct listener *li, int fd, void *arg) {
    (void)li;
    proxy_client_accept(arg, fd);
}

// ---- start ----

static int open_udp(const char *host, struct error *err) {
    struct net n;
    struct sockaddr_storage at;
    (void)net_parse(host, &n);
    socklen_t size = net_sockaddr(&n, OPTIONS_DNS_PORT, &at);
    cleanup_close int fd = socket(at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, size) < 0)
        return error_errno(err, errno, "listen on %s port %d (UDP)", host, OPTIONS_DNS_PORT);
    return TAKE_FD(fd);
}

static int listen_on(struct egress *e, int i, const char *host, struct error *err) {
    int fd = open_udp(host, err);
    if (fd < 0)
        return -1;
    e->proxy.udp[i] = stream_open(&e->loop, fd, on_udp, e);
    fd = e->proxy.udp[i] ? listen_tcp(host, OPTIONS_DNS_PORT, BACKLOG, err)
                         : error_set(err, ENOMEM, "out of memory");
    if (fd < 0)
        return -1;
    e->proxy.tcp[i] = listener_open(&e->loop, fd, on_accept, e);
    if (!e->proxy.tcp[i])
        return error_set(err, ENOMEM, "out of memory");
    stream_want(e->proxy.udp[i], STREAM_READABLE);
    return 0;
}

int proxy_start(struct egress *e, struct error *err) {
    struct error none;
    list_init(&e->proxy.asks);
    list_init(&e->proxy.clients);
    cache_init(&e->proxy.cache);
    budget_init(&e->proxy.budget, &e->options.budget);
    e->proxy.flush.run = on_turn_end;
    if (listen_on(e, 0, "127.0.0.1", err) < 0)
        return -1;
    if (listen_on(e, 1, "::1", &none) < 0) // IPv6 may be off: then nobody asks there
        log_info("no resolver on IPv6: %s", none.message);
    return 0;
}

bool proxy_is_listening(const struct egress *e) {
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    return e->proxy.udp[0] && e->proxy.tcp[0] &&
           !getsockname(stream_fd(e->proxy.udp[0]), (struct sockaddr *)&at, &size) &&
           listener_port(e->proxy.tcp[0]) == OPTIONS_DNS_PORT;
}

void proxy_stop(struct egress *e) {
    struct proxy *p = &e->proxy;
    if (!p->asks.next)
        return; // never started
    for (int i = 0; i < 2; i++) {
        stream_close(TAKE_PTR(p->udp[i]));
        listener_close(TAKE_PTR(p->tcp[i]));
    }
    loop_cancel(&e->loop, &p->flush); // what nobody waits for
    while (!list_empty(&p->clients))
        proxy_client_close((struct client *)p->clients.next); // node comes first
    struct list *node;
    while ((node = list_pop(&p->asks))) {
        struct ask *a = LIST_ENTRY(node, struct ask, node);
        forward_cancel(&a->flight);
        free(a);
    }
    cache_clear(&p->cache);
    budget_clear(&p->budget);
}
