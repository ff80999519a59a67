#include "http/server.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "http/connection.h"
#include "http/router.h"

enum { REFUSED_MAX = 64 }; // connections above connections_max that still hear why

void http_server_defaults(struct http_server_settings *s) {
    *s = (struct http_server_settings){.body_max = 4 * 1024 * 1024,
                                       .stream_buffer = 256 * 1024,
                                       .connections_max = 1024,
                                       .head_ms = 10000,
                                       .idle_ms = 30000,
                                       .body_ms = 60000,
                                       .write_ms = 60000};
}

// ---- calls ----

struct http_call *http_server_take_call(struct http_server *s) {
    struct list *node = list_pop(&s->stock);
    struct http_call *call;
    if (node) {
        call = LIST_ENTRY(node, struct http_call, node);
        s->stock_count--;
    } else {
        call = calloc(1, sizeof *call);
        if (!call)
            return NULL;
        arena_init(&call->arena, HTTP_ARENA_MAX);
        strbuf_init(&call->fields, HTTP_FIELDS_MAX);
        strbuf_init(&call->body, HTTP_HELD_MAX);
    }
    call->x.arena = &call->arena;
    call->x.server = s;
    call->x.loop = s->loop;
    call->x.path = call->x.query = call->x.mount = call->x.rest = call->x.body = "";
    call->reply_left = -1;
    return call;
}

static void free_call(struct http_call *call) {
    arena_free(&call->arena);
    strbuf_free(&call->fields);
    strbuf_free(&call->body);
    free(call);
}

void http_server_give_call(struct http_server *s, struct http_call *call) {
    struct arena arena = call->arena;
    struct strbuf fields = call->fields;
    if (s->stock_count >= HTTP_STOCK_MAX) {
        free_call(call);
        return;
    }
    strbuf_free(&call->body);
    arena_reset(&arena);
    strbuf_clear(&fields);
    *call = (struct http_call){.arena = arena, .fields = fields};
    strbuf_init(&call->body, HTTP_HELD_MAX);
    list_push_front(&s->stock, &call->node);
    s->stock_count++;
}

// ---- from the head to the handler ----

static bool memory_for(struct http_call *call, const void *p) {
    if (!p)
        http_reply_refusal(&call->x, 503, "out of memory");
    return p;
}

// Splits the target; the absolute form must name the Host of the request (RFC 9112 3.2.2).
static bool split_target(struct http_call *call, const char *target) {
    struct http_exchange *x = &call->x;
    if (strncasecmp(target, "http://", 7) == 0) {
        const char *authority = target + 7, *host = http_header(x, "Host");
        size_t len = strcspn(authority, "/?#");
        if (host && (strlen(host) != len || strncasecmp(host, authority, len) != 0)) {
            http_reply_refusal(x, 400, "the target names another host than the Host field");
            return false;
        }
        target = authority + len;
        if (*target != '/')
            target = arena_printf(x->arena, "/%s", target);
        if (!memory_for(call, target))
            return false;
    }
    size_t len = strcspn(target, "?#");
    x->path = arena_strndup(x->arena, target, len);
    x->query = target[len] == '?' ? target + len + 1 : "";
    return memory_for(call, x->path);
}

static bool find_route(struct http_call *call, const char **ret_allowed) {
    struct http_exchange *x = &call->x;
    struct http_match m = {0};
    if (http_router_match(&x->server->settings, x->arena, x->request->method, x->path, &m) < 0)
        return memory_for(call, NULL);
    x->route = m.route;
    x->mount = m.mount ? m.mount : "";
    x->rest = m.rest ? m.rest : "";
    memcpy(x->params, m.params, sizeof x->params);
    x->param_count = m.param_count;
    *ret_allowed = m.allowed;
    return true;
}

static void reply_no_route(struct http_exchange *x, const char *allowed) {
    struct error err = {0};
    if (x->server->settings.no_route) {
        x->server->settings.no_route(x, allowed);
        return;
    }
    if (allowed)
        (void)http_reply_header(x, "Allow", allowed);
    (void)error_api(&err, allowed ? 405 : 404, allowed ? "METHOD_NOT_ALLOWED" : "NOT_FOUND",
                    allowed ? "the route exists, but not with this method" : "no such route");
    http_reply_error(x, &err);
}

static void run(struct http_call *call, const char *target) {
    struct http_exchange *x = &call->x;
    const struct http_server_settings *s = &x->server->settings;
    const char *allowed = NULL;
    if (!split_target(call, target) || !find_route(call, &allowed))
        return;
    if (s->before && s->before(x)) {
        call->handled = true;
        return;
    }
    if (!x->route || x->route->body == HTTP_BODY_STREAMED) {
        call->handled = true;
        if (x->route)
            x->route->handle(x);
        else
            reply_no_route(x, allowed);
        return;
    }
    call->handled = false; // until the body is here
    call->body.max = s->body_max;
    if (call->body.len > s->body_max || x->request->content_length > (int64_t)s->body_max)
        call->too_large = true;
    else
        http_send_continue(call);
}

void http_route_call(struct http_call *call) {
    struct http_exchange *x = &call->x;
    call->routed = true;
    x->started_ns = x->server->now_ns;
    call->continue_due =
        x->request->expect_continue && x->request->minor > 0 && !call->complete && !call->received;
    run(call, x->request->target);
}

void http_body_complete(struct http_call *call) {
    struct http_exchange *x = &call->x;
    call->handled = true;
    x->body = call->body.data;
    x->body_len = call->body.len;
    x->route->handle(x);
}

void http_server_redispatch(struct http_exchange *x, const char *target) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    bool outer = c->busy;
    c->busy = true; // the call must outlive its handlers here
    char *copy = arena_strdup(x->arena, target);
    strbuf_clear(&call->fields);
    call->has_date = false;
    x->on_gone = x->on_room = NULL;
    if (call->started || ++call->redispatched > HTTP_REDISPATCH_MAX)
        http_reply_refusal(x, 508, "the request was sent on to this server too often");
    else if (memory_for(call, copy))
        run(call, copy);
    if (!call->ended && !call->handled && call->too_large)
        http_reply_refusal(x, 413, "the request body is larger than the limit");
    else if (!call->ended && !call->handled && call->complete)
        http_body_complete(call);
    c->busy = outer;
    http_connection_settle(c);
}

// ---- life ----

struct http_server *http_server_new(struct loop *l, const struct http_server_settings *s,
                                    struct error *err) {
    struct http_server *server = calloc(1, sizeof *server);
    if (!server) {
        (void)error_errno(err, ENOMEM, "HTTP server");
        return NULL;
    }
    server->loop = l;
    server->settings = *s;
    list_init(&server->connections);
    list_init(&server->stock);
    strbuf_init(&server->head, HTTP_FIELDS_MAX + 4096);
    strbuf_init(&server->json, SIZE_MAX / 4);
    json_t *envelope =
        json_pack("{s:s, s:s}", "code", s->default_code ? s->default_code : "INTERNAL_ERROR",
                  "message", "out of memory");
    server->no_memory = json_dumps(envelope, JSON_COMPACT);
    json_decref(envelope);
    if (!server->no_memory) {
        (void)error_errno(err, ENOMEM, "HTTP server");
        free(server);
        return NULL;
    }
    return server;
}

void *http_server_user(const struct http_server *s) {
    return s->settings.user;
}

size_t http_server_connections(const struct http_server *s) {
    return s->connection_count;
}

void http_server_accept(struct http_server *s, int fd) {
    size_t max = s->settings.connections_max, count = s->connection_count;
    if (s->draining || s->freed || (max && count >= max + REFUSED_MAX))
        (void)close(fd);
    else
        http_connection_open(s, fd, max && count >= max);
}

static void accepted(struct listener *li, int fd, void *arg) {
    (void)li;
    http_server_accept(arg, fd);
}

int http_server_listen(struct http_server *s, int listening_fd, struct error *err) {
    if (s->listener_count == HTTP_LISTENERS_MAX) {
        (void)close(listening_fd);
        return error_set(err, EINVAL, "more than %d listeners", HTTP_LISTENERS_MAX);
    }
    struct listener *li = listener_open(s->loop, listening_fd, accepted, s);
    if (!li)
        return error_errno(err, errno, "listener");
    s->listeners[s->listener_count++] = li;
    return 0;
}

unsigned http_server_port(const struct http_server *s) {
    unsigned port = 0;
    for (unsigned i = 0; i < s->listener_count && !port; i++)
        port = listener_port(s->listeners[i]);
    return port;
}

static void close_listeners(struct http_server *s) {
    while (s->listener_count)
        listener_close(s->listeners[--s->listener_count]);
}

// Cuts every connection and tells the handlers. Connections whose exchange is not over stay in the
// list, without a stream.
static void cut_all(struct http_server *s) {
    struct list cut, *node;
    list_init(&cut);
    while ((node = list_pop(&s->connections))) {
        list_push_back(&cut, node);
        http_connection_cut_now(LIST_ENTRY(node, struct http_connection, node));
    }
    while ((node = list_pop(&cut)))
        list_push_back(&s->connections, node);
}

// ---- drain ----

static void drain_over(struct loop_task *task) {
    struct http_server *s = CONTAINER_OF(task, struct http_server, drain_task);
    timer_stop(&s->drain_timer);
    s->drain_done(s->drain_arg);
}

static void finish_drain(struct http_server *s) {
    if (s->drained)
        return;
    s->drained = true;
    s->drain_task.run = drain_over; // it may be a handler's reply call that ended the last one
    loop_defer(s->loop, &s->drain_task);
}

static void drain_late(struct timer *t) {
    struct http_server *s = CONTAINER_OF(t, struct http_server, drain_timer);
    cut_all(s);
    finish_drain(s);
}

void http_server_drain(struct http_server *s, int64_t limit_ms, void (*done)(void *arg),
                       void *arg) {
    s->draining = true;
    s->drain_done = done;
    s->drain_arg = arg;
    close_listeners(s);
    LIST_EACH(&s->connections, node) {
        struct http_connection *c = LIST_ENTRY(node, struct http_connection, node);
        if (!c->call && !c->lingering && !http_connection_queued(c)) {
            http_connection_cut(c);
            http_connection_settle(c);
        }
    }
    if (s->connection_count)
        timer_start(s->loop, &s->drain_timer, limit_ms, drain_late);
    else
        finish_drain(s);
}

// ---- end ----

static void server_free(struct http_server *s) {
    struct list *node;
    while ((node = list_pop(&s->stock)))
        free_call(LIST_ENTRY(node, struct http_call, node));
    strbuf_free(&s->head);
    strbuf_free(&s->json);
    free(s->no_memory);
    free(s);
}

void http_server_removed(struct http_server *s) {
    if (s->connection_count)
        return;
    if (s->freed)
        server_free(s);
    else if (s->draining)
        finish_drain(s);
}

void http_server_free(struct http_server *s) {
    if (!s)
        return;
    close_listeners(s);
    timer_stop(&s->drain_timer);
    loop_cancel(s->loop, &s->drain_task);
    s->drained = true; // nobody waits for that any more
    cut_all(s);
    s->freed = true; // from here on the last exchange to end takes the server with it
    http_server_removed(s);
}
