#include "http/websocket.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/encode.h"
#include "base/utf8.h"
#include "http/websocket_frame.h"
#include "io/stream.h"

enum { READ_SIZE = 16 * 1024, READS_PER_TURN = 4, OUT_KEPT = 4096, KEY_TEXT = 24, KEY_SIZE = 16 };

static const int64_t never = INT64_MAX;

struct websocket {
    struct loop *loop;
    struct stream *stream;
    struct websocket_settings settings;
    struct websocket_parser parser;
    struct strbuf held; // read, but not parsed while paused
    struct strbuf out;  // [out_at..] waits for the socket
    size_t out_at;
    struct timer timer;
    struct loop_task task; // what must not happen inside a call: held bytes, closed()
    bool task_due, busy, paused, wants_room;
    bool close_sent, close_received, failed, over; // failed: the peer's bytes mean nothing any more
    int64_t seen_ns, pinged_ns, write_ns, close_ns;
    unsigned status; // for closed()
    char reason[WEBSOCKET_CONTROL_MAX + 1];
};

static void update(struct websocket *w);

// ---- the end ----

static void schedule(struct websocket *w) {
    if (w->task_due)
        return;
    w->task_due = true;
    loop_defer(w->loop, &w->task);
}

static void say_why(struct websocket *w, unsigned status, const char *reason, size_t len) {
    if (len > sizeof w->reason - 1)
        len = sizeof w->reason - 1;
    w->status = status;
    memcpy(w->reason, reason, len);
    w->reason[len] = 0;
}

static void finish(struct websocket *w) {
    if (w->over)
        return;
    w->over = true;
    timer_stop(&w->timer);
    stream_close(w->stream);
    w->stream = NULL;
    schedule(w);
}

static void websocket_free(struct websocket *w) {
    websocket_parser_free(&w->parser);
    strbuf_free(&w->held);
    strbuf_free(&w->out);
    free(w);
}

// ---- sending ----

size_t websocket_queued(const struct websocket *w) {
    return w->out.len - w->out_at;
}

static void queue(struct websocket *w, const void *data, size_t len) {
    if (w->out_at > OUT_KEPT && w->out_at > w->out.len / 2) {
        strbuf_consume(&w->out, w->out_at);
        w->out_at = 0;
    }
    if (!websocket_queued(w))
        w->write_ns = clock_boot_ns();
    if (strbuf_add(&w->out, data, len) < 0)
        finish(w); // no memory: half a frame would garble all that follow
}

static void send_frame(struct websocket *w, enum websocket_opcode op, const void *data,
                       size_t len) {
    unsigned char head[WEBSOCKET_HEAD_MAX];
    struct iovec iov[2] = {{head, websocket_frame_head(head, op, len)}, {(void *)data, len}};
    size_t sent = 0;
    if (w->over)
        return;
    if (!websocket_queued(w)) {
        ssize_t n = stream_writev(w->stream, iov, len ? 2 : 1);
        if (n < 0 && errno != EAGAIN) {
            finish(w);
            return;
        }
        sent = n < 0 ? 0 : (size_t)n;
    }
    for (int i = 0; i < 2 && !w->over; i++) {
        size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
        sent -= skip;
        if (skip < iov[i].iov_len)
            queue(w, (const char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
    }
}

static void flush(struct websocket *w) {
    bool moved = false;
    while (!w->over && websocket_queued(w)) {
        ssize_t n = stream_write(w->stream, w->out.data + w->out_at, websocket_queued(w));
        if (n < 0 && errno != EAGAIN) {
            finish(w);
            return;
        }
        if (n < 0) {
            if (moved)
                w->write_ns = clock_boot_ns();
            return;
        }
        moved = true;
        w->out_at += (size_t)n;
        w->seen_ns = clock_boot_ns(); // a peer that takes is alive
    }
    w->out_at = 0;
    if (w->out.capacity > OUT_KEPT)
        strbuf_free(&w->out);
    else
        strbuf_clear(&w->out);
}

static void tell_room(struct websocket *w) {
    if (!w->wants_room || w->over || w->close_sent ||
        websocket_queued(w) > w->settings.queue_max / 2)
        return;
    w->wants_room = false;
    if (w->settings.room)
        w->settings.room(w);
}

int websocket_send(struct websocket *w, enum websocket_kind kind, const void *data, size_t len) {
    size_t queued = websocket_queued(w);
    if (w->over || w->close_sent)
        return 0;
    if (queued && queued + len + WEBSOCKET_HEAD_MAX > w->settings.queue_max) {
        w->wants_room = true;
        return -1;
    }
    send_frame(w, (enum websocket_opcode)kind, data, len);
    update(w);
    return 0;
}

// ---- closing ----

// status 0: a close without one.
static void send_close(struct websocket *w, unsigned status, const char *reason, size_t len) {
    char body[WEBSOCKET_CONTROL_MAX] = {(char)(status >> 8), (char)status};
    if (len > sizeof body - 2)
        len = sizeof body - 2;
    while (len && ((unsigned char)reason[len] & 0xc0) == 0x80) // not inside a character
        len--;
    memcpy(body + 2, reason, len);
    w->close_sent = true;
    w->close_ns = clock_boot_ns();
    send_frame(w, WEBSOCKET_OP_CLOSE, body, status ? len + 2 : 0);
}

void websocket_close(struct websocket *w, unsigned status, const char *reason) {
    if (w->over || w->close_sent)
        return;
    send_close(w, status, reason, strlen(reason));
    schedule(w); // a paused socket has to read on, for the peer's close
    update(w);
}

void websocket_abort(struct websocket *w) {
    finish(w);
}

// The peer broke a rule: it is told, and not listened to any more.
static void fail(struct websocket *w, unsigned status, const char *reason) {
    w->failed = true;
    if (w->close_sent) {
        finish(w);
        return;
    }
    say_why(w, status, reason, strlen(reason));
    send_close(w, status, reason, strlen(reason));
    if (!w->over && !websocket_queued(w))
        (void)stream_shutdown(w->stream); // its end comes when the peer closes, or close_ms is over
}

static void on_close(struct websocket *w, const char *data, size_t len) {
    unsigned status =
        len >= 2 ? (unsigned)(unsigned char)data[0] << 8 | (unsigned char)data[1] : WEBSOCKET_NONE;
    if (len == 1 || (len >= 2 && !websocket_status_valid(status))) {
        fail(w, WEBSOCKET_PROTOCOL_ERROR, "close without a valid status");
        return;
    }
    if (len > 2 && !utf8_valid(data + 2, len - 2)) {
        fail(w, WEBSOCKET_INVALID_TEXT, "reason is not UTF-8");
        return;
    }
    w->close_received = true;
    say_why(w, status, len > 2 ? data + 2 : "", len > 2 ? len - 2 : 0);
    if (!w->close_sent)
        send_close(w, len ? status : 0, w->reason, strlen(w->reason));
}

// ---- receiving ----

static bool on_frame(void *arg, enum websocket_opcode op, const char *data, size_t len) {
    struct websocket *w = arg;
    if (op == WEBSOCKET_OP_CLOSE)
        on_close(w, data, len);
    else if (op == WEBSOCKET_OP_PING && !w->close_sent)
        send_frame(w, WEBSOCKET_OP_PONG, data, len);
    else if ((op == WEBSOCKET_OP_TEXT || op == WEBSOCKET_OP_BINARY) && !w->close_sent)
        w->settings.message(w, (enum websocket_kind)op, data, len);
    return !w->over && !w->close_received && !w->failed && (!w->paused || w->close_sent);
}

static bool takes_input(const struct websocket *w) {
    // Pongs that the peer does not take stop its pings. A close that we wait for is read for though
    // paused.
    return !w->over && !w->close_received && (!w->paused || w->close_sent) &&
           websocket_queued(w) <= w->settings.queue_max;
}

static size_t parse(struct websocket *w, const char *data, size_t len) {
    size_t at = 0;
    while (at < len && !w->failed && takes_input(w)) {
        ssize_t n = websocket_parse(&w->parser, data + at, len - at);
        if (n < 0)
            fail(w, w->parser.status, w->parser.reason);
        else
            at += (size_t)n;
    }
    return w->failed || w->over || w->close_received ? len : at;
}

static void parse_held(struct websocket *w) {
    struct strbuf held = w->held;
    if (!held.len || !takes_input(w))
        return;
    strbuf_init(&w->held, READ_SIZE + HTTP_TUNNEL_EARLY_MAX);
    size_t used = parse(w, held.data, held.len);
    if (used < held.len && strbuf_add(&w->held, held.data + used, held.len - used) < 0)
        finish(w);
    strbuf_free(&held);
}

static void read_input(struct websocket *w) {
    char data[READ_SIZE];
    for (int i = 0; i < READS_PER_TURN && !w->held.len && takes_input(w); i++) {
        ssize_t n = stream_read(w->stream, data, sizeof data);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            finish(w);
            return;
        }
        w->seen_ns = clock_boot_ns();
        size_t used = parse(w, data, (size_t)n);
        if (used < (size_t)n && strbuf_add(&w->held, data + used, (size_t)n - used) < 0)
            finish(w);
        if ((size_t)n < sizeof data)
            return;
    }
}

// ---- turns ----

// Both closes are through, or ours is and nobody listens.
static void finish_if_closed(struct websocket *w) {
    if (!w->over && w->close_received && !websocket_queued(w))
        finish(w);
}

static void on_ready(struct stream *s, unsigned events, void *arg) {
    struct websocket *w = arg;
    (void)s;
    w->busy = true;
    if (events & STREAM_WRITABLE) {
        flush(w);
        if (w->failed && !w->over && !websocket_queued(w))
            (void)stream_shutdown(w->stream);
        tell_room(w);
    }
    parse_held(w);
    if (events & STREAM_READABLE)
        read_input(w);
    w->busy = false;
    update(w);
}

static void on_task(struct loop_task *task) {
    struct websocket *w = CONTAINER_OF(task, struct websocket, task);
    w->task_due = false;
    if (w->over) {
        w->settings.closed(w, w->status, w->reason);
        websocket_free(w);
        return;
    }
    w->busy = true;
    parse_held(w);
    w->busy = false;
    update(w);
}

static int64_t after(int64_t since_ns, int64_t ms) {
    return ms > 0 ? since_ns + ms * 1000000 : never;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t silence_deadline(const struct websocket *w) {
    return takes_input(w) ? after(w->seen_ns, w->settings.silence_ms) : never;
}

static int64_t cut_deadline(const struct websocket *w) {
    const struct websocket_settings *s = &w->settings;
    int64_t first = w->close_sent ? after(w->close_ns, s->close_ms) : never;
    if (websocket_queued(w))
        first = least(first, after(w->write_ns, s->write_ms));
    return least(first, silence_deadline(w));
}

// A ping waits for its answer, or none are sent.
static bool asked(const struct websocket *w) {
    return w->settings.ping_ms <= 0 || w->pinged_ns > w->seen_ns;
}

static int64_t ping_deadline(const struct websocket *w) {
    return w->close_sent ? never : after(w->pinged_ns, w->settings.ping_ms);
}

static void on_timer(struct timer *t) {
    struct websocket *w = CONTAINER_OF(t, struct websocket, timer);
    int64_t now = clock_boot_ns();
    if (!asked(w) && silence_deadline(w) <= now)
        w->seen_ns = now; // this program was stopped: the peer has its time from the next ping on
    if (cut_deadline(w) <= now) {
        finish(w);
        return;
    }
    if (ping_deadline(w) <= now) {
        w->pinged_ns = now;
        if (!websocket_queued(w)) // else the peer has something to take as it is
            send_frame(w, WEBSOCKET_OP_PING, NULL, 0);
    }
    update(w);
}

static void update(struct websocket *w) {
    if (w->busy)
        return;
    finish_if_closed(w);
    if (w->over)
        return;
    stream_want(w->stream, (!w->held.len && takes_input(w) ? STREAM_READABLE : 0u) |
                               (websocket_queued(w) ? STREAM_WRITABLE : 0u));
    if (w->held.len && takes_input(w))
        schedule(w);
    int64_t first = least(cut_deadline(w), ping_deadline(w));
    if (first != never && (!timer_armed(&w->timer) || w->timer.node.key > first))
        timer_start_at(w->loop, &w->timer, first, on_timer);
}

void websocket_pause(struct websocket *w, bool paused) {
    if (w->paused == paused || w->over)
        return;
    w->paused = paused;
    w->seen_ns = clock_boot_ns();
    update(w);
}

// ---- the handshake ----

void *websocket_user(const struct websocket *w) {
    return w->settings.user;
}

bool websocket_asked(const struct http_exchange *x) {
    const struct http_headers *h = &x->request->headers;
    return x->request->minor > 0 && http_headers_has_token(h, "Connection", "upgrade") &&
           http_headers_has_token(h, "Upgrade", "websocket");
}

// What is wrong with the request, or NULL.
static const char *handshake_fault(const struct http_exchange *x) {
    const char *key = http_header(x, "Sec-WebSocket-Key");
    unsigned char bytes[KEY_SIZE + 2];
    if (strcmp(x->request->method, "GET") != 0 || x->request->content_length > 0 ||
        x->request->chunked)
        return "a WebSocket handshake is a GET without a body";
    if (!websocket_asked(x))
        return "this is a WebSocket: send Upgrade: websocket and Connection: Upgrade";
    if (!key || http_headers_count(&x->request->headers, "Sec-WebSocket-Key") != 1 ||
        strlen(key) != KEY_TEXT || decode_base64(key, KEY_TEXT, bytes, sizeof bytes) != KEY_SIZE)
        return "Sec-WebSocket-Key must be 16 bytes in base64";
    return NULL;
}

static bool refused(struct http_exchange *x) {
    const char *version = http_header(x, "Sec-WebSocket-Version");
    const char *fault = handshake_fault(x);
    struct error err = {0};
    bool other_version = !fault && (!version || strcmp(version, "13") != 0);
    if (!fault && !other_version)
        return false;
    (void)http_reply_header(x, "Sec-WebSocket-Version", "13");
    (void)error_api(&err, other_version ? 426 : 400, "BAD_REQUEST", "%s",
                    other_version ? "only version 13 of the WebSocket protocol is spoken here"
                                  : fault);
    http_reply_error(x, &err);
    return true;
}

static void add_accept(struct http_exchange *x) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455 1.3
    char text[KEY_TEXT + sizeof guid], accept[4 * ((SHA1_SIZE + 2) / 3) + 1];
    uint8_t digest[SHA1_SIZE];
    memcpy(text, http_header(x, "Sec-WebSocket-Key"), KEY_TEXT);
    memcpy(text + KEY_TEXT, guid, sizeof guid);
    sha1(text, sizeof text - 1, digest);
    (void)encode_base64(digest, sizeof digest, accept);
    (void)http_reply_header(x, "Upgrade", "websocket");
    (void)http_reply_header(x, "Sec-WebSocket-Accept", accept);
}

struct websocket *websocket_accept(struct http_exchange *x, const struct websocket_settings *s) {
    struct loop *loop = x->loop;
    const char *early = NULL;
    size_t early_len = 0;
    if (refused(x))
        return NULL;
    struct websocket *w = calloc(1, sizeof *w);
    if (!w) {
        http_reply_empty(x, 503);
        return NULL;
    }
    add_accept(x);
    w->stream = http_tunnel(x, &early, &early_len);
    if (!w->stream) {
        free(w);
        return NULL;
    }
    w->loop = loop;
    w->settings = *s;
    w->status = WEBSOCKET_ABNORMAL;
    w->task.run = on_task;
    w->seen_ns = w->pinged_ns = clock_boot_ns();
    websocket_parser_init(&w->parser, s->message_max);
    w->parser.frame = on_frame;
    w->parser.arg = w;
    strbuf_init(&w->held, READ_SIZE + HTTP_TUNNEL_EARLY_MAX);
    strbuf_init(&w->out, SIZE_MAX / 4); // bounded by queue_max and one message
    stream_set_owner(w->stream, on_ready, w);
    if (strbuf_add(&w->held, early, early_len) < 0)
        finish(w);
    update(w);
    return w;
}
