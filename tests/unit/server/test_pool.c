// Pools in the domain: stock is made, taken, kept over a restart, follows its template, and never
// is anybody's by accident.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fake_runtime.h"
#include "server/sandbox/pool/pool.h"

static const struct pool_capacity three = {.buffer_min = 2, .buffer_max = 3, .pool_max = 10};

struct told {
    unsigned times;
    struct error error;
};

static void told(const struct pool *p, const struct error *err, void *arg) {
    struct told *t = arg;
    (void)p;
    t->times++;
    if (err)
        t->error = *err;
}

static struct sandbox_spec *template(const char *image) {
    struct sandbox_spec *s = test_spec(0);
    static char *const idle[] = {"tail", "-f", "/dev/null"};
    free(s->image);
    s->image = strdup(image);
    assert_int_equal(spec_set_entrypoint(s, idle, ARRAY_SIZE(idle)), 0);
    return s;
}

static void make_pool(struct world *w, const char *name, const struct pool_capacity *c) {
    struct sandbox_spec *s = template("base:1");
    struct told t = {0};
    pool_create(w->domain, name, s, c, told, &t);
    spec_unref(s);
    UNTIL(w, t.times);
    assert_string_equal(t.error.message, "");
}

static const struct pool *pool(struct world *w, const char *name) {
    return pool_get(w->domain, name);
}

static struct create_ticket *take(struct world *w, struct answer *a, const char *ref,
                                  const char *variable, const char *key) {
    struct sandbox_spec *s = spec_new();
    const struct create_request q = {
        .spec = s, .pool = ref, .wait_ms = -1, .key = key, .key_body = "b"};
    s->timeout_s = 600;
    assert_int_equal(pairs_add(&s->metadata, "owner", "me"), 0);
    if (variable)
        assert_int_equal(pairs_add(&s->env, variable, "1"), 0);
    *a = (struct answer){0};
    struct create_ticket *t = lifecycle_create(w->domain, &q, answered, a);
    spec_unref(s);
    return t;
}

static struct sandbox *taken(struct world *w, struct answer *a) {
    UNTIL(w, a->times);
    assert_string_equal(a->error.message, "");
    assert_int_equal(a->state, SANDBOX_RUNNING);
    return registry_visible(domain_registry(w->domain), a->id);
}

static bool count_visible(struct sandbox *sb, void *arg) {
    *(int *)arg += !sb->stock && !sb->deleting;
    return true;
}

static int visible(struct world *w) {
    int n = 0;
    registry_each(domain_registry(w->domain), count_visible, &n);
    return n;
}

static void restart(struct world *w) {
    world_stop(w);
    world_reopen(w);
    world_start(w);
    assert_int_equal(w->ready, 1);
}

static void test_take(void **state) {
    (void)state;
    struct world w;
    struct answer a, other;
    world_open(&w);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    assert_int_equal(visible(&w), 0);
    unsigned made = fake_count(w.runtime, FAKE_PROVISION);
    int64_t before = clock_wall_us();
    (void)take(&w, &a, "p", NULL, NULL);
    struct sandbox *sb = taken(&w, &a);
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), made); // nothing was made for it
    assert_string_equal(pairs_get(&sb->metadata, "owner"), "me");
    assert_string_equal(pairs_get(&sb->metadata, "team"), "red"); // the template's
    assert_string_equal(sb->spec->image, "base:1");
    assert_true(sb->created_us >= before && sb->expires_us == sb->created_us + 600 * 1000000LL);
    assert_int_equal(pool(&w, "p")->allocated, 1);
    assert_string_equal(stored_state(&w, a.id), "Running");
    (void)take(&w, &other, "*", NULL, NULL); // below bufferMin now: filled up again
    assert_string_not_equal(taken(&w, &other)->id, a.id);
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    lifecycle_delete(w.domain, a.id, answered, &a);
    UNTIL(&w, a.times == 2);
    assert_int_equal(pool(&w, "p")->allocated, 1);
    world_close(&w);
}

static void test_cold(void **state) {
    (void)state;
    const struct pool_capacity c = {.buffer_max = 3, .pool_max = 2};
    struct world w;
    struct answer a, b, refused;
    world_open(&w);
    assert_null(take(&w, &refused, "p", NULL, NULL));
    assert_string_equal(refused.error.code, "POOL::NOT_FOUND");
    assert_null(take(&w, &refused, "*", NULL, NULL));
    assert_string_equal(refused.error.code, "POOL::NOT_FOUND");
    make_pool(&w, "p", &c); // no stock is kept
    (void)take(&w, &a, "p", "OWN", NULL);
    struct sandbox *sb = taken(&w, &a);
    assert_string_equal(pairs_get(&sb->spec->env, "OWN"), "1");
    assert_string_equal(sb->pool, "p");
    (void)take(&w, &b, "p", NULL, NULL);
    (void)taken(&w, &b);
    assert_null(take(&w, &refused, "p", NULL, NULL));
    assert_string_equal(refused.error.code, "POOL::EMPTY");
    fake_exit(w.runtime, a.id, 0, 0, false); // one that has ended makes room
    UNTIL(&w, pool(&w, "p")->allocated == 1);
    fake_inspection(w.runtime, &(struct inspection){.alive = true});
    (void)take(&w, &a, "p", NULL, NULL);
    (void)taken(&w, &a);
    world_close(&w);
}

// The fake's execd takes nothing: every stocked one fails at the hand-over.
static void test_failing_stock_is_replaced(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_open(&w);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    fake_fail(w.runtime, FAKE_DIAL, 100);
    (void)take(&w, &a, "p", "OWN", "key");
    struct sandbox *sb = taken(&w, &a);
    assert_string_equal(pairs_get(&sb->spec->env, "OWN"), "1");
    assert_int_equal(fake_count(w.runtime, FAKE_DIAL), 3);
    UNTIL(&w, pool(&w, "p")->ready_count == 3 && fake_existing(w.runtime) <= 4); // all three went
    assert_int_equal(fake_existing(w.runtime), 4);
    assert_int_equal(pool(&w, "p")->allocated, 1);
    struct answer again;
    assert_null(take(&w, &again, "p", "OWN", "key")); // the key knows the last of them
    assert_string_equal(again.id, a.id);
    world_close(&w);
}

// A stock that fails is filled again meanwhile: a create does not go on with that.
static void test_new_stock_is_not_tried(void **state) {
    (void)state;
    const struct pool_capacity one = {.buffer_min = 1, .buffer_max = 1, .pool_max = 10};
    struct world w;
    struct answer a;
    world_open(&w);
    make_pool(&w, "p", &one);
    UNTIL(&w, pool(&w, "p")->ready_count == 1);
    fake_hold(w.runtime, FAKE_DIAL, true);
    fake_fail(w.runtime, FAKE_DIAL, 100);
    (void)take(&w, &a, "p", "OWN", NULL);
    UNTIL(&w, fake_count(w.runtime, FAKE_DIAL) == 1 && pool(&w, "p")->ready_count == 1);
    fake_hold(w.runtime, FAKE_DIAL, false);
    (void)taken(&w, &a);
    assert_int_equal(fake_count(w.runtime, FAKE_DIAL), 1);
    world_close(&w);
}

static void test_restart(void **state) {
    (void)state;
    struct world w;
    struct answer a;
    world_open(&w);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    (void)take(&w, &a, "p", NULL, NULL);
    (void)taken(&w, &a);
    unsigned made = fake_count(w.runtime, FAKE_PROVISION);
    restart(&w);
    assert_int_equal(pool(&w, "p")->ready_count, 2);
    assert_int_equal(pool(&w, "p")->allocated, 1);
    assert_int_equal(pool(&w, "p")->capacity.pool_max, 10);
    assert_int_equal(visible(&w), 1);
    assert_string_equal(registry_visible(domain_registry(w.domain), a.id)->pool, "p");
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), made);
    fake_inspection(w.runtime, &(struct inspection){.exit_code = 1}); // they died meanwhile
    restart(&w);
    fake_inspection(w.runtime, &(struct inspection){.alive = true});
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), made + 3);
    world_close(&w);
}

static void test_follows_its_template(void **state) {
    (void)state;
    struct world w;
    struct told t = {0};
    struct answer a;
    char revision[POOL_REVISION_SIZE];
    world_open(&w);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    memcpy(revision, pool(&w, "p")->revision, sizeof revision);
    unsigned made = fake_count(w.runtime, FAKE_PROVISION);
    struct sandbox_spec *s = template("base:1"); // the same again: nothing happens
    pool_update(w.domain, "p", s, &three, told, &t);
    spec_unref(s);
    UNTIL(&w, t.times == 1);
    assert_string_equal(pool(&w, "p")->revision, revision);
    assert_int_equal(pool(&w, "p")->ready_count, 3);
    s = template("base:2");
    pool_update(w.domain, "p", s, &three, told, &t);
    spec_unref(s);
    UNTIL(&w, t.times == 2);
    assert_string_not_equal(pool(&w, "p")->revision, revision);
    UNTIL(&w, pool(&w, "p")->ready_count == 3 && fake_existing(w.runtime) == 3);
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), made + 3);
    (void)take(&w, &a, "p", NULL, NULL);
    assert_string_equal(taken(&w, &a)->spec->image, "base:2");
    const struct pool_capacity none = {.pool_max = 10};
    pool_update(w.domain, "p", NULL, &none, told, &t);
    UNTIL(&w, t.times == 3 && fake_existing(w.runtime) == 1);
    restart(&w);
    assert_string_equal(pool(&w, "p")->spec->image, "base:2");
    pool_delete(w.domain, "p", told, &t);
    assert_null(pool(&w, "p"));
    UNTIL(&w, t.times == 4);
    assert_non_null(registry_visible(domain_registry(w.domain), a.id));
    make_pool(&w, "p", &three); // of the same name: what lives still counts
    assert_int_equal(pool(&w, "p")->allocated, 1);
    world_close(&w);
}

static void update(struct world *w, const char *image, const struct pool_capacity *c,
                   struct told *t) {
    struct sandbox_spec *s = image ? template(image) : NULL;
    pool_update(w->domain, "p", s, c, told, t);
    spec_unref(s);
}

// Two that come together: the second is about what the first makes of the pool.
static void test_updates_at_once(void **state) {
    (void)state;
    const struct pool_capacity four = {.buffer_max = 4, .pool_max = 10};
    struct world w;
    struct told t = {0};
    world_open(&w);
    make_pool(&w, "p", &three);
    update(&w, "base:2", &three, &t);
    update(&w, NULL, &four, &t);
    UNTIL(&w, t.times == 2);
    assert_string_equal(pool(&w, "p")->spec->image, "base:2");
    restart(&w);
    assert_string_equal(pool(&w, "p")->spec->image, "base:2");
    assert_int_equal(pool(&w, "p")->capacity.buffer_max, 4);
    update(&w, "base:3", &three, &t);
    update(&w, "base:2", &three, &t); // what is still there, and so not the same
    UNTIL(&w, t.times == 4);
    assert_string_equal(pool(&w, "p")->spec->image, "base:2");
    restart(&w);
    assert_string_equal(pool(&w, "p")->spec->image, "base:2");
    assert_string_equal(t.error.message, "");
    update(&w, "base:3", &three, &t);
    pool_delete(w.domain, "p", told, &t);
    UNTIL(&w, t.times == 6);
    assert_string_equal(t.error.message, "");
    restart(&w);
    assert_null(pool(&w, "p"));
    world_close(&w);
}

static void test_updates_that_fail_or_are_left(void **state) {
    (void)state;
    const struct pool_capacity none = {.pool_max = 10};
    struct world w;
    struct told t = {0};
    world_open(&w);
    make_pool(&w, "p", &none);
    disk_full(true);
    update(&w, "base:2", &none, &t);
    update(&w, "base:3", &none, &t);
    UNTIL(&w, t.times == 2);
    disk_full(false);
    assert_int_not_equal(t.error.kind, 0);
    assert_string_equal(pool(&w, "p")->spec->image, "base:1");
    update(&w, "base:2", &none, &t);
    update(&w, "base:3", &none, &t);
    domain_free(w.domain); // while the first is under way; nobody is told
    assert_int_equal(t.times, 2);
    store_close(w.store);
    world_reopen(&w);
    world_start(&w);
    assert_string_equal(pool(&w, "p")->spec->image, "base:2");
    world_close(&w);
}

static void test_delete_while_making(void **state) {
    (void)state;
    struct world w;
    struct told t = {0};
    world_open(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->making_count == 2); // half of the turns
    pool_create(w.domain, "p", pool(&w, "p")->spec, &three, told, &t);
    assert_string_equal(t.error.code, "POOL::ALREADY_EXISTS");
    pool_delete(w.domain, "p", told, &t);
    UNTIL(&w, t.times == 2);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, registry_count(domain_registry(w.domain)) == 0);
    assert_int_equal(fake_existing(w.runtime), 0);
    assert_int_equal(stored_rows(&w), 0);
    world_close(&w);
}

static void test_stop_while_making_and_failures(void **state) {
    (void)state;
    struct world w;
    struct told t = {0};
    world_open(&w);
    fake_fail(w.runtime, FAKE_PROVISION, 1);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->ready_count == 3); // after a rest
    assert_int_equal(fake_count(w.runtime, FAKE_PROVISION), 4);
    assert_int_equal(pool(&w, "p")->failures, 0);
    disk_full(true);
    pool_delete(w.domain, "p", told, &t);
    UNTIL(&w, t.times);
    assert_int_not_equal(t.error.kind, 0);
    assert_non_null(pool(&w, "p"));
    disk_full(false);
    const struct pool_capacity more = {.buffer_min = 9, .buffer_max = 9, .pool_max = 10};
    pool_update(w.domain, "p", NULL, &more, told, &t);
    UNTIL(&w, pool(&w, "p")->making_count);
    restart(&w);
    UNTIL(&w, pool(&w, "p")->ready_count == 9);
    assert_int_equal(fake_existing(w.runtime), 9);
    world_close(&w);
}

static void test_stock_that_ends(void **state) {
    (void)state;
    struct world w;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    memcpy(id, LIST_ENTRY(pool(&w, "p")->ready.next, struct sandbox, stocked)->id, sizeof id);
    assert_null(registry_visible(domain_registry(w.domain), id));
    fake_exit(w.runtime, id, 1, 0, false);
    UNTIL(&w, !registry_get(domain_registry(w.domain), id));
    assert_int_equal(pool(&w, "p")->ready_count, 2);
    assert_int_equal(stored_rows(&w), 2);
    world_close(&w);
}

static const struct sandbox *oldest(struct world *w) {
    return LIST_ENTRY(pool(w, "p")->ready.next, struct sandbox, stocked);
}

// A create gets one of which the end is just being looked at.
static void test_take_of_a_dying_one(void **state) {
    (void)state;
    struct world w;
    struct answer a, again;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    make_pool(&w, "p", &three);
    UNTIL(&w, pool(&w, "p")->ready_count == 3);
    memcpy(id, oldest(&w)->id, sizeof id);
    fake_hold(w.runtime, FAKE_INSPECT, true);
    fake_exit(w.runtime, id, 1, 0, false);
    UNTIL(&w, fake_count(w.runtime, FAKE_INSPECT) == 1);
    (void)take(&w, &a, "p", NULL, "key");
    fake_hold(w.runtime, FAKE_INSPECT, false);
    assert_string_not_equal(taken(&w, &a)->id, id);
    UNTIL(&w, !fake_exists(w.runtime, id) && !*stored_state(&w, id));
    assert_null(take(&w, &again, "p", NULL, "key"));
    assert_string_equal(again.id, a.id);
    assert_int_equal(fake_overlaps(w.runtime), 0);
    world_close(&w);
}

// The hand-over fails, and nothing may take its place: it goes all the same.
static void test_failing_stock_without_another(void **state) {
    (void)state;
    const struct pool_capacity one = {.buffer_min = 1, .buffer_max = 1, .pool_max = 10};
    struct world w;
    struct answer a;
    char id[SANDBOX_ID_SIZE];
    world_begin(&w);
    w.settings.sandboxes_max = 1;
    world_start(&w);
    make_pool(&w, "p", &one);
    UNTIL(&w, pool(&w, "p")->ready_count == 1);
    memcpy(id, oldest(&w)->id, sizeof id);
    fake_fail(w.runtime, FAKE_DIAL, 1);
    (void)take(&w, &a, "p", "OWN", NULL);
    UNTIL(&w, a.times);
    assert_int_equal(a.error.status, 500);
    UNTIL(&w, !registry_get(domain_registry(w.domain), id));
    assert_false(fake_exists(w.runtime, id));
    world_close(&w);
}

// What was lost with the host is in nobody's use.
static void test_lost_ones_do_not_count(void **state) {
    (void)state;
    const struct pool_capacity one = {.buffer_max = 1, .pool_max = 1};
    struct world w;
    struct answer a, next;
    struct error err = {0};
    world_open(&w);
    make_pool(&w, "p", &one);
    (void)take(&w, &a, "p", NULL, NULL);
    (void)taken(&w, &a);
    assert_int_equal(w.runtime->ops->destroy(w.runtime, a.id, &err), 0);
    restart(&w);
    assert_int_equal(pool(&w, "p")->allocated, 0);
    (void)take(&w, &next, "p", NULL, NULL);
    (void)taken(&w, &next);
    world_close(&w);
}

static void test_burst(void **state) {
    (void)state;
    static struct answer a[100];
    const struct pool_capacity c = {.buffer_min = 60, .buffer_max = 60, .pool_max = 200};
    struct world w;
    world_open(&w);
    make_pool(&w, "p", &c);
    UNTIL(&w, pool(&w, "p")->ready_count == 60);
    for (size_t i = 0; i < 100; i++)
        (void)take(&w, &a[i], "p", NULL, NULL);
    for (size_t i = 0; i < 100; i++) {
        (void)taken(&w, &a[i]);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(a[i].id, a[k].id);
    }
    assert_int_equal(pool(&w, "p")->allocated, 100);
    UNTIL(&w, pool(&w, "p")->ready_count == 60);
    assert_int_equal(fake_existing(w.runtime), 160);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take),
        cmocka_unit_test(test_cold),
        cmocka_unit_test(test_failing_stock_is_replaced),
        cmocka_unit_test(test_new_stock_is_not_tried),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_follows_its_template),
        cmocka_unit_test(test_updates_at_once),
        cmocka_unit_test(test_updates_that_fail_or_are_left),
        cmocka_unit_test(test_delete_while_making),
        cmocka_unit_test(test_stop_while_making_and_failures),
        cmocka_unit_test(test_stock_that_ends),
        cmocka_unit_test(test_take_of_a_dying_one),
        cmocka_unit_test(test_failing_stock_without_another),
        cmocka_unit_test(test_lost_ones_do_not_count),
        cmocka_unit_test(test_burst),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
