// Idempotency keys: the same answer for the same request, over failures, waits and restarts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fake_runtime.h"
#include "server/sandbox/domain.h"

static struct create_ticket *create(struct world *w, struct answer *a, const char *key,
                                    const char *body, int64_t wait_ms) {
    struct sandbox_spec *s = test_spec(3600);
    const struct create_request q = {.spec = s, .key = key, .key_body = body, .wait_ms = wait_ms};
    *a = (struct answer){0};
    struct create_ticket *t = lifecycle_create(w->domain, &q, answered, a);
    spec_unref(s);
    return t;
}

static void must_conflict(struct world *w, const char *key, const char *body) {
    struct answer a;
    assert_null(create(w, &a, key, body, -1));
    assert_int_equal(a.times, 1);
    assert_int_equal(a.error.status, 409);
    assert_string_equal(a.error.code, "SANDBOX::IDEMPOTENCY_CONFLICT");
}

static void test_same_answer_also_after_a_restart(void **state) {
    (void)state;
    struct world w;
    struct answer first, again, gone = {0};
    world_open(&w);
    (void)create(&w, &first, "k", "b", -1);
    UNTIL(&w, first.times);
    assert_int_equal(first.state, SANDBOX_RUNNING);
    assert_null(create(&w, &again, "k", "b", -1));
    assert_string_equal(again.id, first.id);
    must_conflict(&w, "k", "other");
    world_stop(&w);
    world_reopen(&w);
    world_start(&w);
    assert_null(create(&w, &again, "k", "b", -1));
    assert_string_equal(again.id, first.id);
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), 1);
    lifecycle_delete(w.domain, first.id, answered, &gone);
    UNTIL(&w, gone.times);
    must_conflict(&w, "k", "b");
    world_stop(&w);
    world_reopen(&w);
    world_start(&w);
    must_conflict(&w, "k", "b");
    world_close(&w);
}

static void test_the_second_waits_for_the_first(void **state) {
    (void)state;
    struct world w;
    struct answer first, second, third;
    world_open(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    struct create_ticket *a = create(&w, &first, "k", "b", -1);
    struct create_ticket *b = create(&w, &second, "k", "b", -1);
    assert_non_null(a);
    assert_non_null(b);
    UNTIL(&w, fake_count(w.runtime, FAKE_PROVISION) == 1);
    assert_null(create(&w, &third, "k", "b", 0)); // does not want to wait
    assert_int_equal(third.state, SANDBOX_PENDING);
    lifecycle_abandon(a); // with a key it goes on
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, second.times);
    assert_int_equal(first.times, 0);
    assert_int_equal(second.state, SANDBOX_RUNNING);
    assert_string_equal(second.id, third.id);
    world_close(&w);
}

static void test_abandoned_by_all_it_goes_on(void **state) {
    (void)state;
    struct world w;
    struct answer a, again;
    world_open(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    struct create_ticket *t = create(&w, &a, "k", "b", -1);
    UNTIL(&w, fake_count(w.runtime, FAKE_PROVISION) == 1);
    lifecycle_abandon(t);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    (void)create(&w, &again, "k", "b", -1);
    UNTIL(&w, again.times);
    assert_int_equal(again.state, SANDBOX_RUNNING);
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), 1);
    world_close(&w);
}

static void test_a_failed_create_frees_the_key(void **state) {
    (void)state;
    struct world w;
    struct answer a, b;
    world_open(&w);
    fake_fail(w.runtime, FAKE_PROVISION, 1);
    (void)create(&w, &a, "k", "b", -1);
    (void)create(&w, &b, "k", "b", -1);
    UNTIL(&w, a.times && b.times);
    assert_true(a.error.kind && b.error.kind);
    (void)create(&w, &a, "k", "another body", -1);
    UNTIL(&w, a.times);
    assert_int_equal(a.state, SANDBOX_RUNNING);
    world_stop(&w);
    world_reopen(&w);
    world_start(&w);
    must_conflict(&w, "k", "b");
    assert_null(create(&w, &b, "k", "another body", -1));
    assert_string_equal(b.id, a.id);
    world_close(&w);
}

static void test_failed_after_pending_frees_the_key(void **state) {
    (void)state;
    struct world w;
    struct answer a, b;
    world_open(&w);
    fake_fail(w.runtime, FAKE_PROVISION, 1);
    (void)create(&w, &a, "k", "b", 0);
    UNTIL(&w, registry_count_state(domain_registry(w.domain), SANDBOX_FAILED) == 1);
    UNTIL(&w, domain_load(w.domain).operations == 0); // its burial commits, then frees the key
    assert_string_equal(stored_state(&w, a.id), "Failed");
    (void)create(&w, &b, "k", "b", -1);
    UNTIL(&w, b.times);
    assert_int_equal(b.state, SANDBOX_RUNNING);
    assert_string_not_equal(a.id, b.id);
    world_close(&w);
}

// As if the wall clock had been put a day forward.
static struct key *age(struct world *w, const char *text) {
    struct key *k = map_get(&w->domain->keys, text);
    assert_non_null(k);
    k->created_us = 0;
    return k;
}

static void test_old_ones_stay_while_they_are_used(void **state) {
    (void)state;
    struct world w;
    struct answer a, b, c;
    world_open(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    (void)create(&w, &a, "k", "b", -1);
    UNTIL(&w, fake_count(w.runtime, FAKE_PROVISION) == 1);
    struct key *k = age(&w, "k");
    (void)create(&w, &b, "other", "b", -1);
    assert_ptr_equal(map_get(&w.domain->keys, "k"), k);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, a.times && b.times);
    assert_true(a.state == SANDBOX_RUNNING && b.state == SANDBOX_RUNNING);
    (void)create(&w, &c, "third", "b", -1); // nobody uses it now
    assert_null(map_get(&w.domain->keys, "k"));
    assert_non_null(map_get(&w.domain->keys, "other"));
    UNTIL(&w, c.times);
    world_close(&w);
}

static void test_old_ones_stay_until_the_burial(void **state) {
    (void)state;
    struct world w;
    struct answer a, b;
    world_open(&w);
    fake_fail(w.runtime, FAKE_PROVISION, 1);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    fake_hold(w.runtime, FAKE_DESTROY, true);
    (void)create(&w, &a, "k", "b", 0);
    UNTIL(&w, a.times && fake_count(w.runtime, FAKE_PROVISION) == 1);
    disk_full(true); // Failed, and the end of its key, cannot be written down yet
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY) == 1);
    disk_full(false);
    struct key *k = age(&w, "k");
    (void)create(&w, &b, "other", "b", -1);
    assert_ptr_equal(map_get(&w.domain->keys, "k"), k);
    fake_hold(w.runtime, FAKE_DESTROY, false);
    UNTIL(&w, b.times && domain_load(w.domain).operations == 0);
    assert_null(map_get(&w.domain->keys, "k"));
    assert_string_equal(stored_state(&w, a.id), "Failed");
    world_close(&w);
}

static void test_digests_differ_by_purpose(void **state) {
    (void)state;
    struct world w;
    char a[SHA256_HEX_SIZE], b[SHA256_HEX_SIZE], c[SHA256_HEX_SIZE];
    world_open(&w);
    domain_digest(w.domain, "one", "x", 1, a);
    domain_digest(w.domain, "two", "x", 1, b);
    domain_digest(w.domain, "one", "x", 1, c);
    assert_string_not_equal(a, b);
    assert_string_equal(a, c);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_answer_also_after_a_restart),
        cmocka_unit_test(test_the_second_waits_for_the_first),
        cmocka_unit_test(test_abandoned_by_all_it_goes_on),
        cmocka_unit_test(test_a_failed_create_frees_the_key),
        cmocka_unit_test(test_failed_after_pending_frees_the_key),
        cmocka_unit_test(test_old_ones_stay_while_they_are_used),
        cmocka_unit_test(test_old_ones_stay_until_the_burial),
        cmocka_unit_test(test_digests_differ_by_purpose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
