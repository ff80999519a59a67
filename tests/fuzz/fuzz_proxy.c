// The whole proxy: a client's bytes, a NUL, and an upstream's, which every connection to it answers
// with at once. Every exchange must end, and nothing stay open.
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "http/proxy.h"
#include "io/signals.h"

enum { TURNS = 24, PEERS_MAX = 8 };

struct peers {
    const char *said;
    size_t len;
    int fd[PEERS_MAX];
    unsigned count, begun, over;
    struct http_upstream *upstream;
};

static void dial(struct http_dial *d, void *arg) {
    const struct error err = {.kind = ECONNREFUSED};
    struct peers *p = arg;
    int fds[2] = {-1, -1};
    if (p->count < PEERS_MAX && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0) {
        (void)!send(fds[0], p->said, p->len, MSG_DONTWAIT);
        if (p->len % 2) // others stay silent
            (void)shutdown(fds[0], SHUT_WR);
        p->fd[p->count++] = fds[0];
    }
    http_dial_done(d, fds[1], &err);
}

static void over(struct http_exchange *x, void *arg) {
    (void)x;
    ((struct peers *)arg)->over++;
}

static void handle(struct http_exchange *x) {
    struct peers *p = http_server_user(x->server);
    const struct http_proxy_policy policy = {.target = x->request->target,
                                             .cookie_path = "/p",
                                             .location_prefix = "/p",
                                             .done = over,
                                             .arg = p};
    p->begun++;
    http_proxy_run(x, p->upstream, &policy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct http_route route = {"*", "/*", handle, HTTP_BODY_STREAMED, 0, ""};
    const char *asked = (const char *)data, *nul = size ? memchr(asked, 0, size) : NULL;
    struct peers p = {0};
    struct loop l;
    struct error err;
    struct http_server_settings s;
    int fds[2];
    if (!nul)
        return 0;
    p.said = nul + 1;
    p.len = size - (size_t)(nul - asked) - 1;
    signals_init();
    CHECK(!loop_init(&l, &err) && !socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    http_server_defaults(&s);
    s.routes = &route;
    s.route_count = 1;
    s.user = &p;
    const struct http_upstream_settings u = {
        .dial = dial, .arg = &p, .connections_max = 2, .idle_ms = 1000, .idle_max = 1};
    struct http_server *server = http_server_new(&l, &s, &err);
    CHECK(server && (p.upstream = http_upstream_new(&l, &u)));
    http_server_accept(server, fds[1]);
    (void)!send(fds[0], asked, (size_t)(nul - asked), MSG_DONTWAIT);
    for (int i = 0; i < TURNS; i++)
        loop_step(&l);
    close(fds[0]);
    for (int i = 0; i < TURNS; i++)
        loop_step(&l);
    CHECK(p.begun == p.over); // nobody waits for a client that left
    http_server_free(server);
    http_upstream_free(p.upstream);
    while (p.count)
        close(p.fd[--p.count]);
    loop_step(&l);
    CHECK(loop_close(&l) == 0);
    return 0;
}
