// Waiting for a preStart hook: what the execd of a fake sandbox answers is written by the test.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fake_runtime.h"
#include "server/sandbox/measure/measure.h"

#define STARTED "{\"state\":\"started\"}"

static _Atomic int far_end = -1; // of the last dial; -1: taken
static _Atomic bool silent;      // connections end at once

static int dial(unsigned port) {
    int ends[2];
    if (port != EXECD_PORT || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    if (silent)
        (void)close(ends[1]);
    else
        far_end = ends[1];
    return ends[0];
}

static void open_world(struct world *w) {
    world_open(w);
    silent = false;
    far_end = -1;
    fake_dial(w->runtime, dial);
}

// The next question, whole: who answers before it was sent breaks the connection.
static int take_question(struct world *w) {
    char asked[1024] = "";
    UNTIL(w, far_end >= 0);
    int fd = far_end;
    far_end = -1;
    assert_true(read(fd, asked, sizeof asked - 1) > 0); // blocks until it was written
    assert_non_null(strstr(asked, "GET /start HTTP/1.1\r\n"));
    assert_non_null(strstr(asked, "X-EXECD-ACCESS-TOKEN: "));
    return fd;
}

static void create(struct world *w, struct answer *a, int64_t wait_ms) {
    struct sandbox_spec *s = test_spec(3600);
    s->lifecycle = strdup("{\"preStart\":{\"command\":[\"true\"],\"timeoutSeconds\":5}}");
    s->prestart_s = 5;
    const struct create_request q = {.spec = s, .wait_ms = wait_ms};
    *a = (struct answer){0};
    (void)lifecycle_create(w->domain, &q, answered, a);
    spec_unref(s);
}

// A create of which Pending was answered (wait_ms 0), and the question that came.
static int begin(struct world *w, struct answer *a, int64_t wait_ms) {
    create(w, a, wait_ms);
    UNTIL(w, wait_ms || a->times);
    return take_question(w);
}

static void say(int fd, const char *body) {
    dprintf(fd,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
    (void)close(fd);
}

static const struct sandbox *visible(struct world *w, const char *id) {
    return registry_visible(domain_registry(w->domain), id);
}

static void test_started(void **state) {
    struct world w;
    struct answer a;
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, -1);
    assert_int_equal(a.times, 0);
    say(fd, STARTED);
    UNTIL(&w, a.times);
    assert_int_equal(a.state, SANDBOX_RUNNING);
    assert_string_equal(stored_state(&w, a.id), "Running");
    world_close(&w);
}

// A server that is killed once somebody was told so must find it again.
static void test_it_runs_when_the_store_knows(void **state) {
    struct world w;
    struct answer a = {0};
    (void)state;
    open_world(&w);
    const uint64_t before = store_commits(w.store);
    create(&w, &a, 0);
    UNTIL(&w, a.times);
    UNTIL(&w, strcmp(visible(&w, a.id)->message, "The preStart hook is running.") == 0);
    assert_int_equal(store_commits(w.store) - before, 2); // Pending, and what adopt() needs
    say(take_question(&w), STARTED);
    UNTIL(&w, visible(&w, a.id)->state == SANDBOX_RUNNING);
    world_close(&w);
}

static void test_verdicts(void **state) {
    static const struct {
        const char *body, *message;
    } rows[] = {
        {"{\"state\":\"failed\",\"message\":\"preStart hook: exit status 3\"}",
         "preStart hook: exit status 3"},
        {"{\"state\":\"failed\"}", "it is not said why"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct world w;
        struct answer a;
        open_world(&w);
        say(begin(&w, &a, -1), rows[i].body);
        UNTIL(&w, a.times);
        assert_string_equal(a.error.message, rows[i].message);
        assert_non_null(strstr(a.error.code, "SANDBOX_START_FAILED"));
        assert_int_equal(stored_rows(&w), 0);
        assert_int_equal(fake_existing(w.runtime), 0);
        world_close(&w);
    }
}

static void test_failed_behind_pending(void **state) {
    struct world w;
    struct answer a;
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, 0);
    assert_int_equal(a.state, SANDBOX_PENDING);
    say(fd, "{\"state\":\"failed\",\"message\":\"preStart hook: timed out after 5 s\"}");
    UNTIL(&w, visible(&w, a.id)->state == SANDBOX_FAILED);
    assert_string_equal(visible(&w, a.id)->message, "preStart hook: timed out after 5 s");
    UNTIL(&w, strcmp(stored_state(&w, a.id), "Failed") == 0);
    world_close(&w);
}

static void test_silence(void **state) {
    struct world w;
    struct answer a;
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, -1);
    silent = true;
    say(fd, "what?");
    UNTIL(&w, a.times);
    assert_non_null(strstr(a.error.message, "the sandbox did not come to its start"));
    assert_non_null(strstr(a.error.message, "; its last output: log of"));
    assert_int_equal(fake_count(w.runtime, FAKE_DIAL), 5);
    world_close(&w);
}

static void test_a_connection_ends_without_the_sandbox(void **state) {
    struct world w;
    struct answer a;
    (void)state;
    open_world(&w);
    (void)close(begin(&w, &a, -1));
    say(take_question(&w), STARTED); // asked again
    UNTIL(&w, a.times);
    assert_int_equal(a.state, SANDBOX_RUNNING);
    world_close(&w);
}

// Others are not held up, and it goes on behind one that runs when the answer comes.
static void test_what_is_asked_meanwhile(void **state) {
    struct world w;
    struct answer a, renewed = {0}, paused = {0}, again = {0};
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, 0);
    int64_t later = clock_wall_us() + 7200 * INT64_C(1000000);
    lifecycle_pause(w.domain, a.id, answered, &paused);
    UNTIL(&w, paused.times);
    assert_int_equal(paused.error.status, 409);
    lifecycle_renew(w.domain, a.id, later, answered, &renewed);
    UNTIL(&w, renewed.times);
    assert_string_equal(renewed.error.message, "");
    for (int i = 0; i < 20; i++) // some of them are on their way to the store when it comes
        lifecycle_renew(w.domain, a.id, later + i * INT64_C(1000000), answered, &again);
    say(fd, STARTED);
    UNTIL(&w, again.times == 20 && visible(&w, a.id)->state == SANDBOX_RUNNING);
    UNTIL(&w, strcmp(stored_state(&w, a.id), "Running") == 0);
    assert_int_equal(fake_overlaps(w.runtime), 0);
    world_close(&w);
}

static void test_delete(void **state) {
    struct world w;
    struct answer a, deleted = {0}, renewed = {0};
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, 0);
    lifecycle_renew(w.domain, a.id, clock_wall_us() + 7200 * INT64_C(1000000), answered, &renewed);
    lifecycle_delete(w.domain, a.id, answered, &deleted);
    UNTIL(&w, deleted.times && renewed.times);
    assert_string_equal(deleted.error.message, "");
    assert_int_equal(stored_rows(&w), 0);
    assert_int_equal(fake_existing(w.runtime), 0);
    (void)close(fd);
    world_close(&w);
}

static bool take_id(struct sandbox *sb, void *id) {
    (void)snprintf(id, SANDBOX_ID_SIZE, "%s", sb->id);
    return false;
}

static void test_delete_while_somebody_waits(void **state) {
    struct world w;
    struct answer a, deleted = {0};
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, -1);
    char id[SANDBOX_ID_SIZE] = "";
    registry_each(domain_registry(w.domain), take_id, id);
    lifecycle_delete(w.domain, id, answered, &deleted);
    UNTIL(&w, deleted.times && a.times);
    assert_int_equal(a.error.status, 404);
    (void)close(fd);
    world_close(&w);
}

// The next server asks again; the answer that it gets counts.
static void test_restart(void **state) {
    struct world w;
    struct answer a, last = {0};
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, 0);
    world_stop(&w);
    (void)close(fd);
    world_reopen(&w);
    world_start(&w);
    assert_int_equal(w.ready, 1);
    assert_int_equal(visible(&w, a.id)->state, SANDBOX_PENDING);
    say(take_question(&w), STARTED);
    UNTIL(&w, visible(&w, a.id)->state == SANDBOX_RUNNING);
    UNTIL(&w, strcmp(stored_state(&w, a.id), "Running") == 0);
    lifecycle_delete(w.domain, a.id, answered, &last);
    UNTIL(&w, last.times);
    world_close(&w);
}

static void test_restart_to_a_failure(void **state) {
    struct world w;
    struct answer a;
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, 0);
    world_stop(&w);
    (void)close(fd);
    silent = true;
    world_reopen(&w);
    world_start(&w);
    UNTIL(&w, visible(&w, a.id)->state == SANDBOX_FAILED);
    assert_non_null(strstr(visible(&w, a.id)->message, "did not come to its start"));
    world_close(&w);
}

// Its entrypoint had run and ended before the answer came: the end was told while it was Pending.
static void test_an_end_that_comes_first(void **state) {
    struct world w;
    struct answer a;
    (void)state;
    open_world(&w);
    int fd = begin(&w, &a, 0);
    fake_exit(w.runtime, a.id, 0, 0, false);
    UNTIL(&w, domain_load(w.domain).operations == 1); // the create, and nothing that looks
    say(fd, STARTED);
    UNTIL(&w, visible(&w, a.id)->state == SANDBOX_TERMINATED);
    UNTIL(&w, strcmp(stored_state(&w, a.id), "Terminated") == 0);
    world_close(&w);
}

// The same while no server was there.
static void test_restart_behind_the_end(void **state) {
    static const struct {
        int exit_code;
        enum sandbox_state state;
    } rows[] = {{0, SANDBOX_TERMINATED}, {1, SANDBOX_FAILED}}; // a hook that fails ends with 1
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct inspection ended = {.has_record = true, .exit_code = rows[i].exit_code};
        struct world w;
        struct answer a;
        open_world(&w);
        int fd = begin(&w, &a, 0);
        world_stop(&w);
        (void)close(fd);
        fake_inspection(w.runtime, &ended);
        silent = true;
        world_reopen(&w);
        world_start(&w);
        UNTIL(&w, visible(&w, a.id)->state == rows[i].state);
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_started),
        cmocka_unit_test(test_it_runs_when_the_store_knows),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_failed_behind_pending),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_a_connection_ends_without_the_sandbox),
        cmocka_unit_test(test_what_is_asked_meanwhile),
        cmocka_unit_test(test_delete),
        cmocka_unit_test(test_delete_while_somebody_waits),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_restart_to_a_failure),
        cmocka_unit_test(test_an_end_that_comes_first),
        cmocka_unit_test(test_restart_behind_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
