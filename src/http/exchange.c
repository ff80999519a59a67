#include "http/exchange.h"

#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "http/connection.h"

enum { JSON_FIRST = 4096, JSON_KEPT = 256 * 1024 };

// ---- the request ----

const char *http_param(const struct http_exchange *x, const char *name) {
    for (unsigned i = 0; i < x->param_count; i++)
        if (strcmp(x->params[i].name, name) == 0)
            return x->params[i].value;
    return NULL;
}

const char *http_header(const struct http_exchange *x, const char *name) {
    return http_headers_get(&x->request->headers, name);
}

bool http_gone(const struct http_exchange *x) {
    return http_call_of(x)->gone;
}

// ---- the head of a reply ----

static const char *reason_of(unsigned status) {
    static const struct {
        unsigned status;
        const char *reason;
    } reasons[] = {{200, "OK"},
                   {201, "Created"},
                   {202, "Accepted"},
                   {204, "No Content"},
                   {206, "Partial Content"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {408, "Request Timeout"},
                   {409, "Conflict"},
                   {410, "Gone"},
                   {411, "Length Required"},
                   {412, "Precondition Failed"},
                   {413, "Content Too Large"},
                   {414, "URI Too Long"},
                   {415, "Unsupported Media Type"},
                   {416, "Range Not Satisfiable"},
                   {417, "Expectation Failed"},
                   {422, "Unprocessable Content"},
                   {426, "Upgrade Required"},
                   {428, "Precondition Required"},
                   {429, "Too Many Requests"},
                   {431, "Request Header Fields Too Large"},
                   {101, "Switching Protocols"},
                   {203, "Non-Authoritative Information"},
                   {205, "Reset Content"},
                   {300, "Multiple Choices"},
                   {301, "Moved Permanently"},
                   {302, "Found"},
                   {303, "See Other"},
                   {304, "Not Modified"},
                   {307, "Temporary Redirect"},
                   {308, "Permanent Redirect"},
                   {500, "Internal Server Error"},
                   {501, "Not Implemented"},
                   {502, "Bad Gateway"},
                   {503, "Service Unavailable"},
                   {504, "Gateway Timeout"},
                   {505, "HTTP Version Not Supported"},
                   {507, "Insufficient Storage"},
                   {508, "Loop Detected"}};
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Status";
}

int http_reply_header(struct http_exchange *x, const char *name, const char *value) {
    struct http_call *call = http_call_of(x);
    struct strbuf *f = &call->fields;
    if (call->begun || !*name || name[strcspn(name, ":\r\n")] || value[strcspn(value, "\r\n")])
        return -1;
    if (strcasecmp(name, "Date") == 0)
        call->has_date = true;
    size_t before = f->len;
    if (strbuf_adds(f, name) < 0 || strbuf_add(f, ": ", 2) < 0 || strbuf_adds(f, value) < 0 ||
        strbuf_add(f, "\r\n", 2) < 0) {
        f->len = before; // half a field would be worse than none
        return -1;
    }
    return 0;
}

static void add_number(struct strbuf *sb, uint64_t n) {
    char text[20];
    size_t at = sizeof text;
    do
        text[--at] = (char)('0' + n % 10);
    while (n /= 10);
    (void)strbuf_add(sb, text + at, sizeof text - at);
}

static const char *date_of(struct http_server *s) {
    if (s->now_ns >= s->date_until_ns) {
        int64_t now_us = clock_wall_us();
        clock_format_http(now_us / 1000000, s->date);
        s->date_until_ns = clock_boot_ns() + (1000000 - now_us % 1000000) * 1000;
    }
    return s->date;
}

// Whether the connection can take another request behind this reply.
static bool keeps(const struct http_call *call, bool delimited) {
    const struct http_connection *c = call->connection;
    const struct http_head *head = call->x.request;
    bool last = c->eof && !c->pending.len; // and what was sent before that is still answered
    if (!head->keep_alive || c->close || call->broken || last || c->server->draining || !delimited)
        return false;
    if (call->complete || (call->started && !call->body_over))
        return true;
    // The rest of the body would have to be read away; and a client that waits for "100 Continue"
    // may send it or not, so nobody could tell what its next bytes are.
    return !call->continue_due &&
           (head->chunked || head->content_length - (int64_t)call->received <= HTTP_DISCARD_MAX);
}

static void add_field(struct strbuf *sb, const char *name, size_t len, const char *value) {
    (void)strbuf_add(sb, name, len);
    (void)strbuf_adds(sb, value);
    (void)strbuf_add(sb, "\r\n", 2);
}

// The status line, Date and what the handler asked for.
static struct strbuf *begin_head(struct http_call *call, unsigned status) {
    struct strbuf *sb = &call->x.server->head;
    call->begun = true;
    call->x.status = status;
    strbuf_clear(sb);
    (void)strbuf_add(sb, "HTTP/1.1 ", 9);
    add_number(sb, status);
    add_field(sb, " ", 1, reason_of(status));
    if (!call->has_date)
        add_field(sb, "Date: ", 6, date_of(call->x.server));
    (void)strbuf_add(sb, call->fields.data, call->fields.len);
    return sb;
}

// How the body is delimited, and whether the connection goes on. length -1: not known beforehand.
static void add_framing(struct strbuf *sb, struct http_call *call, int64_t length) {
    struct http_connection *c = call->connection;
    const struct http_head *request = call->x.request;
    unsigned status = call->x.status;
    bool lengthless = status == 204 || status == 304 || status < 200;
    call->bodiless = lengthless || strcmp(request->method, "HEAD") == 0;
    call->chunked = !call->bodiless && length < 0 && request->minor > 0;
    if (call->chunked) {
        (void)strbuf_adds(sb, "Transfer-Encoding: chunked\r\n");
    } else if (length >= 0 && (!lengthless || (status == 304 && length > 0))) {
        (void)strbuf_add(sb, "Content-Length: ", 16);
        add_number(sb, (uint64_t)length);
        (void)strbuf_add(sb, "\r\n", 2);
    }
    c->close = !keeps(call, call->bodiless || call->chunked || length >= 0); // said, so it is done
    if (c->close)
        (void)strbuf_adds(sb, "Connection: close\r\n");
    else if (request->minor == 0)
        (void)strbuf_adds(sb, "Connection: keep-alive\r\n");
}

static struct strbuf *build_head(struct http_call *call, unsigned status, const char *type,
                                 int64_t length) {
    struct strbuf *sb = begin_head(call, status);
    if (type)
        add_field(sb, "Content-Type: ", 14, type);
    add_framing(sb, call, length);
    (void)strbuf_add(sb, "\r\n", 2);
    if (sb->failed) // no memory: half a head helps nobody
        http_connection_cut(call->connection);
    return sb;
}

// ---- whole replies ----

void http_reply(struct http_exchange *x, unsigned status, const char *content_type,
                const void *data, size_t len) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    if (call->begun) { // there is no second head to send
        http_stream_abort(x);
        return;
    }
    const struct strbuf *head = build_head(call, status, content_type, (int64_t)len);
    struct iovec iov[2] = {{head->data, head->len}, {(void *)data, len}};
    call->ended = true;
    if (!call->bodiless)
        x->bytes_out = len;
    http_connection_send(c, iov, call->bodiless || !len ? 1 : 2);
    http_connection_settle(c);
}

void http_reply_empty(struct http_exchange *x, unsigned status) {
    http_reply(x, status, NULL, NULL, 0);
}

void http_reply_json_text(struct http_exchange *x, unsigned status, const struct strbuf *text) {
    if (text->failed)
        http_reply(x, 500, "application/json", x->server->no_memory, strlen(x->server->no_memory));
    else
        http_reply(x, status, "application/json", text->data, text->len);
}

void http_reply_json(struct http_exchange *x, unsigned status, json_t *owned) {
    struct strbuf *sb = &x->server->json;
    size_t len = 0;
    strbuf_clear(sb);
    if (owned && strbuf_reserve(sb, JSON_FIRST)) {
        len = json_dumpb(owned, sb->data, sb->capacity, JSON_COMPACT | JSON_ENCODE_ANY);
        if (len > sb->capacity && strbuf_reserve(sb, len))
            len = json_dumpb(owned, sb->data, sb->capacity, JSON_COMPACT | JSON_ENCODE_ANY);
    }
    json_decref(owned);
    struct strbuf text = *sb; // the reply may take the server with it
    if (sb->capacity > JSON_KEPT)
        strbuf_init(sb, sb->max);
    bool large = text.capacity > JSON_KEPT;
    text.len = len;
    text.failed |= !len;
    http_reply_json_text(x, status, &text);
    if (large)
        strbuf_free(&text);
}

static void reply_envelope(struct http_exchange *x, unsigned status, const char *code,
                           const char *message) {
    cleanup_strbuf struct strbuf text; // messages quote what clients sent
    strbuf_init(&text, 4 * ERROR_MESSAGE_MAX);
    (void)utf8_add_lossy(&text, message, strlen(message));
    http_reply_json(x, status, json_pack("{s:s, s:s}", "code", code, "message", text.data));
}

void http_reply_error(struct http_exchange *x, const struct error *err) {
    const char *code = *err->code ? err->code : x->server->settings.default_code;
    reply_envelope(x, err->status ? (unsigned)err->status : 500, code ? code : "INTERNAL_ERROR",
                   err->message);
}

// What the connection itself refuses; it closes behind the reply.
void http_reply_refusal(struct http_exchange *x, unsigned status, const char *message) {
    static const struct {
        unsigned status;
        const char *code;
    } codes[] = {{400, "BAD_REQUEST"},       {408, "REQUEST_TIMEOUT"}, {413, "BODY_TOO_LARGE"},
                 {414, "TARGET_TOO_LONG"},   {431, "HEAD_TOO_LARGE"},  {501, "NOT_IMPLEMENTED"},
                 {404, "NOT_FOUND"},         {503, "OVERLOADED"},      {508, "LOOP_DETECTED"},
                 {405, "METHOD_NOT_ALLOWED"}};
    static const struct http_head none = {
        .method = "-", .target = "-", .minor = 1, .content_length = -1};
    struct http_call *call = http_call_of(x);
    const char *code = codes[0].code;
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
        if (codes[i].status == status)
            code = codes[i].code;
    if (!call->head_done)
        x->request = &none;
    if (status == 503)
        (void)http_reply_header(x, "Retry-After", "1");
    call->connection->close = true;
    reply_envelope(x, status, code, message);
}

// ---- streamed replies ----

void http_stream_begin(struct http_exchange *x, unsigned status, const char *content_type,
                       int64_t length) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    if (call->begun) {
        http_connection_cut(c);
        return;
    }
    const struct strbuf *head = build_head(call, status, content_type, length);
    call->reply_left = call->bodiless ? -1 : length;
    // Queued, so that it leaves together with the first bytes, or in the loop's next turn.
    http_connection_queue(c, head->data, head->len);
    call->head_waits = true;
    http_connection_settle(c);
}

size_t http_stream_room(const struct http_exchange *x) {
    struct http_call *call = http_call_of(x);
    size_t queued = call->head_waits ? 0 : http_connection_queued(call->connection);
    size_t max = x->server->settings.stream_buffer;
    if (queued > max / 2) // who asks may wait for more
        call->wants_room = true;
    return queued < max ? max - queued : 0;
}

static size_t chunk_line(char line[20], size_t len) {
    size_t at = 20;
    line[--at] = '\n';
    line[--at] = '\r';
    do
        line[--at] = "0123456789abcdef"[len & 15];
    while (len >>= 4);
    return at;
}

static void send_piece(struct http_call *call, struct iovec *iov, int count) {
    struct http_connection *c = call->connection;
    if (!call->head_waits) {
        http_connection_send(c, iov, count);
        return;
    }
    call->head_waits = false;
    for (int i = 0; i < count; i++)
        http_connection_queue(c, iov[i].iov_base, iov[i].iov_len);
    http_connection_flush(c);
}

int http_stream_write(struct http_exchange *x, const void *data, size_t len) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    char line[20];
    if (!len || !c->stream || call->bodiless || !call->begun)
        return 0;
    // A piece above the whole bound is taken when nothing waits: its owner holds it already.
    if (len > http_stream_room(x) && !call->head_waits && http_connection_queued(c)) {
        call->wants_room = true;
        return -1;
    }
    if (call->reply_left >= 0 && len > (uint64_t)call->reply_left) {
        http_connection_cut(c); // more than was announced would be taken for another reply
        return 0;
    }
    if (call->reply_left >= 0)
        call->reply_left -= (int64_t)len;
    x->bytes_out += len;
    if (call->chunked) {
        size_t at = chunk_line(line, len);
        struct iovec iov[3] = {{line + at, sizeof line - at}, {(void *)data, len}, {"\r\n", 2}};
        send_piece(call, iov, 3);
    } else {
        send_piece(call, &(struct iovec){(void *)data, len}, 1);
    }
    http_connection_settle(c);
    return 0;
}

void http_stream_end(struct http_exchange *x) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    call->ended = true;
    if (!call->begun || call->reply_left > 0)
        http_connection_cut(c); // the client must not take a part for the whole
    else if (call->chunked)
        send_piece(call, &(struct iovec){"0\r\n\r\n", 5}, 1);
    else
        http_connection_flush(c);
    http_connection_settle(c);
}

void http_stream_finish(struct http_exchange *x, const void *data, size_t len) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    char line[20];
    if (!len || !call->chunked || !c->stream || !call->begun) {
        (void)http_stream_write(x, data, len); // fits, as its caller has asked
        http_stream_end(x);
        return;
    }
    size_t at = chunk_line(line, len);
    struct iovec iov[3] = {
        {line + at, sizeof line - at}, {(void *)data, len}, {"\r\n0\r\n\r\n", 7}};
    call->ended = true;
    x->bytes_out += len;
    send_piece(call, iov, 3);
    http_connection_settle(c);
}

void http_stream_abort(struct http_exchange *x) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    bool whole = call->begun && !call->chunked && call->reply_left < 0 && !call->bodiless;
    call->ended = true;
    if (c->stream && whole) // the end of the connection would end the body: reset it
        (void)setsockopt(stream_fd(c->stream), SOL_SOCKET, SO_LINGER, &(struct linger){1, 0},
                         sizeof(struct linger));
    http_connection_cut(c);
    http_connection_settle(c);
}

// ---- request bodies ----

void http_send_continue(struct http_call *call) {
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!call->continue_due || call->begun)
        return;
    call->continue_due = false;
    http_connection_send(call->connection, &(struct iovec){(void *)text, sizeof text - 1}, 1);
}

void http_body_start(struct http_exchange *x, const struct http_body *callbacks) {
    struct http_call *call = http_call_of(x);
    call->callbacks = *callbacks;
    call->started = true;
    call->connection->read_ns = clock_boot_ns();
    http_send_continue(call);
    http_connection_settle(call->connection);
}

void http_body_resume(struct http_exchange *x) {
    struct http_call *call = http_call_of(x);
    if (!call->paused)
        return;
    call->paused = false;
    call->connection->read_ns = clock_boot_ns();
    http_connection_settle(call->connection);
}

void http_body_took(struct http_exchange *x, size_t len) {
    struct http_call *call = http_call_of(x);
    h1_skip(&call->connection->parser, len);
    call->received += len;
    if (len)
        call->lent_in_vain = false;
}

// ---- leaving HTTP ----

struct stream *http_tunnel(struct http_exchange *x, const char **ret_early, size_t *ret_early_len) {
    struct http_call *call = http_call_of(x);
    struct http_connection *c = call->connection;
    const char *early = c->unread ? c->unread : c->pending.data;
    size_t len = c->unread ? c->unread_len : c->pending.len;
    bool ready =
        c->stream && !c->eof && call->complete && !call->begun && !http_connection_queued(c);
    char *copy = arena_strndup(x->arena, early, len);
    call->ended = true;
    http_connection_schedule(c); // not now: the copy lives as long as the call
    if (!ready || !copy) {
        http_connection_cut(c);
        return NULL;
    }
    struct strbuf *sb = begin_head(call, x->status ? x->status : 101);
    (void)strbuf_adds(sb, x->status == 101 ? "Connection: Upgrade\r\n\r\n" : "\r\n");
    // The socket is idle, so it takes a head whole, or never will.
    if (sb->failed || stream_write(c->stream, sb->data, sb->len) != (ssize_t)sb->len) {
        http_connection_cut(c);
        return NULL;
    }
    struct stream *s = TAKE_PTR(c->stream);
    stream_want(s, 0);
    stream_set_owner(s, NULL, NULL);
    *ret_early = copy;
    *ret_early_len = len;
    return s;
}
