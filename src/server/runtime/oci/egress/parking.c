#include "server/runtime/oci/egress/parking.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/path.h"
#include "base/random.h"

struct parking {
    const struct egress_program *program;
    int sandboxes;
    pthread_t thread;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t change;
    struct network *network;
    struct parked items[PARKING_MAX];
    unsigned count, busy;
    bool wanted, ending;
};

static void close_parked(struct parked *p) {
    if (p->dir >= 0)
        (void)close(TAKE_FD(p->dir));
}

void parking_leave(struct parking *s, struct parked *p) {
    struct error err;
    close_parked(p);
    if (path_remove_tree(s->sandboxes, p->name, &err) < 0) // its settings
        log_warning("parked egress: %s", err.message);
}

void parking_discard(struct parking *s, struct parked *p) {
    struct error err;
    if (egress_end(s->program, p->name, TAKE_FD(p->pidfd), &err) < 0)
        log_warning("parked egress: %s", err.message);
    if (p->net.net_fd >= 0)
        network_release(s->network, p->name, &p->net);
    parking_leave(s, p);
    p->name[0] = '\0';
}

static int make(struct parking *s, struct parked *p, struct error *err) {
    random_uuid(p->name);
    if (network_reserve(s->network, &p->net, err) < 0)
        return -1;
    if (mkdirat(s->sandboxes, p->name, 0700) < 0)
        return error_errno(err, errno, "directory of a parked egress");
    p->dir = openat(s->sandboxes, p->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (p->dir < 0)
        return error_errno(err, errno, "directory of a parked egress");
    return egress_park(s->program, p->dir, err) < 0
               ? -1
               : egress_start(s->program, p->name, p->dir, p->net.net_fd, &p->pidfd, err);
}

// With the lock; lets go of it meanwhile.
static bool fill_one(struct parking *s) {
    struct parked p = {.dir = -1, .pidfd = -1, .net = {.net_fd = -1, .user_fd = -1}};
    struct error err;
    (void)pthread_mutex_unlock(&s->lock);
    int r = make(s, &p, &err);
    if (r < 0) {
        log_warning("parked egress: %s", err.message);
        parking_discard(s, &p);
    }
    (void)pthread_mutex_lock(&s->lock);
    if (r == 0)
        s->items[s->count++] = p;
    return r == 0;
}

static void *fill(void *arg) {
    struct parking *s = arg;
    (void)pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        bool quiet = !s->wanted || s->busy || !s->network || s->count == PARKING_MAX;
        if (quiet || !fill_one(s)) // after a failure the next create tries again
            (void)pthread_cond_wait(&s->change, &s->lock);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

struct parking *parking_new(const struct egress_program *program, int sandboxes,
                            struct error *err) {
    struct parking *s = calloc(1, sizeof *s);
    if (!s)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    s->program = program;
    s->sandboxes = sandboxes;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->change, NULL);
    int r = pthread_create(&s->thread, NULL, fill, s);
    if (!r)
        return s;
    free(s);
    return (void)error_errno(err, r, "stock of parked egress"), NULL;
}

void parking_use(struct parking *s, struct network *n) {
    (void)pthread_mutex_lock(&s->lock);
    s->network = n;
    (void)pthread_mutex_unlock(&s->lock);
}

void parking_free(struct parking *s) {
    if (!s)
        return;
    (void)pthread_mutex_lock(&s->lock);
    s->ending = true;
    (void)pthread_cond_signal(&s->change);
    (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_join(s->thread, NULL);
    for (unsigned i = 0; i < s->count; i++)
        parking_discard(s, &s->items[i]);
    (void)pthread_cond_destroy(&s->change);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

void parking_busy(struct parking *s, enum network_load load) {
    (void)pthread_mutex_lock(&s->lock);
    if (load == NETWORK_CREATE_BEGINS)
        s->busy++;
    else if (!--s->busy)
        (void)pthread_cond_signal(&s->change);
    (void)pthread_mutex_unlock(&s->lock);
}

bool parking_take(struct parking *s, struct parked *ret) {
    for (;;) {
        (void)pthread_mutex_lock(&s->lock);
        s->wanted = true;
        bool some = s->count > 0;
        if (some) { // the oldest
            *ret = s->items[0];
            memmove(s->items, s->items + 1, --s->count * sizeof *ret);
        }
        (void)pthread_mutex_unlock(&s->lock);
        struct pollfd ended = {.fd = some ? ret->pidfd : -1, .events = POLLIN};
        if (!some || poll(&ended, 1, 0) == 0)
            return some;
        parking_discard(s, ret); // it ended while it waited
    }
}
