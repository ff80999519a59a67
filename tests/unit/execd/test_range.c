// Vectors of execd.md A.9 and A.10, and dates.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "execd/files/range.h"

static void test_ranges(void **state) {
    static const struct {
        const char *value;
        enum files_range expected;
        uint64_t start, len;
    } rows[] = {
        {NULL, FILES_RANGE_WHOLE, 0, 0},
        {"bytes=2-4", FILES_RANGE_PART, 2, 3},
        {"bytes=-3", FILES_RANGE_PART, 7, 3},
        {"bytes=8-", FILES_RANGE_PART, 8, 2},
        {"bytes=0-99", FILES_RANGE_PART, 0, 10},
        {"bytes=0-9223372036854775807", FILES_RANGE_PART, 0, 10},
        {"bytes=0-99999999999999999999999", FILES_RANGE_PART, 0, 10},
        {"bytes=-99999999999999999999999", FILES_RANGE_PART, 0, 10},
        {"bytes=0-1,4-5", FILES_RANGE_PART, 0, 2},
        {"bytes=50-60, 4-5", FILES_RANGE_PART, 4, 2},
        {"bytes= 4-5 ", FILES_RANGE_PART, 4, 2},
        {"bytes=50-60", FILES_RANGE_OUTSIDE, 0, 0},
        {"bytes=10-", FILES_RANGE_OUTSIDE, 0, 0},
        {"bytes=5-2", FILES_RANGE_MALFORMED, 0, 0},
        {"items=1-2", FILES_RANGE_MALFORMED, 0, 0},
        {"bytes=foo", FILES_RANGE_MALFORMED, 0, 0},
        {"bytes=-", FILES_RANGE_MALFORMED, 0, 0},
        {"bytes=1-2,x", FILES_RANGE_MALFORMED, 0, 0},
        {"bytes=+1-2", FILES_RANGE_MALFORMED, 0, 0},
        {"bytes=1--2", FILES_RANGE_MALFORMED, 0, 0},
        {"", FILES_RANGE_MALFORMED, 0, 0},
        {"bytes=", FILES_RANGE_WHOLE, 0, 0},
        {"bytes=,,", FILES_RANGE_WHOLE, 0, 0},
        {"bytes=-0", FILES_RANGE_PART, 10, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t start = 0, len = 0;
        if (files_range_parse(rows[i].value, 10, &start, &len) != rows[i].expected)
            fail_msg("range %s", rows[i].value);
        if (rows[i].expected == FILES_RANGE_PART) {
            assert_int_equal(start, rows[i].start);
            assert_int_equal(len, rows[i].len);
        }
    }
}

static void test_empty_file(void **state) {
    uint64_t start, len;
    (void)state;
    assert_int_equal(files_range_parse("bytes=0-", 0, &start, &len), FILES_RANGE_OUTSIDE);
    assert_int_equal(files_range_parse("bytes=-5", 0, &start, &len), FILES_RANGE_OUTSIDE);
}

static void test_dispositions(void **state) {
    static const char *const rows[][2] = {
        {"/a/test.txt", "attachment; filename=\"test.txt\""},
        {"/a/my file.txt", "attachment; filename=\"my file.txt\""},
        {"/测试文件.txt", "attachment; filename=\"%E6%B5%8B%E8%AF%95%E6%96%87%E4%BB%B6.txt\"; "
                          "filename*=UTF-8''%E6%B5%8B%E8%AF%95%E6%96%87%E4%BB%B6.txt"},
        {"/a\"b\\c", "attachment; filename=\"a\\\"b\\\\c\""},
        {"/a\r\nSet-Cookie: b", "attachment; filename=\"a%0D%0ASet-Cookie%3A%20b\"; "
                                "filename*=UTF-8''a%0D%0ASet-Cookie%3A%20b"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        cleanup_strbuf struct strbuf sb;
        strbuf_init(&sb, 1000);
        assert_int_equal(files_disposition(&sb, rows[i][0]), 0);
        assert_string_equal(sb.data, rows[i][1]);
    }
}

static void test_dates(void **state) {
    int64_t sec;
    (void)state;
    assert_true(files_date_parse("Sun, 06 Nov 1994 08:49:37 GMT", &sec));
    assert_int_equal(sec, 784111777);
    assert_false(files_date_parse("Sun, 06 Nov 1994 08:49:37", &sec));
    assert_false(files_date_parse("\"etag\"", &sec));
    assert_false(files_date_parse(NULL, &sec));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_empty_file),
        cmocka_unit_test(test_dispositions),
        cmocka_unit_test(test_dates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
