// The parser: what it refuses (tests/component/data/http_vectors.json and the limits), what it
// makes of good messages, and that it does not matter how the bytes are cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/strbuf.h"
#include "http/h1.h"

enum { WHOLE = 1 << 30 };

// All messages of a run as text.
static struct {
    struct h1 parser;
    struct arena arena;
    struct strbuf text;
    unsigned heads, complete;
    bool bodyless; // what head() answers
} run;

static int head(struct h1 *p, const struct http_head *h) {
    assert_ptr_equal(p->user, &run);
    if (h->method)
        (void)strbuf_addf(&run.text, "%s %s 1.%u", h->method, h->target, h->minor);
    else
        (void)strbuf_addf(&run.text, "1.%u %u %s", h->minor, h->status, h->reason);
    (void)strbuf_addf(&run.text, " %s%s%s%s%lld|", h->chunked ? "chunked " : "",
                      h->keep_alive ? "" : "close ", h->upgrade ? "upgrade " : "",
                      h->expect_continue ? "expect " : "", (long long)h->content_length);
    for (size_t i = 0; i < h->headers.count; i++)
        (void)strbuf_addf(&run.text, "%s=%s|", h->headers.fields[i].name,
                          h->headers.fields[i].value);
    run.heads++;
    return run.bodyless;
}

static void body(struct h1 *p, const char *data, size_t len) {
    (void)p;
    assert_true(len > 0);
    (void)strbuf_add(&run.text, data, len);
}

static void complete(struct h1 *p) {
    (void)p;
    run.complete++;
    (void)strbuf_addc(&run.text, '\n');
}

static const struct h1_callbacks callbacks = {head, body, complete};

static void begin(enum h1_kind kind) {
    h1_init(&run.parser, kind, &callbacks, &run);
    arena_init(&run.arena, 1 << 20);
    strbuf_init(&run.text, 1 << 20);
    run.heads = run.complete = 0;
    h1_reset(&run.parser, &run.arena);
}

static void end(void) {
    h1_free(&run.parser);
    arena_free(&run.arena);
    strbuf_free(&run.text);
    run.bodyless = false;
}

// Feeds `step` bytes at a time; stops behind an upgrade. 0, or the status of the refusal.
static int feed(const char *data, size_t len, size_t step) {
    size_t used = 0;
    while (used < len && !run.parser.upgraded) {
        if (run.parser.is_complete) {
            arena_free(&run.arena);
            h1_reset(&run.parser, &run.arena);
        }
        size_t n = len - used < step ? len - used : step;
        cleanup_free char *copy = malloc(n); // its own, so that a sanitizer sees every step too far
        memcpy(copy, data + used, n);
        ssize_t took = h1_feed(&run.parser, copy, n);
        if (took < 0) {
            assert_non_null(run.parser.reason);
            assert_int_equal(h1_feed(&run.parser, copy, n), -1); // refused for good
            return run.parser.status;
        }
        assert_true((size_t)took == n || run.parser.is_complete);
        used += (size_t)took;
    }
    return 0;
}

static int parse(enum h1_kind kind, const char *data, size_t len, size_t step) {
    begin(kind);
    return feed(data, len, step);
}

// Text of JSON, where a character stands for a byte.
static size_t latin1(const char *text, size_t len, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0xc0)
            c = (unsigned char)((c & 3) << 6 | (text[++i] & 0x3f));
        out[n++] = (char)c;
    }
    return n;
}

static void check_vector(const json_t *v, size_t step) {
    json_t *text = json_object_get(v, "bytes");
    const char *name = json_string_value(json_object_get(v, "name"));
    const char *verdict = json_string_value(json_object_get(v, "verdict"));
    cleanup_free char *bytes = malloc(json_string_length(text));
    size_t len = latin1(json_string_value(text), json_string_length(text), bytes);
    int status = parse(H1_REQUEST, bytes, len, step);
    bool ok = !strcmp(verdict, "accept")   ? !status && run.complete == 1
              : !strcmp(verdict, "501")    ? status == 501
              : !strcmp(verdict, "reject") ? status >= 400 && !run.complete
                                           : status == (int)strtod(verdict, NULL);
    if (!ok)
        fail_msg("%s by %zu: status %d (%s), %u complete: %s", name, step, status,
                 run.parser.reason ? run.parser.reason : "", run.complete, run.text.data);
    end();
}

static void test_vectors(void **state) {
    (void)state;
    json_t *file = json_load_file(VECTORS, JSON_ALLOW_NUL, NULL), *v;
    json_t *vectors = json_object_get(file, "vectors");
    size_t i;
    assert_true(json_array_size(vectors) >= 36);
    json_array_foreach(vectors, i, v) {
        check_vector(v, 1);
        check_vector(v, 7);
        check_vector(v, WHOLE);
    }
    json_decref(file);
}

// The text of a message is the same however the bytes are cut.
static void expect(enum h1_kind kind, const char *data, const char *text) {
    size_t len = strlen(data);
    bool bodyless = run.bodyless;
    for (size_t step = 1; step <= len + 1; step++) {
        run.bodyless = bodyless;
        int status = parse(kind, data, len, step);
        if (status || strcmp(run.text.data, text) != 0)
            fail_msg("by %zu: status %d (%s): %s", step, status, status ? run.parser.reason : "",
                     run.text.data);
        end();
    }
}

static void refused(enum h1_kind kind, const char *data, int expected) {
    size_t len = strlen(data);
    for (size_t step = 1; step <= len + 1; step++) {
        int status = parse(kind, data, len, step);
        if (status != expected || run.heads)
            fail_msg("by %zu: status %d, %u heads: %s", step, status, run.heads, data);
        end();
    }
}

#define GET  "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\n"

static void test_requests(void **state) {
    (void)state;
    expect(H1_REQUEST, GET "\r\n", "GET / 1.1 -1|Host=a|\n");
    expect(H1_REQUEST, "GET /a?b=%20#c HTTP/1.0\r\nX:\r\nY: \t z \t\r\nX: 2\r\n\r\n",
           "GET /a?b=%20#c 1.0 close -1|X=|Y=z|X=2|\n");
    expect(H1_REQUEST, POST "Content-Length: 3\r\n\r\nabc",
           "POST / 1.1 3|Host=a|Content-Length=3|abc\n");
    expect(H1_REQUEST,
           POST "Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n1;x=\"y\"\r\nd\r\n0\r\nT: v\r\n\r\n",
           "POST / 1.1 chunked -1|Host=a|Transfer-Encoding=Chunked|abcd\n");
    expect(H1_REQUEST, POST "Content-Length: 0\r\nExpect: 100-Continue\r\n\r\n",
           "POST / 1.1 expect 0|Host=a|Content-Length=0|Expect=100-Continue|\n");
    expect(H1_REQUEST, "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", "OPTIONS * 1.1 -1|Host=|\n");
    expect(H1_REQUEST, "M-SEARCH / HTTP/1.1\r\nHost: [::1]:80\r\nA: t\xc3\xa4g\r\n\r\n",
           "M-SEARCH / 1.1 -1|Host=[::1]:80|A=t\xc3\xa4g|\n");
}

static void test_pipelined(void **state) {
    (void)state;
    expect(H1_REQUEST,
           GET "\r\n" POST "Content-Length: 1\r\n\r\nx\r\n" GET "Connection: close\r\n\r\n",
           "GET / 1.1 -1|Host=a|\nPOST / 1.1 1|Host=a|Content-Length=1|x\n"
           "GET / 1.1 close -1|Host=a|Connection=close|\n");
}

static void test_keep_alive(void **state) {
    (void)state;
    expect(H1_REQUEST, GET "Connection: x, CLOSE\r\n\r\n",
           "GET / 1.1 close -1|Host=a|Connection=x, CLOSE|\n");
    expect(H1_REQUEST, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
           "GET / 1.0 -1|Connection=Keep-Alive|\n");
    expect(H1_REQUEST, "GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
           "GET / 1.0 close -1|Connection=keep-alive|Connection=close|\n");
}

static void test_upgrade(void **state) {
    (void)state;
    static const char request[] =
        GET "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    expect(H1_REQUEST, request,
           "GET / 1.1 upgrade -1|Host=a|Connection=keep-alive, Upgrade|Upgrade=websocket|\n");
    expect(H1_REQUEST, GET "Upgrade: websocket\r\n\r\n",
           "GET / 1.1 -1|Host=a|Upgrade=websocket|\n");
    expect(H1_REQUEST, "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" GET "\r\n",
           "GET / 1.0 close -1|Connection=Upgrade|Upgrade=x|\nGET / 1.1 -1|Host=a|\n");
    // the bytes behind are the other protocol's, or, when nobody upgrades, the next request
    cleanup_free char *both = malloc(sizeof request + 64);
    int len = snprintf(both, sizeof request + 64, "%s%s", request, GET "\r\n");
    begin(H1_REQUEST);
    assert_int_equal(h1_feed(&run.parser, both, (size_t)len), sizeof request - 1);
    assert_true(run.parser.upgraded);
    h1_reset(&run.parser, &run.arena);
    assert_int_equal(
        h1_feed(&run.parser, both + sizeof request - 1, (size_t)len - sizeof request + 1),
        strlen(GET) + 2);
    assert_false(run.parser.upgraded);
    assert_int_equal(run.complete, 2);
    end();
}

static void test_responses(void **state) {
    (void)state;
    expect(H1_RESPONSE, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
           "1.1 200 OK 2|Content-Length=2|ok\n");
    expect(H1_RESPONSE, "HTTP/1.1 404\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
           "1.1 404  chunked -1|Transfer-Encoding=chunked|x\n");
    // no body, whatever the fields say; and interim replies before the final one
    expect(H1_RESPONSE,
           "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"
           "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 101 Go\r\n"
           "Connection: upgrade\r\nUpgrade: tcp\r\n\r\n",
           "1.1 100 Continue -1|\n1.1 304 Not Modified 9|Content-Length=9|\n"
           "1.1 204 No Content chunked -1|Transfer-Encoding=chunked|\n"
           "1.1 101 Go upgrade -1|Connection=upgrade|Upgrade=tcp|\n");
    run.bodyless = true;
    expect(H1_RESPONSE, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
           "1.1 200 OK 2|Content-Length=2|\n");
    refused(H1_RESPONSE, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 501);
    refused(H1_RESPONSE,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400);
    refused(H1_RESPONSE, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400);
    refused(H1_RESPONSE, "HTTP/2.0 200 OK\r\n\r\n", 400);
    refused(H1_RESPONSE, "HTTP/1.1 099 OK\r\n\r\n", 400);
    refused(H1_RESPONSE, "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", 400);
    refused(H1_RESPONSE, "SSH-2.0-OpenSSH\r\n", 400);
}

static void test_finish(void **state) {
    (void)state;
    static const char until_close[] = "HTTP/1.1 200 OK\r\n\r\nabc";
    for (size_t step = 1; step < 30; step++) {
        assert_int_equal(parse(H1_RESPONSE, until_close, strlen(until_close), step), 0);
        assert_int_equal(run.complete, 0);
        assert_int_equal(h1_finish(&run.parser), 0);
        assert_string_equal(run.text.data, "1.1 200 OK -1|abc\n");
        assert_int_equal(h1_finish(&run.parser), -1);
        end();
    }
    static const char *const cut[] = {
        "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"};
    for (size_t i = 0; i < ARRAY_SIZE(cut); i++) {
        assert_int_equal(parse(H1_RESPONSE, cut[i], strlen(cut[i]), WHOLE), 0);
        assert_int_equal(h1_finish(&run.parser), -1);
        assert_int_equal(run.complete, 0);
        end();
    }
}

static void test_refusals(void **state) {
    (void)state;
    refused(H1_REQUEST, "GET / HTTP/1.1\r\n\r\n", 400);
    refused(H1_REQUEST, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400);
    refused(H1_REQUEST, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400);
    refused(H1_REQUEST, "GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n", 400);
    refused(H1_REQUEST, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501);
    refused(H1_REQUEST, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400);
    refused(H1_REQUEST, "FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    refused(H1_REQUEST, POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", 400);
    refused(H1_REQUEST, POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400);
    refused(H1_REQUEST, POST "Transfer-Encoding: identity\r\n\r\n", 501);
    refused(H1_REQUEST, POST "Transfer-Encoding:\r\n\r\n", 501);
    refused(H1_REQUEST, POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400);
    refused(H1_REQUEST, POST "Content-Length: +3\r\n\r\nabc", 400);
    refused(H1_REQUEST, POST "Content-Length: 9223372036854775808\r\n\r\nabc", 400);
    refused(H1_REQUEST, POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400);
    refused(H1_REQUEST, GET "A: b\r\n\tc\r\n\r\n", 400);
    refused(H1_REQUEST, GET "A: b\nB: c\r\n\r\n", 400);
    refused(H1_REQUEST, GET ": c\r\n\r\n", 400);
    refused(H1_REQUEST, GET "A: b\r\n\nB: c\r\n\r\n", 400);
    refused(H1_REQUEST, GET "\n GET / HTTP/1.1\r\n\r\n", 400);
    refused(H1_RESPONSE, "HTTP/1.1 200 OK\n\nHTTP/1.1 200 OK\r\n\r\n", 400);
    refused(H1_REQUEST, "\x16\x03\x01\x02", 400); // a TLS client
}

// `count` times `piece` between two ends, cut in different ways; 0 or the status.
static int flood(enum h1_kind kind, const char *before, const char *piece, size_t count,
                 const char *after) {
    static const size_t steps[] = {WHOLE, 65536, 1000, 1};
    struct strbuf sb;
    int status[ARRAY_SIZE(steps)];
    strbuf_init(&sb, 8 << 20);
    (void)strbuf_adds(&sb, before);
    for (size_t i = 0; i < count; i++)
        (void)strbuf_adds(&sb, piece);
    (void)strbuf_adds(&sb, after);
    assert_false(sb.failed);
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        status[i] = parse(kind, sb.data, sb.len, steps[i]);
        assert_int_equal(status[i], status[0]);
        assert_int_equal(run.complete, !status[i]);
        end();
    }
    strbuf_free(&sb);
    return status[0];
}

static void test_limits(void **state) {
    (void)state;
    static const char line[] = " HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_int_equal(flood(H1_REQUEST, "GET /", "a", H1_TARGET_MAX - 1, line), 0);
    assert_int_equal(flood(H1_REQUEST, "GET /", "a", H1_TARGET_MAX, line), 414);
    assert_int_equal(flood(H1_REQUEST, "GET /", "a", 300000, line), 414);
    assert_int_equal(flood(H1_REQUEST, GET, "A: b\r\n", H1_FIELDS_MAX - 1, "\r\n"), 0);
    assert_int_equal(flood(H1_REQUEST, GET, "A: b\r\n", H1_FIELDS_MAX, "\r\n"), 431);
    size_t most = H1_HEAD_BYTES_MAX - strlen(GET "X: \r\n\r\n");
    assert_int_equal(flood(H1_REQUEST, GET "X: ", "x", most, "\r\n\r\n"), 0);
    assert_int_equal(flood(H1_REQUEST, GET "X: ", "x", most + 1, "\r\n\r\n"), 431);
    assert_int_equal(flood(H1_REQUEST, GET "X: ", "x", 200000, "\r\n\r\n"), 431);
    assert_int_equal(flood(H1_REQUEST, GET, "x", 200000, ": a\r\n\r\n"), 431);
    assert_int_equal(flood(H1_REQUEST, "", "\r\n", 200000, GET "\r\n"), 431);
    assert_int_equal(
        flood(H1_RESPONSE, "HTTP/1.1 200 ", "x", 70000, "\r\nContent-Length: 0\r\n\r\n"), 414);
    static const char chunked[] = POST "Transfer-Encoding: chunked\r\n\r\n";
    cleanup_free char *extended = malloc(sizeof chunked + 8);
    (void)snprintf(extended, sizeof chunked + 8, "%s1;", chunked);
    assert_int_equal(flood(H1_REQUEST, extended, "x", 1000, "\r\nA\r\n0\r\n\r\n"), 0);
    assert_int_equal(flood(H1_REQUEST, extended, "x", 200000, "\r\nA\r\n0\r\n\r\n"), 431);
    assert_int_equal(flood(H1_REQUEST, chunked, "1;x=y\r\nA\r\n", 100000, "0\r\n\r\n"), 431);
    (void)snprintf(extended, sizeof chunked + 8, "%s0\r\n", chunked);
    assert_int_equal(flood(H1_REQUEST, extended, "A: b\r\n", 1000, "\r\n"), 0);
    assert_int_equal(flood(H1_REQUEST, extended, "A: b\r\n", 100000, "\r\n"), 431);
}

static void test_no_memory(void **state) {
    (void)state;
    static const char data[] = GET "A: b\r\n\r\n";
    for (size_t max = 0; max < 1000; max += 8) {
        begin(H1_REQUEST);
        run.arena.max = max;
        int status = feed(data, strlen(data), WHOLE);
        assert_true(status == 431 || (!status && run.complete));
        end();
    }
}

// The owner is done with the parser when a message is complete.
static void free_it(struct h1 *p) {
    run.complete++;
    h1_free(p);
    memset(p, 0xff, sizeof *p);
    free(p);
}

static void test_freed_in_complete(void **state) {
    (void)state;
    static const struct h1_callbacks freeing = {head, body, free_it};
    static const char data[] = GET "\r\n" GET "\r\n";
    begin(H1_REQUEST);
    struct h1 *p = malloc(sizeof *p);
    h1_init(p, H1_REQUEST, &freeing, &run);
    h1_reset(p, &run.arena);
    assert_int_equal(h1_feed(p, data, strlen(data)), strlen(data) / 2);
    assert_int_equal(run.complete, 1);
    end();
}

// Bytes of a body that never see the parser.
static void test_skip(void **state) {
    (void)state;
    static const char first[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc";
    static const char second[] = "j" GET "\r\n";
    begin(H1_REQUEST);
    assert_int_equal(h1_left(&run.parser), 0);
    assert_int_equal(h1_feed(&run.parser, first, strlen(first)), strlen(first));
    assert_int_equal(h1_left(&run.parser), 7);
    h1_skip(&run.parser, 4);
    h1_skip(&run.parser, 2);
    assert_int_equal(h1_left(&run.parser), 1);
    assert_int_equal(run.complete, 0);
    assert_int_equal(h1_feed(&run.parser, second, strlen(second)), 1); // and not one more
    assert_int_equal(run.complete, 1);
    assert_int_equal(h1_left(&run.parser), 0);
    end();
    begin(H1_REQUEST);
    static const char chunked[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                                  "a\r\nabc";
    assert_int_equal(h1_feed(&run.parser, chunked, strlen(chunked)), strlen(chunked));
    assert_int_equal(h1_left(&run.parser), 0); // of a chunk nobody may skip
    end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_upgrade),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_finish),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_freed_in_complete),
        cmocka_unit_test(test_skip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
