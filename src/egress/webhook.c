#include "egress/webhook.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "egress/net/firewall.h"
#include "fmt/json.h"

enum { RETRY_MS = 5000, BODY_MAX = 4096, REQUEST_MAX = 16384 };

struct delivery {
    struct list node;
    struct job job;
    struct webhook *webhook;
    struct net address;
    uint32_t mark;
    unsigned attempt;
    int result; // 0 delivered, 1 try again, -1 refused
    char body[BODY_MAX];
};

static void pump(struct webhook *w);

// ---- worker ----

static int connect_marked(const struct delivery *d) {
    struct sockaddr_storage to;
    struct timeval limit = {.tv_sec = WEBHOOK_MS / 1000};
    socklen_t size = net_sockaddr(&d->address, d->webhook->port, &to);
    cleanup_close int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &d->mark, sizeof d->mark) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 || // of connect, too
        connect(fd, (struct sockaddr *)&to, size) < 0)
        return -1;
    return TAKE_FD(fd);
}

// Status of the answer, 0 when there is none.
static unsigned read_status(int fd) {
    char text[16] = "";
    size_t got = 0;
    uint64_t status;
    while (got < 12) { // "HTTP/1.1 200"
        ssize_t n = recv(fd, text + got, 12 - got, 0);
        if (n <= 0)
            return 0;
        got += (size_t)n;
    }
    return strncmp(text, "HTTP/1.", 7) != 0 || parse_u64(text + 9, 100, 999, &status) < 0
               ? 0
               : (unsigned)status;
}

// http/client speaks to sockets that need no name; a Host of our own is all that differs here.
static void run(struct job *job) {
    struct delivery *d = CONTAINER_OF(job, struct delivery, job);
    const struct webhook *w = d->webhook;
    cleanup_strbuf struct strbuf request;
    strbuf_init(&request, REQUEST_MAX);
    d->result = 1;
    (void)strbuf_addf(&request,
                      "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                      "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                      w->target, w->authority, strlen(d->body), d->body);
    cleanup_close int fd = connect_marked(d);
    if (fd < 0 || request.failed || fd_write_all(fd, request.data, request.len) < 0)
        return;
    unsigned status = read_status(fd);
    if (status)
        d->result = status < 300 ? 0 : status < 500 ? -1 : 1;
}

// ---- loop ----

static void on_retry(struct timer *t) {
    struct webhook *w = CONTAINER_OF(t, struct webhook, retry);
    pump(w);
}

static void done(struct job *job) {
    struct delivery *d = CONTAINER_OF(job, struct delivery, job);
    struct webhook *w = d->webhook;
    w->sending = false;
    if (d->result > 0 && ++d->attempt < WEBHOOK_ATTEMPTS) { // 1, 2, 4 s
        list_push_front(&w->queue, &d->node);
        w->count++;
        timer_start(w->loop, &w->retry, 1000 << (d->attempt - 1), on_retry);
        return;
    }
    w->sent += d->result == 0;
    w->failed += d->result != 0;
    if (d->result)
        log_warning("the deny webhook took an event in none of %u attempts", d->attempt + 1);
    if (d->result && !w->literal) // it may have moved
        w->address.size = 0;
    free(d);
    pump(w);
}

static int first_address(const struct net *address, uint32_t ttl, void *arg) {
    (void)ttl;
    *(struct net *)arg = *address;
    return -1; // one is enough
}

static void on_resolved(struct flight *f, uint8_t *message, size_t len) {
    struct webhook *w = CONTAINER_OF(f, struct webhook, flight);
    struct dns_chain *chain = malloc(sizeof *chain);
    w->resolving = false;
    if (len && chain && !dns_follow(message, len, &f->q, chain))
        (void)dns_each_address(message, len, chain, first_address, &w->address);
    free(chain);
    if (w->address.size) {
        firewall_admit_own(w->firewall, &w->address, w->port);
        if (firewall_add_own(w->firewall) < 0)
            w->address.size = 0;
    }
    if (w->address.size)
        pump(w);
    else
        timer_start(w->loop, &w->retry, RETRY_MS, on_retry);
}

static void resolve(struct webhook *w) {
    if (w->resolving)
        return;
    w->flight = (struct flight){.done = on_resolved};
    if (dns_make_query(&w->flight.q, w->host, DNS_A) < 0)
        return; // checked at the start
    w->resolving = true;
    if (forward_ask(w->forwarder, &w->flight) < 0) {
        w->resolving = false;
        timer_start(w->loop, &w->retry, RETRY_MS, on_retry);
    }
}

static void pump(struct webhook *w) {
    if (w->sending || timer_armed(&w->retry) || list_empty(&w->queue))
        return;
    if (!w->address.size) {
        resolve(w);
        return;
    }
    struct delivery *d = LIST_ENTRY(list_pop(&w->queue), struct delivery, node);
    w->count--;
    d->address = w->address;
    d->mark = w->firewall->mark;
    d->job = (struct job){.run = run, .done = done};
    w->sending = workers_submit(w->workers, &d->job) == 0;
    if (!w->sending) // one at a time: the queue has room
        free(d);
}

void webhook_send(struct webhook *w, const char *name) {
    char now[CLOCK_TEXT_MAX];
    struct delivery *d;
    if (!w->workers)
        return;
    if (w->count >= WEBHOOK_QUEUE || !(d = calloc(1, sizeof *d))) {
        if (w->dropped++ % 100 == 0)
            log_warning("the deny webhook does not keep up: %llu events dropped",
                        (unsigned long long)w->dropped);
        return;
    }
    d->webhook = w;
    clock_format(clock_wall_us() / 1000000 * 1000000, now);
    cleanup_json json_t *j = json_pack("{s:s,s:s,s:s,s:s}", "hostname", name, "timestamp", now,
                                       "source", "opensandbox-egress", "sandboxId", w->sandbox_id);
    size_t len = j ? json_dumpb(j, d->body, sizeof d->body - 1, JSON_COMPACT) : 0;
    if (!len || len >= sizeof d->body) {
        free(d);
        return;
    }
    list_push_back(&w->queue, &d->node);
    w->count++;
    pump(w);
}

static int take_url(struct webhook *w, const char *url, struct error *err) {
    uint64_t port = 80;
    struct dns_query q;
    if (strncasecmp(url, "http://", 7) != 0)
        return error_set(err, EINVAL, "deny webhook: only http:// is built: %.80s", url);
    url += 7;
    size_t len = strcspn(url, "/?#");
    if (!len || len >= sizeof w->host || memchr(url, '@', len))
        return error_set(err, EINVAL, "deny webhook: no host in the URL");
    (void)snprintf(w->authority, sizeof w->authority, "%.*s", (int)len, url);
    (void)snprintf(w->host, sizeof w->host, "%.*s", (int)len, url);
    w->target = url[len] == '/' ? url + len : "/";
    char *colon = strrchr(w->host, ':');
    if (*w->host == '[' || (colon && parse_u64(colon + 1, 1, 65535, &port) < 0))
        return error_set(err, EINVAL, "deny webhook: no host and port: %s", w->host);
    if (colon)
        *colon = '\0';
    w->port = (unsigned)port;
    if (!net_parse(w->host, &w->address)) {
        w->literal = true;
        firewall_admit_own(w->firewall, &w->address, w->port); // with the first policy
        return 0;
    }
    return dns_make_query(&q, w->host, DNS_A) < 0
               ? error_set(err, EINVAL, "deny webhook: no name: %s", w->host)
               : 0;
}

int webhook_start(struct webhook *w, struct loop *l, struct forwarder *fw, struct firewall *f,
                  const char *url, const char *sandbox_id, struct error *err) {
    *w = (struct webhook){.loop = l, .forwarder = fw, .firewall = f, .sandbox_id = sandbox_id};
    list_init(&w->queue);
    if (!*url)
        return 0;
    if (take_url(w, url, err) < 0)
        return -1;
    w->workers = workers_new(l, 1, 4, 0, err);
    return w->workers ? 0 : -1;
}

void webhook_stop(struct webhook *w) {
    struct list *node;
    if (!w->loop)
        return;
    if (w->resolving)
        forward_cancel(&w->flight);
    w->sending = true; // nothing new from done()
    workers_free(TAKE_PTR(w->workers));
    timer_stop(&w->retry);
    while ((node = list_pop(&w->queue)))
        free(LIST_ENTRY(node, struct delivery, node));
}
