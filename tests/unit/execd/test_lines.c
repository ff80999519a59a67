// Windows of lines, fed whole, byte by byte and in threes (compat-1.1.1.md E11).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "execd/files/range.h"

static void check(const char *text, uint64_t offset, uint64_t limit, const char *expected,
                  size_t step) {
    struct files_lines w;
    cleanup_strbuf struct strbuf out;
    strbuf_init(&out, 1000);
    files_lines_init(&w, offset, limit);
    size_t len = strlen(text);
    for (size_t at = 0; at < len && !files_lines_over(&w); at += step)
        assert_int_equal(files_lines_feed(&w, text + at, len - at < step ? len - at : step, &out),
                         0);
    assert_string_equal(out.data, expected);
}

static void test_windows(void **state) {
    static const struct {
        const char *text;
        uint64_t offset, limit;
        const char *expected;
    } rows[] = {
        {"original\nsecond line\n", 2, 1, "second line"},
        {"original\nsecond line\n", 1, UINT64_MAX, "original\nsecond line"},
        {"a\nb\nc", 2, UINT64_MAX, "b\nc"},
        {"a\nb\nc", 3, 5, "c"},
        {"a\nb\nc", 4, 1, ""},
        {"a\nb\n", 3, 1, ""},
        {"a\n\nb\n", 1, UINT64_MAX, "a\n\nb"},
        {"\n\n\n", 1, 2, "\n"},
        {"\n\n\n", 1, UINT64_MAX, "\n\n"},
        {"a\r\nb\r\r\nc\r", 1, UINT64_MAX, "a\nb\nc"},
        {"a\rb\r\n\rc\n", 1, UINT64_MAX, "a\rb\n\rc"},
        {"", 1, 1, ""},
        {"a\n\r\n\r\nb", 2, 2, "\n"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        for (size_t step = 1; step < 40; step += step == 3 ? 36 : 1)
            check(rows[i].text, rows[i].offset, rows[i].limit, rows[i].expected, step);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_windows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
