#include "execd/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fmt/json.h"

enum { FRAMES_KEEP = 2 * EVENTS_BURST, FRAME_EXTRA = 128 };

struct events {
    struct http_exchange *x;
    struct events_owner owner;
    struct strbuf frames; // frames[sent..] wait for the connection
    size_t sent;
    struct events_splitter stream[2];
    int open;           // stream whose event is not finished yet, -1: none
    struct strbuf held; // of the other stream meanwhile
    struct timer ping;
    struct loop_task flush; // at the end of the loop's turn, so that what comes together leaves so
    char stamp[48];         // ,"timestamp":N}\n\n of the burst at hand
    bool ended, gone;
    bool torn; // no memory for a frame: the reply is cut, so that the client sees it
};

// ---- lines ----

static size_t to_terminator(const char *data, size_t len) {
    size_t n = 0;
    while (n < len && data[n] != '\n' && data[n] != '\r')
        n++;
    return n;
}

// Bytes at the end that begin a character whose rest is still to come.
static size_t torn_character(const char *data, size_t len) {
    for (size_t n = 1; n <= 3 && n <= len; n++) {
        unsigned char c = (unsigned char)data[len - n];
        if ((c & 0xc0) == 0x80)
            continue;
        size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return whole > n ? n : 0;
    }
    return 0;
}

static unsigned first_place(const struct events_splitter *sp) {
    return sp->given ? 0 : EVENTS_FIRST;
}

// Hands on what has gathered of a line whose end is still to come.
static void emit_piece(struct events_splitter *sp, events_text_fn *emit, void *arg) {
    size_t n = sp->line.len - torn_character(sp->line.data, sp->line.len);
    bool cut = sp->given + n >= EVENTS_LINE_MAX;
    emit(arg, sp->line.data, n, first_place(sp) | (cut ? EVENTS_LAST : 0));
    sp->given = cut ? 0 : sp->given + n;
    strbuf_consume(&sp->line, n);
}

static void keep(struct events_splitter *sp, const char *data, size_t len, events_text_fn *emit,
                 void *arg) {
    if (!sp->line.max)
        strbuf_init(&sp->line, SIZE_MAX / 8);
    if (strbuf_add(&sp->line, data, len) < 0) { // no memory: in two events rather than not at all
        emit(arg, sp->line.data, sp->line.len, first_place(sp));
        emit(arg, data, len, EVENTS_LAST);
        strbuf_free(&sp->line);
        sp->given = 0;
    } else if (sp->line.len >= EVENTS_PIECE) {
        emit_piece(sp, emit, arg);
    }
}

void events_split(struct events_splitter *sp, const char *data, size_t len, events_text_fn *emit,
                  void *arg) {
    while (len) {
        size_t n = to_terminator(data, len);
        if (n == len) {
            keep(sp, data, len, emit, arg);
            return;
        }
        n += data[n] == '\r' && n + 1 < len && data[n + 1] == '\n' ? 2 : 1;
        if (sp->line.len || sp->given) {
            keep(sp, data, n, emit, arg);
            events_split_end(sp, emit, arg);
        } else {
            emit(arg, data, n, EVENTS_FIRST | EVENTS_LAST);
        }
        data += n;
        len -= n;
    }
}

void events_split_end(struct events_splitter *sp, events_text_fn *emit, void *arg) {
    if (sp->line.len || sp->given)
        emit(arg, sp->line.data, sp->line.len, first_place(sp) | EVENTS_LAST);
    sp->given = 0;
    if (sp->line.capacity > EVENTS_PIECE)
        strbuf_free(&sp->line);
    else if (sp->line.max)
        strbuf_clear(&sp->line);
}

// ---- frames ----

static void finish(struct events *s) {
    size_t left = s->frames.len - s->sent;
    loop_cancel(s->x->loop, &s->flush);
    if (s->torn || s->gone) // who has shut its side only must not take it for whole
        http_stream_abort(s->x);
    else
        http_stream_finish(s->x, s->frames.data + s->sent, left);
    strbuf_free(&s->frames);
    strbuf_free(&s->stream[0].line);
    strbuf_free(&s->stream[1].line);
    strbuf_free(&s->held);
    free(s);
}

static bool may_finish(struct events *s) {
    size_t left = s->frames.len - s->sent;
    return s->ended && (s->gone || s->torn || !left || left <= http_stream_room(s->x));
}

static void flush_now(struct events *s) {
    s->torn = s->torn || s->frames.failed;
    while (!s->gone && !s->torn && s->sent < s->frames.len) {
        size_t room = http_stream_room(s->x), left = s->frames.len - s->sent;
        size_t n = left < room ? left : room;
        if (!n || http_stream_write(s->x, s->frames.data + s->sent, n) < 0)
            return;
        s->sent += n;
    }
    s->sent = 0;
    if (s->frames.capacity > FRAMES_KEEP)
        strbuf_free(&s->frames);
    else
        strbuf_clear(&s->frames);
}

// To the connection what it takes, and its end when that is all.
static void push(struct events *s) {
    s->torn = s->torn || s->frames.failed;
    if (!may_finish(s))
        flush_now(s);
    if (may_finish(s))
        finish(s);
}

static void on_flush(struct loop_task *task) {
    push(CONTAINER_OF(task, struct events, flush));
}

void events_flush(struct events *s) {
    if (!s->flush.node.next)
        loop_defer(s->x->loop, &s->flush);
}

bool events_blocked(const struct events *s) {
    return s->frames.len >= EVENTS_BURST;
}

static void on_room(struct http_exchange *x) {
    struct events *s = x->user;
    bool ended = s->ended;
    push(s); // may have freed it
    if (!ended && !events_blocked(s) && s->owner.room)
        s->owner.room(s->owner.arg);
}

static void on_gone(struct http_exchange *x) {
    struct events *s = x->user;
    s->gone = true;
    timer_stop(&s->ping);
    if (s->ended)
        finish(s);
    else if (s->owner.gone)
        s->owner.gone(s->owner.arg);
}

static void take_time(struct events *s) {
    (void)snprintf(s->stamp, sizeof s->stamp, ",\"timestamp\":%lld}\n\n",
                   (long long)(clock_wall_us() / 1000));
}

static void begin_frame(struct events *s, const char *type) {
    (void)strbuf_adds(&s->frames, "{\"type\":\"");
    (void)strbuf_adds(&s->frames, type); // a constant of ours
    (void)strbuf_addc(&s->frames, '"');
}

static void end_frame(struct events *s) {
    (void)strbuf_adds(&s->frames, s->stamp);
    if (s->frames.len - s->sent >= EVENTS_BURST)
        flush_now(s);
}

static void text_frame(struct events *s, const char *type, const char *text, size_t len,
                       unsigned place) {
    if (place & EVENTS_FIRST) {
        begin_frame(s, type);
        (void)strbuf_adds(&s->frames, ",\"text\":\"");
    }
    (void)json_write_escaped(&s->frames, text, len);
    if (place & EVENTS_LAST) {
        (void)strbuf_addc(&s->frames, '"');
        end_frame(s);
    }
}

static void stdout_frame(void *arg, const char *text, size_t len, unsigned place) {
    struct events *s = arg;
    text_frame(s, "stdout", text, len, place);
    s->open = place & EVENTS_LAST ? -1 : OUTPUT_STDOUT;
}

static void stderr_frame(void *arg, const char *text, size_t len, unsigned place) {
    struct events *s = arg;
    text_frame(s, "stderr", text, len, place);
    s->open = place & EVENTS_LAST ? -1 : OUTPUT_STDERR;
}

static events_text_fn *const stream_frame[] = {stdout_frame, stderr_frame};

static void on_ping(struct timer *t) {
    struct events *s = CONTAINER_OF(t, struct events, ping);
    if (!s->frames.len && s->open < 0) { // behind output nobody needs a sign of life
        take_time(s);
        text_frame(s, "ping", "pong", 4, EVENTS_FIRST | EVENTS_LAST);
        events_flush(s);
    }
    timer_start(s->x->loop, &s->ping, EVENTS_PING_MS, on_ping);
}

struct events *events_begin(struct http_exchange *x, const char *id, unsigned flags,
                            const struct events_owner *owner) {
    struct events *s = calloc(1, sizeof *s);
    if (!s) {
        struct error err;
        (void)error_api(&err, 503, "RUNTIME_ERROR", "out of memory");
        http_reply_error(x, &err);
        return NULL;
    }
    s->x = x;
    s->flush.run = on_flush;
    s->owner = *owner;
    s->open = -1;
    strbuf_init(&s->frames, (size_t)EVENTS_LINE_MAX);
    strbuf_init(&s->held, EVENTS_HELD + EVENTS_BURST);
    x->user = s;
    x->on_room = on_room;
    x->on_gone = on_gone;
    (void)http_reply_header(x, "Cache-Control", "no-cache");
    (void)http_reply_header(x, "X-Accel-Buffering", "no");
    http_stream_begin(x, 200, "text/event-stream", -1);
    s->gone = http_gone(x);
    take_time(s);
    if (id)
        text_frame(s, "init", id, strlen(id), EVENTS_FIRST | EVENTS_LAST);
    if (flags & EVENTS_PINGS) {
        text_frame(s, "ping", "pong", 4, EVENTS_FIRST | EVENTS_LAST);
        timer_start(x->loop, &s->ping, EVENTS_PING_MS, on_ping);
    }
    return s;
}

static void release_held(struct events *s, enum output_stream from) {
    struct strbuf held = s->held;
    if (!held.len)
        return;
    strbuf_init(&s->held, EVENTS_HELD + EVENTS_BURST);
    events_split(&s->stream[from], held.data, held.len, stream_frame[from], s);
    strbuf_free(&held);
}

void events_output(struct events *s, enum output_stream from, const char *data, size_t len) {
    enum output_stream other = from == OUTPUT_STDOUT ? OUTPUT_STDERR : OUTPUT_STDOUT;
    take_time(s);
    if (s->open == (int)other) { // one event at a time: the other stream's has begun
        if (s->held.len + len <= EVENTS_HELD && !strbuf_add(&s->held, data, len))
            return;
        events_split_end(&s->stream[other], stream_frame[other], s);
        release_held(s, from);
    }
    events_split(&s->stream[from], data, len, stream_frame[from], s);
    if (s->open < 0)
        release_held(s, other);
    if (s->frames.len - s->sent >= EVENTS_BURST)
        flush_now(s);
}

static void end_lines(struct events *s) {
    take_time(s);
    int first = s->open == OUTPUT_STDERR ? OUTPUT_STDERR : OUTPUT_STDOUT;
    events_split_end(&s->stream[first], stream_frame[first], s);
    release_held(s, first == OUTPUT_STDOUT ? OUTPUT_STDERR : OUTPUT_STDOUT);
    events_split_end(&s->stream[!first], stream_frame[!first], s);
}

void events_emit(struct events *s, const char *type, json_t *members) {
    const char *name;
    json_t *value;
    end_lines(s);
    begin_frame(s, type);
    json_object_foreach(members, name, value) {
        json_write_name(&s->frames, name);
        (void)json_write(value, &s->frames);
    }
    end_frame(s);
    json_decref(members);
}

void events_complete(struct events *s, int64_t execution_ms) {
    events_emit(s, "execution_complete",
                execution_ms > 0 ? json_pack("{s:I}", "execution_time", (json_int_t)execution_ms)
                                 : NULL);
}

void events_error(struct events *s, const char *ename, const char *evalue, json_t *traceback) {
    json_t *e = json_pack("{s:s,s:s,s:o}", "ename", ename, "evalue", evalue, "traceback",
                          traceback ? traceback : json_array());
    s->torn = s->torn || !e;
    end_lines(s);
    take_time(s);
    begin_frame(s, "error");
    // the timestamp stands before the error (execd.md 2.3), so the usual end does not fit
    (void)strbuf_add(&s->frames, s->stamp, strcspn(s->stamp, "}"));
    (void)strbuf_adds(&s->frames, ",\"error\":");
    (void)json_write(e, &s->frames);
    (void)strbuf_adds(&s->frames, "}\n\n");
    json_decref(e);
}

void events_end(struct events *s) {
    if (!s)
        return;
    timer_stop(&s->ping);
    end_lines(s);
    s->ended = true;
    if (s->gone)
        finish(s);
    else
        events_flush(s);
}
