// Percent-coding, query strings, dot segments in disguise.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "http/url.h"

static struct arena arena;

static int setup(void **state) {
    (void)state;
    arena_init(&arena, 1 << 20);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_free(&arena);
    return 0;
}

static void assert_decoded(const char *text, bool plus, const char *expected) {
    size_t len = 99;
    const char *out = url_decode(&arena, text, strlen(text), plus, &len);
    if (!expected) {
        assert_null(out);
        return;
    }
    assert_string_equal(out, expected);
    assert_int_equal(len, strlen(expected));
}

static void test_decode(void **state) {
    (void)state;
    assert_decoded("", false, "");
    assert_decoded("a%20b%2fC%2F", false, "a b/C/");
    assert_decoded("a+b%2B", false, "a+b+");
    assert_decoded("a+b%2B", true, "a b+");
    assert_decoded("%", false, "%");
    assert_decoded("100%", false, "100%");
    assert_decoded("%4", false, "%4");
    assert_decoded("%zz%4g%%41", false, "%zz%4g%A");
    assert_decoded("%c3%A4", false, "\xc3\xa4");
    assert_decoded("a%00b", false, NULL);
    assert_null(url_decode(&arena, "a\0b", 3, false, NULL));
    assert_string_equal(url_decode(&arena, "%41%42", 3, false, NULL), "A"); // no look past the end
    assert_string_equal(url_decode(&arena, "%41%42", 5, false, NULL), "A%4");
}

static void test_encode(void **state) {
    (void)state;
    struct strbuf sb;
    strbuf_init(&sb, 64);
    assert_int_equal(url_encode(&sb, "aZ09-._~ /\xc3\xa4%", 13, "/"), 0);
    assert_string_equal(sb.data, "aZ09-._~%20/%C3%A4%25");
    strbuf_clear(&sb);
    assert_int_equal(url_encode(&sb, "a\0/", 3, ""), 0);
    assert_string_equal(sb.data, "a%00%2F");
    strbuf_free(&sb);
    strbuf_init(&sb, 4);
    assert_int_equal(url_encode(&sb, "äää", 6, ""), -1);
    strbuf_free(&sb);
}

static void test_query(void **state) {
    (void)state;
    struct url_pair *p = NULL;
    assert_int_equal(url_query(&arena, "a=1&b&&c=&a=x%3Dy=z+w&%62=%26&", &p), 5);
    const char *expected[][2] = {{"a", "1"}, {"b", ""}, {"c", ""}, {"a", "x=y=z w"}, {"b", "&"}};
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        assert_string_equal(p[i].name, expected[i][0]);
        assert_string_equal(p[i].value, expected[i][1]);
        assert_int_equal(p[i].has_value, i != 1);
    }
    assert_string_equal(url_query_last(p, 5, "a"), "x=y=z w");
    assert_string_equal(url_query_last(p, 5, "b"), "&");
    assert_null(url_query_last(p, 5, "A"));
    assert_int_equal(url_query(&arena, "", &p), 0);
    assert_null(url_query_last(p, 0, "a"));
    assert_int_equal(url_query(&arena, "&&", &p), 0);
    assert_int_equal(url_query(&arena, "=v", &p), 1);
    assert_string_equal(p[0].name, "");
    assert_int_equal(url_query(&arena, "a=%00", &p), -1);
}

static void test_query_limits(void **state) {
    (void)state;
    struct url_pair *p = NULL;
    static char text[2 * 4097 + 1];
    for (size_t i = 0; i < sizeof text - 1; i += 2)
        memcpy(text + i, "a&", 2);
    text[2 * 4096 - 1] = 0;
    assert_int_equal(url_query(&arena, text, &p), 4096);
    text[2 * 4096 - 1] = '&';
    assert_int_equal(url_query(&arena, text, &p), -1);
    arena.max = arena.used + 100;
    assert_int_equal(url_query(&arena, "a&b&c&d&e&f&g", &p), -1);
}

static void test_dot_segments(void **state) {
    (void)state;
    static const char *const dotted[] = {
        "..",        "/..",       "/a/../b",   "/./a",   "/a/.",        "/a/..",
        "/%2e%2e/b", "/%2E./b",   "/.%2e",     "/a/%2e", "/a%2f..%2fb", "/a%2F%2e%2e",
        "/a\\..\\b", "/a%5c../b", "/a%5C%2e.", "/..%2f", "/x/..\\",     "//../",
    };
    static const char *const plain[] = {
        "",
        "/",
        "/a..b.js",
        "/...",
        "/..a",
        "/a..",
        "/.well-known/x",
        "/%2e%2ea",
        "/a/%252e%252e/",
        "/.%2",
        "/%2e%2e%2e",
        "/a/b//c",
        "/..%2ex",
    };
    for (size_t i = 0; i < ARRAY_SIZE(dotted); i++)
        if (!url_has_dot_segment(dotted[i]))
            fail_msg("%s has one", dotted[i]);
    for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
        if (url_has_dot_segment(plain[i]))
            fail_msg("%s has none", plain[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_decode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_query, setup, teardown),
        cmocka_unit_test_setup_teardown(test_query_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dot_segments, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
