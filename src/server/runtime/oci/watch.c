#include "server/runtime/oci/watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/map.h"
#include "io/lookout.h"
#include "server/runtime/ends.h"

struct watched {
    char id[SANDBOX_ID_SIZE];
    int pidfd, status;
};

struct watch {
    struct lookout *lookout;
    struct ends *ends;
    pthread_mutex_t lock; // guards the boxes
    struct map boxes;
};

// The wait status; unknown when the sandbox is not our child (it began under an earlier server).
static int reap(int pidfd) {
    siginfo_t info = {.si_pid = 0};
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) || !info.si_pid)
        return WATCH_STATUS_UNKNOWN;
    return info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status & 0x7f;
}

static bool note_end(const char *key, void *value, void *arg) {
    struct watched *b = value;
    struct watch *w = arg;
    struct pollfd p = {.fd = b->pidfd, .events = POLLIN};
    (void)key;
    if (b->status == WATCH_STATUS_ALIVE && poll(&p, 1, 0) == 1) {
        lookout_remove(w->lookout, b->pidfd);
        b->status = reap(b->pidfd);
        ends_tell(w->ends, b->id);
    }
    return true;
}

static int look(bool late, void *arg) {
    struct watch *w = arg;
    (void)late;
    (void)pthread_mutex_lock(&w->lock);
    map_each(&w->boxes, note_end, w);
    (void)pthread_mutex_unlock(&w->lock);
    return -1;
}

struct watch *watch_new(struct error *err) {
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    (void)pthread_mutex_init(&w->lock, NULL);
    map_init(&w->boxes);
    if ((w->ends = ends_new(err)) &&
        (w->lookout = lookout_new("watcher of sandboxes", -1, look, w, err)))
        return w;
    watch_free(w);
    return NULL;
}

static bool free_entry(const char *key, void *value, void *arg) {
    (void)key;
    (void)arg;
    free(value);
    return true;
}

void watch_free(struct watch *w) {
    if (!w)
        return;
    lookout_free(w->lookout);
    map_each(&w->boxes, free_entry, NULL);
    map_clear(&w->boxes);
    ends_free(w->ends);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}

void watch_deliver(struct watch *w, struct loop *l, runtime_event_fn *event, void *arg) {
    ends_deliver(w->ends, l, event, arg);
}

void watch_stop(struct watch *w) {
    ends_stop(w->ends);
}

int watch_add(struct watch *w, const char *id, int pidfd, struct error *err) {
    struct watched *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, ENOMEM, "out of memory");
    (void)snprintf(b->id, sizeof b->id, "%s", id);
    b->pidfd = pidfd;
    b->status = WATCH_STATUS_ALIVE;
    (void)pthread_mutex_lock(&w->lock);
    int r = map_put(&w->boxes, id, b) ? ENOMEM : lookout_add(w->lookout, pidfd) ? errno : 0;
    if (r)
        (void)map_remove(&w->boxes, id);
    (void)pthread_mutex_unlock(&w->lock);
    if (!r)
        return 0;
    free(b);
    return error_errno(err, r, "watch of the sandbox");
}

int watch_remove(struct watch *w, const char *id) {
    (void)pthread_mutex_lock(&w->lock);
    struct watched *b = map_remove(&w->boxes, id);
    int status = b ? b->status : WATCH_STATUS_UNKNOWN;
    if (b && status == WATCH_STATUS_ALIVE)
        lookout_remove(w->lookout, b->pidfd);
    (void)pthread_mutex_unlock(&w->lock);
    free(b);
    return status;
}

int watch_status(struct watch *w, const char *id) {
    (void)pthread_mutex_lock(&w->lock);
    const struct watched *b = map_get(&w->boxes, id);
    int status = b ? b->status : WATCH_STATUS_UNKNOWN;
    (void)pthread_mutex_unlock(&w->lock);
    return status;
}
