#include "server/runtime/ends.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/list.h"

// What the loop runs. A heap object of its own, because a posted task must live until it ran:
// whoever comes second of the task and ends_stop() frees it.
struct delivery {
    struct loop_task task;
    struct ends *ends; // NULL once stopped
};

struct end {
    struct list node;
    char id[SANDBOX_ID_SIZE];
};

struct ends {
    pthread_mutex_t lock; // guards everything below
    struct list untold;   // struct end
    struct loop *loop;
    runtime_event_fn *event;
    void *arg;
    struct delivery *posted;
};

static void deliver(struct loop_task *task) {
    struct delivery *d = CONTAINER_OF(task, struct delivery, task);
    struct ends *e = d->ends;
    free(d);
    if (!e)
        return;
    (void)pthread_mutex_lock(&e->lock);
    e->posted = NULL;
    for (struct list *node; e->loop && (node = list_pop(&e->untold));) {
        struct end *end = LIST_ENTRY(node, struct end, node);
        struct runtime_event event = {.kind = RUNTIME_EVENT_EXITED};
        (void)snprintf(event.id, sizeof event.id, "%s", end->id);
        free(end);
        (void)pthread_mutex_unlock(&e->lock);
        e->event(&event, e->arg); // may call back into us
        (void)pthread_mutex_lock(&e->lock);
    }
    (void)pthread_mutex_unlock(&e->lock);
}

static void post(struct ends *e) { // locked
    if (!e->loop || e->posted || list_empty(&e->untold))
        return;
    struct delivery *d = calloc(1, sizeof *d);
    if (!d)
        return; // the next end tries again
    d->task.run = deliver;
    d->ends = e;
    e->posted = d;
    loop_post(e->loop, &d->task);
}

struct ends *ends_new(struct error *err) {
    struct ends *e = calloc(1, sizeof *e);
    if (!e)
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    (void)pthread_mutex_init(&e->lock, NULL);
    list_init(&e->untold);
    return e;
}

void ends_free(struct ends *e) {
    if (!e)
        return;
    ends_stop(e);
    for (struct list *node; (node = list_pop(&e->untold));)
        free(LIST_ENTRY(node, struct end, node));
    (void)pthread_mutex_destroy(&e->lock);
    free(e);
}

void ends_tell(struct ends *e, const char *id) {
    struct end *end = calloc(1, sizeof *end);
    if (!end)
        return;
    (void)snprintf(end->id, sizeof end->id, "%s", id);
    (void)pthread_mutex_lock(&e->lock);
    list_push_back(&e->untold, &end->node);
    post(e);
    (void)pthread_mutex_unlock(&e->lock);
}

void ends_deliver(struct ends *e, struct loop *l, runtime_event_fn *event, void *arg) {
    (void)pthread_mutex_lock(&e->lock);
    e->loop = l;
    e->event = event;
    e->arg = arg;
    post(e);
    (void)pthread_mutex_unlock(&e->lock);
}

void ends_stop(struct ends *e) {
    (void)pthread_mutex_lock(&e->lock);
    e->loop = NULL;
    if (e->posted)
        e->posted->ends = NULL; // it frees itself when the loop runs it
    e->posted = NULL;
    (void)pthread_mutex_unlock(&e->lock);
}
