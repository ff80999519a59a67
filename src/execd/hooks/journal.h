// The sandbox's own log: what its entrypoint and its hooks write. With a server's ring
// (base/handoff.h) it is bounded there; without one all of them write to our own standard output
// and error, which whoever started us bounds. Loop thread.
#ifndef EXECD_HOOKS_JOURNAL_H
#define EXECD_HOOKS_JOURNAL_H

#include <stdbool.h>

#include "base/error.h"
#include "base/handoff.h"
#include "base/list.h"

struct execd;
struct journal {
    bool ring;
    struct handoff_log log;
    struct list pipes; // on their way into the ring, until nobody can write to them any more
};

int journal_open(struct journal *j, int ring_fd, struct error *err); // -1: no ring
// What a child gets as standard output and error: the end of a pipe, which the caller closes after
// the start, or without a ring -1, for ours. -1 with err.
int journal_begin(struct execd *e, int *ret_fd, struct error *err);
// All that was written before now, so by whoever has just ended, is in the ring.
void journal_drain(struct execd *e);
// A line of execd's about a hook: into our log, and into the ring where that is not the same.
void journal_say(struct journal *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
void journal_close(struct journal *j);

#endif
