#include "execd/orphans.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/log.h"

static void *run(void *arg) {
    struct orphans *o = arg;
    o->code = o->program(o->arg);
    atomic_store(&o->over, true);
    (void)pthread_kill(o->first, SIGCHLD); // it may be waiting
    return NULL;
}

// __WNOTHREAD: not the children of other threads.
static void reap(struct orphans *o) {
    siginfo_t info = {.si_pid = 0};
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WNOTHREAD) == 0 && info.si_pid) {
        atomic_fetch_add(&o->reaped, 1);
        info.si_pid = 0;
    }
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
    (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + 10); // of this thread
    while (!atomic_load(&o->over)) {
        reap(o);
        (void)sigwait(&child, &number);
    }
    (void)pthread_join(second, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return o->code;
}
