// Which route of a table (http/server.h) a request belongs to. Pure: no state, any thread.
#ifndef HTTP_ROUTER_H
#define HTTP_ROUTER_H

#include "http/server.h"

struct http_match {
    const struct http_route *route; // NULL: none
    const char *mount;              // that the route matched under, "" when none
    const char *rest;               // into `path`, what a trailing "/*" matched, else ""
    struct http_param params[HTTP_PARAMS_MAX];
    unsigned param_count;
    // Without a route: NULL when no pattern matches the path (404), else the methods of those that
    // do, "GET, POST", in table order (405). HEAD is a method like any other
    // (lifecycle-api.md 1.4).
    const char *allowed;
};

// path: raw, without query. Routes are tried in table order, each under "" and then under each
// mount; literals and parameters are compared decoded, a segment that decodes to one with '/' or
// NUL in it matches nothing, bytes that are not UTF-8 become U+FFFD (lifecycle-api.md 1.2).
// Texts live in `a`. -1 when out of memory.
int http_router_match(const struct http_server_settings *s, struct arena *a, const char *method,
                      const char *path, struct http_match *ret_match);

#endif
