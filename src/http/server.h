// HTTP/1.1 server: listeners, connections, routing. Keep-alive, pipelining in order, chunked both
// ways, 100-continue, limits and time-outs on everything, drain. One loop; everything here is loop
// thread.
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include "http/exchange.h"
#include "io/loop.h"

// "GET" or "*" for any method. Pattern segments: literal, "{name}" (one non-empty decoded segment),
// and a final "/*" (the raw rest, also empty). Patterns are matched in table order, once under ""
// and once under each mount.
enum http_body_mode { HTTP_BODY_BUFFERED, HTTP_BODY_STREAMED };
enum http_route_flags {
    HTTP_ROUTE_OPEN = 1 << 0,      // the before() hook need not ask for a key
    HTTP_ROUTE_ROOT_ONLY = 1 << 1, // not under the mounts
    HTTP_ROUTE_MOUNT_ONLY = 1 << 2 // only under the mounts
};
struct http_route {
    const char *method, *pattern;
    void (*handle)(struct http_exchange *x);
    enum http_body_mode body;
    unsigned flags;
    const char *codes; // documented error codes, space-separated; for the contract test
};

struct http_server_settings {
    const struct http_route *routes;
    size_t route_count;
    const char *const *mounts; // NULL-terminated, e.g. {"/v1", NULL}; may be NULL
    void *user;                // of the program; http_server_user()
    const char *default_code;  // of errors without one
    // Called for every request with its head (route is set when one matched). Returns true when it
    // answered.
    bool (*before)(struct http_exchange *x);
    // No route: allowed is NULL (404), else the methods of the paths that match (405).
    void (*no_route)(struct http_exchange *x, const char *allowed);
    void (*finished)(struct http_exchange
                         *x); // after the last byte or the loss of the client; for the access log
    size_t body_max;          // buffered bodies: 413 beyond
    size_t stream_buffer;     // bytes queued per reply (256 KiB)
    unsigned connections_max; // 503 and close beyond; 0: no cap
    int64_t head_ms;          // first byte of a request to the end of its head (408, then close)
    int64_t idle_ms;          // keep-alive
    int64_t body_ms;          // between two reads of a body; 0: no limit
    int64_t write_ms;         // a reply that makes no progress; 0: no limit
};
void http_server_defaults(struct http_server_settings *s);

struct http_server *http_server_new(struct loop *l, const struct http_server_settings *s,
                                    struct error *err); // copies s
void *http_server_user(const struct http_server *s);
int http_server_listen(struct http_server *s, int listening_fd,
                       struct error *err);              // takes fd; several are fine
unsigned http_server_port(const struct http_server *s); // of the first TCP listener
size_t http_server_connections(const struct http_server *s);
// Takes an accepted connection, for tests over a socketpair.
void http_server_accept(struct http_server *s, int fd);
// Runs a request that arrived under another route again, with another target (execd's proxy to
// itself).
void http_server_redispatch(struct http_exchange *x, const char *target);
// Stops listening, closes idle connections, lets running exchanges end; done() when none is left or
// after limit_ms, when the rest is cut.
void http_server_drain(struct http_server *s, int64_t limit_ms, void (*done)(void *arg), void *arg);
void http_server_free(struct http_server *s); // closes everything that is left

#endif
