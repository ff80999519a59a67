// Whole files over descriptors.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"

static char dir[64];
static int at;

static int set_up(void **state) {
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/test-fd-XXXXXX");
    assert_non_null(mkdtemp(dir));
    at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return at < 0;
}

static int tear_down(void **state) {
    struct error err;
    (void)state;
    (void)close(at);
    return path_remove_tree(AT_FDCWD, dir, &err);
}

static void a_file_is_replaced_whole(void **state) {
    struct error err;
    struct strbuf sb;
    struct stat st;
    (void)state;
    strbuf_init(&sb, 100);
    assert_int_equal(fd_replace_file(at, "file", "one", 3, 0640, &err), 0);
    assert_int_equal(fd_replace_file(at, "file", "two!", 4, 0600, &err), 0);
    assert_int_equal(fd_read_file(at, "file", &sb, &err), 0);
    assert_string_equal(sb.data, "two!");
    assert_int_equal(fstatat(at, "file", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    uint64_t bytes; // nothing lies beside it: the directory and the file
    assert_int_equal(path_measure_tree(AT_FDCWD, dir, 100, 2, &bytes), 0);
    assert_int_equal(fd_replace_file(at, "none/file", "x", 1, 0600, &err), -1);
    assert_int_equal(err.kind, ENOENT);
    assert_int_equal(mkdirat(at, "directory", 0700), 0);
    assert_int_equal(fd_replace_file(at, "directory", "x", 1, 0600, &err), -1);
    assert_int_equal(path_measure_tree(AT_FDCWD, dir, 100, 3, &bytes), 0);
    strbuf_free(&sb);
}

static void only_regular_files_are_read(void **state) {
    struct error err;
    struct strbuf sb;
    (void)state;
    strbuf_init(&sb, 4);
    assert_int_equal(mkfifoat(at, "fifo", 0600), 0);
    assert_int_equal(fd_read_file(at, "fifo", &sb, &err), -1); // and does not wait for a writer
    assert_int_equal(symlinkat("/etc/passwd", at, "link"), 0);
    assert_int_equal(fd_read_file(at, "link", &sb, &err), -1);
    assert_int_equal(err.kind, ELOOP);
    assert_int_equal(fd_read_file(at, "none", &sb, &err), -1);
    assert_int_equal(err.kind, ENOENT);
    assert_int_equal(fd_replace_file(at, "file", "12345", 5, 0600, &err), 0);
    assert_int_equal(fd_read_file(at, "file", &sb, &err), -1);
    assert_int_equal(err.kind, EFBIG);
    strbuf_clear(&sb);
    assert_int_equal(fd_replace_file(at, "file", "1234", 4, 0600, &err), 0);
    assert_int_equal(fd_read_file(at, "file", &sb, &err), 0);
    assert_string_equal(sb.data, "1234");
    strbuf_free(&sb);
}

static void control_files_are_one_line(void **state) {
    struct error err;
    char text[8];
    (void)state;
    assert_int_equal(fd_replace_file(at, "file", "value\n\n", 7, 0600, &err), 0);
    assert_int_equal(fd_read_text(at, "file", text, sizeof text, &err), 0);
    assert_string_equal(text, "value");
    assert_int_equal(fd_write_text(at, "file", "12", &err), 0);
    assert_int_equal(fd_read_text(at, "file", text, 3, &err), 0);
    assert_string_equal(text, "12");
    assert_int_equal(fd_write_text(at, "none", "12", &err), -1);
    assert_int_equal(err.kind, ENOENT);
    assert_int_equal(fd_read_text(at, "none", text, sizeof text, &err), -1);
    assert_int_equal(fd_write_text(AT_FDCWD, "/dev/full", "x", &err), -1);
    assert_int_equal(err.kind, ENOSPC);
    assert_int_equal(fd_sync_dir(AT_FDCWD, dir), 0);
    assert_int_equal(fd_sync_dir(at, "file"), -1);
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(a_file_is_replaced_whole),
        CASE(only_regular_files_are_read),
        CASE(control_files_are_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
