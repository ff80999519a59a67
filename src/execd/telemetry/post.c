#include "execd/telemetry/post.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/parse.h"

enum { RETRY_AFTER_MAX_S = 3600 };

void post_cancel(struct post *p) {
    if (!p->stream)
        return;
    timer_stop(&p->limit);
    stream_close(TAKE_PTR(p->stream));
    h1_free(&p->parser);
    arena_free(&p->arena);
}

static void over(struct post *p, const struct error *err) {
    post_cancel(p);
    p->done(p, err);
}

static void failed(struct post *p, int why, const char *what) {
    struct error err;
    (void)error_errno(&err, why, "%s", what);
    over(p, &err);
}

static void on_limit(struct timer *t) {
    struct post *p = CONTAINER_OF(t, struct post, limit);
    failed(p, ETIMEDOUT, p->connected ? "no answer" : "connect");
}

// ---- the answer ----

static int on_head(struct h1 *parser, const struct http_head *head) {
    struct post *p = parser->user;
    const char *after = http_headers_get(&head->headers, "Retry-After");
    uint64_t seconds = 0;
    if (head->status / 100 == 1)
        return 0;
    p->status = head->status;
    if (after && !parse_u64(after, 1, RETRY_AFTER_MAX_S, &seconds))
        p->retry_after_s = (int64_t)seconds;
    return 0;
}

static void on_body(struct h1 *parser, const char *data, size_t len) {
    (void)parser, (void)data, (void)len; // nothing in it is of use to us
}

static void on_complete(struct h1 *parser) {
    (void)parser; // an interim answer; the next one is waited for
}

// False: over.
static bool feed(struct post *p, const char *data, size_t len) {
    while (len && !p->status) {
        ssize_t n = h1_feed(&p->parser, data, len);
        if (n < 0 || p->parser.upgraded) {
            failed(p, EPROTO, "answer");
            return false;
        }
        data += n;
        len -= (size_t)n;
        if (!p->status && p->parser.is_complete) {
            arena_reset(&p->arena);
            h1_reset(&p->parser, &p->arena);
        }
    }
    if (!p->status)
        return true;
    over(p, NULL);
    return false;
}

static void read_answer(struct post *p) {
    ssize_t n = stream_read(p->stream, p->scratch, POST_SCRATCH);
    if (n < 0 && errno == EAGAIN)
        return;
    p->got += n > 0 ? (size_t)n : 0;
    if (n < 0)
        failed(p, errno, "read");
    else if (!n)
        failed(p, ECONNRESET, "answer");
    else if (p->got > POST_ANSWER_MAX)
        failed(p, EMSGSIZE, "answer");
    else
        (void)feed(p, p->scratch, (size_t)n);
}

// ---- the request ----

static bool connected(struct post *p) {
    int why = 0;
    socklen_t size = sizeof why;
    if (getsockopt(stream_fd(p->stream), SOL_SOCKET, SO_ERROR, &why, &size) < 0)
        why = errno;
    p->connected = !why;
    if (why)
        failed(p, why, "connect");
    return !why;
}

static void on_ready(struct stream *s, unsigned events, void *arg) {
    struct post *p = arg;
    if (!p->connected && !connected(p))
        return;
    if (events & STREAM_READABLE) { // also before all is written: a refusal may come early
        read_answer(p);
        return;
    }
    ssize_t n = stream_write(s, p->left, p->left_len);
    if (n < 0 && errno != EAGAIN) {
        failed(p, errno, "write");
        return;
    }
    p->left += n > 0 ? n : 0;
    p->left_len -= n > 0 ? (size_t)n : 0;
    stream_want(s, STREAM_READABLE | (p->left_len ? STREAM_WRITABLE : 0));
}

int post_start(struct post *p, const struct net *address, unsigned port, const char *request,
               size_t len, int64_t time_out_ms, struct error *err) {
    static const struct h1_callbacks callbacks = {on_head, on_body, on_complete};
    struct sockaddr_storage to;
    socklen_t size = net_sockaddr(address, port, &to);
    cleanup_close int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, (struct sockaddr *)&to, size) < 0 && errno != EINPROGRESS))
        return error_errno(err, errno, "connect");
    p->stream = stream_open(p->loop, TAKE_FD(fd), on_ready, p);
    if (!p->stream)
        return error_errno(err, errno, "connect");
    p->left = request;
    p->left_len = len;
    p->got = 0;
    p->connected = false;
    p->status = 0;
    p->retry_after_s = 0;
    arena_init(&p->arena, (size_t)2 * H1_HEAD_BYTES_MAX);
    h1_init(&p->parser, H1_RESPONSE, &callbacks, p);
    h1_reset(&p->parser, &p->arena);
    stream_want(p->stream, STREAM_WRITABLE);
    timer_start(p->loop, &p->limit, time_out_ms, on_limit);
    return 0;
}
