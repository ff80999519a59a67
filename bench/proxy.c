// What the rows proxy.* are measured with; each mode runs until it is killed, but the last.
//
//   proxy source PORT        the upstream: GET /bytes/N answers N bytes, anything else a small
//   reply proxy relay PORT SOURCE  our proxy in front of it, nothing else around proxy drain PORT
//   BYTES   one stream through whatever listens there: {"wall_ms": N, "cpu_ms": N}
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/parse.h"
#include "http/client.h"
#include "http/proxy.h"
#include "io/signals.h"
#include "io/stream.h"

enum { PIECE = 256 * 1024, HEAD_MAX = 4096, TIME_OUT_MS = 60000 };

static _Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

static int dial_local(unsigned port) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

// ---- source ----

static int send_bytes(int fd, uint64_t left) {
    static const char zeros[PIECE];
    for (size_t n; left; left -= n) {
        n = left < sizeof zeros ? (size_t)left : sizeof zeros;
        if (fd_write_all(fd, zeros, n) < 0)
            return -1;
    }
    return 0;
}

// Requests come one at a time, without bodies.
static int answer(int fd, const char *head) {
    static const char small[] = "HTTP/1.1 200 OK\r\nServer: source\r\nContent-Type: text/plain\r\n"
                                "Content-Length: 12\r\n\r\nhello, world";
    char text[128];
    uint64_t n;
    if (strncmp(head, "GET /bytes/", 11) != 0)
        return fd_write_all(fd, small, sizeof small - 1);
    if (parse_u64n(head + 11, strcspn(head + 11, " "), 0, UINT64_MAX, &n) < 0)
        return -1;
    (void)snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\n\r\n",
                   (unsigned long long)n);
    return fd_write_all(fd, text, strlen(text)) < 0 ? -1 : send_bytes(fd, n);
}

static void *serve(void *arg) {
    cleanup_close int fd = (int)(intptr_t)arg;
    char head[HEAD_MAX + 1];
    size_t len = 0;
    for (;;) {
        ssize_t n = read(fd, head + len, HEAD_MAX - len);
        if (n <= 0)
            return NULL;
        len += (size_t)n;
        head[len] = 0;
        if (len < 4 || memcmp(head + len - 4, "\r\n\r\n", 4) != 0)
            continue;
        len = 0;
        if (answer(fd, head) < 0)
            return NULL;
    }
}

static void source(unsigned port) {
    struct error err;
    int at = listen_tcp("127.0.0.1", port, 128, &err);
    if (at < 0 || fcntl(at, F_SETFL, 0) < 0)
        die("listen");
    for (;;) {
        pthread_t thread;
        int fd = accept4(at, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            die("accept");
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd))
            die("thread");
        (void)pthread_detach(thread);
    }
}

// ---- relay ----

static void dial(struct http_dial *d, void *arg) {
    struct error err;
    int fd = dial_local(*(unsigned *)arg);
    if (fd < 0)
        (void)error_errno(&err, errno, "source");
    http_dial_done(d, fd, fd < 0 ? &err : NULL);
}

static void handle(struct http_exchange *x) {
    const struct http_proxy_policy policy = {.target = x->request->target, .first_byte_ms = 60000};
    http_proxy_run(x, http_server_user(x->server), &policy);
}

static void relay(unsigned port, unsigned source_port) {
    static const struct http_route route = {"*", "/*", handle, HTTP_BODY_STREAMED, 0, ""};
    struct loop l;
    struct error err;
    struct http_server_settings s;
    const struct http_upstream_settings u = {.dial = dial,
                                             .arg = &source_port,
                                             .connections_max = 1024,
                                             .waiting_max = 1024,
                                             .idle_ms = 60000,
                                             .idle_max = 64};
    signals_init();
    if (loop_init(&l, &err) < 0)
        die("loop");
    http_server_defaults(&s);
    s.routes = &route;
    s.route_count = 1;
    s.user = http_upstream_new(&l, &u);
    struct http_server *server = http_server_new(&l, &s, &err);
    int fd = listen_tcp("127.0.0.1", port, 128, &err);
    if (!s.user || !server || fd < 0 || http_server_listen(server, fd, &err) < 0)
        die("listen");
    loop_run(&l);
}

// ---- drain ----

static int count(void *arg, const char *data, size_t len) {
    (void)data;
    *(uint64_t *)arg += len;
    return 0;
}

static void drain(unsigned port, uint64_t bytes) {
    char target[64];
    unsigned status = 0;
    uint64_t got = 0;
    struct error err = {0};
    struct rusage use;
    int fd = dial_local(port);
    if (fd < 0)
        die("connect");
    struct http_client *c = http_client_new(fd);
    (void)snprintf(target, sizeof target, "/bytes/%llu", (unsigned long long)bytes);
    int64_t begin = clock_boot_ns();
    if (!c || http_client_send(c, "GET", target, "", NULL, 0, &err) < 0 ||
        http_client_receive_stream(c, &status, count, &got, TIME_OUT_MS, &err) < 0 ||
        status != 200 || got != bytes) {
        fprintf(stderr, "status %u, %llu bytes: %s\n", status, (unsigned long long)got,
                err.message);
        exit(1);
    }
    double wall = (double)(clock_boot_ns() - begin) / 1e6;
    http_client_free(c);
    (void)getrusage(RUSAGE_SELF, &use);
    double cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e3 +
                 (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e3;
    printf("{\"wall_ms\": %.3f, \"cpu_ms\": %.3f}\n", wall, cpu);
}

int main(int argc, char **argv) {
    uint64_t port, other = 0;
    if (argc < 3 || parse_u64(argv[2], 1, 65535, &port) < 0 ||
        (argc > 3 && parse_u64(argv[3], 1, UINT64_MAX, &other) < 0)) {
        fprintf(stderr, "proxy source PORT | relay PORT SOURCE | drain PORT BYTES\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    if (strcmp(argv[1], "source") == 0)
        source((unsigned)port);
    else if (strcmp(argv[1], "relay") == 0)
        relay((unsigned)port, (unsigned)other);
    else
        drain((unsigned)port, other);
    return 0;
}
