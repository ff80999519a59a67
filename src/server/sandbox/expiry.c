// One heap of wall-clock deadlines, one timer on the boot clock. A step of the wall clock is
// noticed within a minute, because the timer never sleeps longer than that before comparing again.
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/sandbox/domain.h"

enum { COMPARE_MS = 60000 };

static int64_t deadline_of(const struct sandbox *sb) {
    return sb->forget_us ? sb->forget_us : sb->expires_us;
}

static void on_alarm(struct timer *t);

static void arm(struct domain *d) {
    const struct heap_node *first = heap_peek(&d->deadlines);
    if (!first) {
        timer_stop(&d->alarm);
        return;
    }
    int64_t left_us = first->key - clock_wall_us();
    int64_t wait_ms = left_us <= 0 ? 0 : left_us / 1000 + 1;
    timer_start(d->settings.loop, &d->alarm, wait_ms < COMPARE_MS ? wait_ms : COMPARE_MS, on_alarm);
}

static void on_alarm(struct timer *t) {
    struct domain *d = CONTAINER_OF(t, struct domain, alarm);
    int64_t now = clock_wall_us();
    for (struct heap_node *n; (n = heap_peek(&d->deadlines)) && n->key <= now;) {
        struct sandbox *sb = CONTAINER_OF(n, struct sandbox, expiry);
        heap_remove(&d->deadlines, n);
        if (sb->renewing) // its end calls expiry_set()
            continue;
        log_info("sandbox %s: expired", sb->id);
        d->metrics.expired++;
        teardown_begin(d, sb, NULL);
    }
    arm(d);
}

void expiry_init(struct domain *d) {
    heap_init(&d->deadlines);
}

void expiry_set(struct domain *d, struct sandbox *sb) {
    int64_t at = deadline_of(sb);
    if (!at || sb->deleting)
        heap_remove(&d->deadlines, &sb->expiry);
    else if (heap_push(&d->deadlines, &sb->expiry, at) < 0)
        abort(); // a few bytes for a deadline that must not be lost
    arm(d);
}

void expiry_clear(struct domain *d, struct sandbox *sb) {
    heap_remove(&d->deadlines, &sb->expiry); // the alarm finds out
}

void expiry_close(struct domain *d) {
    timer_stop(&d->alarm);
    heap_clear(&d->deadlines);
}
