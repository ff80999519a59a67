#include "execd/hooks/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "execd/handlers.h"
#include "execd/hooks/journal.h"
#include "execd/hooks/periodic.h"
#include "execd/hooks/run.h"
#include "fmt/json.h"

enum {
    ARENA_MAX = 1 << 20,
    LINGER_MS = 5000 // a start that failed is told to who asks until then
};

struct hooks {
    struct execd *e;
    struct hooks_settings settings;
    struct arena arena; // of the plan
    struct hooks_plan plan;
    struct hook_run start;
    struct periodic *periodic;
    enum { STARTING, STARTED, FAILED } state;
    char failure[ERROR_MESSAGE_MAX];
    struct list waiters;
    struct timer linger;
};

struct waiter {
    struct list node;
    struct http_exchange *x;
};

// ---- telling ----

static json_t *verdict(const char *failure) {
    return json_pack("{s:s,s:s*}", "state", failure ? "failed" : "started", "message", failure);
}

static void write_status(const char *path, const char *failure) {
    char part[EXECD_PATH_SIZE];
    cleanup_strbuf struct strbuf sb;
    cleanup_json json_t *j = verdict(failure);
    strbuf_init(&sb, 2 * ERROR_MESSAGE_MAX * 6); // escaped
    if (!path || !j || json_write(j, &sb) < 0)
        return;
    (void)snprintf(part, sizeof part, "%s.part", path);
    cleanup_close int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fd_write_all(fd, sb.data, sb.len) < 0 || rename(part, path) < 0)
        log_error("status file %s: %s", path, strerrordesc_np(errno));
}

static void on_linger(struct timer *t) {
    struct hooks *h = CONTAINER_OF(t, struct hooks, linger);
    h->settings.give_up(h->e);
}

static void reply(struct hooks *h, struct http_exchange *x) {
    bool failed = h->state == FAILED;
    http_reply_json(x, 200, verdict(failed ? h->failure : NULL));
    if (failed && timer_armed(&h->linger)) // who asks is the server: nobody else needs to know
        timer_start(&h->e->loop, &h->linger, 0, on_linger);
}

static void on_waiter_gone(struct http_exchange *x) {
    struct waiter *w = x->user;
    list_remove(&w->node);
}

void handle_start(struct http_exchange *x) {
    struct hooks *h = execd_of(x)->hooks;
    if (!h) {
        http_reply_json(x, 200, verdict(NULL));
        return;
    }
    if (h->state != STARTING) {
        reply(h, x);
        return;
    }
    struct waiter *w = arena_alloc(x->arena, sizeof *w);
    if (!w) {
        execd_fail(x, 503, CODE_RUNTIME, "out of memory");
        return;
    }
    w->x = x;
    x->user = w;
    x->on_gone = on_waiter_gone;
    list_push_back(&h->waiters, &w->node);
}

static void settle(struct hooks *h) {
    bool failed = h->state == FAILED;
    write_status(h->settings.status_file, failed ? h->failure : NULL);
    if (failed)
        timer_start(&h->e->loop, &h->linger, LINGER_MS, on_linger);
    for (struct list *node; (node = list_pop(&h->waiters));) {
        struct http_exchange *x = LIST_ENTRY(node, struct waiter, node)->x;
        x->on_gone = NULL;
        reply(h, x);
    }
}

static void fail(struct hooks *h, const char *what, const char *why) {
    h->state = FAILED;
    (void)snprintf(h->failure, sizeof h->failure, "%s%s", what, why);
    journal_say(&h->e->journal, "%s", h->failure);
    settle(h);
}

// ---- the start ----

static int enter(struct hooks *h, struct error *err) {
    if (h->settings.enter(h->e, err) < 0)
        return -1;
    if (h->plan.count && !(h->periodic = periodic_new(h->e, &h->plan, err)))
        return -1;
    h->state = STARTED;
    settle(h);
    return 0;
}

static void on_prestart_over(struct hook_run *r, const char *failure) {
    struct hooks *h = CONTAINER_OF(r, struct hooks, start);
    struct error err;
    if (h->e->stopping)
        return;
    if (failure)
        fail(h, "preStart hook: ", failure);
    else if (enter(h, &err) < 0)
        fail(h, "", err.message);
}

static int begin(struct hooks *h, struct error *err) {
    if (hooks_plan_read(&h->plan, &h->arena, h->settings.lifecycle, err) < 0)
        return error_wrap(err, LIFECYCLE_VARIABLE);
    if (!h->plan.start.argv)
        return enter(h, err);
    h->start = (struct hook_run){.e = h->e, .hook = &h->plan.start, .over = on_prestart_over};
    struct error why;
    if (hook_run_start(&h->start, &why) < 0)
        fail(h, "preStart hook: could not be started: ", why.message);
    return 0;
}

int hooks_start(struct execd *e, const struct hooks_settings *s, struct error *err) {
    if (!s->lifecycle) {
        int r = s->enter(e, err);
        write_status(s->status_file, r < 0 ? err->message : NULL);
        return r;
    }
    struct hooks *h = calloc(1, sizeof *h);
    if (!h)
        return error_set(err, ENOMEM, "out of memory");
    e->hooks = h;
    h->e = e;
    h->settings = *s;
    arena_init(&h->arena, ARENA_MAX);
    list_init(&h->waiters);
    if (begin(h, err) == 0)
        return 0;
    write_status(s->status_file, err->message);
    return -1;
}

void hooks_room_stop(struct execd *e) {
    struct hooks *h = TAKE_PTR(e->hooks);
    if (!h)
        return;
    timer_stop(&h->linger);
    if (h->start.e)
        hook_run_stop(&h->start);
    periodic_free(h->periodic);
    arena_free(&h->arena);
    free(h);
}
