// The parser: what it refuses (tests/component/data/http_vectors.json and the limits), what it
// makes of good messages, and that it does not matter how the bytes are cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
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
    unsigned complete;
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
    run.complete = 0;
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
