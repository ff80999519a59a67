#include "fake_engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/list.h"
#include "base/parse.h"
#include "base/strbuf.h"

enum { REQUEST_MAX = 64 * 1024 * 1024, CONNECTIONS = 64 };

struct rule {
    struct list node;
    char *method, *path, *body, *raw;
    size_t len; // of body
    unsigned times, used, status;
};

struct asked {
    struct list node;
    char *method, *path, *target, *head, *body;
};

struct connection {
    struct fake_engine *engine;
    pthread_t thread;
    int fd;
    bool used, listening;
};

struct fake_engine {
    pthread_t thread;
    pthread_mutex_t lock;
    int fd;
    char path[64], away[72], host[80];
    char *last_method, *last_path; // of the request after whose answer it leaves; NULL: stays
    struct list rules, asked;
    struct connection connections[CONNECTIONS];
    char *last;
};

// ---- one request ----

struct request {
    char method[16], target[4096], path[4096];
    char *head, *body;
};

static void take_apart(struct request *q) {
    const char *p = q->head;
    size_t n = strcspn(p, " ");
    (void)snprintf(q->method, sizeof q->method, "%.*s", (int)n, p);
    p += n + 1;
    (void)snprintf(q->target, sizeof q->target, "%.*s", (int)strcspn(p, " "), p);
    p = q->target;
    if (strncmp(p, "/v1.", 4) == 0)
        p += 1 + strcspn(p + 1, "/");
    (void)snprintf(q->path, sizeof q->path, "%.*s", (int)strcspn(p, "?"), p);
}

// Head and body of one request; false at the end of the connection.
static bool receive(int fd, struct strbuf *in, struct request *q) {
    uint64_t length = 0;
    char *end;
    while (!(end = strstr(in->data, "\r\n\r\n"))) {
        char *room = strbuf_reserve(in, 65536);
        ssize_t n = room ? read(fd, room, 65536) : -1;
        if (n <= 0)
            return false;
        in->len += (size_t)n;
        in->data[in->len] = '\0';
    }
    size_t head = (size_t)(end - in->data) + 4;
    q->head = strndup(in->data, head);
    const char *field = strcasestr(q->head, "content-length: ");
    if (field)
        (void)parse_u64n(field + 16, strcspn(field + 16, "\r"), 0, REQUEST_MAX, &length);
    while (in->len < head + length) {
        char *room = strbuf_reserve(in, 65536);
        ssize_t n = room ? read(fd, room, 65536) : -1;
        if (n <= 0)
            return false;
        in->len += (size_t)n;
    }
    q->body = calloc(1, (size_t)length + 1);
    memcpy(q->body, in->data + head, (size_t)length);
    strbuf_consume(in, head + (size_t)length);
    take_apart(q);
    return true;
}

static void remember(struct fake_engine *f, struct request *q) { // locked
    struct asked *a = calloc(1, sizeof *a);
    *a = (struct asked){.method = strdup(q->method),
                        .path = strdup(q->path),
                        .target = strdup(q->target),
                        .head = TAKE_PTR(q->head),
                        .body = TAKE_PTR(q->body)};
    list_push_back(&f->asked, &a->node);
}

static struct rule *find(struct fake_engine *f, const struct request *q) { // locked
    LIST_EACH(&f->rules, node) {
        struct rule *r = LIST_ENTRY(node, struct rule, node);
        if (strcmp(r->method, q->method) == 0 && strcmp(r->path, q->path) == 0 &&
            (!r->times || r->used < r->times)) {
            r->used++;
            return r;
        }
    }
    return NULL;
}

// Before the answer, so that whoever has that finds nothing else. Locked.
static bool leaves(struct connection *c, const struct request *q) {
    struct fake_engine *f = c->engine;
    if (!f->last_path || strcmp(f->last_method, q->method) != 0 ||
        strcmp(f->last_path, q->path) != 0)
        return false;
    free(TAKE_PTR(f->last_method));
    free(TAKE_PTR(f->last_path));
    if (rename(f->path, f->away))
        abort();
    for (size_t i = 0; i < CONNECTIONS; i++)
        if (f->connections[i].used && &f->connections[i] != c)
            (void)shutdown(f->connections[i].fd, SHUT_RDWR);
    return true;
}

static bool answer(struct connection *c, const struct rule *r,
                   bool last) { // locked; false: close
    struct strbuf sb cleanup_strbuf;
    const char *body = r ? r->body : "{\"message\":\"no such rule in the fake engine\"}";
    unsigned status = r ? r->status : 404;
    size_t len = r ? r->len : strlen(body);
    strbuf_init(&sb, REQUEST_MAX);
    if (r && r->raw) {
        (void)fd_write_all(c->fd, r->raw, strlen(r->raw));
        return false;
    }
    (void)strbuf_addf(&sb, "HTTP/1.1 %u X\r\n%s", status, last ? "Connection: close\r\n" : "");
    if (status != 204 && status != 304)
        (void)strbuf_addf(&sb, "Content-Type: application/json\r\nContent-Length: %zu\r\n", len);
    (void)strbuf_adds(&sb, "\r\n");
    if (status != 204 && status != 304)
        (void)strbuf_add(&sb, body, len);
    return fd_write_all(c->fd, sb.data, sb.len) == 0 && !last;
}

static void serve(struct connection *c) {
    static const char events[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    struct fake_engine *f = c->engine;
    struct strbuf in cleanup_strbuf;
    bool go_on = true;
    strbuf_init(&in, REQUEST_MAX + 65536);
    while (go_on) {
        struct request q = {.head = NULL};
        if (!receive(c->fd, &in, &q)) {
            free(q.head);
            return;
        }
        (void)pthread_mutex_lock(&f->lock);
        struct rule *r = find(f, &q);
        bool last = leaves(c, &q);
        remember(f, &q);
        if (!r && strcmp(q.path, "/events") == 0)
            c->listening = fd_write_all(c->fd, events, strlen(events)) == 0;
        else
            go_on = answer(c, r, last);
        (void)pthread_mutex_unlock(&f->lock);
    }
}

static void *run_connection(void *arg) {
    struct connection *c = arg;
    serve(c);
    (void)pthread_mutex_lock(&c->engine->lock);
    c->listening = false;
    (void)shutdown(c->fd, SHUT_RDWR); // closed at the end, so that its number is not another's
    (void)pthread_mutex_unlock(&c->engine->lock);
    return NULL;
}

static void *run(void *arg) {
    struct fake_engine *f = arg;
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &f->connections[i];
        int fd = accept4(f->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return NULL;
        (void)pthread_mutex_lock(&f->lock);
        *c = (struct connection){.engine = f, .fd = fd, .used = true};
        (void)pthread_create(&c->thread, NULL, run_connection, c);
        (void)pthread_mutex_unlock(&f->lock);
    }
    abort(); // a test that makes so many connections wants a larger table
}

// ---- for the test ----

struct fake_engine *fake_engine_new(void) {
    static unsigned number;
    struct fake_engine *f = calloc(1, sizeof *f);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)signal(SIGPIPE, SIG_IGN); // who was cut off may be gone
    list_init(&f->rules);
    list_init(&f->asked);
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)snprintf(f->path, sizeof f->path, "/tmp/fake-engine-%d-%u", getpid(), number++);
    (void)snprintf(f->away, sizeof f->away, "%s.away", f->path);
    (void)snprintf(f->host, sizeof f->host, "unix://%s", f->path);
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", f->path);
    (void)unlink(f->path);
    f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (f->fd < 0 || bind(f->fd, (struct sockaddr *)&a, sizeof a) || listen(f->fd, CONNECTIONS) ||
        pthread_create(&f->thread, NULL, run, f))
        abort();
    fake_engine_rule(
        f, "GET", "/version", 0, 200,
        "{\"Version\":\"20.10.24\",\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}");
    return f;
}

static void free_rule(struct rule *r) {
    free(r->method);
    free(r->path);
    free(r->body);
    free(r->raw);
    free(r);
}

static void free_asked(struct asked *a) {
    free(a->method);
    free(a->path);
    free(a->target);
    free(a->head);
    free(a->body);
    free(a);
}

void fake_engine_free(struct fake_engine *f) {
    (void)shutdown(f->fd, SHUT_RDWR);
    (void)pthread_join(f->thread, NULL);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &f->connections[i];
        if (!c->used)
            continue;
        (void)shutdown(c->fd, SHUT_RDWR);
        (void)pthread_join(c->thread, NULL);
        (void)close(c->fd);
    }
    for (struct list *n; (n = list_pop(&f->rules));)
        free_rule(LIST_ENTRY(n, struct rule, node));
    for (struct list *n; (n = list_pop(&f->asked));)
        free_asked(LIST_ENTRY(n, struct asked, node));
    (void)close(f->fd);
    (void)unlink(f->path);
    (void)unlink(f->away);
    free(f->last_method);
    free(f->last_path);
    (void)pthread_mutex_destroy(&f->lock);
    free(f->last);
    free(f);
}

const char *fake_engine_host(const struct fake_engine *f) {
    return f->host;
}

static void add(struct fake_engine *f, struct rule *r) {
    (void)pthread_mutex_lock(&f->lock);
    list_push_front(&f->rules, &r->node);
    (void)pthread_mutex_unlock(&f->lock);
}

void fake_engine_rule(struct fake_engine *f, const char *method, const char *path, unsigned times,
                      unsigned status, const char *body) {
    struct rule *r = calloc(1, sizeof *r);
    *r = (struct rule){.method = strdup(method),
                       .path = strdup(path),
                       .body = strdup(body),
                       .len = strlen(body),
                       .times = times,
                       .status = status};
    add(f, r);
}

void fake_engine_raw(struct fake_engine *f, const char *method, const char *path, unsigned times,
                     const char *raw) {
    struct rule *r = calloc(1, sizeof *r);
    *r = (struct rule){
        .method = strdup(method), .path = strdup(path), .raw = strdup(raw), .times = times};
    add(f, r);
}

static unsigned each_listener(struct fake_engine *f, const char *chunk) {
    unsigned n = 0;
    (void)pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &f->connections[i];
        if (!c->used || !c->listening)
            continue;
        n++;
        if (chunk && !*chunk)
            (void)shutdown(c->fd, SHUT_RDWR);
        else if (chunk)
            (void)fd_write_all(c->fd, chunk, strlen(chunk));
    }
    (void)pthread_mutex_unlock(&f->lock);
    return n;
}

void fake_engine_push(struct fake_engine *f, const char *json) {
    struct strbuf sb cleanup_strbuf;
    strbuf_init(&sb, REQUEST_MAX);
    (void)strbuf_addf(&sb, "%zx\r\n%s\n\r\n", strlen(json) + 1, json);
    (void)each_listener(f, sb.data);
}

void fake_engine_cut(struct fake_engine *f) {
    (void)each_listener(f, "");
}

unsigned fake_engine_listeners(struct fake_engine *f) {
    return each_listener(f, NULL);
}

void fake_engine_leave(struct fake_engine *f, const char *method, const char *path) {
    (void)pthread_mutex_lock(&f->lock);
    f->last_method = strdup(method);
    f->last_path = strdup(path);
    (void)pthread_mutex_unlock(&f->lock);
}

void fake_engine_return(struct fake_engine *f) {
    if (rename(f->away, f->path))
        abort();
}

enum part { TARGET, HEAD, BODY };

static unsigned look(struct fake_engine *f, const char *method, const char *path, enum part part) {
    unsigned n = 0;
    (void)pthread_mutex_lock(&f->lock);
    free(f->last);
    f->last = NULL;
    LIST_EACH(&f->asked, node) {
        const struct asked *a = LIST_ENTRY(node, struct asked, node);
        if (strcmp(a->method, method) != 0 || strcmp(a->path, path) != 0)
            continue;
        n++;
        free(f->last);
        f->last = strdup(part == TARGET ? a->target : part == HEAD ? a->head : a->body);
    }
    if (!f->last)
        f->last = strdup("");
    (void)pthread_mutex_unlock(&f->lock);
    return n;
}

unsigned fake_engine_count(struct fake_engine *f, const char *method, const char *path) {
    return look(f, method, path, TARGET);
}
const char *fake_engine_target(struct fake_engine *f, const char *method, const char *path) {
    (void)look(f, method, path, TARGET);
    return f->last;
}
const char *fake_engine_head(struct fake_engine *f, const char *method, const char *path) {
    (void)look(f, method, path, HEAD);
    return f->last;
}
const char *fake_engine_body(struct fake_engine *f, const char *method, const char *path) {
    (void)look(f, method, path, BODY);
    return f->last;
}

void fake_engine_bytes(struct fake_engine *f, const char *method, const char *path,
                       const void *data, size_t len) {
    struct rule *r = calloc(1, sizeof *r);
    char *copy = malloc(len + 1);
    memcpy(copy, data, len);
    *r = (struct rule){
        .method = strdup(method), .path = strdup(path), .body = copy, .len = len, .status = 200};
    add(f, r);
}

unsigned fake_engine_total(struct fake_engine *f) {
    unsigned n = 0;
    (void)pthread_mutex_lock(&f->lock);
    LIST_EACH(&f->asked, node) {
        const struct asked *a = LIST_ENTRY(node, struct asked, node);
        n += strcmp(a->path, "/events") != 0 && strcmp(a->path, "/version") != 0;
    }
    (void)pthread_mutex_unlock(&f->lock);
    return n;
}
