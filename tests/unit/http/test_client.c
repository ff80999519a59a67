// The blocking client against a peer that is scripted beforehand: its bytes lie in the socket.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "http/client.h"

enum { WAIT_MS = 30000 };

static struct http_client *client;
static int peer;
static struct strbuf body;
static struct error err;
static unsigned status;

static int setup(void **state) {
    (void)state;
    int pair[2];
    (void)signal(SIGPIPE, SIG_IGN);
    (void)alarm(60); // a test that hangs
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return -1;
    client = http_client_new(pair[0]);
    peer = pair[1];
    status = 0;
    strbuf_init(&body, 1 << 20);
    return client ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    http_client_free(client);
    strbuf_free(&body);
    if (peer >= 0)
        (void)close(peer);
    return 0;
}

static void peer_says(const char *text) {
    assert_int_equal(fd_write_all(peer, text, strlen(text)), 0);
}

static void peer_closes(void) {
    (void)close(TAKE_FD(peer));
}

static void assert_sent(const char *text) {
    char got[4096];
    ssize_t n = recv(peer, got, sizeof got - 1, MSG_DONTWAIT);
    got[n < 0 ? 0 : n] = 0;
    assert_string_equal(got, text);
}

static int get(void) {
    strbuf_clear(&body);
    return http_client_request(client, "GET", "/x", "", NULL, 0, &status, &body, WAIT_MS, &err);
}

static void assert_reply(unsigned expected, const char *text) {
    assert_int_equal(get(), 0);
    assert_int_equal(status, expected);
    assert_string_equal(body.data, text);
}

static void assert_failure(int kind) {
    assert_int_equal(get(), -1);
    assert_int_equal(err.kind, kind);
    assert_int_equal(get(), -1); // and for good
    assert_int_equal(err.kind, EPIPE);
}

static void test_requests(void **state) {
    (void)state;
    peer_says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_reply(200, "ok");
    assert_sent("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    peer_says("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(http_client_request(client, "POST", "/a?b=c", "A: b\r\nC: d\r\n", "{}", 2,
                                         &status, NULL, WAIT_MS, &err),
                     0);
    assert_int_equal(status, 201);
    assert_sent("POST /a?b=c HTTP/1.1\r\nHost: localhost\r\nA: b\r\nC: d\r\nContent-Length: "
                "2\r\n\r\n{}");
    peer_says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
    assert_int_equal(
        http_client_request(client, "PUT", "/", "", NULL, 0, &status, NULL, WAIT_MS, &err), 0);
    assert_sent("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
}

static void test_framings(void **state) {
    (void)state;
    peer_says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
              "HTTP/1.1 204 No Content\r\n\r\n"
              "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
              "HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nn"
              "HTTP/1.1 200 OK\r\n\r\nuntil the end");
    assert_reply(200, "abc");
    assert_reply(204, "");
    assert_reply(404, "n");
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
    assert_reply(200, "until the end");
    assert_int_equal(get(), -1);
    assert_int_equal(err.kind, EPIPE);
}

static void test_head(void **state) {
    (void)state;
    peer_says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
              "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
    assert_int_equal(
        http_client_request(client, "HEAD", "/", "", NULL, 0, &status, &body, WAIT_MS, &err), 0);
    assert_int_equal(status, 200);
    assert_int_equal(body.len, 0);
    assert_reply(200, "x");
}

static void test_close_after_reply(void **state) {
    (void)state;
    peer_says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx");
    assert_reply(200, "x");
    assert_int_equal(get(), -1);
    assert_int_equal(err.kind, EPIPE);
}

static void test_upgrade(void **state) {
    (void)state;
    peer_says("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\x01\x02");
    assert_reply(101, "");
    assert_int_equal(get(), -1);
    assert_int_equal(err.kind, EPIPE);
}

static void test_closed_without_reply(void **state) {
    (void)state;
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
    assert_failure(ECONNRESET);
    assert_non_null(strstr(err.message, "closed"));
}

static void test_closed_half_a_head(void **state) {
    (void)state;
    peer_says("HTTP/1.1 200 OK\r\nContent-Le");
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
    assert_failure(ECONNRESET);
}

static void test_closed_half_a_body(void **state) {
    (void)state;
    status = 7;
    peer_says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
    assert_failure(ECONNRESET);
    assert_int_equal(status, 7); // outputs only on success
}

static void test_peer_gone_before(void **state) {
    (void)state;
    peer_closes();
    assert_failure(EPIPE);
}

static void test_malformed(void **state) {
    (void)state;
    peer_says("220 smtp.example ESMTP\r\n");
    assert_failure(EPROTO);
}

static void test_too_much(void **state) {
    (void)state;
    body.max = 4;
    peer_says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde");
    assert_failure(EMSGSIZE);
}

static void test_time_out(void **state) {
    (void)state;
    peer_says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
    assert_int_equal(http_client_request(client, "GET", "/", "", NULL, 0, &status, &body, 20, &err),
                     -1);
    assert_int_equal(err.kind, ETIMEDOUT);
    assert_int_equal(get(), -1);
    assert_int_equal(err.kind, EPIPE);
}

static void test_time_out_of_sending(void **state) {
    (void)state;
    cleanup_free char *data = calloc(1, 8 << 20); // more than any socket holds
    assert_int_equal(
        http_client_request(client, "POST", "/", "", data, 8 << 20, &status, NULL, 20, &err), -1);
    assert_int_equal(err.kind, ETIMEDOUT);
}

static void test_split_form(void **state) {
    (void)state;
    assert_int_equal(http_client_send(client, "GET", "/ping", "", NULL, 0, &err), 0);
    assert_sent("GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n");
    peer_says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(http_client_receive(client, &status, &body, WAIT_MS, &err), 0);
    assert_int_equal(status, 200);
}

struct pieces {
    struct strbuf text;
    size_t stop_at;
};

static int take(void *arg, const char *data, size_t len) {
    struct pieces *p = arg;
    (void)strbuf_add(&p->text, data, len);
    return p->stop_at && p->text.len >= p->stop_at ? -1 : 0;
}

static void test_stream(void **state) {
    (void)state;
    struct pieces p = {0};
    strbuf_init(&p.text, 1 << 16);
    peer_says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nef\r\n2\r\ngh\r\n");
    assert_int_equal(http_client_send(client, "GET", "/", "", NULL, 0, &err), 0);
    assert_int_equal(http_client_receive_stream(client, &status, take, &p, WAIT_MS, &err), 0);
    assert_string_equal(p.text.data, "abcd");
    p.stop_at = 6; // the end of this one never comes
    assert_int_equal(http_client_send(client, "GET", "/", "", NULL, 0, &err), 0);
    assert_int_equal(http_client_receive_stream(client, &status, take, &p, WAIT_MS, &err), 0);
    assert_string_equal(p.text.data, "abcdef");
    assert_int_equal(get(), -1);
    assert_int_equal(err.kind, EPIPE);
    strbuf_free(&p.text);
}

// A peer that reads all that is sent, then answers with as much, a byte at first and then quickly.
enum { BIG = 3 << 20 };
static void *big_peer(void *arg) {
    size_t got = 0;
    char *buffer = arg;
    while (got < BIG) {
        ssize_t n = recv(peer, buffer, BIG, 0);
        if (n <= 0)
            return NULL;
        got += (size_t)n;
    }
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n";
    for (size_t i = 0; i < sizeof head - 1; i++)
        (void)fd_write_all(peer, head + i, 1); // a client that is gone fails the test by itself
    (void)fd_write_all(peer, buffer, BIG);
    return NULL;
}

static void test_big_bodies(void **state) {
    (void)state;
    cleanup_free char *data = calloc(1, BIG), *buffer = calloc(1, BIG);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, big_peer, buffer), 0);
    body.max = BIG;
    assert_int_equal(
        http_client_request(client, "POST", "/", "", data, BIG, &status, &body, WAIT_MS, &err), 0);
    assert_int_equal(status, 200);
    assert_int_equal(body.len, BIG);
    assert_int_equal(pthread_join(t, NULL), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_requests),
        TEST(test_framings),
        TEST(test_head),
        TEST(test_close_after_reply),
        TEST(test_upgrade),
        TEST(test_closed_without_reply),
        TEST(test_closed_half_a_head),
        TEST(test_closed_half_a_body),
        TEST(test_peer_gone_before),
        TEST(test_malformed),
        TEST(test_too_much),
        TEST(test_time_out),
        TEST(test_time_out_of_sending),
        TEST(test_split_form),
        TEST(test_stream),
        TEST(test_big_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
