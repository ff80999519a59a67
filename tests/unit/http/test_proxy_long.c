// Long request bodies with a length: most of them go from socket to socket, and nobody may notice.
#include <dirent.h>
#include <sys/resource.h>

#include "proxy_test.h"

#define OPEN(...)                                                                                  \
    struct rig r = {__VA_ARGS__};                                                                  \
    rig_open(&r, *state)

enum { LONG = (4 << 20) + 12345 };

static char *long_body(void) {
    char *body = malloc(LONG);
    assert_non_null(body);
    for (size_t i = 0; i < LONG; i++)
        body[i] = byte_at(i);
    return body;
}

static void ask(struct rig *r, unsigned peer_at) {
    char text[128];
    (void)snprintf(text, sizeof text, "POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n",
                   LONG);
    say(r->client, text);
    expect(r, peer(r, peer_at), text);
}

// Sends what the socket takes; a turn of the loop. Returns how much is sent by now.
static size_t push(struct rig *r, const char *body, size_t at, size_t most) {
    ssize_t n = at < most ? write(r->client, body + at, most - at) : 0;
    assert_true(n >= 0 || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
    loop_step(r->l);
    return n > 0 ? at + (size_t)n : at;
}

// Sends the body from `at` on while `fd` reads it, from `got` on.
static void carry(struct rig *r, int fd, const char *body, size_t at, size_t got) {
    static char piece[64 * 1024];
    while (got < LONG) {
        at = push(r, body, at, LONG);
        ssize_t n = read(fd, piece, sizeof piece);
        assert_true(n > 0 || (n < 0 && errno == EAGAIN));
        if (n <= 0)
            continue;
        assert_true(got + (size_t)n <= LONG);
        assert_memory_equal(piece, body + got, (size_t)n);
        got += (size_t)n;
    }
    assert_int_equal(at, LONG);
}

static void answer(struct rig *r, unsigned i) {
    say(r->peers[i], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    begins(head(r, r->client), "HTTP/1.1 200 OK\r\n");
    expect(r, r->client, "ok");
}

static size_t descriptors(void) {
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void arrives_whole_and_connections_go_on(void **state) {
    OPEN(0);
    cleanup_free char *body = long_body();
    round_trip(&r, 0);
    size_t before = descriptors();
    for (int i = 0; i < 3; i++) {
        ask(&r, 0);
        carry(&r, r.peers[0], body, 0, 0);
        silent(&r, r.peers[0]);
        answer(&r, 0);
        round_trip(&r, 0);
    }
    assert_int_equal(descriptors(), before);
    assert_int_equal(r.dials, 1);
    rig_close(&r);
}

static void next_request_behind_it(void **state) {
    OPEN(0);
    cleanup_free char *body = long_body();
    ask(&r, 0);
    carry(&r, r.peers[0], body, 0, 0);
    say(r.client, "GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
    silent(&r, r.peers[0]);
    answer(&r, 0);
    expect(&r, r.peers[0], "GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
    rig_close(&r);
}

// What is under way is bounded by the sockets and one pipe, however long the upstream sleeps.
static void slow_upstream_holds_the_client(void **state) {
    OPEN(.buffer = 32 * 1024);
    cleanup_free char *body = long_body();
    ask(&r, 0);
    size_t at = 0, before = descriptors();
    for (size_t last = 1, still = 0; still < 50; still = at == last ? still + 1 : 0) {
        last = at;
        at = push(&r, body, at, LONG);
    }
    assert_in_range(at, 64 * 1024, 2 << 20);
    assert_int_equal(descriptors(), before + 2); // the pipe: these tests test what they say
    carry(&r, r.peers[0], body, at, 0);
    answer(&r, 0);
    rig_close(&r);
}

static void one_piece_at_a_time(void **state) {
    OPEN(0);
    cleanup_free char *body = long_body();
    static char piece[4096];
    ask(&r, 0);
    for (size_t got = 0, at = 0; got < LONG;) {
        size_t more = LONG - at < sizeof piece ? LONG - at : sizeof piece;
        at = push(&r, body, at, at + more);
        for (ssize_t n; (n = read(r.peers[0], piece, sizeof piece)) > 0; got += (size_t)n)
            assert_memory_equal(piece, body + got, (size_t)n);
    }
    answer(&r, 0);
    rig_close(&r);
}

static void early_answer_reaches_the_client(void **state) {
    OPEN(0);
    cleanup_free char *body = long_body();
    ask(&r, 0);
    size_t at = push(&r, body, 0, LONG);
    say(r.peers[0], "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
    hang_up(&r, 0);
    for (int i = 0; i < 20; i++)
        at = push(&r, body, at, LONG);
    begins(head(&r, r.client), "HTTP/1.1 413 ");
    expect(&r, r.client, "big");
    assert_int_equal(r.over, 1);
    rig_close(&r);
}

static void client_that_leaves(void **state) {
    OPEN(0);
    cleanup_free char *body = long_body();
    size_t before = descriptors();
    ask(&r, 0);
    (void)push(&r, body, 0, 1 << 20);
    close(r.client);
    r.client = -1;
    UNTIL(r.l, r.over == 1);
    char piece[4096];
    ssize_t n;
    while ((n = read(r.peers[0], piece, sizeof piece)) != 0)
        assert_true(n > 0 || errno == EAGAIN || errno == ECONNRESET);
    hang_up(&r, 0);
    loop_step(r.l);
    assert_int_equal(descriptors(), before - 2); // the client's two ends
    rig_close(&r);
}

static void body_cut_short(void **state) {
    OPEN(0);
    cleanup_free char *body = long_body();
    ask(&r, 0);
    for (size_t at = 0; at < 1 << 20;) {
        at = push(&r, body, at, 1 << 20);
        char piece[64 * 1024];
        while (read(r.peers[0], piece, sizeof piece) > 0) {
        }
    }
    assert_int_equal(shutdown(r.client, SHUT_WR), 0);
    begins(head(&r, r.client), "HTTP/1.1 400 ");
    UNTIL(r.l, r.over == 1);
    rig_close(&r);
}

// Without a pipe the bytes take the ordinary way.
static void no_descriptors_left(void **state) {
    OPEN(0);
    cleanup_free char *body = long_body();
    struct rlimit was, none;
    ask(&r, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    carry(&r, r.peers[0], body, 0, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    answer(&r, 0);
    rig_close(&r);
}

static void answer_may_wait_for_the_last_byte(void **state) {
    OPEN(.policy = {.first_byte_ms = 300});
    cleanup_free char *body = long_body();
    ask(&r, 0);
    char piece[64 * 1024];
    int64_t begin = clock_boot_ms(), since;
    size_t at = 0;
    while ((since = clock_boot_ms() - begin) < 900) { // a trickle of 64 KB a second
        at = push(&r, body, at, (size_t)since * 64);
        while (read(r.peers[0], piece, sizeof piece) > 0) {
        }
    }
    pass_time(&r, 400); // the client has all the time it wants
    assert_int_equal(r.over, 0);
    while (at < LONG) {
        at = push(&r, body, at, LONG);
        while (read(r.peers[0], piece, sizeof piece) > 0) {
        }
    }
    begins(head(&r, r.client), "HTTP/1.1 504 "); // the upstream has not
    rig_close(&r);
}

#define POST_10 "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"

static void a_client_may_pause_in_its_body(void **state) {
    OPEN(.patience_ms = 20, .policy = {.first_byte_ms = 20});
    say(r.client, POST_10 "01234");
    (void)head(&r, peer(&r, 0));
    expect(&r, r.peers[0], "01234");
    pass_time(&r, 60);
    say(r.client, "56789");
    expect(&r, r.peers[0], "56789");
    answer(&r, 0);
    // Not when its exchange is over.
    say(r.client, POST_10 "01234");
    (void)head(&r, r.peers[0]);
    expect(&r, r.peers[0], "01234");
    answer(&r, 0);
    closed(&r, r.client);
    rig_close(&r);
}

static size_t write_some(int fd, const char *data, size_t len) {
    ssize_t n = len ? write(fd, data, len) : 0;
    assert_true(n >= 0 || errno == EAGAIN);
    return n > 0 ? (size_t)n : 0;
}

// An answer of `len` bytes, whose client takes the first one when nothing moves any more.
static void answer_late(struct rig *r, size_t len) {
    cleanup_free char *body = long_body();
    char text[64 * 1024];
    size_t given = 0;
    say(r->client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    (void)head(r, peer(r, 0));
    (void)snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", len);
    say(r->peers[0], text);
    for (int i = 0; i < 100; i++) {
        given += write_some(r->peers[0], body + given, len - given);
        loop_step(r->l);
    }
    pass_time(r, 60);
    assert_int_equal(given == len, len < LONG);
    (void)head(r, r->client);
    for (size_t at = 0; at < len; loop_step(r->l)) {
        given += write_some(r->peers[0], body + given, len - given);
        ssize_t n = read(r->client, text, sizeof text);
        assert_true(n > 0 || (n < 0 && errno == EAGAIN));
        if (n > 0) {
            assert_memory_equal(text, body + at, (size_t)n);
            at += (size_t)n;
        }
    }
}

static void a_client_may_pause_in_its_reply(void **state) {
    OPEN(.patience_ms = 20);
    answer_late(&r, LONG);
    answer_late(&r, 300000); // waits in our queue when the upstream has long done its part
    round_trip(&r, 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(arrives_whole_and_connections_go_on),
        LOOP_TEST(next_request_behind_it),
        LOOP_TEST(slow_upstream_holds_the_client),
        LOOP_TEST(one_piece_at_a_time),
        LOOP_TEST(early_answer_reaches_the_client),
        LOOP_TEST(client_that_leaves),
        LOOP_TEST(body_cut_short),
        LOOP_TEST(no_descriptors_left),
        LOOP_TEST(answer_may_wait_for_the_last_byte),
        LOOP_TEST(a_client_may_pause_in_its_body),
        LOOP_TEST(a_client_may_pause_in_its_reply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
