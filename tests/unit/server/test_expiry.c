// Deadlines, with expiries of a few milliseconds set through renew.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fake_runtime.h"

static size_t count(struct world *w) {
    return registry_count(domain_registry(w->domain));
}

static void renew(struct world *w, const char *id, int64_t after_ms) {
    struct answer a = {0};
    lifecycle_renew(w->domain, id, clock_wall_us() + after_ms * 1000, answered, &a);
    UNTIL(w, a.times);
    assert_int_equal(a.error.kind, 0);
}

static void test_expires(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0};
    char short_id[SANDBOX_ID_SIZE], long_id[SANDBOX_ID_SIZE], paused[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, short_id);
    create_running(&w, 3600, long_id);
    create_running(&w, 3600, paused);
    lifecycle_pause(w.domain, paused, answered, &a);
    UNTIL(&w, a.times);
    renew(&w, short_id, 30);
    renew(&w, paused, 30); // expiry runs on while paused
    UNTIL(&w, count(&w) == 1);
    assert_non_null(registry_visible(domain_registry(w.domain), long_id));
    assert_int_equal(domain_metrics(w.domain)->expired, 2);
    assert_int_equal(fake_existing(w.runtime), 1);
    assert_int_equal(stored_rows(&w), 1);
    world_close(&w);
}

static void test_pending_expires(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_open(&w);
    fake_images(w.runtime, false);
    fake_hold(w.runtime, FAKE_IMAGE, true);
    (void)test_create(&w, &a, 1, -1);
    UNTIL(&w, a.times); // the error: it does not wait for the pull
    assert_int_equal(a.error.status, 404);
    UNTIL(&w, count(&w) == 0);
    fake_hold(w.runtime, FAKE_IMAGE, false);
    world_close(&w);
}

// A renewal that was accepted before the deadline wins, however long its commit takes.
static void test_renew_at_the_tick(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0}, b = {0}, c = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    fake_hold(w.runtime, FAKE_PAUSE, true);
    renew(&w, id, 1500);
    int64_t old = clock_wall_us() + 1500000;
    lifecycle_pause(w.domain, id, answered, &b); // what the renewal has to wait for
    UNTIL(&w, fake_count(w.runtime, FAKE_PAUSE) == 1);
    lifecycle_renew(w.domain, id, old + 3600000000, answered, &a);
    UNTIL(&w, clock_wall_us() > old + 50000);
    assert_int_equal(a.times, 0);
    fake_hold(w.runtime, FAKE_PAUSE, false);
    UNTIL(&w, a.times && b.times);
    assert_int_equal(a.error.kind, 0);
    create_running(&w, 3600, id);
    renew(&w, id, 1000);
    old = clock_wall_us() + 1000000;
    disk_full(true); // a renewal that fails does not keep it
    lifecycle_renew(w.domain, id, old + 3600000000, answered, &c);
    UNTIL(&w, c.times);
    disk_full(false);
    assert_true(c.error.kind > 0);
    UNTIL(&w, count(&w) == 1);
    world_close(&w);
}

static void test_ended_ones_go_at_their_expiry(void **state) {
    (void)state;
    struct world w;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    fake_exit(w.runtime, id, 0, 0, false);
    UNTIL(&w, strcmp(stored_state(&w, id), "Terminated") == 0);
    renew(&w, id, 20);
    UNTIL(&w, count(&w) == 0);
    assert_int_equal(stored_rows(&w), 0);
    world_close(&w);
}

static void test_failed_ones_are_forgotten(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_begin(&w);
    w.settings.failed_retention_s = 1;
    world_start(&w);
    fake_fail(w.runtime, FAKE_PROVISION, 1);
    (void)test_create(&w, &a, 3600, 0);
    UNTIL(&w, a.times);
    assert_int_equal(a.state, SANDBOX_PENDING);
    UNTIL(&w, strcmp(stored_state(&w, a.id), "Failed") == 0);
    UNTIL(&w, count(&w) == 0);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expires),
        cmocka_unit_test(test_pending_expires),
        cmocka_unit_test(test_renew_at_the_tick),
        cmocka_unit_test(test_ended_ones_go_at_their_expiry),
        cmocka_unit_test(test_failed_ones_are_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
