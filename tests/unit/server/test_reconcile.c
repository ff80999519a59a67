// The table of reconcile(), and whole restarts over one store and one runtime.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fake_runtime.h"
#include "server/sandbox/reconcile.h"

static void test_every_pair(void **state) {
    (void)state;
    enum { K = RECONCILE_KEEP, A = RECONCILE_ADOPT, L = RECONCILE_LOST, T = RECONCILE_TEARDOWN };
    static const int expected[SANDBOX_STATE_COUNT][2] = {
        [SANDBOX_PENDING] = {T, T},    [SANDBOX_RUNNING] = {L, A},  [SANDBOX_PAUSING] = {L, A},
        [SANDBOX_PAUSED] = {L, A},     [SANDBOX_RESUMING] = {L, A}, [SANDBOX_STOPPING] = {T, T},
        [SANDBOX_TERMINATED] = {K, A}, [SANDBOX_FAILED] = {K, A}};
    for (int s = 0; s < SANDBOX_STATE_COUNT; s++) {
        for (int found = 0; found < 2; found++) {
            for (int expired = 0; expired < 2; expired++) {
                const struct reconcile_record r = {
                    .id = "1", .state = (enum sandbox_state)s, .deadline_us = expired ? 99 : 101};
                const struct runtime_found f = {.id = "1"};
                struct reconcile_result out[2];
                assert_int_equal(reconcile(&r, 1, &f, (size_t)found, 100, out), 1);
                assert_int_equal(out[0].action, expired ? (int)T : expected[s][found]);
            }
        }
    }
}

// Pending, and all of it runs: its preStart hook is waited for.
static void test_begun(void **state) {
    (void)state;
    const struct runtime_found f = {.id = "1"};
    struct reconcile_record r = {.id = "1", .state = SANDBOX_PENDING, .begun = true};
    struct reconcile_result out[2];
    assert_int_equal(reconcile(&r, 1, &f, 1, 100, out), 1);
    assert_int_equal(out[0].action, RECONCILE_ADOPT);
    assert_int_equal(reconcile(&r, 1, &f, 0, 100, out), 1);
    assert_int_equal(out[0].action, RECONCILE_TEARDOWN);
    r.deadline_us = 99;
    assert_int_equal(reconcile(&r, 1, &f, 1, 100, out), 1);
    assert_int_equal(out[0].action, RECONCILE_TEARDOWN);
}

static void test_found_without_record(void **state) {
    (void)state;
    const struct reconcile_record r = {.id = "b", .state = SANDBOX_RUNNING};
    const struct runtime_found f[] = {{.id = "a"}, {.id = "b"}, {.id = "c"}};
    struct reconcile_result out[4];
    assert_int_equal(reconcile(&r, 1, f, 3, 100, out), 3);
    assert_string_equal(out[0].id, "b");
    assert_int_equal(out[0].action, RECONCILE_ADOPT);
    assert_string_equal(out[1].id, "a");
    assert_string_equal(out[2].id, "c");
    assert_int_equal(out[1].action, RECONCILE_DESTROY);
    assert_int_equal(reconcile(NULL, 0, NULL, 0, 100, out), 0);
}

static void restart(struct world *w) {
    world_stop(w);
    world_reopen(w);
    world_start(w);
}
static const struct sandbox *visible(struct world *w, const char *id) {
    return registry_visible(domain_registry(w->domain), id);
}

static void test_restart(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0};
    char running[SANDBOX_ID_SIZE], paused[SANDBOX_ID_SIZE], later[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, running);
    create_running(&w, 0, paused);
    create_running(&w, 0, later);
    lifecycle_pause(w.domain, paused, answered, &a);
    UNTIL(&w, a.times);
    int64_t expires = visible(&w, running)->expires_us, created = visible(&w, running)->created_us;
    fake_put(w.runtime, "nobody-knows-me");
    restart(&w); // the runtime says that all of them run
    assert_int_equal(w.ready, 1);
    assert_int_equal(fake_count(w.runtime, FAKE_ADOPT), 3);
    assert_int_equal(fake_count(w.runtime, FAKE_SWEEP), 2);
    assert_false(fake_exists(w.runtime, "nobody-knows-me"));
    assert_int_equal(visible(&w, running)->state, SANDBOX_RUNNING);
    assert_true(visible(&w, running)->expires_us == expires);
    assert_true(visible(&w, running)->created_us == created);
    assert_string_equal(visible(&w, running)->image_id, "sha256-of-base:1");
    assert_non_null(strstr(visible(&w, running)->runtime_state, running));
    assert_int_equal(visible(&w, paused)->state, SANDBOX_RUNNING); // what is wins
    assert_string_equal(stored_state(&w, paused), "Running");
    world_close(&w);
}

static void test_frozen_is_paused(void **state) {
    (void)state;
    struct world w;
    char id[SANDBOX_ID_SIZE];
    const struct inspection frozen = {.alive = true, .paused = true};
    world_open(&w);
    create_running(&w, 0, id);
    fake_inspection(w.runtime, &frozen);
    restart(&w);
    assert_int_equal(visible(&w, id)->state, SANDBOX_PAUSED);
    assert_string_equal(stored_state(&w, id), "Paused");
    world_close(&w);
}

static void test_ended_meanwhile(void **state) {
    (void)state;
    struct world w;
    char id[SANDBOX_ID_SIZE];
    const struct inspection ended = {.has_record = true, .exit_code = 4, .ended_us = 1234};
    world_open(&w);
    create_running(&w, 0, id);
    fake_inspection(w.runtime, &ended);
    restart(&w);
    assert_int_equal(visible(&w, id)->state, SANDBOX_FAILED); // before it is ready
    assert_true(visible(&w, id)->changed_us == 1234);
    assert_string_equal(stored_state(&w, id), "Failed");
    assert_int_equal(fake_count(w.runtime, FAKE_RETIRE), 1);
    restart(&w); // an ended one stays, with its log
    assert_int_equal(visible(&w, id)->state, SANDBOX_FAILED);
    assert_int_equal(fake_count(w.runtime, FAKE_RETIRE), 1);
    assert_true(fake_exists(w.runtime, id));
    world_close(&w);
}

static void test_lost(void **state) {
    (void)state;
    struct world w;
    struct error err = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, id);
    assert_int_equal(w.runtime->ops->destroy(w.runtime, id, &err), 0);
    restart(&w);
    assert_int_equal(visible(&w, id)->state, SANDBOX_FAILED);
    assert_non_null(strstr(visible(&w, id)->message, "gone"));
    assert_string_equal(stored_state(&w, id), "Failed");
    world_close(&w);
}

static void test_not_adoptable(void **state) {
    (void)state;
    struct world w;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, id);
    fake_fail(w.runtime, FAKE_ADOPT, 1);
    restart(&w);
    assert_int_equal(w.ready, 1);
    assert_int_equal(visible(&w, id)->state, SANDBOX_FAILED);
    assert_non_null(strstr(visible(&w, id)->message, "could not be taken over: scripted"));
    assert_string_equal(stored_state(&w, id), "Failed");
    assert_int_equal(fake_count(w.runtime, FAKE_RETIRE), 1); // nobody would end it later
    world_close(&w);
}

// Between the list and the adoptions the engine goes away: that is no sandbox's end.
static void test_engine_away(void **state) {
    (void)state;
    struct world w;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, id);
    fake_away(w.runtime, true);
    restart(&w);
    assert_int_equal(w.ready, -1);
    assert_non_null(strstr(w.start_error.message, "scripted absence"));
    assert_string_equal(stored_state(&w, id), "Running");
    fake_away(w.runtime, false);
    restart(&w);
    assert_int_equal(w.ready, 1);
    assert_int_equal(visible(&w, id)->state, SANDBOX_RUNNING);
    assert_int_equal(fake_count(w.runtime, FAKE_RETIRE), 0);
    world_close(&w);
}

static void test_half_made_and_expired(void **state) {
    (void)state;
    struct world w;
    struct answer a, renewed = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    int64_t soon = clock_wall_us() + 200000;
    lifecycle_renew(w.domain, id, soon, answered, &renewed);
    UNTIL(&w, renewed.times);
    fake_images(w.runtime, false);
    fake_hold(w.runtime, FAKE_IMAGE, true);
    (void)test_create(&w, &a, 3600, 0);
    UNTIL(&w, a.times);
    UNTIL(&w, fake_count(w.runtime, FAKE_IMAGE) == 1);
    fake_put(w.runtime, a.id);                           // ruins of its provisioning
    domain_stop(w.domain, (void (*)(void *))free, NULL); // it cannot end: the pull hangs
    fake_hold(w.runtime, FAKE_IMAGE, false);
    domain_free(w.domain);
    store_close(w.store);
    while (clock_wall_us() <= soon)
        world_turn(&w);
    world_reopen(&w);
    world_start(&w);
    assert_int_equal(registry_count(domain_registry(w.domain)), 0);
    assert_int_equal(fake_existing(w.runtime), 0);
    assert_int_equal(stored_rows(&w), 0);
    world_close(&w);
}

static void test_failing_start(void **state) {
    (void)state;
    static const enum fake_call failing[] = {FAKE_START, FAKE_LIST, FAKE_SWEEP};
    for (size_t i = 0; i < ARRAY_SIZE(failing); i++) {
        struct world w;
        struct answer a;
        world_begin(&w);
        fake_fail(w.runtime, failing[i], 1);
        world_start(&w);
        assert_int_equal(w.ready, -1);
        assert_non_null(strstr(w.start_error.message, "scripted"));
        assert_false(domain_ready(w.domain));
        (void)test_create(&w, &a, 0, -1);
        assert_int_equal(a.error.status, 503);
        world_close(&w);
    }
}

static void test_teardown_that_fails_does_not_hold_up_the_start(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, id);
    fake_fail(w.runtime, FAKE_DESTROY, 1000);
    lifecycle_delete(w.domain, id, answered, &a);
    UNTIL(&w, domain_metrics(w.domain)->teardown_retries >= 1);
    world_stop(&w); // the record says Stopping
    assert_int_equal(a.times, 1);
    assert_int_equal(a.error.kind, 0);
    fake_fail(w.runtime, FAKE_DESTROY, 2);
    world_reopen(&w);
    world_start(&w);
    UNTIL(&w, stored_rows(&w) == 0);
    assert_int_equal(fake_existing(w.runtime), 0);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair),
        cmocka_unit_test(test_begun),
        cmocka_unit_test(test_found_without_record),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_frozen_is_paused),
        cmocka_unit_test(test_ended_meanwhile),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_not_adoptable),
        cmocka_unit_test(test_engine_away),
        cmocka_unit_test(test_half_made_and_expired),
        cmocka_unit_test(test_failing_start),
        cmocka_unit_test(test_teardown_that_fails_does_not_hold_up_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
