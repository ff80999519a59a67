// The ring that execd writes and the server reads.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/handoff.h"

static int fresh(void) {
    int fd = memfd_create("ring", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void a_short_log_reads_as_written(void **state) {
    struct handoff_log log;
    struct strbuf sb;
    int fd = fresh();
    (void)state;
    strbuf_init(&sb, HANDOFF_LOG_BYTES);
    assert_int_equal(handoff_log_open(&log, fd), 0);
    assert_int_equal(handoff_log_read(fd, &sb), 0);
    assert_int_equal(sb.len, 0);
    assert_int_equal(handoff_log_append(&log, "hello ", 6), 0);
    assert_int_equal(handoff_log_open(&log, fd), 0); // goes on where it stopped
    assert_int_equal(log.total, 6);
    assert_int_equal(handoff_log_append(&log, "world", 5), 0);
    assert_int_equal(handoff_log_read(fd, &sb), 0);
    assert_string_equal(sb.data, "hello world");
    strbuf_free(&sb);
    (void)close(fd);
}

static void the_last_bytes_stay(void **state) {
    struct handoff_log log;
    struct strbuf sb;
    size_t all = 3 * (size_t)HANDOFF_LOG_BYTES + 12345;
    char *data = malloc(all);
    (void)state;
    for (size_t i = 0; i < all; i++)
        data[i] = (char)('a' + i * 31 % 1009 % 26);
    for (size_t piece = 70001; piece <= all; piece = piece < all ? all : all + 1) {
        int fd = fresh();
        strbuf_init(&sb, HANDOFF_LOG_BYTES);
        assert_int_equal(handoff_log_open(&log, fd), 0);
        for (size_t at = 0; at < all; at += piece)
            assert_int_equal(
                handoff_log_append(&log, data + at, all - at < piece ? all - at : piece), 0);
        assert_int_equal(log.total, all);
        assert_int_equal(handoff_log_read(fd, &sb), 0);
        assert_int_equal(sb.len, HANDOFF_LOG_BYTES);
        assert_memory_equal(sb.data, data + all - HANDOFF_LOG_BYTES, HANDOFF_LOG_BYTES);
        strbuf_free(&sb);
        (void)close(fd);
    }
    free(data);
}

// Whatever the sandbox wrote there.
static void what_is_no_ring_is_refused(void **state) {
    static const char *const files[] = {"", "OSBLOG1\n", "OSBLOG2\n01234567 text",
                                        "OSBLOG1\n\xff\xff\xff\xff\xff\xff\xff\xff text"};
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, HANDOFF_LOG_BYTES);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        int fd = fresh();
        assert_int_equal(write(fd, files[i], strlen(files[i])), strlen(files[i]));
        assert_int_equal(handoff_log_read(fd, &sb), -1);
        (void)close(fd);
        strbuf_clear(&sb);
    }
    strbuf_free(&sb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_log_reads_as_written),
        cmocka_unit_test(the_last_bytes_stay),
        cmocka_unit_test(what_is_no_ring_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
