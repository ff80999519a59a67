// Reaching a port of a sandbox: from inside of its network namespace where that can be entered,
// else where the engine publishes execd (docs/architecture.md section 7).
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "http/client.h"
#include "server/runtime/docker/ssh/forward.h"
#include "server/runtime/docker/windows/windows.h"
#include "server/runtime/inside.h"

enum {
    INSIDE_WAIT_MS = 1000,
    OUTSIDE_WAIT_MS = 5000,
    CGROUP_TEXT_MAX = 16384,
    ANSWER_MAX = 4096,
    ANSWER_MS = 2000
};

// ---- the namespace ----

// A process that is ending has no network any more, and then no directory: ENOENT is ESRCH.
static int ended(struct error *err) {
    err->kind = err->kind == ENOENT ? ESRCH : err->kind;
    return -1;
}

static int in_container(int pid, const char *container, struct error *err) {
    char path[64], text[CGROUP_TEXT_MAX];
    (void)snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
    if (fd_read_text(AT_FDCWD, path, text, sizeof text, err))
        return ended(err);
    return strstr(text, container)
               ? 0
               : error_set(err, ESRCH,
                           "process %d is not in the control group of container %.12s; does the "
                           "engine run on this host, seen from this server?",
                           pid, container);
}

int docker_namespace_open(int pid, const char *container, int *ret_fd, struct error *err) {
    char path[64];
    struct pollfd p = {.events = POLLIN};
    cleanup_close int pidfd = pid > 1 ? pidfd_open(pid, 0) : -1;
    if (pidfd < 0)
        return error_errno(err, pid > 1 ? errno : ESRCH, "first process of container %.12s",
                           container);
    if (in_container(pid, container, err))
        return -1;
    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        (void)error_errno(err, errno, "network of container %.12s", container);
        return ended(err);
    }
    p.fd = pidfd;
    if (poll(&p, 1, 0) != 0) // it has ended: the number may have been another's
        return error_set(err, ESRCH, "the first process of container %.12s has ended", container);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

// ---- connecting ----

static int await(int fd, int wait_ms) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int failed = 0;
    socklen_t len = sizeof failed;
    if (poll(&p, 1, wait_ms) != 1)
        return ETIMEDOUT;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) ? errno : failed;
}

static int connect_to(int fd, const struct sockaddr *a, socklen_t len, int wait_ms, unsigned port,
                      struct error *err) {
    int failed = connect(fd, a, len) ? errno : 0;
    if (failed == EINPROGRESS)
        failed = await(fd, wait_ms);
    return failed ? error_errno(err, failed, "port %u of the sandbox", port) : 0;
}

static int connect_inside(int net, uint32_t address, unsigned port, struct error *err) {
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = address};
    cleanup_close int fd = inside_socket(net, err);
    if (fd < 0 || connect_to(fd, (const struct sockaddr *)&a, sizeof a, INSIDE_WAIT_MS, port, err))
        return -1;
    return TAKE_FD(fd);
}

static int connect_outside(const char *host, unsigned port, struct error *err) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    char service[16];
    int ret = -1;
    (void)snprintf(service, sizeof service, "%u", port);
    int r = getaddrinfo(host, service, &hints, &list);
    if (r)
        return error_set(err, EHOSTUNREACH, "the engine's host %s: %s", host, gai_strerror(r));
    for (const struct addrinfo *i = list; i && ret < 0; i = i->ai_next) {
        cleanup_close int fd = socket(i->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            (void)error_errno(err, errno, "socket");
        else if (!connect_to(fd, i->ai_addr, i->ai_addrlen, OUTSIDE_WAIT_MS, port, err))
            ret = TAKE_FD(fd);
    }
    freeaddrinfo(list);
    return ret;
}

static int dial_inside(int net, uint32_t address, unsigned port, struct error *err) {
    struct error first; // the address is tried before the loopback; only the last refusal is told
    int fd = address ? connect_inside(net, address, port, &first) : -1;
    return fd >= 0 ? fd : connect_inside(net, htonl(INADDR_LOOPBACK), port, err);
}

static int dial_published(struct docker *d, const struct box *b, unsigned port, struct error *err) {
    int fd = -1;
    if (!d->forwards)
        return connect_outside(b->host, port, err);
    return ssh_forward_dial(d->forwards, port, &fd, err) ? -1 : fd;
}

static int dial_guest(struct docker *d, const struct box *b, unsigned port, struct error *err) {
    int i = windows_port_index(port);
    if (i < 0 || !b->guest_ports[i])
        return error_set(err, ENOTSUP, "port %u of a Windows guest is not published", port);
    return dial_published(d, b, b->guest_ports[i], err);
}

int docker_dial_box(struct docker *d, const struct box *b, unsigned port, int *ret_fd,
                    struct error *err) {
    int fd;
    if (port == EGRESS_PORT && !b->policy)
        return error_set(err, ENOTCONN, "the sandbox has no network policy");
    if (b->guest)
        fd = dial_guest(d, b, port, err);
    else if (port == EGRESS_PORT && b->egress_port)
        fd = dial_published(d, b, b->egress_port, err);
    else if (port == EXECD_PORT && b->port)
        fd = dial_published(d, b, b->port, err);
    else if (d->host_network)
        fd = connect_outside("127.0.0.1", port, err);
    else if (b->net_fd >= 0)
        fd = dial_inside(b->net_fd, b->address, port, err);
    else
        fd = error_set(err, ENOTSUP,
                       "port %u: this server cannot enter the sandbox's network, and the engine "
                       "publishes port %d alone",
                       port, EXECD_PORT);
    if (fd < 0)
        return -1;
    *ret_fd = fd;
    return 0;
}

int docker_ask(struct docker *d, const struct box *b, unsigned port, const char *path,
               struct error *err) {
    struct strbuf body cleanup_strbuf;
    unsigned status = 0;
    int fd = -1;
    strbuf_init(&body, ANSWER_MAX);
    if (docker_dial_box(d, b, port, &fd, err))
        return 0;
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    struct http_client *c = http_client_new(fd);
    if (!c)
        return error_set(err, ENOMEM, "out of memory");
    int r = http_client_request(c, "GET", path, "", NULL, 0, &status, &body, ANSWER_MS, err);
    http_client_free(c);
    if (!r && status != 200)
        (void)error_set(err, EPROTO, "status %u: %.200s", status, body.data);
    return !r && status == 200;
}

int docker_dial(struct docker *d, const char *id, unsigned port, int *ret_fd, struct error *err) {
    (void)pthread_mutex_lock(&d->lock); // a dial may meet a destroy: what it uses is a copy
    const struct box *b = map_get(&d->boxes, id);
    bool usable = b && !b->ended;
    struct box copy = usable ? *b : (struct box){.net_fd = -1};
    if (copy.net_fd >= 0)
        copy.net_fd = fcntl(copy.net_fd, F_DUPFD_CLOEXEC, 0);
    (void)pthread_mutex_unlock(&d->lock);
    cleanup_close int net = copy.net_fd;
    if (!usable)
        return error_set(err, ENOTCONN, "sandbox %s does not run", id);
    copy.net_fd = net;
    return docker_dial_box(d, &copy, port, ret_fd, err);
}
