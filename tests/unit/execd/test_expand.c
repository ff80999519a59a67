// Vectors of execd.md A.7, and modes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "execd/files/expand.h"

static const char *lookup(const void *arg, const char *name) {
    (void)arg;
    return !strcmp(name, "HOME") ? "/root" : !strcmp(name, "EMPTY") ? "" : NULL;
}

static const struct files_base base = {lookup, NULL, "/root", "/w"};

static void test_vectors(void **state) {
    static const char *const rows[][2] = {
        {"$HOME/x", "/root/x"},
        {"${HOME}x", "/rootx"},
        {"~", "/root"},
        {"~/", "/root"},
        {"~root", "/w/~root"},
        {"~/../x", "/x"},
        {"$1a", "/w/a"},
        {"a$", "/w/a$"},
        {"a${", "/w/a"},
        {"a${}b", "/w/ab"},
        {"$-x", "/w/x"},
        {"a\\$HOME", "/w/a\\/root"},
        {"/a//b/./c/", "/a/b/c"},
        {"", "/w"},
        {"/", "/"},
        {"/..", "/"},
        {"/../../a/..", "/"},
        {"..", "/"},
        {"$EMPTY", "/w"},
        {"a${X Y}b", "/w/ab"},
        {"...", "/w/..."},
        {"/a/..b", "/a/..b"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct arena a;
        struct error err;
        char *got;
        arena_init(&a, 1 << 16);
        if (files_expand(&a, rows[i][0], &base, &got, &err) < 0)
            fail_msg("%s: %s", rows[i][0], err.message);
        assert_string_equal(got, rows[i][1]);
        arena_free(&a);
    }
}

static void test_undefined(void **state) {
    static const char *const rows[][2] = {
        {"$HOME_", "HOME_"}, {"a$$b", "b"}, {"$A/${B}/$HOME", "A,B"}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct arena a;
        struct error err;
        char *got;
        arena_init(&a, 1 << 16);
        assert_int_equal(files_expand(&a, rows[i][0], &base, &got, &err), -1);
        assert_non_null(strstr(err.message, "path references undefined environment variables: "));
        assert_string_equal(strrchr(err.message, ' ') + 1, rows[i][1]);
        arena_free(&a);
    }
}

static void test_long(void **state) {
    struct arena a;
    struct error err;
    char *got, *text = malloc(200000);
    (void)state;
    memset(text, 'a', 199999);
    text[199999] = 0;
    arena_init(&a, 1 << 20);
    assert_int_equal(files_expand(&a, text, &base, &got, &err), -1);
    arena_free(&a);
    free(text);
}

static void test_modes(void **state) {
    static const struct {
        long long digits;
        long mode; // -1: refused
    } rows[] = {
        {755, 0755},       {644, 0644}, {4755, 0755}, {7777, 0777}, {0, 0},
        {888, -1},         {-1, -1},    {8, -1},      {7, 07},      {9223372036854775807, -1},
        {1777777777, 0777}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        mode_t mode = 0;
        assert_int_equal(files_mode_parse(rows[i].digits, &mode), rows[i].mode < 0 ? -1 : 0);
        if (rows[i].mode >= 0)
            assert_int_equal(mode, rows[i].mode);
    }
    assert_int_equal(files_mode_show(0100755), 755);
    assert_int_equal(files_mode_show(0120777), 777);
    assert_int_equal(files_mode_show(04600), 600);
    assert_int_equal(files_mode_show(0), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_undefined),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
