// Bodies whose handler takes bytes from the client's stream itself.
#include "http_test.h"

enum { LONG = 3 << 20, SOME = 10000 };

struct lender { // what the handler under test does
    unsigned lent;
    uint64_t most; // offered last
    bool declines, pauses;
};

static struct lender *lender(void) {
    static struct lender one;
    return &one;
}

static bool on_data(struct http_exchange *x, const char *data, size_t len) {
    assert_int_equal(strbuf_add(&web_of(x)->body, data, len), 0);
    return true;
}

static void on_end(struct http_exchange *x, bool ok) {
    web_of(x)->body_end = ok;
}

static void take(struct http_exchange *x, int fd, uint64_t max) {
    static char piece[SOME];
    ssize_t n;
    for (; max && (n = read(fd, piece, max < SOME ? max : SOME)) > 0; max -= (uint64_t)n) {
        assert_int_equal(strbuf_add(&web_of(x)->body, piece, (size_t)n), 0);
        http_body_took(x, (size_t)n);
    }
}

static bool on_lend(struct http_exchange *x, struct stream *from, uint64_t max) {
    struct lender *l = lender();
    l->lent++;
    l->most = max;
    web_of(x)->stream = from;
    if (!l->declines && !l->pauses)
        take(x, stream_fd(from), max);
    return !l->pauses;
}

static void upload(struct http_exchange *x) {
    static const struct http_body body = {.data = on_data, .end = on_end, .lend = on_lend};
    web_of(x)->held = x;
    http_body_start(x, &body);
}

static void hello(struct http_exchange *x) {
    http_reply(x, 200, "text/plain", "hello", 5);
}

static const struct http_route routes[] = {
    {"GET", "/hello", hello, HTTP_BODY_BUFFERED, 0, ""},
    {"*", "/upload", upload, HTTP_BODY_STREAMED, 0, ""},
};

static int begin(void **state) {
    *lender() = (struct lender){0};
    *state = web_new(routes, ARRAY_SIZE(routes), NULL);
    return 0;
}

static int end(void **state) {
    struct web *w = *state;
    w->stream = NULL; // was the connection's
    web_free(w);
    return 0;
}

static void send_body(struct web *w, struct peer *p, size_t from, size_t to) {
    char piece[4096];
    while (from < to) {
        size_t len = to - from < sizeof piece ? to - from : sizeof piece;
        for (size_t i = 0; i < len; i++)
            piece[i] = byte_at(from + i);
        ssize_t n = write(p->fd, piece, len);
        from += n > 0 ? (size_t)n : 0;
        peer_turn(w, p);
    }
}

static void begin_long(struct peer *p) {
    char head[128];
    (void)snprintf(head, sizeof head,
                   "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", LONG);
    peer_says(p, head);
}

// Its handler pauses for four bytes.
static struct peer *pausing_peer(struct web *w) {
    struct peer *p = peer_new(w);
    lender()->pauses = true;
    begin_long(p);
    PEER_UNTIL(w, p, w->held);
    peer_send(p, "some", 4);
    PEER_UNTIL(w, p, lender()->lent == 1);
    return p;
}

// All of it came, in order, and the connection goes on.
static void is_whole(struct web *w, struct peer *p) {
    peer_says(p, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->body_end == 1);
    assert_int_equal(w->body.len, LONG);
    for (size_t i = 0; i < LONG; i++)
        assert_int_equal(w->body.data[i], byte_at(i));
    http_reply_empty(w->held, 201);
    PEER_HEARS(w, p, "hello");
    assert_non_null(strstr(p->in.data, "201 Created"));
    peer_free(p);
}

static void takes_what_it_can(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    begin_long(p);
    send_body(w, p, 0, LONG);
    assert_true(lender()->lent > 10);
    assert_in_range(lender()->most, 1, LONG);
    is_whole(w, p);
}

static void may_decline(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    lender()->declines = true;
    begin_long(p);
    send_body(w, p, 0, LONG);
    assert_true(lender()->lent > 0);
    is_whole(w, p);
}

static void takes_while_it_pauses(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    lender()->pauses = true;
    begin_long(p);
    for (size_t at = 0; at < LONG;) {
        size_t more = LONG - at < 100000 ? LONG - at : 100000;
        unsigned before = lender()->lent;
        send_body(w, p, at, at + more);
        at += more;
        for (int i = 0; i < 5; i++)
            peer_turn(w, p);
        if (lender()->lent == before)
            continue; // the end of it comes as data
        take(w->held, stream_fd(w->stream), lender()->most);
        http_body_resume(w->held);
    }
    assert_true(lender()->lent > 3);
    is_whole(w, p);
}

static void short_and_chunked_bodies_are_not_lent(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    static const char chunk[] = "40000\r\n"; // 256 KiB
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n");
    send_body(w, p, 0, 65536);
    PEER_UNTIL(w, p, w->body_end == 1);
    http_reply_empty(w->held, 200);
    w->body_end = -1;
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 4; i++) {
        peer_says(p, chunk);
        send_body(w, p, 0, 0x40000);
        peer_says(p, "\r\n");
    }
    peer_says(p, "0\r\n\r\n");
    PEER_UNTIL(w, p, w->body_end == 1);
    assert_int_equal(w->body.len, 65536 + 4 * 0x40000);
    assert_int_equal(lender()->lent, 0);
    http_reply_empty(w->held, 200);
    peer_free(p);
}

static void client_leaves_within_it(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    begin_long(p);
    send_body(w, p, 0, LONG / 2);
    peer_close(p);
    PEER_UNTIL(w, p, w->body_end >= 0);
    assert_int_equal(w->body_end, 0);
    assert_int_equal(w->body.len, LONG / 2);
    http_stream_abort(w->held);
    PEER_UNTIL(w, p, w->finished == 1);
    peer_free(p);
}

static void client_leaves_while_it_pauses(void **state) {
    struct web *w = *state;
    struct peer *p = pausing_peer(w);
    int kept = dup(stream_fd(w->stream)); // as a worker has it
    peer_close(p);
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    assert_int_equal(w->body_end, -1); // who pauses is not read
    take(w->held, kept, lender()->most);
    http_body_resume(w->held);
    PEER_UNTIL(w, p, lender()->lent == 2);
    take(w->held, kept, lender()->most); // nothing is there
    close(kept);
    http_body_resume(w->held);
    PEER_UNTIL(w, p, w->body_end == 0);
    assert_int_equal(lender()->lent, 2);
    assert_int_equal(w->body.len, 4);
    http_stream_abort(w->held);
    peer_free(p);
}

// A reply may come before the body's end; from then on nobody is asked any more.
static void nothing_is_lent_after_the_reply(void **state) {
    struct web *w = *state;
    struct peer *p = pausing_peer(w);
    http_reply(w->held, 200, NULL, "enough", 6);
    static const char more[4096];
    while (!p->eof && write(p->fd, more, sizeof more) > 0)
        peer_turn(w, p);
    PEER_HEARS(w, p, "enough");
    assert_int_equal(lender()->lent, 1);
    assert_int_equal(w->body_end, -1);
    peer_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_what_it_can, begin, end),
        cmocka_unit_test_setup_teardown(may_decline, begin, end),
        cmocka_unit_test_setup_teardown(takes_while_it_pauses, begin, end),
        cmocka_unit_test_setup_teardown(short_and_chunked_bodies_are_not_lent, begin, end),
        cmocka_unit_test_setup_teardown(client_leaves_within_it, begin, end),
        cmocka_unit_test_setup_teardown(client_leaves_while_it_pauses, begin, end),
        cmocka_unit_test_setup_teardown(nothing_is_lent_after_the_reply, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
