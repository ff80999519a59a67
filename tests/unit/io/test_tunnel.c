// Tunnels between two streams; the outer ends are played by the tests.
#include "io/tunnel.h"
#include "io_test.h"

enum { BUFFER = 64 * 1024 };

struct both { // a tunnel and the two ends that talk through it
    struct tunnel *tunnel;
    int a, b;
    unsigned calls;
    uint64_t a_to_b, b_to_a;
    enum tunnel_end end;
    struct loop *loop;
};

static void over(void *arg, uint64_t a_to_b, uint64_t b_to_a, enum tunnel_end end) {
    struct both *t = arg;
    t->calls++;
    t->a_to_b = a_to_b;
    t->b_to_a = b_to_a;
    t->end = end;
}

static void begin(struct loop *l, struct both *t, const char *early_a, const char *early_b,
                  int64_t idle_ms) {
    int a[2], b[2];
    pair(a);
    pair(b);
    *t = (struct both){.a = a[0], .b = b[0], .loop = l};
    assert_int_equal(fcntl(a[0], F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(fcntl(b[0], F_SETFL, O_NONBLOCK), 0);
    t->tunnel =
        tunnel_start(l, stream_open(l, a[1], NULL, NULL), stream_open(l, b[1], NULL, NULL), early_a,
                     strlen(early_a), early_b, strlen(early_b), BUFFER, idle_ms, over, t);
    assert_non_null(t->tunnel);
    assert_int_equal(t->calls, 0);
}

static void end(struct both *t) {
    close(t->a);
    close(t->b);
}

// The next bytes at `fd`, exactly; the loop turns meanwhile.
static void expect(struct both *t, int fd, const char *text) {
    char got[64];
    size_t n = 0, len = strlen(text);
    assert_true(len <= sizeof got);
    while (n < len) {
        ssize_t r = read(fd, got + n, len - n);
        assert_true(r > 0 || (r < 0 && errno == EAGAIN));
        n += r > 0 ? (size_t)r : 0;
        loop_step(t->loop);
    }
    assert_memory_equal(got, text, len);
}

static bool ended(int fd) {
    char c;
    return read(fd, &c, 1) == 0;
}

static void say(int fd, const char *text) {
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void bytes_pass_both_ways(void **state) {
    struct both t;
    begin(*state, &t, "", "", 0);
    say(t.a, "ping");
    expect(&t, t.b, "ping");
    say(t.b, "pong");
    expect(&t, t.a, "pong");
    close(t.a);
    UNTIL(t.loop, ended(t.b));
    assert_int_equal(t.calls, 0); // the other direction lives
    close(t.b);
    UNTIL(t.loop, t.calls);
    assert_int_equal(t.end, TUNNEL_EOF);
    assert_int_equal(t.a_to_b, 4);
    assert_int_equal(t.b_to_a, 4);
}

static void early_bytes_go_first(void **state) {
    struct both t;
    begin(*state, &t, "early a ", "early b ", 0);
    say(t.a, "late");
    say(t.b, "late");
    expect(&t, t.b, "early a late");
    expect(&t, t.a, "early b late");
    end(&t);
    UNTIL(t.loop, t.calls);
    assert_int_equal(t.a_to_b, 12);
}

static void half_close_is_kept(void **state) {
    struct both t;
    begin(*state, &t, "", "", 0);
    say(t.a, "question");
    assert_int_equal(shutdown(t.a, SHUT_WR), 0);
    expect(&t, t.b, "question");
    UNTIL(t.loop, ended(t.b));
    for (int i = 0; i < 3; i++) {
        say(t.b, "answer");
        expect(&t, t.a, "answer");
    }
    assert_int_equal(t.calls, 0);
    assert_int_equal(shutdown(t.b, SHUT_WR), 0);
    UNTIL(t.loop, ended(t.a));
    assert_int_equal(t.calls, 1);
    assert_int_equal(t.end, TUNNEL_EOF);
    assert_int_equal(t.b_to_a, 18);
    end(&t);
}

static void both_close_at_once(void **state) {
    struct both t;
    begin(*state, &t, "", "", 0);
    end(&t);
    UNTIL(t.loop, t.calls);
    assert_int_equal(t.calls, 1);
}

// What the receiver said before it went is not lost by our writing into its closed door.
static void the_last_words_of_a_gone_peer_arrive(void **state) {
    struct both t;
    begin(*state, &t, "", "", 0);
    loop_step(t.loop);
    say(t.b, "last words");
    say(t.a, "nobody reads this");
    close(t.b);
    UNTIL(t.loop, t.calls);
    char got[16];
    assert_int_equal(read(t.a, got, sizeof got), 10);
    assert_memory_equal(got, "last words", 10);
    assert_int_equal(t.b_to_a, 10);
    close(t.a);
}

// 100 MiB to a reader that takes little at a time: all of it arrives, and never more than the
// buffers waits inside.
static void a_slow_reader_holds_the_sender_back(void **state) {
    enum { PIECE = 256 * 1024 };
    static unsigned char out[PIECE], in[PIECE];
    const uint64_t total = UINT64_C(100) << 20;
    struct both t;
    uint64_t sent = 0, got = 0, ahead = 0;
    begin(*state, &t, "", "", 0);
    for (size_t i = 0; i < PIECE; i++)
        out[i] = (unsigned char)(i * 7 + i / 256);
    for (int i = 0; i < 200; i++) { // nobody reads
        ssize_t n = write(t.a, out + sent % PIECE, PIECE - sent % PIECE);
        sent += n > 0 ? (uint64_t)n : 0;
        loop_step(t.loop);
    }
    assert_true(sent < 4u << 20); // two sockets and one buffer
    while (got < total) {
        size_t at = sent % PIECE, len = PIECE - at;
        if (sent < total) {
            ssize_t n = write(t.a, out + at, len < total - sent ? len : total - sent);
            sent += n > 0 ? (uint64_t)n : 0;
        }
        loop_step(t.loop);
        at = got % PIECE;
        ssize_t n = read(t.b, in, PIECE - at);
        if (n > 0)
            assert_memory_equal(in, out + at, (size_t)n);
        got += n > 0 ? (uint64_t)n : 0;
        ahead = sent - got > ahead ? sent - got : ahead;
    }
    assert_true(ahead < 4u << 20);
    end(&t);
    UNTIL(t.loop, t.calls);
    assert_int_equal(t.a_to_b, total);
}

static void a_silent_tunnel_ends(void **state) {
    struct both t;
    begin(*state, &t, "", "", 30);
    say(t.a, "x");
    expect(&t, t.b, "x");
    UNTIL(t.loop, t.calls);
    assert_int_equal(t.end, TUNNEL_IDLE);
    assert_true(ended(t.a) && ended(t.b));
    end(&t);
}

static void abort_before_and_after_the_first_turn(void **state) {
    struct both t;
    begin(*state, &t, "never sent", "", 1000);
    tunnel_abort(t.tunnel);
    assert_int_equal(t.calls, 1);
    assert_true(ended(t.b));
    end(&t);
    begin(*state, &t, "", "", 1000);
    loop_step(t.loop);
    tunnel_abort(t.tunnel);
    assert_int_equal(t.calls, 1);
    end(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(bytes_pass_both_ways),
        LOOP_TEST(early_bytes_go_first),
        LOOP_TEST(half_close_is_kept),
        LOOP_TEST(both_close_at_once),
        LOOP_TEST(the_last_words_of_a_gone_peer_arrive),
        LOOP_TEST(a_slow_reader_holds_the_sender_back),
        LOOP_TEST(a_silent_tunnel_ends),
        LOOP_TEST(abort_before_and_after_the_first_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
