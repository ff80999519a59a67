#include <errno.h>

#include "base/cleanup.h"
#include "io/tunnel.h"

// One direction: bytes of `from` wait in buffer[begin..end) until `to` takes them.
struct half {
    struct stream *from, *to;
    char *buffer;
    size_t begin, end;
    uint64_t total;
    bool eof, over; // eof: nothing more comes; over: and that was passed on
    bool broken;    // `to` takes nothing any more
};

struct tunnel {
    struct loop *loop;
    struct half half[2]; // a to b, b to a
    size_t size;
    int64_t idle_ms;
    struct timer idle;
    struct loop_task grave;
    tunnel_done_fn *done;
    void *arg;
};

static void bury(struct loop_task *task) {
    struct tunnel *t = CONTAINER_OF(task, struct tunnel, grave);
    free(t->half[0].buffer);
    free(t->half[1].buffer);
    free(t);
}

static void finish(struct tunnel *t, enum tunnel_end end) {
    timer_stop(&t->idle);
    stream_close(t->half[0].from);
    stream_close(t->half[1].from);
    t->half[0].from = t->half[1].from = NULL;
    t->grave.run = bury; // callers up the stack still look at the tunnel
    loop_defer(t->loop, &t->grave);
    t->done(t->arg, t->half[0].total, t->half[1].total, end);
}

static void on_idle(struct timer *timer) {
    finish(CONTAINER_OF(timer, struct tunnel, idle), TUNNEL_IDLE);
}

// The receiver is gone, but what it said last may still wait to be read: only this direction ends.
static void give_up(struct half *h) {
    h->begin = h->end = 0;
    h->eof = h->over = h->broken = true;
}

static void flush(struct half *h) {
    while (h->begin < h->end) {
        ssize_t n = stream_write(h->to, h->buffer + h->begin, h->end - h->begin);
        if (n < 0) {
            if (errno != EAGAIN)
                give_up(h);
            return;
        }
        h->begin += (size_t)n;
        h->total += (uint64_t)n;
    }
    h->begin = h->end = 0;
    if (h->eof && !h->over) {
        h->over = true;
        (void)stream_shutdown(h->to); // a peer that is gone already shows at its own reads
    }
}

// Reads until there is no room or nothing to read, writing as it goes. -1: the sender broke.
static int move(struct half *h, size_t size) {
    flush(h);
    for (int rounds = 0; rounds < 8 && h->begin == h->end && !h->eof; rounds++) {
        ssize_t n = stream_read(h->from, h->buffer, size); // 8: fair to the loop's other streams
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        h->begin = 0;
        h->end = (size_t)n;
        h->eof = n == 0;
        flush(h);
        if ((size_t)n < size) // it had no more; the poll tells of what comes
            break;
    }
    return 0;
}

static void update(const struct tunnel *t) {
    for (int i = 0; i < 2; i++) {
        const struct half *in = &t->half[i],
                          *out = &t->half[!i]; // of the same stream: what it sends, what it is sent
        stream_want(in->from, (!in->eof && in->begin == in->end ? STREAM_READABLE : 0u) |
                                  (out->begin < out->end ? STREAM_WRITABLE : 0u));
    }
}

// Works on the directions that `events` of `s` concern; all of them when s is NULL.
static void turn(struct tunnel *t, const struct stream *s, unsigned events) {
    for (int i = 0; i < 2; i++) {
        struct half *h = &t->half[i];
        bool concerned = !s || (h->from == s && events & STREAM_READABLE) ||
                         (h->to == s && events & STREAM_WRITABLE);
        if (concerned && move(h, t->size) < 0) {
            finish(t, TUNNEL_READ_FAILED);
            return;
        }
    }
    if (t->half[0].over && t->half[1].over) {
        finish(t, t->half[0].broken || t->half[1].broken ? TUNNEL_WRITE_FAILED : TUNNEL_EOF);
        return;
    }
    if (t->idle_ms > 0)
        timer_start(t->loop, &t->idle, t->idle_ms, on_idle);
    update(t);
}

static void on_ready(struct stream *s, unsigned events, void *arg) {
    turn(arg, s, events);
}

static void first_turn(struct loop_task *task) {
    turn(CONTAINER_OF(task, struct tunnel, grave), NULL, 0);
}

// `early` bytes were read from half[].from before the tunnel began.
static bool prepare(struct half *h, struct stream *from, struct stream *to, const void *early,
                    size_t len, size_t size) {
    *h = (struct half){
        .from = from, .to = to, .buffer = malloc(len > size ? len : size), .end = len};
    if (h->buffer && len)
        memcpy(h->buffer, early, len);
    return h->buffer;
}

struct tunnel *tunnel_start(struct loop *l, struct stream *a, struct stream *b, const void *early_a,
                            size_t early_a_len, const void *early_b, size_t early_b_len,
                            size_t buffer_size, int64_t idle_ms, tunnel_done_fn *done, void *arg) {
    struct tunnel *t = calloc(1, sizeof *t);
    if (t)
        *t = (struct tunnel){
            .loop = l, .size = buffer_size, .idle_ms = idle_ms, .done = done, .arg = arg};
    if (!t || !prepare(&t->half[0], a, b, early_a, early_a_len, buffer_size) ||
        !prepare(&t->half[1], b, a, early_b, early_b_len, buffer_size)) {
        if (t)
            free(t->half[0].buffer);
        free(t);
        stream_close(a);
        stream_close(b);
        return NULL;
    }
    stream_set_owner(a, on_ready, t);
    stream_set_owner(b, on_ready, t);
    t->grave.run = first_turn; // done() is never called from inside this call
    loop_defer(l, &t->grave);
    return t;
}

void tunnel_abort(struct tunnel *t) {
    loop_cancel(t->loop, &t->grave);
    finish(t, TUNNEL_WRITE_FAILED);
}
