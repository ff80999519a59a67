#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "io/stream.h"

enum { BURST = 64, FULL_PAUSE_MS = 100 };

struct listener {
    struct loop *loop;
    struct stream *stream;
    struct timer retry; // after EMFILE: descriptors come back when connections end
    struct loop_task grave;
    bool paused;
    listener_accept_fn *accepted;
    void *arg;
};

static void update(struct listener *li) {
    stream_want(li->stream, li->paused || timer_armed(&li->retry) ? 0 : STREAM_READABLE);
}

static void on_retry(struct timer *t) {
    update(CONTAINER_OF(t, struct listener, retry));
}

static void on_ready(struct stream *s, unsigned events, void *arg) {
    struct listener *li = arg;
    (void)events;
    for (int i = 0; i < BURST && !li->paused; i++) {
        int fd = accept4(stream_fd(s), NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                timer_start(li->loop, &li->retry, FULL_PAUSE_MS, on_retry);
                update(li);
            }
            if (errno != EINTR && errno != ECONNABORTED)
                return;
            continue;
        }
        li->accepted(li, fd, li->arg);
        if (!li->stream) // closed inside the call
            return;
    }
}

struct listener *listener_open(struct loop *l, int fd, listener_accept_fn *accepted, void *arg) {
    struct listener *li = calloc(1, sizeof *li);
    if (!li) {
        (void)close(fd);
        return NULL;
    }
    *li = (struct listener){.loop = l, .accepted = accepted, .arg = arg};
    li->stream = stream_open(l, fd, on_ready, li);
    if (!li->stream) {
        free(li);
        return NULL;
    }
    update(li);
    return li;
}

void listener_pause(struct listener *li, bool paused) {
    li->paused = paused;
    update(li);
}

static void free_later(struct loop_task *task) {
    free(CONTAINER_OF(task, struct listener, grave));
}

void listener_close(struct listener *li) {
    if (!li)
        return;
    timer_stop(&li->retry);
    stream_close(li->stream);
    li->stream = NULL;
    li->paused = true;
    li->grave.run = free_later; // it may be its own callback that closes it
    loop_defer(li->loop, &li->grave);
}

unsigned listener_port(const struct listener *li) {
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof at;
    if (getsockname(stream_fd(li->stream), (struct sockaddr *)&at, &size) < 0)
        return 0;
    if (at.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&at)->sin_port);
    return at.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&at)->sin6_port) : 0;
}
