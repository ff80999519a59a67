#include "server/api/resources/openapi.h"

#include <string.h>

#include "base/cleanup.h"
#include "server/api/api.h"
#include "server/api/handlers.h"

enum { CONSOLE_CONNECTIONS = 64 };

void handle_openapi(struct http_exchange *x) {
    http_reply(x, 200, "application/json", (const char *)openapi_json, openapi_json_size);
}

// The same path on the console's port, at the host that the client reached us by.
void handle_docs(struct http_exchange *x) {
    const char *host = http_header(x, "Host");
    unsigned port = api_of(x)->console_port;
    if (!port || !host) {
        api_no_route(x, NULL);
        return;
    }
    size_t len = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (len > strlen(host)) {
        api_no_route(x, NULL);
        return;
    }
    const char *location =
        arena_printf(x->arena, "http://%.*s:%u%s", (int)len, host, port, x->route->pattern);
    if (!location) {
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
        return;
    }
    (void)http_reply_header(x, "Location", location);
    http_reply_empty(x, 307);
}

static void handle_page(struct http_exchange *x) {
    (void)http_reply_header(x, "Content-Security-Policy",
                            "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
                            "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
                            "frame-ancestors 'none'");
    (void)http_reply_header(x, "X-Content-Type-Options", "nosniff");
    http_reply(x, 200, "text/html; charset=utf-8", (const char *)openapi_page, openapi_page_size);
}

static const struct http_route console_routes[] = {
    {"GET", "/docs", handle_page, HTTP_BODY_BUFFERED, HTTP_ROUTE_OPEN, ""},
    {"GET", "/redoc", handle_page, HTTP_BODY_BUFFERED, HTTP_ROUTE_OPEN, ""},
    {"GET", "/openapi.json", handle_openapi, HTTP_BODY_BUFFERED, HTTP_ROUTE_OPEN, ""},
};

void console_serve(struct http_server_settings *s) {
    http_server_defaults(s);
    s->routes = console_routes;
    s->route_count = ARRAY_SIZE(console_routes);
    s->connections_max = CONSOLE_CONNECTIONS;
}
