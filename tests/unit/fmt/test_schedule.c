// When schedules come next, and which are refused with which words.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fmt/schedule.h"

static int64_t seconds(const char *text) {
    int64_t us;
    assert_int_equal(clock_parse(text, &us), 0);
    return us / 1000000;
}

static void expect_next(const char *schedule, const char *after, const char *next) {
    struct schedule s;
    struct error err = {0};
    char text[CLOCK_TEXT_MAX], wanted[CLOCK_TEXT_MAX];
    if (schedule_parse(&s, schedule, &err) < 0)
        fail_msg("%s: %s", schedule, err.message);
    clock_format(schedule_next(&s, seconds(after)) * 1000000, text);
    clock_format(seconds(next) * 1000000, wanted);
    if (strcmp(text, wanted) != 0)
        fail_msg("\"%s\" after %s: %s instead of %s", schedule, after, text, wanted);
}

static void test_next(void **state) {
    static const struct {
        const char *schedule, *after, *next;
    } rows[] = {
        {"* * * * *", "2026-11-27T03:04:05Z", "2026-11-27T03:05:00Z"},
        {"* * * * *", "2026-11-27T03:04:00Z", "2026-11-27T03:05:00Z"}, // strictly after
        {"0 0 * * *", "2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z"},
        {"? ? ? ? ?", "2026-11-27T23:59:59Z", "2026-11-28T00:00:00Z"},
        {"*/15 * * * *", "2026-11-27T03:15:00Z", "2026-11-27T03:30:00Z"},
        {"*/40 * * * *", "2026-11-27T03:41:00Z", "2026-11-27T04:00:00Z"}, // begins anew each hour
        {"7/20 * * * *", "2026-11-27T03:28:00Z", "2026-11-27T03:47:00Z"},
        {"10-20/5,59 * * * *", "2026-11-27T03:15:30Z", "2026-11-27T03:20:00Z"},
        {"10-20/5,59 * * * *", "2026-11-27T03:20:00Z", "2026-11-27T03:59:00Z"},
        {"30 2 * * *", "2026-11-27T02:30:00Z", "2026-11-28T02:30:00Z"},
        {" 5\t4   * * *\n", "2026-11-27T00:00:00Z", "2026-11-27T04:05:00Z"},
        // ends of months and years
        {"0 0 1 * *", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"},
        {"0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"},
        {"0 0 30 * *", "2026-01-30T00:00:00Z", "2026-03-30T00:00:00Z"},
        {"59 23 31 12 *", "2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"},
        {"0 12 * feb *", "2026-02-28T12:00:00Z", "2027-02-01T12:00:00Z"},
        // leap years; 2100 is none
        {"0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
        {"0 0 29 FEB ?", "2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"},
        {"0 0 29 2 *", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"},
        {"0 0 29 2 *", "1999-03-01T00:00:00Z", "2000-02-29T00:00:00Z"},
        // days of the week; 27 November 2026 is a Friday
        {"0 9 * * 1-5", "2026-11-27T09:00:00Z", "2026-11-30T09:00:00Z"},
        {"0 9 * * Mon-Fri", "2026-11-28T00:00:00Z", "2026-11-30T09:00:00Z"},
        {"0 0 * * 0", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"},
        {"0 0 * * 7", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"},
        {"0 0 * * SUN", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"},
        {"0 0 * * 5-7", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
        {"0 0 * * sat,tue", "2026-11-28T00:00:00Z", "2026-12-01T00:00:00Z"},
        // day of the month or of the week, when both are restricted; "*" and "*/1" are not
        {"0 0 13 * 5", "2026-11-27T00:00:00Z", "2026-12-04T00:00:00Z"},
        {"0 0 13 * 5", "2026-12-12T00:00:00Z", "2026-12-13T00:00:00Z"},
        {"0 0 13 * *", "2026-11-27T00:00:00Z", "2026-12-13T00:00:00Z"},
        {"0 0 */1 * 5", "2026-11-27T00:00:00Z", "2026-12-04T00:00:00Z"},
        {"0 0 */20 * 5", "2026-11-28T00:00:00Z", "2026-12-01T00:00:00Z"}, // 1, 21, or a Friday
        {"0 0 13 3,11 5", "2026-11-27T00:00:00Z", "2027-03-05T00:00:00Z"},
        // words
        {"@yearly", "2026-11-27T00:00:00Z", "2027-01-01T00:00:00Z"},
        {"@annually", "2026-11-27T00:00:00Z", "2027-01-01T00:00:00Z"},
        {"@monthly", "2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z"},
        {"@weekly", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z"},
        {"@daily", "2026-11-27T12:00:00Z", "2026-11-28T00:00:00Z"},
        {" @midnight ", "2026-11-27T12:00:00Z", "2026-11-28T00:00:00Z"},
        {"@hourly", "2026-11-27T12:00:00Z", "2026-11-27T13:00:00Z"},
        {"@every 30s", "2026-11-27T12:00:07Z", "2026-11-27T12:00:37Z"},
        {"@every  1h30m10s", "2026-11-27T12:00:00Z", "2026-11-27T13:30:10Z"},
        {"@every 1500ms", "2026-11-27T12:00:00Z", "2026-11-27T12:00:01Z"}, // whole seconds
        {"@every 1ms", "2026-11-27T12:00:00Z", "2026-11-27T12:00:01Z"},    // one at least
        {"* * * * *", "9999-12-31T23:58:59Z", "9999-12-31T23:59:00Z"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        expect_next(rows[i].schedule, rows[i].after, rows[i].next);
}

static void test_refused(void **state) {
    static const struct {
        const char *schedule, *why;
    } rows[] = {
        {"", "0 fields instead of five"},
        {"* * * *", "4 fields instead of five"},
        {"0 * * * * *", "6 fields instead of five"},
        {"CRON_TZ=Asia/Tokyo 0 0 * * *", "minute \"CRON_TZ=Asia/Tokyo\""},
        {"60 * * * *", "minute \"60\" is no number from 0 to 59"},
        {"-1 * * * *", "minute \"-1\""},
        {"+1 * * * *", "minute \"+1\""},
        {"1.5 * * * *", "minute \"1.5\""},
        {"* 24 * * *", "hour \"24\""},
        {"* * 0 * *", "day of the month \"0\""},
        {"* * 32 * *", "day of the month \"32\""},
        {"* * * 13 *", "month \"13\""},
        {"* * * 0 *", "month \"0\""},
        {"* * * janu *", "month \"janu\""},
        {"* * * * 8", "day of the week \"8\""},
        {"* * * * monday", "day of the week \"monday\""},
        {"jan * * * *", "minute \"jan\""},
        {"*/0 * * * *", "minute \"*/0\""},
        {"*/ * * * *", "minute \"*/\""},
        {"*/60 * * * *", "minute \"*/60\""},
        {"1/2/3 * * * *", "minute \"1/2/3\""},
        {"1-2-3 * * * *", "minute \"1-2-3\""},
        {"1- * * * *", "minute \"1-\""},
        {"**  * * * *", "minute \"**\""},
        {"1,,2 * * * *", "minute \"\""},
        {"1, * * * *", "minute \"\""},
        {"5-3 * * * *", "minute \"5-3\" begins behind its end"},
        {"* * * * fri-mon", "day of the week \"fri-mon\" begins behind its end"},
        {"0 0 30 2 *", "no day is like that"},
        {"0 0 31 4,6,9,11 *", "no day is like that"},
        {"@", "\"@\" is none of"},
        {"@reboot", "\"@reboot\" is none of"},
        {"@Daily", "\"@Daily\" is none of"},
        {"@daily 1", "is none of"},
        {"@every", "@every needs a duration"},
        {"@every 5", "@every needs a duration"},
        {"@every 0s", "@every needs a duration"},
        {"@every -5s", "@every needs a duration"},
        {"@everyday 5s", "is none of"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct schedule s = {.every_s = 77};
        struct error err = {0};
        assert_int_equal(schedule_parse(&s, rows[i].schedule, &err), -1);
        assert_int_equal(err.kind, EINVAL);
        if (!strstr(err.message, rows[i].why))
            fail_msg("\"%s\": %s", rows[i].schedule, err.message);
        assert_int_equal(s.every_s, 77); // untouched
    }
}

static void test_too_long(void **state) {
    char text[SCHEDULE_TEXT_MAX + 16];
    struct schedule s;
    struct error err = {0};
    (void)state;
    memset(text, ' ', sizeof text);
    memcpy(text + sizeof text - 10, "* * * * *", 10);
    assert_int_equal(schedule_parse(&s, text, &err), 0); // blanks before it do not count
    memset(text, '1', sizeof text - 10);
    assert_int_equal(schedule_parse(&s, text, &err), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_next), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_too_long)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
