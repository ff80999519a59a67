#include "io/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "base/cleanup.h"

struct stream {
    uv_poll_t poll; // first: freed in its close callback
    int fd;
    unsigned wanted;
    bool armed; // the handle is told what is wanted
    stream_ready_fn *ready;
    void *arg;
};

static void on_closed(uv_handle_t *h) {
    free(h);
}

static void arm(struct stream *s);

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct stream *s = CONTAINER_OF(poll, struct stream, poll);
    unsigned seen = status < 0 ? s->wanted
                               : ((unsigned)events & UV_READABLE ? STREAM_READABLE : 0u) |
                                     ((unsigned)events & UV_WRITABLE ? STREAM_WRITABLE : 0u);
    seen &= s->wanted;
    if (status <
        0) // libuv stopped the handle; what was received before the error is still to be read
        s->armed = false;
    if (seen && s->ready)
        s->ready(s, seen, s->arg);
    if (s->fd >= 0) // closed inside the call: freed in a later phase of this turn
        arm(s);
}

struct stream *stream_open(struct loop *l, int fd, stream_ready_fn *ready, void *arg) {
    struct stream *s = calloc(1, sizeof *s);
    int flags = fcntl(fd, F_GETFL);
    if (!s || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        int why = s ? errno : ENOMEM;
        free(s);
        (void)close(fd);
        errno = why;
        return NULL;
    }
    int r = uv_poll_init(&l->uv, &s->poll, fd);
    if (r < 0) {
        free(s);
        (void)close(fd);
        errno = -r;
        return NULL;
    }
    s->fd = fd;
    s->ready = ready;
    s->arg = arg;
    return s;
}

void stream_set_owner(struct stream *s, stream_ready_fn *ready, void *arg) {
    s->ready = ready;
    s->arg = arg;
}

static void arm(struct stream *s) {
    if (s->armed)
        return;
    s->armed = true;
    int mask = (s->wanted & STREAM_READABLE ? UV_READABLE : 0) |
               (s->wanted & STREAM_WRITABLE ? UV_WRITABLE : 0);
    if (mask)
        (void)uv_poll_start(&s->poll, mask, on_poll); // fails on closing handles only
    else
        (void)uv_poll_stop(&s->poll);
}

void stream_want(struct stream *s, unsigned events) {
    if (events == s->wanted)
        return;
    s->wanted = events;
    s->armed = false;
    arm(s);
}

ssize_t stream_read(struct stream *s, void *data, size_t size) {
    ssize_t n;
    do
        n = read(s->fd, data, size);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EIO) // a pty whose last slave was closed
        return 0;
    return n;
}

ssize_t stream_writev(struct stream *s, const struct iovec *iov, int count) {
    ssize_t n;
    do
        n = writev(s->fd, iov, count);
    while (n < 0 && errno == EINTR);
    return n;
}

ssize_t stream_write(struct stream *s, const void *data, size_t size) {
    struct iovec one = {.iov_base = (void *)data, .iov_len = size};
    return stream_writev(s, &one, 1);
}

int stream_shutdown(struct stream *s) {
    return shutdown(s->fd, SHUT_WR) < 0 && errno != ENOTSOCK && errno != ENOTCONN ? -1 : 0;
}

void stream_close(struct stream *s) {
    if (!s)
        return;
    s->ready = NULL;
    s->wanted = 0;
    uv_poll_stop(&s->poll);
    (void)close(s->fd); // after the stop: libuv has forgotten the descriptor
    s->fd = -1;
    uv_close((uv_handle_t *)&s->poll, on_closed);
}

int stream_fd(const struct stream *s) {
    return s->fd;
}

unsigned stream_peer(const struct stream *s, char *ret_text, size_t size) {
    struct sockaddr_storage at = {0};
    socklen_t at_size = sizeof at;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&at;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&at;
    ret_text[0] = '\0';
    if (getpeername(s->fd, (struct sockaddr *)&at, &at_size) < 0)
        return 0;
    if (at.ss_family == AF_INET)
        return inet_ntop(AF_INET, &v4->sin_addr, ret_text, (socklen_t)size) ? ntohs(v4->sin_port)
                                                                            : 0;
    if (at.ss_family != AF_INET6)
        return 0;
    bool mapped = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);
    return inet_ntop(mapped ? AF_INET : AF_INET6, v6->sin6_addr.s6_addr + (mapped ? 12 : 0),
                     ret_text, (socklen_t)size)
               ? ntohs(v6->sin6_port)
               : 0;
}

// ---- connect ----

struct connecting {
    struct loop_task task; // failures before the first poll are told later, never inside the call
    struct timer timer;
    struct loop *loop;
    struct stream *stream;
    struct error error;
    stream_connected_fn *done;
    void *arg;
};

static void connect_over(struct connecting *c, const struct error *err) {
    struct stream *s = c->stream;
    timer_stop(&c->timer);
    if (err) {
        stream_close(s);
        s = NULL;
    } else {
        stream_want(s, 0);
        stream_set_owner(s, NULL, NULL);
    }
    c->done(s, err, c->arg);
    free(c);
}

static void connect_failed(struct loop_task *task) {
    struct connecting *c = CONTAINER_OF(task, struct connecting, task);
    connect_over(c, &c->error);
}

static void connect_late(struct timer *t) {
    struct connecting *c = CONTAINER_OF(t, struct connecting, timer);
    (void)error_errno(&c->error, ETIMEDOUT, "connect");
    connect_over(c, &c->error);
}

static void connect_ready(struct stream *s, unsigned events, void *arg) {
    struct connecting *c = arg;
    int why = 0;
    socklen_t size = sizeof why;
    (void)events;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &why, &size) < 0)
        why = errno;
    if (why)
        (void)error_errno(&c->error, why, "connect");
    connect_over(c, why ? &c->error : NULL);
}

// Literal addresses only: nothing is looked up. 0, or -1 with errno.
static int literal(const char *host, unsigned port, struct sockaddr_storage *ret,
                   socklen_t *ret_size) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
    *ret = (struct sockaddr_storage){0};
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *ret_size = sizeof *v4;
        return 0;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *ret_size = sizeof *v6;
        return 0;
    }
    errno = EINVAL;
    return -1;
}

void stream_connect_tcp(struct loop *l, const char *address, unsigned port, int64_t time_out_ms,
                        stream_connected_fn *done, void *arg) {
    struct connecting *c = calloc(1, sizeof *c);
    struct sockaddr_storage to;
    socklen_t size;
    struct error err;
    if (!c) {
        (void)error_errno(&err, ENOMEM, "connect");
        done(NULL, &err, arg);
        return;
    }
    c->loop = l;
    c->done = done;
    c->arg = arg;
    c->task.run = connect_failed;
    int fd = literal(address, port, &to, &size) < 0
                 ? -1
                 : socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1},
                         sizeof(int)); // only latency suffers without it
    if (fd < 0 || (connect(fd, (struct sockaddr *)&to, size) < 0 && errno != EINPROGRESS)) {
        (void)error_errno(&c->error, errno, "connect to %s port %u", address, port);
        if (fd >= 0)
            (void)close(fd);
        loop_defer(l, &c->task);
        return;
    }
    c->stream = stream_open(l, fd, connect_ready, c);
    if (!c->stream) {
        (void)error_errno(&c->error, errno, "connect to %s port %u", address, port);
        loop_defer(l, &c->task);
        return;
    }
    stream_want(c->stream, STREAM_WRITABLE);
    timer_start(l, &c->timer, time_out_ms, connect_late);
}

int listen_tcp(const char *host, unsigned port, int backlog, struct error *err) {
    struct sockaddr_storage at;
    socklen_t size;
    if (literal(host, port, &at, &size) < 0)
        return error_set(err, EINVAL, "%s is no literal IPv4 or IPv6 address", host);
    cleanup_close int fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) ||
        bind(fd, (struct sockaddr *)&at, size) || listen(fd, backlog))
        return error_errno(err, errno, "listen on %s port %u", host, port);
    return TAKE_FD(fd); // cppcheck-suppress resourceLeak ; taken
}
