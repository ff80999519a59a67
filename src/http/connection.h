// What connection.c, exchange.c and server.c share. Private to src/http; loop thread.
//
// A connection serves one call at a time: the bytes of the next request wait in `pending` (bounded)
// until the current reply has left, which is what keeps replies in order. Bytes are read into one
// buffer of the server, and a call is taken from the server's stock at its first byte, so an idle
// connection holds neither.
//
// Handlers run inside turn() only (connection.c), never inside another handler's reply call: what a
// reply makes possible (the next pipelined request, on_gone) is left to a deferred task.
#ifndef HTTP_CONNECTION_H
#define HTTP_CONNECTION_H

#include "base/clock.h"
#include "http/exchange.h"
#include "http/h1.h"
#include "http/server.h"
#include "io/stream.h"

enum {
    HTTP_READ_SIZE = 256 * 1024, // one buffer a server; uploads need a turn of two loops for each
    HTTP_PENDING_MAX = 64 * 1024,
    HTTP_HELD_MAX = HTTP_PENDING_MAX + HTTP_READ_SIZE, // of a body nobody takes yet
    HTTP_DISCARD_MAX = 64 * 1024,                      // of a request body that nobody wants
    HTTP_LINGER_MS = 2000, // reads on after a refusal, so that the reply is not reset away
    HTTP_ARENA_MAX = 2 * 1024 * 1024,
    HTTP_FIELDS_MAX = 256 * 1024, // of a reply
    HTTP_REDISPATCH_MAX = 4,
    HTTP_STOCK_MAX = 16,
    HTTP_LISTENERS_MAX = 8
};

struct http_call {
    struct http_exchange x; // first: what handlers hold
    struct http_connection *connection;
    struct list node; // in the server's stock while unused
    struct arena arena;
    struct strbuf fields; // of the reply, each with CRLF
    struct strbuf body;   // of a buffered route, or what a streaming handler has not taken yet
    struct http_body callbacks;
    int64_t begun_ns; // first byte of the head
    uint64_t received, discarded;
    int64_t reply_left; // of a streamed reply with a length; -1: unknown
    unsigned redispatched;
    // request
    bool head_done, complete, broken; // broken: no more of the body will come
    bool routed, handled;             // handled: a handler has it, and will end it
    bool started, paused, body_over;  // streaming: http_body_start(), data() said no, end() called
    bool lent_in_vain;                // the handler paused for it and has not taken a byte
    bool too_large, continue_due;
    // reply
    bool begun, ended, finished, chunked, bodiless, has_date, wants_room, head_waits;
    bool gone, gone_told;
};

struct http_connection {
    struct list node; // in the server's connections
    struct http_server *server;
    struct stream *stream; // NULL once closed; the call may live on
    struct http_call *call;
    struct h1 parser;
    struct strbuf pending;
    struct strbuf out; // [out_at..] waits for the socket
    size_t out_at;
    const char *unread; // while feeding, else NULL: what is behind the current message
    size_t unread_len;
    unsigned turn_calls; // begun in this turn
    struct timer timer;  // lazy: armed no later than the deadline, which may have moved on
    struct loop_task task;
    bool task_due, busy, eof, lingering;
    bool close; // after the current call
    int64_t idle_ns, read_ns, write_ns, linger_ns;
    char peer[64];
    unsigned peer_port;
};

struct http_server {
    struct loop *loop;
    struct http_server_settings settings;
    struct list connections;
    size_t connection_count;
    struct list stock; // of calls
    unsigned stock_count;
    struct listener *listeners[HTTP_LISTENERS_MAX];
    unsigned listener_count;
    struct strbuf head; // scratch: the head of a reply
    struct strbuf json; // scratch: its body
    char *no_memory;    // the envelope for when there is none to make one
    char date[CLOCK_TEXT_MAX];
    int64_t date_until_ns;
    int64_t now_ns; // boot clock, of the current callback
    bool draining, freed, drained;
    void (*drain_done)(void *arg);
    void *drain_arg;
    struct timer drain_timer;
    struct loop_task drain_task;
    char buffer[HTTP_READ_SIZE];
};

// ---- connection.c ----
void http_connection_open(struct http_server *s, int fd, bool refuse); // refuse: 503 and close
void http_connection_settle(struct http_connection *c); // after any change; may free c
void http_connection_schedule(struct http_connection *c);
// Sends, or queues what the socket does not take. Nothing when the client is gone.
void http_connection_send(struct http_connection *c, struct iovec *iov, int count);
void http_connection_flush(struct http_connection *c);
void http_connection_queue(struct http_connection *c, const char *data, size_t len);
size_t http_connection_queued(const struct http_connection *c);
void http_connection_cut(struct http_connection *c);     // the client is gone as far as we care
void http_connection_cut_now(struct http_connection *c); // and tells its handler; may free c

// ---- exchange.c ----
static inline struct http_call *http_call_of(const struct http_exchange *x) {
    return (struct http_call *)(void *)x;
}
void http_reply_refusal(struct http_exchange *x, unsigned status, const char *message);
void http_send_continue(struct http_call *call);

// ---- server.c ----
struct http_call *http_server_take_call(struct http_server *s); // NULL: no memory
void http_server_give_call(struct http_server *s, struct http_call *call);
void http_server_removed(struct http_server *s); // a connection is gone; may free s
void http_route_call(struct http_call *call);    // the head is complete
void http_body_complete(struct http_call *call); // of a buffered route

#endif
