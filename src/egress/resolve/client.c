// DNS over TCP (RFC 7766): questions with their length in front, several at once, answered as they
// come.
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/strbuf.h"
#include "egress/egress.h"

enum { OUT_MAX = 256 * 1024, READ_SIZE = 4096 };

struct client {
    struct list node;
    struct sockaddr_in6 peer; // or sockaddr_in
    struct egress *egress;
    struct stream *stream;
    struct timer idle;
    struct strbuf in, out;
    struct list asks;
    unsigned waiting;
};

void proxy_client_close(struct client *c) {
    struct list *node;
    while ((node = list_pop(&c->asks))) {
        struct ask *a = LIST_ENTRY(node, struct ask, node);
        forward_cancel(&a->flight);
        free(a);
    }
    timer_stop(&c->idle);
    stream_close(c->stream);
    list_remove(&c->node);
    c->egress->proxy.client_count--;
    strbuf_free(&c->in);
    strbuf_free(&c->out);
    free(c);
}

static void on_idle(struct timer *t) {
    proxy_client_close(CONTAINER_OF(t, struct client, idle));
}

// -1: the connection is gone.
static int flush(struct client *c) {
    while (c->out.len) {
        ssize_t n = stream_write(c->stream, c->out.data, c->out.len);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0)
            return -1;
        strbuf_consume(&c->out, (size_t)n);
    }
    c->waiting = 0;
    LIST_EACH(&c->asks, node)
    c->waiting++;
    stream_want(c->stream, (c->out.len ? STREAM_WRITABLE : 0u) |
                               (c->waiting < PROXY_PIPELINE_MAX ? STREAM_READABLE : 0u));
    timer_start(&c->egress->loop, &c->idle, PROXY_IDLE_MS + (c->waiting ? 10000 : 0), on_idle);
    return c->out.failed ? -1 : 0;
}

// Only queues: the caller of proxy_question(), or the end of the turn, flushes. A client that does
// not read loses its connection at the next event.
void proxy_client_reply(struct client *c, const uint8_t *message, size_t len) {
    const uint8_t size[2] = {(uint8_t)(len >> 8), (uint8_t)len};
    (void)strbuf_add(&c->out, size, 2);
    (void)strbuf_add(&c->out, message, len);
    stream_want(c->stream, STREAM_READABLE | STREAM_WRITABLE);
}

struct list *proxy_client_asks(struct client *c) {
    return &c->asks;
}

static void take_questions(struct client *c) {
    for (;;) {
        const uint8_t *p = (const uint8_t *)c->in.data;
        size_t len = c->in.len < 2 ? 0 : (size_t)p[0] << 8 | p[1];
        if (c->in.len < 2 || c->in.len - 2 < len)
            return;
        struct ask from = {.client = c, .fd = -1, .peer = c->peer};
        proxy_question(c->egress, p + 2, len, &from);
        strbuf_consume(&c->in, len + 2);
    }
}

static void on_client(struct stream *s, unsigned events, void *arg) {
    struct client *c = arg;
    if (events & STREAM_READABLE) {
        char *room = strbuf_reserve(&c->in, READ_SIZE);
        ssize_t n = room ? stream_read(s, room, READ_SIZE) : 0;
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            proxy_client_close(c);
            return;
        }
        c->in.len += n > 0 ? (size_t)n : 0;
        take_questions(c);
    }
    if (flush(c) < 0)
        proxy_client_close(c);
}

void proxy_client_accept(struct egress *e, int fd) {
    struct client *c = NULL;
    if (e->proxy.client_count >= PROXY_CLIENTS_MAX || !(c = calloc(1, sizeof *c))) {
        (void)close(fd);
        return;
    }
    c->egress = e;
    socklen_t size = sizeof c->peer;
    (void)getpeername(fd, (struct sockaddr *)&c->peer, &size); // for the log only
    c->stream = stream_open(&e->loop, fd, on_client, c);
    if (!c->stream) {
        free(c);
        return;
    }
    strbuf_init(&c->in, DNS_MESSAGE_MAX + 2 + READ_SIZE);
    strbuf_init(&c->out, OUT_MAX);
    list_init(&c->asks);
    list_push_back(&e->proxy.clients, &c->node);
    e->proxy.client_count++;
    stream_want(c->stream, STREAM_READABLE);
    timer_start(&e->loop, &c->idle, PROXY_IDLE_MS, on_idle);
}
