// Bytes through a pipe from one stream to another.
#include "io/splice.h"
#include "io_test.h"

struct way { // two streams, and the ends that the test plays
    struct stream *from, *to;
    int in, out;
    struct splice *splice;
};

static struct way way_open(struct loop *l) {
    struct way w;
    int a[2], b[2];
    pair(a);
    pair(b);
    w = (struct way){.in = a[0], .out = b[0], .splice = splice_new()};
    w.from = stream_open(l, a[1], NULL, NULL);
    w.to = stream_open(l, b[1], NULL, NULL);
    assert_non_null(w.from);
    assert_non_null(w.to);
    assert_non_null(w.splice);
    assert_int_equal(fcntl(w.in, F_SETFL, O_NONBLOCK), 0);
    return w;
}

static void way_close(struct way *w) {
    splice_free(w->splice);
    stream_close(w->from);
    stream_close(w->to);
    close(w->in);
    if (w->out >= 0)
        close(w->out);
}

static void takes_and_gives(void **state) {
    struct way w = way_open(*state);
    char got[16] = "";
    errno = 0;
    assert_int_equal(splice_take(w.splice, w.from, 100), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(write(w.in, "hello world", 11), 11);
    assert_int_equal(splice_take(w.splice, w.from, 5), 5); // no more than asked for
    assert_int_equal(splice_held(w.splice), 5);
    assert_int_equal(splice_take(w.splice, w.from, 100), 6);
    assert_int_equal(splice_held(w.splice), 11);
    assert_int_equal(splice_give(w.splice, w.to), 0);
    assert_int_equal(splice_held(w.splice), 0);
    assert_int_equal(read(w.out, got, sizeof got), 11);
    assert_string_equal(got, "hello world");
    assert_int_equal(splice_give(w.splice, w.to), 0); // nothing waits
    way_close(&w);
}

static void end_of_input(void **state) {
    struct way w = way_open(*state);
    assert_int_equal(shutdown(w.in, SHUT_WR), 0);
    assert_int_equal(splice_take(w.splice, w.from, 100), 0);
    way_close(&w);
}

static void receiver_is_slow(void **state) {
    struct way w = way_open(*state);
    static char piece[64 * 1024];
    ssize_t n;
    size_t sent = 0, got = 0;
    do { // until the receiver's socket and then the pipe are full
        n = write(w.in, piece, sizeof piece);
        sent += n > 0 ? (size_t)n : 0;
        n = splice_take(w.splice, w.from, sizeof piece);
        assert_int_equal(splice_give(w.splice, w.to), 0);
    } while (n > 0);
    assert_int_equal(errno, EAGAIN);
    assert_in_range(splice_held(w.splice), 1, 4 << 20);
    assert_int_equal(fcntl(w.out, F_SETFL, O_NONBLOCK), 0);
    while (got < sent) {
        n = read(w.out, piece, sizeof piece);
        assert_true(n > 0 || (n < 0 && errno == EAGAIN));
        got += n > 0 ? (size_t)n : 0;
        assert_int_equal(splice_give(w.splice, w.to), 0);
        n = splice_take(w.splice, w.from, sizeof piece);
        assert_true(n > 0 || errno == EAGAIN);
    }
    assert_int_equal(got, sent);
    assert_int_equal(splice_held(w.splice), 0);
    way_close(&w);
}

static void receiver_is_gone(void **state) {
    struct way w = way_open(*state);
    close(w.out);
    w.out = -1;
    assert_int_equal(write(w.in, "x", 1), 1);
    assert_int_equal(splice_take(w.splice, w.from, 100), 1);
    assert_int_equal(splice_give(w.splice, w.to), -1);
    assert_int_equal(errno, EPIPE);
    way_close(&w); // with the byte that waits
    splice_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(takes_and_gives),
        LOOP_TEST(end_of_input),
        LOOP_TEST(receiver_is_slow),
        LOOP_TEST(receiver_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
