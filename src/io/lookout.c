#include "io/lookout.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { EVENTS = 16 };

struct lookout {
    lookout_fn *look;
    void *arg;
    int wait_ms, epoll, wake;
    atomic_bool ending;
    pthread_t thread;
};

static void *run(void *arg) {
    struct lookout *l = arg;
    for (;;) {
        struct epoll_event events[EVENTS];
        eventfd_t ignored;
        int n = epoll_wait(l->epoll, events, EVENTS, l->wait_ms);
        if (n < 0 && errno != EINTR)
            return NULL; // our own descriptor: cannot happen
        (void)eventfd_read(l->wake, &ignored);
        if (atomic_load(&l->ending))
            return NULL;
        l->wait_ms = l->look(n == 0, l->arg);
    }
}

struct lookout *lookout_new(const char *what, int first_ms, lookout_fn *look, void *arg,
                            struct error *err) {
    cleanup_close int epoll = epoll_create1(EPOLL_CLOEXEC);
    cleanup_close int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct lookout *l = calloc(1, sizeof *l);
    int r = !l ? ENOMEM : epoll < 0 || wake < 0 ? errno : 0;
    if (!r) {
        *l = (struct lookout){
            .look = look, .arg = arg, .wait_ms = first_ms, .epoll = epoll, .wake = wake};
        r = lookout_add(l, wake) < 0 ? errno : pthread_create(&l->thread, NULL, run, l);
    }
    if (r) {
        free(l);
        return (void)error_errno(err, r, "%s", what), NULL;
    }
    (void)TAKE_FD(epoll);
    (void)TAKE_FD(wake);
    return l;
}

void lookout_free(struct lookout *l) {
    if (!l)
        return;
    atomic_store(&l->ending, true);
    lookout_wake(l);
    (void)pthread_join(l->thread, NULL);
    (void)close(l->epoll);
    (void)close(l->wake);
    free(l);
}

int lookout_add(struct lookout *l, int fd) {
    struct epoll_event e = {.events = EPOLLIN};
    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &e);
}

void lookout_remove(struct lookout *l, int fd) {
    (void)epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
}

void lookout_wake(struct lookout *l) {
    (void)eventfd_write(l->wake, 1);
}
