// Streaming reverse proxy: one exchange to one upstream, heads filtered by one policy, bodies
// streamed both ways with back-pressure, upgrades tunnelled byte for byte, half-close kept. Loop
// thread.
#ifndef HTTP_PROXY_H
#define HTTP_PROXY_H

#include "http/exchange.h"
#include "http/server.h"

struct http_upstream;
struct http_dial;

struct http_upstream_settings {
    // Starts a dial; must end in exactly one http_dial_done(), now or later.
    void (*dial)(struct http_dial *d, void *arg);
    void *arg;
    unsigned connections_max; // more wait, up to waiting_max, then 503
    unsigned waiting_max;
    int64_t idle_ms; // kept-alive connections
    unsigned idle_max;
};
// A place to connect to, with its stock of kept-alive connections: one per {sandbox, port}.
struct http_upstream *http_upstream_new(struct loop *l, const struct http_upstream_settings *s);
// Closes idle connections, cuts tunnels and refuses new work; freed when its last exchange is over.
// NULL is fine.
void http_upstream_free(struct http_upstream *u);
bool http_upstream_in_use(const struct http_upstream *u); // an exchange, a tunnel or a dial runs
// Takes fd; fd -1 with err on failure. An error that has a status is the reply itself; any other is
// 504 when its kind is ETIMEDOUT, else 502. Its message is not shown then: it may name addresses.
void http_dial_done(struct http_dial *d, int fd, const struct error *err);

// The upstreams of one host by port, at most `max` at a time: the one unused longest gives way.
struct http_upstreams;
struct http_upstreams *http_upstreams_new(struct loop *l, const struct http_upstream_settings *s,
                                          unsigned max);
// Good until the loop's next turn, or for http_proxy_run() now. NULL: no memory, or all are in use.
struct http_upstream *http_upstreams_at(struct http_upstreams *set, unsigned port);
void http_upstreams_free(struct http_upstreams *set); // as http_upstream_free() each; NULL is fine
unsigned http_dial_port(const struct http_dial *d);   // as given to http_upstreams_at(), else 0

struct http_proxy_policy {
    const char *target; // origin-form for the upstream, raw; copied
    const char *host;   // Host field for the upstream; NULL: the client's
    // Request fields that do not pass, besides hop-by-hop ones. May be NULL.
    bool (*drop_request)(const struct http_field *f, void *arg);
    bool (*drop_response)(const struct http_field *f, void *arg);
    void *arg;
    const struct http_field *add; // request fields to add (X-Forwarded-*)
    size_t add_count;
    const char *cookie_path;     // Set-Cookie: Domain is dropped and Path becomes this prefix ("":
                                 // stays); NULL: untouched
    const char *location_prefix; // root-relative Location gets this prefix; NULL: untouched
    // Until there is a connection (503 when none of ours became free, 504 when the upstream took
    // none), and from the last byte of the request to the head of the response, or while the
    // upstream takes none of a byte that waits for it (504). 0: no limit. What the client sends and
    // takes has all the time that it wants.
    int64_t connect_ms, first_byte_ms;
    // Error envelopes: connect failed, broken before the head, time-out, no connection free.
    // Statuses 502, 502, 504, 503. Static texts; NULL: the server's default code.
    const char *code_connect, *code_response, *code_time_out, *code_busy;
    // The exchange is about to end; for upstream statistics. May be NULL.
    void (*done)(struct http_exchange *x, void *arg);
};
// Ends the exchange; user, on_gone and on_room of it are the proxy's from here on. The route must
// be HTTP_BODY_STREAMED. Copies the policy, the target and the array of `add`; all other texts must
// live as long as the exchange.
void http_proxy_run(struct http_exchange *x, struct http_upstream *u,
                    const struct http_proxy_policy *policy);

#endif
