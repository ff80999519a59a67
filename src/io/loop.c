#include "io/loop.h"

#include <errno.h>

#include "base/cleanup.h"
#include "base/clock.h"

static struct loop *loop_of(uv_loop_t *uv) {
    return uv->data;
}

// ---- tasks ----

static void run_tasks(struct list *tasks) {
    struct list batch, *node;
    list_init(&batch);
    while (
        (node = list_pop(
             tasks))) // what the tasks add runs in the next round, so that nobody starves the poll
        list_push_back(&batch, node);
    while ((node = list_pop(&batch))) {
        struct loop_task *task = LIST_ENTRY(node, struct loop_task, node);
        task->run(task);
    }
}

static void on_wake(uv_async_t *async) {
    struct loop *l = loop_of(async->loop);
    struct list batch, *node;
    list_init(&batch);
    pthread_mutex_lock(&l->lock);
    while ((node = list_pop(&l->posted)))
        list_push_back(&batch, node);
    pthread_mutex_unlock(&l->lock);
    run_tasks(&batch);
}

static void on_idle(uv_idle_t *idle) {
    (void)idle;
} // its being active is what keeps the poll from sleeping

void loop_post(struct loop *l, struct loop_task *task) {
    pthread_mutex_lock(&l->lock);
    list_push_back(&l->posted, &task->node);
    pthread_mutex_unlock(&l->lock);
    (void)uv_async_send(&l->wake); // cannot fail on an open handle
}

void loop_defer(struct loop *l, struct loop_task *task) {
    list_push_back(&l->deferred, &task->node);
    uv_idle_start(&l->no_sleep, on_idle);
}

void loop_cancel(struct loop *l, struct loop_task *task) {
    (void)l;
    list_remove(&task->node);
}

// ---- timers ----

static void on_alarm(uv_timer_t *alarm);

static void arm(struct loop *l) {
    struct heap_node *first = heap_peek(&l->timers);
    if (!first) {
        uv_timer_stop(&l->alarm);
        return;
    }
    int64_t wait_ns = first->key - clock_boot_ns();
    uint64_t wait_ms = wait_ns <= 0 ? 0 : ((uint64_t)wait_ns + 999999) / 1000000;
    uv_update_time(&l->uv); // libuv counts from the loop's cached time
    uv_timer_start(&l->alarm, on_alarm, wait_ms, 0);
}

// libuv rings before it polls. Who was stopped for a while (a busy machine, a frozen cgroup) finds
// deadlines passed and the bytes that would have kept them still unread: they come first.
static void on_alarm(uv_timer_t *alarm) {
    struct loop *l = loop_of(alarm->loop);
    struct heap_node *first = heap_peek(&l->timers);
    int64_t now = clock_boot_ns();
    if (!first || first->key > now) {
        arm(l);
        return;
    }
    l->due_ns = now;
    uv_idle_start(&l->no_sleep, on_idle);
}

static void run_timers(struct loop *l) {
    if (!l->due_ns)
        return;
    for (struct heap_node *n; (n = heap_peek(&l->timers)) && n->key <= l->due_ns;) {
        struct timer *t = CONTAINER_OF(n, struct timer, node);
        heap_remove(&l->timers, n);
        t->fire(t);
    }
    l->due_ns = 0;
    arm(l);
}

static void on_after_poll(uv_check_t *check) {
    struct loop *l = loop_of(check->loop);
    run_timers(l);
    run_tasks(&l->deferred);
    if (list_empty(&l->deferred))
        uv_idle_stop(&l->no_sleep);
}

void timer_start_at(struct loop *l, struct timer *t, int64_t boot_ns,
                    void (*fire)(struct timer *)) {
    struct heap_node *first = heap_peek(&l->timers);
    t->loop = l;
    t->fire = fire;
    if (heap_push(&l->timers, &t->node, boot_ns) < 0)
        abort(); // a few bytes for a deadline that must not be lost
    if (first != heap_peek(&l->timers) || first == &t->node)
        arm(l);
}

void timer_start(struct loop *l, struct timer *t, int64_t after_ms, void (*fire)(struct timer *)) {
    timer_start_at(l, t, clock_boot_ns() + after_ms * 1000000, fire);
}

void timer_stop(struct timer *t) {
    if (timer_armed(t))
        heap_remove(&t->loop->timers, &t->node); // a late alarm finds nothing due and re-arms
}

// ---- life ----

int loop_init(struct loop *l, struct error *err) {
    *l = (struct loop){0};
    int r = uv_loop_init(&l->uv);
    if (r < 0)
        return error_errno(err, -r, "event loop");
    l->uv.data = l;
    heap_init(&l->timers);
    list_init(&l->deferred);
    list_init(&l->posted);
    pthread_mutex_init(&l->lock, NULL);
    if ((r = uv_async_init(&l->uv, &l->wake, on_wake)) < 0) {
        (void)uv_loop_close(&l->uv); // nothing was opened on it
        return error_errno(err, -r, "event loop");
    }
    uv_timer_init(&l->uv, &l->alarm);
    uv_check_init(&l->uv, &l->after_poll);
    uv_idle_init(&l->uv, &l->no_sleep);
    uv_check_start(&l->after_poll, on_after_poll);
    return 0;
}

void loop_run(struct loop *l) {
    while (!l->stopping) // a stop before the run counts
        (void)uv_run(&l->uv, UV_RUN_ONCE);
    l->stopping = false;
}

void loop_stop(struct loop *l) {
    l->stopping = true;
    (void)uv_async_send(&l->wake);
}

void loop_step(struct loop *l) {
    (void)uv_run(&l->uv, UV_RUN_NOWAIT);
}

int loop_close(struct loop *l) {
    uv_handle_t *own[] = {(uv_handle_t *)&l->wake, (uv_handle_t *)&l->alarm,
                          (uv_handle_t *)&l->after_poll, (uv_handle_t *)&l->no_sleep};
    on_wake(&l->wake);
    while (!list_empty(&l->deferred))
        run_tasks(&l->deferred);
    for (size_t i = 0; i < ARRAY_SIZE(own); i++)
        if (!uv_is_closing(own[i]))
            uv_close(own[i], NULL);
    for (int i = 0; i < 64 && uv_run(&l->uv, UV_RUN_NOWAIT); i++)
        ; // close callbacks
    int r = uv_loop_close(&l->uv);
    heap_clear(&l->timers);
    pthread_mutex_destroy(&l->lock);
    return r;
}
