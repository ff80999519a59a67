// Streamed bodies both ways, back-pressure, 100-continue, tunnels.
#include "http_test.h"

static void hello(struct http_exchange *x) {
    http_reply(x, 200, "text/plain", "hello", 5);
}

static void hold(struct http_exchange *x) {
    web_of(x)->held = x;
}

static bool on_data(struct http_exchange *x, const char *data, size_t len) {
    struct web *w = web_of(x);
    assert_int_equal(w->body_end, -1);
    assert_int_equal(strbuf_add(&w->body, data, len), 0);
    return !w->pause;
}

static void on_end(struct http_exchange *x, bool ok) {
    struct web *w = web_of(x);
    assert_int_equal(w->body_end, -1);
    w->body_end = ok;
}

static const struct http_body collect = {.data = on_data, .end = on_end};

static void upload(struct http_exchange *x) {
    web_of(x)->held = x;
    http_body_start(x, &collect);
}

static bool reply_on_data(struct http_exchange *x, const char *data, size_t len) {
    (void)data;
    (void)len;
    http_reply(x, 200, NULL, "enough", 6);
    return true;
}

static void never_ends(struct http_exchange *x, bool ok) {
    (void)x;
    (void)ok;
    fail();
}

static void enough(struct http_exchange *x) {
    static const struct http_body body = {.data = reply_on_data, .end = never_ends};
    http_body_start(x, &body);
}

static void refuse(struct http_exchange *x) {
    http_reply(x, 401, NULL, "no", 2);
}

static void stream(struct http_exchange *x) {
    web_of(x)->held = x;
    http_stream_begin(x, 200, "text/plain", -1);
}

static void tunnel(struct http_exchange *x) {
    struct web *w = web_of(x);
    const char *early = NULL;
    size_t len = 0;
    (void)http_reply_header(x, "Upgrade", "echo");
    w->stream = http_tunnel(x, &early, &len);
    if (w->stream)
        (void)strbuf_add(&w->early, early, len);
}

static const struct http_route routes[] = {
    {"GET", "/hello", hello, HTTP_BODY_BUFFERED, 0, ""},
    {"*", "/hold", hold, HTTP_BODY_STREAMED, 0, ""},
    {"*", "/upload", upload, HTTP_BODY_STREAMED, 0, ""},
    {"*", "/enough", enough, HTTP_BODY_STREAMED, 0, ""},
    {"*", "/refuse", refuse, HTTP_BODY_STREAMED, 0, ""},
    {"POST", "/buffered", hello, HTTP_BODY_BUFFERED, 0, ""},
    {"*", "/stream", stream, HTTP_BODY_BUFFERED, 0, ""},
    {"GET", "/tunnel", tunnel, HTTP_BODY_BUFFERED, 0, ""},
};

static void small_buffer(struct http_server_settings *s) {
    s->stream_buffer = 64 * 1024;
}

static int begin(void **state) {
    *state = web_new(routes, ARRAY_SIZE(routes), small_buffer);
    return 0;
}

static int end(void **state) {
    web_free(*state);
    return 0;
}

// ---- request bodies ----

static void gives_a_body_as_it_comes(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    PEER_UNTIL(w, p, w->body.len == 3);
    peer_says(p, "defg");
    PEER_UNTIL(w, p, w->body.len == 7);
    assert_int_equal(w->body_end, -1);
    peer_says(p, "hijGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->body_end == 1);
    assert_string_equal(w->body.data, "abcdefghij");
    http_reply_empty(w->held, 201);
    PEER_HEARS(w, p, "hello");
    assert_non_null(strstr(p->in.data, "201 Created"));
    peer_free(p);
}

static void gives_a_chunked_body(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                 "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
    PEER_UNTIL(w, p, w->body_end == 1);
    assert_string_equal(w->body.data, "abcdefg");
    http_reply_empty(w->held, 200);
    peer_free(p);
}

static void no_body_ends_at_once(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /upload HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->body_end == 1);
    http_reply_empty(w->held, 200);
    PEER_HEARS(w, p, "200 OK");
    peer_free(p);
}

static void a_body_started_late_loses_nothing(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                 "3\r\nabc\r\n4\r\nde");
    PEER_UNTIL(w, p, w->held);
    peer_says(p, "fg\r\n0\r\n\r\n");
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    http_body_start(w->held, &collect);
    assert_int_equal(w->body.len, 0); // never from inside the call
    PEER_UNTIL(w, p, w->body_end == 1);
    assert_string_equal(w->body.data, "abcdefg");
    http_reply_empty(w->held, 200);
    PEER_HEARS(w, p, "200 OK");
    peer_free(p);
}

// Sends as much as the socket takes; how far it got.
static size_t stuff(struct web *w, struct peer *p, size_t len) {
    static const char zeros[65536];
    size_t sent = 0;
    for (int idle = 0; sent < len && idle < 20;) {
        size_t part = len - sent < sizeof zeros ? len - sent : sizeof zeros;
        ssize_t n = write(p->fd, zeros, part);
        sent += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        peer_turn(w, p);
    }
    return sent;
}

static void a_paused_body_stops_the_sender(void **state) {
    enum { SIZE = 32 << 20 };
    struct web *w = *state;
    struct peer *p = peer_new(w);
    char head[128];
    w->pause = true;
    (void)snprintf(head, sizeof head,
                   "PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", SIZE);
    peer_says(p, head);
    size_t sent = stuff(w, p, SIZE);
    assert_true(sent < 2 << 20); // what one read and the socket hold
    assert_true(w->body.len <= 65536);
    size_t before = w->body.len;
    http_body_resume(w->held);
    assert_int_equal(w->body.len, before);
    PEER_UNTIL(w, p, w->body.len > before); // one more piece
    w->pause = false;
    http_body_resume(w->held);
    while (w->body_end != 1)
        sent += stuff(w, p, SIZE - sent);
    assert_int_equal(w->body.len, SIZE);
    http_reply_empty(w->held, 200);
    PEER_HEARS(w, p, "200 OK");
    peer_free(p);
}

static void pauses_in_the_middle_of_chunks(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    w->pause = true;
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    peer_says(p, "1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n");
    PEER_UNTIL(w, p, w->body.len);
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    assert_string_equal(w->body.data, "a");
    http_body_resume(w->held);
    PEER_UNTIL(w, p, w->body.len == 3); // what was held comes in one piece, and pauses again
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    assert_int_equal(w->body_end, -1);
    http_body_resume(w->held);
    PEER_UNTIL(w, p, w->body_end == 1);
    http_reply_empty(w->held, 200);
    peer_free(p);
}

static void a_truncated_body_ends_badly(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    PEER_UNTIL(w, p, w->body.len == 3);
    peer_close(p);
    UNTIL(&w->loop, w->body_end == 0);
    assert_true(http_gone(w->held));
    http_reply_empty(w->held, 400);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    peer_free(p);
}

static void broken_chunks_end_badly(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc");
    PEER_UNTIL(w, p, w->body.len == 3);
    peer_says(p, "XX");
    PEER_UNTIL(w, p, w->body_end == 0);
    http_reply(w->held, 400, NULL, "broken", 6);
    PEER_HEARS_END(w, p);
    assert_heard(p, "HTTP/1.1 400 Bad Request\r\nContent-Length: 6\r\nConnection: close\r\n\r\n"
                    "broken");
    peer_free(p);
}

static void a_small_unwanted_body_is_read_away(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    PEER_HEARS(w, p, "no");
    assert_heard(p, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
    peer_says(p, "defghijGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "hello");
    assert_int_equal(w->finished, 2);
    peer_free(p);
}

static void a_large_unwanted_body_closes(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc");
    size_t sent = 0;
    while (!p->eof) // the client goes on sending, and still sees the reply
        sent += stuff(w, p, 65536);
    assert_heard(p,
                 "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    peer_free(p);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
}

static void an_endless_unwanted_body_closes(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p,
              "POST /enough HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    PEER_HEARS(w, p, "enough");
    cleanup_strbuf struct strbuf chunk;
    strbuf_init(&chunk, 1 << 20);
    (void)strbuf_adds(&chunk, "1000\r\n");
    memset(strbuf_reserve(&chunk, 0x1000), 'x', 0x1000);
    chunk.len += 0x1000;
    (void)strbuf_adds(&chunk, "\r\n");
    for (int i = 0; !p->eof && i < 1000; i++) {
        if (write(p->fd, chunk.data, chunk.len) < 0)
            break;
        peer_turn(w, p);
    }
    PEER_HEARS_END(w, p);
    peer_free(p);
}

// ---- Expect: 100-continue ----

static void says_continue_when_somebody_reads(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
                 "Expect: 100-continue\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    assert_int_equal(p->in.len, 0);
    http_body_start(w->held, &collect);
    PEER_HEARS(w, p, "HTTP/1.1 100 Continue\r\n\r\n");
    peer_says(p, "abc");
    PEER_UNTIL(w, p, w->body_end == 1);
    http_reply_empty(w->held, 200);
    PEER_HEARS(w, p, "200 OK");
    peer_forget(p);
    peer_says(p, "POST /buffered HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
                 "Expect: 100-continue\r\n\r\n");
    PEER_HEARS(w, p, "HTTP/1.1 100 Continue\r\n\r\n");
    peer_says(p, "abc");
    PEER_HEARS(w, p, "hello");
    peer_forget(p);
    peer_says(p, "POST /buffered HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
                 "Expect: 100-continue\r\n\r\nabc"); // it did not wait
    PEER_HEARS(w, p, "hello");
    assert_null(strstr(p->in.data, "100 Continue"));
    peer_free(p);
}

static void a_refusal_instead_of_continue_closes(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
                 "Expect: 100-continue\r\n\r\n");
    PEER_HEARS_END(w, p);
    assert_heard(p,
                 "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    peer_free(p);
}

// ---- streamed replies ----

static void streams_in_chunks(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "\r\n\r\n"); // the head does not wait for the first bytes
    assert_heard(p, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"
                    "\r\n");
    assert_int_equal(http_stream_write(w->held, "hello, world", 12), 0);
    assert_int_equal(http_stream_write(w->held, "", 0), 0); // would end the body
    assert_int_equal(http_stream_write(w->held, "!", 1), 0);
    PEER_HEARS(w, p, "!\r\n");
    assert_heard(p, "c\r\nhello, world\r\n1\r\n!\r\n");
    assert_int_equal(w->finished, 0);
    http_stream_end(w->held);
    PEER_HEARS(w, p, "hello");
    assert_int_equal(strncmp(p->in.data, "0\r\n\r\nHTTP/1.1 200 OK\r\n", 22), 0);
    assert_int_equal(w->finished, 2);
    peer_free(p);
}

static void a_whole_stream_in_one_turn(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    http_stream_begin(w->held, 200, NULL, 4);
    assert_int_equal(http_stream_write(w->held, "ab", 2), 0);
    assert_int_equal(http_stream_write(w->held, "cd", 2), 0);
    assert_int_equal(w->held->bytes_out, 4);
    http_stream_end(w->held);
    PEER_HEARS(w, p, "abcd");
    assert_heard(p, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd");
    assert_int_equal(http_server_connections(w->server), 1);
    peer_free(p);
}

static void streams_to_http_1_0_until_close(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    assert_int_equal(http_stream_write(w->held, "hello", 5), 0);
    http_stream_end(w->held);
    PEER_HEARS_END(w, p);
    assert_heard(p,
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nhello");
    peer_free(p);
}

static void a_head_request_gets_no_stream(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    assert_int_equal(http_stream_write(w->held, "hello", 5), 0);
    http_stream_end(w->held);
    peer_says(p, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "hello");
    assert_heard(p,
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello");
    peer_free(p);
}

static void a_short_or_aborted_stream_cuts(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w), *q = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    http_stream_begin(w->held, 200, NULL, 10);
    assert_int_equal(http_stream_write(w->held, "abc", 3), 0);
    http_stream_end(w->held); // a part must not pass for the whole
    PEER_HEARS_END(w, p);
    w->held = NULL;
    peer_says(q, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, q, w->held);
    assert_int_equal(http_stream_write(w->held, "abc", 3), 0);
    http_stream_abort(w->held);
    PEER_HEARS_END(w, q);
    assert_null(strstr(q->in.data, "\r\n0\r\n"));
    assert_int_equal(w->finished, 2);
    peer_free(p);
    peer_free(q);
}

static void more_than_announced_cuts(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    http_stream_begin(w->held, 200, NULL, 2);
    (void)http_stream_write(w->held, "abc", 3);
    http_stream_end(w->held);
    PEER_HEARS_END(w, p);
    assert_null(strstr(p->in.data, "abc"));
    peer_free(p);
}

static void on_room(struct http_exchange *x) {
    web_of(x)->room++;
}

// Writes until it does not fit.
static size_t pour(struct web *w, size_t left) {
    static const char zeros[4096];
    size_t poured = 0;
    while (poured < left) {
        size_t part = left - poured < sizeof zeros ? left - poured : sizeof zeros;
        if (http_stream_write(w->held, zeros, part) < 0)
            break;
        poured += part;
    }
    return poured;
}

static void a_slow_reader_stops_the_writer(void **state) {
    enum { SIZE = 8 << 20 };
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    peer_forget(p);
    w->held->on_room = on_room;
    http_stream_begin(w->held, 200, NULL, SIZE);
    size_t poured = pour(w, SIZE);
    assert_true(poured < 2 << 20);
    assert_true(http_stream_room(w->held) < 4096);
    for (int i = 0; i < 20; i++)
        loop_step(&w->loop);
    assert_int_equal(w->room, 0);
    while (poured < SIZE) {
        unsigned before = w->room;
        PEER_UNTIL(w, p, w->room > before); // told once for each refusal
        poured += pour(w, SIZE - poured);
    }
    http_stream_end(w->held);
    size_t head = (size_t)(strstr(p->in.data, "\r\n\r\n") - p->in.data) + 4;
    PEER_UNTIL(w, p, p->in.len == head + SIZE);
    peer_says(p, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->finished == 2);
    peer_free(p);
}

static void a_piece_above_the_bound_is_taken_when_nothing_waits(void **state) {
    enum { SIZE = 1 << 20 };
    struct web *w = *state;
    struct peer *p = peer_new(w);
    char *piece = calloc(1, SIZE);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    w->held->on_room = on_room;
    http_stream_begin(w->held, 200, NULL, 2 * SIZE);
    assert_int_equal(http_stream_write(w->held, piece, SIZE), 0);
    assert_int_equal(http_stream_write(w->held, piece, SIZE), -1);
    while (http_stream_write(w->held, piece, SIZE) < 0) {
        unsigned before = w->room;
        PEER_UNTIL(w, p, w->room > before);
    }
    http_stream_end(w->held);
    PEER_UNTIL(w, p, p->in.len > 2 * SIZE);
    free(piece);
    peer_free(p);
}

static void on_gone(struct http_exchange *x) {
    web_of(x)->gone++;
}

static void gone_in_the_middle_of_a_stream(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    w->held->on_gone = on_gone;
    (void)pour(w, 8 << 20);
    peer_close(p);
    UNTIL(&w->loop, w->gone == 1);
    assert_int_equal(pour(w, 8 << 20), 8 << 20); // goes nowhere
    assert_int_equal(w->gone, 1);
    http_stream_end(w->held);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    assert_int_equal(w->finished, 1);
    peer_free(p);
}

static void a_write_that_fails_tells_later(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"); // nobody reads on
    PEER_UNTIL(w, p, w->held);
    w->held->on_gone = on_gone;
    http_stream_begin(w->held, 200, NULL, -1);
    peer_close(p);
    assert_int_equal(http_stream_write(w->held, "x", 1), 0);
    assert_int_equal(w->gone, 0);
    UNTIL(&w->loop, w->gone == 1);
    http_stream_abort(w->held);
    peer_free(p);
}

static void a_large_reply_leaves_as_the_client_reads(void **state) {
    enum { SIZE = 4 << 20 };
    struct web *w = *state;
    struct peer *p = peer_new(w);
    char *text = malloc(SIZE);
    memset(text, 'x', SIZE);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    http_reply(w->held, 200, NULL, text, SIZE);
    free(text);
    assert_int_equal(w->finished, 0);
    PEER_UNTIL(w, p, w->finished == 1);
    PEER_UNTIL(w, p, p->in.len > SIZE);
    peer_free(p);
}

// ---- leaving HTTP ----

static void hands_over_the_stream(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
                 "early");
    PEER_HEARS(w, p, "\r\n\r\n");
    assert_heard(p, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n"
                    "\r\n");
    assert_string_equal(w->early.data, "early");
    assert_int_equal(http_server_connections(w->server), 0);
    assert_int_equal(w->status, 101);
    assert_int_equal(stream_write(w->stream, "raw", 3), 3);
    PEER_HEARS(w, p, "raw");
    peer_free(p);
}

static void hands_over_the_stream_later(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    const char *early;
    size_t len;
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nea");
    PEER_UNTIL(w, p, w->held);
    peer_says(p, "rly");
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    w->stream = http_tunnel(w->held, &early, &len);
    assert_non_null(w->stream);
    assert_int_equal(len, 5);
    assert_memory_equal(early, "early", 5);
    PEER_HEARS(w, p, "101 Switching");
    assert_int_equal(http_server_connections(w->server), 0);
    peer_free(p);
}

static void hands_over_the_stream_behind_a_pipelined_request(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    peer_says(p, "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    http_reply_empty(w->held, 200);
    PEER_HEARS(w, p, "101 Switching");
    assert_int_equal(w->early.len, 0); // not the request itself
    peer_free(p);
}

static void no_tunnel_for_a_client_that_went(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    const char *early;
    size_t len;
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    peer_close(p);
    UNTIL(&w->loop, http_gone(w->held));
    assert_null(http_tunnel(w->held, &early, &len));
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    peer_free(p);
}

#define WEB_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {
        WEB_TEST(gives_a_body_as_it_comes),
        WEB_TEST(gives_a_chunked_body),
        WEB_TEST(no_body_ends_at_once),
        WEB_TEST(a_body_started_late_loses_nothing),
        WEB_TEST(a_paused_body_stops_the_sender),
        WEB_TEST(pauses_in_the_middle_of_chunks),
        WEB_TEST(a_truncated_body_ends_badly),
        WEB_TEST(broken_chunks_end_badly),
        WEB_TEST(a_small_unwanted_body_is_read_away),
        WEB_TEST(a_large_unwanted_body_closes),
        WEB_TEST(an_endless_unwanted_body_closes),
        WEB_TEST(says_continue_when_somebody_reads),
        WEB_TEST(a_refusal_instead_of_continue_closes),
        WEB_TEST(streams_in_chunks),
        WEB_TEST(a_whole_stream_in_one_turn),
        WEB_TEST(streams_to_http_1_0_until_close),
        WEB_TEST(a_head_request_gets_no_stream),
        WEB_TEST(a_short_or_aborted_stream_cuts),
        WEB_TEST(more_than_announced_cuts),
        WEB_TEST(a_slow_reader_stops_the_writer),
        WEB_TEST(a_piece_above_the_bound_is_taken_when_nothing_waits),
        WEB_TEST(gone_in_the_middle_of_a_stream),
        WEB_TEST(a_write_that_fails_tells_later),
        WEB_TEST(a_large_reply_leaves_as_the_client_reads),
        WEB_TEST(hands_over_the_stream),
        WEB_TEST(hands_over_the_stream_later),
        WEB_TEST(hands_over_the_stream_behind_a_pipelined_request),
        WEB_TEST(no_tunnel_for_a_client_that_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
