// TOML turned into JSON values.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "fmt/json.h"
#include "fmt/toml.h"

static void tables_become_objects(void **state) {
    static const char text[] = "title = \"x\"\n[server]\nport = 8080\nratio = 0.5\non = true\n"
                               "list = [1, \"two\"]\nday = 2026-11-22\nat = 2026-11-22T10:00:00Z\n"
                               "[server.tls]\nkey = '''a\nb'''\n[[pool]]\nn = 1\n[[pool]]\nn = 2\n";
    struct error err;
    struct strbuf sb;
    json_t *lines = NULL;
    (void)state;
    strbuf_init(&sb, 4096);
    cleanup_json json_t *tree = toml_parse_text(text, "test.toml", &lines, &err);
    cleanup_json json_t *owned = lines;
    assert_non_null(tree);
    cleanup_json json_t *expected = json_pack(
        "{s:s,s:{s:i,s:f,s:b,s:[i,s],s:s,s:s,s:{s:s}},s:[{s:i},{s:i}]}", "title", "x", "server",
        "port", 8080, "ratio", 0.5, "on", 1, "list", 1, "two", "day", "2026-11-22", "at",
        "2026-11-22T10:00:00Z", "tls", "key", "a\nb", "pool", "n", 1, "n", 2);
    (void)json_write(tree, &sb);
    if (!json_equal(tree, expected))
        fail_msg("%s", sb.data);
    assert_int_equal(json_integer_value(json_object_get(owned, "title")), 1);
    assert_int_equal(json_integer_value(json_object_get(owned, "server.port")), 3);
    assert_int_equal(json_integer_value(json_object_get(owned, "server.tls.key")), 10);
    strbuf_free(&sb);
}

static void mistakes_name_file_line_and_column(void **state) {
    static const char *const bad[] = {"a = 1\nb = \n", "a = 1\na = 2\n", "a = 1\n[a]\n",
                                      "a = 1\n\"\xff\" = 2\n"};
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&err, 0, sizeof err);
        assert_null(toml_parse_text(bad[i], "test.toml", NULL, &err));
        assert_int_equal(err.kind, EINVAL);
        if (strncmp(err.message, "test.toml:2:", 12) != 0)
            fail_msg("%s", err.message);
    }
}

static void files_are_read_within_limits(void **state) {
    char name[] = "/tmp/test-toml-XXXXXX";
    struct error err;
    int fd = mkstemp(name);
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, "a = 1\n", 6), 0);
    cleanup_json json_t *tree = toml_parse_file(name, NULL, &err);
    assert_int_equal(json_integer_value(json_object_get(tree, "a")), 1);
    assert_int_equal(ftruncate(fd, 5 * 1024 * 1024), 0);
    assert_null(toml_parse_file(name, NULL, &err));
    assert_int_equal(err.kind, EFBIG);
    (void)close(fd);
    assert_int_equal(unlink(name), 0);
    assert_null(toml_parse_file(name, NULL, &err));
    assert_int_equal(err.kind, ENOENT);
    assert_null(toml_parse_file("/", NULL, &err)); // a directory
    assert_true(err.kind > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_become_objects),
        cmocka_unit_test(mistakes_name_file_line_and_column),
        cmocka_unit_test(files_are_read_within_limits),
    };
    json_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
