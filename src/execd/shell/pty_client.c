// Clients of a terminal: the handshake, replay, live output as fast as each reads, and what they
// send.
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "base/utf8.h"
#include "execd/handlers.h"
#include "execd/shell/pty.h"
#include "execd/shell/pty_frame.h"
#include "http/websocket.h"

enum { STATUS_TAKEN_OVER = 4001, REFUSED_MAX = 5, TEXT_MAX = 8 * 1024, TYPE_SHOWN = 64 };

struct pty_client {
    struct list node; // in pty->clients
    struct pty *pty;  // NULL: gone before us
    struct websocket *ws;
    struct output_reader reader;
    struct strbuf held; // a frame of output that did not fit yet
    bool viewer, following;
    bool greeted;  // `connected` is on its way; no output before
    bool ending;   // the shell has ended: output up to `last`, then the exit
    uint64_t last; // offset
    int exit_code;
    unsigned refused; // what a viewer may not send
};

// ---- to the client ----

// -1: does not fit now.
static int send_json(struct pty_client *c, json_t *owned) {
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, TEXT_MAX);
    if (pty_frame_write(&sb, owned) < 0)
        return 0; // no memory: like a frame that was lost, never an endless wait
    return websocket_send(c->ws, WEBSOCKET_TEXT, sb.data, sb.len);
}

// Pongs and errors are dropped when the client reads nothing.
static void send_error(struct pty_client *c, const char *code, const char *message) {
    (void)send_json(c, json_pack("{s:s,s:s,s:s}", "type", "error", "error", message, "code", code));
}

static void stop_following(struct pty_client *c) {
    c->following = false;
    output_detach(&c->reader);
    if (c->pty && c->pty->holder == c)
        c->pty->holder = NULL;
}

static void dismiss(struct pty_client *c, unsigned status, const char *reason) {
    stop_following(c);
    websocket_close(c->ws, status, reason);
}

static void send_exit(struct pty_client *c) {
    if (send_json(c, json_pack("{s:s,s:i}", "type", "exit", "exit_code", c->exit_code)) == 0)
        dismiss(c, WEBSOCKET_NORMAL, "process exited");
}

// Takes the next frame of output into scratch; 0: nothing now.
static size_t next_frame(struct pty_client *c, char *scratch) {
    size_t header = c->viewer ? PTY_REPLAY_HEADER : 1, size = PTY_FRAME_MAX;
    enum output_stream from = OUTPUT_STDOUT;
    if (c->ending && size > c->last - c->reader.cursor)
        size = (size_t)(c->last - c->reader.cursor);
    size_t n = size ? output_next(&c->reader, &from, scratch + header, size) : 0;
    if (!n)
        return 0;
    if (c->viewer)
        pty_replay_header(c->reader.cursor - n, scratch);
    else
        scratch[0] = from == OUTPUT_STDERR ? PTY_STDERR : PTY_STDOUT;
    return header + n;
}

static int send_held(struct pty_client *c) {
    if (c->held.len && websocket_send(c->ws, WEBSOCKET_BINARY, c->held.data, c->held.len) < 0)
        return -1;
    strbuf_clear(&c->held);
    return 0;
}

// Behind a long replay it has to wait for room like everything else.
static int greet(struct pty_client *c) {
    const struct pty *p = c->pty;
    if (!c->greeted)
        c->greeted = send_json(c, json_pack("{s:s,s:s,s:s,s:s}", "type", "connected", "session_id",
                                            p->id, "mode", p->terminal ? "pty" : "pipe", "role",
                                            c->viewer ? "viewer" : "holder")) == 0;
    return c->greeted ? 0 : -1;
}

static void flow(struct pty_client *c) {
    char *scratch = c->following ? c->pty->e->scratch : NULL;
    while (c->following && greet(c) == 0 && send_held(c) == 0) {
        size_t n = next_frame(c, scratch);
        if (!n) {
            if (c->ending && c->reader.cursor >= c->last)
                send_exit(c);
            return;
        }
        if (websocket_send(c->ws, WEBSOCKET_BINARY, scratch, n) < 0 &&
            strbuf_add(&c->held, scratch, n) < 0) {
            websocket_abort(c->ws); // no memory: a gap must not pass unseen
            return;
        }
    }
}

static void on_more(struct output_reader *r) {
    flow(CONTAINER_OF(r, struct pty_client, reader));
}

static void on_room(struct websocket *w) {
    flow(websocket_user(w));
}

int pty_exit_code(const struct pty *p) {
    return p->status.signal ? -1 : p->status.code;
}

void pty_clients_ended(struct pty *p) {
    p->holder = NULL; // the session is free for another
    LIST_EACH(&p->clients, node) {
        struct pty_client *c = LIST_ENTRY(node, struct pty_client, node);
        if (!c->following || c->ending)
            continue;
        c->ending = true;
        c->last = p->capture.output.total;
        c->exit_code = pty_exit_code(p);
        flow(c);
    }
}

void pty_clients_failed(struct pty *p, const char *code, const char *message) {
    struct pty_client *c = p->holder;
    if (c) {
        send_error(c, code, message);
        dismiss(c, WEBSOCKET_INTERNAL, code);
    }
}

void pty_clients_paused(struct pty *p, bool paused) {
    if (p->holder)
        websocket_pause(p->holder->ws, paused);
}

// ---- from the client ----

static void refuse(struct pty_client *c) {
    send_error(c, "READ_ONLY", "viewers cannot type, signal or resize");
    if (++c->refused >= REFUSED_MAX)
        dismiss(c, WEBSOCKET_POLICY, "READ_ONLY");
}

static void act(struct pty_client *c, const struct pty_frame *f) {
    struct pty *p = c->pty;
    switch (f->type) {
    case PTY_FRAME_STDIN: pty_type(p, f->data, f->len); break;
    case PTY_FRAME_SIGNAL: pty_signal(p, f->signal); break;
    case PTY_FRAME_RESIZE: pty_size(p, f->columns, f->rows); break;
    case PTY_FRAME_IGNORED:
    case PTY_FRAME_PING:
    case PTY_FRAME_UNKNOWN: break;
    }
}

static void on_message(struct websocket *w, enum websocket_kind kind, const char *data,
                       size_t len) {
    struct pty_client *c = websocket_user(w);
    char message[128];
    struct pty_frame f;
    if (!c->following)
        return; // on its way out
    pty_frame_read(&f, kind == WEBSOCKET_TEXT, data, len);
    if (f.type == PTY_FRAME_PING) {
        (void)send_json(c, json_pack("{s:s}", "type", "pong"));
    } else if (f.type == PTY_FRAME_UNKNOWN) {
        size_t shown = strnlen(f.data, TYPE_SHOWN);
        while (!utf8_valid(f.data, shown)) // not inside a character
            shown--;
        (void)snprintf(message, sizeof message, "unknown frame type \"%.*s\"", (int)shown, f.data);
        send_error(c, "INVALID_FRAME", message);
    } else if (c->viewer && f.acts) {
        refuse(c);
    } else {
        act(c, &f);
    }
    pty_frame_clear(&f);
}

// ---- coming and going ----

static void leave(struct pty_client *c) {
    struct pty *p = c->pty;
    stop_following(c);
    list_remove(&c->node);
    p->viewers -= c->viewer;
    c->pty = NULL;
}

static void on_closed(struct websocket *w, unsigned status, const char *reason) {
    struct pty_client *c = websocket_user(w);
    struct pty *p = c->pty;
    (void)status, (void)reason;
    if (p) {
        leave(c);
        pty_release(p);
    }
    strbuf_free(&c->held);
    free(c);
}

void pty_clients_abort(struct pty *p) {
    LIST_EACH(&p->clients, node) {
        struct pty_client *c = LIST_ENTRY(node, struct pty_client, node);
        leave(c);
        websocket_abort(c->ws);
    }
}

// What is kept from `since` on, as one frame; nothing when there is none.
static void replay(struct pty_client *c, uint64_t since) {
    const struct output *o = &c->pty->capture.output;
    uint64_t from = since < o->begin ? o->begin : since;
    if (from >= o->total)
        return;
    size_t n = (size_t)(o->total - from);
    cleanup_free char *frame = malloc(PTY_REPLAY_HEADER + n);
    if (!frame) {
        send_error(c, "RUNTIME_ERROR", "out of memory: the output so far is not replayed");
        return;
    }
    pty_replay_header(from, frame);
    n = output_copy(o, from, frame + PTY_REPLAY_HEADER, n);
    (void)websocket_send(c->ws, WEBSOCKET_BINARY, frame, PTY_REPLAY_HEADER + n); // the first: fits
}

// Snapshot and attaching are one: nothing is lost and nothing comes twice.
static void follow(struct pty_client *c, uint64_t since) {
    struct pty *p = c->pty;
    struct output *o = &p->capture.output;
    replay(c, since);
    c->following = true;
    output_attach(o, &c->reader, o->total, c->viewer ? 0 : OUTPUT_HOLD | OUTPUT_TAGGED, on_more);
    flow(c);
}

struct wish { // what the request asks for
    uint64_t since;
    bool viewer, terminal, takeover;
};

static bool query_is(struct http_exchange *x, const char *name, const char *value) {
    const char *given = execd_query(x, name);
    return given && !strcmp(given, value);
}

// Whether the request may go on to the handshake; else it was answered.
static bool admit(struct http_exchange *x, const struct pty *p, const struct wish *w) {
    if (w->viewer && !p->running)
        execd_fail(x, 409, "VIEWER_REQUIRES_RUNNING_SESSION",
                   "the shell of pty session %s does not run, and a viewer does not start it",
                   p->id);
    else if (w->viewer && p->viewers >= PTY_VIEWERS_MAX)
        execd_fail(x, 429, CODE_RUNTIME, "pty session %s has %d viewers", p->id, PTY_VIEWERS_MAX);
    else if (!w->viewer && p->holder && !w->takeover)
        execd_fail(x, 409, "ALREADY_CONNECTED",
                   "another client is already connected to pty session %s", p->id);
    else
        return true;
    return false;
}

static void arrive(struct pty_client *c, struct pty *p, const struct wish *w) {
    struct error err;
    c->pty = p;
    list_push_back(&p->clients, &c->node);
    p->viewers += w->viewer;
    if (!w->viewer) {
        if (p->holder)
            dismiss(p->holder, STATUS_TAKEN_OVER, "TAKEN_OVER");
        p->holder = c;
        if (!p->running && pty_start(p, w->terminal, &err) < 0) {
            send_error(c, "START_FAILED", err.message);
            dismiss(c, WEBSOCKET_INTERNAL, "START_FAILED");
            return;
        }
    }
    follow(c, w->since);
    if (!w->viewer)
        websocket_pause(c->ws, p->typed.len > PTY_INPUT_SOFT);
}

void handle_pty_ws(struct http_exchange *x) {
    struct pty *p = pty_find(x);
    if (!p)
        return;
    const char *since = execd_query(x, "since");
    struct wish w = {.viewer = query_is(x, "mode", "viewer"),
                     .terminal = !query_is(x, "pty", "0"),
                     .takeover = query_is(x, "takeover", "1") && websocket_asked(x)};
    if (since)
        (void)parse_u64(since, 0, UINT64_MAX, &w.since); // anything else is 0
    if (!admit(x, p, &w))
        return;
    struct pty_client *c = calloc(1, sizeof *c);
    if (!c) {
        execd_fail(x, 500, CODE_RUNTIME, "out of memory");
        return;
    }
    c->viewer = w.viewer;
    strbuf_init(&c->held, PTY_FRAME_MAX + PTY_REPLAY_HEADER);
    struct websocket_settings s = {.message = on_message,
                                   .room = on_room,
                                   .closed = on_closed,
                                   .message_max = PTY_MESSAGE_MAX,
                                   .queue_max = PTY_QUEUE,
                                   .ping_ms = PTY_PING_MS,
                                   .silence_ms = PTY_SILENCE_MS,
                                   .write_ms = PTY_WRITE_MS,
                                   .close_ms = PTY_CLOSE_MS,
                                   .user = c};
    if (!(c->ws = websocket_accept(x, &s))) {
        free(c);
        return;
    }
    arrive(c, p, &w);
}
