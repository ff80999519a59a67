// create, delete, pause, resume, renew, metadata against a scripted runtime and a real store.
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
static size_t count(struct world *w) {
    return registry_count(domain_registry(w->domain));
}
static void assert_nothing_left(struct world *w) {
    UNTIL(w, count(w) == 0);
    assert_int_equal(fake_existing(w->runtime), 0);
    assert_int_equal(stored_rows(w), 0);
}

static void test_create_and_delete(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0}, again = {0}, third = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    assert_true(fake_exists(w.runtime, id));
    assert_string_equal(stored_state(&w, id), "Running");
    assert_int_equal(registry_count_state(domain_registry(w.domain), SANDBOX_RUNNING), 1);
    fake_hold(w.runtime, FAKE_DESTROY, true);
    lifecycle_delete(w.domain, id, answered, &a);
    assert_null(visible(&w, id)); // from that moment on
    lifecycle_delete(w.domain, id, answered, &again);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) == 1);
    assert_string_equal(stored_state(&w, id), "Stopping");
    assert_int_equal(a.times + again.times, 0);
    fake_hold(w.runtime, FAKE_DESTROY, false);
    UNTIL(&w, a.times && again.times);
    assert_int_equal(a.error.kind + again.error.kind, 0);
    assert_int_equal(fake_count(w.runtime, FAKE_DESTROY), 1);
    assert_nothing_left(&w);
    lifecycle_delete(w.domain, id, answered, &third);
    assert_int_equal(third.error.status, 404);
    assert_string_equal(third.error.code, "FAKE::SANDBOX_NOT_FOUND");
    world_close(&w);
}

static void test_failing_steps_leave_nothing(void **state) {
    (void)state;
    static const enum fake_call failing[] = {FAKE_IMAGE, FAKE_PROVISION};
    struct world w;
    world_open(&w);
    fake_images(w.runtime, false);
    for (size_t i = 0; i < ARRAY_SIZE(failing); i++) {
        struct answer a;
        fake_fail(w.runtime, failing[i], 1);
        (void)test_create(&w, &a, 3600, -1);
        UNTIL(&w, a.times);
        assert_int_equal(a.error.status, 500);
        assert_string_equal(a.error.code, failing[i] == FAKE_IMAGE ? "FAKE::IMAGE_PULL_FAILED"
                                                                   : "FAKE::SANDBOX_START_FAILED");
        assert_nothing_left(&w);
    }
    world_close(&w);
}

static void fill_disk(void) {
    disk_full(true);
}
static void free_disk(void) {
    disk_full(false);
}

static void test_store_fails_at_each_commit_of_create(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_open(&w);
    disk_full(true); // the first: Pending
    (void)test_create(&w, &a, 3600, -1);
    UNTIL(&w, a.times);
    disk_full(false);
    assert_int_equal(a.error.status, 500);
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), 0);
    assert_nothing_left(&w);
    fake_hook(w.runtime, FAKE_PROVISION, fill_disk); // the second: Running, and then Stopping
    fake_hook(w.runtime, FAKE_DESTROY, free_disk);
    (void)test_create(&w, &a, 3600, -1);
    UNTIL(&w, a.times);
    assert_int_equal(a.error.status, 500);
    assert_nothing_left(&w);
    world_close(&w);
}

static void test_store_fails_at_the_removal(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, id);
    fake_hook(w.runtime, FAKE_DESTROY, fill_disk);
    lifecycle_delete(w.domain, id, answered, &a);
    UNTIL(&w, domain_metrics(w.domain)->teardown_retries >= 1);
    assert_int_equal(a.times, 0);
    disk_full(false);
    UNTIL(&w, a.times);
    assert_int_equal(a.error.kind, 0);
    assert_nothing_left(&w);
    world_close(&w);
}

static void test_store_fails_for_the_others(void **state) {
    (void)state;
    struct world w;
    struct answer pause = {0}, renew = {0}, patch = {0};
    char id[SANDBOX_ID_SIZE];
    struct pairs p = {0};
    world_open(&w);
    create_running(&w, 3600, id);
    int64_t before = visible(&w, id)->expires_us;
    assert_int_equal(pairs_add(&p, "team", "blue"), 0);
    disk_full(true);
    lifecycle_renew(w.domain, id, clock_wall_us() + 60000000, answered, &renew);
    lifecycle_patch_metadata(w.domain, id, &p, answered, &patch);
    lifecycle_pause(w.domain, id, answered, &pause);
    UNTIL(&w, pause.times && renew.times && patch.times);
    disk_full(false);
    assert_true(pause.error.kind && renew.error.kind && patch.error.kind);
    assert_int_equal(visible(&w, id)->state, SANDBOX_RUNNING); // thawed again
    assert_int_equal(fake_count(w.runtime, FAKE_RESUME), 1);
    assert_true(visible(&w, id)->expires_us == before);
    assert_string_equal(pairs_get(&visible(&w, id)->metadata, "team"), "red");
    pairs_clear(&p);
    world_close(&w);
}

static void test_abandon_at_each_stage(void **state) {
    (void)state;
    static const enum fake_call stages[] = {FAKE_CALLS, FAKE_IMAGE, FAKE_PROVISION, FAKE_DESTROY};
    struct world w;
    world_open(&w);
    fake_images(w.runtime, false);
    for (size_t i = 0; i < ARRAY_SIZE(stages); i++) {
        struct answer a;
        bool held = stages[i] != FAKE_CALLS; // else at once, before anything is committed
        unsigned calls = held ? fake_count(w.runtime, stages[i]) : 0;
        if (held)
            fake_hold(w.runtime, stages[i], true);
        if (stages[i] == FAKE_DESTROY) // while what has failed is being removed
            fake_fail(w.runtime, FAKE_PROVISION, 1);
        struct create_ticket *t = test_create(&w, &a, 3600, -1);
        assert_non_null(t);
        if (held)
            UNTIL(&w, fake_count(w.runtime, stages[i]) > calls);
        lifecycle_abandon(t);
        if (held)
            fake_hold(w.runtime, stages[i], false);
        assert_nothing_left(&w);
        assert_int_equal(a.times, 0);
    }
    world_close(&w);
}

static void test_abandon_while_waiting_for_a_turn(void **state) {
    (void)state;
    struct world w;
    struct answer first, second;
    world_begin(&w);
    w.settings.creates_running = 1;
    world_start(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    (void)test_create(&w, &first, 3600, -1);
    UNTIL(&w, fake_count(w.runtime, FAKE_PROVISION) == 1);
    struct create_ticket *t = test_create(&w, &second, 3600, -1);
    UNTIL(&w, stored_rows(&w) == 2);
    lifecycle_abandon(t);
    UNTIL(&w, count(&w) == 1);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, first.times);
    assert_int_equal(first.state, SANDBOX_RUNNING);
    assert_int_equal(second.times, 0);
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), 1);
    create_running(&w, 0, first.id); // the turn is free again
    world_close(&w);
}

static void test_delete_races_create(void **state) {
    (void)state;
    struct world w;
    struct answer created, deleted = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    (void)test_create(&w, &created, 3600, 0); // Pending at once, so that the id is known
    UNTIL(&w, created.times);
    assert_int_equal(created.state, SANDBOX_PENDING);
    (void)snprintf(id, sizeof id, "%s", created.id);
    UNTIL(&w, fake_count(w.runtime, FAKE_PROVISION) == 1);
    lifecycle_delete(w.domain, id, answered, &deleted);
    assert_null(visible(&w, id));
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, deleted.times);
    assert_int_equal(deleted.error.kind, 0);
    assert_int_equal(created.times, 1);
    assert_nothing_left(&w);
    world_close(&w);
}

static void test_pending_reply_then_failure_stays(void **state) {
    (void)state;
    struct world w;
    struct answer a, deleted = {0};
    world_open(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    fake_fail(w.runtime, FAKE_PROVISION, 1);
    (void)test_create(&w, &a, 60, 20); // the wait runs out
    UNTIL(&w, a.times);
    assert_int_equal(a.state, SANDBOX_PENDING);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, visible(&w, a.id)->state == SANDBOX_FAILED);
    UNTIL(&w, strcmp(stored_state(&w, a.id), "Failed") == 0);
    assert_string_equal(visible(&w, a.id)->failure.code, "FAKE::SANDBOX_START_FAILED");
    assert_true(visible(&w, a.id)->forget_us > clock_wall_us() + 3500000000);
    assert_int_equal(a.times, 1);
    world_stop(&w); // and after a restart
    world_reopen(&w);
    world_start(&w);
    assert_int_equal(visible(&w, a.id)->state, SANDBOX_FAILED);
    assert_string_equal(visible(&w, a.id)->failure.code, "FAKE::SANDBOX_START_FAILED");
    assert_int_equal(visible(&w, a.id)->failure.status, 500);
    lifecycle_delete(w.domain, a.id, answered, &deleted);
    UNTIL(&w, deleted.times);
    assert_nothing_left(&w);
    world_close(&w);
}

static void test_limits(void **state) {
    (void)state;
    struct world w;
    struct answer a[4];
    world_begin(&w);
    w.settings.creates_running = 1;
    w.settings.creates_waiting = 1;
    w.settings.sandboxes_max = 3;
    world_start(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    for (int i = 0; i < 3; i++)
        (void)test_create(&w, &a[i], 0, -1);
    assert_int_equal(a[2].error.status, 429); // one runs, one waits
    assert_string_equal(a[2].error.code, "SANDBOX::TOO_MANY");
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, a[0].times && a[1].times);
    create_running(&w, 0, a[2].id);
    assert_null(test_create(&w, &a[3], 0, -1));
    assert_int_equal(a[3].error.status, 429);
    world_close(&w);
}

static void test_200_creates_at_once(void **state) {
    (void)state;
    enum { MANY = 200 };
    static struct answer a[MANY], b[MANY];
    struct world w;
    unsigned done = 0;
    world_open(&w);
    fake_images(w.runtime, false);
    fake_hold(w.runtime, FAKE_IMAGE, true);
    for (int i = 0; i < MANY; i++)
        (void)test_create(&w, &a[i], 3600, -1);
    UNTIL(&w, fake_count(w.runtime, FAKE_IMAGE) == 1);
    UNTIL(&w, stored_rows(&w) == MANY);
    fake_hold(w.runtime, FAKE_IMAGE, false);
    for (int i = 0; i < MANY; i++) {
        UNTIL(&w, a[i].times);
        assert_int_equal(a[i].state, SANDBOX_RUNNING);
    }
    assert_true(fake_most(w.runtime, FAKE_PROVISION) <= 4);
    assert_true(store_commits(w.store) < 2 * MANY); // they were grouped
    for (int i = 0; i < MANY; i++) {
        b[i] = (struct answer){0};
        lifecycle_delete(w.domain, a[i].id, answered, &b[i]);
    }
    for (int i = 0; i < MANY; i++)
        UNTIL(&w, b[i].times);
    (void)done;
    assert_nothing_left(&w);
    world_close(&w);
}

static void test_pause_and_resume(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0}, b = {0}, c = {0}, d = {0}, e = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    lifecycle_resume(w.domain, id, answered, &e);
    UNTIL(&w, e.times);
    assert_string_equal(e.error.code, "FAKE::SANDBOX_NOT_PAUSED");
    lifecycle_pause(w.domain, id, answered, &a); // two at once: one wins, the other is told
    lifecycle_pause(w.domain, id, answered, &b);
    assert_int_equal(visible(&w, id)->state, SANDBOX_PAUSING);
    UNTIL(&w, a.times && b.times);
    assert_int_equal(a.error.kind, 0);
    assert_int_equal(a.state, SANDBOX_PAUSED);
    assert_string_equal(b.error.code, "FAKE::SANDBOX_NOT_RUNNING");
    assert_int_equal(b.error.status, 409);
    assert_int_equal(fake_count(w.runtime, FAKE_PAUSE), 1);
    assert_string_equal(stored_state(&w, id), "Paused");
    fake_fail(w.runtime, FAKE_RESUME, 1);
    lifecycle_resume(w.domain, id, answered, &c);
    UNTIL(&w, c.times);
    assert_string_equal(c.error.code, "FAKE::SANDBOX_RESUME_FAILED");
    assert_int_equal(visible(&w, id)->state, SANDBOX_PAUSED);
    lifecycle_resume(w.domain, id, answered, &d);
    UNTIL(&w, d.times);
    assert_int_equal(d.state, SANDBOX_RUNNING);
    assert_string_equal(stored_state(&w, id), "Running");
    fake_fail(w.runtime, FAKE_PAUSE, 1);
    a = (struct answer){0};
    lifecycle_pause(w.domain, id, answered, &a);
    UNTIL(&w, a.times);
    assert_string_equal(a.error.code, "FAKE::SANDBOX_PAUSE_FAILED");
    assert_int_equal(visible(&w, id)->state, SANDBOX_RUNNING);
    world_close(&w);
}

static void test_delete_while_pausing(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0}, b = {0}, c = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    fake_hold(w.runtime, FAKE_PAUSE, true);
    lifecycle_pause(w.domain, id, answered, &a);
    lifecycle_resume(w.domain, id, answered, &c);
    UNTIL(&w, fake_count(w.runtime, FAKE_PAUSE) == 1);
    lifecycle_delete(w.domain, id, answered, &b);
    fake_hold(w.runtime, FAKE_PAUSE, false);
    UNTIL(&w, a.times && b.times && c.times);
    assert_int_equal(b.error.kind, 0);
    assert_int_equal(a.error.status, 404);
    assert_int_equal(c.error.status, 404);
    assert_nothing_left(&w);
    world_close(&w);
}

static void test_renew(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0}, b = {0}, c = {0}, d = {0};
    char id[SANDBOX_ID_SIZE], manual[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    create_running(&w, 0, manual);
    int64_t soon = clock_wall_us() + 100000000, late = soon + 3600000000;
    lifecycle_renew(w.domain, id, late, answered, &a);
    UNTIL(&w, a.times);
    assert_int_equal(a.error.kind, 0);
    assert_true(visible(&w, id)->expires_us == late);
    lifecycle_renew(w.domain, id, soon, answered, &b); // shorter is fine
    UNTIL(&w, b.times);
    assert_true(visible(&w, id)->expires_us == soon);
    lifecycle_renew(w.domain, id, clock_wall_us() - 1, answered, &c);
    assert_int_equal(c.error.status, 400);
    lifecycle_renew(w.domain, manual, late, answered, &d);
    assert_int_equal(d.error.status, 409);
    assert_string_equal(d.error.code, "FAKE::INVALID_EXPIRATION");
    world_close(&w);
}

static void test_metadata(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0}, b = {0};
    char id[SANDBOX_ID_SIZE];
    struct pairs one = {0}, two = {0};
    world_open(&w);
    create_running(&w, 3600, id);
    assert_int_equal(pairs_add(&one, "team", NULL), 0); // a removal
    assert_int_equal(pairs_add(&two, "b", "2"), 0);
    lifecycle_patch_metadata(w.domain, id, &one, answered, &a);
    lifecycle_patch_metadata(w.domain, id, &two, answered, &b);
    UNTIL(&w, a.times && b.times);
    world_stop(&w);
    world_reopen(&w);
    world_start(&w);
    assert_int_equal(visible(&w, id)->metadata.count, 1);
    assert_string_equal(pairs_get(&visible(&w, id)->metadata, "b"), "2");
    assert_string_equal(pairs_get(&visible(&w, id)->spec->metadata, "team"), "red");
    pairs_clear(&one);
    pairs_clear(&two);
    world_close(&w);
}

static void test_exit(void **state) {
    (void)state;
    static const struct {
        int code, signal;
        bool oom;
        enum sandbox_state state;
        const char *reason, *words;
    } ways[] = {
        {0, 0, false, SANDBOX_TERMINATED, "CONTAINER_EXITED", "code 0"},
        {3, 0, false, SANDBOX_FAILED, "CONTAINER_EXITED_ERROR", "code 3"},
        {137, 9, false, SANDBOX_FAILED, "CONTAINER_EXITED_ERROR", "signal 9"},
        {137, 9, true, SANDBOX_FAILED, "OOM_KILLED", "out of memory"},
        {-1, 0, false, SANDBOX_FAILED, "CONTAINER_EXITED_ERROR", "not known"},
    };
    struct world w;
    world_open(&w);
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        char id[SANDBOX_ID_SIZE];
        create_running(&w, 0, id);
        fake_exit(w.runtime, id, ways[i].code, ways[i].signal, ways[i].oom);
        fake_exit(w.runtime, id, ways[i].code, ways[i].signal, ways[i].oom); // said twice
        UNTIL(&w, strcmp(stored_state(&w, id), sandbox_state_name(ways[i].state)) == 0);
        const struct sandbox *sb = visible(&w, id);
        assert_int_equal(sb->state, ways[i].state);
        assert_string_equal(sb->reason, ways[i].reason);
        assert_non_null(strstr(sb->message, ways[i].words));
        assert_int_equal(fake_count(w.runtime, FAKE_RETIRE), i + 1);
    }
    world_close(&w);
}

static void test_exit_while_deleting(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, id);
    fake_hold(w.runtime, FAKE_DESTROY, true);
    lifecycle_delete(w.domain, id, answered, &a);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) == 1);
    fake_exit(w.runtime, id, 137, 9, false);
    fake_hold(w.runtime, FAKE_DESTROY, false);
    UNTIL(&w, a.times);
    assert_nothing_left(&w);
    assert_int_equal(fake_count(w.runtime, FAKE_RETIRE), 0);
    create_running(&w, 0, id); // and the other way round: the exit is being handled
    fake_hold(w.runtime, FAKE_RETIRE, true);
    fake_exit(w.runtime, id, 0, 0, false);
    UNTIL(&w, fake_count(w.runtime, FAKE_RETIRE) == 1);
    a = (struct answer){0};
    lifecycle_delete(w.domain, id, answered, &a);
    fake_hold(w.runtime, FAKE_RETIRE, false);
    UNTIL(&w, a.times);
    assert_nothing_left(&w);
    world_close(&w);
}

static void test_teardown_is_tried_again(void **state) {
    (void)state;
    struct world w;
    struct answer a = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, id);
    fake_fail(w.runtime, FAKE_DESTROY, 2);
    lifecycle_delete(w.domain, id, answered, &a);
    UNTIL(&w, a.times);
    assert_int_equal(a.error.kind, 0);
    assert_int_equal(fake_count(w.runtime, FAKE_DESTROY), 3);
    assert_nothing_left(&w);
    world_close(&w);
}

// The real limit of 10 s: two runs of it at once, one with Stopping on disk, one without.
static void test_delete_answers_in_time(void **state) {
    (void)state;
    struct world w;
    struct answer durable = {0}, not_durable = {0};
    char one[SANDBOX_ID_SIZE], two[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 0, one);
    create_running(&w, 0, two);
    fake_hold(w.runtime, FAKE_DESTROY, true);
    int64_t begun = clock_boot_ms();
    lifecycle_delete(w.domain, one, answered, &durable);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) == 1);
    disk_full(true);
    lifecycle_delete(w.domain, two, answered, &not_durable);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) == 2); // a full disk does not hold it up
    disk_full(false);
    UNTIL(&w, durable.times && not_durable.times);
    assert_in_range(clock_boot_ms() - begun, 9900, 20000);
    assert_int_equal(durable.error.kind, 0);
    assert_string_equal(not_durable.error.code, "FAKE::SANDBOX_DELETE_FAILED");
    fake_hold(w.runtime, FAKE_DESTROY, false);
    assert_nothing_left(&w);
    assert_int_equal(durable.times + not_durable.times, 2);
    world_close(&w);
}

static void test_tokens(void **state) {
    (void)state;
    struct world w;
    char a[SANDBOX_TOKEN_SIZE], b[SANDBOX_TOKEN_SIZE], c[SANDBOX_TOKEN_SIZE];
    world_open(&w);
    domain_token(w.domain, "execd", "1", a);
    domain_token(w.domain, "secure-access", "1", b);
    assert_int_equal(strlen(a), 43);
    assert_string_not_equal(a, b);
    world_stop(&w);
    world_reopen(&w);
    world_start(&w);
    domain_token(w.domain, "execd", "1", c);
    assert_string_equal(a, c);
    world_close(&w);
}

static void test_stop_under_load(void **state) {
    (void)state;
    static struct answer a[20];
    struct world w;
    world_open(&w);
    for (int i = 0; i < 20; i++)
        (void)test_create(&w, &a[i], 0, -1);
    world_turn(&w);
    world_close(&w); // asserts that the loop closes clean
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_and_delete),
        cmocka_unit_test(test_failing_steps_leave_nothing),
        cmocka_unit_test(test_store_fails_at_each_commit_of_create),
        cmocka_unit_test(test_store_fails_at_the_removal),
        cmocka_unit_test(test_store_fails_for_the_others),
        cmocka_unit_test(test_abandon_at_each_stage),
        cmocka_unit_test(test_abandon_while_waiting_for_a_turn),
        cmocka_unit_test(test_delete_races_create),
        cmocka_unit_test(test_pending_reply_then_failure_stays),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_200_creates_at_once),
        cmocka_unit_test(test_pause_and_resume),
        cmocka_unit_test(test_delete_while_pausing),
        cmocka_unit_test(test_renew),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_exit),
        cmocka_unit_test(test_exit_while_deleting),
        cmocka_unit_test(test_teardown_is_tried_again),
        cmocka_unit_test(test_delete_answers_in_time),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_stop_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
