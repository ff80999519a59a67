// What the tests of the proxy share: our server between a client and upstreams whose ends the tests
// play with raw bytes.
#ifndef PROXY_TEST_H
#define PROXY_TEST_H

#include "../io/io_test.h"
#include "http/proxy.h"
#include "io/tunnel.h"

enum { PEERS_MAX = 64 };

struct rig {
    struct loop *l;
    struct http_server *server;
    struct http_upstream *upstream;
    struct http_upstream_settings settings;
    struct http_proxy_policy policy;
    int client;
    int peers[PEERS_MAX]; // our ends of the upstream's connections, in order of dialling
    unsigned dials, peer_count, over;
    struct http_dial *held[PEERS_MAX]; // dials that nobody answered yet
    bool hold;
    int refuse;          // errno of every dial, 0: they succeed
    int buffer;          // of the upstream's sockets, 0: as they come
    int64_t patience_ms; // of the server with bodies and replies, 0: as it comes
};

static inline void rig_connect(struct rig *r, struct http_dial *d) {
    int fds[2];
    assert_true(r->peer_count < PEERS_MAX);
    pair(fds);
    if (r->buffer)
        for (int i = 0; i < 2; i++)
            assert_int_equal(
                setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &r->buffer, sizeof r->buffer), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    r->peers[r->peer_count++] = fds[0];
    http_dial_done(d, fds[1], NULL);
}

static inline void rig_dial(struct http_dial *d, void *arg) {
    struct rig *r = arg;
    struct error err;
    r->dials++;
    if (r->refuse) {
        (void)error_errno(&err, r->refuse, "connect to 10.0.0.1");
        http_dial_done(d, -1, &err);
    } else if (r->hold) {
        r->held[r->dials - 1] = d;
    } else {
        rig_connect(r, d);
    }
}

static inline void rig_done(struct http_exchange *x, void *arg) {
    (void)x;
    ((struct rig *)arg)->over++;
}

static inline void rig_handle(struct http_exchange *x) {
    struct rig *r = http_server_user(x->server);
    struct http_proxy_policy policy = r->policy;
    if (!policy.target)
        policy.target = x->request->target;
    policy.arg = r;
    policy.done = rig_done;
    http_proxy_run(x, r->upstream, &policy);
}

static inline int rig_client(struct rig *r) {
    int fds[2];
    pair(fds);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    http_server_accept(r->server, fds[1]);
    return fds[0];
}

static const struct http_route rig_routes[] = {
    {.method = "*", .pattern = "/*", .handle = rig_handle, .body = HTTP_BODY_STREAMED}};

// `r` may hold settings and a policy already.
static inline void rig_open(struct rig *r, struct loop *l) {
    struct http_server_settings s;
    struct error err;
    http_server_defaults(&s);
    s.routes = rig_routes;
    s.route_count = 1;
    s.user = r;
    s.default_code = "DEFAULT";
    if (r->patience_ms)
        s.body_ms = s.write_ms = r->patience_ms;
    r->l = l;
    r->settings.dial = rig_dial;
    r->settings.arg = r;
    if (!r->settings.connections_max)
        r->settings.connections_max = 8;
    if (!r->settings.idle_max)
        r->settings.idle_max = 8;
    if (!r->settings.idle_ms)
        r->settings.idle_ms = 30000;
    r->policy.code_connect = "CONNECT";
    r->policy.code_response = "RESPONSE";
    r->policy.code_time_out = "TIME_OUT";
    r->policy.code_busy = "BUSY";
    r->upstream = http_upstream_new(l, &r->settings);
    assert_non_null(r->upstream);
    r->server = http_server_new(l, &s, &err);
    assert_non_null(r->server);
    r->client = rig_client(r);
}

static inline void rig_close(struct rig *r) {
    http_server_free(r->server);
    http_upstream_free(r->upstream);
    loop_step(r->l);
    loop_step(r->l);
    if (r->client >= 0)
        close(r->client);
    for (unsigned i = 0; i < r->peer_count; i++)
        if (r->peers[i] >= 0)
            close(r->peers[i]);
}

static inline void say(int fd, const char *text) {
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

// The next `len` bytes at `fd`; the loop turns meanwhile.
static inline void take(struct rig *r, int fd, char *data, size_t len) {
    size_t n = 0;
    while (n < len) {
        ssize_t got = read(fd, data + n, len - n);
        assert_true(got > 0 || (got < 0 && errno == EAGAIN));
        if (got > 0)
            n += (size_t)got;
        else
            UNTIL(r->l, poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 1);
    }
}

// The next bytes at `fd`, exactly.
static inline void expect(struct rig *r, int fd, const char *text) {
    char got[8192];
    size_t len = strlen(text);
    assert_true(len < sizeof got);
    for (size_t i = 0; i < len; i++) {
        take(r, fd, got + i, 1);
        got[i + 1] = 0;
        if (got[i] != text[i])
            assert_string_equal(got, text); // shows both
    }
}

// A head up to its empty line; valid until the next call.
static inline const char *head(struct rig *r, int fd) {
    static char text[64 * 1024];
    size_t n = 0;
    while (n < 4 || memcmp(text + n - 4, "\r\n\r\n", 4) != 0) {
        assert_true(n < sizeof text - 1);
        take(r, fd, text + n++, 1);
    }
    text[n] = 0;
    return text;
}

static inline void begins(const char *text, const char *with) {
    if (strncmp(text, with, strlen(with)) != 0)
        assert_string_equal(text, with);
}

static inline void has(const char *text, const char *part) {
    if (!strstr(text, part))
        assert_string_equal(text, part);
}

static inline void has_not(const char *text, const char *part) {
    if (strcasestr(text, part))
        assert_string_equal(text, "no such part");
}

// Nothing comes at `fd`, now and in the next turns.
static inline void silent(struct rig *r, int fd) {
    for (int i = 0; i < 8; i++) {
        loop_step(r->l);
        assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 0);
    }
}

static inline void pass_time(struct rig *r, int64_t ms) {
    int64_t until = clock_boot_ms() + ms;
    UNTIL(r->l, clock_boot_ms() > until);
}

// The other side closes `fd` without another byte.
static inline void closed(struct rig *r, int fd) {
    char c;
    UNTIL(r->l, poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 1);
    ssize_t n = read(fd, &c, 1);
    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

// Waits for the upstream's connection number `i` and returns our end of it.
static inline int peer(struct rig *r, unsigned i) {
    UNTIL(r->l, r->peer_count > i);
    return r->peers[i];
}

static inline void hang_up(struct rig *r, unsigned i) {
    close(r->peers[i]);
    r->peers[i] = -1;
}

// A GET and its small answer on connection `i`.
static inline void round_trip(struct rig *r, unsigned i) {
    say(r->client, "GET /warm HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(r, peer(r, i), "GET /warm HTTP/1.1\r\nHost: h\r\n\r\n");
    say(r->peers[i], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    begins(head(r, r->client), "HTTP/1.1 200 OK\r\n");
    expect(r, r->client, "ok");
}

#endif
