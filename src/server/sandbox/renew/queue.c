#include "server/sandbox/renew/queue.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <jansson.h>
#include <pthread.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/parse.h"
#include "fmt/json.h"
#include "server/sandbox/domain.h"
#include "server/sandbox/renew/renew.h"

// The list is asked ten times a second, so that the end of the server is noticed and an intent
// waits for nothing that matters to it. An intent that is older than 300 s says nothing any more.
enum { WAIT_MS = 1000, IDLE_MS = 100, RETRY_FIRST_MS = 500, RETRY_MAX_MS = 10000, PORT = 6379 };
enum { STALE_US = 300 * 1000 * 1000, BATCH = 64, KEY_MAX = 512 };

struct renew_queue {
    struct loop *loop;
    struct domain *domain;
    struct redis_address address;
    char key[KEY_MAX];
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

// ---- the address ----

static int take(char *to, size_t size, const char *from, size_t len) {
    if (len >= size)
        return -1;
    memcpy(to, from, len);
    to[len] = '\0';
    return 0;
}

static int take_login(struct redis_address *a, const char *text, size_t len) {
    const char *colon = memchr(text, ':', len);
    size_t user = colon ? (size_t)(colon - text) : 0;
    const char *password = colon ? colon + 1 : text;
    return take(a->user, sizeof a->user, text, user) < 0 ||
                   take(a->password, sizeof a->password, password,
                        len - (size_t)(password - text)) < 0
               ? -1
               : 0;
}

static int take_place(struct redis_address *a, const char *text) {
    size_t len = strcspn(text, "/");
    const char *colon = memchr(text, ':', len);
    size_t host = colon ? (size_t)(colon - text) : len;
    uint64_t port = PORT, database = 0;
    if (!host || take(a->host, sizeof a->host, text, host) < 0 ||
        (colon && parse_u64n(colon + 1, len - host - 1, 1, 65535, &port) < 0) ||
        (text[len] && text[len + 1] && parse_u64(text + len + 1, 0, 65535, &database) < 0))
        return -1;
    a->port = (int)port;
    a->database = (int)database;
    return 0;
}

int redis_address_read(const char *dsn, struct redis_address *ret, struct error *err) {
    struct redis_address a = {.port = PORT};
    int rc = -1;
    if (strncmp(dsn, "unix://", 7) == 0) {
        rc = dsn[7] == '/' ? take(a.path, sizeof a.path, dsn + 7, strlen(dsn + 7)) : -1;
    } else if (strncmp(dsn, "redis://", 8) == 0) {
        const char *rest = dsn + 8, *at = strrchr(rest, '@');
        rc = at ? take_login(&a, rest, (size_t)(at - rest)) : 0;
        rc = rc == 0 ? take_place(&a, at ? at + 1 : rest) : rc;
    }
    if (rc < 0)
        return error_set(err, EINVAL,
                         "renew_intent.redis.dsn is neither redis://[[user]:password@]host[:port]"
                         "[/database] nor unix:///path (TLS is not built)");
    *ret = a;
    return 0;
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
    if (r)
        freeReplyObject(r);
    return fine;
}

static bool log_in(const struct renew_queue *q, redisContext *c) {
    const struct redis_address *a = &q->address;
    if (*a->password && !is_fine(*a->user ? redisCommand(c, "AUTH %s %s", a->user, a->password)
                                          : redisCommand(c, "AUTH %s", a->password)))
        return false;
    return (!a->database || is_fine(redisCommand(c, "SELECT %d", a->database))) &&
           is_fine(redisCommand(c, "PING"));
}

static redisContext *dial(struct renew_queue *q) {
    const struct timeval limit = {.tv_sec = WAIT_MS / 1000, .tv_usec = 0};
    const struct redis_address *a = &q->address;
    redisContext *c = *a->path ? redisConnectUnixWithTimeout(a->path, limit)
                               : redisConnectWithTimeout(a->host, a->port, limit);
    if (c && !c->err && redisSetTimeout(c, limit) == REDIS_OK && log_in(q, c)) {
        log_info("renew_intent renew_event=redis_connected");
        q->told = false;
        return c;
    }
    if (!q->told)
        log_warning("renew_intent renew_error=\"%s\" renew_event=worker_redis_error; tried again",
                    c && c->errstr[0] ? c->errstr : "Redis refused the log-in");
    q->told = true;
    if (c)
        redisFree(c);
    return NULL;
}

static void add(struct renew_queue *q, const redisReply *r) {
    if (r->type == REDIS_REPLY_STRING && q->count < BATCH &&
        renew_intent_read(r->str, r->len, q->ids[q->count]))
        q->count++;
}

// All that is there, up to a batch. False: the connection is of no use any more.
static bool read_batch(struct renew_queue *q, redisContext *c) {
    q->count = 0;
    for (size_t i = 0; i < BATCH; i++) {
        redisReply *r = redisCommand(c, "RPOP %s", q->key);
        if (!r || r->type == REDIS_REPLY_ERROR) {
            log_warning("renew_intent renew_error=\"%s\" renew_event=worker_redis_error",
                        r ? r->str : c->errstr);
            if (r)
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

static void serve(struct renew_queue *q, redisContext *c) {
    while (!is_stopping(q) && read_batch(q, c)) {
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
        redisContext *c = dial(q);
        if (c) {
            wait_ms = RETRY_FIRST_MS;
            serve(q, c);
            redisFree(c);
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
    if (take(q->key, sizeof q->key, s->key, strlen(s->key)) < 0) {
        (void)error_set(err, EINVAL, "renew_intent.redis.queue_key is too long");
    } else if (redis_address_read(s->dsn, &q->address, err) == 0) {
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
