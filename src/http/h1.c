#include "http/h1.h"

#include <strings.h>

#include "base/cleanup.h"
#include "base/parse.h"

#if LLHTTP_VERSION_MAJOR < 9 && !LLHTTP_STRICT_MODE
#error                                                                                             \
    "llhttp before 9 takes a lone CR for the end of a header: compile it with LLHTTP_STRICT_MODE=1"
#endif

// Where the raw bytes of a head stand; kept in h1.fold. llhttp accepts obs-fold and, for the empty
// line at the end, a bare LF, and does not say so; hence this look at the bytes themselves.
enum fold { BEFORE_START, IN_LINE, AFTER_LF, AFTER_LF_CR, AFTER_HEAD, BAD };

static int refuse(struct h1 *p, int status, const char *reason) {
    if (!p->status) {
        p->status = status;
        p->reason = reason;
    }
    return HPE_USER;
}

static struct h1 *of(llhttp_t *parser) {
    return CONTAINER_OF(parser, struct h1, parser);
}

// Bytes of trailers and chunk extensions: read past, but not without bound.
static int skip(struct h1 *p, size_t len) {
    p->head_bytes += len;
    return p->head_bytes > H1_HEAD_BYTES_MAX
               ? refuse(p, 431, "trailers or chunk extensions too large")
               : 0;
}

static int on_start_line(llhttp_t *parser, const char *at, size_t len) {
    struct h1 *p = of(parser);
    if (!strbuf_add(&p->target, at, len))
        return 0;
    return refuse(p, 414, "request target too long");
}

static int on_field(llhttp_t *parser, const char *at, size_t len) {
    struct h1 *p = of(parser);
    if (!p->in_head)
        return skip(p, len);
    return strbuf_add(&p->name, at, len) ? refuse(p, 431, "header too large") : 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t len) {
    struct h1 *p = of(parser);
    if (!p->in_head)
        return skip(p, len);
    return strbuf_add(&p->value, at, len) ? refuse(p, 431, "header too large") : 0;
}

static int on_value_complete(llhttp_t *parser) {
    struct h1 *p = of(parser);
    if (!p->in_head)
        return 0; // trailers are dropped (RFC 9110 6.5.1 allows it)
    size_t len = p->value.len;
    while (len && (p->value.data[len - 1] == ' ' || p->value.data[len - 1] == '\t'))
        len--;
    if (!p->name.len)
        return refuse(p, 400, "empty header name");
    if (memchr(p->value.data, 0, len))
        return refuse(p, 400, "NUL in a header value");
    if (p->head.headers.count == H1_FIELDS_MAX)
        return refuse(p, 431, "too many header fields");
    if (http_headers_add(&p->head.headers, p->name.data, p->name.len, p->value.data, len))
        return refuse(p, 431, "header too large");
    strbuf_clear(&p->name);
    strbuf_clear(&p->value);
    return 0;
}

static int check_host(struct h1 *p) {
    const struct http_headers *h = &p->head.headers;
    size_t count = http_headers_count(h, "Host");
    if (count > 1)
        return refuse(p, 400, "more than one Host header");
    if (!count)
        return p->head.minor ? refuse(p, 400, "Host header missing") : 0;
    // RFC 3986 3.2.2 and a port; no user name
    const char *host = http_headers_get(h, "Host");
    if (host[strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                          "-._~%!$&'()*+,;=:[]")])
        return refuse(p, 400, "malformed Host header");
    return 0;
}

// RFC 9112 6.3, with no more than one way to say it.
static int check_framing(struct h1 *p) {
    struct http_head *head = &p->head;
    const char *coding = http_headers_get(&head->headers, "Transfer-Encoding");
    const char *length = http_headers_get(&head->headers, "Content-Length");
    head->content_length = -1;
    if (coding) {
        if (!head->minor)
            return refuse(p, 400, "Transfer-Encoding in HTTP/1.0");
        if (length)
            return refuse(p, 400, "both Transfer-Encoding and Content-Length");
        if (http_headers_count(&head->headers, "Transfer-Encoding") > 1 ||
            strcasecmp(coding, "chunked") != 0)
            return refuse(p, 501, "Transfer-Encoding other than chunked");
        head->chunked = true;
    }
    if (length) {
        uint64_t n;
        if (http_headers_count(&head->headers, "Content-Length") > 1 ||
            parse_u64(length, 0, INT64_MAX, &n))
            return refuse(p, 400, "malformed Content-Length");
        head->content_length = (int64_t)n;
    }
    return 0;
}

static int check_start_line(struct h1 *p, enum h1_kind kind) {
    struct http_head *head = &p->head;
    const llhttp_t *parser = &p->parser;
    if (parser->http_major != 1 || parser->http_minor > 1)
        return refuse(p, 400, "HTTP version other than 1.0 and 1.1");
    head->minor = parser->http_minor;
    const char *text = arena_strndup(p->arena, p->target.data, p->target.len);
    if (!text)
        return refuse(p, 431, "header too large");
    if (kind == H1_RESPONSE) {
        head->status = parser->status_code;
        head->reason = text;
        return head->status < 100 ? refuse(p, 400, "malformed status") : 0;
    }
    head->method = llhttp_method_name((llhttp_method_t)parser->method);
    head->target = text;
    if (parser->method == HTTP_CONNECT)
        return refuse(p, 501, "CONNECT is not supported");
    return 0;
}

static bool has_no_body(const struct http_head *head) {
    return head->status / 100 == 1 || head->status == 204 || head->status == 304;
}

// What the Connection, Upgrade and Expect fields say.
static void take_connection(struct h1 *p) {
    struct http_head *head = &p->head;
    unsigned flags = p->parser.flags;
    const char *expect = http_headers_get(&head->headers, "Expect");
    head->keep_alive =
        !(flags & F_CONNECTION_CLOSE) && (head->minor || flags & F_CONNECTION_KEEP_ALIVE);
    if (!head->minor) {
        p->parser.upgrade = 0; // RFC 9110 7.8
        return;
    }
    head->upgrade = flags & F_UPGRADE && flags & F_CONNECTION_UPGRADE;
    head->expect_continue = expect && !strcasecmp(expect, "100-continue");
}

static int on_headers_complete(llhttp_t *parser) {
    struct h1 *p = of(parser);
    struct http_head *head = &p->head;
    enum h1_kind kind = parser->type == HTTP_REQUEST ? H1_REQUEST : H1_RESPONSE;
    if (p->fold != AFTER_HEAD)
        (void)refuse(p, 400, "malformed header");
    if (p->status || check_start_line(p, kind) || check_framing(p) ||
        (kind == H1_REQUEST && check_host(p)))
        return -1;
    take_connection(p);
    p->in_head = false;
    p->head_bytes = 0;
    bool bodyless = p->callbacks->head(p, head) == 1 || (kind == H1_RESPONSE && has_no_body(head));
    return bodyless;
}

static int on_body(llhttp_t *parser, const char *at, size_t len) {
    struct h1 *p = of(parser);
    p->callbacks->body(p, at, len);
    return 0;
}

static int on_extension(llhttp_t *parser, const char *at, size_t len) {
    (void)at;
    return skip(of(parser), len);
}

// The owner hears of it behind llhttp_execute(), so that it may reset or even free the parser then.
static int on_message_complete(llhttp_t *parser) {
    of(parser)->is_complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_start_line,
    .on_status = on_start_line,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_extension_name = on_extension,
    .on_chunk_extension_value = on_extension,
    .on_message_complete = on_message_complete,
};

void h1_init(struct h1 *p, enum h1_kind kind, const struct h1_callbacks *callbacks, void *user) {
    *p = (struct h1){.callbacks = callbacks, .user = user};
    llhttp_init(&p->parser, kind == H1_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE, &settings);
    strbuf_init(&p->name, H1_HEAD_BYTES_MAX);
    strbuf_init(&p->value, H1_HEAD_BYTES_MAX);
    strbuf_init(&p->target, H1_TARGET_MAX);
}

void h1_reset(struct h1 *p, struct arena *arena) {
    llhttp_reset(&p->parser);
    strbuf_clear(&p->name);
    strbuf_clear(&p->value);
    strbuf_clear(&p->target);
    p->arena = arena;
    p->head = (struct http_head){.content_length = -1};
    http_headers_init(&p->head.headers, arena);
    p->head_bytes = 0;
    p->status = 0;
    p->reason = NULL;
    p->fold = BEFORE_START;
    p->in_head = true;
    p->upgraded = p->is_complete = false;
}

void h1_free(struct h1 *p) {
    strbuf_free(&p->name);
    strbuf_free(&p->value);
    strbuf_free(&p->target);
}

static enum fold step(unsigned fold, char c) {
    switch (fold) {
    case BEFORE_START: return c == '\r' || c == '\n' ? BEFORE_START : IN_LINE;
    case IN_LINE: return c == '\n' ? AFTER_LF : IN_LINE;
    case AFTER_LF:
        return c == '\r' ? AFTER_LF_CR : c == ' ' || c == '\t' || c == '\n' ? BAD : IN_LINE;
    default: return c == '\n' ? AFTER_HEAD : IN_LINE; // after a lone CR llhttp refuses all
    }
}

// How many of the bytes belong to the head, the empty line included.
static size_t scan_head(struct h1 *p, const char *data, size_t len) {
    const char *at = data, *end = data + len;
    while (at < end && p->fold < AFTER_HEAD) {
        if (p->fold == IN_LINE && !(at = memchr(at, '\n', (size_t)(end - at))))
            return len;
        p->fold = step(p->fold, *at++);
    }
    return (size_t)(at - data);
}

static ssize_t fail(struct h1 *p) {
    const char *reason = llhttp_get_error_reason(&p->parser);
    (void)refuse(p, 400, reason ? reason : "malformed message");
    return -1;
}

// Runs llhttp; bytes consumed or -1.
static ssize_t execute(struct h1 *p, const char *data, size_t len) {
    llhttp_errno_t e = llhttp_execute(&p->parser, data, len);
    if (p->status)
        return -1;
    if (p->is_complete) {
        p->upgraded = p->parser.upgrade;
        return llhttp_get_error_pos(&p->parser) - data;
    }
    return e == HPE_OK ? (ssize_t)len : fail(p);
}

static ssize_t feed_head(struct h1 *p, const char *data, size_t len) {
    size_t room = H1_HEAD_BYTES_MAX - p->head_bytes, n = scan_head(p, data, len);
    if (p->fold == BAD) {
        (void)refuse(p, 400, "folded header line or bare LF");
        return -1;
    }
    bool over = n > room; // executed up to there all the same: a long target is 414
    n = over ? room : n;
    p->head_bytes += n;
    ssize_t used = execute(p, data, n);
    if (used < 0)
        return -1;
    if (over || (p->in_head && p->head_bytes == H1_HEAD_BYTES_MAX)) {
        (void)refuse(p, 431, "header too large");
        return -1;
    }
    if ((p->fold == AFTER_HEAD) == p->in_head || (size_t)used != n)
        return fail(p); // we and llhttp see different ends of the head
    return used;
}

ssize_t h1_feed(struct h1 *p, const char *data, size_t len) {
    if (p->status)
        return -1;
    size_t used = 0;
    while (used < len && !p->is_complete) {
        ssize_t n = p->in_head ? feed_head(p, data + used, len - used)
                               : execute(p, data + used, len - used);
        if (n < 0)
            return -1;
        used += (size_t)n;
        if (p->is_complete) {
            p->callbacks->complete(p);
            break; // p may be gone
        }
    }
    return (ssize_t)used;
}

// llhttp counts down what is left in content_length.
uint64_t h1_left(const struct h1 *p) {
    bool counted = !p->in_head && !p->is_complete && !p->status && p->head.content_length > 0;
    return counted ? p->parser.content_length : 0;
}

void h1_skip(struct h1 *p, size_t len) {
    p->parser.content_length -= len;
}

int h1_finish(struct h1 *p) {
    if (p->status || p->is_complete || p->in_head || p->parser.finish != HTTP_FINISH_SAFE_WITH_CB)
        return -1;
    p->is_complete = true;
    p->callbacks->complete(p);
    return 0;
}
