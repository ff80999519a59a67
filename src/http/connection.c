#include "http/connection.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

enum { OUT_KEPT = 16 * 1024, READS_PER_TURN = 4, CALLS_PER_TURN = 64 }; // fair to the others

static const int64_t never = INT64_MAX;

static void update(struct http_connection *c);

// ---- end of a connection ----

static void connection_free(struct http_connection *c) {
    struct http_server *s = c->server;
    timer_stop(&c->timer);
    if (c->task_due)
        loop_cancel(s->loop, &c->task);
    list_remove(&c->node);
    s->connection_count--;
    h1_free(&c->parser);
    strbuf_free(&c->pending);
    strbuf_free(&c->out);
    free(c);
    http_server_removed(s);
}

static void drop_stream(struct http_connection *c) {
    stream_close(c->stream);
    c->stream = NULL;
    strbuf_free(&c->out);
    c->out_at = 0;
    strbuf_free(&c->pending);
    c->lingering = false;
}

void http_connection_cut(struct http_connection *c) {
    if (c->stream)
        drop_stream(c);
    if (c->call)
        c->call->gone = true;
}

// The last reply has left. What the client still sends is read for a moment: a close with unread
// bytes would reset the connection, and the client might never see the reply.
static void end_connection(struct http_connection *c, bool linger) {
    if (!linger || c->eof || stream_shutdown(c->stream) < 0) {
        drop_stream(c);
        return;
    }
    strbuf_free(&c->pending);
    c->lingering = true;
    c->linger_ns = clock_boot_ns() + (int64_t)HTTP_LINGER_MS * 1000000;
}

// ---- sending ----

size_t http_connection_queued(const struct http_connection *c) {
    return c->out.len - c->out_at;
}

void http_connection_queue(struct http_connection *c, const char *data, size_t len) {
    if (c->out_at > OUT_KEPT && c->out_at > c->out.len / 2) {
        strbuf_consume(&c->out, c->out_at);
        c->out_at = 0;
    }
    if (!http_connection_queued(c)) // the clock is asked only when something has to wait
        c->write_ns = clock_boot_ns();
    if (strbuf_add(&c->out, data, len) < 0)
        http_connection_cut(c);
}

void http_connection_send(struct http_connection *c, struct iovec *iov, int count) {
    size_t sent = 0;
    if (!c->stream)
        return;
    if (!http_connection_queued(c)) {
        ssize_t n = stream_writev(c->stream, iov, count);
        if (n < 0 && errno != EAGAIN) {
            http_connection_cut(c);
            return;
        }
        sent = n < 0 ? 0 : (size_t)n;
    }
    for (int i = 0; i < count && c->stream; i++) {
        size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
        sent -= skip;
        if (skip < iov[i].iov_len)
            http_connection_queue(c, (const char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
    }
}

void http_connection_flush(struct http_connection *c) {
    bool moved = false;
    while (c->stream && http_connection_queued(c)) {
        ssize_t n = stream_write(c->stream, c->out.data + c->out_at, http_connection_queued(c));
        if (n < 0 && errno != EAGAIN) {
            http_connection_cut(c);
            return;
        }
        if (n < 0) {
            if (moved)
                c->write_ns = clock_boot_ns();
            return;
        }
        moved = true;
        c->out_at += (size_t)n;
    }
    c->out_at = 0;
    strbuf_clear(&c->out);
}

static void tell_room(const struct http_connection *c) {
    struct http_call *call = c->call;
    if (!call || !call->wants_room || call->ended ||
        http_connection_queued(c) > c->server->settings.stream_buffer / 2)
        return;
    call->wants_room = false;
    if (call->x.on_room)
        call->x.on_room(&call->x);
}

// ---- the parser's callbacks ----

static int on_head(struct h1 *p, const struct http_head *head) {
    struct http_connection *c = p->user;
    (void)head;
    c->call->head_done = true;
    return 0;
}

static void on_body(struct h1 *p, const char *data, size_t len) {
    const struct http_connection *c = p->user;
    struct http_call *call = c->call;
    call->received += len;
    if (call->ended || call->broken) {
        call->discarded += len;
    } else if (call->started && !call->paused && !call->body.len) {
        call->paused = !call->callbacks.data(&call->x, data, len);
    } else if (strbuf_add(&call->body, data, len) < 0) {
        call->too_large = true;
    }
}

static void on_complete(struct h1 *p) {
    struct http_connection *c = p->user;
    c->call->complete = true;
}

static const struct h1_callbacks callbacks = {on_head, on_body, on_complete};

// ---- receiving ----

static bool streaming(const struct http_call *call) {
    return call->handled && !call->ended;
}

// Whether bytes of a request can be taken now.
static bool wants_input(const struct http_connection *c) {
    const struct http_call *call = c->call;
    if (!c->stream || c->lingering)
        return false;
    if (!call)
        return !http_connection_queued(c) && c->turn_calls < CALLS_PER_TURN;
    if (call->complete || call->broken)
        return false;
    if (streaming(call))
        return call->started && !call->paused && !call->body.len;
    return true;
}

static bool begin_call(struct http_connection *c) {
    struct http_call *call = http_server_take_call(c->server);
    if (!call)
        return false;
    c->turn_calls++;
    call->connection = c;
    call->begun_ns = c->server->now_ns;
    call->x.request = &c->parser.head;
    call->x.peer_port = c->peer_port;
    memcpy(call->x.peer, c->peer, sizeof c->peer);
    c->call = call;
    h1_reset(&c->parser, &call->arena);
    return true;
}

// The bytes are no HTTP. Whoever has the call is told; nobody yet: it is answered here.
static void refused(struct http_connection *c) {
    struct http_call *call = c->call;
    c->close = true;
    call->broken = true;
    if (!call->handled && !call->ended)
        http_reply_refusal(&call->x, c->parser.status ? (unsigned)c->parser.status : 400,
                           c->parser.reason ? c->parser.reason : "malformed request");
}

static void report(struct http_call *call) {
    const struct http_server_settings *s = &call->x.server->settings;
    if (call->finished)
        return;
    call->finished = true;
    if (s->finished)
        s->finished(&call->x);
}

// Whether the reply has left, but the rest of the body is still read away.
static bool discarding(struct http_connection *c) {
    if (c->call->complete || !c->stream || c->eof)
        return false;
    if (c->call->discarded > HTTP_DISCARD_MAX)
        c->close = true;
    return !c->close;
}

static bool ends(const struct http_connection *c, bool unread) {
    return c->close || unread || c->server->draining || (c->eof && !c->pending.len);
}

// The current call is over when its reply has left and its body is done with.
static void finish_if_over(struct http_connection *c) {
    struct http_call *call = c->call;
    if (!call || !call->ended || (c->stream && http_connection_queued(c)))
        return;
    report(call);
    if (discarding(c))
        return;
    bool unread = !call->complete;
    c->call = NULL;
    http_server_give_call(c->server, call);
    if (c->out.capacity > OUT_KEPT)
        strbuf_free(&c->out);
    c->idle_ns = c->server->now_ns;
    if (c->stream && ends(c, unread))
        end_connection(c, unread || c->pending.len || c->unread_len);
}

// After some bytes of the current message were parsed.
static void advance(struct http_connection *c) {
    struct http_call *call = c->call;
    if (call->head_done && !call->routed && !call->ended)
        http_route_call(call);
    if (!call->handled && !call->ended) {
        if (call->too_large)
            http_reply_refusal(&call->x, 413, "the request body is larger than the limit");
        else if (call->routed && call->complete)
            http_body_complete(call);
    } else if (call->too_large && !call->ended) {
        http_connection_cut(c); // no memory: a streaming route holds one read at most (wants_input)
    }
    finish_if_over(c);
}

static size_t feed(struct http_connection *c, const char *data, size_t len) {
    size_t at = 0;
    while (at < len && wants_input(c)) {
        if (!c->call && !begin_call(c)) {
            http_connection_cut(c);
            break;
        }
        ssize_t n = h1_feed(&c->parser, data + at, len - at);
        at = n < 0 ? len : at + (size_t)n;
        c->unread = data + at;
        c->unread_len = len - at;
        if (n < 0)
            refused(c);
        advance(c);
        if (n == 0 && c->call && !c->call->complete) // cannot be; and must not spin
            http_connection_cut(c);
    }
    c->unread = NULL;
    c->unread_len = 0;
    return at;
}

static void feed_pending(struct http_connection *c) {
    if (!c->pending.len || !wants_input(c))
        return;
    size_t used = feed(c, c->pending.data, c->pending.len);
    if (!c->stream || c->lingering || used >= c->pending.len)
        strbuf_free(&c->pending);
    else
        strbuf_consume(&c->pending, used);
}

static bool can_lend(const struct http_connection *c) {
    const struct http_call *call = c->call;
    return call && streaming(call) && call->callbacks.lend && !c->pending.len && wants_input(c) &&
           h1_left(&c->parser) > HTTP_READ_SIZE;
}

// Lets a handler that can take bytes of the body from the stream itself. The last ones come through
// the parser, which so sees the end of the message. Returns whether it took some, or pauses; else,
// and when nothing came of the last time, an ordinary read tells what is the matter.
static bool lend(struct http_connection *c) {
    struct http_call *call = c->call;
    if (!can_lend(c))
        return false;
    if (call->lent_in_vain) {
        call->lent_in_vain = false;
        return false;
    }
    uint64_t before = call->received;
    uint64_t most = h1_left(&c->parser) - HTTP_READ_SIZE;
    call->paused = !call->callbacks.lend(&call->x, c->stream, most);
    call->lent_in_vain = call->paused && call->received == before;
    return call->paused || call->received > before;
}

static void read_input(struct http_connection *c) {
    struct http_server *s = c->server;
    for (int i = 0; i < READS_PER_TURN && c->stream && !c->eof; i++) {
        if (lend(c)) {
            c->read_ns = s->now_ns;
            if (c->call->paused)
                return;
            continue;
        }
        ssize_t n = stream_read(c->stream, s->buffer, sizeof s->buffer);
        if (n < 0) {
            if (errno != EAGAIN)
                http_connection_cut(c);
            return;
        }
        c->read_ns = s->now_ns;
        if (n == 0) {
            c->eof = true;
            return;
        }
        if (c->lingering)
            continue;
        size_t used = c->pending.len ? 0 : feed(c, s->buffer, (size_t)n);
        if (c->stream && !c->lingering && used < (size_t)n &&
            strbuf_add(&c->pending, s->buffer + used, (size_t)n - used) < 0)
            http_connection_cut(c);
        if ((size_t)n < sizeof s->buffer || c->pending.len)
            return;
    }
}

// What the end of the client's bytes means, once all that came before it was used.
static void apply_eof(struct http_connection *c) {
    struct http_call *call = c->call;
    if (!c->eof || !c->stream)
        return;
    if (c->lingering || (!call && !c->pending.len && !http_connection_queued(c))) {
        drop_stream(c);
        return;
    }
    if (!call)
        return;
    if (!call->ended)
        call->gone =
            true; // what it still replies is sent: the client may have closed one half only
    if (!call->complete && !c->pending.len)
        call->broken = true;
    if (call->broken && !call->head_done)
        http_connection_cut(c); // half a head is not worth an answer
}

// Gives a streaming handler what waits for it, and the end of the body.
static bool can_deliver(const struct http_call *call) {
    return call && call->started && !call->paused && !call->body_over && !call->ended &&
           (call->body.len || call->complete || call->broken);
}

static void deliver(struct http_connection *c) {
    struct http_call *call = c->call;
    while (can_deliver(call)) {
        if (call->body.len) {
            struct strbuf piece = call->body;
            strbuf_init(&call->body, HTTP_HELD_MAX);
            call->paused = !call->callbacks.data(&call->x, piece.data, piece.len);
            strbuf_free(&piece);
            continue;
        }
        call->body_over = true;
        call->callbacks.end(&call->x, call->complete);
    }
}

static bool must_tell_gone(const struct http_call *call) {
    return call && call->gone && !call->gone_told && !call->ended &&
           (!call->handled || call->x.on_gone);
}

static void tell_gone(struct http_connection *c) {
    struct http_call *call = c->call;
    call->gone_told = true;
    if (call->handled) {
        call->x.on_gone(&call->x);
        return;
    }
    call->ended = true; // nobody has it yet
    call->x.status = 499;
    if (!call->head_done)
        call->finished = true; // and nobody will ever hear of it
}

// ---- turns ----

static bool has_work(const struct http_connection *c) {
    return can_deliver(c->call) || must_tell_gone(c->call) || (c->pending.len && wants_input(c)) ||
           (c->call && c->call->ended && !c->stream);
}

static void turn(struct http_connection *c) {
    c->busy = true;
    do {
        deliver(c);
        if (must_tell_gone(c->call))
            tell_gone(c);
        finish_if_over(c);
        feed_pending(c);
        apply_eof(c);
    } while (has_work(c));
    c->busy = false;
    c->turn_calls = 0;
    http_connection_settle(c);
}

void http_connection_cut_now(struct http_connection *c) {
    http_connection_cut(c);
    if (!c->busy)
        turn(c);
}

static void on_ready(struct stream *stream, unsigned events, void *arg) {
    struct http_connection *c = arg;
    (void)stream;
    c->server->now_ns = clock_boot_ns();
    c->busy = true;
    if (events & STREAM_WRITABLE) {
        http_connection_flush(c);
        tell_room(c);
        finish_if_over(c);
    }
    if (events & STREAM_READABLE && c->stream)
        read_input(c);
    turn(c);
}

static void on_task(struct loop_task *task) {
    struct http_connection *c = CONTAINER_OF(task, struct http_connection, task);
    c->task_due = false;
    c->server->now_ns = clock_boot_ns();
    turn(c);
}

void http_connection_schedule(struct http_connection *c) {
    if (c->task_due)
        return;
    c->task_due = true;
    c->task.run = on_task;
    loop_defer(c->server->loop, &c->task);
}

void http_connection_settle(struct http_connection *c) {
    if (c->busy)
        return;
    c->busy = true;                // the finished() hook is not to come back here
    if (c->call && c->call->ended) // it may have taken long: time-outs begin anew
        c->read_ns = c->server->now_ns = clock_boot_ns();
    finish_if_over(c);
    c->busy = false;
    if (!c->stream && !c->call) {
        connection_free(c);
        return;
    }
    if (has_work(c))
        http_connection_schedule(c);
    update(c);
}

// ---- time-outs ----

static int64_t after(int64_t since_ns, int64_t ms) {
    return ms > 0 ? since_ns + ms * 1000000 : never;
}

static int64_t input_deadline(const struct http_connection *c) {
    const struct http_server_settings *s = &c->server->settings;
    const struct http_call *call = c->call;
    if (c->lingering)
        return c->linger_ns;
    if (!call)
        return after(c->idle_ns, s->idle_ms);
    if (!call->head_done)
        return after(call->begun_ns, s->head_ms);
    if (call->complete || !wants_input(c) || (call->x.patient && !call->ended))
        return never;
    return after(c->read_ns > call->begun_ns ? c->read_ns : call->begun_ns, s->body_ms);
}

static int64_t output_deadline(const struct http_connection *c) {
    if (!http_connection_queued(c) || (c->call && c->call->x.patient))
        return never;
    return after(c->write_ns, c->server->settings.write_ms);
}

static void input_late(struct http_connection *c) {
    struct http_call *call = c->call;
    if (c->lingering || !call) {
        drop_stream(c);
        return;
    }
    c->close = true;
    call->broken = true;
    if (call->ended)
        drop_stream(c);
    else if (!call->handled)
        http_reply_refusal(&call->x, 408,
                           call->head_done ? "the request body did not come in time"
                                           : "the head of the request did not come in time");
}

static void on_timer(struct timer *t) {
    struct http_connection *c = CONTAINER_OF(t, struct http_connection, timer);
    int64_t now = c->server->now_ns = clock_boot_ns();
    c->busy = true;
    if (output_deadline(c) <= now)
        http_connection_cut(c);
    else if (c->stream && input_deadline(c) <= now)
        input_late(c);
    turn(c);
}

static unsigned wanted(const struct http_connection *c) {
    unsigned want = http_connection_queued(c) ? STREAM_WRITABLE : 0;
    bool more = c->pending.len == 0 && wants_input(c);
    // While a call runs, reading on is how its client's end is noticed.
    bool watching = c->call && c->call->complete && c->pending.len < HTTP_PENDING_MAX / 2;
    if (!c->eof && (c->lingering || more || watching))
        want |= STREAM_READABLE;
    return want;
}

static void update(struct http_connection *c) {
    if (!c->stream)
        return;
    stream_want(c->stream, wanted(c));
    int64_t in = input_deadline(c), out = output_deadline(c), first = in < out ? in : out;
    if (first != never && (!timer_armed(&c->timer) || c->timer.node.key > first))
        timer_start_at(c->server->loop, &c->timer, first, on_timer);
}

// ---- beginning ----

// A peer that fell silent is asked after a minute, and gone after another: nobody else notices the
// end of one from whom nothing is due. Failures are ignored: without it only latency and dead peers
// suffer.
static void tune(int fd) {
    static const int options[][3] = {{IPPROTO_TCP, TCP_NODELAY, 1},
                                     {SOL_SOCKET, SO_KEEPALIVE, 1},
                                     {IPPROTO_TCP, TCP_KEEPIDLE, 60},
                                     {IPPROTO_TCP, TCP_KEEPINTVL, 15},
                                     {IPPROTO_TCP, TCP_KEEPCNT, 4}};
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        (void)setsockopt(fd, options[i][0], options[i][1], &options[i][2], sizeof(int));
}

void http_connection_open(struct http_server *s, int fd, bool refuse) {
    struct http_connection *c = calloc(1, sizeof *c);
    if (!c) {
        (void)close(fd);
        return;
    }
    c->server = s;
    c->stream = stream_open(s->loop, fd, on_ready, c);
    if (!c->stream) {
        free(c);
        return;
    }
    c->peer_port = stream_peer(c->stream, c->peer, sizeof c->peer);
    if (c->peer_port)
        tune(fd);
    c->idle_ns = s->now_ns = clock_boot_ns();
    strbuf_init(&c->pending, HTTP_PENDING_MAX + HTTP_READ_SIZE);
    strbuf_init(&c->out, SIZE_MAX / 4); // streams are bounded by stream_buffer, replies by whoever
                                        // made them
    h1_init(&c->parser, H1_REQUEST, &callbacks, c);
    list_push_back(&s->connections, &c->node);
    s->connection_count++;
    if (refuse) {
        c->busy = true;
        c->close = true;
        if (begin_call(c))
            http_reply_refusal(&c->call->x, 503, "too many connections; try again");
        else
            http_connection_cut(c);
        c->busy = false;
    }
    http_connection_settle(c);
}
