// GET /metrics and /metrics/watch (execd.md 7). Answered at once: the processor's share is the mean
// since the reading before, so a client that polls gets the mean of its own interval.
#include "base/cleanup.h"
#include "base/clock.h"
#include "execd/handlers.h"
#include "execd/metrics/cgroup.h"
#include "fmt/json.h"

enum {
    WATCH_MS = 1000,
    SPAN_MIN_MS = 100, // a shorter mean says nothing
    TEXT_MAX = 1024
};

struct reading {
    struct job job;
    struct http_exchange *x;
    struct timer next;   // of a watch
    struct usage before; // likewise
    struct usage now;
    bool watch, busy, gone;
};

int metrics_room_start(struct execd *e, struct error *err) {
    (void)err;
    // Our cgroup began with us. Where we are a late guest in an older one, the first answer is too
    // high, at most 100.
    e->usage.at_ns = clock_boot_ns();
    return 0;
}

static double mib(uint64_t bytes) {
    return (double)bytes / (1024 * 1024);
}

static json_t *describe(const struct usage *u, double percent) {
    return json_pack("{s:f,s:f,s:f,s:f,s:I}", "cpu_count", u->cpus, "cpu_used_pct", percent,
                     "mem_total_mib", mib(u->memory_max), "mem_used_mib", mib(u->memory),
                     "timestamp", (json_int_t)(clock_wall_us() / 1000));
}

static void run(struct job *job) {
    struct reading *r = CONTAINER_OF(job, struct reading, job);
    usage_read("", &r->now);
}

static double percent_since_last(struct execd *e, const struct usage *now) {
    if (now->at_ns - e->usage.at_ns >= (int64_t)SPAN_MIN_MS * 1000000) {
        e->busy = usage_percent(&e->usage, now);
        e->usage = *now;
    }
    return e->busy;
}

static void submit(struct reading *r, void (*done)(struct job *job)) {
    struct error err;
    struct workers *w = execd_workers(execd_of(r->x), &err);
    r->job.run = run;
    r->job.done = done;
    r->busy = w && !workers_submit(w, &r->job);
}

static void answer(struct job *job) {
    struct reading *r = CONTAINER_OF(job, struct reading, job);
    double percent = percent_since_last(execd_of(r->x), &r->now);
    http_reply_json(r->x, 200, describe(&r->now, percent));
    free(r);
}

static struct reading *reading_new(struct http_exchange *x) {
    struct reading *r = calloc(1, sizeof *r);
    if (r)
        r->x = x;
    else
        execd_fail(x, 503, CODE_RUNTIME, "error reading runtime metrics. out of memory");
    return r;
}

void handle_metrics(struct http_exchange *x) {
    struct reading *r = reading_new(x);
    if (!r)
        return;
    submit(r, answer);
    if (r->busy)
        return;
    execd_fail(x, 503, CODE_UNAVAILABLE, "error reading runtime metrics. too busy, try again");
    free(r);
}

// ---- the stream: an object and an empty line each second ----

static void watch_end(struct reading *r) {
    timer_stop(&r->next);
    http_stream_end(r->x);
    free(r);
}

static void watch_next(struct timer *t);

static void watch_send(struct job *job) {
    struct reading *r = CONTAINER_OF(job, struct reading, job);
    r->busy = false;
    if (r->gone) {
        watch_end(r);
        return;
    }
    cleanup_strbuf struct strbuf text;
    double percent = r->before.at_ns ? usage_percent(&r->before, &r->now)
                                     : percent_since_last(execd_of(r->x), &r->now);
    r->before = r->now;
    strbuf_init(&text, TEXT_MAX);
    json_t *value = describe(&r->now, percent);
    if (value && json_write(value, &text) == 0 && strbuf_adds(&text, "\n\n") == 0)
        // a client that does not read misses readings, it does not pile them up
        (void)http_stream_write(r->x, text.data, text.len);
    json_decref(value);
    timer_start(r->x->loop, &r->next, WATCH_MS, watch_next);
}

static void watch_next(struct timer *t) {
    struct reading *r = CONTAINER_OF(t, struct reading, next);
    submit(r, watch_send);
    if (!r->busy)
        timer_start(r->x->loop, &r->next, WATCH_MS, watch_next);
}

static void watch_gone(struct http_exchange *x) {
    struct reading *r = x->user;
    r->gone = true;
    if (!r->busy)
        watch_end(r);
}

void handle_metrics_watch(struct http_exchange *x) {
    struct reading *r = reading_new(x);
    if (!r)
        return;
    x->user = r;
    x->on_gone = watch_gone;
    (void)http_reply_header(x, "Cache-Control", "no-cache");
    (void)http_reply_header(x, "X-Accel-Buffering", "no");
    http_stream_begin(x, 200, "text/event-stream", -1);
    watch_next(&r->next);
}
