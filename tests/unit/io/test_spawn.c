// Child processes: what they get, what failures say, how their end is told.
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "io/spawn.h"
#include "io_test.h"

static char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "ONE=1", NULL};
enum { LONG_MS = 20000 };
#define SPAWN(...) ((struct spawn){.stdio = {-1, -1, -1}, __VA_ARGS__})

// Runs a shell script to its end; what it printed is in `out` (and `errors`).
static struct exit_status shell(const char *script, struct spawn s, struct strbuf *out,
                                struct strbuf *errors) {
    char text[1024];
    assert_true(snprintf(text, sizeof text, "%s", script) < (int)sizeof text);
    char *const argv[] = {"/bin/sh", "-c", text, NULL};
    struct exit_status ended;
    struct error err = {0};
    s.argv = argv;
    s.envp = environment;
    if (spawn_run(&s, NULL, 0, out, errors, LONG_MS, &ended, &err) < 0)
        fail_msg("%s", err.message);
    return ended;
}

static void expect_output(const char *script, struct spawn s, const char *output) {
    struct strbuf out;
    strbuf_init(&out, 65536);
    struct exit_status ended = shell(script, s, &out, NULL);
    assert_string_equal(out.data, output);
    assert_int_equal(ended.code, 0);
    strbuf_free(&out);
}

static void start_fails(struct spawn s, int kind, const char *step) {
    struct error err = {0};
    pid_t pid = -2;
    int pidfd = -2;
    char *const argv[] = {"/bin/true", NULL};
    unsigned before = open_descriptors();
    if (!s.argv)
        s.argv = argv;
    if (!s.envp)
        s.envp = environment;
    assert_int_equal(spawn_start(&s, &pid, &pidfd, &err), -1);
    assert_int_equal(err.kind, kind);
    if (!strstr(err.message, step))
        fail_msg("\"%s\" does not name \"%s\"", err.message, step);
    assert_int_equal(pid, -2);
    assert_int_equal(pidfd, -2);
    assert_int_equal(open_descriptors(), before);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // nothing was left to reap
}

static void output_and_exit_are_collected(void **state) {
    struct strbuf out, errors;
    (void)state;
    strbuf_init(&out, 1000);
    strbuf_init(&errors, 1000);
    struct exit_status ended =
        shell("echo out; echo err >&2; exit 7", (struct spawn){0}, &out, &errors);
    assert_string_equal(out.data, "out\n");
    assert_string_equal(errors.data, "err\n");
    assert_int_equal(ended.code, 7);
    assert_int_equal(ended.signal, 0);
    ended = shell("kill -SEGV $$", (struct spawn){0}, NULL, NULL);
    assert_int_equal(ended.signal, SIGSEGV);
    strbuf_free(&out);
    strbuf_free(&errors);
}

static void the_child_sees_only_its_descriptors(void **state) {
    static const char list[] = "cd /proc/self/fd && echo *"; // builtins: the shell lists itself
    int leak = open("/dev/null", O_RDONLY);                  // as a careless library opens it
    int far = fcntl(leak, F_DUPFD, 500);
    (void)state;
    assert_true(leak >= 0 && far >= 500);
    // the shell's own directory handle comes and goes: it shows as the next number
    struct strbuf out;
    strbuf_init(&out, 1000);
    (void)shell(list, (struct spawn){0}, &out, NULL);
    assert_string_equal(out.data, "0 1 2 3\n");
    strbuf_clear(&out);
    (void)shell(list, (struct spawn){.pass = {leak, far, leak}, .pass_count = 3}, &out, NULL);
    assert_string_equal(out.data, "0 1 2 3 4 5 6\n");
    strbuf_free(&out);
    close(leak);
    close(far);
}

// Passed descriptors keep their order, also when their numbers are in each other's way.
static void passed_descriptors_are_arranged_exactly(void **state) {
    int fds[2][2];
    (void)state;
    assert_int_equal(pipe2(fds[0], O_CLOEXEC), 0);
    assert_int_equal(pipe2(fds[1], O_CLOEXEC), 0);
    int three = fcntl(3, F_GETFD) < 0 ? -1 : fcntl(3, F_DUPFD_CLOEXEC, 30);
    int four = fcntl(4, F_GETFD) < 0 ? -1 : fcntl(4, F_DUPFD_CLOEXEC, 30);
    int first = fcntl(fds[0][0], F_DUPFD_CLOEXEC, 40),
        second = fcntl(fds[1][0], F_DUPFD_CLOEXEC, 40);
    int a = fcntl(fds[0][1], F_DUPFD_CLOEXEC, 50), b = fcntl(fds[1][1], F_DUPFD_CLOEXEC, 50);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++)
            close(fds[i][k]);
    assert_int_equal(dup3(first, 4, O_CLOEXEC), 4); // crossed: 4 becomes 3, and 3 becomes 4
    assert_int_equal(dup3(second, 3, O_CLOEXEC), 3);
    assert_int_equal(write(a, "a\n", 2), 2);
    assert_int_equal(write(b, "b\n", 2), 2);
    expect_output("read x <&3; read y <&4; echo $x $y",
                  (struct spawn){.pass = {4, 3}, .pass_count = 2}, "a b\n");
    close(3);
    close(4);
    close(first);
    close(second);
    close(a);
    close(b);
    if (three >= 0) {
        assert_int_equal(dup3(three, 3, 0), 3);
        close(three);
    }
    if (four >= 0) {
        assert_int_equal(dup3(four, 4, 0), 4);
        close(four);
    }
}

static void no_standard_descriptor_means_the_null_device(void **state) {
    (void)state;
    struct error err;
    char *const argv[] = {"/bin/sh", "-c", "test $(readlink /proc/self/fd/0) = /dev/null", NULL};
    struct spawn s = {.argv = argv, .envp = environment, .stdio = {-1, -1, -1}};
    struct exit_status ended;
    pid_t pid;
    int pidfd;
    assert_int_equal(spawn_start(&s, &pid, &pidfd, &err), 0);
    assert_true(fcntl(pidfd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(spawn_wait(pidfd, LONG_MS, &ended), 0);
    assert_int_equal(ended.code, 0);
    close(pidfd);
}

static void failures_name_their_step(void **state) {
    char *const nowhere[] = {"/nowhere/program", NULL}, *const plain[] = {"nowhere-program", NULL};
    char *const text[] = {"/etc/passwd", NULL}, *const self[] = {"true", NULL};
    (void)state;
    start_fails(SPAWN(.argv = nowhere), ENOENT, "/nowhere/program");
    start_fails(SPAWN(.argv = text), EACCES, "/etc/passwd");
    start_fails(SPAWN(.argv = plain, .flags = SPAWN_SEARCH_PATH), ENOENT, "nowhere-program");
    start_fails(SPAWN(.argv = self), ENOENT, "true"); // no search unless it is asked for
    start_fails(SPAWN(.cwd = "/nowhere"), ENOENT, "working directory");
    start_fails(SPAWN(.pass = {999}, .pass_count = 1), EBADF, "descriptors");
    start_fails(SPAWN(.flags = SPAWN_TTY), ENOTTY, "controlling terminal");
}

static int bad_prepare(void *arg, const char **step) {
    *step = "the first step";
    errno = EXDEV;
    return -1;
}

static int good_prepare(void *arg, const char **step) {
    *(int *)arg += 1; // our memory, not a copy
    return 0;
}

static void prepare_runs_in_the_child(void **state) {
    int n = 0;
    (void)state;
    start_fails(SPAWN(.prepare = bad_prepare), EXDEV, "the first step");
    expect_output("echo hi", (struct spawn){.prepare = good_prepare, .prepare_arg = &n}, "hi\n");
    assert_int_equal(n, 1);
}

static void the_environment_and_directory_are_the_callers(void **state) {
    (void)state;
    expect_output("pwd; echo $ONE $HOME", (struct spawn){.cwd = "/usr"}, "/usr\n1\n");
}

static void search_uses_absolute_entries_of_the_childs_path(void **state) {
    char *const argv[] = {"sh", "-c", "echo found", NULL};
    char *const with[] = {"PATH=:bin:./bin:/nowhere:/bin", NULL};
    char *const without[] = {"PATH=bin:.", NULL};
    struct strbuf out;
    struct exit_status ended;
    struct error err;
    (void)state;
    strbuf_init(&out, 100);
    struct spawn s = {.argv = argv, .envp = with, .cwd = "/", .flags = SPAWN_SEARCH_PATH};
    assert_int_equal(spawn_run(&s, NULL, 0, &out, NULL, LONG_MS, &ended, &err), 0);
    assert_string_equal(out.data, "found\n");
    s.envp = without;
    assert_int_equal(spawn_run(&s, NULL, 0, &out, NULL, LONG_MS, &ended, &err), -1);
    assert_int_equal(err.kind, ENOENT);
    strbuf_free(&out);
}

static void a_program_is_run_by_its_descriptor(void **state) {
    int fd = open("/bin/sh", O_PATH | O_CLOEXEC), other = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void)state;
    assert_true(fd >= 0 && fd < 3 + SPAWN_PASS_MAX); // a number that is passed to the child as well
    struct spawn s = {.exec_fd = fd, .pass_count = SPAWN_PASS_MAX};
    for (int i = 0; i < SPAWN_PASS_MAX; i++)
        s.pass[i] = other;
    expect_output("echo ran", s, "ran\n");
    close(fd);
    close(other);
}

static void signals_are_the_defaults(void **state) {
    sigset_t set, old;
    (void)state;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGUSR2, SIG_IGN);
    expect_output("grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2", (struct spawn){0},
                  "0000000000000000\n0000000000000000\n");
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, &old, &now);
    assert_true(sigismember(&now, SIGTERM)); // ours is as it was
    assert_false(sigismember(&now, SIGINT));
    (void)signal(SIGUSR2, SIG_DFL);
}

static void user_groups_and_limits_are_set(void **state) {
    (void)state;
    expect_output("id -u; id -g; id -G; grep ^Uid /proc/self/status | cut -f2-; ulimit -Sn",
                  (struct spawn){.flags = SPAWN_SET_USER,
                                 .uid = 1234,
                                 .gid = 2345,
                                 .groups = {2345, 77},
                                 .group_count = 2,
                                 .nofile_soft = 128},
                  "1234\n2345\n2345 77\n1234\t1234\t1234\t1234\n128\n");
    assert_int_equal(getuid(), 0); // and ours are untouched
}

static void sessions_and_groups(void **state) {
    (void)state;
    expect_output("test $(ps -o pgid= $$) = $$ && echo leads", (struct spawn){0}, "leads\n");
    expect_output("test $(ps -o sid= $$) = $$ && echo session",
                  (struct spawn){.flags = SPAWN_NEW_SESSION}, "session\n");
}

static void a_terminal_is_controlled(void **state) {
    char *const argv[] = {"/bin/sh", "-c", "exec </dev/tty && echo yes", NULL};
    struct error err;
    struct exit_status ended;
    pid_t pid;
    int pidfd, unlock = 0, number;
    char name[32], got[16];
    (void)state;
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(master >= 0);
    assert_int_equal(ioctl(master, TIOCSPTLCK, &unlock), 0);
    assert_int_equal(ioctl(master, TIOCGPTN, &number), 0);
    (void)snprintf(name, sizeof name, "/dev/pts/%d", number);
    int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct spawn s = {.argv = argv,
                      .envp = environment,
                      .stdio = {slave, slave, slave},
                      .flags = SPAWN_NEW_SESSION | SPAWN_TTY};
    if (spawn_start(&s, &pid, &pidfd, &err) < 0)
        fail_msg("%s", err.message);
    close(slave);
    for (size_t len = 0; len < 5;) { // a terminal may give them in pieces
        ssize_t n = read(master, got + len, sizeof got - len);
        assert_true(n > 0);
        len += (size_t)n;
    }
    assert_memory_equal(got, "yes\r\n", 5);
    assert_int_equal(spawn_wait(pidfd, LONG_MS, &ended), 0);
    close(pidfd);
    close(master);
}

// The death signal has to survive the change of user, which clears it.
static void the_child_dies_with_us(void **state) {
    int fds[2];
    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t middle = fork();
    if (middle == 0) {
        char *const argv[] = {"/bin/sh", "-c", "echo $$; exec sleep 1000", NULL};
        struct spawn s = {.argv = argv,
                          .envp = environment,
                          .stdio = {-1, fds[1], -1},
                          .flags = SPAWN_DIE_WITH_US | SPAWN_SET_USER,
                          .uid = 1234,
                          .gid = 1234};
        struct error err;
        pid_t pid;
        int pidfd;
        if (spawn_start(&s, &pid, &pidfd, &err) < 0)
            _exit(1);
        (void)pause();
    }
    close(fds[1]);
    char c;
    assert_int_equal(read(fds[0], &c, 1), 1); // it runs
    assert_int_equal(kill(middle, SIGKILL), 0);
    assert_int_equal(waitpid(middle, NULL, 0), middle);
    while (read(fds[0], &c, 1) > 0) // the end comes when the last holder of the pipe is dead
        ;
    close(fds[0]);
}

static void waiting_times_out_and_names_a_stranger(void **state) {
    char *const argv[] = {"/bin/sleep", "1000", NULL};
    struct spawn s = SPAWN(.argv = argv, .envp = environment);
    struct exit_status ended;
    struct error err;
    pid_t pid;
    int pidfd;
    (void)state;
    assert_int_equal(spawn_start(&s, &pid, &pidfd, &err), 0);
    assert_int_equal(spawn_wait(pidfd, 0, &ended), -1);
    assert_int_equal(errno, ETIMEDOUT);
    assert_int_equal(spawn_wait(pidfd, 10, &ended), -1);
    assert_int_equal(errno, ETIMEDOUT);
    assert_int_equal(kill(pid, SIGTERM), 0);
    assert_int_equal(spawn_wait(pidfd, -1, &ended), 0);
    assert_int_equal(ended.signal, SIGTERM);
    assert_int_equal(spawn_wait(pidfd, -1, &ended), -1);
    assert_int_equal(errno, ECHILD);
    close(pidfd);
}

static void input_and_output_may_both_be_large(void **state) {
    enum { SIZE = 1024 * 1024 };
    char *const argv[] = {"/bin/cat", NULL};
    struct spawn s = {.argv = argv, .envp = environment};
    struct exit_status ended;
    struct error err;
    struct strbuf out;
    char *input = malloc(SIZE);
    (void)state;
    assert_non_null(input);
    for (int i = 0; i < SIZE; i++)
        input[i] = (char)(i * 31);
    strbuf_init(&out, SIZE);
    assert_int_equal(spawn_run(&s, input, SIZE, &out, NULL, LONG_MS, &ended, &err), 0);
    assert_int_equal(out.len, SIZE);
    assert_memory_equal(out.data, input, SIZE);
    strbuf_free(&out);
    strbuf_init(&out, 1000); // more is drained and dropped
    assert_int_equal(spawn_run(&s, input, SIZE, &out, NULL, LONG_MS, &ended, &err), 0);
    assert_int_equal(out.len, 1000);
    assert_int_equal(ended.code, 0);
    strbuf_free(&out);
    free(input);
}

static void a_child_that_reads_nothing_is_no_error(void **state) {
    enum { SIZE = 1024 * 1024 };
    char *const argv[] = {"/bin/true", NULL};
    struct spawn s = {.argv = argv, .envp = environment};
    struct exit_status ended;
    struct error err;
    char *input = calloc(1, SIZE);
    (void)state;
    assert_int_equal(spawn_run(&s, input, SIZE, NULL, NULL, LONG_MS, &ended, &err), 0);
    assert_int_equal(ended.code, 0);
    free(input);
}

static void a_grandchild_that_keeps_the_pipes_does_not_hold_us(void **state) {
    struct strbuf out;
    (void)state;
    strbuf_init(&out, 1000);
    int64_t start = clock_boot_ms();
    (void)shell("sleep 30 & echo $!", (struct spawn){0}, &out, NULL);
    assert_true(clock_boot_ms() - start < LONG_MS);
    out.data[strcspn(out.data, "\n")] = 0;
    char kill_it[64];
    (void)snprintf(kill_it, sizeof kill_it, "kill %s", out.data);
    (void)shell(kill_it, (struct spawn){0}, NULL, NULL);
    strbuf_free(&out);
}

static void the_time_out_kills_the_whole_group(void **state) {
    char *const argv[] = {"/bin/sh", "-c", "sleep 1000 3<&3 & sleep 1000", NULL};
    int fds[2];
    char c;
    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct spawn s = {.argv = argv, .envp = environment, .pass = {fds[1]}, .pass_count = 1};
    struct exit_status ended;
    struct error err;
    unsigned before = open_descriptors();
    assert_int_equal(spawn_run(&s, NULL, 0, NULL, NULL, 50, &ended, &err), -1);
    assert_int_equal(err.kind, ETIMEDOUT);
    assert_non_null(strstr(err.message, "/bin/sh"));
    assert_int_equal(open_descriptors(), before);
    close(fds[1]);
    assert_int_equal(read(fds[0], &c, 1), 0); // the grandchild held it too
    close(fds[0]);
}

// ---- child_watch ----

struct watched {
    struct child_watch watch;
    struct exit_status status;
    unsigned calls;
    bool free;
};
static unsigned freed;

static void exited(struct child_watch *w, struct exit_status status) {
    struct watched *c = CONTAINER_OF(w, struct watched, watch);
    c->status = status;
    c->calls++;
    if (c->free) {
        close(w->pidfd);
        free(c);
        freed++;
    }
}

static struct watched *watch(struct loop *l, char *script) {
    char *const argv[] = {"/bin/sh", "-c", script, NULL};
    struct spawn s = SPAWN(.argv = argv, .envp = environment);
    struct watched *c = calloc(1, sizeof *c);
    struct error err;
    pid_t pid;
    int pidfd;
    assert_non_null(c);
    assert_int_equal(spawn_start(&s, &pid, &pidfd, &err), 0);
    assert_int_equal(child_watch_start(l, &c->watch, pid, pidfd, exited), 0);
    return c;
}

static void the_loop_is_told_of_an_end(void **state) {
    struct loop *l = *state;
    struct watched *a = watch(l, "exit 9"), *b = watch(l, "kill -9 $$"), *c = watch(l, "exit 0");
    c->free = true;
    freed = 0;
    UNTIL(l, a->calls && b->calls && freed);
    assert_int_equal(a->status.code, 9);
    assert_int_equal(b->status.signal, SIGKILL);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // reaped
    close(a->watch.pidfd);
    close(b->watch.pidfd);
    free(a);
    free(b);
}

static void a_stopped_watch_is_silent(void **state) {
    struct loop *l = *state;
    struct watched *a = watch(l, "exit 3");
    struct exit_status ended;
    child_watch_stop(&a->watch);
    child_watch_stop(&a->watch);
    assert_int_equal(spawn_wait(a->watch.pidfd, LONG_MS, &ended), 0);
    loop_step(l);
    assert_int_equal(ended.code, 3);
    assert_int_equal(a->calls, 0);
    close(a->watch.pidfd);
    free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(output_and_exit_are_collected),
        LOOP_TEST(the_child_sees_only_its_descriptors),
        LOOP_TEST(passed_descriptors_are_arranged_exactly),
        LOOP_TEST(no_standard_descriptor_means_the_null_device),
        LOOP_TEST(failures_name_their_step),
        LOOP_TEST(prepare_runs_in_the_child),
        LOOP_TEST(the_environment_and_directory_are_the_callers),
        LOOP_TEST(search_uses_absolute_entries_of_the_childs_path),
        LOOP_TEST(a_program_is_run_by_its_descriptor),
        LOOP_TEST(signals_are_the_defaults),
        LOOP_TEST(user_groups_and_limits_are_set),
        LOOP_TEST(sessions_and_groups),
        LOOP_TEST(a_terminal_is_controlled),
        LOOP_TEST(the_child_dies_with_us),
        LOOP_TEST(waiting_times_out_and_names_a_stranger),
        LOOP_TEST(input_and_output_may_both_be_large),
        LOOP_TEST(a_child_that_reads_nothing_is_no_error),
        LOOP_TEST(a_grandchild_that_keeps_the_pipes_does_not_hold_us),
        LOOP_TEST(the_time_out_kills_the_whole_group),
        LOOP_TEST(the_loop_is_told_of_an_end),
        LOOP_TEST(a_stopped_watch_is_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
