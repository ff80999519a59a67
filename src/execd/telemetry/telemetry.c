#include "execd/telemetry/telemetry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "execd/handlers.h"
#include "execd/telemetry/encode.h"
#include "execd/telemetry/post.h"

enum { HEAD_MAX = 16 * 1024, LEFT = 499 }; // status of a request whose client has left

enum health { UNKNOWN, WELL, FAILING };

// An export goes: timer -> copy of the histograms -> worker observes and encodes -> post. One at a
// time; what its time comes to meanwhile is left out, as all figures are cumulative.
struct telemetry {
    struct execd *e;
    struct telemetry_settings settings;
    struct histogram histograms[TELEMETRY_HISTOGRAMS];
    struct timer next, last;
    bool encoding; // the worker has what follows
    bool ending;   // the loop stops after the last one
    bool again;    // which is the one after this one
    bool orphaned; // the room is gone: done() frees
    struct job job;
    struct telemetry_batch batch;
    struct usage before; // last observation
    struct strbuf request;
    int result; // of the encoding
    struct post post;
    enum health health;
};

// ---- recording ----

static void record(struct telemetry *t, enum telemetry_histogram which, struct series_key key,
                   int64_t ns) {
    histogram_record(&t->histograms[which], key, (double)ns / 1e6);
}

static const char *result_text(bool success) {
    return success ? "success" : "failure";
}

void telemetry_execution(struct execd *e, const char *operation, bool success, int64_t ns) {
    if (e->telemetry)
        record(e->telemetry, TELEMETRY_EXECUTION,
               (struct series_key){.text = {operation, result_text(success)}}, ns);
}

// A method is a word of the client's: only known ones become attributes. NULL: what came was no
// request.
static const char *method_text(const char *method) {
    static const char *const known[] = {"GET",   "POST",    "PUT",   "DELETE", "HEAD",
                                        "PATCH", "OPTIONS", "TRACE", "_OTHER"};
    size_t i = 0;
    while (i < ARRAY_SIZE(known) - 1 && !(method && !strcmp(known[i], method)))
        i++;
    return known[i];
}

static const char *route_text(const struct http_route *r) {
    static const char unknown[] = "unknown";
    return !r || r->handle == handle_proxy || r->handle == handle_proxy_no_port ? unknown
                                                                                : r->pattern;
}

static const char *file_operation(const struct http_route *r) {
    static const struct {
        void (*handle)(struct http_exchange *x);
        const char *operation;
    } table[] = {{handle_files_info, "info"},          {handle_files_delete, "delete"},
                 {handle_files_permissions, "chmod"},  {handle_files_mv, "rename"},
                 {handle_directories_make, "mkdir"},   {handle_directories_delete, "rmdir"},
                 {handle_directories_list, "listdir"}, {handle_files_search, "search"},
                 {handle_files_replace, "replace"},    {handle_files_upload, "upload"},
                 {handle_files_download, "download"}};
    for (size_t i = 0; r && i < ARRAY_SIZE(table); i++)
        if (table[i].handle == r->handle)
            return table[i].operation;
    return NULL;
}

void telemetry_request(struct http_exchange *x) {
    struct telemetry *t = execd_of(x)->telemetry;
    if (!t)
        return;
    int64_t ns = x->started_ns ? clock_boot_ns() - x->started_ns : 0; // 0: its head was refused
    unsigned status = x->status ? x->status : LEFT;
    const char *operation = status == 401 ? NULL : file_operation(x->route);
    record(t, TELEMETRY_HTTP,
           (struct series_key){{method_text(x->request->method), route_text(x->route)}, status},
           ns);
    if (operation)
        record(t, TELEMETRY_FILES,
               (struct series_key){.text = {operation, result_text(status < 400 && !http_gone(x))}},
               ns);
}

// ---- one export ----

static void export_begin(struct telemetry *t);

static void on_next(struct timer *timer) {
    export_begin(CONTAINER_OF(timer, struct telemetry, next));
}

// One line for each change, and none for each try.
static void export_over(struct telemetry *t, enum health now, const char *why) {
    int64_t wait_ms = t->settings.interval_ms;
    if (now == WELL && t->health != WELL)
        log_info("telemetry: the collector takes metrics");
    if (now == FAILING && t->health != FAILING)
        log_warning("telemetry: no metrics are taken (%s); tried again, without another line", why);
    t->health = now;
    if (wait_ms < t->post.retry_after_s * 1000)
        wait_ms = t->post.retry_after_s * 1000;
    if (t->ending && t->again && now == WELL)
        export_begin(t);
    else if (t->ending)
        loop_stop(&t->e->loop);
    else
        timer_start(&t->e->loop, &t->next, wait_ms, on_next);
}

static void on_answer(struct post *p, const struct error *err) {
    struct telemetry *t = CONTAINER_OF(p, struct telemetry, post);
    char why[32];
    (void)snprintf(why, sizeof why, "status %u", p->status);
    export_over(t, !err && p->status / 100 == 2 ? WELL : FAILING, err ? err->message : why);
}

// Worker.
static void run(struct job *job) {
    struct telemetry *t = CONTAINER_OF(job, struct telemetry, job);
    const struct telemetry_settings *s = &t->settings;
    cleanup_strbuf struct strbuf body;
    strbuf_init(&body, TELEMETRY_BODY_MAX);
    observe("", &t->before, &t->batch.observed);
    t->batch.now_us = clock_wall_us();
    t->result = telemetry_encode(s, &t->batch, &body);
    strbuf_clear(&t->request);
    (void)strbuf_addf(&t->request,
                      "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: opensandbox-execd/%s\r\n"
                      "Content-Type: application/json\r\nContent-Length: %zu\r\n"
                      "Connection: close\r\n%s\r\n",
                      s->target, s->authority, OPENSANDBOX_VERSION, body.len, s->headers.data);
    if (strbuf_add(&t->request, body.data, body.len) < 0)
        t->result = -1;
}

static void telemetry_free(struct telemetry *t) {
    strbuf_free(&t->request);
    telemetry_settings_clear(&t->settings);
    free(t);
}

static void encoded(struct job *job) {
    struct telemetry *t = CONTAINER_OF(job, struct telemetry, job);
    struct error err;
    t->encoding = false;
    if (t->orphaned) {
        telemetry_free(t);
        return;
    }
    t->before = t->batch.observed.usage;
    if (t->result < 0)
        export_over(t, FAILING, "out of memory");
    else if (post_start(&t->post, &t->settings.address, t->settings.port, t->request.data,
                        t->request.len, t->settings.time_out_ms, &err) < 0)
        export_over(t, FAILING, err.message);
}

static void export_begin(struct telemetry *t) {
    struct error err;
    struct workers *w = execd_workers(t->e, &err);
    for (size_t i = 0; i < TELEMETRY_HISTOGRAMS; i++)
        histogram_copy(&t->batch.histograms[i], &t->histograms[i]);
    t->post.retry_after_s = 0;
    t->again = false;
    t->job.run = run;
    t->job.done = encoded;
    t->encoding = w && !workers_submit(w, &t->job);
    if (!t->encoding)
        export_over(t, FAILING, w ? "execd is too busy" : err.message);
}

// ---- the room ----

int telemetry_room_start(struct execd *e, struct error *err) {
    struct telemetry_settings s;
    int on = telemetry_settings_read(&s, getenv, "/etc/hostinfo", err);
    struct telemetry *t = on > 0 ? calloc(1, sizeof *t) : NULL;
    char address[NET_TEXT_MAX];
    if (on < 0)
        log_warning("telemetry is off: %s", err->message);
    if (!t) {
        telemetry_settings_clear(&s);
        return 0;
    }
    t->e = e;
    t->settings = s;
    t->batch.start_us = clock_wall_us();
    t->before.at_ns = clock_boot_ns(); // as metrics_room_start()
    strbuf_init(&t->request, TELEMETRY_BODY_MAX + HEAD_MAX);
    t->post = (struct post){.loop = &e->loop, .scratch = e->scratch, .done = on_answer};
    e->telemetry = t;
    net_format(&s.address, address);
    log_info("telemetry: metrics go to %s port %u every %lld ms", address, s.port,
             (long long)s.interval_ms);
    timer_start(&e->loop, &t->next, s.interval_ms, on_next);
    return 0;
}

static void on_too_late(struct timer *timer) {
    loop_stop(timer->loop);
}

void telemetry_last(struct execd *e) {
    struct telemetry *t = e->telemetry;
    if (!t || t->health == FAILING) {
        loop_stop(&e->loop);
        return;
    }
    if (t->ending)
        return;
    t->ending = true;
    timer_start(&e->loop, &t->last, TELEMETRY_LAST_MS, on_too_late);
    timer_stop(&t->next);
    t->again = t->encoding || t->post.stream;
    if (!t->again)
        export_begin(t);
}

void telemetry_room_stop(struct execd *e) {
    struct telemetry *t = TAKE_PTR(e->telemetry);
    if (!t)
        return;
    timer_stop(&t->next);
    timer_stop(&t->last);
    post_cancel(&t->post);
    t->orphaned = t->encoding;
    if (!t->encoding)
        telemetry_free(t);
}
