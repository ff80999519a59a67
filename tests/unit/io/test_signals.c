// Signals on the loop.
#include "io/signals.h"
#include "io_test.h"

struct seen {
    struct signal_watch watch;
    int number;
    unsigned calls;
};

static void fired(struct signal_watch *w, int number) {
    struct seen *s = CONTAINER_OF(w, struct seen, watch);
    s->number = number;
    s->calls++;
}

static void fired_and_freed(struct signal_watch *w, int number) {
    fired(w, number);
    signal_watch_stop(w);
}

static void a_signal_arrives_on_the_loop(void **state) {
    struct loop *l = *state;
    struct seen s = {0};
    assert_int_equal(signal_watch_start(l, &s.watch, SIGUSR1, fired), 0);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    UNTIL(l, s.calls);
    assert_int_equal(s.number, SIGUSR1);
    signal_watch_stop(&s.watch);
    signal_watch_stop(&s.watch);
}

static void a_watch_stops_inside_its_callback(void **state) {
    struct loop *l = *state;
    struct seen s = {0}, other = {0};
    assert_int_equal(signal_watch_start(l, &s.watch, SIGUSR1, fired_and_freed), 0);
    assert_int_equal(signal_watch_start(l, &other.watch, SIGUSR1, fired), 0);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    UNTIL(l, s.calls && other.calls);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    UNTIL(l, other.calls == 2);
    assert_int_equal(s.calls, 1);
    signal_watch_stop(&other.watch);
}

static void a_broken_pipe_is_an_error_not_a_death(void **state) {
    int fds[2];
    (void)state;
    (void)signal(SIGPIPE, SIG_DFL);
    signals_init();
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    close(fds[0]);
    assert_int_equal(write(fds[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    close(fds[1]);
}

static void what_cannot_be_watched_is_refused(void **state) {
    struct loop *l = *state;
    struct seen s = {0};
    assert_int_equal(signal_watch_start(l, &s.watch, SIGKILL, fired), -1);
    assert_int_equal(errno, EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(a_signal_arrives_on_the_loop),
        LOOP_TEST(a_watch_stops_inside_its_callback),
        LOOP_TEST(a_broken_pipe_is_an_error_not_a_death),
        LOOP_TEST(what_cannot_be_watched_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
