// What the proxy passes on, and how: framing, fields, upgrades.
#include "proxy_test.h"

#define GET "GET /a?b=c%20d HTTP/1.1\r\nHost: h\r\n\r\n"
#define OPEN(...)                                                                                  \
    struct rig r = {__VA_ARGS__};                                                                  \
    rig_open(&r, *state)

static void content_length_both_ways(void **state) {
    OPEN(0);
    say(r.client, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    expect(&r, peer(&r, 0), "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    say(r.peers[0], "HTTP/1.1 201 Created\r\nContent-Length: 3\r\nX: y\r\n\r\nabc");
    const char *h = head(&r, r.client);
    begins(h, "HTTP/1.1 201 Created\r\n");
    has(h, "Content-Length: 3\r\n");
    has(h, "X: y\r\n");
    expect(&r, r.client, "abc");
    assert_int_equal(r.over, 1);
    rig_close(&r);
}

static void chunked_both_ways(void **state) {
    OPEN(0);
    say(r.client, "PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    expect(&r, peer(&r, 0),
           "PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    say(r.client, "0A;name=value\r\n0123456789\r\n0\r\n\r\n");
    expect(&r, r.peers[0], "a\r\n0123456789\r\n0\r\n\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    has(head(&r, r.client), "Transfer-Encoding: chunked\r\n");
    expect(&r, r.client, "5\r\nhello\r\n");
    say(r.peers[0], "0\r\n\r\n");
    expect(&r, r.client, "0\r\n\r\n");
    rig_close(&r);
}

static void small_chunks_become_one(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n");
    (void)head(&r, r.client);
    expect(&r, r.client, "6\r\nabcdef\r\n0\r\n\r\n");
    rig_close(&r);
}

static void chunked_post_termination(void **state) {
    OPEN(0);
    say(r.client, "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    expect(&r, peer(&r, 0),
           "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    silent(&r, r.peers[0]);
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    begins(head(&r, r.client), "HTTP/1.1 200 OK\r\n");
    rig_close(&r);
}

static void serialize_posts(void **state) {
    OPEN(0);
    for (int i = 0; i < 3; i++) {
        say(r.client, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
        expect(&r, peer(&r, 0), "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
        say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        (void)head(&r, r.client);
        expect(&r, r.client, "ok");
    }
    assert_int_equal(r.dials, 1);
    rig_close(&r);
}

static void pipelined_requests_keep_their_order(void **state) {
    OPEN(0);
    say(r.client, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(&r, peer(&r, 0), "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    silent(&r, r.peers[0]);
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    expect(&r, r.peers[0], "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
    (void)head(&r, r.client);
    expect(&r, r.client, "1");
    (void)head(&r, r.client);
    expect(&r, r.client, "2");
    rig_close(&r);
}

static void read_until_close(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 200 OK\r\n\r\nall of it");
    has(head(&r, r.client), "Transfer-Encoding: chunked\r\n");
    expect(&r, r.client, "9\r\nall of it\r\n");
    hang_up(&r, 0);
    expect(&r, r.client, "0\r\n\r\n");
    round_trip(&r, 1); // the client's connection lives, the upstream's is another
    rig_close(&r);
}

static void http_transfer_encoding(void **state) { // chunked is not for HTTP/1.0
    OPEN(0);
    say(r.client, "GET / HTTP/1.0\r\nHost: h\r\n\r\n");
    expect(&r, peer(&r, 0), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    has_not(head(&r, r.client), "Transfer-Encoding");
    expect(&r, r.client, "hello");
    closed(&r, r.client);
    rig_close(&r);
}

static void null_host_header(void **state) {
    OPEN(0);
    say(r.client, "GET / HTTP/1.0\r\n\r\n");
    expect(&r, peer(&r, 0), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    rig_close(&r);
}

static void h1_host_normalization(void **state) {
    OPEN(0);
    say(r.client, "GET / HTTP/1.1\r\nA: 1\r\nhOsT: Ex.AMPLE:8080\r\n\r\n");
    expect(&r, peer(&r, 0), "GET / HTTP/1.1\r\nHost: Ex.AMPLE:8080\r\nA: 1\r\n\r\n");
    rig_close(&r);
    struct rig other = {.policy = {.target = "/else?where", .host = "other"}};
    rig_open(&other, *state);
    say(other.client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(&other, peer(&other, 0), "GET /else?where HTTP/1.1\r\nHost: other\r\n\r\n");
    rig_close(&other);
}

static void head_has_a_length_and_no_body(void **state) {
    OPEN(0);
    for (int i = 0; i < 2; i++) {
        say(r.client, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        expect(&r, peer(&r, 0), "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        has(head(&r, r.client), "Content-Length: 1000\r\n");
    }
    silent(&r, r.client);
    assert_int_equal(r.dials, 1);
    round_trip(&r, 0);
    rig_close(&r);
}

static void no_content_and_not_modified(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 204 No Content\r\n\r\n");
    const char *h = head(&r, r.client);
    begins(h, "HTTP/1.1 204 ");
    has_not(h, "Content-Length");
    has_not(h, "Transfer-Encoding");
    say(r.client, GET);
    (void)head(&r, r.peers[0]);
    say(r.peers[0], "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n");
    h = head(&r, r.client);
    begins(h, "HTTP/1.1 304 ");
    has(h, "ETag: \"x\"\r\n");
    has_not(h, "Transfer-Encoding");
    round_trip(&r, 0);
    rig_close(&r);
}

static void informational(void **state) {
    OPEN(0);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    silent(&r, r.client);
    say(r.peers[0],
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    const char *h = head(&r, r.client);
    begins(h, "HTTP/1.1 200 OK\r\n");
    has_not(h, "Link");
    expect(&r, r.client, "ok");
    round_trip(&r, 0);
    rig_close(&r);
}

static void expect_100_continue(void **state) {
    OPEN(0);
    say(r.client,
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    expect(&r, peer(&r, 0), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n");
    expect(&r, r.client, "HTTP/1.1 100 Continue\r\n\r\n");
    say(r.client, "abc");
    expect(&r, r.peers[0], "abc");
    say(r.peers[0], "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    begins(head(&r, r.client), "HTTP/1.1 200 OK\r\n");
    rig_close(&r);
}

static void drop_headers(void **state) {
    OPEN(0);
    say(r.client, "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Secret ,x-OTHER\r\n"
                  "Keep-Alive: 5\r\nX-Secret: 1\r\nTE: trailers\r\nProxy-Connection: x\r\n"
                  "Proxy-Authorization: y\r\nTrailer: z\r\nUpgrade: websocket\r\nX-Other: 2\r\n"
                  "Accept: */*\r\n\r\n");
    expect(&r, peer(&r, 0), "GET / HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Inner\r\nX-Inner: 1\r\n"
                    "Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"
                    "Trailer: T\r\nX-Kept: 1\r\n\r\n");
    const char *h = head(&r, r.client);
    has(h, "X-Kept: 1\r\n");
    has_not(h, "X-Inner");
    has_not(h, "timeout=5");
    has_not(h, "Proxy-");
    has_not(h, "h2c");
    has_not(h, "Trailer");
    rig_close(&r);
}

static void repeated_headers_keep_their_order(void **state) {
    OPEN(0);
    say(r.client, "GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nb:  2, 3 \r\nA: \xff\xfe\r\nCookie: x=y\r\n"
                  "Authorization: z\r\nOrigin: o\r\na:\r\n\r\n");
    expect(&r, peer(&r, 0),
           "GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nb: 2, 3\r\nA: \xff\xfe\r\nCookie: x=y\r\n"
           "Authorization: z\r\nOrigin: o\r\na: \r\n\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nB: x\r\nSet-Cookie: b=2; Path=/\r\n"
                    "Date: yesterday\r\nServer: theirs\r\nContent-Length: 0\r\n\r\n");
    const char *h = head(&r, r.client);
    has(h, "Set-Cookie: a=1\r\nB: x\r\nSet-Cookie: b=2; Path=/\r\nDate: yesterday\r\n"
           "Server: theirs\r\n");
    assert_null(strstr(strstr(h, "Date:") + 1, "Date:"));
    rig_close(&r);
}

static bool drop_key(const struct http_field *f, void *arg) {
    (void)arg;
    return f->name_len == 3 && strcasecmp(f->name, "Key") == 0;
}

static void hooks_drop_and_the_policy_adds(void **state) {
    const struct http_field add = {"X-Forwarded-For", "1.2.3.4", 15, 7};
    OPEN(.policy = {
             .drop_request = drop_key, .drop_response = drop_key, .add = &add, .add_count = 1});
    say(r.client, "GET / HTTP/1.1\r\nHost: h\r\nKEY: 1\r\nKeys: 2\r\n\r\n");
    expect(&r, peer(&r, 0),
           "GET / HTTP/1.1\r\nHost: h\r\nKeys: 2\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nkey: 1\r\nkeys: 2\r\nContent-Length: 0\r\n\r\n");
    const char *h = head(&r, r.client);
    has(h, "keys: 2\r\n");
    has_not(h, "key: 1");
    rig_close(&r);
}

static void cookies_and_locations_stay_below_the_prefix(void **state) {
    OPEN(.policy = {.cookie_path = "/p/80", .location_prefix = "/p/80"});
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(r.peers[0], "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /login?x=/\r\n"
                    "Set-Cookie: a=\"1;Domain=.example.com ; HttpOnly; path = /x;Secure\r\n"
                    "Set-Cookie: b=2\r\nSet-Cookie: c=3; PathX=1; DOMAIN\r\n\r\n");
    const char *h = head(&r, r.client);
    has(h, "Location: /p/80/login?x=/\r\n");
    has(h, "Set-Cookie: a=\"1; HttpOnly;Secure; Path=/p/80\r\n");
    has(h, "Set-Cookie: b=2; Path=/p/80\r\n");
    has(h, "Set-Cookie: c=3; PathX=1; Path=/p/80\r\n");
    static const char *const kept[] = {"//host/x", "http://host/x", "relative", "?q"};
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        char text[128];
        say(r.client, GET);
        (void)head(&r, r.peers[0]);
        (void)snprintf(text, sizeof text, "Location: %s\r\n", kept[i]);
        say(r.peers[0], "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n");
        say(r.peers[0], text);
        say(r.peers[0], "\r\n");
        has(head(&r, r.client), text);
    }
    rig_close(&r);
}

static void trailers_are_dropped(void **state) {
    OPEN(0);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n");
    expect(&r, peer(&r, 0),
           "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
           "1\r\na\r\n0\r\n\r\n");
    say(r.peers[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "1\r\nb\r\n0\r\nX-Trailer: 1\r\n\r\n");
    (void)head(&r, r.client);
    expect(&r, r.client, "1\r\nb\r\n0\r\n\r\n");
    round_trip(&r, 0);
    rig_close(&r);
}

#define WEBSOCKET                                                                                  \
    "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"     \
    "Sec-WebSocket-Key: k\r\n\r\n"
#define WEBSOCKET_ON                                                                               \
    "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"                \
    "Connection: Upgrade\r\n\r\n"
#define SWITCHING                                                                                  \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"            \
    "Sec-WebSocket-Accept: a\r\n\r\n"

static void websocket(void **state) {
    OPEN(0);
    say(r.client, WEBSOCKET "early from the client");
    expect(&r, peer(&r, 0), WEBSOCKET_ON);
    say(r.peers[0], SWITCHING "early from the upstream");
    const char *h = head(&r, r.client);
    begins(h, "HTTP/1.1 101 Switching Protocols\r\n");
    has(h, "Upgrade: websocket\r\n");
    has(h, "Connection: Upgrade\r\n");
    has(h, "Sec-WebSocket-Accept: a\r\n");
    has_not(h, "Content-Length");
    has_not(h, "Transfer-Encoding");
    expect(&r, r.client, "early from the upstream");
    expect(&r, r.peers[0], "early from the client");
    assert_int_equal(r.over, 1);
    assert_true(http_upstream_in_use(r.upstream));
    say(r.peers[0], "HTTP/1.1 is not parsed\r\n\r\n");
    expect(&r, r.client, "HTTP/1.1 is not parsed\r\n\r\n");
    assert_int_equal(shutdown(r.client, SHUT_WR), 0); // half-close is kept
    closed(&r, r.peers[0]);
    say(r.peers[0], "last words");
    expect(&r, r.client, "last words");
    hang_up(&r, 0);
    closed(&r, r.client);
    UNTIL(r.l, !http_upstream_in_use(r.upstream));
    rig_close(&r);
}

static void protocol_upgrade(void **state) { // any protocol, and the upstream hangs up first
    OPEN(0);
    say(r.client, "POST / HTTP/1.1\r\nHost: h\r\nConnection: upgrade, X-Hop\r\nX-Hop: 1\r\n"
                  "Upgrade: Foo/2\r\nContent-Length: 0\r\n\r\n");
    expect(&r, peer(&r, 0),
           "POST / HTTP/1.1\r\nHost: h\r\nUpgrade: Foo/2\r\nConnection: Upgrade\r\n"
           "Content-Length: 0\r\n\r\n");
    say(r.peers[0], "HTTP/1.1 101 Fine\r\nConnection: upgrade\r\nUpgrade: Foo/2\r\n\r\n");
    has(head(&r, r.client), "Upgrade: Foo/2\r\n");
    say(r.client, "ping");
    expect(&r, r.peers[0], "ping");
    assert_int_equal(shutdown(r.peers[0], SHUT_WR), 0);
    closed(&r, r.client);
    say(r.client, "pong");
    expect(&r, r.peers[0], "pong");
    rig_close(&r); // a tunnel that lives is cut, and nothing stays open
}

static void srv_ws(void **state) { // a refused upgrade is an ordinary answer
    OPEN(0);
    say(r.client, WEBSOCKET);
    expect(&r, peer(&r, 0), WEBSOCKET_ON);
    say(r.peers[0], "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    begins(head(&r, r.client), "HTTP/1.1 403 Forbidden\r\n");
    expect(&r, r.client, "no");
    round_trip(&r, 0);
    rig_close(&r);
}

static void idle_connections_have_a_limit(void **state) {
    OPEN(.settings = {.idle_ms = 20});
    round_trip(&r, 0);
    closed(&r, r.peers[0]);
    round_trip(&r, 1);
    rig_close(&r);
}

static void the_stock_has_a_limit(void **state) {
    OPEN(.settings = {.idle_max = 1});
    int second = rig_client(&r);
    say(r.client, GET);
    (void)head(&r, peer(&r, 0));
    say(second, GET);
    (void)head(&r, peer(&r, 1));
    say(r.peers[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    (void)head(&r, r.client);
    say(r.peers[1], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    (void)head(&r, second);
    closed(&r, r.peers[1]);
    silent(&r, r.peers[0]);
    close(second);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(content_length_both_ways),
        LOOP_TEST(chunked_both_ways),
        LOOP_TEST(small_chunks_become_one),
        LOOP_TEST(chunked_post_termination),
        LOOP_TEST(serialize_posts),
        LOOP_TEST(pipelined_requests_keep_their_order),
        LOOP_TEST(read_until_close),
        LOOP_TEST(http_transfer_encoding),
        LOOP_TEST(null_host_header),
        LOOP_TEST(h1_host_normalization),
        LOOP_TEST(head_has_a_length_and_no_body),
        LOOP_TEST(no_content_and_not_modified),
        LOOP_TEST(informational),
        LOOP_TEST(expect_100_continue),
        LOOP_TEST(drop_headers),
        LOOP_TEST(repeated_headers_keep_their_order),
        LOOP_TEST(hooks_drop_and_the_policy_adds),
        LOOP_TEST(cookies_and_locations_stay_below_the_prefix),
        LOOP_TEST(trailers_are_dropped),
        LOOP_TEST(websocket),
        LOOP_TEST(protocol_upgrade),
        LOOP_TEST(srv_ws),
        LOOP_TEST(idle_connections_have_a_limit),
        LOOP_TEST(the_stock_has_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
