// One request and its reply on a connection; what every handler of every program works with. Loop
// thread only.
//
// Life: a handler gets the exchange once and must end it exactly once: http_reply*(),
// http_stream_end(), http_stream_abort(), http_tunnel() or http_proxy_run(). Until then it may keep
// the pointer across callbacks. When the client goes away first, on_gone is called (at most once,
// never from inside a reply call); the handler still ends the exchange, replies then go nowhere (or
// to a client that closed its sending half only).
// After the end the pointer is dead. Replies of pipelined requests keep the order of the requests.
#ifndef HTTP_EXCHANGE_H
#define HTTP_EXCHANGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "http/head.h"
#include "io/loop.h"

struct http_route;
struct http_server;
struct http_exchange;
struct stream;

enum { HTTP_PARAMS_MAX = 4, HTTP_REQUEST_ID_MAX = 128, HTTP_TUNNEL_EARLY_MAX = 128 * 1024 };

struct http_param {
    const char *name;
    const char *value; // percent-decoded segment
};

struct http_exchange {
    struct arena *arena; // dies with the exchange
    struct http_server *server;
    struct loop *loop;
    const struct http_head *request;
    const char *path;  // raw path of the target, without query
    const char *query; // raw, "" when there is none
    const char *mount; // mount prefix that the route matched under: "" or "/v1"
    const char *rest;  // raw remainder that a trailing "*" of the pattern matched, with its leading
                       // '/', or ""
    const struct http_route *route; // NULL while no route matched
    struct http_param params[HTTP_PARAMS_MAX];
    unsigned param_count;
    const char *body; // whole body of a buffered route, NUL-terminated; "" when none
    size_t body_len;
    char peer[64]; // numeric address of the client, "" on unix sockets
    unsigned peer_port;
    char request_id[HTTP_REQUEST_ID_MAX + 1];
    int64_t started_ns; // boot clock, head complete
    unsigned status;    // of the reply, 0 before
    uint64_t bytes_out;
    void *user; // the handler's own
    // The handler's: the client may pause within its body and the reply for as long as it lives
    // (body_ms and write_ms of the server do not hold).
    bool patient;
    // The handler's: client went away before the end. May be NULL.
    void (*on_gone)(struct http_exchange *x);
    // The handler's: there is room again after http_stream_write() had refused. May be NULL.
    void (*on_room)(struct http_exchange *x);
};

const char *http_param(const struct http_exchange *x,
                       const char *name); // path parameter, NULL when absent
const char *http_header(const struct http_exchange *x,
                        const char *name); // request field, NULL when absent
bool http_gone(const struct http_exchange *x);

// Extra fields of the reply, before it begins. The connection adds Date, Content-Length or
// Transfer-Encoding, Connection.
int http_reply_header(struct http_exchange *x, const char *name, const char *value);

// Whole replies. Content-Length always; 204 and 304 and answers to HEAD carry no body.
void http_reply(struct http_exchange *x, unsigned status, const char *content_type,
                const void *data, size_t len);
void http_reply_empty(struct http_exchange *x, unsigned status);
void http_reply_json(struct http_exchange *x, unsigned status, json_t *owned);
// JSON that is written already; 500 when the buffer has failed.
void http_reply_json_text(struct http_exchange *x, unsigned status, const struct strbuf *text);
// The one place where an error becomes a reply: {"code","message"}; status err->status or 500, code
// err->code or the server's default code (http_server_settings.default_code).
void http_reply_error(struct http_exchange *x, const struct error *err);

// Streamed replies. length -1: chunked (close-delimited for HTTP/1.0). The head leaves with the
// first bytes, or in the loop's next turn. Bytes are queued up to the server's stream_buffer.
void http_stream_begin(struct http_exchange *x, unsigned status, const char *content_type,
                       int64_t length);
// 0: all taken (also when the client is gone). -1: does not fit, nothing taken; wait for on_room
// (or drop, if you must never wait). A piece longer than stream_buffer is taken when nothing is
// queued.
int http_stream_write(struct http_exchange *x, const void *data, size_t len);
// What http_stream_write() takes now. When it is less than half of stream_buffer, on_room tells of
// more.
size_t http_stream_room(const struct http_exchange *x);
void http_stream_end(struct http_exchange *x); // final chunk
// The last piece and the end in one packet; len is at most http_stream_room().
void http_stream_finish(struct http_exchange *x, const void *data, size_t len);
void http_stream_abort(
    struct http_exchange *x); // cuts the connection, so that the client sees a broken body

// Request body of a streaming route. data() returns false to pause: the rest of that call's bytes
// counts as taken, no more come until http_body_resume(). end() is called once, ok = false when the
// client vanished or broke the framing. "100 Continue" is sent by http_body_start() when the client
// waits for it. A body nobody started is drained up to 64 KiB after the reply, then the connection
// closes. lend() is for handlers that can do without seeing a long body in our memory, else NULL:
// while much of a body with a Content-Length is to come they may take at most `max` bytes of it
// from the client's stream, now or until they resume after a pause, and tell with http_body_took().
// What they do not take comes as data().
struct http_body {
    bool (*data)(struct http_exchange *x, const char *data, size_t len);
    void (*end)(struct http_exchange *x, bool ok);
    bool (*lend)(struct http_exchange *x, struct stream *from, uint64_t max);
};
void http_body_took(struct http_exchange *x, size_t len);
void http_body_start(struct http_exchange *x, const struct http_body *callbacks);
void http_body_resume(struct http_exchange *x);

// Leaves HTTP: sends "101 Switching Protocols" (x->status when the handler set one) with the reply
// fields and "Connection: Upgrade", and hands over the connection's stream with the bytes already
// read (at most HTTP_TUNNEL_EARLY_MAX); those live until the caller returns to the loop. The
// exchange is over, also when it is NULL: the client is gone, or its body is not all read.
struct stream *http_tunnel(struct http_exchange *x, const char **ret_early, size_t *ret_early_len);

#endif
