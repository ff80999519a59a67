#include "http/client.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "http/h1.h"

enum { BUFFER = 64 * 1024, SEND_TIME_OUT_MS = 60000, REQUEST_HEAD_MAX = 256 * 1024 };

// Where the body of the reply goes.
struct sink {
    int (*data)(void *arg, const char *data, size_t len);
    void *arg;
    bool stopped; // data() wants no more
};

struct http_client {
    int fd;
    bool is_over; // the connection can carry no further message
    bool is_head; // the request was HEAD
    struct h1 parser;
    struct arena arena; // of the reply's head
    struct sink sink;
    unsigned status; // of the reply, 0 while there is no final one
    size_t at, len;  // what is left in buffer
    char buffer[BUFFER];
};

static int on_head(struct h1 *p, const struct http_head *head) {
    struct http_client *c = p->user;
    if (head->status / 100 != 1 || head->status == 101)
        c->status = head->status;
    if (!head->keep_alive)
        c->is_over = true;
    return c->is_head;
}

static void on_body(struct h1 *p, const char *data, size_t len) {
    struct sink *s = &((struct http_client *)p->user)->sink;
    if (!s->stopped && s->data(s->arg, data, len) < 0)
        s->stopped = true;
}

static void on_complete(struct h1 *p) {
    if (p->upgraded)
        ((struct http_client *)p->user)->is_over = true;
}

static const struct h1_callbacks callbacks = {on_head, on_body, on_complete};

struct http_client *http_client_new(int fd) {
    cleanup_close int owned = fd;
    struct http_client *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->fd = TAKE_FD(owned);
    arena_init(&c->arena, (size_t)2 * H1_HEAD_BYTES_MAX);
    h1_init(&c->parser, H1_RESPONSE, &callbacks, c);
    return c;
}

void http_client_free(struct http_client *c) {
    if (!c)
        return;
    h1_free(&c->parser);
    arena_free(&c->arena);
    (void)close(c->fd); // nothing can be done about a failure
    free(c);
}

// The connection is of no use after a failure in the middle.
static int broken(struct http_client *c) {
    c->is_over = true;
    return -1;
}

static int wait_for(const struct http_client *c, short events, int64_t time_out_ms,
                    struct error *err) {
    int64_t end = clock_boot_ms() + time_out_ms;
    for (;;) {
        struct pollfd p = {.fd = c->fd, .events = events};
        int64_t left = end - clock_boot_ms();
        int n = poll(&p, 1, left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left);
        if (n > 0)
            return 0;
        if (!n)
            return error_set(err, ETIMEDOUT, "no %s within %lld ms",
                             events == POLLIN ? "answer" : "progress in sending",
                             (long long)time_out_ms);
        if (errno != EINTR)
            return error_errno(err, errno, "poll");
    }
}

static int send_all(struct http_client *c, const char *data, size_t len, int64_t time_out_ms,
                    struct error *err) {
    while (len) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            data += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            if (wait_for(c, POLLOUT, time_out_ms, err) < 0)
                return broken(c);
        } else if (errno != EINTR) {
            (void)error_errno(err, errno, "cannot send the request");
            return broken(c);
        }
    }
    return 0;
}

static int send_request(struct http_client *c, const char *method, const char *target,
                        const char *headers, const void *data, size_t len, int64_t time_out_ms,
                        struct error *err) {
    if (c->is_over)
        return error_set(err, EPIPE, "the connection was closed after an earlier reply");
    cleanup_strbuf struct strbuf head;
    strbuf_init(&head, REQUEST_HEAD_MAX);
    (void)strbuf_addf(&head, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, target, headers);
    if (len || !strcmp(method, "POST") || !strcmp(method, "PUT") || !strcmp(method, "PATCH"))
        (void)strbuf_addf(&head, "Content-Length: %zu\r\n", len);
    if (strbuf_adds(&head, "\r\n"))
        return error_set(err, ENOMEM, "request head too large or out of memory");
    c->is_head = !strcmp(method, "HEAD");
    if (len && len <= BUFFER) { // one packet for a small request
        head.max += len;
        if (strbuf_add(&head, data, len))
            return error_set(err, ENOMEM, "out of memory");
        len = 0;
    }
    if (send_all(c, head.data, head.len, time_out_ms, err) < 0)
        return -1;
    return send_all(c, data, len, time_out_ms, err);
}

// More bytes in the buffer: 1, 0 when the peer closed.
static int fill(struct http_client *c, int64_t time_out_ms, struct error *err) {
    for (;;) {
        if (wait_for(c, POLLIN, time_out_ms, err) < 0)
            return -1;
        ssize_t n = recv(c->fd, c->buffer, BUFFER, MSG_DONTWAIT);
        if (n >= 0) {
            c->at = 0;
            c->len = (size_t)n;
            return n > 0;
        }
        if (errno != EAGAIN && errno != EINTR)
            return error_errno(err, errno, "cannot read the reply");
    }
}

// One message, interim ones included.
static int read_message(struct http_client *c, int64_t time_out_ms, struct error *err) {
    arena_free(&c->arena);
    h1_reset(&c->parser, &c->arena);
    while (!c->parser.is_complete && !c->sink.stopped) {
        int more = c->len ? 1 : fill(c, time_out_ms, err);
        if (more < 0)
            return -1;
        if (!more) {
            c->is_over = true;
            return h1_finish(&c->parser) < 0
                       ? error_set(err, ECONNRESET, "the peer closed the connection %s",
                                   c->status ? "in the middle of its reply" : "without a reply")
                       : 0;
        }
        ssize_t n = h1_feed(&c->parser, c->buffer + c->at, c->len);
        if (n < 0)
            return error_set(err, EPROTO, "malformed reply: %s", c->parser.reason);
        c->at += (size_t)n;
        c->len -= (size_t)n;
    }
    return 0;
}

int http_client_receive_stream(struct http_client *c, unsigned *ret_status,
                               int (*data)(void *arg, const char *, size_t), void *arg,
                               int64_t time_out_ms, struct error *err) {
    c->sink = (struct sink){.data = data, .arg = arg};
    c->status = 0;
    while (!c->status)
        if (read_message(c, time_out_ms, err) < 0)
            return broken(c);
    if (c->sink.stopped)
        c->is_over = true; // the rest of the body is still on its way
    *ret_status = c->status;
    return 0;
}

static int collect(void *arg, const char *data, size_t len) {
    return arg ? strbuf_add(arg, data, len) : 0;
}

int http_client_receive(struct http_client *c, unsigned *ret_status, struct strbuf *body,
                        int64_t time_out_ms, struct error *err) {
    unsigned status;
    if (http_client_receive_stream(c, &status, collect, body, time_out_ms, err) < 0)
        return -1;
    if (c->sink.stopped)
        return error_set(err, EMSGSIZE, "the body of the reply is over %zu bytes", body->max);
    *ret_status = status;
    return 0;
}

int http_client_send(struct http_client *c, const char *method, const char *target,
                     const char *headers, const void *data, size_t len, struct error *err) {
    return send_request(c, method, target, headers, data, len, SEND_TIME_OUT_MS, err);
}

int http_client_request(struct http_client *c, const char *method, const char *target,
                        const char *headers, const void *data, size_t len, unsigned *ret_status,
                        struct strbuf *body, int64_t time_out_ms, struct error *err) {
    if (send_request(c, method, target, headers, data, len, time_out_ms, err) < 0)
        return -1;
    return http_client_receive(c, ret_status, body, time_out_ms, err);
}
