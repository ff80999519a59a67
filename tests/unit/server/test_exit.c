// How a sandbox ended: records of strangers, statuses of the kernel, the kept verdict; and the
// watcher that tells of ends.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/handoff.h"
#include "base/path.h"
#include "server/runtime/oci/exit.h"
#include "server/runtime/oci/watch.h"

static char base[32];

static int set_up(void **state) {
    static int dir;
    (void)snprintf(base, sizeof base, "/tmp/test-exit-XXXXXX");
    assert_non_null(mkdtemp(base));
    dir = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = &dir;
    return dir < 0;
}

static int tear_down(void **state) {
    struct error err;
    (void)close(*(int *)*state);
    return path_remove_tree(AT_FDCWD, base, &err);
}

static void put(int dir, const char *name, const char *text) {
    (void)unlinkat(dir, name, 0);
    cleanup_close int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

static void a_record_is_believed_within_range(void **state) {
    int dir = *(int *)*state;
    struct inspection i;
    put(dir, EXIT_RECORD_FILE,
        "{\"code\":7,\"signal\":0,\"oom\":true,\"time_us\":1700000000000000}");
    exit_judge(dir, EXIT_STATUS_UNKNOWN, false, &i);
    assert_true(i.has_record && i.oom && !i.alive);
    assert_int_equal(i.exit_code, 7);
    assert_int_equal(i.ended_us, 1700000000000000);
    put(dir, EXIT_RECORD_FILE,
        "{\"code\":0,\"signal\":0,\"oom\":false,\"time_us\":9000000000000000000}");
    exit_judge(dir, EXIT_STATUS_UNKNOWN, false, &i);
    assert_true(i.has_record);
    assert_true(i.ended_us <= clock_wall_us()); // nobody ends in the future
}

static void a_bad_record_is_none(void **state) {
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "null",
        "{\"token_sha256\":\"00\",\"entrypoint\":[]}", // execd never emptied its start object
        "{\"code\":256,\"signal\":0,\"time_us\":1}",
        "{\"code\":-1,\"signal\":0,\"time_us\":1}",
        "{\"code\":\"0\",\"signal\":0,\"time_us\":1}",
        "{\"code\":0.5,\"signal\":0,\"time_us\":1}",
        "{\"code\":0,\"signal\":65,\"time_us\":1}",
        "{\"code\":0,\"signal\":0}",
        "{\"code\":0,\"signal\":0,\"time_us\":-1}"};
    int dir = *(int *)*state;
    struct inspection i;
    for (size_t k = 0; k < ARRAY_SIZE(bad); k++) {
        put(dir, EXIT_RECORD_FILE, bad[k]);
        exit_judge(dir, SIGKILL, false, &i);
        if (i.has_record)
            fail_msg("%s was believed", bad[k]);
        assert_int_equal(i.signal, SIGKILL);
        assert_int_equal(i.exit_code, 137);
    }
    (void)unlinkat(dir, EXIT_RECORD_FILE, 0);
    assert_int_equal(symlinkat("/etc/passwd", dir, EXIT_RECORD_FILE), 0);
    exit_judge(dir, 3 << 8, false, &i);
    assert_false(i.has_record);
    assert_int_equal(i.exit_code, 3);
    (void)unlinkat(dir, EXIT_RECORD_FILE, 0);
    assert_int_equal(mkfifoat(dir, EXIT_RECORD_FILE, 0600), 0); // must not block
    exit_judge(dir, EXIT_STATUS_UNKNOWN, false, &i);
    assert_int_equal(i.exit_code, -1);
    assert_int_equal(i.signal, 0);
}

static void without_a_record_the_counter_speaks(void **state) {
    int dir = *(int *)*state;
    struct inspection i;
    exit_judge(dir, EXIT_STATUS_UNKNOWN, true, &i);
    assert_true(i.oom && !i.has_record);
    assert_int_equal(i.signal, SIGKILL);
    assert_int_equal(i.exit_code, 137);
}

static void the_verdict_is_kept(void **state) {
    int dir = *(int *)*state;
    struct inspection i = {.exit_code = 137, .signal = 9, .oom = true, .ended_us = 42}, again;
    struct error err;
    assert_false(exit_load(dir, &again));
    assert_int_equal(exit_save(dir, &i, &err), 0);
    assert_true(exit_load(dir, &again));
    assert_memory_equal(&i, &again, sizeof i);
    i = (struct inspection){.exit_code = -1};
    assert_int_equal(exit_save(dir, &i, &err), 0);
    assert_true(exit_load(dir, &again));
    assert_int_equal(again.exit_code, -1);
}

static void logs_are_bounded_and_regular(void **state) {
    int dir = *(int *)*state;
    struct error err;
    struct handoff_log log;
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, 2 * HANDOFF_LOG_BYTES);
    assert_int_equal(exit_logs(dir, &sb, &err), 0); // none
    int fd = openat(dir, EXIT_LOG_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(exit_logs(dir, &sb, &err), 0); // empty
    assert_int_equal(sb.len, 0);
    assert_int_equal(handoff_log_open(&log, fd), 0);
    assert_int_equal(handoff_log_append(&log, "hello\n", 6), 0);
    (void)close(fd);
    assert_int_equal(exit_logs(dir, &sb, &err), 0);
    assert_string_equal(sb.data, "hello\n");
    put(dir, EXIT_LOG_FILE, "no ring");
    assert_int_equal(exit_logs(dir, &sb, &err), -1);
    (void)unlinkat(dir, EXIT_LOG_FILE, 0);
    assert_int_equal(symlinkat("/etc/passwd", dir, EXIT_LOG_FILE), 0);
    assert_int_equal(exit_logs(dir, &sb, &err), -1);
}

// ---- the watcher ----

struct heard {
    struct loop *loop;
    char id[SANDBOX_ID_SIZE];
    unsigned count;
};

static void hear(const struct runtime_event *e, void *arg) {
    struct heard *h = arg;
    assert_int_equal(e->kind, RUNTIME_EVENT_EXITED);
    (void)snprintf(h->id, sizeof h->id, "%s", e->id);
    h->count++;
    loop_stop(h->loop);
}

static pid_t child_that_waits(int *ret_write) {
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        char byte;
        (void)close(p[1]);
        _exit(read(p[0], &byte, 1) == 1 ? 7 : 8);
    }
    (void)close(p[0]);
    *ret_write = p[1];
    return pid;
}

static void ends_are_told_once_on_the_loop(void **state) {
    struct loop loop;
    struct error err;
    struct heard heard = {.loop = &loop};
    int go, other;
    (void)state;
    assert_int_equal(loop_init(&loop, &err), 0);
    struct watch *w = watch_new(&err);
    assert_non_null(w);
    pid_t pid = child_that_waits(&go), second = child_that_waits(&other);
    cleanup_close int pidfd = pidfd_open(pid, 0), pidfd2 = pidfd_open(second, 0);
    assert_int_equal(watch_add(w, "first", pidfd, &err), 0);
    assert_int_equal(watch_add(w, "second", pidfd2, &err), 0);
    watch_deliver(w, &loop, hear, &heard);
    assert_int_equal(watch_status(w, "first"), WATCH_STATUS_ALIVE);
    assert_int_equal(write(go, "g", 1), 1);
    loop_run(&loop);
    assert_int_equal(heard.count, 1);
    assert_string_equal(heard.id, "first");
    assert_int_equal(watch_status(w, "first"), 7 << 8);
    assert_int_equal(watch_remove(w, "second"), WATCH_STATUS_ALIVE); // nobody is told of it
    (void)close(other);
    int status;
    assert_int_equal(waitpid(second, &status, 0), second); // and nobody reaped it
    assert_int_equal(watch_remove(w, "first"), 7 << 8);
    assert_int_equal(watch_remove(w, "first"), WATCH_STATUS_UNKNOWN);
    assert_int_equal(heard.count, 1);
    watch_free(w);
    assert_int_equal(loop_close(&loop), 0);
    (void)close(go);
}

static void ends_before_the_loop_are_told_later(void **state) {
    struct loop loop;
    struct error err;
    struct heard heard = {.loop = &loop};
    int go;
    (void)state;
    assert_int_equal(loop_init(&loop, &err), 0);
    struct watch *w = watch_new(&err);
    pid_t pid = child_that_waits(&go);
    cleanup_close int pidfd = pidfd_open(pid, 0);
    assert_int_equal(watch_add(w, "early", pidfd, &err), 0);
    (void)close(go);
    siginfo_t info;
    while (!waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOWAIT)) // until the watcher has reaped
        ;
    watch_deliver(w, &loop, hear, &heard);
    loop_run(&loop);
    assert_string_equal(heard.id, "early");
    assert_int_equal(watch_status(w, "early"), 8 << 8);
    watch_free(w);
    assert_int_equal(loop_close(&loop), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_record_is_believed_within_range, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_bad_record_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_a_record_the_counter_speaks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_verdict_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(logs_are_bounded_and_regular, set_up, tear_down),
        cmocka_unit_test(ends_are_told_once_on_the_loop),
        cmocka_unit_test(ends_before_the_loop_are_told_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
