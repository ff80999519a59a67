#include "execd/capture.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "execd/handlers.h"

static void resume_later(struct capture *c) {
    loop_cancel(&c->e->loop, &c->resume);
    loop_defer(&c->e->loop, &c->resume);
}

static void on_output_room(struct output *o) {
    resume_later(CONTAINER_OF(o, struct capture, output)); // we may be inside output_append()
}

enum { TERMINAL_REST = 64 * 1024 }; // more than the kernel holds of a pty's output

// ---- what grandchildren still write ----

// A pipe whose run is over. It is read to its end and thrown away, since a server that was started
// in the background must not die of SIGPIPE at its next line.
struct leftover {
    struct list node; // in execd.leftovers
    struct execd *e;
    struct stream *stream;
};

static void end_leftover(struct leftover *l) {
    list_remove(&l->node);
    stream_close(l->stream);
    free(l);
}

static void on_leftover(struct stream *s, unsigned events, void *arg) {
    struct leftover *l = arg;
    (void)events;
    ssize_t n = stream_read(s, l->e->scratch, EXECD_SCRATCH);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        end_leftover(l);
}

static void let_go(struct execd *e, struct stream *s) {
    struct leftover *l = calloc(1, sizeof *l);
    if (!l) {
        stream_close(s);
        return;
    }
    l->e = e;
    l->stream = s;
    list_push_back(&e->leftovers, &l->node);
    stream_set_owner(s, on_leftover, l);
    stream_want(s, STREAM_READABLE);
}

int capture_room_start(struct execd *e, struct error *err) {
    (void)err;
    list_init(&e->leftovers);
    return 0;
}

void capture_room_stop(struct execd *e) {
    LIST_EACH(&e->leftovers, node)
    end_leftover(LIST_ENTRY(node, struct leftover, node));
}

// ---- reading ----

static size_t room_in(struct capture *c, enum output_stream which) {
    size_t room = c->discarding ? EXECD_SCRATCH : output_room(&c->output);
    if (c->exited && room > c->rest[which])
        room = c->rest[which];
    return room < EXECD_SCRATCH ? room : EXECD_SCRATCH;
}

// Reads once; whether there may be more at once.
static bool read_some(struct capture *c, enum output_stream which) {
    struct stream *s = c->from[which];
    size_t room = room_in(c, which);
    bool over = c->exited && !c->rest[which];
    if (!room && !over) {
        stream_want(s, 0); // until there is room
        return false;
    }
    ssize_t n = over ? 0 : stream_read(s, c->e->scratch, room);
    if (n > 0) {
        c->rest[which] -= c->exited ? (size_t)n : 0;
        if (!c->discarding)
            output_append(&c->output, which, c->e->scratch, (size_t)n);
        return true;
    }
    if (n == 0 || errno != EAGAIN || c->exited) {
        c->from[which] = NULL;
        if (over && !(c->flags & CAPTURE_TERMINAL))
            let_go(c->e, s);
        else
            stream_close(s);
    }
    return false;
}

static void check_drained(struct capture *c) {
    if (c->exited && !c->from[OUTPUT_STDOUT] && !c->from[OUTPUT_STDERR] && c->drained) {
        void (*drained)(struct capture *) = TAKE_PTR(c->drained);
        drained(c);
    }
}

static void on_ready(struct capture *c, enum output_stream which) {
    (void)read_some(c, which); // one read a turn, so that others get theirs
    check_drained(c);
}

static void on_stdout(struct stream *s, unsigned events, void *arg) {
    (void)s, (void)events;
    on_ready(arg, OUTPUT_STDOUT);
}

static void on_stderr(struct stream *s, unsigned events, void *arg) {
    (void)s, (void)events;
    on_ready(arg, OUTPUT_STDERR);
}

// After the exit nothing more may come to wake us, so the pipes are emptied here.
static void on_resume(struct loop_task *task) {
    struct capture *c = CONTAINER_OF(task, struct capture, resume);
    for (int i = OUTPUT_STDOUT; i <= OUTPUT_STDERR; i++) {
        if (c->from[i])
            stream_want(c->from[i], STREAM_READABLE);
        while (c->exited && c->from[i] && read_some(c, (enum output_stream)i))
            ;
    }
    check_drained(c);
}

void capture_init(struct capture *c, struct execd *e, size_t output_max) {
    *c = (struct capture){.e = e, .resume = {.run = on_resume}};
    output_init(&c->output, &e->outputs, output_max);
    c->output.on_room = on_output_room;
}

int capture_start(struct capture *c, int out, int errors, unsigned flags,
                  void (*drained)(struct capture *c)) {
    stream_ready_fn *ready[] = {on_stdout, on_stderr};
    int fds[] = {out, errors}, why = 0;
    c->flags = flags;
    c->exited = false;
    c->drained = drained;
    for (int i = 0; i < 2; i++) {
        if (fds[i] < 0)
            continue;
        if (!(c->from[i] = stream_open(&c->e->loop, fds[i], ready[i], c)))
            why = errno;
        else
            stream_want(c->from[i], STREAM_READABLE);
    }
    if (!why)
        return 0;
    capture_stop(c);
    errno = why;
    return -1;
}

static size_t rest_of(const struct capture *c, int which) {
    int waiting = 0;
    if (c->flags & CAPTURE_TERMINAL)
        return TERMINAL_REST;
    if (!c->from[which] || ioctl(stream_fd(c->from[which]), FIONREAD, &waiting) < 0)
        return 0;
    return (size_t)waiting;
}

void capture_exited(struct capture *c) {
    for (int i = 0; i < 2; i++)
        c->rest[i] = rest_of(c, i);
    c->exited = true;
    resume_later(c);
}

void capture_discard(struct capture *c) {
    c->discarding = true;
    resume_later(c);
}

void capture_stop(struct capture *c) {
    loop_cancel(&c->e->loop, &c->resume);
    c->drained = NULL;
    for (int i = 0; i < 2; i++)
        stream_close(TAKE_PTR(c->from[i]));
}

void capture_clear(struct capture *c) {
    if (!c->e)
        return; // never begun
    capture_stop(c);
    output_clear(&c->output);
}
