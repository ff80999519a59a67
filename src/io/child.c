#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "io/spawn.h"

static void on_closed(uv_handle_t *h) {
    free(h);
}

static void on_exit_readable(uv_poll_t *poll, int status, int events) {
    struct child_watch *w = poll->data;
    struct exit_status ended = {.code = -1};
    (void)status;
    (void)events;
    if (spawn_wait(w->pidfd, 0, &ended) < 0 && errno == ETIMEDOUT)
        return;
    child_watch_stop(w);
    w->exited(w, ended);
}

int child_watch_start(struct loop *l, struct child_watch *w, pid_t pid, int pidfd,
                      void (*exited)(struct child_watch *, struct exit_status)) {
    uv_poll_t *poll = calloc(1, sizeof *poll);
    if (!poll) {
        errno = ENOMEM;
        return -1;
    }
    int r = uv_poll_init(&l->uv, poll, pidfd);
    if (r < 0) {
        free(poll);
        errno = -r;
        return -1;
    }
    *w = (struct child_watch){.poll = poll, .pidfd = pidfd, .pid = pid, .exited = exited};
    poll->data = w;
    if ((r = uv_poll_start(poll, UV_READABLE, on_exit_readable)) < 0) {
        child_watch_stop(w);
        errno = -r;
        return -1;
    }
    return 0;
}

void child_watch_stop(struct child_watch *w) {
    if (w->poll)
        uv_close((uv_handle_t *)w->poll, on_closed);
    w->poll = NULL;
}
