#include "server/runtime/oci/chores.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/path.h"
#include "base/random.h"
#include "server/runtime/oci/image/image.h"

enum { IOPRIO_IDLE = 3 << 13, IOPRIO_WHO_PROCESS = 1, NICE_LOWEST = 19, LAST_MS = 2000 };
enum { HOUR_S = 3600, DAY_MS = 24 * HOUR_S * 1000 };

struct worker {
    pthread_t thread;
    pthread_cond_t wake;
    bool wanted;
};

struct chores {
    pthread_mutex_t lock; // guards `wanted` of both and the next two
    struct worker attach, remove;
    bool ending;
    int64_t end_ms; // when `ending`: how long the trash may still be emptied
    int self_procs, trash;
    struct image_store *images;
};

// Waits for work, at most an hour; false at the end.
static bool next(struct chores *c, struct worker *w) {
    struct timespec end;
    (void)clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += HOUR_S;
    (void)pthread_mutex_lock(&c->lock);
    for (int r = 0; !r && !w->wanted && !c->ending;)
        r = pthread_cond_timedwait(&w->wake, &c->lock, &end);
    bool go = !c->ending;
    w->wanted = false;
    (void)pthread_mutex_unlock(&c->lock);
    return go;
}

static void want(struct chores *c, struct worker *w) {
    (void)pthread_mutex_lock(&c->lock);
    w->wanted = true;
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&c->lock);
}

static void *attach(void *arg) {
    struct chores *c = arg;
    while (next(c, &c->attach)) // also once an hour without a reason, which does no harm
        if (c->self_procs >= 0)
            (void)!write(c->self_procs, "0",
                         1); // only a hint to the kernel: its failure costs time, nothing else
    return NULL;
}

// At the end there is a little time left to leave nothing behind.
static bool out_of_time(struct chores *c) {
    (void)pthread_mutex_lock(&c->lock);
    bool out = c->ending && clock_boot_ms() > c->end_ms;
    (void)pthread_mutex_unlock(&c->lock);
    return out;
}

static void empty_once(struct chores *c) {
    int fd = openat(c->trash, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        (void)close(fd);
    for (struct dirent *e; d && !out_of_time(c) && (e = readdir(d));) {
        struct error ignored; // it stays in the trash and is tried again at the next start
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            (void)path_remove_tree(c->trash, e->d_name, &ignored);
    }
    if (d)
        (void)closedir(d);
}

static void *empty_trash(void *arg) {
    struct chores *c = arg;
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE_LOWEST);
    (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
    for (int64_t next_prune = clock_boot_ms() + DAY_MS; next(c, &c->remove);) {
        struct error err;
        empty_once(c);
        if (clock_boot_ms() < next_prune)
            continue;
        next_prune = clock_boot_ms() + DAY_MS;
        if (image_store_prune(c->images, &err))
            log_warning("images: %s", err.message);
    }
    empty_once(c);
    return NULL;
}

struct chores *chores_new(int self_procs, int trash, struct image_store *images,
                          struct error *err) {
    struct chores *c = calloc(1, sizeof *c);
    if (!c)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    c->self_procs = self_procs;
    c->trash = trash;
    c->images = images;
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_cond_init(&c->attach.wake, NULL);
    (void)pthread_cond_init(&c->remove.wake, NULL);
    int r = pthread_create(&c->attach.thread, NULL, attach, c);
    if (r) {
        free(c);
        return (void)error_errno(err, r, "background thread"), NULL;
    }
    r = pthread_create(&c->remove.thread, NULL, empty_trash, c);
    if (!r)
        return c;
    c->ending = true;
    want(c, &c->attach);
    (void)pthread_join(c->attach.thread, NULL);
    free(c);
    return (void)error_errno(err, r, "background thread"), NULL;
}

void chores_free(struct chores *c) {
    if (!c)
        return;
    (void)pthread_mutex_lock(&c->lock);
    c->ending = true;
    c->end_ms = clock_boot_ms() + LAST_MS;
    (void)pthread_mutex_unlock(&c->lock);
    want(c, &c->attach);
    want(c, &c->remove);
    (void)pthread_join(c->attach.thread, NULL);
    (void)pthread_join(c->remove.thread, NULL);
    (void)pthread_cond_destroy(&c->attach.wake);
    (void)pthread_cond_destroy(&c->remove.wake);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

void chores_expect(struct chores *c) {
    want(c, &c->attach);
}
void chores_empty(struct chores *c) {
    want(c, &c->remove);
}

int chores_discard(struct chores *c, int at, const char *name, struct error *err) {
    char fresh[40];
    random_hex(fresh, 32);
    if (renameat(at, name, c->trash, fresh)) {
        if (errno == ENOENT)
            return 0;
        return error_errno(err, errno, "moving %s to the trash", name);
    }
    want(c, &c->remove);
    return 0;
}
