// Lifecycle hooks as the server hands them over; what is refused is in tests/component too, with
// its effect.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/handoff.h"
#include "execd/hooks/plan.h"

static void test_plan(void **state) {
    static const char text[] =
        "{\"preStart\": {\"command\": [\"a\", \"\", \"b c\"], \"timeoutSeconds\": 10800},"
        " \"periodic\": [{\"name\": \"x\", \"schedule\": \"@every 5s\", \"command\": [\"d\"]},"
        " {\"name\": \"y\", \"schedule\": \"0 0 * * *\", \"command\": [\"e\"], "
        "\"timeoutSeconds\": 300}]}";
    struct arena a;
    struct hooks_plan p;
    struct error err = {0};
    (void)state;
    arena_init(&a, 1 << 20);
    assert_int_equal(hooks_plan_read(&p, &a, text, &err), 0);
    assert_string_equal(p.start.argv[0], "a");
    assert_string_equal(p.start.argv[1], "");
    assert_string_equal(p.start.argv[2], "b c");
    assert_null(p.start.argv[3]);
    assert_int_equal(p.start.time_out_s, 10800);
    assert_int_equal(p.count, 2);
    assert_string_equal(p.periodic[0].name, "x");
    assert_int_equal(p.periodic[0].time_out_s, LIFECYCLE_SECONDS);
    assert_int_equal(p.periodic[0].when.every_s, 5);
    assert_string_equal(p.periodic[1].argv[0], "e");
    assert_int_equal(p.periodic[1].time_out_s, 300);
    arena_free(&a);
}

static void test_nothing(void **state) {
    static const char *const texts[] = {"{}", "{\"preStart\": null}", "{\"periodic\": []}",
                                        "{\"periodic\": null, \"preStart\": null}"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct arena a;
        struct hooks_plan p;
        struct error err = {0};
        arena_init(&a, 1 << 20);
        assert_int_equal(hooks_plan_read(&p, &a, texts[i], &err), 0);
        assert_null(p.start.argv);
        assert_int_equal(p.count, 0);
        arena_free(&a);
    }
}

static void test_without_memory(void **state) {
    static const char text[] =
        "{\"periodic\": [{\"name\": \"x\", \"schedule\": \"@daily\", \"command\": [\"d\"]}]}";
    struct error err = {0};
    (void)state;
    int got = -1;
    for (size_t max = 0; max < 4096 && got < 0; max += 8) {
        struct arena a;
        struct hooks_plan p;
        arena_init(&a, max);
        got = hooks_plan_read(&p, &a, text, &err);
        if (got < 0)
            assert_string_equal(err.message, "out of memory");
        arena_free(&a);
    }
    assert_int_equal(got, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plan), cmocka_unit_test(test_nothing),
                                       cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
