#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/encode.h"
#include "base/log.h"
#include "base/random.h"
#include "http/url.h"
#include "server/api/api.h"
#include "server/api/handlers.h"
#include "server/api/resources/host.h"
#include "server/api/resources/traffic.h"

// Paths that need no key, by prefix (lifecycle-api.md 2.2, compat-1.1.1.md L2).
static const char *const open_prefixes[] = {"/health",       "/version", "/docs",  "/redoc",
                                            "/openapi.json", "/livez",   "/readyz"};

// At most 128 bytes of [A-Za-z0-9._-], else a fresh one.
static void take_request_id(struct http_exchange *x) {
    const char *given = http_header(x, "X-Request-ID");
    size_t len = 0;
    while (given && isspace((unsigned char)*given))
        given++;
    if (given)
        len = strspn(given, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    if (len && len <= HTTP_REQUEST_ID_MAX && !given[len + strspn(given + len, " \t")]) {
        memcpy(x->request_id, given, len);
        x->request_id[len] = 0;
    } else {
        random_hex(x->request_id, 32);
    }
    (void)http_reply_header(x, "X-Request-ID", x->request_id);
}

bool api_is_key(const struct api *a, const char *text, size_t len) {
    bool found = false;
    // Every key is compared whole, whichever matched; only the lengths are no secret.
    for (size_t i = 0; i < a->keys->key_count; i++)
        if (strlen(a->keys->keys[i]) == len)
            found |= constant_time_equal(text, a->keys->keys[i], len);
    return found;
}

// Whether the request needs no key: the routes marked open, and unknown paths under the open
// prefixes. A proxy path with a dot segment or a port that is no number is not open (it is refused
// either way, but first of all to strangers).
static bool is_open(const struct http_exchange *x) {
    const struct http_route *r = x->route;
    if (r && r->handle == handle_proxy) {
        const char *port = http_param(x, "port");
        return !url_has_dot_segment(x->path) && port && *port && !port[strspn(port, "0123456789")];
    }
    if (r)
        return r->flags & HTTP_ROUTE_OPEN;
    for (size_t i = 0; i < ARRAY_SIZE(open_prefixes); i++)
        if (strncmp(x->path, open_prefixes[i], strlen(open_prefixes[i])) == 0)
            return true;
    return false;
}

static bool is_listed(char *const *list, const char *text) {
    for (; *list; list++)
        if (strcasecmp(*list, text) == 0)
            return true;
    return false;
}

static bool origin_allowed(const struct api *a, const char *origin) {
    if (*a->config->cors_origins)
        return is_listed(a->config->cors_origins, "*") ||
               is_listed(a->config->cors_origins, origin);
    return a->keys->key_count > 0;
}

// Cross-origin requests on the lifecycle routes, never with credentials. Returns true when it was a
// preflight.
static bool answer_cors(struct http_exchange *x, const char *origin) {
    const struct api *a = api_of(x);
    static const char *const methods[] = {"DELETE", "GET",  "HEAD", "OPTIONS",
                                          "PATCH",  "POST", "PUT"};
    const char *method = http_header(x, "Access-Control-Request-Method");
    const char *fields = http_header(x, "Access-Control-Request-Headers");
    size_t known = 0;
    bool allowed = origin_allowed(a, origin);
    if (allowed) {
        (void)http_reply_header(x, "Access-Control-Allow-Origin", origin);
        (void)http_reply_header(x, "Access-Control-Expose-Headers", "X-Request-ID, Retry-After");
    }
    if (!method || strcmp(x->request->method, "OPTIONS") != 0)
        return false;
    if (!allowed) {
        api_refuse(x, ERR_FORBIDDEN_ORIGIN, "origin %.200s is not in server.cors_origins", origin);
        return true;
    }
    while (known < ARRAY_SIZE(methods) && strcmp(methods[known], method) != 0)
        known++;
    if (known == ARRAY_SIZE(methods)) {
        api_refuse(x, ERR_INVALID_PARAMETER, "no route has the method %.20s", method);
        return true;
    }
    (void)http_reply_header(x, "Access-Control-Allow-Methods",
                            "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
    (void)http_reply_header(x, "Access-Control-Max-Age", "600");
    if (fields)
        (void)http_reply_header(x, "Access-Control-Allow-Headers", fields);
    http_reply(x, 200, "text/plain; charset=utf-8", "OK", 2);
    return true;
}

// "localhost", loopback literals and server.eip, with or without a port.
static bool host_is_ours(const struct api *a, const char *host) {
    char name[256];
    const char *eip = a->config->eip;
    size_t len =
        *host == '[' ? strcspn(host, "]") + (strchr(host, ']') != NULL) : strcspn(host, ":");
    if (len >= sizeof name)
        return false;
    memcpy(name, host, len);
    name[len] = 0;
    if (eip && strstr(eip, "://"))
        eip = strstr(eip, "://") + 3;
    if (eip && strncasecmp(eip, name, len) == 0 && (!eip[len] || strchr(":/", eip[len])))
        return true;
    if (strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0)
        return true;
    return strncmp(name, "127.", 4) == 0 && !name[strspn(name, "0123456789.")];
}

// Without a key nobody is asked who they are, so pages of sandboxes and of strangers must be kept
// away: foreign origins, and names that a rebinding resolver made (decision 4).
static bool keyless_refused(struct http_exchange *x, const char *origin) {
    const struct api *a = api_of(x);
    const char *site = http_header(x, "Sec-Fetch-Site"), *host = http_header(x, "Host");
    if (origin ? !origin_allowed(a, origin) : site && strcasecmp(site, "none") != 0) {
        api_refuse(
            x, ERR_FORBIDDEN_ORIGIN,
            "a server without an API key takes no requests from web pages; configure a key, or "
            "name the origin in server.cors_origins");
        return true;
    }
    if (!host || !host_is_ours(a, host)) {
        api_refuse(x, ERR_FORBIDDEN_ORIGIN,
                   "a server without an API key answers only as localhost or server.eip");
        return true;
    }
    return false;
}

static bool key_refused(struct http_exchange *x) {
    const char *given = http_header(x, "OPEN-SANDBOX-API-KEY");
    const char *bearer = http_header(x, "Authorization");
    if (!given && x->route && x->route->handle == handle_metrics && bearer &&
        strncasecmp(bearer, "Bearer ", 7) == 0) // all that a scraper can send
        given = bearer + 7;
    if (!given || !*given) {
        api_refuse(x, ERR_MISSING_API_KEY,
                   "authentication credentials are missing: send the OPEN-SANDBOX-API-KEY header");
        return true;
    }
    if (!api_is_key(api_of(x), given, strlen(given))) {
        api_refuse(x, ERR_INVALID_API_KEY, "the key in OPEN-SANDBOX-API-KEY is not valid");
        return true;
    }
    return false;
}

// A sandbox's own host name: the whole request is the sandbox's, whatever its path.
static bool host_refused(struct http_exchange *x) {
    const char *port = NULL, *id = NULL;
    switch (host_read(x, &port, &id)) {
    case HOST_OTHER: return false;
    case HOST_SANDBOX:
        x->route = &proxy_route;
        x->mount = "";
        x->rest = x->path;
        x->params[0] = (struct http_param){.name = "sandbox_id", .value = id};
        x->params[1] = (struct http_param){.name = "port", .value = port};
        x->param_count = 2;
        return false;
    case HOST_UNKNOWN: break;
    }
    x->route = NULL;
    api_refuse(x, ERR_NOT_FOUND, "hosts of sandboxes are <port>-<id>.%s",
               api_of(x)->config->sandbox_domain);
    return true;
}

bool api_before(struct http_exchange *x) {
    const struct api *a = api_of(x);
    const char *origin = http_header(x, "Origin");
    take_request_id(x);
    if (host_refused(x))
        return true;
    bool proxied = x->route && x->route->handle == handle_proxy, open = is_open(x);
    if (!proxied) // also without an Origin, for the caches of those who send one
        (void)http_reply_header(x, "Vary", "Origin");
    if (!proxied && origin && answer_cors(x, origin))
        return true;
    if (!open && (a->keys->key_count ? key_refused(x) : keyless_refused(x, origin)))
        return true;
    // Until the store is reconciled only the open routes answer; a create waits in its handler.
    if (!domain_ready(a->domain) && x->route && (proxied || !open) &&
        x->route->handle != handle_create) {
        api_refuse(x, ERR_NOT_READY, "the server is still reconciling after its start");
        return true;
    }
    return false;
}

// {"code","message","detail"}: old clients read `detail`.
static void reply_detail(struct http_exchange *x, enum error_id id, const char *message,
                         const char *detail) {
    http_reply_json(
        x, error_status(id),
        json_pack("{s:s, s:s, s:s}", "code", error_code(id), "message", message, "detail", detail));
}

// A slash too many at the end: 307 to the path without, relative, so that it holds behind TLS too.
static bool redirected(struct http_exchange *x) {
    size_t len = strlen(x->path);
    if (len < 2 || x->path[len - 1] != '/')
        return false;
    const char *path = arena_strndup(x->arena, x->path, len - 1);
    if (!path || !api_has_route(x->arena, path))
        return false;
    const char *query = x->query && *x->query ? x->query : NULL;
    const char *to = arena_printf(x->arena, "%s%s%s", path, query ? "?" : "", query ? query : "");
    if (!to)
        return false;
    (void)http_reply_header(x, "Location", to);
    http_reply_empty(x, 307);
    return true;
}

void api_no_route(struct http_exchange *x, const char *allowed) {
    if (!allowed && redirected(x))
        return;
    if (!allowed) {
        reply_detail(x, ERR_NOT_FOUND, "no such route", "Not Found");
        return;
    }
    (void)http_reply_header(x, "Allow", allowed);
    reply_detail(x, ERR_METHOD_NOT_ALLOWED,
                 "the route exists, but not with this method; see the Allow header",
                 "Method Not Allowed");
}

// The access line. Queries are left out: they carry tokens.
void api_finished(struct http_exchange *x) {
    traffic_count(api_of(x)->traffic, x);
    bool quiet =
        x->route && (x->route->handle == handle_health || x->route->handle == handle_ready);
    if (quiet ? !log_enabled(LOG_LEVEL_DEBUG) : !log_enabled(LOG_LEVEL_INFO))
        return;
    log_context(x->request_id);
    log_write(quiet ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO,
              "%s:%u \"%s %.512s HTTP/1.%u\" %u %llu %.2fms", x->peer, x->peer_port,
              x->request->method, x->path, x->request->minor, x->status,
              (unsigned long long)x->bytes_out, (double)(clock_boot_ns() - x->started_ns) / 1e6);
    log_context(NULL);
}

void api_fail(struct http_exchange *x, const struct error *err) {
    unsigned status = err->status ? (unsigned)err->status : 500;
    if (status == 429 || status == 503)
        (void)http_reply_header(x, "Retry-After", "1");
    if (status >= 500 && status != 501) {
        log_context(x->request_id);
        log_warning("%s %.512s: %s %s", x->request->method, x->path, err->code, err->message);
        log_context(NULL);
    }
    http_reply_error(x, err);
}

void api_refuse(struct http_exchange *x, enum error_id id, const char *format, ...) {
    struct error err = {0};
    char text[ERROR_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)error_server(&err, id, "%s", text);
    api_fail(x, &err);
}

struct sandbox *api_sandbox(struct http_exchange *x) {
    const char *id = http_param(x, "sandbox_id");
    struct sandbox *sb = id ? registry_visible(domain_registry(api_of(x)->domain), id) : NULL;
    if (!sb)
        api_refuse(x, ERR_R_SANDBOX_NOT_FOUND, "sandbox %.100s not found", id ? id : "");
    return sb;
}
