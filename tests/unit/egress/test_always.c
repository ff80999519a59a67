// Always-files: lines, messages with path and line, and what a change, a mistake and a removal do.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "egress/always.h"

static void test_lines(void **state) {
    static const char text[] = "# comment\n\n  A.b  \r\n*.c.d\n10.0.0.0/8\n2001:db8::1";
    struct policy p = {0};
    struct error err = {0};
    assert_int_equal(always_parse(&p, true, "f", text, sizeof text - 1, &err), 0);
    assert_int_equal(p.count, 4);
    assert_string_equal(p.rules[0].target, "a.b");
    assert_int_equal(p.rules[3].kind, RULE_NET);
    policy_clear(&p);
    assert_int_equal(always_parse(&p, true, "f", "a.b\nc.d # no\n", 13, &err), -1);
    assert_non_null(strstr(err.message, "f:2: \"c.d # no\": "));
    policy_clear(&p);
    char *line = malloc(ALWAYS_LINE_MAX + 2);
    memset(line, '#', ALWAYS_LINE_MAX + 1);
    assert_int_equal(always_parse(&p, true, "f", line, ALWAYS_LINE_MAX, &err), 0);
    assert_int_equal(always_parse(&p, true, "f", line, ALWAYS_LINE_MAX + 1, &err), -1);
    free(line);
}

static void write_file(const char *path, const char *text) {
    struct error err = {0};
    assert_int_equal(fd_replace_file(AT_FDCWD, path, text, strlen(text), 0600, &err), 0);
}

static void test_reload(void **state) {
    char dir[] = "/tmp/egress-always-XXXXXX";
    struct always_file f = {.allow = true};
    struct error err = {0};
    assert_non_null(mkdtemp(dir));
    (void)snprintf(f.path, sizeof f.path, "%s/allow.always", dir);
    assert_int_equal(always_reload(&f, &err), 0);
    write_file(f.path, "a.b\n");
    assert_int_equal(always_reload(&f, &err), 1);
    assert_int_equal(f.rules.count, 1);
    assert_int_equal(always_reload(&f, &err), 0);
    write_file(f.path, "a.b\nhttp://\n");
    assert_int_equal(always_reload(&f, &err), -1);
    assert_int_equal(f.rules.count, 1);
    assert_int_equal(always_reload(&f, &err), -1); // not forgotten
    write_file(f.path, "a.b\nc.d\n");
    assert_int_equal(always_reload(&f, &err), 1);
    assert_int_equal(f.rules.count, 2);
    assert_int_equal(unlink(f.path), 0);
    assert_int_equal(always_reload(&f, &err), 1);
    assert_int_equal(f.rules.count, 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_reload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
