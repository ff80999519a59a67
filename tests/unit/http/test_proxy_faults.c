// Peers that are slow, silent, broken or gone.
#include "proxy_test.h"

#define GET "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
#define OPEN(...)                                                                                  \
    struct rig r = {__VA_ARGS__};                                                                  \
    rig_open(&r, *state)

// An answer of ours with this status and code.
static void refused(struct rig *r, int client, const char *status, const char *code) {
    char text[256], body[512];
    const char *h = head(r, client);
    begins(h, status);
    const char *length = strstr(h, "Content-Length: ");
    assert_non_null(length);
    size_t n = 0;
    for (length += 16; *length >= '0' && *length <= '9'; length++)
        n = n * 10 + (size_t)(*length - '0');
    assert_true(n < sizeof body);
    take(r, client, body, n);
    body[n] = 0;
    (void)snprintf(text, sizeof text, "{\"code\":\"%s\",\"message\":\"", code);
    begins(body, text);
    has_not(body, "10.0.0.1"); // no internal address
}

static void upstream_down(void **state) {
    OPEN(.refuse = ECONNREFUSED);
    say(r.client, GET);
    refused(&r, r.client, "HTTP/1.1 502 ", "CONNECT");
    r.refuse = ETIMEDOUT;
    say(r.client, GET);
    refused(&r, r.client, "HTTP/1.1 504 ", "TIME_OUT");
    r.refuse = 0;
    round_trip(&r, 0); // the client's connection lived through it
    rig_close(&r);
}

static void a_dial_may_decide_the_answer(void **state) {
    OPEN(.hold = true);
    struct error err;
    say(r.client, GET);
    UNTIL(r.l, r.dials == 1);
    (void)error_api(&err, 409, "NOT_RUNNING", "it ended");
    http_dial_done(r.held[0], -1, &err);
    refused(&r, r.client, "HTTP/1.1 409 ", "NOT_RUNNING");
    rig_close(&r);
}

static void fin_only(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    assert_int_equal(shutdown(r.peers[0], SHUT_WR), 0);
    refused(&r, r.client, "HTTP/1.1 502 ", "RESPONSE");
    assert_int_equal(r.dials, 1); // a new connection is not asked again
    rig_close(&r);
}

static void half_a_head(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Len");
    hang_up(&r, 0);
    refused(&r, r.client, "HTTP/1.1 502 ", "RESPONSE");
    rig_close(&r);
}

static void one_byte_at_a_time(void **state) {
    OPEN(0);
    static const char q[] = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    static const char a[] =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n";
    for (const char *c = q; *c; c++) {
        assert_int_equal(write(r.client, c, 1), 1);
        loop_step(r.l);
    }
    expect(&r, peer(&r, 0), q);
    for (const char *c = a; *c; c++) {
        assert_int_equal(write(r.peers[0], c, 1), 1);
        loop_step(r.l);
        loop_step(r.l);
    }
    (void)head(&r, r.client);
    char body[64] = "";
    take(&r, r.client, body, 23);
    assert_string_equal(body, "1\r\nx\r\n1\r\ny\r\n1\r\nz\r\n0\r\n\r\n");
    round_trip(&r, 0);
    rig_close(&r);
}

static void malformed(struct loop *l, const char *answer) {
    struct rig r = {0};
    rig_open(&r, l);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], answer);
    refused(&r, r.client, "HTTP/1.1 502 ", "RESPONSE");
    closed(&r, r.peers[0]);
    rig_close(&r);
}

static void invalid_transfer_encoding(void **state) {
    malformed(*state, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n");
    malformed(*state, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n");
    malformed(*state, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n");
    malformed(*state, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n");
}

static void multiline_header(void **state) {
    malformed(*state, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: b\r\n c\r\n\r\n");
}

static void broken_response_head(void **state) {
    malformed(*state, "SSH-2.0-OpenSSH\r\n");
    malformed(*state, "HTTP/2.0 200 OK\r\n\r\n");
    malformed(*state, "HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n");
    malformed(*state,
              "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
}

static void endless_heads(void **state) { // of hostile upstreams: both are bounded
    static const char *const endless[] = {"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n", "A: b\r\n"};
    for (size_t i = 0; i < ARRAY_SIZE(endless); i++) {
        OPEN(0);
        char text[32 * 64 + 1] = "";
        for (size_t n = 0, len = strlen(endless[i]); n + len < sizeof text; n += len)
            memcpy(text + n, endless[i], len + 1);
        say(r.client, GET);
        (void)head(&r, peer(&r, 0));
        if (i)
            say(r.peers[0], "HTTP/1.1 200 OK\r\n");
        while (poll(&(struct pollfd){.fd = r.client, .events = POLLIN}, 1, 0) == 0) {
            (void)!write(r.peers[0], text, strlen(text)); // until it is cut off
            loop_step(r.l);
        }
        refused(&r, r.client, "HTTP/1.1 502 ", "RESPONSE");
        rig_close(&r);
    }
}

static void truncated(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    (void)head(&r, r.client);
    expect(&r, r.client, "half");
    hang_up(&r, 0);
    closed(&r, r.client);
    assert_int_equal(r.over, 1);
    rig_close(&r);
}

static void truncated_chunked(void **state) {
    static const char *const tails[] = {"", "5\r\nhe", "5\r\nhello\r\n", "0\r\n", "zz\r\n"};
    for (size_t i = 0; i < ARRAY_SIZE(tails); i++) {
        OPEN(0);
        char got[256];
        say(r.client, GET);
        (void)head(&r, peer(&r, 0));
        say(r.peers[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        loop_step(r.l);
        say(r.peers[0], tails[i]);
        hang_up(&r, 0);
        (void)head(&r, r.client);
        size_t n = 0;
        ssize_t more;
        do {
            UNTIL(r.l, poll(&(struct pollfd){.fd = r.client, .events = POLLIN}, 1, 0) == 1);
            more = read(r.client, got + n, sizeof got - 1 - n);
            n += more > 0 ? (size_t)more : 0;
        } while (more > 0);
        got[n] = 0;
        begins(got, "4\r\nhalf\r\n");
        has_not(got, "0\r\n\r\n"); // never a clean end
        rig_close(&r);
    }
}

static void chunk_timeout(void **state) { // a silent stream is no failure: event streams are silent
    OPEN(.policy = {.first_byte_ms = 10, .connect_ms = 10});
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe");
    (void)head(&r, r.client);
    expect(&r, r.client, "2\r\nhe\r\n");
    int64_t until = clock_boot_ms() + 30;
    UNTIL(r.l, clock_boot_ms() > until);
    silent(&r, r.client);
    say(r.peers[0], "llo\r\n0\r\n\r\n");
    expect(&r, r.client, "3\r\nllo\r\n0\r\n\r\n");
    rig_close(&r);
}

static void connect_time_out(void **state) {
    OPEN(.hold = true, .policy = {.connect_ms = 10});
    say(r.client, GET);
    refused(&r, r.client, "HTTP/1.1 504 ", "TIME_OUT");
    r.hold = false;
    rig_connect(&r, r.held[0]); // late, and not for nothing
    round_trip(&r, 0);
    assert_int_equal(r.dials, 1);
    rig_close(&r);
}

static void first_byte_time_out(void **state) {
    OPEN(.policy = {.first_byte_ms = 10});
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2"); // half a head is no answer
    refused(&r, r.client, "HTTP/1.1 504 ", "TIME_OUT");
    closed(&r, r.peers[0]);
    rig_close(&r);
}

static void a_slow_upload_is_no_late_answer(void **state) {
    OPEN(.policy = {.first_byte_ms = 200});
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
    (void)head(&r, peer(&r, 0));
    for (int i = 0; i < 10; i++) {
        int64_t until = clock_boot_ms() + 40;
        UNTIL(r.l, clock_boot_ms() > until);
        say(r.client, "x");
        expect(&r, r.peers[0], "x");
    }
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    begins(head(&r, r.client), "HTTP/1.1 200 ");
    rig_close(&r);
}

static void disconnected_keepalive(void **state) { // asked once more, over a new connection
    OPEN(0);
    round_trip(&r, 0);
    say(r.client, GET);
    expect(&r, r.peers[0], GET);
    hang_up(&r, 0);
    expect(&r, peer(&r, 1), GET);
    say(r.peers[1], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    begins(head(&r, r.client), "HTTP/1.1 200 ");
    expect(&r, r.client, "ok");
    say(r.client, GET);
    expect(&r, r.peers[1], GET);
    hang_up(&r, 1);
    expect(&r, peer(&r, 2), GET);
    hang_up(&r, 2); // and not a third time
    refused(&r, r.client, "HTTP/1.1 502 ", "RESPONSE");
    assert_int_equal(r.dials, 3);
    rig_close(&r);
}

static void disconnected_keepalive_post(void **state) { // may have been carried out already
    OPEN(0);
    static const char *const once[] = {
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    };
    for (unsigned i = 0; i < ARRAY_SIZE(once); i++) {
        round_trip(&r, i);
        say(r.client, once[i]);
        expect(&r, r.peers[i], once[i]);
        hang_up(&r, i);
        refused(&r, r.client, "HTTP/1.1 502 ", "RESPONSE");
        assert_int_equal(r.dials, i + 1);
    }
    rig_close(&r);
}

static void disconnected_keepalive_heard(void **state) { // half an answer is not asked again
    OPEN(0);
    round_trip(&r, 0);
    say(r.client, GET);
    expect(&r, r.peers[0], GET);
    say(r.peers[0], "H");
    hang_up(&r, 0);
    refused(&r, r.client, "HTTP/1.1 502 ", "RESPONSE");
    assert_int_equal(r.dials, 1);
    rig_close(&r);
}

static void a_closed_connection_is_not_taken(void **state) { // seen in the same turn as the request
    OPEN(0);
    static const char q[] = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
    round_trip(&r, 0);
    say(r.client, q);
    hang_up(&r, 0);
    expect(&r, peer(&r, 1), q);
    rig_close(&r);
}

static void unasked_bytes_end_a_connection(void **state) {
    OPEN(0);
    round_trip(&r, 0);
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    closed(&r, r.peers[0]);
    say(r.client, GET);
    expect(&r, peer(&r, 1), GET);
    say(r.peers[1], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    (void)head(&r, r.client);
    expect(&r, r.client, "a");
    silent(&r, r.client);
    closed(&r, r.peers[1]);
    rig_close(&r);
}

static void connection_close_is_kept(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    has_not(head(&r, r.client), "Connection: close"); // it is the upstream's, not ours
    expect(&r, r.client, "ok");
    closed(&r, r.peers[0]);
    round_trip(&r, 1);
    rig_close(&r);
}

static void early_response(void **state) {
    OPEN(0);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nabc");
    (void)head(&r, peer(&r, 0));
    expect(&r, r.peers[0], "abc");
    say(r.peers[0], "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
    begins(head(&r, r.client), "HTTP/1.1 413 ");
    expect(&r, r.client, "big");
    closed(&r, r.peers[0]); // its request is not complete: nothing else may go there
    rig_close(&r);
}

static void early_response_and_gone(void **state) { // it answers and closes while we still send
    OPEN(0);
    char piece[4096];
    memset(piece, 'x', sizeof piece);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    (void)head(&r, peer(&r, 0));
    expect(&r, r.peers[0], "1\r\na\r\n");
    say(r.peers[0], "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    hang_up(&r, 0);
    say(r.client, "2\r\nbc\r\n");
    begins(head(&r, r.client), "HTTP/1.1 403 ");
    expect(&r, r.client, "no");
    rig_close(&r);
}

static void both_bodies_at_once(void **state) {
    OPEN(0);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    begins(head(&r, r.client), "HTTP/1.1 200 ");
    for (int i = 0; i < 3; i++) {
        say(r.client, "4\r\nping\r\n");
        expect(&r, r.peers[0], "4\r\nping\r\n");
        say(r.peers[0], "4\r\npong\r\n");
        expect(&r, r.client, "4\r\npong\r\n");
    }
    say(r.client, "0\r\n\r\n");
    expect(&r, r.peers[0], "0\r\n\r\n");
    say(r.peers[0], "0\r\n\r\n");
    expect(&r, r.client, "0\r\n\r\n");
    round_trip(&r, 0);
    rig_close(&r);
}

// Writes zeros to `fd` until nothing more is taken for some turns; the number of bytes.
static size_t fill(struct rig *r, int fd, size_t limit) {
    static char zeros[64 * 1024];
    size_t n = 0;
    for (int full = 0; full < 50 && n < limit;) {
        size_t want = limit - n < sizeof zeros ? limit - n : sizeof zeros;
        ssize_t done = write(fd, zeros, want);
        if (done > 0) {
            n += (size_t)done;
            full = 0;
        } else {
            full++;
        }
        loop_step(r->l);
    }
    return n;
}

static void drain(struct rig *r, int fd, size_t len) {
    static char data[64 * 1024];
    while (len) {
        size_t n = len < sizeof data ? len : sizeof data;
        take(r, fd, data, n);
        len -= n;
    }
}

enum { MUCH = 16 * 1024 * 1024 };

static void max_buffer_size(void **state) { // a slow client stops the upstream
    OPEN(0);
    char text[128];
    (void)snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", MUCH);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], text);
    size_t n = fill(&r, r.peers[0], MUCH);
    assert_true(n < 2 * 1024 * 1024); // two sockets' buffers and one reply's
    (void)head(&r, r.client);
    drain(&r, r.client, n);
    while (n < MUCH) {
        size_t more = fill(&r, r.peers[0], MUCH - n);
        drain(&r, r.client, more);
        n += more;
    }
    round_trip(&r, 0);
    rig_close(&r);
}

static void slow_client(void **state) { // and one that goes away while it is slow
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\n\r\n");
    assert_true(fill(&r, r.peers[0], MUCH) < MUCH);
    close(r.client);
    r.client = -1;
    UNTIL(r.l, r.over == 1);
    assert_false(http_upstream_in_use(r.upstream));
    rig_close(&r);
}

static void slow_upstream(void **state) { // stops the client
    OPEN(0);
    char text[128];
    (void)snprintf(text, sizeof text, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n",
                   MUCH);
    say(r.client, text);
    (void)head(&r, peer(&r, 0));
    size_t n = fill(&r, r.client, MUCH);
    assert_true(n < 2 * 1024 * 1024);
    drain(&r, r.peers[0], n);
    while (n < MUCH) {
        size_t more = fill(&r, r.client, MUCH - n);
        drain(&r, r.peers[0], more);
        n += more;
    }
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    begins(head(&r, r.client), "HTTP/1.1 200 ");
    round_trip(&r, 0);
    rig_close(&r);
}

static void connections_wait_for_their_turn(void **state) {
    OPEN(.settings = {.connections_max = 1, .waiting_max = 1});
    int second = rig_client(&r), third = rig_client(&r);
    say(r.client, GET);
    expect(&r, peer(&r, 0), GET);
    say(second, "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    silent(&r, second);
    say(third, GET);
    const char *h = head(&r, third);
    begins(h, "HTTP/1.1 503 ");
    has(h, "Retry-After: 1\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    begins(head(&r, r.client), "HTTP/1.1 200 ");
    expect(&r, r.peers[0], "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n"); // over the same connection
    say(r.peers[0], "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    begins(head(&r, second), "HTTP/1.1 200 ");
    round_trip(&r, 1);
    assert_int_equal(r.dials, 2);
    close(second);
    close(third);
    rig_close(&r);
}

static void waiting_has_an_end(void **state) {
    OPEN(.settings = {.connections_max = 1, .waiting_max = 8}, .policy = {.connect_ms = 10});
    int second = rig_client(&r);
    say(r.client, GET);
    expect(&r, peer(&r, 0), GET);
    say(second, GET);
    refused(&r, second, "HTTP/1.1 503 ", "BUSY");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    (void)head(&r, r.client);
    close(second);
    rig_close(&r);
}

static void all_who_wait_hear_of_a_failure(void **state) {
    OPEN(.settings = {.connections_max = 1, .waiting_max = 64}, .hold = true);
    int clients[32];
    struct error err;
    say(r.client, GET);
    UNTIL(r.l, r.dials == 1);
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
        clients[i] = rig_client(&r);
        say(clients[i], GET);
        loop_step(r.l);
    }
    loop_step(r.l);
    r.refuse = ECONNREFUSED;
    (void)error_errno(&err, ECONNREFUSED, "connect");
    http_dial_done(r.held[0], -1, &err);
    refused(&r, r.client, "HTTP/1.1 502 ", "CONNECT");
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
        refused(&r, clients[i], "HTTP/1.1 502 ", "CONNECT");
        close(clients[i]);
    }
    rig_close(&r);
}

static void client_gone_while_dialling(void **state) {
    OPEN(.hold = true);
    say(r.client, GET);
    UNTIL(r.l, r.dials == 1);
    close(r.client);
    UNTIL(r.l, r.over == 1);
    rig_connect(&r, r.held[0]); // kept for the next one
    r.hold = false;
    r.client = rig_client(&r);
    round_trip(&r, 0);
    rig_close(&r);
}

static void client_gone_while_waiting(void **state) {
    OPEN(.settings = {.connections_max = 1, .waiting_max = 8});
    int second = rig_client(&r);
    say(r.client, GET);
    expect(&r, peer(&r, 0), GET);
    say(second, GET);
    silent(&r, second);
    close(second);
    UNTIL(r.l, r.over == 1);
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    (void)head(&r, r.client);
    silent(&r, r.peers[0]);
    rig_close(&r);
}

static void client_gone_cancels_the_upstream(void **state) {
    OPEN(0);
    say(r.client, GET);
    expect(&r, peer(&r, 0), GET);
    close(r.client);
    closed(&r, r.peers[0]);
    r.client = rig_client(&r);
    say(r.client, GET);
    expect(&r, peer(&r, 1), GET);
    say(r.peers[1], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    (void)head(&r, r.client);
    close(r.client);
    closed(&r, r.peers[1]);
    r.client = rig_client(&r);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    (void)head(&r, peer(&r, 2));
    expect(&r, r.peers[2], "half");
    close(r.client);
    r.client = -1;
    closed(&r, r.peers[2]);
    assert_int_equal(r.over, 3);
    rig_close(&r);
}

static void a_broken_request_body_is_not_completed(void **state) {
    OPEN(0);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    (void)head(&r, peer(&r, 0));
    expect(&r, r.peers[0], "1\r\na\r\n");
    say(r.client, "zz\r\n");
    closed(&r, r.peers[0]);
    begins(head(&r, r.client), "HTTP/1.1 400 ");
    rig_close(&r);
}

static void a_body_broken_at_once_is_not_passed_on(void **state) {
    OPEN(0);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    begins(head(&r, r.client), "HTTP/1.1 400 ");
    assert_int_equal(r.dials, 0);
    rig_close(&r);
}

static void the_upstream_may_be_freed_at_any_time(void **state) {
    OPEN(.settings = {.connections_max = 1, .waiting_max = 8});
    int second = rig_client(&r);
    say(r.client, GET);
    expect(&r, peer(&r, 0), GET);
    say(second, GET);
    silent(&r, second);
    http_upstream_free(r.upstream);
    refused(&r, second, "HTTP/1.1 502 ", "CONNECT"); // who waits is told, who runs goes on
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    (void)head(&r, r.client);
    expect(&r, r.client, "ok");
    closed(&r, r.peers[0]);
    r.upstream = NULL;
    close(second);
    rig_close(&r);
}

static void the_upstream_may_be_freed_while_it_is_dialled(void **state) {
    OPEN(.hold = true);
    say(r.client, GET);
    UNTIL(r.l, r.dials == 1);
    http_upstream_free(r.upstream);
    r.upstream = NULL;
    close(r.client);
    r.client = -1;
    UNTIL(r.l, r.over == 1);
    rig_connect(&r, r.held[0]);
    closed(&r, r.peers[0]);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(upstream_down),
        LOOP_TEST(a_dial_may_decide_the_answer),
        LOOP_TEST(fin_only),
        LOOP_TEST(half_a_head),
        LOOP_TEST(one_byte_at_a_time),
        LOOP_TEST(invalid_transfer_encoding),
        LOOP_TEST(multiline_header),
        LOOP_TEST(broken_response_head),
        LOOP_TEST(endless_heads),
        LOOP_TEST(truncated),
        LOOP_TEST(truncated_chunked),
        LOOP_TEST(chunk_timeout),
        LOOP_TEST(connect_time_out),
        LOOP_TEST(first_byte_time_out),
        LOOP_TEST(a_slow_upload_is_no_late_answer),
        LOOP_TEST(disconnected_keepalive),
        LOOP_TEST(disconnected_keepalive_post),
        LOOP_TEST(disconnected_keepalive_heard),
        LOOP_TEST(a_closed_connection_is_not_taken),
        LOOP_TEST(unasked_bytes_end_a_connection),
        LOOP_TEST(connection_close_is_kept),
        LOOP_TEST(early_response),
        LOOP_TEST(early_response_and_gone),
        LOOP_TEST(both_bodies_at_once),
        LOOP_TEST(max_buffer_size),
        LOOP_TEST(slow_client),
        LOOP_TEST(slow_upstream),
        LOOP_TEST(connections_wait_for_their_turn),
        LOOP_TEST(waiting_has_an_end),
        LOOP_TEST(all_who_wait_hear_of_a_failure),
        LOOP_TEST(client_gone_while_dialling),
        LOOP_TEST(client_gone_while_waiting),
        LOOP_TEST(client_gone_cancels_the_upstream),
        LOOP_TEST(a_broken_request_body_is_not_completed),
        LOOP_TEST(a_body_broken_at_once_is_not_passed_on),
        LOOP_TEST(the_upstream_may_be_freed_at_any_time),
        LOOP_TEST(the_upstream_may_be_freed_while_it_is_dialled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
