// Arenas, errors, random names and the logger.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"

static void arena_pieces_are_zeroed_aligned_and_bounded(void **state) {
    struct arena a;
    (void)state;
    arena_init(&a, 20000);
    for (size_t size = 1; size < 100; size++) {
        unsigned char *p = arena_alloc(&a, size);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, size);
    }
    assert_non_null(arena_alloc(&a, 10000)); // larger than a block
    assert_string_equal(arena_strndup(&a, "abcdef", 3), "abc");
    assert_string_equal(arena_strdup(&a, ""), "");
    assert_string_equal(arena_printf(&a, "%d:%s", 7, "x"), "7:x");
    assert_null(arena_alloc(&a, 20000));
    assert_null(arena_alloc(&a, SIZE_MAX));
    arena_free(&a);
    assert_non_null(arena_alloc(&a, 20000)); // usable again, all of it
    arena_free(&a);
}

static void a_reset_arena_is_like_new(void **state) {
    struct arena a;
    (void)state;
    arena_init(&a, 20000);
    for (int round = 0; round < 3; round++) {
        char *first = arena_alloc(&a, 100), *second = arena_alloc(&a, 1000 * (size_t)round + 1);
        for (size_t i = 0; i < 100; i++)
            assert_int_equal(first[i], 0);
        for (size_t i = 0; i < 1000 * (size_t)round + 1; i++)
            assert_int_equal(second[i], 0);
        assert_non_null(arena_alloc(&a, 10000)); // a block of its own, not kept
        memset(first, 'x', 100);
        memset(second, 'x', 1000 * (size_t)round + 1);
        arena_reset(&a);
    }
    assert_non_null(arena_alloc(&a, 20000)); // the maximum counts anew
    arena_free(&a);
}

static void errors_carry_kind_code_and_message(void **state) {
    struct error err;
    char longer[2 * ERROR_MESSAGE_MAX];
    (void)state;
    assert_int_equal(error_api(&err, 404, "SANDBOX::NOT_FOUND", "sandbox %s", "x"), -1);
    assert_int_equal(err.kind, EINVAL);
    assert_int_equal(err.status, 404);
    assert_int_equal(error_wrap(&err, "get %d", 1), -1);
    assert_string_equal(err.message, "get 1: sandbox x");
    assert_string_equal(err.code, "SANDBOX::NOT_FOUND");
    assert_int_equal(error_errno(&err, ENOENT, "%s", err.message),
                     -1); // its own message as argument
    assert_string_equal(err.message, "get 1: sandbox x: No such file or directory");
    assert_string_equal(err.code, "");
    assert_int_equal(error_set(&err, 0, "x"), -1);
    assert_true(err.kind > 0);
    memset(longer, 'l', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    assert_int_equal(error_set(&err, EIO, "%s", longer), -1);
    assert_int_equal(strlen(err.message), ERROR_MESSAGE_MAX - 1);
    assert_string_equal(err.message + ERROR_MESSAGE_MAX - 5, "l...");
    assert_int_equal(error_wrap(&err, "context"), -1);
    assert_int_equal(strlen(err.message), ERROR_MESSAGE_MAX - 1);
}

static void random_names_have_their_form(void **state) {
    char a[UUID_TEXT_SIZE], b[UUID_TEXT_SIZE], hex[8];
    (void)state;
    random_uuid(a);
    random_uuid(b);
    assert_string_not_equal(a, b);
    assert_int_equal(strlen(a), 36);
    assert_int_equal(a[14], '4');
    assert_non_null(strchr("89ab", a[19]));
    assert_true(a[8] == '-' && a[13] == '-' && a[18] == '-' && a[23] == '-');
    random_hex(hex, 7);
    assert_int_equal(strspn(hex, "0123456789abcdef"), 7);
    assert_int_equal(strlen(hex), 7);
}

static void logged(int fd, char *line, size_t size) {
    ssize_t n = pread(fd, line, size - 1, 0);
    assert_true(n > 0);
    line[n] = 0;
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
}

static void a_line_is_one_line_whatever_it_says(void **state) {
    static char line[65536], hostile[2000];
    int fd = memfd_create("log", MFD_CLOEXEC);
    enum log_level level;
    (void)state;
    log_configure(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, fd);
    assert_false(log_enabled(LOG_LEVEL_DEBUG));
    log_debug("not %s", "seen");
    log_context("req-1");
    log_info("two\nlines \x1b[31m");
    logged(fd, line, sizeof line);
    assert_non_null(strstr(line, "Z INFO    [req-1] two lines  [31m\n"));
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    log_configure(LOG_LEVEL_INFO, LOG_FORMAT_JSON, fd);
    log_warning("a \"quote\" \\ \xff");
    logged(fd, line, sizeof line);
    assert_non_null(strstr(line, "\"level\":\"WARNING\",\"request_id\":\"req-1\","
                                 "\"msg\":\"a \\\"quote\\\" \\\\ \xef\xbf\xbd\"}\n"));
    memset(hostile, 1, sizeof hostile - 1); // every byte needs six
    log_error("%s", hostile);
    logged(fd, line, sizeof line);
    assert_string_equal(line + strlen(line) - 9, "\\u0001\"}\n");
    log_context(NULL);
    log_configure(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, 2);
    assert_int_equal(log_level_parse("warn", &level), 0);
    assert_int_equal(level, LOG_LEVEL_WARNING);
    assert_int_equal(log_level_parse("loud", &level), -1);
    (void)close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_pieces_are_zeroed_aligned_and_bounded),
        cmocka_unit_test(a_reset_arena_is_like_new),
        cmocka_unit_test(errors_carry_kind_code_and_message),
        cmocka_unit_test(random_names_have_their_form),
        cmocka_unit_test(a_line_is_one_line_whatever_it_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
