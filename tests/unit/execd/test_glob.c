// Vectors of execd.md A.6.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "execd/files/glob.h"

static const char *const names[] = {"a.txt",   "b.log", ".env", "x[1].md", "a!b",
                                    "ünï.txt", "AB",    "q*",   "z-1",     "z"};

// The names that match, each followed by a space.
static void matches(const char *pattern, char *out, size_t size) {
    struct files_glob *g = files_glob_new(pattern);
    assert_non_null(g);
    *out = 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (files_glob_match(g, names[i]))
            (void)snprintf(out + strlen(out), size - strlen(out), "%s ", names[i]);
    files_glob_free(g);
}

static void test_vectors(void **state) {
    static const char all[] = "a.txt b.log .env x[1].md a!b ünï.txt AB q* z-1 z ";
    static const struct {
        const char *pattern, *expected;
    } rows[] = {
        {"*", all},
        {"**", all},
        {"***", all},
        {"{,.}*", all},
        {"?", "z "},
        {"??", "AB q* "},
        {"*.txt", "a.txt ünï.txt "},
        {"**/*.txt", "a.txt ünï.txt "},
        {"**txt", "a.txt ünï.txt "},
        {"a/**", ""},
        {"[a-b]*", "a.txt b.log a!b "},
        {"[!a]*", "b.log .env x[1].md ünï.txt AB q* z-1 z "},
        {"[^a]*", "b.log .env x[1].md ünï.txt AB q* z-1 z "},
        {"[a-]*", "a.txt a!b "},
        {"[z-a]*", "z-1 z "},
        {"{a,b}.*", "a.txt b.log "},
        {"z{,-1}", "z-1 z "},
        {"x\\[1\\]*", "x[1].md "},
        {"x[[]1]*", "x[1].md "},
        {"q\\*", "q* "},
        {"!(a*)", "b.log .env x[1].md ünï.txt AB q* z-1 z "},
        {"*!(txt)", "b.log .env x[1].md a!b AB q* z-1 z "},
        {"!(a*|b*)", all},
        {"", ""},
        {"{{a,b}.{txt,log},z{,-{1,2}}}", "a.txt b.log z-1 z "},
        {"ün?.txt", "ünï.txt "},
        {"ün[ï].*", "ünï.txt "},
        {"[à-ÿ]n*", "ünï.txt "},
        {"a\\!b", "a!b "},
        {"{a,b", NULL},
        {"*[", NULL},
        {"[]", NULL},
        {"\\", NULL},
        {"a!b", NULL},
        {"[a", NULL},
        {"[a\\", NULL},
        {"{a,{b}", NULL},
        {"!(a", NULL},
        {"!", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char got[256];
        if (rows[i].expected) {
            matches(rows[i].pattern, got, sizeof got);
            if (strcmp(got, rows[i].expected) != 0)
                print_error("pattern %s\n", rows[i].pattern);
            assert_string_equal(got, rows[i].expected);
        } else {
            if (files_glob_new(rows[i].pattern))
                fail_msg("accepted: %s", rows[i].pattern);
            assert_int_equal(errno, EINVAL);
        }
    }
}

// What explodes when it is tried one way after the other.
static void test_takes_linear_time(void **state) {
    char name[256], pattern[GLOB_PATTERN_MAX + 2];
    (void)state;
    memset(name, 'a', 255);
    name[255] = 0;
    struct files_glob *g = files_glob_new("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b");
    assert_non_null(g);
    assert_false(files_glob_match(g, name));
    files_glob_free(g);
    pattern[0] = 0;
    while (strlen(pattern) + 5 <= GLOB_PATTERN_MAX)
        (void)snprintf(pattern + strlen(pattern), 6, "{a,a}");
    g = files_glob_new(pattern);
    assert_non_null(g);
    assert_false(files_glob_match(g, name));
    files_glob_free(g);
    memset(pattern, '*', sizeof pattern - 1);
    pattern[sizeof pattern - 1] = 0;
    assert_null(files_glob_new(pattern));
    assert_int_equal(errno, E2BIG);
    memset(pattern, '{', 200);
    pattern[200] = 0;
    assert_null(files_glob_new(pattern));
}

static void test_bytes_that_are_no_text(void **state) {
    struct files_glob *g = files_glob_new("a?\xff*");
    (void)state;
    assert_non_null(g);
    assert_true(files_glob_match(g, "a\xc3\xff\xe2\x82"));
    assert_false(files_glob_match(g, "ax\xfe"));
    files_glob_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_takes_linear_time),
        cmocka_unit_test(test_bytes_that_are_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
