// Limits, time-outs (short ones, waited for), hooks and drain of the server.
#include "http_test.h"

#define GET_HELLO "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"

enum { BODY_MAX = 100, CONNECTIONS_MAX = 2 };

static void hello(struct http_exchange *x) {
    http_reply(x, 200, NULL, "hello", 5);
}

static void hold(struct http_exchange *x) {
    web_of(x)->held = x;
}

static bool on_data(struct http_exchange *x, const char *data, size_t len) {
    (void)strbuf_add(&web_of(x)->body, data, len);
    return !web_of(x)->pause;
}

static void on_end(struct http_exchange *x, bool ok) {
    web_of(x)->body_end = ok;
}

static void upload(struct http_exchange *x) {
    static const struct http_body collect = {.data = on_data, .end = on_end};
    web_of(x)->held = x;
    http_body_start(x, &collect);
}

static const struct http_route routes[] = {
    {"GET", "/hello", hello, HTTP_BODY_BUFFERED, 0, ""},
    {"*", "/hold", hold, HTTP_BODY_BUFFERED, 0, ""},
    {"POST", "/upload", upload, HTTP_BODY_STREAMED, 0, ""},
    {"GET", "/open", hello, HTTP_BODY_BUFFERED, HTTP_ROUTE_OPEN, ""},
};

static void limits(struct http_server_settings *s) {
    s->body_max = BODY_MAX;
    s->connections_max = CONNECTIONS_MAX;
}

static bool ask_key(struct http_exchange *x) {
    if ((x->route && x->route->flags & HTTP_ROUTE_OPEN) || http_header(x, "Key"))
        return false;
    http_reply(x, 401, NULL, "key?", 4);
    return true;
}

static void with_key(struct http_server_settings *s) {
    limits(s);
    s->before = ask_key;
}

static void short_head(struct http_server_settings *s) {
    s->head_ms = 20;
}

static void short_body(struct http_server_settings *s) {
    s->body_ms = 20;
}

static void short_idle(struct http_server_settings *s) {
    s->idle_ms = 20;
}

static void short_write(struct http_server_settings *s) {
    s->write_ms = 20;
}

static struct web *web_with(void (*change)(struct http_server_settings *)) {
    return web_new(routes, ARRAY_SIZE(routes), change);
}

// Says it, hears a reply of this status in an envelope, and the end.
static void refused(struct web *w, const char *text, size_t len, const char *status) {
    struct peer *p = peer_new(w);
    for (size_t at = 0; at < len && !p->eof;) {
        ssize_t n = write(p->fd, text + at, len - at);
        at += n > 0 ? (size_t)n : 0;
        if (n < 0 && errno != EAGAIN)
            break;
        peer_turn(w, p);
    }
    PEER_HEARS_END(w, p);
    assert_int_equal(strncmp(p->in.data, "HTTP/1.1 ", 9), 0);
    assert_memory_equal(p->in.data + 9, status, 3);
    assert_non_null(strstr(p->in.data, "Connection: close\r\n"));
    assert_non_null(strstr(p->in.data, "{\"code\":\""));
    assert_int_equal(peer_count(p, "HTTP/1.1 "), 1);
    peer_free(p);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
}

static void refused_text(struct web *w, const char *text, const char *status) {
    refused(w, text, strlen(text), status);
}

static void refuses_large_bodies(void **state) {
    (void)state;
    struct web *w = web_with(limits);
    refused_text(w, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", "413");
    refused_text(w,
                 "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n"
                 "Expect: 100-continue\r\n\r\n",
                 "413");
    cleanup_strbuf struct strbuf chunked;
    strbuf_init(&chunked, 4096);
    (void)strbuf_adds(&chunked,
                      "POST /hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 11; i++)
        (void)strbuf_adds(&chunked, "a\r\n0123456789\r\n");
    refused(w, chunked.data, chunked.len, "413");
    assert_null(w->held);
    struct peer *p = peer_new(w);
    peer_send(p, chunked.data, chunked.len - 15);
    peer_says(p, "0\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    assert_int_equal(w->held->body_len, BODY_MAX); // exactly the limit is fine
    http_reply_empty(w->held, 200);
    peer_free(p);
    web_free(w);
}

static void refuses_what_is_no_request(void **state) {
    (void)state;
    struct web *w = web_with(limits);
    refused_text(w, "hello\r\n\r\n" GET_HELLO, "400");
    refused_text(w, "GET /hello HTTP/1.1\r\n\r\n" GET_HELLO, "400");
    refused_text(
        w, "POST /hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "501");
    refused_text(
        w, "POST /hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz" GET_HELLO,
        "400");
    cleanup_strbuf struct strbuf long_one;
    strbuf_init(&long_one, 1 << 20);
    (void)strbuf_adds(&long_one, "GET /hello");
    for (int i = 0; i < 70 * 1024; i++)
        (void)strbuf_addc(&long_one, 'a');
    (void)strbuf_adds(&long_one, " HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(w, long_one.data, long_one.len, "414");
    strbuf_clear(&long_one);
    (void)strbuf_adds(&long_one, "GET /hello HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 140 * 1024 / 64; i++)
        (void)strbuf_addf(&long_one, "X-%d: %060d\r\n", i, i);
    (void)strbuf_adds(&long_one, "\r\n");
    refused(w, long_one.data, long_one.len, "431");
    web_free(w);
}

static void a_good_request_before_a_bad_one_is_answered(void **state) {
    (void)state;
    struct web *w = web_with(limits);
    struct peer *p = peer_new(w);
    peer_says(p, GET_HELLO "nonsense\r\n\r\n");
    PEER_HEARS_END(w, p);
    assert_int_equal(strncmp(p->in.data, "HTTP/1.1 200", 12), 0);
    assert_int_equal(peer_count(p, "HTTP/1.1 400"), 1);
    peer_free(p);
    web_free(w);
}

static void too_many_connections_hear_why(void **state) {
    (void)state;
    struct web *w = web_with(limits);
    struct peer *p = peer_new(w), *q = peer_new(w), *third = peer_new(w);
    peer_says(third, GET_HELLO);
    PEER_HEARS_END(w, third);
    assert_int_equal(strncmp(third->in.data, "HTTP/1.1 503 ", 13), 0);
    peer_free(third);
    UNTIL(&w->loop, http_server_connections(w->server) == 2);
    peer_says(p, GET_HELLO);
    PEER_HEARS(w, p, "hello");
    peer_close(q);
    UNTIL(&w->loop, http_server_connections(w->server) == 1);
    peer_free(q);
    q = peer_new(w);
    peer_says(q, GET_HELLO);
    PEER_HEARS(w, q, "hello");
    peer_free(p);
    peer_free(q);
    web_free(w);
}

static void the_hook_comes_before_body_and_route(void **state) {
    (void)state;
    struct web *w = web_with(with_key);
    struct peer *p = peer_new(w);
    peer_says(p, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n");
    PEER_HEARS(w, p, "key?"); // it did not wait for the body
    assert_null(w->held);
    peer_forget(p);
    char body[51] = {0};
    memset(body, 'x', 50);
    peer_says(p, body);
    peer_says(p, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "key?"); // 401 before 404
    peer_forget(p);
    peer_says(p, "GET /open HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "hello");
    peer_forget(p);
    peer_says(p, "GET /nowhere HTTP/1.1\r\nHost: a\r\nKey: 1\r\n\r\n");
    PEER_HEARS(w, p, "404 Not Found");
    peer_free(p);
    web_free(w);
}

static void half_a_head_times_out(void **state) {
    (void)state;
    struct web *w = web_with(short_head);
    struct peer *p = peer_new(w), *slow = peer_new(w);
    peer_says(p, "GET /hello HTTP/1.1\r\nHo");
    while (!slow->eof) { // a byte now and then is no progress
        if (write(slow->fd, "G", 1) < 0)
            break;
        peer_turn(w, slow);
        (void)poll(NULL, 0, 1);
    }
    PEER_HEARS_END(w, p);
    assert_int_equal(strncmp(p->in.data, "HTTP/1.1 408 ", 13), 0);
    assert_int_equal(strncmp(slow->in.data, "HTTP/1.1 4", 10), 0);
    peer_free(p);
    peer_free(slow);
    web_free(w);
}

static void half_a_body_times_out(void **state) {
    (void)state;
    struct web *w = web_with(short_body);
    struct peer *p = peer_new(w);
    peer_says(p, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    PEER_HEARS_END(w, p);
    assert_int_equal(strncmp(p->in.data, "HTTP/1.1 408 ", 13), 0);
    assert_null(w->held);
    peer_free(p);
    p = peer_new(w);
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    PEER_UNTIL(w, p, w->body_end == 0);
    http_reply(w->held, 408, NULL, "late", 4);
    PEER_HEARS_END(w, p);
    assert_non_null(strstr(p->in.data, "late"));
    peer_free(p);
    web_free(w);
}

static void a_paused_body_does_not_time_out(void **state) {
    (void)state;
    struct web *w = web_with(short_body);
    struct peer *p = peer_new(w);
    w->pause = true;
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    PEER_UNTIL(w, p, w->body.len == 3);
    int64_t later = clock_boot_ms() + 60;
    PEER_UNTIL(w, p, clock_boot_ms() > later);
    assert_int_equal(w->body_end, -1);
    w->pause = false;
    http_body_resume(w->held);
    peer_says(p, "def");
    PEER_UNTIL(w, p, w->body_end == 1);
    http_reply_empty(w->held, 200);
    PEER_HEARS(w, p, "200 OK");
    peer_free(p);
    web_free(w);
}

static void the_time_of_a_body_begins_anew_with_its_resuming(void **state) {
    (void)state;
    struct web *w = web_with(short_body);
    struct peer *p = peer_new(w);
    w->pause = true;
    peer_says(p, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    PEER_UNTIL(w, p, w->body.len == 3);
    int64_t later = clock_boot_ms() + 60;
    PEER_UNTIL(w, p, clock_boot_ms() > later);
    w->pause = false;
    int64_t resumed = clock_boot_ms();
    http_body_resume(w->held);
    PEER_UNTIL(w, p, w->body_end == 0);
    assert_true(clock_boot_ms() - resumed >= 20);
    http_reply_empty(w->held, 408);
    PEER_HEARS_END(w, p);
    peer_free(p);
    web_free(w);
}

static void idle_connections_close(void **state) {
    (void)state;
    struct web *w = web_with(short_idle);
    struct peer *fresh = peer_new(w), *used = peer_new(w), *busy = peer_new(w);
    peer_says(busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    peer_says(used, GET_HELLO);
    PEER_HEARS(w, used, "hello");
    PEER_HEARS_END(w, used);
    PEER_HEARS_END(w, fresh);
    assert_int_equal(fresh->in.len, 0);
    assert_int_equal(http_server_connections(w->server), 1); // a running exchange is not idle
    int64_t replied = clock_boot_ms();
    http_reply_empty(w->held, 200);
    assert_int_equal(http_server_connections(w->server), 1);
    PEER_HEARS(w, busy, "200 OK");
    PEER_HEARS_END(w, busy);
    assert_true(clock_boot_ms() - replied >= 20); // idle from the answer on
    peer_free(fresh);
    peer_free(used);
    peer_free(busy);
    web_free(w);
}

static void on_gone(struct http_exchange *x) {
    web_of(x)->gone++;
    http_stream_abort(x);
}

static void a_reader_that_stopped_is_cut(void **state) {
    (void)state;
    static char large[4 << 20];
    struct web *w = web_with(short_write);
    struct peer *p = peer_new(w), *q = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(&w->loop, w->held);
    http_reply(TAKE_PTR(w->held), 200, NULL, large, sizeof large);
    peer_says(q, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(&w->loop, w->held);
    w->held->on_gone = on_gone;
    http_stream_begin(w->held, 200, NULL, -1);
    assert_int_equal(http_stream_write(w->held, large, sizeof large), 0);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    assert_int_equal(w->gone, 1);
    assert_int_equal(w->finished, 2);
    peer_free(p);
    peer_free(q);
    web_free(w);
}

static void on_drained(void *arg) {
    ((struct web *)arg)->drained = true;
}

static void drain_lets_exchanges_end(void **state) {
    (void)state;
    struct web *w = web_with(NULL);
    struct peer *idle = peer_new(w), *busy = peer_new(w);
    peer_says(busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n" GET_HELLO);
    PEER_UNTIL(w, busy, w->held);
    http_server_drain(w->server, 60000, on_drained, w);
    PEER_HEARS_END(w, idle);
    assert_false(w->drained);
    http_reply(w->held, 200, NULL, "done", 4);
    assert_false(w->drained); // never from inside a reply
    PEER_HEARS_END(w, busy);
    assert_non_null(strstr(busy->in.data, "Connection: close\r\n"));
    assert_null(strstr(busy->in.data, "hello"));
    peer_close(busy);
    UNTIL(&w->loop, w->drained);
    struct peer *late = peer_new(w);
    PEER_HEARS_END(w, late);
    peer_free(idle);
    peer_free(busy);
    peer_free(late);
    web_free(w);
}

static void drain_of_nothing(void **state) {
    (void)state;
    struct web *w = web_with(NULL);
    http_server_drain(w->server, 60000, on_drained, w);
    UNTIL(&w->loop, w->drained);
    web_free(w);
}

static void drain_has_a_limit(void **state) {
    (void)state;
    struct web *w = web_with(NULL);
    struct peer *busy = peer_new(w);
    peer_says(busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, busy, w->held);
    w->held->on_gone = on_gone;
    http_server_drain(w->server, 20, on_drained, w);
    UNTIL(&w->loop, w->drained);
    assert_int_equal(w->gone, 1);
    PEER_HEARS_END(w, busy);
    peer_free(busy);
    web_free(w);
}

static void freed_while_it_drains(void **state) {
    (void)state;
    struct web *w = web_with(NULL);
    struct peer *busy = peer_new(w);
    peer_says(busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, busy, w->held);
    w->held->on_gone = on_gone;
    http_server_drain(w->server, 60000, on_drained, w);
    http_server_free(TAKE_PTR(w->server));
    assert_int_equal(w->gone, 1);
    assert_false(w->drained);
    peer_free(busy);
    web_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_large_bodies),
        cmocka_unit_test(refuses_what_is_no_request),
        cmocka_unit_test(a_good_request_before_a_bad_one_is_answered),
        cmocka_unit_test(too_many_connections_hear_why),
        cmocka_unit_test(the_hook_comes_before_body_and_route),
        cmocka_unit_test(half_a_head_times_out),
        cmocka_unit_test(half_a_body_times_out),
        cmocka_unit_test(a_paused_body_does_not_time_out),
        cmocka_unit_test(the_time_of_a_body_begins_anew_with_its_resuming),
        cmocka_unit_test(idle_connections_close),
        cmocka_unit_test(a_reader_that_stopped_is_cut),
        cmocka_unit_test(drain_lets_exchanges_end),
        cmocka_unit_test(drain_of_nothing),
        cmocka_unit_test(drain_has_a_limit),
        cmocka_unit_test(freed_while_it_drains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
