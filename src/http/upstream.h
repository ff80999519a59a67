// The stock of connections to one upstream; between upstream.c, which keeps it, and proxy.c, which
// speaks over a connection. Nobody else includes this. Loop thread.
#ifndef HTTP_UPSTREAM_H
#define HTTP_UPSTREAM_H

#include <sys/uio.h>

#include "http/h1.h"
#include "http/proxy.h"
#include "io/stream.h"
#include "io/tunnel.h"

// One connection. Belongs to whoever took it, until upstream_put() or upstream_drop().
struct upstream_link {
    struct list node; // among the idle ones, or the tunnels
    struct http_upstream *upstream;
    struct stream *stream; // NULL once a tunnel has it
    struct tunnel *tunnel;
    struct h1 parser;  // of responses, callbacks http_proxy_response
    struct strbuf out; // request bytes that the peer has not taken yet
    int64_t idle_since_ms;
    bool used; // has carried an exchange: the peer may close it at any moment
};
extern const struct h1_callbacks http_proxy_response; // proxy.c

// Somebody who waits for a connection. ready() is called once, with a link or an error.
struct upstream_wait {
    struct list node;
    struct http_dial *dial; // one is on its way for us; else in the queue
    void (*ready)(struct upstream_wait *w, struct upstream_link *link, const struct error *err);
};

// An upstream lives at least as long as its users.
void upstream_enter(struct http_upstream *u);
void upstream_leave(struct http_upstream *u);

// A kept-alive connection, NULL when there is none.
struct upstream_link *upstream_take(struct http_upstream *u);
// A new connection, or a place in the queue. ready() may be called before this returns. err->status
// is 503 when the queue is full; after http_upstream_free() every ask fails.
void upstream_ask(struct http_upstream *u, struct upstream_wait *w);
void upstream_cancel(struct http_upstream *u, struct upstream_wait *w); // ready() is not called

// Writes what waits in out and then the pieces; what the peer does not take now waits in out.
// -1: the peer takes nothing any more (it may still have something to say), or no memory.
int upstream_send(struct upstream_link *link, const struct iovec *pieces, int count);
bool upstream_is_alive(
    const struct upstream_link *link);          // the peer has not closed it, as far as we can see
void upstream_put(struct upstream_link *link);  // back to the stock, behind a whole response
void upstream_drop(struct upstream_link *link); // closes it
// Joins it with the client's stream for good; takes both.
void upstream_tunnel(struct upstream_link *link, struct stream *client, const void *early_client,
                     size_t early_client_len, const void *early_link, size_t early_link_len);

#endif
