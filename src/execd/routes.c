#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "execd/execd.h"
#include "execd/handlers.h"
#include "execd/routes.h"
#include "execd/telemetry/telemetry.h"
#include "fmt/json.h"
#include "http/router.h"
#include "http/url.h"

#define BUFFERED HTTP_BODY_BUFFERED
#define STREAMED HTTP_BODY_STREAMED
#define OPEN     HTTP_ROUTE_OPEN

// A file route, and the same for another user of the sandbox (compat-1.1.1.md E13).
#define FILES(method, path, handle, body, codes)                                                   \
    {method, path, handle, body, 0, codes " " CODE_RUNTIME " " CODE_UNAVAILABLE}, {                \
        method, "/v1/filesystem/{uid}/{gid}" path, handle, body, 0,                                \
            codes " " CODE_BODY " " CODE_RUNTIME " " CODE_UNAVAILABLE " " CODE_IDENTITY            \
    }

// The one table (execd.md 2.2). A block for each file; first match wins.
static const struct http_route routes[] = {
    {"GET", "/ping", handle_ping, BUFFERED, OPEN, ""},
    {"PUT", "/environment", handle_environment, BUFFERED, 0, CODE_BODY " " CODE_RUNTIME},
    {"GET", "/start", handle_start, BUFFERED, 0, CODE_RUNTIME},

    // command.c
    {"POST", "/command", handle_command, BUFFERED, 0, CODE_BODY " " CODE_RUNTIME},
    {"DELETE", "/command", handle_interrupt, BUFFERED, 0, CODE_QUERY " " CODE_RUNTIME},
    {"GET", "/command/status/{id}", handle_command_status, BUFFERED, 0, CODE_BODY},
    {"GET", "/command/{id}/logs", handle_command_logs, BUFFERED, 0, CODE_BODY " " CODE_RUNTIME},

    // files/
    FILES("GET", "/files/info", handle_files_info, BUFFERED, CODE_NOT_FOUND),
    FILES("DELETE", "/files", handle_files_delete, BUFFERED, ""),
    FILES("POST", "/files/mv", handle_files_mv, BUFFERED, CODE_BODY " " CODE_NOT_FOUND),
    FILES("POST", "/files/permissions", handle_files_permissions, BUFFERED,
          CODE_BODY " " CODE_NOT_FOUND),
    FILES("GET", "/files/search", handle_files_search, BUFFERED, CODE_QUERY " " CODE_NOT_FOUND),
    FILES("POST", "/files/replace", handle_files_replace, BUFFERED, CODE_BODY " " CODE_NOT_FOUND),
    FILES("POST", "/files/upload", handle_files_upload, STREAMED,
          CODE_FILE " " CODE_CONTENT " " CODE_METADATA),
    FILES("GET", "/files/download", handle_files_download, BUFFERED,
          CODE_QUERY " " CODE_BODY " " CODE_FILE " " CODE_NOT_FOUND " " CODE_UNKNOWN),
    FILES("GET", "/directories/list", handle_directories_list, BUFFERED,
          CODE_QUERY " " CODE_BODY " " CODE_NOT_FOUND),
    FILES("POST", "/directories", handle_directories_make, BUFFERED, CODE_BODY),
    FILES("DELETE", "/directories", handle_directories_delete, BUFFERED, CODE_BODY),
    {"GET", "/files/watch", handle_files_watch, BUFFERED, 0,
     CODE_QUERY " " CODE_NOT_FOUND " " CODE_RUNTIME " " CODE_UNAVAILABLE},

    // shell/session.c
    {"POST", "/session", handle_session_create, BUFFERED, 0, CODE_BODY " " CODE_RUNTIME},
    {"POST", "/session/{id}/run", handle_session_run, BUFFERED, 0, CODE_BODY " " CODE_RUNTIME},
    {"DELETE", "/session/{id}", handle_session_delete, BUFFERED, 0, CODE_CONTEXT},

    // shell/pty.c, shell/pty_client.c
    {"POST", "/pty", handle_pty_create, BUFFERED, 0, CODE_BODY " " CODE_RUNTIME},
    {"GET", "/pty/{id}", handle_pty_get, BUFFERED, 0, CODE_CONTEXT},
    {"DELETE", "/pty/{id}", handle_pty_delete, BUFFERED, 0, CODE_CONTEXT},
    {"GET", "/pty/{id}/ws", handle_pty_ws, BUFFERED, 0,
     CODE_CONTEXT " " CODE_RUNTIME " ALREADY_CONNECTED VIEWER_REQUIRES_RUNNING_SESSION"},

    // proxy.c
    {"*", "/proxy/{port}/*", handle_proxy, STREAMED, 0, CODE_BODY " " CODE_RUNTIME},
    {"*", "/proxy/", handle_proxy_no_port, BUFFERED, 0, ""},

    // metrics/
    {"GET", "/metrics", handle_metrics, BUFFERED, 0, CODE_RUNTIME " " CODE_UNAVAILABLE},
    {"GET", "/metrics/watch", handle_metrics_watch, BUFFERED, 0, CODE_RUNTIME},

    // code contexts: later
    {"POST", "/code", handle_no_code, BUFFERED, 0, CODE_RUNTIME},
    {"DELETE", "/code", handle_interrupt, BUFFERED, 0, CODE_QUERY " " CODE_RUNTIME},
    {"POST", "/code/context", handle_no_code, BUFFERED, 0, CODE_RUNTIME},
    {"GET", "/code/contexts", handle_no_code, BUFFERED, 0, CODE_RUNTIME},
    {"DELETE", "/code/contexts", handle_no_code, BUFFERED, 0, CODE_RUNTIME},
    {"GET", "/code/contexts/{id}", handle_no_code, BUFFERED, 0, CODE_RUNTIME},
    {"DELETE", "/code/contexts/{id}", handle_no_code, BUFFERED, 0, CODE_RUNTIME},

    // isolated execution: later
    {"GET", "/v1/isolated/capabilities", handle_isolation_abilities, BUFFERED, 0, ""},
    {"*", "/v1/isolated/*", handle_no_isolation, BUFFERED, 0,
     CODE_UNAVAILABLE " " CODE_UNSUPPORTED},
};

const struct execd_room execd_rooms[] = {
    {"capture", capture_room_start, capture_room_stop, NULL},
    {"command", command_room_start, command_room_stop, command_interrupt},
    {"session", NULL, session_room_stop, session_interrupt},
    {"pty", NULL, pty_room_stop, NULL},
    {"proxy", proxy_room_start, proxy_room_stop, NULL},
    {"metrics", metrics_room_start, NULL, NULL},
    {"hooks", NULL, hooks_room_stop, NULL},
    {"telemetry", telemetry_room_start, telemetry_room_stop, NULL},
    {NULL, NULL, NULL, NULL},
};

// ---- what every handler uses ----

enum {
    WORKERS = 4,
    WORKERS_QUEUE = 1024,
    IDLE_MS =
        90 * 1000 // longer than the server's proxy keeps a connection, so that it closes first
};

struct workers *execd_workers(struct execd *e, struct error *err) {
    if (!e->workers)
        e->workers = workers_new(&e->loop, WORKERS, WORKERS_QUEUE, 0, err);
    return e->workers;
}

void execd_fail(struct http_exchange *x, unsigned status, const char *code, const char *format,
                ...) {
    struct error err = {.kind = EINVAL, .status = (int)status};
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err.message, sizeof err.message, format, args);
    va_end(args);
    (void)snprintf(err.code, sizeof err.code, "%s", code);
    http_reply_error(x, &err);
}

json_t *execd_body_of(struct http_exchange *x, json_type type, bool optional) {
    json_error_t why;
    bool none =
        optional && x->body[strspn(x->body, " \t\r\n")] == '\0' && !memchr(x->body, 0, x->body_len);
    json_t *j =
        none ? json_null()
             : json_loadb(x->body, x->body_len, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &why);
    if (json_is_null(j)) // the zero value of everything
        j = type == JSON_OBJECT ? json_object() : json_array();
    if (j && json_typeof(j) == type)
        return j;
    execd_fail(x, 400, CODE_BODY, "error parsing request, MAYBE invalid body format. %s",
               !j                    ? why.text
               : type == JSON_OBJECT ? "an object is expected"
                                     : "an array is expected");
    json_decref(j);
    return NULL;
}

json_t *execd_body(struct http_exchange *x, bool optional) {
    return execd_body_of(x, JSON_OBJECT, optional);
}

json_t *execd_member(const json_t *object, const char *name) {
    json_t *value = json_object_get(object, name), *any = NULL;
    const char *key;
    if (!value)
        json_object_foreach((json_t *)object, key, any) // keys are matched without case
            if (!strcasecmp(key, name)) value = any;
    return json_is_null(value) ? NULL : value;
}

// Go drops a pair with a raw ';' or a bad escape, silently.
static bool go_would_drop(const char *pair, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (pair[i] == ';' ||
            (pair[i] == '%' && (i + 2 >= len || !isxdigit((unsigned char)pair[i + 1]) ||
                                !isxdigit((unsigned char)pair[i + 2]))))
            return true;
    return false;
}

const char **execd_query_all(struct http_exchange *x, const char *name) {
    size_t count = 0, pairs = 1;
    for (const char *p = x->query; *p; p++)
        pairs += *p == '&';
    const char **values = arena_alloc(x->arena, (pairs + 1) * sizeof *values);
    for (const char *p = x->query; values && *p;) {
        size_t len = strcspn(p, "&"), unused;
        const char *equals = memchr(p, '=', len);
        size_t key_len = equals ? (size_t)(equals - p) : len;
        if (!go_would_drop(p, len)) {
            char *key = url_decode(x->arena, p, key_len, true, &unused);
            if (key && !strcmp(key, name)) {
                char *value =
                    equals ? url_decode(x->arena, equals + 1, len - key_len - 1, true, &unused)
                           : arena_strdup(x->arena, "");
                if (value)
                    values[count++] = value;
            }
        }
        p += len + (p[len] == '&');
    }
    return values;
}

const char *execd_query(struct http_exchange *x, const char *name) {
    const char **values = execd_query_all(x, name);
    return values ? values[0] : NULL; // Go's Get: the first
}

// ---- small handlers ----

void handle_ping(struct http_exchange *x) {
    http_reply_empty(x, 200);
}

void handle_no_code(struct http_exchange *x) {
    execd_fail(
        x, 500, CODE_RUNTIME,
        "error running codes language runtime server not configured, please check your image "
        "runtime");
}

void handle_no_isolation(struct http_exchange *x) {
    size_t len = strlen(x->path);
    bool phase2 = (len > 5 && !strcmp(x->path + len - 5, "/diff")) ||
                  (len > 7 && !strcmp(x->path + len - 7, "/commit"));
    execd_fail(x, 503, phase2 ? CODE_UNSUPPORTED : CODE_UNAVAILABLE, "isolation unavailable");
}

void handle_isolation_abilities(struct http_exchange *x) {
    http_reply_json(x, 200,
                    json_pack("{s:b,s:s,s:b,s:b,s:b,s:b}", "available", 0, "message",
                              "isolated execution is not built yet", "setpriv_available", 0,
                              "userns_available", 0, "commit_supported", 0, "diff_supported", 0));
}

// Whether the path without its last '/' is a route of this method: then that is where to go.
static bool redirects(struct http_exchange *x) {
    const struct http_server_settings table = {.routes = routes, .route_count = ARRAY_SIZE(routes)};
    struct http_match m = {0};
    size_t len = strlen(x->path);
    char *path =
        len > 1 && x->path[len - 1] == '/' ? arena_strndup(x->arena, x->path, len - 1) : NULL;
    if (!path || http_router_match(&table, x->arena, x->request->method, path, &m) < 0 || !m.route)
        return false;
    const char *to = arena_printf(x->arena, "%s%s%s", path, *x->query ? "?" : "", x->query);
    if (!to || http_reply_header(x, "Location", to) < 0)
        return false;
    http_reply_empty(x, strcmp(x->request->method, "GET") == 0 ? 301 : 307);
    return true;
}

// Unknown path, wrong method, HEAD and OPTIONS alike (execd.md 2.1).
static void no_route(struct http_exchange *x, const char *allowed) {
    static const char text[] = "404 page not found";
    (void)allowed;
    if (!strncmp(x->path, "/proxy//", 8))
        handle_proxy_no_port(x);
    else if (!redirects(x))
        http_reply(x, 404, "text/plain", text, sizeof text - 1);
}

void routes_serve(struct execd *e, struct http_server_settings *s) {
    http_server_defaults(s);
    s->routes = routes;
    s->route_count = ARRAY_SIZE(routes);
    s->user = e;
    s->default_code = CODE_RUNTIME;
    s->before = auth_before;
    s->no_route = no_route;
    s->finished = e->telemetry ? telemetry_request : NULL;
    s->body_max = EXECD_JSON_MAX;
    s->stream_buffer = EXECD_STREAM_BUFFER;
    s->idle_ms = IDLE_MS;
    s->body_ms = s->write_ms = 0; // a client that takes nothing stops its command (execd.md 0.2)
}
