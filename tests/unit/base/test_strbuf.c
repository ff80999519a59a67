// Byte strings with a maximum.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/strbuf.h"

static void bytes_are_kept_and_terminated(void **state) {
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 100000);
    assert_string_equal(sb.data, "");
    assert_int_equal(strbuf_add(&sb, "a\0b", 3), 0);
    assert_int_equal(strbuf_addf(&sb, "%d-%s", 12, "x"), 0);
    assert_int_equal(strbuf_addc(&sb, '!'), 0);
    assert_int_equal(sb.len, 8);
    assert_memory_equal(sb.data, "a\0b", 3);
    assert_memory_equal(sb.data + 3, "12-x!", 6);
    strbuf_consume(&sb, 3);
    assert_string_equal(sb.data, "12-x!");
    strbuf_consume(&sb, 100);
    assert_int_equal(sb.len, 0);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(strbuf_adds(&sb, "0123456789"), 0);
    assert_int_equal(sb.len, 50000);
    assert_int_equal(strlen(sb.data), 50000);
    strbuf_free(&sb);
    assert_string_equal(sb.data, "");
}

static void failure_is_sticky_until_cleared(void **state) {
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 4);
    assert_int_equal(strbuf_adds(&sb, "abcd"), 0); // the maximum itself fits
    assert_int_equal(strbuf_addc(&sb, 'e'), -1);
    assert_int_equal(strbuf_add(&sb, "", 0), -1);
    assert_int_equal(strbuf_addf(&sb, "%s", ""), -1);
    assert_null(strbuf_reserve(&sb, 0));
    assert_true(sb.failed);
    assert_string_equal(sb.data, "abcd");
    assert_null(strbuf_detach(&sb));
    assert_false(sb.failed);
    assert_int_equal(strbuf_adds(&sb, "xy"), 0);
    assert_int_equal(strbuf_add(&sb, "123", 3), -1);
    strbuf_clear(&sb);
    assert_int_equal(strbuf_adds(&sb, "1234"), 0);
    strbuf_free(&sb);
}

static void detached_text_is_the_callers(void **state) {
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 100);
    char *none = strbuf_detach(&sb);
    assert_string_equal(none, "");
    free(none);
    assert_int_equal(strbuf_adds(&sb, "text"), 0);
    char *text = strbuf_detach(&sb);
    assert_string_equal(text, "text");
    assert_int_equal(sb.len, 0);
    assert_int_equal(strbuf_adds(&sb, "again"), 0);
    assert_string_equal(text, "text");
    free(text);
    strbuf_free(&sb);
}

static void reserved_room_is_the_callers_to_fill(void **state) {
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 1000);
    char *at = strbuf_reserve(&sb, 1000);
    assert_non_null(at);
    memset(at, 'z', 1000);
    sb.len += 1000;
    sb.data[sb.len] = 0;
    assert_null(strbuf_reserve(&sb, 1));
    assert_int_equal(strlen(sb.data), 1000);
    strbuf_free(&sb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_kept_and_terminated),
        cmocka_unit_test(failure_is_sticky_until_cleared),
        cmocka_unit_test(detached_text_is_the_callers),
        cmocka_unit_test(reserved_room_is_the_callers_to_fill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
