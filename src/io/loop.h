// The event loop of a program: libuv underneath, plus tasks and timers that can be embedded,
// stopped and freed at any moment. One loop, one thread; only loop_post() may be called from
// others. A callback may free its own object. Nothing on a loop blocks (docs/architecture.md
// section 3). uv_loop_close() returns 0 at every shutdown and test end.
#ifndef IO_LOOP_H
#define IO_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "base/heap.h"
#include "base/list.h"

// Work for the loop thread. Caller-owned; must stay valid until run() was called, and is free again
// from then on.
struct loop_task {
    struct list node;
    void (*run)(struct loop_task *task);
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake;       // loop_post() from other threads
    uv_timer_t alarm;      // earliest of `timers`
    uv_check_t after_poll; // runs the timers that are due, then `deferred`
    uv_idle_t no_sleep;    // active while either waits for it
    int64_t due_ns;        // timers up to here fire behind the next poll; 0: none
    struct heap timers;    // struct timer, by deadline
    struct list deferred;  // struct loop_task
    pthread_mutex_t lock;  // guards `posted`
    struct list posted;    // struct loop_task
    bool stopping;
};

int loop_init(struct loop *l, struct error *err);
void loop_run(struct loop *l); // until loop_stop(), which may have come before
void loop_stop(struct loop *l);
// Runs what is due now without waiting; for tests. Returns after one iteration.
void loop_step(struct loop *l);
// Runs the outstanding close callbacks and closes; 0, or UV_EBUSY when somebody left a handle open.
int loop_close(struct loop *l);

void loop_post(struct loop *l, struct loop_task *task); // any thread; in order of posting
void loop_defer(struct loop *l,
                struct loop_task *task); // loop thread; runs after the current callbacks
void loop_cancel(struct loop *l,
                 struct loop_task *task); // loop thread; a deferred task that must not run

// A timer. Zero-initialise. Stop (or fire) before the memory goes. It fires behind a poll that
// began after its deadline: what came in time is handled first, also when the program was stopped.
struct timer {
    struct heap_node node;
    struct loop *loop;
    void (*fire)(struct timer *t);
};
void timer_start(struct loop *l, struct timer *t, int64_t after_ms,
                 void (*fire)(struct timer *)); // re-arms
void timer_start_at(struct loop *l, struct timer *t, int64_t boot_ns, void (*fire)(struct timer *));
void timer_stop(struct timer *t); // fine when it is not armed
static inline bool timer_armed(const struct timer *t) {
    return t->node.index != 0;
}

#endif
