// The engine's events: one thread reads the stream, keeps the boxes true and tells the loop of
// ends. When the stream breaks, all is asked for anew, so that nothing that happened meanwhile is
// missed.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "server/runtime/docker/internal.h"
#include "server/runtime/docker/sidecar/sidecar.h"
#include "server/runtime/ends.h"

enum { LINE_MAX_BYTES = 1024 * 1024, PAUSE_MIN_MS = 50, PAUSE_MAX_MS = 1000 };

struct docker_events {
    struct docker *docker;
    pthread_t thread;
    struct engine_stop *stop;
    struct strbuf line;   // the thread's
    pthread_mutex_t lock; // guards everything below
    pthread_cond_t wake;  // ending has changed
    bool started, ending;
    struct ends *ends;
};

void docker_events_tell(struct docker_events *e, const char *id) {
    if (e)
        ends_tell(e->ends, id);
}

// ---- what happened to a sandbox ----

// Notes an end, once; an end before the create is over is told by the create.
static void note_end(struct docker_events *e, const char *id, const struct inspection *end) {
    struct docker *d = e->docker;
    (void)pthread_mutex_lock(&d->lock);
    struct box *b = map_get(&d->boxes, id);
    bool news = b && !b->ended;
    if (news) {
        b->ended = true;
        b->end = *end;
        b->paused = false;
    }
    bool tell = news && b->running;
    (void)pthread_mutex_unlock(&d->lock);
    if (tell)
        docker_events_tell(e, id);
}

static void note_paused(struct docker *d, const char *id, bool paused) {
    (void)pthread_mutex_lock(&d->lock);
    struct box *b = map_get(&d->boxes, id);
    if (b)
        b->paused = paused;
    (void)pthread_mutex_unlock(&d->lock);
}

// What the event itself tells, where the engine cannot be asked: Podman knows nothing of a
// container that it is removing.
static int believe(struct docker_events *e, const char *id, const json_t *attributes) {
    const char *code = json_string_value(json_object_get(attributes, "exitCode"));
    struct inspection i = {.exit_code = -1, .ended_us = clock_wall_us()};
    uint64_t number;
    if (!code)
        return -1;
    if (parse_u64(code, 0, 255, &number) == 0)
        i.exit_code = (int)number;
    note_end(e, id, &i);
    return 0;
}

// -1: the engine did not tell; the stream is begun anew.
static int look_at(struct docker_events *e, const char *id, const json_t *attributes) {
    cleanup_json json_t *container = NULL;
    struct inspection i = {.exit_code = -1};
    struct error err;
    if (engine_get(e->docker->engine, &container, &err, "/containers/sandbox-%s/json", id)) {
        if (engine_is_away(&err))
            return -1;
        if (believe(e, id, attributes) == 0)
            return 0;
        if (err.kind != ENOENT)
            return -1;
        note_end(e, id, &i); // removed behind our back
        return 0;
    }
    docker_inspection_of(container, &i);
    if (i.alive)
        note_paused(e->docker, id, i.paused);
    else
        note_end(e, id, &i);
    return 0;
}

static bool is_one_of(const char *word, const char *const *list) {
    for (; *list; list++)
        if (strcmp(word, *list) == 0)
            return true;
    return false;
}

// A sandbox whose sidecar has ended has no network any more. Not while one of both is removed.
static int check_sidecar(struct docker_events *e, const char *id) {
    struct docker *d = e->docker;
    struct error err;
    cleanup_json json_t *sidecar = NULL;
    (void)pthread_mutex_lock(&d->lock);
    const struct box *b = map_get(&d->boxes, id);
    bool live = b && b->policy && b->running && !b->ended;
    (void)pthread_mutex_unlock(&d->lock);
    if (!live || docker_sidecar_inspect(d, id, &sidecar, &err) == 0)
        return 0;
    return err.kind == ENOENT && docker_sidecar_lost(d, id, &err) == 0 ? 0 : -1;
}

static int on_container(struct docker_events *e, const char *action, const json_t *attributes) {
    static const char *const looks[] = {"die",   "died",    "destroy", "remove",  "oom",
                                        "pause", "unpause", "kill",    "cleanup", NULL};
    const char *id = json_string_value(json_object_get(attributes, LABEL_ID));
    if (!id || !is_one_of(action, looks))
        return 0;
    return json_object_get(attributes, LABEL_SIDECAR_FOR) ? check_sidecar(e, id)
                                                          : look_at(e, id, attributes);
}

static int on_event(struct docker_events *e, const json_t *event) {
    const json_t *actor = json_object_get(event, "Actor");
    const char *type = json_string_value(json_object_get(event, "Type"));
    const char *action = json_string_value(json_object_get(event, "Action"));
    if (!type || !action)
        return 0;
    if (strcmp(type, "image") == 0) {
        if (strcmp(action, "pull") != 0)
            docker_image_forget(e->docker);
        return 0;
    }
    return on_container(e, action, json_object_get(actor, "Attributes"));
}

// ---- the stream ----

static int on_piece(void *arg, const char *data, size_t len) {
    struct docker_events *e = arg;
    while (len) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        if (strbuf_add(&e->line, data, n))
            return -1;
        if (end) {
            struct error ignored;
            cleanup_json json_t *event = json_parse(e->line.data, e->line.len, NULL, &ignored);
            strbuf_clear(&e->line);
            n++;
            if (event && on_event(e, event) < 0)
                return -1;
        }
        data += n;
        len -= n;
    }
    return 0;
}

struct ids {
    char (*items)[SANDBOX_ID_SIZE];
    size_t count, capacity;
};

static bool gather(const char *key, void *value, void *arg) {
    struct ids *ids = arg;
    const struct box *b = value;
    if (b->ended || ids->count == ids->capacity)
        return true;
    (void)snprintf(ids->items[ids->count++], SANDBOX_ID_SIZE, "%s", key);
    return true;
}

// One inspect for each sandbox that should live. Those under way are their creates' business.
static int look_at_all(struct docker_events *e) {
    struct docker *d = e->docker;
    (void)pthread_mutex_lock(&d->lock);
    struct ids ids = {.capacity = d->boxes.count};
    ids.items = calloc(ids.capacity + 1, SANDBOX_ID_SIZE);
    if (ids.items)
        map_each(&d->boxes, gather, &ids);
    (void)pthread_mutex_unlock(&d->lock);
    int r = ids.items ? 0 : -1;
    for (size_t i = 0; !r && i < ids.count; i++) {
        (void)pthread_mutex_lock(&d->lock);
        const struct box *b = map_get(&d->boxes, ids.items[i]);
        bool running = b && b->running;
        (void)pthread_mutex_unlock(&d->lock);
        if (running && !(r = look_at(e, ids.items[i], NULL)))
            r = check_sidecar(e, ids.items[i]);
    }
    free(ids.items);
    docker_image_forget(d);
    return r;
}

static bool is_ending(struct docker_events *e) {
    (void)pthread_mutex_lock(&e->lock);
    bool ending = e->ending;
    (void)pthread_mutex_unlock(&e->lock);
    return ending;
}

static void wait_ms(struct docker_events *e, int64_t ms) {
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (until.tv_nsec + ms * 1000000) / 1000000000;
    until.tv_nsec = (until.tv_nsec + ms * 1000000) % 1000000000;
    (void)pthread_mutex_lock(&e->lock);
    while (!e->ending && pthread_cond_timedwait(&e->wake, &e->lock, &until) == 0)
        ;
    (void)pthread_mutex_unlock(&e->lock);
}

// From `since` on, so that what happens between the look at all and the stream's begin is in it.
static int stream(struct docker_events *e, int64_t since, struct error *err) {
    struct strbuf path cleanup_strbuf;
    strbuf_init(&path, ENGINE_PATH_MAX);
    // labels are not filtered by the engine: events of images have none
    (void)strbuf_addf(&path, "/events?since=%lld&filters=", (long long)since);
    engine_escape(&path, "{\"type\":[\"container\",\"image\"]}");
    const struct engine_call c = {.method = "GET",
                                  .path = path.data,
                                  .patient = true,
                                  .piece = on_piece,
                                  .arg = e,
                                  .stop = e->stop};
    strbuf_clear(&e->line);
    return engine_do(e->docker->engine, &c, NULL, err);
}

static void *run(void *arg) {
    struct docker_events *e = arg;
    int64_t pause = PAUSE_MIN_MS;
    bool away = false;
    while (!is_ending(e)) {
        struct error err = {0};
        int64_t since = (int64_t)time(NULL) - 1;
        if (engine_negotiate(e->docker->engine, &err) == 0 && look_at_all(e) == 0) {
            if (away)
                log_info("the engine is back");
            away = false;
            pause = PAUSE_MIN_MS;
            (void)stream(e, since, &err);
        }
        if (is_ending(e))
            break;
        if (!away && err.kind != ECANCELED)
            log_warning("the engine's events broke off%s%s", err.kind ? ": " : "", err.message);
        away = true;
        wait_ms(e, pause);
        pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
    }
    return NULL;
}

// ---- the object ----

struct docker_events *docker_events_new(struct docker *d, struct error *err) {
    struct docker_events *e = calloc(1, sizeof *e);
    pthread_condattr_t attr;
    if (!e || !(e->stop = engine_stop_new())) {
        free(e);
        return (void)error_set(err, ENOMEM, "out of memory"), NULL;
    }
    if (!(e->ends = ends_new(err))) {
        engine_stop_free(e->stop);
        free(e);
        return NULL;
    }
    e->docker = d;
    strbuf_init(&e->line, LINE_MAX_BYTES);
    (void)pthread_mutex_init(&e->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&e->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    int r = pthread_create(&e->thread, NULL, run, e);
    e->started = r == 0;
    if (!r)
        return e;
    docker_events_free(e);
    return (void)error_errno(err, r, "thread for the engine's events"), NULL;
}

void docker_events_deliver(struct docker_events *e, struct loop *l, runtime_event_fn *event,
                           void *arg) {
    ends_deliver(e->ends, l, event, arg);
}

void docker_events_stop(struct docker_events *e) {
    ends_stop(e->ends);
}

void docker_events_free(struct docker_events *e) {
    if (!e)
        return;
    (void)pthread_mutex_lock(&e->lock);
    e->ending = true;
    (void)pthread_cond_signal(&e->wake);
    (void)pthread_mutex_unlock(&e->lock);
    engine_stop_now(e->stop);
    if (e->started)
        (void)pthread_join(e->thread, NULL);
    ends_free(e->ends);
    engine_stop_free(e->stop);
    strbuf_free(&e->line);
    (void)pthread_cond_destroy(&e->wake);
    (void)pthread_mutex_destroy(&e->lock);
    free(e);
}
