// What is told when a create fails or a sandbox goes away: at once, once, and what stays true.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fake_runtime.h"

static const struct sandbox *visible(struct world *w, const char *id) {
    return registry_visible(domain_registry(w->domain), id);
}

static void wait_ms(struct world *w, int64_t ms) {
    int64_t end = clock_boot_ms() + ms;
    while (clock_boot_ms() < end)
        world_turn(w);
}

// Whoever waits for a create that has failed is not told Pending meanwhile.
static void test_no_promise_while_it_goes(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_open(&w);
    fake_fail(w.runtime, FAKE_PROVISION, 1);
    fake_hold(w.runtime, FAKE_DESTROY, true);
    (void)test_create(&w, &a, 60, 150);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) == 1);
    wait_ms(&w, 300); // its wait runs out
    assert_int_equal(a.times, 0);
    fake_hold(w.runtime, FAKE_DESTROY, false);
    UNTIL(&w, a.times);
    assert_false(a.has_sandbox);
    assert_string_equal(a.error.code, "FAKE::SANDBOX_START_FAILED");
    world_close(&w);
}

// Its provisioning hangs, and fails when that is let go.
static void create_that_fails(struct world *w, struct answer *a) {
    fake_hold(w->runtime, FAKE_PROVISION, true);
    fake_fail(w->runtime, FAKE_PROVISION, 1);
    (void)test_create(w, a, 60, 0);
    UNTIL(w, a->times && fake_count(w->runtime, FAKE_PROVISION) == 1);
}

// Failed is told when a server that is killed just then would tell it, too; and its remains go.
static void test_failed_is_durable(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_open(&w);
    create_that_fails(&w, &a);
    fake_put(w.runtime, a.id); // ruins
    fake_fail(w.runtime, FAKE_DESTROY, 1000);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, visible(&w, a.id)->state == SANDBOX_FAILED);
    assert_string_equal(stored_state(&w, a.id), "Failed");
    int64_t changed = visible(&w, a.id)->changed_us;
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) > 1);
    world_stop(&w);
    fake_fail(w.runtime, FAKE_DESTROY, 0);
    world_reopen(&w);
    world_start(&w);
    assert_int_equal(visible(&w, a.id)->state, SANDBOX_FAILED);
    assert_string_equal(visible(&w, a.id)->reason, "FAKE::SANDBOX_START_FAILED");
    assert_true(visible(&w, a.id)->changed_us == changed);
    assert_false(fake_exists(w.runtime, a.id));
    world_close(&w);
}

// A full disk does not keep them from going, and is made good later.
static void test_failed_on_a_full_disk(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_open(&w);
    create_that_fails(&w, &a);
    disk_full(true);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) == 1);
    assert_int_equal(visible(&w, a.id)->state, SANDBOX_FAILED);
    disk_full(false);
    UNTIL(&w, strcmp(stored_state(&w, a.id), "Failed") == 0);
    world_close(&w);
}

// What waits for its turn need not wait for a removal that takes long.
static void test_queued_behind_a_delete(void **state) {
    (void)state;
    struct world w;
    struct answer paused = {0}, renewed = {0}, deleted = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    fake_hold(w.runtime, FAKE_PAUSE, true);
    lifecycle_pause(w.domain, id, answered, &paused);
    UNTIL(&w, fake_count(w.runtime, FAKE_PAUSE) == 1);
    lifecycle_renew(w.domain, id, clock_wall_us() + 7200 * INT64_C(1000000), answered, &renewed);
    fake_fail(w.runtime, FAKE_DESTROY, 1000);
    lifecycle_delete(w.domain, id, answered, &deleted);
    fake_hold(w.runtime, FAKE_PAUSE, false);
    UNTIL(&w, domain_metrics(w.domain)->teardown_retries >= 1);
    assert_int_equal(renewed.error.status, 404);
    fake_fail(w.runtime, FAKE_DESTROY, 0);
    UNTIL(&w, deleted.times);
    assert_int_equal(renewed.times + paused.times, 2);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_promise_while_it_goes),
        cmocka_unit_test(test_failed_is_durable),
        cmocka_unit_test(test_failed_on_a_full_disk),
        cmocka_unit_test(test_queued_behind_a_delete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
