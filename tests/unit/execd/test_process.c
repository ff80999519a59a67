// The reaper with real children and orphans, and the kernel's word on memory in both kinds of
// cgroup.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../io/io_test.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "execd/execd.h"
#include "execd/orphans.h"

extern char **environ;

struct family {
    struct execd e;
    struct process process;
    struct exit_status status;
    unsigned ended, quiet;
};

static struct orphans orphans;
static uint64_t reaped_before;

static uint64_t reaped(void) {
    return atomic_load(&orphans.reaped) - reaped_before;
}

static void on_ended(struct process *p, struct exit_status status) {
    struct family *f = CONTAINER_OF(p, struct family, process);
    f->status = status;
    f->ended++;
}

static void on_quiet(struct reaper *r) {
    CONTAINER_OF(r, struct family, e.reaper)->quiet++;
}

static int begin(void **state) {
    struct error err;
    struct family *f = calloc(1, sizeof *f);
    (void)alarm(60);
    *state = f;
    reaped_before = atomic_load(&orphans.reaped);
    if (loop_init(&f->e.loop, &err) < 0)
        return -1;
    reaper_start(&f->e.reaper, &f->e.loop);
    return 0;
}

static int end(void **state) {
    struct family *f = *state;
    reaper_stop(&f->e.reaper);
    int r = loop_close(&f->e.loop);
    free(f);
    (void)alarm(0);
    return r;
}

static int run_to(struct family *f, const char *script, unsigned flags, int out,
                  struct error *err) {
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    struct spawn s = {
        .argv = (char *const *)argv, .envp = environ, .stdio = {-1, out, -1}, .flags = flags};
    f->process.ended = on_ended;
    return process_start(&f->e, &f->process, &s, err);
}

static int run(struct family *f, const char *script, unsigned flags, struct error *err) {
    return run_to(f, script, flags, -1, err);
}

static void ends_are_told(void **state) {
    struct family *f = *state;
    struct error err;
    f->e.reaper.quiet = on_quiet;
    assert_int_equal(run(f, "exit 7", 0, &err), 0);
    assert_true(process_running(&f->process));
    UNTIL(&f->e.loop, f->ended);
    assert_int_equal(f->status.code, 7);
    assert_false(process_running(&f->process));
    assert_int_equal(f->quiet, 1);
    assert_int_equal(run(f, "kill -9 $$", 0, &err), 0);
    UNTIL(&f->e.loop, f->ended == 2);
    assert_int_equal(f->status.signal, SIGKILL);
}

static void failures_are_told_at_once(void **state) {
    struct family *f = *state;
    struct error err = {0};
    const char *argv[] = {"/no/such", NULL};
    struct spawn s = {.argv = (char *const *)argv, .envp = environ, .stdio = {-1, -1, -1}};
    assert_int_equal(process_start(&f->e, &f->process, &s, &err), -1);
    assert_int_equal(err.kind, ENOENT);
    assert_int_equal(f->e.reaper.running, 0);
}

static void orphans_are_reaped(void **state) {
    struct family *f = *state;
    struct error err;
    assert_int_equal(run(f, "for i in 1 2 3 4 5; do (exit 0 &) ; done; exit 0", 0, &err), 0);
    UNTIL(&f->e.loop, f->ended && reaped() == 5);
}

static void a_group_is_killed_as_a_whole_also_after_its_leader(void **state) {
    struct family *f = *state;
    struct error err;
    int ready[2];
    char newline;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(run_to(f, "sleep 50 & echo; exec sleep 50", SPAWN_NEW_GROUP, ready[1], &err),
                     0);
    assert_int_equal(read(ready[0], &newline, 1), 1);
    (void)close(ready[0]);
    (void)close(ready[1]);
    int held = process_hold_group(&f->process);
    assert_true(held >= 0);
    assert_int_equal(kill(f->process.pid, SIGKILL), 0); // the leader alone
    UNTIL(&f->e.loop, f->ended);
    process_kill_group(&f->process, SIGKILL); // its number may be another's by now: nothing
    process_kill_held(held, &f->process, SIGKILL);
    (void)close(held);
    UNTIL(&f->e.loop, reaped() == 1);
}

static void a_forgotten_child_is_reaped_untold(void **state) {
    struct family *f = *state;
    struct error err;
    assert_int_equal(run(f, "exit 0", 0, &err), 0);
    pid_t pid = f->process.pid;
    process_forget(&f->process);
    UNTIL(&f->e.loop, kill(pid, 0) < 0);
    assert_int_equal(f->ended, 0);
    assert_int_equal(f->e.reaper.running, 0);
}

// ---- memory ----

static void put(const char *root, const char *dir, const char *name, const char *text) {
    char path[256];
    struct error err;
    (void)snprintf(path, sizeof path, "%s/sys", root);
    for (const char *below[] = {"", "/fs", "/fs/cgroup", dir}, **d = below; d < below + 4; d++) {
        (void)snprintf(path + strlen(root), sizeof path - strlen(root), "/sys%s", *d);
        (void)mkdir(path, 0700);
    }
    (void)snprintf(path, sizeof path, "%s/sys%s/%s", root, dir, name);
    if (fd_replace_file(AT_FDCWD, path, text, strlen(text), 0600, &err) < 0)
        fail_msg("%s", err.message);
}

static void memory_of_both_kinds(void **state) {
    char root[] = "/tmp/osb-memory-XXXXXX";
    struct error err;
    (void)state;
    assert_non_null(mkdtemp(root));
    assert_int_equal(process_oom_kills_below(root), 0);
    assert_int_equal(process_memory_limit_below(root), 0);
    put(root, "/fs/cgroup/memory", "memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    put(root, "/fs/cgroup/memory", "memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(process_oom_kills_below(root), 3);
    assert_int_equal(process_memory_limit_below(root), 0);
    put(root, "/fs/cgroup/memory", "memory.limit_in_bytes", "67108864\n");
    assert_int_equal(process_memory_limit_below(root), 67108864);
    put(root, "/fs/cgroup", "memory.events",
        "low 0\nhigh 0\nmax 12\noom 2\noom_kill 5\noom_group_kill 0\n");
    put(root, "/fs/cgroup", "memory.max", "max\n");
    assert_int_equal(process_oom_kills_below(root), 5);
    const struct exit_status killed = {.code = -1, .signal = SIGKILL}, told = {.code = 137},
                             other = {.code = 3}, ended = {.code = -1, .signal = SIGTERM};
    assert_true(process_out_of_memory_below(root, killed, 4));
    assert_true(process_out_of_memory_below(root, told, 4));
    assert_false(process_out_of_memory_below(root, killed, 5));
    assert_false(process_out_of_memory_below(root, other, 4)); // somebody else's
    assert_false(process_out_of_memory_below(root, ended, 4));
    assert_int_equal(process_memory_limit_below(root), 0);
    put(root, "/fs/cgroup", "memory.max", "1048576\n");
    assert_int_equal(process_memory_limit_below(root), 1048576);
    put(root, "/fs/cgroup", "memory.events", "oom_kill nonsense\n");
    assert_int_equal(process_oom_kills_below(root), 0);
    assert_int_equal(path_remove_tree(AT_FDCWD, root, &err), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

static int run_all(void *arg) {
    const struct CMUnitTest tests[] = {
        TEST(ends_are_told),
        TEST(failures_are_told_at_once),
        TEST(orphans_are_reaped),
        TEST(a_group_is_killed_as_a_whole_also_after_its_leader),
        TEST(a_forgotten_child_is_reaped_untold),
        cmocka_unit_test(memory_of_both_kinds),
    };
    (void)arg;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
    return orphans_run(&orphans, run_all, NULL);
}
