// /proxy/{port}/...: what listens on a port of this sandbox, reached through us (execd.md section
// 8). Our own port is answered in process.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "execd/handlers.h"
#include "http/proxy.h"
#include "io/stream.h"

enum {
    PORTS_MAX = 64, // in use at the same time
    CONNECTIONS_MAX = 1024,
    WAITING_MAX = 1024,
    IDLE_MAX = 16,
    IDLE_MS = 30 * 1000,
    CONNECT_MS = 10 * 1000
};

// ---- connections: 127.0.0.1, else ::1 ----

struct attempt {
    struct loop *loop;
    struct http_dial *dial;
    unsigned port;
};

static void attempt_over(struct attempt *a, struct stream *s, const struct error *err) {
    struct error why;
    int fd = s ? fcntl(stream_fd(s), F_DUPFD_CLOEXEC, 3) : -1; // a stream keeps its descriptor
    if (s && fd < 0)
        (void)error_errno(&why, errno, "descriptors");
    stream_close(s);
    http_dial_done(a->dial, fd, s ? &why : err);
    free(a);
}

static void on_second(struct stream *s, const struct error *err, void *arg) {
    attempt_over(arg, s, err);
}

static void on_first(struct stream *s, const struct error *err, void *arg) {
    struct attempt *a = arg;
    if (s || err->kind != ECONNREFUSED)
        attempt_over(a, s, err);
    else
        stream_connect_tcp(a->loop, "::1", a->port, CONNECT_MS, on_second, a);
}

static void dial(struct http_dial *d, void *arg) {
    struct execd *e = arg;
    struct attempt *a = malloc(sizeof *a);
    struct error err;
    if (!a) {
        (void)error_errno(&err, ENOMEM, "dial");
        http_dial_done(d, -1, &err);
        return;
    }
    *a = (struct attempt){.loop = &e->loop, .dial = d, .port = http_dial_port(d)};
    stream_connect_tcp(a->loop, "127.0.0.1", a->port, CONNECT_MS, on_first, a);
}

int proxy_room_start(struct execd *e, struct error *err) {
    const struct http_upstream_settings s = {.dial = dial,
                                             .arg = e,
                                             .connections_max = CONNECTIONS_MAX,
                                             .waiting_max = WAITING_MAX,
                                             .idle_ms = IDLE_MS,
                                             .idle_max = IDLE_MAX};
    e->proxy = http_upstreams_new(&e->loop, &s, PORTS_MAX);
    return e->proxy ? 0 : error_errno(err, ENOMEM, "proxy");
}

void proxy_room_stop(struct execd *e) {
    http_upstreams_free(TAKE_PTR(e->proxy));
}

// ---- requests ----

// Our token is for us, not for what runs beside us; the addresses are told anew.
static bool drop_request(const struct http_field *f, void *arg) {
    static const char *const ours[] = {"X-EXECD-ACCESS-TOKEN", "X-Forwarded-For",
                                       "X-Forwarded-Host", "X-Forwarded-Proto"};
    (void)arg;
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
        if (!strcasecmp(f->name, ours[i]))
            return true;
    return false;
}

static size_t add_field(struct http_field *to, const char *name, const char *value) {
    if (!value)
        return 0;
    *to = (struct http_field){name, value, strlen(name), strlen(value)};
    return 1;
}

static void pass_on(struct http_exchange *x, struct http_upstream *u, const char *target) {
    struct http_field *add = arena_alloc(x->arena, 2 * sizeof *add);
    const char *before = http_header(x, "X-Forwarded-For"), *peer = *x->peer ? x->peer : NULL;
    const char *proto = http_header(x, "X-Forwarded-Proto");
    size_t count = 0;
    if (add) {
        const char *all = before && peer ? arena_printf(x->arena, "%s, %s", before, peer)
                          : before       ? before
                                         : peer;
        count += add_field(&add[count], "X-Forwarded-For", all);
        count += add_field(&add[count], "X-Forwarded-Proto", proto ? proto : "http");
    }
    const struct http_proxy_policy policy = {.target = target,
                                             .drop_request = drop_request,
                                             .add = add,
                                             .add_count = count,
                                             .connect_ms = CONNECT_MS};
    http_proxy_run(x, u, &policy);
}

void handle_proxy(struct http_exchange *x) {
    struct execd *e = execd_of(x);
    const char *text = http_param(x, "port"), *rest = *x->rest ? x->rest : "/";
    uint64_t port;
    if (parse_u64(text, 1, 65535, &port) < 0) {
        execd_fail(x, 400, CODE_BODY, "port %s must be a number from 1 to 65535", text);
        return;
    }
    const char *target = *x->query ? arena_printf(x->arena, "%s?%s", rest, x->query) : rest;
    if (target && (port == EXECD_PORT || port == e->port)) {
        http_server_redispatch(x, target);
        return;
    }
    struct http_upstream *u = target ? http_upstreams_at(e->proxy, (unsigned)port) : NULL;
    if (u)
        pass_on(x, u, target);
    else
        execd_fail(x, 503, CODE_RUNTIME, "%d ports are in use already", PORTS_MAX);
}

void handle_proxy_no_port(struct http_exchange *x) {
    static const char text[] = "port is required";
    http_reply(x, 400, "text/plain", text, sizeof text - 1);
}
