// Fields in order, repeated ones kept, names without case, nothing that could end a line early.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "http/headers.h"

static struct arena arena;
static struct http_headers h;

static int setup(void **state) {
    (void)state;
    arena_init(&arena, 1 << 20);
    http_headers_init(&h, &arena);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_free(&arena);
    return 0;
}

static int add(const char *name, const char *value) {
    return http_headers_add(&h, name, strlen(name), value, strlen(value));
}

static void assert_written(const char *text) {
    struct strbuf sb;
    strbuf_init(&sb, 1 << 16);
    assert_int_equal(http_headers_write(&h, &sb), 0);
    assert_string_equal(sb.data, text);
    strbuf_free(&sb);
}

static void test_order_and_case(void **state) {
    (void)state;
    assert_int_equal(add("Set-Cookie", "a=1"), 0);
    assert_int_equal(add("X-Empty", ""), 0);
    assert_int_equal(add("set-cookie", "b=2"), 0);
    assert_string_equal(http_headers_get(&h, "SET-COOKIE"), "a=1");
    assert_string_equal(http_headers_get(&h, "x-empty"), "");
    assert_null(http_headers_get(&h, "Set-Cooki"));
    assert_null(http_headers_get(&h, "Set-Cookie2"));
    assert_int_equal(http_headers_count(&h, "Set-cookie"), 2);
    assert_int_equal(http_headers_count(&h, "Cookie"), 0);
    assert_int_equal(h.fields[0].name_len, 10);
    assert_int_equal(h.fields[0].value_len, 3);
    assert_written("Set-Cookie: a=1\r\nX-Empty: \r\nset-cookie: b=2\r\n");
}

static void test_many(void **state) {
    (void)state;
    char name[16];
    for (int i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof name, "n%d", i);
        assert_int_equal(add(name, name + 1), 0);
    }
    assert_int_equal(h.count, 100);
    assert_string_equal(http_headers_get(&h, "N0"), "0");
    assert_string_equal(http_headers_get(&h, "N99"), "99");
}

static void test_set(void **state) {
    (void)state;
    assert_int_equal(add("A", "1"), 0);
    assert_int_equal(add("B", "2"), 0);
    assert_int_equal(add("a", "3"), 0);
    assert_int_equal(add("C", "4"), 0);
    assert_int_equal(http_headers_set(&h, "a", "new"), 0);
    assert_written("a: new\r\nB: 2\r\nC: 4\r\n");
    assert_int_equal(http_headers_set(&h, "D", "5"), 0);
    assert_written("a: new\r\nB: 2\r\nC: 4\r\nD: 5\r\n");
}

static void test_bad_bytes(void **state) {
    (void)state;
    assert_int_equal(add("", "x"), -1);
    assert_int_equal(add("a:b", "x"), -1);
    assert_int_equal(add("a b", "x"), -1);
    assert_int_equal(add("a\r\nb", "x"), -1);
    assert_int_equal(add("a", "x\r\nSet-Cookie: y"), -1);
    assert_int_equal(add("a", "x\ny"), -1);
    assert_int_equal(http_headers_add(&h, "a", 1, "x\0y", 3), -1);
    assert_int_equal(http_headers_set(&h, "a", "x\n"), -1);
    assert_int_equal(h.count, 0);
    assert_int_equal(add("a", "t\xc3\xa4g, \x80\t!"), 0); // obs-text and tabs are legal
}

static void test_tokens(void **state) {
    (void)state;
    assert_int_equal(add("Connection", " keep-alive ,Upgrade"), 0);
    assert_int_equal(add("X", "other"), 0);
    assert_int_equal(add("connection", ",,X-Foo\t, bar baz"), 0);
    assert_true(http_headers_has_token(&h, "Connection", "keep-alive"));
    assert_true(http_headers_has_token(&h, "Connection", "upgrade"));
    assert_true(http_headers_has_token(&h, "Connection", "x-foo"));
    assert_false(http_headers_has_token(&h, "Connection", "x-fo"));
    assert_false(http_headers_has_token(&h, "Connection", "x-foo2"));
    assert_false(http_headers_has_token(&h, "Connection", "bar"));
    assert_false(http_headers_has_token(&h, "Connection", "other"));
    assert_false(http_headers_has_token(&h, "Upgrade", "upgrade"));
}

static void test_no_memory(void **state) {
    (void)state;
    struct strbuf sb;
    arena.max = 2048;
    int added = 0;
    while (!add("name", "0123456789012345678901234567890123456789"))
        added++;
    assert_int_equal(h.count, added);
    assert_string_equal(h.fields[added - 1].name, "name");
    strbuf_init(&sb, 20);
    assert_int_equal(http_headers_write(&h, &sb), -1);
    strbuf_free(&sb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order_and_case, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_set, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
