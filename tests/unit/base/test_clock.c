// Time as clients and the store see it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"

static void wall_time_is_rfc_3339(void **state) {
    char text[CLOCK_TEXT_MAX];
    (void)state;
    clock_format(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00Z");
    clock_format(1795391443000500, text);
    assert_string_equal(text, "2026-11-22T23:50:43.000500Z");
    clock_format(253402300799999999, text);
    assert_string_equal(text, "9999-12-31T23:59:59.999999Z");
    clock_format_ns(1795391443, 120000000, text);
    assert_string_equal(text, "2026-11-22T23:50:43.12Z");
    clock_format_ns(1795391443, 0, text);
    assert_string_equal(text, "2026-11-22T23:50:43Z");
    clock_format_http(784111777, text); // the example of RFC 9110 5.6.7
    assert_string_equal(text, "Sun, 06 Nov 1994 08:49:37 GMT");
}

static void every_documented_form_is_read(void **state) {
    static const struct {
        const char *text;
        int64_t us;
    } good[] = {
        {"2026-11-22T23:50:43Z", 1795391443000000},
        {"2026-11-22 23:50:43Z", 1795391443000000},
        {"2026-11-22T23:50:43", 1795391443000000},
        {"2026-11-22T23:50", 1795391400000000},
        {"2026-11-23T07:50:43+08:00", 1795391443000000},
        {"2026-11-22T18:50:43-0500", 1795391443000000},
        {"2026-11-22T23:50:43.1234567Z", 1795391443123456},
        {"2026-11-22", 1795305600000000},
        {"2024-02-29", 1709164800000000},
        {"1795391443", 1795391443000000},
        {"1795391443.5", 1795391443500000},
        {"1795391443806", 1795391443806000},
        {"20000000000", 20000000000000000},
        {"20000000001", 20000000001000},
    };
    int64_t us;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        if (clock_parse(good[i].text, &us))
            fail_msg("'%s' was refused", good[i].text);
        if (us != good[i].us)
            fail_msg("'%s' is %lld", good[i].text, (long long)us);
    }
}

static void other_texts_are_refused(void **state) {
    static const char *const bad[] = {"",
                                      "x",
                                      "2026-13-01",
                                      "2026-02-29",
                                      "2026-02-31",
                                      "2026-11-22T",
                                      "2026-11-22T24:00",
                                      "2026-11-22T10",
                                      "2026-11-22T10:60",
                                      "2026-11-22T10:00:00.Z",
                                      "2026-11-22T10:00:00+",
                                      "2026-11-22T10:00:00ZZ",
                                      "26-11-22",
                                      " 2026-11-22",
                                      "."};
    int64_t us = 7;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (!clock_parse(bad[i], &us))
            fail_msg("'%s' was accepted", bad[i]);
    assert_int_equal(us, 7);
}

static void what_is_written_is_read_back(void **state) {
    char text[CLOCK_TEXT_MAX];
    (void)state;
    for (int64_t us = 0, back; us < 253402300799000000; us += 86399123457 * 97) {
        clock_format(us, text);
        assert_int_equal(clock_parse(text, &back), 0);
        assert_true(back == us);
    }
}

static void boot_time_does_not_step_back(void **state) {
    (void)state;
    int64_t a = clock_boot_ns(), b = clock_boot_ns();
    assert_true(b >= a && a > 0);
    assert_true(clock_wall_us() > 1700000000000000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wall_time_is_rfc_3339),
        cmocka_unit_test(every_documented_form_is_read),
        cmocka_unit_test(other_texts_are_refused),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(boot_time_does_not_step_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
