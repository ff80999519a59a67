#include "http/proxy.h"

#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "http/proxy_head.h"
#include "http/upstream.h"
#include "io/splice.h"

enum {
    READ_MAX = 256 * 1024,
    FIRST_READ_MAX = 256 * 1024, // a head, and a body's beginning that any reply queue takes
    READS_IN_A_ROW = 4,          // then the loop's other streams have their turn
    ROOM_MIN = 4096,             // less room in the reply's queue is not worth a read
    FRAMING = 512,               // what our chunk heads may add to the bytes of one read
    MERGE_MAX = 16 * 1024        // pieces of a body up to here are moved together and sent as one
};

// One exchange on its way; lives in the exchange's arena and is dead once release() was followed by
// the call that ends the exchange.
struct proxy {
    struct http_exchange *x;
    struct http_upstream *upstream;
    struct upstream_link *link; // NULL: waiting for one
    struct upstream_wait wait;
    struct http_proxy_policy policy;
    struct timer timer; // of the connection, then of the response's head
    char *run;          // decoded bytes of the response's body that were not passed on yet
    size_t run_len;
    struct splice *pipe;          // of a long body of the request, NULL until one comes
    bool body_started, body_done; // of the request
    bool deaf;                    // the upstream takes no more of the request
    bool retried;
    bool heard;    // something of the response came
    bool answered; // its head came
    bool begun;    // and was passed on
    bool complete; // the parser stands behind a message
    bool paused;   // the client is slower: nothing is read
    bool bad;      // a field or a piece of the body could not be passed on
};

// ---- ends ----

// Leaves the upstream; the caller ends the exchange next and touches `p` no more.
static void release(struct proxy *p, bool reusable) {
    struct http_exchange *x = p->x;
    struct upstream_link *link = TAKE_PTR(p->link);
    timer_stop(&p->timer);
    upstream_cancel(p->upstream, &p->wait);
    splice_free(TAKE_PTR(p->pipe));
    x->on_gone = NULL;
    x->on_room = NULL;
    if (p->policy.done)
        p->policy.done(x, p->policy.arg);
    if (link && reusable)
        upstream_put(link);
    else if (link)
        upstream_drop(link);
    upstream_leave(p->upstream);
}

static void fail_with(struct proxy *p, const struct error *err) {
    struct http_exchange *x = p->x;
    bool begun = p->begun;
    release(p, false);
    if (begun) {
        http_stream_abort(x);
        return;
    }
    if (err->status == 503)
        (void)http_reply_header(x, "Retry-After", "1");
    http_reply_error(x, err);
}

// No addresses in the text: clients need not know how we reach the upstream.
static void fail(struct proxy *p, int status, const char *code, const char *text) {
    struct error err;
    (void)error_api(&err, status, code ? code : "", "%s", text);
    fail_with(p, &err);
}

static void fail_response(struct proxy *p, const char *text) {
    fail(p, 502, p->policy.code_response, text);
}

static void on_gone(struct http_exchange *x) {
    struct proxy *p = x->user;
    bool begun = p->begun;
    release(p, false);
    if (begun)
        http_stream_abort(x);
    else
        http_reply_empty(x, 499); // goes nowhere but to the access log
}

static void on_late_connection(struct timer *t) {
    struct proxy *p = CONTAINER_OF(t, struct proxy, timer);
    if (p->wait.dial)
        fail(p, 504, p->policy.code_time_out, "the upstream did not take the connection in time");
    else
        fail(p, 503, p->policy.code_busy, "all connections to the upstream are in use");
}

static void on_late_head(struct timer *t) {
    struct proxy *p = CONTAINER_OF(t, struct proxy, timer);
    fail(p, 504, p->policy.code_time_out, "the upstream did not answer in time");
}

// ---- request ----

// Whether bytes of the request wait for the upstream.
static bool is_behind(const struct proxy *p) {
    return p->link->out.len || (p->pipe && splice_held(p->pipe) && !p->deaf);
}

static void update_wants(const struct proxy *p) {
    stream_want(p->link->stream,
                (p->paused ? 0u : STREAM_READABLE) | (is_behind(p) ? STREAM_WRITABLE : 0u));
}

// An upstream that stops listening may have answered already, so only its silence is a failure.
static void send_pieces(struct proxy *p, const struct iovec *pieces, int count) {
    if (upstream_send(p->link, pieces, count) == 0)
        return;
    p->deaf = true;
    strbuf_clear(&p->link->out);
}

static void send_waiting(struct proxy *p) {
    if (p->link->out.len)
        send_pieces(p, NULL, 0);
    if (p->pipe && !p->link->out.len && !p->deaf && splice_give(p->pipe, p->link->stream) < 0)
        p->deaf = true;
}

// The answer may wait for the last byte of the request, so its time begins with each byte that
// leaves us, and does not run while it is the client who owes one.
static void await_head(struct proxy *p) {
    if (p->answered || p->policy.first_byte_ms <= 0)
        return;
    if (p->body_done || p->deaf || is_behind(p))
        timer_start(p->x->loop, &p->timer, p->policy.first_byte_ms, on_late_head);
    else
        timer_stop(&p->timer);
}

static bool sent(struct proxy *p) {
    await_head(p);
    update_wants(p);
    return !p->deaf && !is_behind(p);
}

static bool on_body(struct http_exchange *x, const char *data, size_t len) {
    struct proxy *p = x->user;
    char head[24];
    struct iovec pieces[3] = {{.iov_base = head},
                              {.iov_base = (void *)data, .iov_len = len},
                              {.iov_base = (void *)"\r\n", .iov_len = 2}};
    if (p->deaf || !len)
        return !p->deaf;
    if (x->request->chunked) {
        pieces[0].iov_len = (size_t)snprintf(head, sizeof head, "%zx\r\n", len);
        send_pieces(p, pieces, 3);
    } else {
        send_pieces(p, pieces + 1, 1);
    }
    return sent(p);
}

// Most of a long body goes from socket to socket.
static bool on_lend(struct http_exchange *x, struct stream *from, uint64_t max) {
    struct proxy *p = x->user;
    if (!p->pipe)
        p->pipe = splice_new();
    ssize_t n = p->pipe && !p->deaf ? splice_take(p->pipe, from, max) : 0;
    if (n <= 0) // nothing is there, or it cannot be done: an ordinary read tells
        return true;
    http_body_took(x, (size_t)n);
    send_waiting(p);
    return sent(p);
}

static void on_body_end(struct http_exchange *x, bool ok) {
    struct proxy *p = x->user;
    if (!ok) {
        fail(p, 400, "BAD_REQUEST", "the request body is broken");
        return;
    }
    p->body_done = true;
    if (x->request->chunked && !p->deaf)
        send_pieces(p, &(struct iovec){.iov_base = (void *)"0\r\n\r\n", .iov_len = 5}, 1);
    (void)sent(p);
}

static const struct http_body body_callbacks = {
    .data = on_body, .end = on_body_end, .lend = on_lend};

// ---- response ----

static void begin(struct proxy *p) {
    const struct http_head *head = &p->link->parser.head;
    http_stream_begin(p->x, head->status, NULL, head->chunked ? -1 : head->content_length);
    p->begun = true;
}

// Whether the body came together with its head: the usual small answer, which leaves as it came.
static bool is_whole(const struct proxy *p) {
    return !p->begun && p->complete && p->link->parser.head.content_length == (int64_t)p->run_len;
}

static void pass_run(struct proxy *p) {
    if (!p->begun)
        begin(p);
    if (p->run_len && http_stream_write(p->x, p->run, p->run_len) < 0)
        p->bad = true; // cannot be: no more is read than fits
    p->run_len = 0;
}

static struct proxy *of(const struct h1 *parser) {
    return parser->user;
}

static int on_head(struct h1 *parser, const struct http_head *head) {
    struct proxy *p = of(parser);
    if (head->status / 100 == 1)
        return 0;
    timer_stop(&p->timer);
    p->answered = true;
    p->bad = proxy_head_pass(p->x, &p->policy, &head->headers) < 0;
    return strcmp(p->x->request->method, "HEAD") == 0;
}

// Bytes stay where they were read; small pieces close up, so that many of them are one write.
static void on_piece(struct h1 *parser, const char *data, size_t len) {
    struct proxy *p = of(parser);
    if (p->run_len && data != p->run + p->run_len && len > MERGE_MAX)
        pass_run(p);
    if (!p->run_len)
        p->run = (char *)data; // of the buffer in receive()
    else if (data != p->run + p->run_len)
        memmove(p->run + p->run_len, data, len);
    p->run_len += len;
}

static void on_complete(struct h1 *parser) {
    of(parser)->complete = true;
}

const struct h1_callbacks http_proxy_response = {
    .head = on_head, .body = on_piece, .complete = on_complete};

// 101: from here on nobody parses.
static void upgrade(struct proxy *p, const char *rest, size_t rest_len) {
    struct http_exchange *x = p->x;
    const struct h1 *parser = &p->link->parser;
    const char *protocol = http_headers_get(&parser->head.headers, "Upgrade");
    if (!x->request->upgrade || !parser->upgraded || !protocol || !p->body_done ||
        p->link->out.len) {
        fail_response(p, "the upstream changed the protocol though nobody asked");
        return;
    }
    if (proxy_head_pass(x, &p->policy, &parser->head.headers) < 0 ||
        http_reply_header(x, "Upgrade", protocol) < 0) {
        fail_response(p, "the upstream's answer could not be passed on");
        return;
    }
    struct upstream_link *link = TAKE_PTR(p->link);
    const char *early = NULL;
    size_t early_len = 0;
    release(p, false);
    struct stream *client = http_tunnel(x, &early, &early_len);
    if (client)
        upstream_tunnel(link, client, early, early_len, rest, rest_len);
    else
        upstream_drop(link);
}

static void finish(struct proxy *p, bool reusable) {
    struct http_exchange *x = p->x;
    unsigned status = p->link->parser.head.status;
    bool begun = p->begun;
    const char *body = p->run;
    size_t len = p->run_len;
    release(p, reusable && p->body_done && !p->deaf && !p->link->out.len);
    if (begun)
        http_stream_end(x);
    else
        http_reply(x, status, NULL, body, len);
}

// Bytes of the upstream. Returns false when the exchange is over.
static bool consume(struct proxy *p, const char *data, size_t len) {
    struct h1 *parser = &p->link->parser;
    p->heard = true;
    while (len) {
        ssize_t n = h1_feed(parser, data, len);
        if (p->answered && !p->bad && !is_whole(p))
            pass_run(p);
        if (n < 0 || p->bad) {
            fail_response(p, "the upstream's answer is malformed");
            return false;
        }
        data += n;
        len -= (size_t)n;
        if (!p->complete)
            return true;
        unsigned status = parser->head.status;
        if (status == 101 || status / 100 != 1) {
            if (status == 101)
                upgrade(p, data, len);
            else // what stands behind the answer was not asked for
                finish(p, parser->head.keep_alive && !len);
            return false;
        }
        p->complete = false; // 100, 102, 103: each hop's own; their number is bounded by the arena
        h1_reset(parser, p->x->arena);
    }
    return true;
}

// A kept-alive connection may have been closed while our request was on its way. It is asked again
// when that can do no harm (RFC 9110 9.2.2).
static bool may_ask_again(const struct proxy *p) {
    static const char *const idempotent[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"};
    for (size_t i = 0; i < ARRAY_SIZE(idempotent); i++)
        if (strcmp(p->x->request->method, idempotent[i]) == 0)
            return p->body_done && !p->body_started;
    return false;
}

static void await_connection(struct proxy *p) {
    if (p->policy.connect_ms > 0)
        timer_start(p->x->loop, &p->timer, p->policy.connect_ms, on_late_connection);
    upstream_ask(p->upstream, &p->wait); // last: the exchange may be over in it
}

static void on_end(struct proxy *p, bool clean) {
    if (clean && h1_finish(&p->link->parser) == 0) {
        finish(p, false);
    } else if (p->link->used && !p->heard && !p->retried && may_ask_again(p)) {
        p->retried = true;
        p->deaf = false;
        timer_stop(&p->timer);
        upstream_drop(TAKE_PTR(p->link));
        await_connection(p);
    } else {
        fail_response(p, "the upstream closed the connection within its answer");
    }
}

// Returns false when the exchange is over, or waits for another connection.
static bool receive(struct proxy *p) {
    char buffer[READ_MAX];
    for (int i = 0; i < READS_IN_A_ROW; i++) {
        size_t size = FIRST_READ_MAX;
        if (p->begun) {
            size_t room = http_stream_room(p->x);
            p->paused = room < ROOM_MIN;
            if (p->paused)
                return true;
            size = room - FRAMING < sizeof buffer ? room - FRAMING : sizeof buffer;
        }
        ssize_t n = stream_read(p->link->stream, buffer, size);
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n <= 0) {
            on_end(p, n == 0);
            return false;
        }
        if (!consume(p, buffer, (size_t)n))
            return false;
        if ((size_t)n < size)
            return true;
    }
    return true;
}

static void on_room(struct http_exchange *x) {
    struct proxy *p = x->user;
    p->paused = false;
    update_wants(p);
}

static void on_stream(struct stream *s, unsigned events, void *arg) {
    struct proxy *p = arg;
    (void)s;
    bool waited = is_behind(p);
    if (events & STREAM_WRITABLE && waited)
        send_waiting(p);
    bool drained = waited && !is_behind(p) && !p->deaf;
    if (events & STREAM_READABLE && !receive(p))
        return;
    update_wants(p);
    if (!drained)
        return;
    await_head(p);
    if (p->body_started && !p->body_done)
        http_body_resume(p->x); // last: the exchange may be over in it
}

// ---- begin ----

static void start(struct proxy *p, struct upstream_link *link) {
    p->link = link;
    link->parser.user = p;
    h1_reset(&link->parser, p->x->arena);
    strbuf_clear(&link->out);
    stream_set_owner(link->stream, on_stream, p);
    timer_stop(&p->timer);
    if (proxy_head_write(p->x, &p->policy, &link->out) < 0) {
        fail(p, 500, "", "the request's head is too large to be passed on");
        return;
    }
    send_pieces(p, NULL, 0);
    (void)sent(p);
    if (p->body_done)
        return;
    p->body_started = true;
    http_body_start(p->x, &body_callbacks); // last: the exchange may be over in it
}

static void on_connection(struct upstream_wait *w, struct upstream_link *link,
                          const struct error *err) {
    struct proxy *p = CONTAINER_OF(w, struct proxy, wait);
    if (link) {
        start(p, link);
    } else if (err->status == 503 && !err->code[0]) {
        fail(p, 503, p->policy.code_busy, err->message);
    } else if (err->status) { // decided by who dialled
        fail_with(p, err);
    } else if (err->kind == ETIMEDOUT) {
        fail(p, 504, p->policy.code_time_out, "the upstream did not take the connection in time");
    } else {
        const char *why = strerrordesc_np(err->kind);
        char text[128];
        (void)snprintf(text, sizeof text, "cannot connect to the upstream: %s",
                       why ? why : "failed");
        fail(p, 502, p->policy.code_connect, text);
    }
}

static struct proxy *proxy_new(struct http_exchange *x, struct http_upstream *u,
                               const struct http_proxy_policy *policy) {
    struct proxy *p = arena_alloc(x->arena, sizeof *p);
    struct http_field *add = arena_alloc(x->arena, policy->add_count * sizeof *add + 1);
    char *target = arena_strdup(x->arena, policy->target);
    if (!p || !add || !target)
        return NULL;
    if (policy->add_count)
        memcpy(add, policy->add, policy->add_count * sizeof *add);
    *p = (struct proxy){.x = x, .upstream = u, .policy = *policy, .wait.ready = on_connection};
    p->policy.target = target;
    p->policy.add = add;
    p->body_done = !x->request->chunked && x->request->content_length <= 0;
    return p;
}

void http_proxy_run(struct http_exchange *x, struct http_upstream *u,
                    const struct http_proxy_policy *policy) {
    struct proxy *p = proxy_new(x, u, policy);
    if (!p) {
        struct error err;
        (void)error_api(&err, 500, "", "out of memory");
        http_reply_error(x, &err);
        return;
    }
    x->user = p;
    x->patient = true;
    x->on_gone = on_gone;
    x->on_room = on_room;
    upstream_enter(u);
    struct upstream_link *link = upstream_take(u);
    // What cannot be asked twice does not go out on a connection that is visibly closed.
    while (link && !may_ask_again(p) && !upstream_is_alive(link)) {
        upstream_drop(link);
        link = upstream_take(u);
    }
    if (link)
        start(p, link);
    else
        await_connection(p);
}
