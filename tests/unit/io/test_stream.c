// Streams over any pollable descriptor, and connecting.
#include <arpa/inet.h>
#include <netinet/in.h>

#include "io/stream.h"
#include "io_test.h"

struct peer {
    struct loop *loop;
    char text[256];
    size_t len;
    ssize_t last;
    int error;
    unsigned calls, events;
    bool close_inside;
};

static void read_ready(struct stream *s, unsigned events, void *arg) {
    struct peer *p = arg;
    p->calls++;
    p->events |= events;
    p->last = stream_read(s, p->text + p->len, 1); // a byte each: the rest is told again
    p->error = p->last < 0 ? errno : 0;
    if (p->last > 0)
        p->len += (size_t)p->last;
    if (p->close_inside)
        stream_close(s);
    else if (p->last <= 0)
        stream_want(s, 0);
}

static void reading_goes_on_while_there_is_something(void **state) {
    struct loop *l = *state;
    struct peer p = {.last = 1};
    int fds[2];
    pair(fds);
    struct stream *s = stream_open(l, fds[0], read_ready, &p);
    assert_non_null(s);
    assert_true(fcntl(stream_fd(s), F_GETFL) & O_NONBLOCK);
    assert_int_equal(write(fds[1], "hello", 5), 5);
    loop_step(l);
    assert_int_equal(p.calls, 0); // nothing was asked for
    stream_want(s, STREAM_READABLE);
    UNTIL(l, p.len == 5);
    assert_memory_equal(p.text, "hello", 5);
    close(fds[1]);
    UNTIL(l, p.last == 0);
    stream_close(s);
    stream_close(NULL);
}

static void a_stream_closes_inside_its_callback(void **state) {
    struct loop *l = *state;
    struct peer p = {.close_inside = true};
    int fds[2];
    pair(fds);
    struct stream *s = stream_open(l, fds[0], read_ready, &p);
    stream_want(s, STREAM_READABLE | STREAM_WRITABLE);
    UNTIL(l, p.calls);
    loop_step(l);
    assert_int_equal(p.calls, 1);
    assert_int_equal(read(fds[1], p.text, 1), 0); // closed at once
    close(fds[1]);
}

static void a_closed_descriptor_may_be_used_again_at_once(void **state) {
    struct loop *l = *state;
    struct peer p = {0}, q = {0};
    int fds[2], more[2];
    pair(fds);
    struct stream *s = stream_open(l, fds[0], read_ready, &p);
    stream_want(s, STREAM_READABLE);
    loop_step(l);
    stream_close(s);
    pair(more);
    assert_int_equal(more[0], fds[0]);
    s = stream_open(l, more[0], read_ready, &q);
    stream_want(s, STREAM_READABLE);
    assert_int_equal(write(more[1], "x", 1), 1);
    UNTIL(l, q.len == 1);
    assert_int_equal(p.calls, 0);
    stream_close(s);
    close(fds[1]);
    close(more[1]);
}

struct attempt {
    struct stream *stream;
    struct error error;
    unsigned calls;
};

static void connected(struct stream *s, const struct error *err, void *arg) {
    struct attempt *a = arg;
    a->calls++;
    a->stream = s;
    if (err)
        a->error = *err;
    assert_true(!s == !!err);
}

static unsigned port_of(int fd) {
    struct sockaddr_in at;
    socklen_t size = sizeof at;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    return ntohs(at.sin_port);
}

static void connecting_reaches_a_listener(void **state) {
    struct loop *l = *state;
    struct error err;
    struct attempt a = {0};
    int fd = listen_tcp("127.0.0.1", 0, 8, &err);
    assert_true(fd >= 0);
    stream_connect_tcp(l, "127.0.0.1", port_of(fd), 10000, connected, &a);
    assert_int_equal(a.calls, 0);
    UNTIL(l, a.calls);
    assert_non_null(a.stream);
    struct peer p = {0};
    int other = accept(fd, NULL, NULL);
    stream_set_owner(a.stream, read_ready, &p); // the new owner gets the events
    stream_want(a.stream, STREAM_READABLE);
    assert_int_equal(write(other, "y", 1), 1);
    UNTIL(l, p.len == 1);
    stream_close(a.stream);
    close(other);
    close(fd);
}

static void a_refused_connection_is_told_with_its_errno(void **state) {
    struct loop *l = *state;
    struct error err;
    struct attempt a = {0}, b = {0};
    int fd = listen_tcp("127.0.0.1", 0, 8, &err);
    unsigned port = port_of(fd);
    close(fd);
    stream_connect_tcp(l, "127.0.0.1", port, 10000, connected, &a);
    stream_connect_tcp(l, "localhost", port, 10000, connected, &b); // no name resolution here
    assert_int_equal(b.calls, 0);                                   // not inside the call
    UNTIL(l, a.calls && b.calls);
    assert_int_equal(a.error.kind, ECONNREFUSED);
    assert_int_equal(b.error.kind, EINVAL);
}

static void a_connection_that_hangs_times_out(void **state) {
    struct loop *l = *state;
    struct error err;
    struct attempt a[4] = {0};
    int fd = listen_tcp("127.0.0.1", 0, 0, &err); // backlog of one: the next SYNs are dropped
    for (int i = 0; i < 4; i++)
        stream_connect_tcp(l, "127.0.0.1", port_of(fd), 50, connected, &a[i]);
    UNTIL(l, a[0].calls && a[1].calls && a[2].calls && a[3].calls);
    assert_int_equal(a[3].error.kind, ETIMEDOUT);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(a[i].calls, 1);
        stream_close(a[i].stream);
    }
    close(fd);
}

// A reset arrives behind data: the data is read first, then the error, and no event is lost.
static void a_reset_is_seen_behind_the_data(void **state) {
    struct loop *l = *state;
    struct error err;
    struct attempt a = {0};
    struct peer p = {.last = 1};
    int fd = listen_tcp("127.0.0.1", 0, 8, &err);
    stream_connect_tcp(l, "127.0.0.1", port_of(fd), 10000, connected, &a);
    UNTIL(l, a.calls);
    int other = accept(fd, NULL, NULL);
    const struct linger hard = {.l_onoff = 1};
    assert_int_equal(write(other, "last", 4), 4);
    assert_int_equal(setsockopt(other, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    close(other); // sends RST
    stream_set_owner(a.stream, read_ready, &p);
    stream_want(a.stream, STREAM_READABLE);
    UNTIL(l, p.last <= 0);
    assert_int_equal(p.last, -1);
    assert_int_equal(p.error, ECONNRESET);
    stream_close(a.stream);
    close(fd);
}

static void write_ready(struct stream *s, unsigned events, void *arg) {
    struct peer *p = arg;
    p->events |= events;
    stream_want(s, 0);
}

static void a_full_peer_refuses_and_tells_when_there_is_room(void **state) {
    static char block[65536];
    struct loop *l = *state;
    struct peer p = {0};
    int fds[2];
    pair(fds);
    struct stream *s = stream_open(l, fds[0], write_ready, &p);
    struct iovec two[2] = {{block, sizeof block}, {block, sizeof block}};
    while (stream_writev(s, two, 2) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
    stream_want(s, STREAM_WRITABLE);
    loop_step(l);
    assert_int_equal(p.events, 0);
    assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
    while (read(fds[1], block, sizeof block) > 0)
        ;
    UNTIL(l, p.events);
    assert_int_equal(p.events, STREAM_WRITABLE);
    assert_int_equal(stream_shutdown(s), 0);
    assert_int_equal(read(fds[1], block, 1), 0);
    close(fds[1]);
    assert_int_equal(stream_write(s, "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    stream_close(s);
}

static void pipes_have_no_shutdown(void **state) {
    struct loop *l = *state;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct stream *s = stream_open(l, fds[1], NULL, NULL);
    assert_int_equal(stream_shutdown(s), 0);
    stream_close(s);
    close(fds[0]);
}

static void what_cannot_be_polled_is_refused(void **state) {
    struct loop *l = *state;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_null(stream_open(l, fd, NULL, NULL));
    assert_int_equal(errno, EPERM);
    assert_int_equal(fcntl(fd, F_GETFD), -1); // taken also then
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(reading_goes_on_while_there_is_something),
        LOOP_TEST(a_stream_closes_inside_its_callback),
        LOOP_TEST(a_closed_descriptor_may_be_used_again_at_once),
        LOOP_TEST(connecting_reaches_a_listener),
        LOOP_TEST(a_refused_connection_is_told_with_its_errno),
        LOOP_TEST(a_connection_that_hangs_times_out),
        LOOP_TEST(a_reset_is_seen_behind_the_data),
        LOOP_TEST(a_full_peer_refuses_and_tells_when_there_is_room),
        LOOP_TEST(pipes_have_no_shutdown),
        LOOP_TEST(what_cannot_be_polled_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
