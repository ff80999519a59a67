#include "io/splice.h"

#include <errno.h>
#include <fcntl.h>

#include "base/cleanup.h"

// What may be held, and the size of the pipe. A pipe counts pieces, each as one page though it may
// be longer, so that the one does not bound the other.
enum { HELD_MAX = 1 << 20 };

struct splice {
    int in, out; // of the pipe
    size_t held;
};

struct splice *splice_new(void) {
    struct splice *s = calloc(1, sizeof *s);
    int fds[2];
    if (!s || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        free(s);
        return NULL;
    }
    (void)fcntl(fds[1], F_SETPIPE_SZ, HELD_MAX); // slower without, where a user has many pipes
    *s = (struct splice){.in = fds[1], .out = fds[0]};
    return s;
}

void splice_free(struct splice *s) {
    if (!s)
        return;
    (void)close(s->in);
    (void)close(s->out);
    free(s);
}

static ssize_t move(int from, int to, size_t max) {
    ssize_t n;
    do
        n = splice(from, NULL, to, NULL, max, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (n < 0 && errno == EINTR);
    return n;
}

ssize_t splice_take(struct splice *s, struct stream *from, uint64_t max) {
    if (s->held >= HELD_MAX) { // pieces can be larger than the pages that a pipe is counted in
        errno = EAGAIN;
        return -1;
    }
    size_t room = HELD_MAX - s->held;
    ssize_t n = move(stream_fd(from), s->in, max < room ? max : room);
    if (n > 0)
        s->held += (size_t)n;
    return n;
}

int splice_give(struct splice *s, struct stream *to) {
    while (s->held) {
        ssize_t n = move(s->out, stream_fd(to), s->held);
        if (n <= 0)
            return n < 0 && errno == EAGAIN ? 0 : -1;
        s->held -= (size_t)n;
    }
    return 0;
}

size_t splice_held(const struct splice *s) {
    return s->held;
}
