// Renewal on access: who is renewed, how far, and how often.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fake_runtime.h"
#include "server/sandbox/renew/queue.h"
#include "server/sandbox/renew/redis.h"
#include "server/sandbox/renew/renew.h"

static void open_world(struct world *w, bool enabled) {
    world_begin(w);
    w->settings.renew_on_access = enabled;
    w->settings.renew_interval_s = 3600;
    world_start(w);
    assert_int_equal(w->ready, 1);
}

static struct sandbox *make(struct world *w, const char *extend, int64_t timeout_s) {
    struct sandbox_spec *s = test_spec(timeout_s);
    const struct create_request q = {.spec = s, .wait_ms = -1};
    struct answer a = {0};
    if (extend)
        assert_int_equal(pairs_add(&s->extensions, RENEW_EXTENSION, extend), 0);
    (void)lifecycle_create(w->domain, &q, answered, &a);
    spec_unref(s);
    UNTIL(w, a.times);
    assert_int_equal(a.state, SANDBOX_RUNNING);
    return registry_get(domain_registry(w->domain), a.id);
}

static uint64_t renewals(struct world *w) {
    return domain_metrics(w->domain)->renewals;
}

static void test_extends_once_in_the_interval(void **state) {
    (void)state;
    struct world w;
    open_world(&w, true);
    struct sandbox *sb = make(&w, "300", 100);
    int64_t before = clock_wall_us();
    renew_access(w.domain, sb, "server_proxy");
    renew_access(w.domain, sb, "server_proxy"); // while the first is on its way
    UNTIL(&w, renewals(&w) && !sb->access_renewing);
    assert_true(sb->expires_us >= before + 300 * 1000000LL);
    assert_true(sb->expires_us <= clock_wall_us() + 300 * 1000000LL);
    renew_access(w.domain, sb, "redis_queue");
    assert_false(sb->access_renewing);
    assert_int_equal(renewals(&w), 1);
    int64_t at = sb->expires_us;
    char id[SANDBOX_ID_SIZE];
    memcpy(id, sb->id, sizeof id);
    world_stop(&w);
    world_reopen(&w);
    world_start(&w);
    assert_int_equal(registry_get(domain_registry(w.domain), id)->expires_us, at); // durable
    world_close(&w);
}

static void test_leaves_others_alone(void **state) {
    (void)state;
    struct world w;
    open_world(&w, true);
    struct sandbox *const none[] = {make(&w, NULL, 100), make(&w, "300", 0), make(&w, "300", 900),
                                    make(&w, "nonsense", 100)};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        renew_access(w.domain, none[i], "server_proxy");
        assert_false(none[i]->access_renewing);
    }
    struct sandbox *sb = make(&w, "300", 100);
    struct answer a = {0};
    lifecycle_pause(w.domain, sb->id, answered, &a);
    renew_access(w.domain, sb, "server_proxy");
    assert_false(sb->access_renewing);
    UNTIL(&w, a.times);
    renew_access(w.domain, sb, "server_proxy");
    assert_false(sb->access_renewing);
    world_close(&w);
    open_world(&w, false);
    sb = make(&w, "300", 100);
    renew_access(w.domain, sb, "server_proxy");
    assert_false(sb->access_renewing);
    world_close(&w);
}

static void test_failure_is_tried_at_the_next_access(void **state) {
    (void)state;
    struct world w;
    struct answer gone = {0};
    open_world(&w, true);
    struct sandbox *sb = make(&w, "300", 100);
    disk_full(true);
    renew_access(w.domain, sb, "server_proxy");
    UNTIL(&w, !sb->access_renewing);
    disk_full(false);
    assert_int_equal(renewals(&w), 0);
    renew_access(w.domain, sb, "server_proxy");
    assert_true(sb->access_renewing);
    lifecycle_delete(w.domain, sb->id, answered, &gone); // meanwhile
    UNTIL(&w, gone.times);
    world_close(&w);
}

static bool reads(const char *id, int64_t age_s) {
    char at[CLOCK_TEXT_MAX], text[400], got[UUID_TEXT_SIZE];
    clock_format(clock_wall_us() - age_s * 1000000, at);
    (void)snprintf(text, sizeof text, "{\"sandbox_id\":\"%s\",\"observed_at\":\"%s\",\"port\":1}",
                   id, at);
    return renew_intent_read(text, strlen(text), got);
}

static void test_intents(void **state) {
    (void)state;
    char id[UUID_TEXT_SIZE];
    static const char uuid[] = "11111111-2222-4333-8444-555555555555";
    static const char *const none[] = {"",
                                       "null",
                                       "[]",
                                       "{}",
                                       "{\"sandbox_id\":1}",
                                       "{\"sandbox_id",
                                       "{\"sandbox_id\":\"11111111-2222-4333-8444-555555555555\"}",
                                       "{\"sandbox_id\":\"11111111-2222-4333-8444-555555555555\","
                                       "\"observed_at\":\"soon\"}"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(renew_intent_read(none[i], strlen(none[i]), id));
    assert_true(reads(uuid, 0));
    assert_true(reads("  11111111-2222-4333-8444-555555555555 ", 299));
    assert_true(reads(uuid, -1000));
    assert_false(reads(uuid, 301));
    assert_false(reads("11111111-2222-4333-8444-55555555555", 0));
    assert_false(reads("11111111-2222-4333-8444-555555555555 x", 0));
}

static void test_addresses(void **state) {
    (void)state;
    struct redis_address a;
    struct error err = {0};
    assert_int_equal(redis_address_read("redis://localhost", &a, &err), 0);
    assert_string_equal(a.host, "localhost");
    assert_int_equal(a.port, 6379);
    assert_int_equal(redis_address_read("redis://me:p@ss:w@10.0.0.1:7000/3", &a, &err), 0);
    assert_string_equal(a.user, "me");
    assert_string_equal(a.password, "p@ss:w");
    assert_string_equal(a.host, "10.0.0.1");
    assert_int_equal(a.port * 10 + a.database, 70003);
    assert_int_equal(redis_address_read("unix:///run/r.sock", &a, &err), 0);
    assert_string_equal(a.path, "/run/r.sock");
    assert_false(a.tls);
    assert_int_equal(redis_address_read("rediss://:p@h:7000", &a, &err), 0);
    assert_true(a.tls);
    assert_string_equal(a.host, "h");
    static const char *const bad[] = {
        "",         "localhost",           "redisx://:s3cret@h",  "rediss://",
        "redis://", "redis://:s3cret@h:0", "redis://:s3cret@h/x", "unix://run"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(redis_address_read(bad[i], &a, &err), -1);
        assert_null(strstr(err.message, "s3cret"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_extends_once_in_the_interval),
        cmocka_unit_test(test_leaves_others_alone),
        cmocka_unit_test(test_intents),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_failure_is_tried_at_the_next_access),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
