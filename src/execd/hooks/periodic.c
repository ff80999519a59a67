#include "execd/hooks/periodic.h"

#include <errno.h>
#include <sys/timerfd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "execd/hooks/journal.h"
#include "execd/hooks/run.h"
#include "io/stream.h"

enum { LATE_S = 5 }; // a tick that is seen later has passed while nothing ran

struct tick {
    struct hook_run run;
    int64_t next_s; // wall clock
    int64_t due_ms; // boot clock, of "@every": steps of the wall clock do not move it
    uint64_t skipped;
};

struct periodic {
    struct execd *e;
    struct stream *clock;
    size_t count;
    struct tick ticks[];
};

static int64_t wall_s(void) {
    return clock_wall_us() / 1000000;
}

static void plan_next(struct tick *t, int64_t now_s) {
    const struct schedule *when = &t->run.hook->when;
    t->next_s = schedule_next(when, now_s);
    t->due_ms = clock_boot_ms() + when->every_s * 1000;
}

// The wall clock was set.
static void plan_again(struct periodic *p) {
    int64_t now_s = wall_s();
    for (size_t i = 0; i < p->count; i++) {
        struct tick *t = &p->ticks[i];
        int64_t left_ms = t->due_ms - clock_boot_ms();
        if (!t->run.hook->when.every_s)
            plan_next(t, now_s);
        else
            t->next_s = now_s + (left_ms > 0 ? (left_ms + 999) / 1000 : 0);
    }
}

// Cancelled when the wall clock is set, where the kernel can (gVisor cannot: a tick then comes when
// the new clock gets there).
static void arm(struct periodic *p) {
    struct itimerspec at = {.it_value = {.tv_nsec = 0}};
    int64_t first_s = p->ticks[0].next_s;
    for (size_t i = 1; i < p->count; i++)
        if (p->ticks[i].next_s < first_s)
            first_s = p->ticks[i].next_s;
    at.it_value.tv_sec = first_s > 0 ? first_s : 1; // 0 would disarm it
    int fd = stream_fd(p->clock);
    if (timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at, NULL) < 0)
        (void)timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, NULL); // valid by construction
}

static void on_over(struct hook_run *r, const char *failure) {
    struct tick *t = CONTAINER_OF(r, struct tick, run);
    struct journal *j = &r->e->journal;
    if (failure)
        journal_say(j, "hook %.80s: %s", r->hook->name, failure);
    if (t->skipped)
        journal_say(j, "hook %.80s: its time came %llu times while it ran; skipped", r->hook->name,
                    (unsigned long long)t->skipped);
    t->skipped = 0;
}

static void run(struct tick *t, int64_t now_s) {
    struct hook_run *r = &t->run;
    struct error err;
    if (now_s - t->next_s > LATE_S)
        journal_say(&r->e->journal, "hook %.80s: its time passed while the sandbox stood still",
                    r->hook->name);
    else if (hook_runs(r))
        t->skipped++;
    else if (hook_run_start(r, &err) < 0)
        journal_say(&r->e->journal, "hook %.80s: could not be started: %s", r->hook->name,
                    err.message);
}

static void on_clock(struct stream *s, unsigned events, void *arg) {
    struct periodic *p = arg;
    uint64_t times;
    (void)events;
    ssize_t n = stream_read(s, &times, sizeof times);
    if (n < 0 && errno == ECANCELED) {
        plan_again(p);
    } else if (n > 0) {
        int64_t now_s = wall_s();
        for (size_t i = 0; i < p->count && !p->e->stopping; i++)
            if (p->ticks[i].next_s <= now_s) {
                run(&p->ticks[i], now_s);
                plan_next(&p->ticks[i], now_s);
            }
    }
    arm(p);
}

struct periodic *periodic_new(struct execd *e, const struct hooks_plan *plan, struct error *err) {
    struct periodic *p = calloc(1, sizeof *p + plan->count * sizeof p->ticks[0]);
    int fd = p ? timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK) : -1;
    if (fd < 0 || !(p->clock = stream_open(&e->loop, fd, on_clock, p))) {
        (void)error_errno(err, p ? errno : ENOMEM, "timer of the periodic hooks");
        free(p);
        return NULL;
    }
    p->e = e;
    p->count = plan->count;
    for (size_t i = 0; i < p->count; i++) {
        p->ticks[i].run = (struct hook_run){.e = e, .hook = &plan->periodic[i], .over = on_over};
        plan_next(&p->ticks[i], wall_s());
    }
    stream_want(p->clock, STREAM_READABLE);
    arm(p);
    return p;
}

void periodic_free(struct periodic *p) {
    if (!p)
        return;
    for (size_t i = 0; i < p->count; i++)
        hook_run_stop(&p->ticks[i].run);
    stream_close(p->clock);
    free(p);
}
