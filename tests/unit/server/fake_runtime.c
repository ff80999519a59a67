#include "fake_runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/map.h"
#include "base/path.h"
#include "server/errors.h"

struct fake {
    struct runtime base;
    pthread_mutex_t lock;
    pthread_cond_t change;
    unsigned fail[FAKE_CALLS], count[FAKE_CALLS], now[FAKE_CALLS], most[FAKE_CALLS], overlaps;
    bool hold[FAKE_CALLS];
    void (*hook[FAKE_CALLS])(void);
    struct map existing, busy, snapshots; // ids
    bool snapshots_busy;
    bool images_ready, relay, away;
    const char *notice;
    int (*dial)(unsigned port);
    struct inspection inspection;
    struct loop *loop;
    runtime_event_fn *event;
    void *event_arg;
};

static struct fake *fake_of(struct runtime *r) {
    return (struct fake *)r;
}

static int enter(struct fake *f, enum fake_call call, const char *id, struct error *err) {
    pthread_mutex_lock(&f->lock);
    f->count[call]++;
    f->now[call]++;
    if (f->now[call] > f->most[call])
        f->most[call] = f->now[call];
    if (id && map_get(&f->busy, id))
        f->overlaps++;
    if (id)
        (void)map_put(&f->busy, id, f);
    while (f->hold[call])
        pthread_cond_wait(&f->change, &f->lock);
    int r = f->fail[call] ? -1 : 0;
    f->fail[call] -= r < 0;
    if (f->hook[call])
        f->hook[call]();
    f->now[call]--;
    if (id)
        (void)map_remove(&f->busy, id);
    pthread_mutex_unlock(&f->lock);
    return r < 0 ? error_set(err, EIO, "scripted failure of call %d", (int)call) : 0;
}

static int f_start(struct runtime *r, struct error *err) {
    return enter(fake_of(r), FAKE_START, NULL, err);
}

static bool gather(const char *key, void *value, void *arg) {
    struct runtime_found **at = arg;
    (void)value;
    (void)snprintf((*at)++->id, SANDBOX_ID_SIZE, "%s", key);
    return true;
}

static int f_list(struct runtime *r, struct runtime_found **ret, size_t *ret_count,
                  struct error *err) {
    struct fake *f = fake_of(r);
    if (enter(f, FAKE_LIST, NULL, err) < 0)
        return -1;
    *ret_count = f->existing.count;
    *ret = calloc(*ret_count + 1, sizeof **ret);
    struct runtime_found *at = *ret;
    map_each(&f->existing, gather, &at);
    return 0;
}

static int f_adopt(struct runtime *r, const char *id, const struct sandbox_spec *spec,
                   const char *state, struct inspection *ret, struct error *err) {
    struct fake *f = fake_of(r);
    (void)spec, (void)state;
    if (enter(f, FAKE_ADOPT, id, err) < 0)
        return -1;
    if (f->away)
        return error_server(err, ERR_R_UNAVAILABLE, "scripted absence");
    *ret = f->inspection;
    return 0;
}

static int f_sweep(struct runtime *r, struct error *err) {
    return enter(fake_of(r), FAKE_SWEEP, NULL, err);
}

static int f_image(struct runtime *r, const struct image_request *q, struct image_info *ret,
                   struct error *err) {
    if (enter(fake_of(r), FAKE_IMAGE, NULL, err) < 0)
        return error_server(err, ERR_R_IMAGE_PULL_FAILED, "no %s", q->reference);
    (void)snprintf(ret->id, sizeof ret->id, "sha256-of-%s", q->reference);
    return 0;
}

static bool f_ready(struct runtime *r, const struct image_request *q, struct image_info *ret) {
    struct fake *f = fake_of(r);
    if (f->images_ready)
        (void)snprintf(ret->id, sizeof ret->id, "sha256-of-%s", q->reference);
    return f->images_ready;
}

static int f_provision(struct runtime *r, const struct provision_request *q,
                       struct provision_result *ret, struct error *err) {
    struct fake *f = fake_of(r);
    if (enter(f, FAKE_PROVISION, q->id, err) < 0)
        return -1;
    fake_put(r, q->id);
    (void)snprintf(ret->state, sizeof ret->state, "{\"of\":\"%s\"}", q->id);
    return 0;
}

static int f_destroy(struct runtime *r, const char *id, struct error *err) {
    struct fake *f = fake_of(r);
    if (enter(f, FAKE_DESTROY, id, err) < 0)
        return -1;
    pthread_mutex_lock(&f->lock);
    (void)map_remove(&f->existing, id);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static int f_retire(struct runtime *r, const char *id, struct error *err) {
    return enter(fake_of(r), FAKE_RETIRE, id, err);
}
static int f_pause(struct runtime *r, const char *id, struct error *err) {
    return enter(fake_of(r), FAKE_PAUSE, id, err);
}
static int f_resume(struct runtime *r, const char *id, struct error *err) {
    return enter(fake_of(r), FAKE_RESUME, id, err);
}
static int f_inspect(struct runtime *r, const char *id, struct inspection *ret, struct error *err) {
    struct fake *f = fake_of(r);
    if (enter(f, FAKE_INSPECT, id, err) < 0)
        return -1;
    *ret = f->inspection;
    return 0;
}
static int f_logs(struct runtime *r, const char *id, struct strbuf *ret, struct error *err) {
    return enter(fake_of(r), FAKE_LOGS, NULL, err) < 0 ? -1 : strbuf_addf(ret, "log of %s", id);
}
static int f_facts(struct runtime *r, const char *id, struct pairs *ret, struct error *err) {
    return enter(fake_of(r), FAKE_FACTS, NULL, err) < 0 ? -1 : pairs_add(ret, "Name", id);
}
static int f_dial(struct runtime *r, const char *id, unsigned port, int *ret_fd,
                  struct error *err) {
    (void)id;
    if (enter(fake_of(r), FAKE_DIAL, NULL, err) < 0)
        return -1;
    *ret_fd = fake_of(r)->dial ? fake_of(r)->dial(port) : dup(0);
    return 0;
}
static int f_snapshot(struct runtime *r, const char *id, const char *snapshot_id,
                      char *ret_artifact, struct error *err) {
    struct fake *f = fake_of(r);
    if (enter(f, FAKE_SNAPSHOT, id, err) < 0)
        return -1;
    pthread_mutex_lock(&f->lock);
    (void)map_put(&f->snapshots, snapshot_id, f);
    pthread_mutex_unlock(&f->lock);
    (void)snprintf(ret_artifact, RUNTIME_STATE_MAX, "{\"of\":\"%s\"}", id);
    return 0;
}
static int f_snapshot_find(struct runtime *r, const char *snapshot_id, char *ret_artifact,
                           struct error *err) {
    (void)err;
    (void)snprintf(ret_artifact, RUNTIME_STATE_MAX, "{}");
    return fake_kept(r, snapshot_id);
}
static int f_snapshot_remove(struct runtime *r, const char *snapshot_id, const char *artifact,
                             struct error *err) {
    struct fake *f = fake_of(r);
    (void)artifact;
    if (enter(f, FAKE_SNAPSHOT_REMOVE, NULL, err) < 0)
        return -1;
    pthread_mutex_lock(&f->lock);
    bool busy = f->snapshots_busy;
    if (!busy)
        (void)map_remove(&f->snapshots, snapshot_id);
    pthread_mutex_unlock(&f->lock);
    return busy ? error_set(err, EBUSY, "in use") : 0;
}
static bool f_relays(const struct runtime *r, const struct sandbox_spec *spec, unsigned port) {
    (void)spec, (void)port;
    return ((const struct fake *)r)->relay;
}
static const char *f_notice(const struct runtime *r, const struct sandbox_spec *spec) {
    (void)spec;
    return ((const struct fake *)r)->notice;
}
static void f_watch(struct runtime *r, struct loop *l, runtime_event_fn *event, void *arg) {
    struct fake *f = fake_of(r);
    f->loop = l;
    f->event = event;
    f->event_arg = arg;
}
static void f_stop(struct runtime *r) {
    (void)r;
}
static void f_free(struct runtime *r) {
    struct fake *f = fake_of(r);
    map_clear(&f->existing);
    map_clear(&f->snapshots);
    map_clear(&f->busy);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->change);
    free(f);
}

static const struct runtime_ops ops = {.name = "fake",
                                       .code_prefix = "FAKE",
                                       .features = RUNTIME_PAUSE,
                                       .snapshot = f_snapshot,
                                       .snapshot_find = f_snapshot_find,
                                       .snapshot_remove = f_snapshot_remove,
                                       .start = f_start,
                                       .list = f_list,
                                       .adopt = f_adopt,
                                       .sweep = f_sweep,
                                       .ensure_image = f_image,
                                       .image_ready = f_ready,
                                       .provision = f_provision,
                                       .destroy = f_destroy,
                                       .retire = f_retire,
                                       .pause = f_pause,
                                       .resume = f_resume,
                                       .inspect = f_inspect,
                                       .logs = f_logs,
                                       .facts = f_facts,
                                       .dial = f_dial,
                                       .relays = f_relays,
                                       .notice = f_notice,
                                       .watch = f_watch,
                                       .stop = f_stop,
                                       .free = f_free};

struct runtime *fake_new(void) {
    struct fake *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->base.ops = &ops;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->change, NULL);
    map_init(&f->existing);
    map_init(&f->snapshots);
    map_init(&f->busy);
    f->images_ready = true;
    f->inspection = (struct inspection){.alive = true};
    return &f->base;
}

#define LOCKED(f, statement)                                                                       \
    do {                                                                                           \
        pthread_mutex_lock(&(f)->lock);                                                            \
        statement;                                                                                 \
        pthread_mutex_unlock(&(f)->lock);                                                          \
    } while (0)

void fake_fail(struct runtime *r, enum fake_call call, unsigned times) {
    LOCKED(fake_of(r), fake_of(r)->fail[call] = times);
}
void fake_hold(struct runtime *r, enum fake_call call, bool hold) {
    LOCKED(fake_of(r), fake_of(r)->hold[call] = hold; pthread_cond_broadcast(&fake_of(r)->change));
}
void fake_hook(struct runtime *r, enum fake_call call, void (*hook)(void)) {
    LOCKED(fake_of(r), fake_of(r)->hook[call] = hook);
}
unsigned fake_count(struct runtime *r, enum fake_call call) {
    unsigned n;
    LOCKED(fake_of(r), n = fake_of(r)->count[call]);
    return n;
}
unsigned fake_most(struct runtime *r, enum fake_call call) {
    unsigned n;
    LOCKED(fake_of(r), n = fake_of(r)->most[call]);
    return n;
}
unsigned fake_overlaps(struct runtime *r) {
    unsigned n;
    LOCKED(fake_of(r), n = fake_of(r)->overlaps);
    return n;
}
size_t fake_existing(struct runtime *r) {
    size_t n;
    LOCKED(fake_of(r), n = fake_of(r)->existing.count);
    return n;
}
bool fake_exists(struct runtime *r, const char *id) {
    bool there;
    LOCKED(fake_of(r), there = map_get(&fake_of(r)->existing, id) != NULL);
    return there;
}
bool fake_kept(struct runtime *r, const char *snapshot_id) {
    bool there;
    LOCKED(fake_of(r), there = map_get(&fake_of(r)->snapshots, snapshot_id) != NULL);
    return there;
}
void fake_busy_snapshots(struct runtime *r, bool busy) {
    LOCKED(fake_of(r), fake_of(r)->snapshots_busy = busy);
}
void fake_put(struct runtime *r, const char *id) {
    LOCKED(fake_of(r), assert_int_equal(map_put(&fake_of(r)->existing, id, r), 0));
}
void fake_away(struct runtime *r, bool away) {
    fake_of(r)->away = away; // before a start only
}
void fake_dial(struct runtime *r, int (*dial)(unsigned port)) {
    fake_of(r)->dial = dial;
}
void fake_relay(struct runtime *r, bool relay) {
    fake_of(r)->relay = relay;
}
void fake_notice(struct runtime *r, const char *text) {
    fake_of(r)->notice = text;
}
void fake_images(struct runtime *r, bool ready) {
    fake_of(r)->images_ready = ready; // loop thread only
}
void fake_inspection(struct runtime *r, const struct inspection *i) {
    LOCKED(fake_of(r), fake_of(r)->inspection = *i);
}
void fake_exit(struct runtime *r, const char *id, int code, int signal, bool oom) {
    struct fake *f = fake_of(r);
    const struct inspection i = {
        .has_record = true, .exit_code = code, .signal = signal, .oom = oom};
    struct runtime_event e = {.kind = RUNTIME_EVENT_EXITED};
    (void)snprintf(e.id, sizeof e.id, "%s", id);
    fake_inspection(r, &i);
    f->event(&e, f->event_arg);
}

// ---- the world ----

static void on_tick(struct timer *t) {
    (void)t;
}

void world_turn(struct world *w) {
    timer_start(&w->loop, &w->tick, 2, on_tick);
    (void)uv_run(&w->loop.uv, UV_RUN_ONCE);
}

void world_reopen(struct world *w) {
    struct error err = {0};
    const struct store_settings s = {.path = w->path, .queue_max = 65536};
    w->store = store_open(&w->loop, &s, &err);
    if (!w->store)
        fail_msg("%s", err.message);
}

void world_begin(struct world *w) {
    struct error err = {0};
    *w = (struct world){.settings = {.workers = 8,
                                     .pull_workers = 2,
                                     .queue_max = 65536,
                                     .creates_running = 4,
                                     .creates_waiting = 1000,
                                     .create_wait_ms = 20000,
                                     .failed_retention_s = 3600}};
    (void)snprintf(w->dir, sizeof w->dir, "/tmp/test-domain-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(w->path, sizeof w->path, "%s/store/test.db", w->dir);
    error_set_prefix("FAKE");
    assert_int_equal(loop_init(&w->loop, &err), 0);
    world_reopen(w);
    w->runtime = fake_new();
}

static void started(const struct error *err, void *arg) {
    struct world *w = arg;
    w->ready = err ? -1 : 1;
    if (err)
        w->start_error = *err;
}

void world_start(struct world *w) {
    struct error err = {0};
    w->settings.loop = &w->loop;
    w->settings.store = w->store;
    w->settings.runtime = w->runtime;
    w->domain = domain_new(&w->settings, &err);
    assert_non_null(w->domain);
    w->ready = 0;
    domain_start(w->domain, started, w);
    UNTIL(w, w->ready);
}

void world_open(struct world *w) {
    world_begin(w);
    world_start(w);
    assert_int_equal(w->ready, 1);
}

static void on_stopped(void *arg) {
    *(bool *)arg = true;
}

void world_stop(struct world *w) {
    bool stopped = false;
    domain_stop(w->domain, on_stopped, &stopped);
    UNTIL(w, stopped);
    domain_free(w->domain);
    store_close(w->store);
    w->domain = NULL;
    w->store = NULL;
}

void world_close(struct world *w) {
    struct error err = {0};
    if (w->domain)
        world_stop(w);
    store_close(w->store);
    assert_int_equal(fake_overlaps(w->runtime), 0);
    w->runtime->ops->free(w->runtime);
    timer_stop(&w->tick);
    assert_int_equal(loop_close(&w->loop), 0);
    assert_int_equal(path_remove_tree(AT_FDCWD, w->dir, &err), 0);
}

// A file size limit of nothing, so that real writes fail: needs no privilege and no special disk.
void disk_full(bool full) {
    struct rlimit r;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = full ? 0 : r.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

// ---- requests ----

struct sandbox_spec *test_spec(int64_t timeout_s) {
    struct sandbox_spec *s = spec_new();
    assert_non_null(s);
    s->image = strdup("base:1");
    s->timeout_s = timeout_s;
    s->entrypoint = calloc(2, sizeof(char *));
    s->entrypoint[0] = strdup("sleep");
    s->entrypoint_count = 1;
    s->has_metadata = true;
    assert_int_equal(pairs_add(&s->metadata, "team", "red"), 0);
    return s;
}

void answered(const struct sandbox *sb, const struct error *err, void *arg) {
    struct answer *a = arg;
    a->times++;
    a->has_sandbox = sb != NULL;
    if (err)
        a->error = *err;
    if (!sb)
        return;
    a->state = sb->state;
    (void)snprintf(a->id, sizeof a->id, "%s", sb->id);
}

struct create_ticket *test_create(struct world *w, struct answer *a, int64_t timeout_s,
                                  int64_t wait_ms) {
    struct sandbox_spec *s = test_spec(timeout_s);
    const struct create_request q = {
        .spec = s, .image_username = "me", .image_password = "secret", .wait_ms = wait_ms};
    *a = (struct answer){0};
    struct create_ticket *t = lifecycle_create(w->domain, &q, answered, a);
    spec_unref(s);
    return t;
}

void create_running(struct world *w, int64_t timeout_s, char id[SANDBOX_ID_SIZE]) {
    struct answer a;
    (void)test_create(w, &a, timeout_s, -1);
    UNTIL(w, a.times);
    assert_string_equal(a.error.message, "");
    assert_int_equal(a.state, SANDBOX_RUNNING);
    (void)snprintf(id, SANDBOX_ID_SIZE, "%s", a.id);
}

static int count_row(const union store_record *r, void *arg) {
    (void)r;
    ++*(int *)arg;
    return 0;
}

int stored_rows(struct world *w) {
    struct error err = {0};
    int n = 0;
    assert_int_equal(store_load(w->store, STORE_SANDBOXES, count_row, &n, &err), 0);
    return n;
}

static struct {
    const char *id;
    char state[32];
} wanted;

static int find_row(const union store_record *r, void *arg) {
    (void)arg;
    if (strcmp(r->sandbox.id, wanted.id) == 0)
        (void)snprintf(wanted.state, sizeof wanted.state, "%s", r->sandbox.state);
    return 0;
}

const char *stored_state(struct world *w, const char *id) {
    struct error err = {0};
    wanted.id = id;
    wanted.state[0] = '\0';
    assert_int_equal(store_load(w->store, STORE_SANDBOXES, find_row, NULL, &err), 0);
    return wanted.state;
}
