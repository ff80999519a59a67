#include "server/sandbox/renew/queue.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fmt/json.h"
#include "server/sandbox/domain.h"
#include "server/sandbox/renew/redis.h"
#include "server/sandbox/renew/renew.h"

// The list is asked ten times a second, so that the end of the server is noticed and an intent
// waits for nothing that matters to it. An intent that is older than 300 s says nothing any more.
enum { WAIT_MS = 1000, IDLE_MS = 100, RETRY_FIRST_MS = 500, RETRY_MAX_MS = 10000 };
enum { STALE_US = 300 * 1000 * 1000, BATCH = 64, KEY_MAX = 512 };

struct renew_queue {
    struct loop *loop;
    struct domain *domain;
    struct redis_address address;
    char key[KEY_MAX], ca_file[PATH_MAX];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping, handed; // under the lock; handed: `ids` are the loop's until it has read them
    struct loop_task task;
    char ids[BATCH][UUID_TEXT_SIZE];
    size_t count;
    bool told; // that Redis is away
};

// ---- intents ----

bool renew_intent_read(const char *text, size_t len, char id[UUID_TEXT_SIZE]) {
    struct error ignored;
    int64_t at_us;
    json_t *o cleanup_json = json_parse(text, len, NULL, &ignored);
    const char *given = json_string_value(json_object_get(o, "sandbox_id"));
    const char *at = json_string_value(json_object_get(o, "observed_at"));
    if (!given || !at || clock_parse(at, &at_us) < 0 || clock_wall_us() - at_us > STALE_US)
        return false;
    given += strspn(given, " \t\r\n");
    size_t n = strcspn(given, " \t\r\n");
    if (n != UUID_TEXT_SIZE - 1 || given[n + strspn(given + n, " \t\r\n")])
        return false; // no sandbox of ours
    memcpy(id, given, n);
    id[n] = '\0';
    return true;
}

// ---- the thread ----

static bool is_stopping(struct renew_queue *q) {
    (void)pthread_mutex_lock(&q->lock);
    bool stopping = q->stopping;
    (void)pthread_mutex_unlock(&q->lock);
    return stopping;
}

static void pause_for(struct renew_queue *q, int64_t ms) {
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    (void)pthread_mutex_lock(&q->lock);
    while (!q->stopping && pthread_cond_timedwait(&q->changed, &q->lock, &until) == 0)
        ;
    (void)pthread_mutex_unlock(&q->lock);
}

static void on_batch(struct loop_task *task) {
    struct renew_queue *q = CONTAINER_OF(task, struct renew_queue, task);
    for (size_t i = 0; i < q->count; i++) {
        struct sandbox *sb = registry_visible(q->domain->registry, q->ids[i]);
        if (sb && domain_ready(q->domain))
            renew_access(q->domain, sb, "redis_queue");
    }
    (void)pthread_mutex_lock(&q->lock);
    q->handed = false;
    (void)pthread_cond_signal(&q->changed);
    (void)pthread_mutex_unlock(&q->lock);
}

// The loop sets the pace: nothing more is read before it has taken what was read.
static void hand(struct renew_queue *q) {
    (void)pthread_mutex_lock(&q->lock);
    if (!q->stopping) {
        q->handed = true;
        loop_post(q->loop, &q->task);
        while (q->handed && !q->stopping)
            (void)pthread_cond_wait(&q->changed, &q->lock);
    }
    (void)pthread_mutex_unlock(&q->lock);
}

static bool is_fine(redisReply *r) {
    bool fine = r && r->type != REDIS_REPLY_ERROR;
    freeReplyObject(r);
    return fine;
}

static bool says_yes(struct redis *r, const char *const *words, int count, struct error *err) {
    return is_fine(redis_ask(r, words, count, err));
}

static bool log_in(const struct renew_queue *q, struct redis *r, struct error *err) {
    const struct redis_address *a = &q->address;
    const char *const login[] = {"AUTH", a->user, a->password}, *const bare[] = {"AUTH",
                                                                                 a->password};
    char number[12];
    (void)snprintf(number, sizeof number, "%d", a->database);
    const char *const choice[] = {"SELECT", number}, *const ping[] = {"PING"};
    if (*a->password && !(*a->user ? says_yes(r, login, 3, err) : says_yes(r, bare, 2, err)))
        return false;
    return (!a->database || says_yes(r, choice, 2, err)) && says_yes(r, ping, 1, err);
}

static struct redis *dial(struct renew_queue *q) {
    struct error err = {0};
    struct redis *r = redis_open(&q->address, *q->ca_file ? q->ca_file : NULL, WAIT_MS, &err);
    if (r && log_in(q, r, &err)) {
        log_info("renew_intent renew_event=redis_connected");
        q->told = false;
        return r;
    }
    if (!q->told)
        log_warning("renew_intent renew_error=\"%s\" renew_event=worker_redis_error; tried again",
                    err.kind ? err.message : "Redis refused the log-in");
    q->told = true;
    redis_close(r);
    return NULL;
}

static void add(struct renew_queue *q, const redisReply *r) {
    if (r->type == REDIS_REPLY_STRING && q->count < BATCH &&
        renew_intent_read(r->str, r->len, q->ids[q->count]))
        q->count++;
}

// All that is there, up to a batch. False: the connection is of no use any more.
static bool read_batch(struct renew_queue *q, struct redis *redis) {
    const char *const words[] = {"RPOP", q->key};
    q->count = 0;
    for (size_t i = 0; i < BATCH; i++) {
        struct error err;
        redisReply *r = redis_ask(redis, words, 2, &err);
        if (!r || r->type == REDIS_REPLY_ERROR) {
            log_warning("renew_intent renew_error=\"%s\" renew_event=worker_redis_error",
                        r ? r->str : err.message);
            freeReplyObject(r);
            return false;
        }
        bool none = r->type == REDIS_REPLY_NIL;
        add(q, r);
        freeReplyObject(r);
        if (none)
            break;
    }
    return true;
}

static void serve(struct renew_queue *q, struct redis *r) {
    while (!is_stopping(q) && read_batch(q, r)) {
        if (q->count)
            hand(q);
        else
            pause_for(q, IDLE_MS);
    }
}

static void *run(void *arg) {
    struct renew_queue *q = arg;
    int64_t wait_ms = RETRY_FIRST_MS;
    while (!is_stopping(q)) {
        struct redis *r = dial(q);
        if (r) {
            wait_ms = RETRY_FIRST_MS;
            serve(q, r);
            redis_close(r);
        }
        pause_for(q, wait_ms);
        wait_ms = wait_ms * 2 < RETRY_MAX_MS ? wait_ms * 2 : RETRY_MAX_MS;
    }
    return NULL;
}

struct renew_queue *renew_queue_new(struct loop *l, struct domain *d,
                                    const struct renew_queue_settings *s, struct error *err) {
    struct renew_queue *q = calloc(1, sizeof *q);
    pthread_condattr_t attr;
    if (!q) {
        (void)error_errno(err, ENOMEM, "renew queue");
        return NULL;
    }
    q->loop = l;
    q->domain = d;
    q->task.run = on_batch;
    const char *ca = s->ca_file ? s->ca_file : "";
    if (strlen(s->key) >= sizeof q->key || strlen(ca) >= sizeof q->ca_file) {
        (void)error_set(err, EINVAL, "renew_intent.redis: queue_key or ca_file is too long");
    } else if (redis_address_read(s->dsn, &q->address, err) == 0) {
        (void)snprintf(q->key, sizeof q->key, "%s", s->key);
        (void)snprintf(q->ca_file, sizeof q->ca_file, "%s", ca);
        (void)pthread_mutex_init(&q->lock, NULL);
        (void)pthread_condattr_init(&attr);
        (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        (void)pthread_cond_init(&q->changed, &attr);
        (void)pthread_condattr_destroy(&attr);
        int failed = pthread_create(&q->thread, NULL, run, q);
        if (!failed)
            return q;
        (void)error_errno(err, failed, "thread of the renew queue");
    }
    free(q);
    return NULL;
}

void renew_queue_free(struct renew_queue *q) {
    if (!q)
        return;
    (void)pthread_mutex_lock(&q->lock);
    q->stopping = true;
    (void)pthread_cond_broadcast(&q->changed);
    (void)pthread_mutex_unlock(&q->lock);
    (void)pthread_join(q->thread, NULL);
    while (q->handed) // posted and not run yet
        (void)uv_run(&q->loop->uv, UV_RUN_ONCE);
    (void)pthread_mutex_destroy(&q->lock);
    (void)pthread_cond_destroy(&q->changed);
    explicit_bzero(&q->address, sizeof q->address);
    free(q);
}
