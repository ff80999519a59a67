#include "execd/hooks/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "execd/execd.h"
#include "io/stream.h"

enum { LINE_MAX_BYTES = 1200 };

struct journal_pipe {
    struct list node;
    struct execd *e;
    struct stream *stream;
};

static void end_pipe(struct journal_pipe *p) {
    list_remove(&p->node);
    stream_close(p->stream);
    free(p);
}

// One read; false when there is nothing more now, and p may be gone.
static bool read_pipe(struct journal_pipe *p) {
    struct execd *e = p->e;
    ssize_t n = stream_read(p->stream, e->scratch, EXECD_SCRATCH);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0) {
        end_pipe(p);
        return false;
    }
    (void)handoff_log_append(&e->journal.log, e->scratch,
                             (size_t)n); // a full disk costs log, no more
    return true;
}

static void on_output(struct stream *s, unsigned events, void *arg) {
    (void)s;
    (void)events;
    (void)read_pipe(arg);
}

int journal_open(struct journal *j, int ring_fd, struct error *err) {
    list_init(&j->pipes);
    j->ring = ring_fd >= 0;
    return j->ring && handoff_log_open(&j->log, ring_fd) < 0
               ? error_errno(err, errno, "log of the sandbox")
               : 0;
}

int journal_begin(struct execd *e, int *ret_fd, struct error *err) {
    int fds[2];
    *ret_fd = -1;
    if (!e->journal.ring)
        return 0;
    struct journal_pipe *p = calloc(1, sizeof *p);
    if (!p || pipe2(fds, O_CLOEXEC) < 0) {
        int why = p ? errno : ENOMEM;
        free(p);
        return error_errno(err, why, "log of the sandbox");
    }
    p->e = e;
    p->stream = stream_open(&e->loop, fds[0], on_output, p);
    if (!p->stream) {
        int why = errno;
        (void)close(fds[1]);
        free(p);
        return error_errno(err, why, "log of the sandbox");
    }
    stream_want(p->stream, STREAM_READABLE);
    list_push_back(&e->journal.pipes, &p->node);
    *ret_fd = fds[1];
    return 0;
}

void journal_drain(struct execd *e) {
    LIST_EACH(&e->journal.pipes, node) {
        struct journal_pipe *p = LIST_ENTRY(node, struct journal_pipe, node);
        int waiting = 0;
        if (ioctl(stream_fd(p->stream), FIONREAD, &waiting) < 0)
            continue;
        for (int rounds = waiting / EXECD_SCRATCH + 1; rounds > 0 && read_pipe(p);)
            rounds--;
    }
}

void journal_say(struct journal *j, const char *format, ...) {
    char line[LINE_MAX_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    log_warning("%s", line);
    if (!j->ring)
        return;
    size_t len = strlen(line);
    line[len++] = '\n';
    (void)handoff_log_append(&j->log, line, len); // as above
}

void journal_close(struct journal *j) {
    for (struct list *node; (node = list_pop(&j->pipes));)
        end_pipe(LIST_ENTRY(node, struct journal_pipe, node));
}
