// Strict parsers of small texts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/parse.h"

static void numbers_are_the_whole_text_or_nothing(void **state) {
    static const char *const bad[] = {"",   "+1", "-1",  " 1",
                                      "1 ", "1x", "0x1", "18446744073709551616"};
    uint64_t v = 7;
    int64_t i = 7;
    (void)state;
    for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
        if (!parse_u64(bad[n], 0, UINT64_MAX, &v))
            fail_msg("'%s' was accepted", bad[n]);
    assert_int_equal(v, 7); // untouched
    assert_int_equal(parse_u64("18446744073709551615", 0, UINT64_MAX, &v), 0);
    assert_true(v == UINT64_MAX);
    assert_int_equal(parse_u64("0080", 1, 65535, &v), 0);
    assert_int_equal(v, 80);
    assert_int_equal(parse_u64("0", 1, 65535, &v), -1);
    assert_int_equal(parse_u64("65536", 1, 65535, &v), -1);
    assert_int_equal(parse_u64n("12345", 2, 0, 99, &v), 0);
    assert_int_equal(v, 12);
    assert_int_equal(parse_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(parse_i64("9223372036854775808", INT64_MIN, INT64_MAX, &i), -1);
    assert_int_equal(parse_i64("--1", INT64_MIN, INT64_MAX, &i), -1);
    assert_int_equal(parse_i64("-", INT64_MIN, INT64_MAX, &i), -1);
    assert_int_equal(parse_i64("-5", -4, 4, &i), -1);
}

static void hex_has_up_to_sixteen_digits(void **state) {
    uint64_t v;
    (void)state;
    assert_int_equal(parse_hex64("fFffffffffffffff", 16, &v), 0);
    assert_true(v == UINT64_MAX);
    assert_int_equal(parse_hex64("00000000000000001", 17, &v), -1);
    assert_int_equal(parse_hex64("", 0, &v), -1);
    assert_int_equal(parse_hex64("0g", 2, &v), -1);
}

static void memory_has_the_units_of_the_docker_runtime(void **state) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"512Mi", 512ULL << 20}, {"1", 1},           {" 1b ", 1},         {"2KB", 2000},
        {"3ki", 3 << 10},        {"1g", 1000000000}, {"4Ti", 4ULL << 40}, {"1tB", 1000000000000}};
    static const char *const bad[] = {"",   "0",  "512MiB", "1.5Gi", "-1",          "1 Gi",
                                      "1P", "Mi", "+1",     "0Mi",   "9999999999Ti"};
    uint64_t v;
    (void)state;
    for (size_t n = 0; n < ARRAY_SIZE(good); n++) {
        if (parse_memory(good[n].text, &v))
            fail_msg("'%s' was refused", good[n].text);
        assert_true(v == good[n].bytes);
    }
    for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
        if (!parse_memory(bad[n], &v))
            fail_msg("'%s' was accepted", bad[n]);
}

static void cpu_is_a_number_or_thousandths(void **state) {
    static const struct {
        const char *text;
        uint64_t millis;
    } good[] = {{"500m", 500}, {"1M", 1},      {"2", 2000},
                {"0.5", 500},  {" .25 ", 250}, {"1.9999", 1999}};
    static const char *const bad[] = {"",    "0",   "0m",    "-1",  "m",     ".",
                                      "nan", "inf", "1.2.3", "1 m", "0.0001"};
    uint64_t v;
    (void)state;
    for (size_t n = 0; n < ARRAY_SIZE(good); n++) {
        if (parse_cpu(good[n].text, &v))
            fail_msg("'%s' was refused", good[n].text);
        assert_true(v == good[n].millis);
    }
    for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
        if (!parse_cpu(bad[n], &v))
            fail_msg("'%s' was accepted", bad[n]);
}

static void durations_are_those_of_go(void **state) {
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {{"0", 0},
                {"300ms", 300000000},
                {"1.5s", 1500000000},
                {"2h45m", 9900000000000},
                {"7us", 7000},
                {"7\xc2\xb5s", 7000},
                {"1ns", 1},
                {"0s", 0},
                {"-1s", -1000000000},
                {"+5ms", 5000000},
                {"-0", 0},
                {"+0", 0},
                {"-1h0.5s", -3600500000000}};
    static const char *const bad[] = {"",     "5",   "s",    "1",     "1.5",
                                      "-",    "+",   "--1s", "+-1s",  "1s-1s",
                                      "- 1s", "1s ", "1d",   "1..5s", "9999999h"};
    int64_t v;
    (void)state;
    for (size_t n = 0; n < ARRAY_SIZE(good); n++) {
        if (parse_duration(good[n].text, &v))
            fail_msg("'%s' was refused", good[n].text);
        assert_true(v == good[n].ns);
    }
    for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
        if (!parse_duration(bad[n], &v))
            fail_msg("'%s' was accepted", bad[n]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_the_whole_text_or_nothing),
        cmocka_unit_test(hex_has_up_to_sixteen_digits),
        cmocka_unit_test(memory_has_the_units_of_the_docker_runtime),
        cmocka_unit_test(cpu_is_a_number_or_thousandths),
        cmocka_unit_test(durations_are_those_of_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
