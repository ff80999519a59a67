// The server's requests and replies over socketpairs. Time-outs, limits and drain are in
// test_server_limits.c, streams in test_exchange.c.
#include <netinet/tcp.h>

#include "http_test.h"

#define GET_HELLO   "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
#define HELLO_REPLY "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"

static void hello(struct http_exchange *x) {
    http_reply(x, 200, "text/plain", "hello", 5);
}

static void show(struct http_exchange *x) {
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "method", x->request->method, "path", x->path,
                  "query", x->query, "mount", x->mount, "rest", x->rest, "body", x->body);
    (void)json_object_set_new(o, "id", json_string(http_param(x, "id")));
    (void)http_reply_header(x, "X-One", "1");
    http_reply_json(x, 200, o);
}

static void hold(struct http_exchange *x) {
    web_of(x)->held = x;
}

static void empty(struct http_exchange *x) {
    http_reply_empty(x, 204);
}

static void unchanged(struct http_exchange *x) {
    http_reply(x, 304, "text/plain", "not for you", 11);
}

static void failing(struct http_exchange *x) {
    struct error err = {0};
    (void)error_set(&err, EIO, "bad \xff byte, \"quoted\"");
    http_reply_error(x, &err);
}

static void again(struct http_exchange *x) {
    (void)http_reply_header(x, "X-Outer", "1");
    http_server_redispatch(x, x->rest);
}

static void twice(struct http_exchange *x) {
    assert_int_equal(http_reply_header(x, "X-Evil", "a\r\nb: c"), -1);
    assert_int_equal(http_reply_header(x, "X Evil:", "a"), -1);
    assert_int_equal(http_reply_header(x, "Set-Cookie", "a=1"), 0);
    assert_int_equal(http_reply_header(x, "Set-Cookie", "b=2"), 0);
    assert_int_equal(http_reply_header(x, "Date", "today"), 0);
    http_reply_empty(x, 200);
}

static const struct http_route routes[] = {
    {"GET", "/hello", hello, HTTP_BODY_BUFFERED, 0, ""},
    {"HEAD", "/hello", hello, HTTP_BODY_BUFFERED, 0, ""},
    {"POST", "/hello", hello, HTTP_BODY_BUFFERED, 0, ""},
    {"*", "/show/{id}/*", show, HTTP_BODY_BUFFERED, 0, ""},
    {"POST", "/hold", hold, HTTP_BODY_BUFFERED, 0, ""},
    {"GET", "/hold", hold, HTTP_BODY_BUFFERED, 0, ""},
    {"GET", "/empty", empty, HTTP_BODY_BUFFERED, 0, ""},
    {"GET", "/unchanged", unchanged, HTTP_BODY_BUFFERED, 0, ""},
    {"GET", "/fail", failing, HTTP_BODY_BUFFERED, 0, ""},
    {"GET", "/twice", twice, HTTP_BODY_BUFFERED, 0, ""},
    {"*", "/again/*", again, HTTP_BODY_STREAMED, 0, ""},
};

static const char *const mounts[] = {"/v1", NULL};

static void with_mounts(struct http_server_settings *s) {
    s->mounts = mounts;
}

static int begin(void **state) {
    *state = web_new(routes, ARRAY_SIZE(routes), with_mounts);
    return 0;
}

static int end(void **state) {
    web_free(*state);
    return 0;
}

static void answers_and_keeps_the_connection(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    for (int i = 0; i < 3; i++) {
        peer_says(p, GET_HELLO);
        PEER_HEARS(w, p, "hello");
        assert_heard(p, HELLO_REPLY);
    }
    assert_int_equal(w->finished, 3);
    assert_int_equal(http_server_connections(w->server), 1);
    peer_close(p);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    peer_free(p);
}

static void takes_one_byte_at_a_time(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    const char *request = "POST /show/a%20b/c?d=e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
                          "chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: z\r\n\r\n";
    for (const char *at = request; *at; at++) {
        assert_int_equal(p->in.len, 0);
        peer_send(p, at, 1);
        peer_turn(w, p);
    }
    PEER_HEARS(w, p, "}");
    const char *body = strstr(p->in.data, "\r\n\r\n") + 4;
    assert_string_equal(body, "{\"method\":\"POST\",\"path\":\"/show/a%20b/c\",\"query\":\"d=e\","
                              "\"mount\":\"\",\"rest\":\"/c\",\"body\":\"abcde\",\"id\":\"a b\"}");
    peer_free(p);
}

static void answers_pipelined_requests_in_order(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none" GET_HELLO
                 "GET /show/2/ HTTP/1.1\r\nHost: a\r\n\r\n"
                 "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n" GET_HELLO);
    PEER_UNTIL(w, p, w->held);
    peer_says(p, GET_HELLO); // comes while they wait
    for (int i = 0; i < 20; i++)
        peer_turn(w, p);
    assert_int_equal(p->in.len, 0);
    assert_string_equal(w->held->body, "one");
    struct http_exchange *first = w->held;
    w->held = NULL;
    http_reply(first, 200, NULL, "first", 5);
    assert_null(w->held); // no handler runs inside another's reply
    PEER_UNTIL(w, p, w->held);
    assert_int_equal(peer_count(p, "HTTP/1.1 200"), 3);
    http_reply(w->held, 200, NULL, "fourth", 6);
    PEER_UNTIL(w, p, peer_count(p, "HTTP/1.1 200") == 6 && peer_count(p, "hello") == 3);
    assert_true(strstr(p->in.data, "first") < strstr(p->in.data, "hello"));
    assert_true(strstr(p->in.data, "\"id\":\"2\"") < strstr(p->in.data, "fourth"));
    assert_int_equal(w->finished, 6);
    peer_free(p);
}

static void many_pipelined_requests(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    enum { MANY = 3000 }; // more than the read buffer holds
    cleanup_strbuf struct strbuf all;
    strbuf_init(&all, 1 << 20);
    for (int i = 0; i < MANY; i++)
        (void)strbuf_adds(&all, GET_HELLO);
    for (size_t at = 0; at < all.len || peer_count(p, "hello") < MANY;) {
        ssize_t n = at < all.len ? write(p->fd, all.data + at, all.len - at) : 0;
        at += n > 0 ? (size_t)n : 0;
        peer_turn(w, p);
    }
    assert_int_equal(peer_count(p, "HTTP/1.1 200"), MANY);
    peer_free(p);
}

static void closes_when_asked(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" GET_HELLO);
    PEER_HEARS_END(w, p);
    assert_heard(p, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
                    "Connection: close\r\n\r\nhello");
    assert_int_equal(w->finished, 1);
    peer_free(p);
}

static void speaks_http_1_0(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    PEER_HEARS(w, p, "hello");
    assert_heard(p, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
                    "Connection: keep-alive\r\n\r\nhello");
    peer_says(p, "GET /hello HTTP/1.0\r\n\r\n");
    PEER_HEARS_END(w, p);
    assert_heard(p, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
                    "Connection: close\r\n\r\nhello");
    peer_free(p);
}

static void sends_no_body_where_none_belongs(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n"
                 "GET /empty HTTP/1.1\r\nHost: a\r\n\r\n"
                 "GET /unchanged HTTP/1.1\r\nHost: a\r\n\r\n" GET_HELLO);
    PEER_HEARS(w, p, "hello");
    assert_heard(p, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
                    "HTTP/1.1 204 No Content\r\n\r\n"
                    "HTTP/1.1 304 Not Modified\r\nContent-Type: text/plain\r\nContent-Length: "
                    "11\r\n\r\n" HELLO_REPLY);
    peer_free(p);
}

static void replies_errors_as_envelopes(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /fail HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "}");
    assert_non_null(strstr(p->in.data, "HTTP/1.1 500 Internal Server Error\r\n"));
    assert_non_null(strstr(p->in.data, "{\"code\":\"TEST\",\"message\":\"bad \xef\xbf\xbd byte, "
                                       "\\\"quoted\\\"\"}"));
    peer_forget(p);
    peer_says(p, "PUT /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "}");
    assert_non_null(strstr(p->in.data, "HTTP/1.1 405 Method Not Allowed\r\n"));
    assert_non_null(strstr(p->in.data, "Allow: GET, HEAD, POST\r\n"));
    peer_forget(p);
    peer_says(p, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "}");
    assert_non_null(strstr(p->in.data, "HTTP/1.1 404 Not Found\r\n"));
    assert_int_equal(http_server_connections(w->server), 1);
    peer_free(p);
}

static void refuses_fields_that_would_split_the_reply(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /twice HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "\r\n\r\n");
    assert_string_equal(p->in.data, "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
                                    "Date: today\r\nContent-Length: 0\r\n\r\n");
    peer_free(p);
}

static void takes_absolute_targets_of_its_own_host(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET http://A:1/v1/show/i/x?y HTTP/1.1\r\nHost: a:1\r\n\r\n");
    PEER_HEARS(w, p, "}");
    assert_non_null(strstr(p->in.data, "\"path\":\"/v1/show/i/x\",\"query\":\"y\",\"mount\":"
                                       "\"/v1\",\"rest\":\"/x\""));
    peer_forget(p);
    peer_says(p, "GET http://b/hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS_END(w, p);
    assert_int_equal(strncmp(p->in.data, "HTTP/1.1 400 ", 13), 0);
    peer_free(p);
}

static void runs_a_request_under_another_route(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /again/show/7/z?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    peer_turn(w, p);
    peer_says(p, "dy");
    PEER_HEARS(w, p, "}");
    assert_null(strstr(p->in.data, "X-Outer")); // the outer route's fields are gone
    assert_non_null(strstr(p->in.data, "\"path\":\"/show/7/z\""));
    assert_non_null(strstr(p->in.data, "\"body\":\"body\""));
    peer_forget(p);
    peer_says(p, "GET /again/again/again/hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS(w, p, "hello");
    peer_forget(p);
    peer_says(p, "GET /again/again/again/again/again/hello HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_HEARS_END(w, p);
    assert_int_equal(strncmp(p->in.data, "HTTP/1.1 508 ", 13), 0);
    peer_free(p);
}

static void ignores_upgrades_nobody_wants(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                 "Upgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n" GET_HELLO);
    PEER_UNTIL(w, p, peer_count(p, "hello") == 2);
    assert_heard(p, HELLO_REPLY HELLO_REPLY);
    peer_free(p);
}

static void on_gone(struct http_exchange *x) {
    struct web *w = web_of(x);
    w->gone++;
    w->held = NULL;
    http_reply_empty(x, 499);
}

static void tells_that_the_client_went(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    assert_false(http_gone(w->held));
    w->held->on_gone = on_gone;
    peer_close(p);
    UNTIL(&w->loop, w->gone == 1);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    assert_int_equal(w->finished, 1);
    assert_int_equal(w->status, 499);
    peer_free(p);
}

static void an_exchange_outlives_its_client(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    peer_close(p);
    UNTIL(&w->loop, http_gone(w->held));
    http_reply(w->held, 200, NULL, "late", 4);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    assert_int_equal(w->finished, 1);
    peer_free(p);
}

static void a_client_may_close_its_half(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, GET_HELLO "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n" GET_HELLO);
    assert_int_equal(shutdown(p->fd, SHUT_WR), 0);
    PEER_UNTIL(w, p, w->held && http_gone(w->held));
    http_reply(w->held, 200, NULL, "held", 4);
    PEER_HEARS_END(w, p);
    assert_int_equal(peer_count(p, "HTTP/1.1 200"), 3);
    peer_free(p);
}

static void half_a_head_then_gone(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "GET /hello HTTP/1.1\r\nHo");
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    peer_close(p);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    assert_int_equal(w->finished, 0);
    peer_free(p);
}

static void gone_in_the_middle_of_a_body(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w);
    peer_says(p, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nsome");
    for (int i = 0; i < 5; i++)
        peer_turn(w, p);
    peer_close(p);
    UNTIL(&w->loop, http_server_connections(w->server) == 0);
    assert_null(w->held);
    assert_int_equal(w->status, 499);
    peer_free(p);
}

static void free_cuts_what_is_left(void **state) {
    struct web *w = *state;
    struct peer *p = peer_new(w), *idle = peer_new(w);
    peer_says(p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, p, w->held);
    struct http_exchange *x = w->held;
    http_server_free(TAKE_PTR(w->server));
    assert_true(http_gone(x));
    assert_ptr_equal(web_of(x), w); // the server lives until the last exchange is over
    http_reply_json(x, 200, json_object());
    PEER_HEARS_END(w, p);
    PEER_HEARS_END(w, idle);
    peer_free(p);
    peer_free(idle);
}

// Our end of the connection from that port.
static int accepted_from(in_port_t port) {
    struct sockaddr_in a = {0};
    for (int fd = 3; fd < 256; fd++) {
        socklen_t len = sizeof a;
        if (!getpeername(fd, (struct sockaddr *)&a, &len) && a.sin_family == AF_INET &&
            a.sin_port == port)
            return fd;
    }
    return -1;
}

static void listens_and_names_its_clients(void **state) {
    struct web *w = *state;
    struct error err;
    int fd = listen_tcp("127.0.0.1", 0, 16, &err);
    assert_true(fd >= 0);
    assert_int_equal(http_server_listen(w->server, fd, &err), 0);
    assert_true(http_server_port(w->server) > 0);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_server_port(w->server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct peer p = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    strbuf_init(&p.in, 1 << 20);
    assert_int_equal(connect(p.fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(fcntl(p.fd, F_SETFL, O_NONBLOCK), 0);
    peer_says(&p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    PEER_UNTIL(w, &p, w->held);
    assert_string_equal(w->held->peer, "127.0.0.1");
    assert_true(w->held->peer_port > 0);
    int keeps = 0, idle = 0, ours = accepted_from(htons((uint16_t)w->held->peer_port));
    socklen_t len = sizeof keeps;
    assert_int_equal(getsockopt(ours, SOL_SOCKET, SO_KEEPALIVE, &keeps, &len), 0);
    assert_int_equal(getsockopt(ours, IPPROTO_TCP, TCP_KEEPIDLE, &idle, &len), 0);
    assert_true(keeps && idle == 60); // dead peers are noticed
    http_reply_empty(w->held, 200);
    PEER_HEARS(w, &p, "200 OK");
    peer_close(&p);
    strbuf_free(&p.in);
}

#define WEB_TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {
        WEB_TEST(answers_and_keeps_the_connection),
        WEB_TEST(takes_one_byte_at_a_time),
        WEB_TEST(answers_pipelined_requests_in_order),
        WEB_TEST(many_pipelined_requests),
        WEB_TEST(closes_when_asked),
        WEB_TEST(speaks_http_1_0),
        WEB_TEST(sends_no_body_where_none_belongs),
        WEB_TEST(replies_errors_as_envelopes),
        WEB_TEST(refuses_fields_that_would_split_the_reply),
        WEB_TEST(takes_absolute_targets_of_its_own_host),
        WEB_TEST(runs_a_request_under_another_route),
        WEB_TEST(ignores_upgrades_nobody_wants),
        WEB_TEST(tells_that_the_client_went),
        WEB_TEST(an_exchange_outlives_its_client),
        WEB_TEST(a_client_may_close_its_half),
        WEB_TEST(half_a_head_then_gone),
        WEB_TEST(gone_in_the_middle_of_a_body),
        WEB_TEST(free_cuts_what_is_left),
        WEB_TEST(listens_and_names_its_clients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
