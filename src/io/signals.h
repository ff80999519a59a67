// Signals on the loop. SIGPIPE is ignored from signals_init() on; children get default handlers
// back (io/spawn).
#ifndef IO_SIGNALS_H
#define IO_SIGNALS_H

#include "io/loop.h"

struct signal_watch {
    uv_signal_t *handle;
    void (*fire)(struct signal_watch *w, int number);
};
void signals_init(void);
int signal_watch_start(struct loop *l, struct signal_watch *w, int number,
                       void (*fire)(struct signal_watch *, int));
void signal_watch_stop(struct signal_watch *w);

#endif
