// What the tests of the server share: a server over socketpairs, and peers that speak raw bytes.
#ifndef HTTP_TEST_H
#define HTTP_TEST_H

#include <arpa/inet.h>
#include <netinet/in.h>

#include "../io/io_test.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "http/server.h"
#include "io/stream.h"

struct peer {
    int fd;
    struct strbuf in; // all that came
    bool eof;
};

struct web {
    struct loop loop;
    struct http_server *server;
    struct http_exchange *held; // by the handler under test
    unsigned gone, finished, room, status;
    struct strbuf body; // what a streaming handler was given
    int body_end;       // -1: not yet, else ok of end()
    bool pause;
    struct stream *stream;
    struct strbuf early;
    bool drained;
};

static inline struct web *web_of(const struct http_exchange *x) {
    return http_server_user(x->server);
}

static inline void web_finished(struct http_exchange *x) {
    struct web *w = web_of(x);
    assert_non_null(x->request->method);
    w->finished++;
    w->status = x->status;
}

static inline struct web *web_new(const struct http_route *routes, size_t count,
                                  void (*change)(struct http_server_settings *)) {
    struct error err;
    struct web *w = calloc(1, sizeof *w);
    struct http_server_settings s;
    assert_non_null(w);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)alarm(60);
    assert_int_equal(loop_init(&w->loop, &err), 0);
    strbuf_init(&w->body, 64 << 20);
    strbuf_init(&w->early, 1 << 20);
    w->body_end = -1;
    http_server_defaults(&s);
    s.routes = routes;
    s.route_count = count;
    s.user = w;
    s.default_code = "TEST";
    s.finished = web_finished;
    if (change)
        change(&s);
    w->server = http_server_new(&w->loop, &s, &err);
    assert_non_null(w->server);
    return w;
}

static inline void web_free(struct web *w) {
    stream_close(w->stream);
    http_server_free(w->server);
    assert_int_equal(loop_close(&w->loop), 0); // nobody left a handle open
    strbuf_free(&w->body);
    strbuf_free(&w->early);
    free(w);
    (void)alarm(0);
}

static inline struct peer *peer_new(struct web *w) {
    int fds[2];
    struct peer *p = calloc(1, sizeof *p);
    assert_non_null(p);
    pair(fds);
    assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
    p->fd = fds[1];
    strbuf_init(&p->in, 256 << 20);
    http_server_accept(w->server, fds[0]);
    return p;
}

static inline void peer_close(struct peer *p) {
    if (p->fd >= 0)
        (void)close(TAKE_FD(p->fd));
}

static inline void peer_free(struct peer *p) {
    peer_close(p);
    strbuf_free(&p->in);
    free(p);
}

static inline void peer_send(struct peer *p, const char *data, size_t len) {
    assert_int_equal(write(p->fd, data, len), (ssize_t)len);
}

static inline void peer_says(struct peer *p, const char *text) {
    peer_send(p, text, strlen(text));
}

// One turn of the loop, and what came from it.
static inline void peer_turn(struct web *w, struct peer *p) {
    char piece[65536];
    ssize_t n = 0;
    loop_step(&w->loop);
    while (p->fd >= 0 && !p->eof && (n = read(p->fd, piece, sizeof piece)) > 0)
        assert_int_equal(strbuf_add(&p->in, piece, (size_t)n), 0);
    if (p->fd >= 0 && (n == 0 || (n < 0 && errno != EAGAIN)))
        p->eof = true;
}

#define PEER_UNTIL(w, p, condition)                                                                \
    do {                                                                                           \
        peer_turn(w, p);                                                                           \
        if (!(condition))                                                                          \
            (void)poll(&(struct pollfd){.fd = uv_backend_fd(&(w)->loop.uv), .events = POLLIN}, 1,  \
                       1);                                                                         \
    } while (!(condition))

static inline unsigned peer_count(const struct peer *p, const char *text) {
    unsigned n = 0;
    for (const char *at = p->in.data; (at = strstr(at, text)); at++)
        n++;
    return n;
}

#define PEER_HEARS(w, p, text) PEER_UNTIL(w, p, strstr((p)->in.data, text))
#define PEER_HEARS_END(w, p)   PEER_UNTIL(w, p, (p)->eof)

static inline void peer_forget(struct peer *p) {
    strbuf_clear(&p->in);
}

// Everything that the peer heard, without the lines that change (Date).
static inline void assert_heard(struct peer *p, const char *expected) {
    cleanup_strbuf struct strbuf got;
    strbuf_init(&got, 1 << 20);
    for (const char *at = p->in.data; *at;) {
        const char *end = strchr(at, '\n');
        size_t len = end ? (size_t)(end - at) + 1 : strlen(at);
        if (strncmp(at, "Date: ", 6) != 0)
            (void)strbuf_add(&got, at, len);
        at += len;
    }
    assert_string_equal(got.data, expected);
    peer_forget(p);
}

#endif
