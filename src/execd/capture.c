#include "execd/capture.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"

static void resume_later(struct capture *c) {
    loop_cancel(&c->e->loop, &c->resume);
    loop_defer(&c->e->loop, &c->resume);
}

static void on_output_room(struct output *o) {
    resume_later(CONTAINER_OF(o, struct capture, output)); // we may be inside output_append()
}

enum { TERMINAL_REST = 64 * 1024 }; // more than the kernel holds of a pty's output

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
