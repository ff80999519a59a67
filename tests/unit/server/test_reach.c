// Reaching a sandbox: holds, dials and diagnoses.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_runtime.h"
#include "server/sandbox/diagnose/diagnose.h"

static void diagnosed(const struct sandbox *sb, const struct diagnosis *g, const struct error *err,
                      void *arg) {
    *(int *)arg = err                            ? err->status
                  : sb->state == SANDBOX_PENDING ? 2 + (int)g->log.len
                  : g->facts_error.kind          ? 3
                  : strncmp(g->log.data, "log of", 6) == 0 && g->facts.count == 1 ? 1
                                                                                  : -1;
}
static void dialled(int fd, const struct error *err, void *arg) {
    *(int *)arg = err ? err->status : 1;
    if (fd >= 0)
        (void)close(fd);
}
static void held(const struct sandbox *sb, void *arg) {
    *(int *)arg = sb ? 1 + (int)sb->state : -1;
}

static void test_reaching(void **state) {
    (void)state;
    struct world w;
    struct answer a, gone = {0};
    int hold = 0, cancelled = 0, dial = 0, log = 0, none = 0, hold_gone = 0;
    world_open(&w);
    fake_hold(w.runtime, FAKE_PROVISION, true);
    (void)test_create(&w, &a, 0, 0);
    UNTIL(&w, a.times);
    assert_non_null(lifecycle_hold(w.domain, a.id, held, &hold));
    lifecycle_hold_cancel(lifecycle_hold(w.domain, a.id, held, &cancelled));
    lifecycle_dial(w.domain, a.id, 80, dialled, &none);
    diagnose(w.domain, a.id, DIAGNOSE_LOG, diagnosed, &log);
    assert_int_equal(log, 2); // Pending: nothing to ask the runtime for
    diagnose(w.domain, "nobody", DIAGNOSE_LOG, diagnosed, &log);
    assert_int_equal(log, 404);
    log = 0;
    assert_int_equal(none, 409);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, hold);
    assert_int_equal(hold, 1 + SANDBOX_RUNNING);
    assert_int_equal(cancelled, 0);
    lifecycle_dial(w.domain, a.id, 80, dialled, &dial);
    diagnose(w.domain, a.id, DIAGNOSE_LOG | DIAGNOSE_FACTS, diagnosed, &log);
    UNTIL(&w, dial && log);
    assert_int_equal(dial, 1);
    assert_int_equal(log, 1);
    fake_fail(w.runtime, FAKE_FACTS, 1);
    diagnose(w.domain, a.id, DIAGNOSE_FACTS, diagnosed, &log);
    UNTIL(&w, log != 1);
    assert_int_equal(log, 3); // the part, not the whole
    fake_hold(w.runtime, FAKE_PROVISION, true);
    (void)test_create(&w, &a, 0, 0);
    UNTIL(&w, a.times);
    (void)lifecycle_hold(w.domain, a.id, held, &hold_gone);
    lifecycle_delete(w.domain, a.id, answered, &gone);
    assert_int_equal(hold_gone, -1);
    (void)lifecycle_hold(w.domain, a.id, held, &hold_gone);
    fake_hold(w.runtime, FAKE_PROVISION, false);
    UNTIL(&w, gone.times);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reaching),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
