// Lifecycle hooks (compat-1.1.1.md L10, E20, E21): preStart runs before the entrypoint, which is
// not started when it fails; periodic hooks run on their schedules in UTC while the sandbox does. A
// sandbox without hooks pays nothing for them. Loop thread.
//
// A periodic hook never runs twice at once: ticks that come meanwhile are skipped, and how many is
// told at its end. Ticks that passed while the sandbox was paused, or that a step of the clock went
// over, are not made up for.
#ifndef EXECD_HOOKS_HOOKS_H
#define EXECD_HOOKS_HOOKS_H

#include "execd/execd.h"

struct hooks_settings {
    const char *lifecycle;   // base/handoff.h; NULL: no hooks
    const char *status_file; // is told how the start went (--lifecycle-startup-status-file)
    int (*enter)(struct execd *e, struct error *err); // starts the entrypoint, if any
    void (*give_up)(struct execd *e); // the start has failed: ends execd, replies first
};

// Once, behind everything else of a start. -1 with err: malformed, or enter() failed at once. What
// fails later (preStart, or enter() behind it) is told to who asks GET /start, in the sandbox's log
// and in the status file, before give_up().
//
// The status file holds {"state": "started"}, or {"state": "failed", "message": "..."}, and appears
// whole; GET /start answers the same when the start is over.
int hooks_start(struct execd *e, const struct hooks_settings *s, struct error *err);

#endif
