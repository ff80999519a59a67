// Orphans: processes whose parent ended before them. The kernel makes them children of the first
// thread of a PID 1 or subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), and while the children of one
// parent change theirs it holds the lock that wait(2) needs, 1 ms for each thousand. So the first
// thread does nothing else than reap them, and the loop has a thread of its own, which waits for
// nobody but its own children (process.h).
#ifndef EXECD_ORPHANS_H
#define EXECD_ORPHANS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct orphans {
    _Atomic uint64_t reaped;
    int (*program)(void *arg);
    void *arg;
    pthread_t first;
    atomic_bool over;
    int code;
};

// First thread of the process, before there is another one. Runs program(arg) in a second thread,
// reaps until it returns, and returns what it returned; 1 when there can be no second thread.
int orphans_run(struct orphans *o, int (*program)(void *arg), void *arg);

#endif
