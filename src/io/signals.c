#include "io/signals.h"

#include <errno.h>
#include <signal.h>

static void on_signal(uv_signal_t *h, int number) {
    struct signal_watch *w = h->data;
    w->fire(w, number);
}

static void on_closed(uv_handle_t *h) {
    free(h);
}

void signals_init(void) {
    (void)signal(SIGPIPE, SIG_IGN);
} // cannot fail for a known signal

int signal_watch_start(struct loop *l, struct signal_watch *w, int number,
                       void (*fire)(struct signal_watch *, int)) {
    uv_signal_t *h = calloc(1, sizeof *h);
    if (!h) {
        errno = ENOMEM;
        return -1;
    }
    int r = uv_signal_init(&l->uv, h);
    if (r < 0) {
        free(h);
        errno = -r;
        return -1;
    }
    h->data = w;
    w->handle = h;
    w->fire = fire;
    if ((r = uv_signal_start(h, on_signal, number)) < 0) {
        signal_watch_stop(w);
        errno = -r;
        return -1;
    }
    return 0;
}

void signal_watch_stop(struct signal_watch *w) {
    if (w->handle)
        uv_close((uv_handle_t *)w->handle, on_closed);
    w->handle = NULL;
}
