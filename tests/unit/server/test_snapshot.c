// Snapshots in the domain: their states, failures, deletion, and what a restart makes of them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fake_runtime.h"
#include "server/sandbox/measure/measure.h"
#include "server/sandbox/snapshot/snapshot.h"

struct told {
    unsigned times;
    char id[SANDBOX_ID_SIZE];
    enum snapshot_state state;
    struct error error;
};

static void told(const struct snapshot *s, const struct error *err, void *arg) {
    struct told *t = arg;
    t->times++;
    if (err)
        t->error = *err;
    if (!s)
        return;
    t->state = s->state;
    (void)snprintf(t->id, sizeof t->id, "%s", s->id);
}

static void take(struct world *w, const char *sandbox, struct told *t) {
    *t = (struct told){0};
    snapshot_take(w->domain, sandbox, "mine", told, t);
    UNTIL(w, t->times);
}

static void drop(struct world *w, const char *id, struct told *t) {
    *t = (struct told){0};
    snapshot_delete(w->domain, id, told, t);
    UNTIL(w, t->times);
}

static struct create_ticket *restore(struct world *w, const char *snapshot, struct answer *a) {
    struct sandbox_spec *s = test_spec(3600);
    const struct create_request q = {.spec = s, .wait_ms = -1};
    free(s->image);
    s->image = NULL;
    s->snapshot_id = strdup(snapshot);
    *a = (struct answer){0};
    struct create_ticket *t = lifecycle_create(w->domain, &q, answered, a);
    spec_unref(s);
    return t;
}

static void restart(struct world *w) {
    world_stop(w);
    world_reopen(w);
    world_start(w);
    assert_int_equal(w->ready, 1);
}

#define IS(w, t, want)                                                                             \
    (snapshot_get((w)->domain, (t)->id) && snapshot_get((w)->domain, (t)->id)->state == (want))

static void test_take_restore_delete(void **state) {
    (void)state;
    struct world w;
    struct told t, gone;
    struct answer a;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    fake_hold(w.runtime, FAKE_SNAPSHOT, true);
    take(&w, id, &t);
    assert_int_equal(t.state, SNAPSHOT_CREATING);
    drop(&w, t.id, &gone);
    assert_string_equal(gone.error.code, "SNAPSHOT::INVALID_STATE");
    assert_null(restore(&w, t.id, &a));
    assert_string_equal(a.error.code, "SNAPSHOT::NOT_READY");
    fake_hold(w.runtime, FAKE_SNAPSHOT, false);
    UNTIL(&w, IS(&w, &t, SNAPSHOT_READY));
    assert_string_equal(snapshot_get(w.domain, t.id)->name, "mine");
    restart(&w);
    assert_true(IS(&w, &t, SNAPSHOT_READY));
    (void)restore(&w, t.id, &a);
    UNTIL(&w, a.times);
    assert_int_equal(a.state, SANDBOX_RUNNING);
    fake_busy_snapshots(w.runtime, true);
    drop(&w, t.id, &gone);
    assert_int_equal(gone.error.status, 409);
    assert_true(IS(&w, &t, SNAPSHOT_READY));
    fake_busy_snapshots(w.runtime, false);
    drop(&w, t.id, &gone);
    assert_int_equal(gone.error.kind, 0);
    assert_null(snapshot_get(w.domain, t.id));
    assert_false(fake_kept(w.runtime, t.id));
    drop(&w, t.id, &gone);
    assert_int_equal(gone.error.status, 404);
    restart(&w);
    assert_null(snapshot_get(w.domain, t.id));
    world_close(&w);
}

static void test_failures(void **state) {
    (void)state;
    struct world w;
    struct told t, gone;
    struct answer paused = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    take(&w, "nobody", &t);
    assert_int_equal(t.error.status, 404);
    fake_fail(w.runtime, FAKE_SNAPSHOT, 1);
    take(&w, id, &t);
    UNTIL(&w, IS(&w, &t, SNAPSHOT_FAILED));
    assert_string_equal(snapshot_get(w.domain, t.id)->reason, "snapshot_runtime_failed");
    drop(&w, t.id, &gone);
    assert_int_equal(gone.error.kind, 0);
    lifecycle_pause(w.domain, id, answered, &paused);
    UNTIL(&w, paused.times);
    take(&w, id, &t);
    assert_string_equal(t.error.code, "SNAPSHOT::INVALID_SOURCE_STATE");
    world_close(&w);
}

static void test_full_disk_refuses(void **state) {
    (void)state;
    struct world w;
    struct told t;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    disk_full(true);
    take(&w, id, &t);
    disk_full(false);
    assert_true(t.error.kind > 0);
    assert_int_equal(fake_count(w.runtime, FAKE_SNAPSHOT), 0);
    world_close(&w);
}

static void test_full_disk_keeps_it(void **state) {
    (void)state;
    struct world w;
    struct told t, gone;
    struct answer a;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    take(&w, id, &t);
    UNTIL(&w, IS(&w, &t, SNAPSHOT_READY) && domain_load(w.domain).operations == 0);
    const struct snapshot was = *snapshot_get(w.domain, t.id);
    disk_full(true);
    drop(&w, t.id, &gone);
    disk_full(false);
    assert_int_not_equal(gone.error.kind, 0);
    const struct snapshot *s = snapshot_get(w.domain, t.id);
    assert_int_equal(s->state, SNAPSHOT_READY);
    assert_string_equal(s->reason, was.reason);
    assert_string_equal(s->message, was.message);
    assert_int_equal(s->changed_us, was.changed_us);
    assert_int_equal(fake_count(w.runtime, FAKE_SNAPSHOT_REMOVE), 0);
    (void)restore(&w, t.id, &a); // it can still be used
    UNTIL(&w, a.times);
    assert_int_equal(a.state, SANDBOX_RUNNING);
    restart(&w);
    assert_true(IS(&w, &t, SNAPSHOT_READY));
    world_close(&w);
}

static void fill_disk(void) {
    disk_full(true);
}

// Its last commit is tried again: Ready in memory, Creating in the store.
static void take_uncommitted(struct world *w, const char *sandbox, struct told *t) {
    struct answer refused;
    fake_hook(w->runtime, FAKE_SNAPSHOT, fill_disk);
    take(w, sandbox, t);
    UNTIL(w, IS(w, t, SNAPSHOT_READY));
    (void)test_create(w, &refused, 3600, -1); // the commit before this one's has failed as well
    UNTIL(w, refused.times);
    assert_int_not_equal(refused.error.kind, 0);
}

static void test_delete_while_its_commit_is_tried_again(void **state) {
    (void)state;
    struct world w;
    struct told t, gone;
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    take_uncommitted(&w, id, &t);
    disk_full(false);
    drop(&w, t.id, &gone);
    assert_int_equal(gone.error.kind, 0);
    UNTIL(&w, domain_load(w.domain).operations == 0);
    assert_null(snapshot_get(w.domain, t.id));
    restart(&w);
    assert_null(snapshot_get(w.domain, t.id));
    world_close(&w);
}

static void test_no_commit_during_its_removal(void **state) {
    (void)state;
    struct world w;
    struct told t, gone = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    take_uncommitted(&w, id, &t);
    disk_full(false);
    fake_hold(w.runtime, FAKE_SNAPSHOT_REMOVE, true);
    snapshot_delete(w.domain, t.id, told, &gone);
    UNTIL(&w, domain_load(w.domain).operations == 0); // the snapshot's own commit waits for nobody
    fake_hold(w.runtime, FAKE_SNAPSHOT_REMOVE, false);
    UNTIL(&w, gone.times);
    assert_int_equal(gone.error.kind, 0);
    restart(&w);
    assert_null(snapshot_get(w.domain, t.id));
    world_close(&w);
}

static void test_its_source_goes_before_the_commit(void **state) {
    (void)state;
    struct world w;
    struct told t;
    struct answer deleted = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    take_uncommitted(&w, id, &t);
    lifecycle_delete(w.domain, id, answered, &deleted);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY)); // nothing is tried again before it
    assert_true(IS(&w, &t, SNAPSHOT_READY));
    disk_full(false);
    UNTIL(&w, deleted.times);
    restart(&w);
    assert_true(IS(&w, &t, SNAPSHOT_READY));
    world_close(&w);
}

// Its delete comes while the last commit is under way: when that fails, it is not tried again
// before the source goes.
static void test_its_source_goes_during_the_commit(void **state) {
    (void)state;
    struct world w;
    struct told t;
    struct answer deleted = {0};
    char id[SANDBOX_ID_SIZE];
    world_open(&w);
    create_running(&w, 3600, id);
    fake_hook(w.runtime, FAKE_SNAPSHOT, fill_disk);
    take(&w, id, &t);
    UNTIL(&w, IS(&w, &t, SNAPSHOT_READY));
    lifecycle_delete(w.domain, id, answered, &deleted);
    UNTIL(&w, fake_count(w.runtime, FAKE_DESTROY)); // nothing is tried again before it
    assert_true(IS(&w, &t, SNAPSHOT_READY));
    disk_full(false);
    UNTIL(&w, deleted.times);
    world_close(&w);
}

static void row_done(struct change *c, const struct error *err) {
    (void)c;
    assert_null(err);
}

// The rows of a server that was killed in the middle.
static void put_row(struct world *w, const char *id, const char *state) {
    struct change c = {.done = NULL};
    struct snapshot_record *r = &change_put(&c, STORE_SNAPSHOTS)->snapshot;
    struct sandbox_spec *s = test_spec(0);
    *r = (struct snapshot_record){.source_id = strdup("gone"),
                                  .state = strdup(state),
                                  .spec = spec_to_text(s),
                                  .created_us = 1};
    (void)snprintf(r->id, sizeof r->id, "%s", id);
    spec_unref(s);
    c.done = row_done;
    assert_int_equal(store_commit(w->store, &c), 0);
    store_close(w->store);
    w->store = NULL;
    change_clear(&c);
    world_reopen(w);
}

static void test_recovery(void **state) {
    (void)state;
    static const struct {
        const char *was;
        bool kept;
        int becomes; // -1: gone
    } cases[] = {{"Creating", true, SNAPSHOT_READY},
                 {"Creating", false, SNAPSHOT_FAILED},
                 {"Deleting", true, -1},
                 {"Ready", true, SNAPSHOT_READY}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        world_begin(&w);
        put_row(&w, "s-1", cases[i].was);
        if (cases[i].kept)
            assert_int_equal(w.runtime->ops->snapshot(w.runtime, "gone", "s-1",
                                                      (char[RUNTIME_STATE_MAX]){0}, NULL),
                             0);
        world_start(&w);
        if (cases[i].becomes < 0)
            UNTIL(&w, !snapshot_get(w.domain, "s-1"));
        else
            assert_int_equal(snapshot_get(w.domain, "s-1")->state, cases[i].becomes);
        assert_int_equal(fake_kept(w.runtime, "s-1"), cases[i].kept && cases[i].becomes >= 0);
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_restore_delete),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_full_disk_refuses),
        cmocka_unit_test(test_full_disk_keeps_it),
        cmocka_unit_test(test_delete_while_its_commit_is_tried_again),
        cmocka_unit_test(test_no_commit_during_its_removal),
        cmocka_unit_test(test_its_source_goes_before_the_commit),
        cmocka_unit_test(test_its_source_goes_during_the_commit),
        cmocka_unit_test(test_recovery),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
