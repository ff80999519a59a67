// Every pair of state and event: the transitions below happen, nothing else does.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/sandbox/state.h"

enum { P = SANDBOX_PENDING, R, PG, PD, RG, S, T, F, NO = -1 };

static const int expected[EVENT_COUNT][SANDBOX_STATE_COUNT] = {
    //                          P   R   PG  PD  RG  S   T   F
    [EVENT_PROVISIONED] = {R, NO, NO, NO, NO, NO, NO, NO},
    [EVENT_PROVISION_FAILED] = {F, NO, NO, NO, NO, NO, NO, NO},
    [EVENT_PAUSE] = {NO, PG, NO, NO, NO, NO, NO, NO},
    [EVENT_PAUSED] = {NO, NO, PD, NO, NO, NO, NO, NO},
    [EVENT_PAUSE_FAILED] = {NO, NO, R, NO, NO, NO, NO, NO},
    [EVENT_RESUME] = {NO, NO, NO, RG, NO, NO, NO, NO},
    [EVENT_RESUMED] = {NO, NO, NO, NO, R, NO, NO, NO},
    [EVENT_RESUME_FAILED] = {NO, NO, NO, NO, PD, NO, NO, NO},
    [EVENT_FOUND_PAUSED] = {NO, PD, NO, NO, NO, NO, NO, NO},
    [EVENT_FOUND_RUNNING] = {NO, NO, NO, R, NO, NO, NO, NO},
    [EVENT_EXITED_OK] = {NO, T, NO, T, NO, NO, NO, NO},
    [EVENT_EXITED_BADLY] = {NO, F, NO, F, NO, NO, NO, NO},
    [EVENT_STOP] = {S, S, NO, S, NO, NO, S, S},
};

static void test_table(void **state) {
    (void)state;
    for (int e = 0; e < EVENT_COUNT; e++)
        for (int s = 0; s < SANDBOX_STATE_COUNT; s++)
            assert_int_equal(state_after((enum sandbox_state)s, (enum sandbox_event)e),
                             expected[e][s]);
}

static void test_apply(void **state) {
    (void)state;
    struct registry *r = registry_new();
    struct sandbox *sb = registry_add(r, "1", spec_new(), 5);
    assert_int_equal(state_apply(r, sb, EVENT_PAUSE), -1);
    assert_int_equal(sb->state, SANDBOX_PENDING);
    assert_true(sb->changed_us == 5);
    assert_int_equal(state_apply(r, sb, EVENT_PROVISIONED), 0);
    assert_string_equal(sb->reason, "CONTAINER_RUNNING");
    assert_true(sb->changed_us > 5);
    assert_int_equal(registry_count_state(r, SANDBOX_PENDING), 0);
    assert_int_equal(registry_count_state(r, SANDBOX_RUNNING), 1);
    registry_free(r);
}

static void test_names(void **state) {
    (void)state;
    for (int s = 0; s < SANDBOX_STATE_COUNT; s++) {
        enum sandbox_state back = SANDBOX_STATE_COUNT;
        assert_int_equal(sandbox_state_parse(sandbox_state_name((enum sandbox_state)s), &back), 0);
        assert_int_equal(back, s);
        assert_true(state_reason(back)[0] && state_message(back)[0]);
    }
    enum sandbox_state none = SANDBOX_FAILED;
    assert_int_equal(sandbox_state_parse("RUNNING", &none), 0);
    assert_int_equal(none, SANDBOX_RUNNING);
    assert_int_equal(sandbox_state_parse("Run", &none), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_apply),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
