// The whole HTTP server: a client that sends the bytes and closes. It must come to an end, leave
// nothing, and answer in HTTP.
#include <sys/socket.h>

#include "base/strbuf.h"
#include "fuzz.h"
#include "http/server.h"

enum { TURNS_MAX = 20000 };

static void reply(struct http_exchange *x) {
    http_reply(x, 200, "text/plain", x->body, x->body_len);
}
static bool body_data(struct http_exchange *x, const char *data, size_t len) {
    (void)data;
    x->user = (void *)((uintptr_t)x->user + len);
    return true;
}
static void body_end(struct http_exchange *x, bool ok) {
    http_stream_begin(x, ok ? 200 : 400, "text/plain", -1);
    (void)http_stream_write(x, "end", 3);
    http_stream_end(x);
}
static void stream(struct http_exchange *x) {
    static const struct http_body callbacks = {.data = body_data, .end = body_end};
    http_body_start(x, &callbacks);
}
static void not_found(struct http_exchange *x, const char *allowed) {
    http_reply_empty(x, allowed ? 405 : 404);
}

static const struct http_route routes[] = {
    {.method = "POST", .pattern = "/", .handle = reply},
    {.method = "GET", .pattern = "/{x}/*", .handle = reply},
    {.method = "*", .pattern = "/", .handle = stream, .body = HTTP_BODY_STREAMED},
};

// What has come from the server, into sb; the server may be waiting for room.
static void drain(int fd, struct strbuf *sb) {
    char piece[4096];
    for (ssize_t n; (n = recv(fd, piece, sizeof piece, MSG_DONTWAIT)) > 0;)
        (void)strbuf_add(sb, piece, (size_t)n);
}

static void talk(struct loop *l, struct http_server *s, const uint8_t *data, size_t size,
                 struct strbuf *got) {
    int pair[2], turns = 0;
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
    http_server_accept(s, pair[0]);
    for (size_t sent = 0; sent < size && turns++ < TURNS_MAX;) {
        ssize_t n = send(pair[1], data + sent, size - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        loop_step(l);
        drain(pair[1], got);
    }
    CHECK(!shutdown(pair[1], SHUT_WR));
    for (; http_server_connections(s); drain(pair[1], got)) {
        CHECK(turns++ < TURNS_MAX);
        loop_step(l);
    }
    drain(pair[1], got);
    CHECK(!close(pair[1]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct http_server_settings settings;
    struct strbuf got;
    struct loop l;
    struct error err;
    http_server_defaults(&settings);
    settings.routes = routes;
    settings.route_count = sizeof routes / sizeof *routes;
    settings.no_route = not_found;
    settings.body_max = 1000;
    strbuf_init(&got, 16 << 20);
    CHECK(!loop_init(&l, &err));
    struct http_server *s = http_server_new(&l, &settings, &err);
    CHECK(s);
    talk(&l, s, data, size, &got);
    http_server_free(s);
    loop_step(&l);
    CHECK(!loop_close(&l));
    CHECK(!got.len || !strncmp(got.data, "HTTP/1.1 ", 9));
    strbuf_free(&got);
    return 0;
}
