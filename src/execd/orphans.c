#include "execd/orphans.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"

// A parent that has just ended may hold the kernel's lock still, and waiting for that one spins on
// a processor that others need; they also need it between many that have ended at once.
enum { BATCH = 100 };
static const struct timespec moment = {.tv_nsec = 10 * 1000000L};

static void *run(void *arg) {
    struct orphans *o = arg;
    o->code = o->program(o->arg);
    atomic_store(&o->over, true);
    (void)pthread_kill(o->first, SIGCHLD); // it may be waiting
    return NULL;
}

// Whether there may be more. __WNOTHREAD: not the children of other threads.
static bool reap(struct orphans *o) {
    for (int i = 0; i < BATCH; i++) {
        siginfo_t info = {.si_pid = 0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WNOTHREAD) < 0 || !info.si_pid)
            return false;
        atomic_fetch_add(&o->reaped, 1);
    }
    return true;
}

int orphans_run(struct orphans *o, int (*program)(void *arg), void *arg) {
    pthread_t second;
    sigset_t child, old;
    int number;
    o->program = program;
    o->arg = arg;
    o->first = pthread_self();
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    (void)pthread_sigmask(SIG_BLOCK, &child, NULL); // in all threads: sigwait() takes it
    int r = pthread_create(&second, NULL, run, o);
    if (r) {
        log_error("thread: %s", strerrordesc_np(r));
        return 1;
    }
    (void)sigfillset(&child);
    (void)pthread_sigmask(SIG_BLOCK, &child, &old); // all other signals are the loop thread's
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    while (!atomic_load(&o->over)) {
        if (!reap(o))
            (void)sigwait(&child, &number);
        if (!atomic_load(&o->over))
            (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
    }
    (void)pthread_join(second, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return o->code;
}
