// JSON within limits.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"

static void values_of_any_type_are_read(void **state) {
    struct error err;
    size_t offset = 0;
    (void)state;
    cleanup_json json_t *one = json_parse("{\"a\":1,\"a\":9007199254740993}", 28, NULL, &err);
    assert_int_equal(json_integer_value(json_object_get(one, "a")), 9007199254740993); // the last
    cleanup_json json_t *two = json_parse("null", 4, NULL, &err);
    assert_true(json_is_null(two));
    assert_null(json_parse("{\n \"a\":", 7, &offset, &err));
    assert_non_null(strstr(err.message, "line 2 column"));
    assert_true(offset > 0 && offset <= 7);
    assert_null(json_parse("1 2", 3, NULL, &err));
    assert_null(json_parse("\"\xff\"", 3, NULL, &err));
    assert_null(json_parse("", 0, NULL, &err));
    assert_null(json_parse("99999999999999999999", 20, NULL, &err));
}

static void nesting_is_bounded(void **state) {
    static char deep[1000000];
    struct error err;
    (void)state;
    memset(deep, '[', sizeof deep);
    assert_null(json_parse(deep, sizeof deep, NULL, &err));
}

static void output_is_compact(void **state) {
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 17);
    cleanup_json json_t *value = json_pack("{s:i,s:[s]}", "a", 1, "b", "x");
    assert_int_equal(json_write(value, &sb), 0);
    assert_string_equal(sb.data, "{\"a\":1,\"b\":[\"x\"]}");
    strbuf_free(&sb);
    strbuf_init(&sb, 10);
    assert_int_equal(json_write(value, &sb), -1);
    strbuf_free(&sb);
}

static void text_never_splits_a_line(void **state) {
    static const char *const cases[][2] = {
        {"", "\"\""},
        {"a\"b\\", "\"a\\\"b\\\\\""},
        {"\b\f\n\r\t\x01\x1f", "\"\\b\\f\\n\\r\\t\\u0001\\u001f\""},
        {"\x7f", "\"\\u007f\""},
        {"\xc2\x85\xe2\x80\xa8\xe2\x80\xa9", "\"\\u0085\\u2028\\u2029\""},
        {"\xe2\x82\xac\xf0\x9f\x92\xa9", "\"\xe2\x82\xac\xf0\x9f\x92\xa9\""},
        {"x\xff", "\"x\xef\xbf\xbd\""}};
    struct strbuf sb;
    struct error err;
    (void)state;
    strbuf_init(&sb, 1000);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        strbuf_clear(&sb);
        assert_int_equal(json_write_text(&sb, cases[i][0], strlen(cases[i][0])), 0);
        assert_string_equal(sb.data, cases[i][1]);
        cleanup_json json_t *back = json_parse(sb.data, sb.len, NULL, &err);
        assert_true(json_is_string(back));
    }
    strbuf_clear(&sb);
    assert_int_equal(json_write_text(&sb, "a\0b", 3), 0);
    assert_string_equal(sb.data, "\"a\\u0000b\"");
    strbuf_free(&sb);
}

static void commas_come_where_they_are_due(void **state) {
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 1000);
    json_write_comma(&sb); // the first of all: none
    (void)strbuf_addc(&sb, '{');
    json_write_member(&sb, "a", "{");
    json_write_member(&sb, "\"", "");
    json_write_name(&sb, "list");
    (void)strbuf_addc(&sb, '[');
    for (const char *item = "12"; *item; item++) {
        json_write_comma(&sb);
        (void)strbuf_addc(&sb, *item);
    }
    json_write_comma(&sb);
    (void)json_write_text(&sb, "[", 1);
    (void)strbuf_addc(&sb, ']');
    json_write_name(&sb, "o");
    (void)strbuf_addc(&sb, '{');
    (void)strbuf_addc(&sb, '}');
    json_write_member(&sb, "z", "\xff");
    (void)strbuf_addc(&sb, '}');
    assert_string_equal(sb.data, "{\"a\":\"{\",\"\\\"\":\"\",\"list\":[1,2,\"[\"],\"o\":{},"
                                 "\"z\":\"\xef\xbf\xbd\"}");
    strbuf_free(&sb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_any_type_are_read),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(output_is_compact),
        cmocka_unit_test(text_never_splits_a_line),
        cmocka_unit_test(commas_come_where_they_are_due),
    };
    json_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
