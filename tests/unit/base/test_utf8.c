// UTF-8: what is valid, and how the rest is replaced.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "base/utf8.h"

#define R "\xef\xbf\xbd"

static void rfc_3629_decides(void **state) {
    static const char *const good[] = {"",
                                       "abc",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {
        "\x80",     "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf",     "\xed\xa0\x80",
        "\xc2",     "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
        "\xe2\x82", "a\xe2\x28\xa1",    "\xf0\x9f\x92"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (utf8_valid(bad[i], strlen(bad[i])))
            fail_msg("bad text %zu was accepted", i);
    assert_true(utf8_valid("a\0b", 3));
}

static void each_bad_byte_becomes_one_replacement(void **state) {
    static const char *const cases[][2] = {{"abc", "abc"},
                                           {"a\xffz", "a" R "z"},
                                           {"\xe2\x82", R R},
                                           {"\xed\xa0\x80", R R R},
                                           {"\xe2\x82\xac\x80", "\xe2\x82\xac" R},
                                           {"\xc3(", R "("}};
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 100);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        strbuf_clear(&sb);
        assert_int_equal(utf8_add_lossy(&sb, cases[i][0], strlen(cases[i][0])), 0);
        assert_string_equal(sb.data, cases[i][1]);
        assert_true(utf8_valid(sb.data, sb.len));
    }
    strbuf_free(&sb);
    strbuf_init(&sb, 2);
    assert_int_equal(utf8_add_lossy(&sb, "\xff", 1), -1);
    strbuf_free(&sb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc_3629_decides),
        cmocka_unit_test(each_bad_byte_becomes_one_replacement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
