// The first process: holds nothing, starts the worker again when it ends, passes TERM on (egress.md
// 1.6). Rules stay in place whatever happens here, so every gap is closed. One JSON line on stderr
// for each thing that happens.
#ifndef EGRESS_SUPERVISOR_H
#define EGRESS_SUPERVISOR_H

enum { SUPERVISOR_OK = 0, SUPERVISOR_BURST = 1, SUPERVISOR_SETUP = 2, SUPERVISOR_NO_RIGHT = 3 };

// Runs `self worker` until TERM or INT (0), too many ends in a short time, or an end that says that
// another try is in vain (SUPERVISOR_SETUP, SUPERVISOR_NO_RIGHT).
int supervisor_run(const char *self);

#endif
