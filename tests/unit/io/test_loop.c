// Tasks and timers of the loop.
#include "io_test.h"

struct note { // a task or a timer that writes its letter down
    struct loop_task task;
    struct timer timer;
    struct loop *loop;
    char letter;
    struct note *other;
};
static char written[64];

static void put(char letter) {
    size_t n = strlen(written);
    assert_true(n + 1 < sizeof written);
    written[n] = letter;
    written[n + 1] = 0;
}

static void on_task(struct loop_task *task) {
    put(CONTAINER_OF(task, struct note, task)->letter);
}

static void on_timer(struct timer *t) {
    put(CONTAINER_OF(t, struct note, timer)->letter);
}

static struct note *note(struct loop *l, char letter) {
    struct note *n = calloc(1, sizeof *n);
    assert_non_null(n);
    n->loop = l;
    n->letter = letter;
    n->task.run = on_task;
    return n;
}

static int begin(void **state) {
    memset(written, 0, sizeof written);
    return loop_begin(state);
}
#define NOTE_TEST(f) cmocka_unit_test_setup_teardown(f, begin, loop_end)

static void deferred_tasks_run_in_order_after_the_callback(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a'), *b = note(l, 'b');
    loop_defer(l, &a->task);
    loop_defer(l, &b->task);
    assert_string_equal(written, ""); // never inside the call
    UNTIL(l, written[1]);
    assert_string_equal(written, "ab");
    loop_defer(l, &a->task); // free again after it ran
    UNTIL(l, written[2]);
    assert_string_equal(written, "aba");
    free(a);
    free(b);
}

static void again(struct loop_task *task) {
    struct note *n = CONTAINER_OF(task, struct note, task);
    put(n->letter);
    if (written[2])
        loop_stop(n->loop);
    else
        loop_defer(n->loop, task);
}

static void a_task_may_defer_itself(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a');
    a->task.run = again;
    loop_defer(l, &a->task);
    loop_run(l);
    assert_string_equal(written, "aaa");
    free(a);
}

static void free_task(struct loop_task *task) {
    struct note *n = CONTAINER_OF(task, struct note, task);
    put(n->letter);
    free(n);
}

static void cancel_other(struct loop_task *task) {
    struct note *n = CONTAINER_OF(task, struct note, task);
    loop_cancel(n->loop, &n->other->task);
    free(n->other);
    free_task(task);
}

static void a_task_frees_itself_and_cancels_its_neighbour(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a'), *b = note(l, 'b'), *c = note(l, 'c');
    a->task.run = cancel_other;
    a->other = b;
    c->task.run = free_task;
    loop_defer(l, &a->task);
    loop_defer(l, &b->task);
    loop_defer(l, &c->task);
    UNTIL(l, strchr(written, 'c'));
    assert_string_equal(written, "ac");
}

static void *post_all(void *arg) {
    struct note **notes = arg;
    for (int i = 0; i < 10; i++)
        loop_post(notes[i]->loop, &notes[i]->task);
    return NULL;
}

static void posts_of_a_thread_keep_their_order(void **state) {
    struct loop *l = *state;
    struct note *notes[10];
    pthread_t thread;
    for (int i = 0; i < 10; i++)
        notes[i] = note(l, (char)('0' + i));
    assert_int_equal(pthread_create(&thread, NULL, post_all, notes), 0);
    UNTIL(l, strlen(written) == 10); // sleeps in the poll until it is woken
    pthread_join(thread, NULL);
    assert_string_equal(written, "0123456789");
    for (int i = 0; i < 10; i++)
        free(notes[i]);
}

static void timers_fire_by_deadline_and_never_early(void **state) {
    struct loop *l = *state;
    static const struct {
        char letter;
        int64_t after;
    } plan[] = {{'d', 9}, {'a', 0}, {'c', 6}, {'b', 3}};
    struct note *notes[4];
    int64_t start = clock_boot_ns();
    for (int i = 0; i < 4; i++) {
        notes[i] = note(l, plan[i].letter);
        timer_start(l, &notes[i]->timer, plan[i].after, on_timer);
        assert_true(timer_armed(&notes[i]->timer));
    }
    UNTIL(l, strlen(written) == 4);
    assert_string_equal(written, "abcd");
    assert_true(clock_boot_ns() - start >= 9000000);
    for (int i = 0; i < 4; i++) {
        assert_false(timer_armed(&notes[i]->timer));
        free(notes[i]);
    }
}

static void a_stopped_timer_does_not_fire(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a'), *b = note(l, 'b'), *c = note(l, 'c');
    timer_stop(&a->timer); // never armed: fine
    timer_start(l, &a->timer, 1, on_timer);
    timer_start(l, &b->timer, 2, on_timer);
    timer_start(l, &c->timer, 1000000, on_timer);
    timer_stop(&a->timer);
    timer_stop(&a->timer);
    timer_start(l, &c->timer, 3, on_timer); // re-armed, sooner
    timer_start(l, &b->timer, 5, on_timer); // re-armed, later
    UNTIL(l, strlen(written) == 2);
    assert_string_equal(written, "cb");
    free(a);
    free(b);
    free(c);
}

static void free_timer(struct timer *t) {
    struct note *n = CONTAINER_OF(t, struct note, timer);
    put(n->letter);
    if (n->other) {
        timer_stop(&n->other->timer);
        free(n->other);
    }
    free(n);
}

static void a_timer_frees_itself_and_a_due_neighbour(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a'), *b = note(l, 'b'), *c = note(l, 'c');
    int64_t now = clock_boot_ns();
    a->other = b;
    timer_start_at(l, &a->timer, now - 3, free_timer);
    timer_start_at(l, &b->timer, now - 2, free_timer);
    timer_start_at(l, &c->timer, now - 1, free_timer);
    UNTIL(l, strchr(written, 'c'));
    assert_string_equal(written, "ac");
}

static void rearm(struct timer *t) {
    on_timer(t);
    if (!written[2])
        timer_start(t->loop, t, 0, rearm);
}

static void a_timer_may_arm_itself_again(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a');
    timer_start(l, &a->timer, 0, rearm);
    UNTIL(l, written[2]);
    assert_string_equal(written, "aaa");
    free(a);
}

struct reader {
    uv_poll_t poll;
    int fds[2]; // reads [0]
    char letter;
    struct reader *other;
    struct timer *timer;
};

static void on_readable(uv_poll_t *poll, int status, int events) {
    struct reader *r = CONTAINER_OF(poll, struct reader, poll);
    char byte;
    assert_int_equal(status, 0);
    assert_int_equal(events, UV_READABLE);
    assert_int_equal(read(r->fds[0], &byte, 1), 1);
    put(r->letter);
    if (r->other) { // a deadline, and what would keep it
        assert_int_equal(write(r->other->fds[1], "x", 1), 1);
        timer_start_at(poll->loop->data, r->timer, clock_boot_ns(), on_timer);
    }
}

static void reader_open(struct loop *l, struct reader *r) {
    pair(r->fds);
    assert_int_equal(uv_poll_init(&l->uv, &r->poll, r->fds[0]), 0);
    assert_int_equal(uv_poll_start(&r->poll, UV_READABLE, on_readable), 0);
}

static void reader_close(struct loop *l, struct reader *r) {
    uv_close((uv_handle_t *)&r->poll, NULL);
    loop_step(l);
    close(r->fds[0]);
    close(r->fds[1]);
}

// Of a program that was stopped: what came in time is read before a deadline is judged.
static void what_lies_there_comes_before_a_deadline_that_passed(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a'), *b = note(l, 'b');
    struct reader second = {.letter = '2'};
    struct reader first = {.letter = '1', .other = &second, .timer = &b->timer};
    reader_open(l, &first);
    reader_open(l, &second);
    timer_start_at(l, &a->timer, clock_boot_ns(), on_timer);
    assert_int_equal(write(first.fds[1], "x", 1), 1);
    UNTIL(l, strlen(written) == 4);
    assert_string_equal(written, "1a2b");
    reader_close(l, &first);
    reader_close(l, &second);
    free(a);
    free(b);
}

static void many_timers_keep_order(void **state) {
    enum { MANY = 2000 };
    struct loop *l = *state;
    struct note *notes = calloc(MANY, sizeof *notes);
    assert_non_null(notes);
    int64_t far = clock_boot_ns() + 3600 * INT64_C(1000000000);
    for (int i = 0; i < MANY; i++)
        timer_start_at(l, &notes[i].timer, far + (i * 7919) % 2003, on_timer);
    loop_step(l);
    assert_string_equal(written, "");
    for (int i = 0; i < MANY; i++)
        timer_stop(&notes[i].timer);
    free(notes);
}

static void a_stop_before_the_run_counts(void **state) {
    struct loop *l = *state;
    struct note *a = note(l, 'a');
    loop_stop(l);
    loop_run(l);
    a->task.run = again;
    written[0] = written[1] = 'x';
    written[2] = 0;
    loop_defer(l, &a->task);
    loop_run(l); // and is used up
    assert_string_equal(written, "xxa");
    free(a);
}

static void closing_runs_what_was_posted(void **state) {
    struct loop l;
    struct error err;
    (void)state;
    memset(written, 0, sizeof written);
    assert_int_equal(loop_init(&l, &err), 0);
    struct note *a = note(&l, 'a'), *b = note(&l, 'b');
    a->task.run = b->task.run = free_task;
    loop_post(&l, &a->task);
    loop_defer(&l, &b->task);
    assert_int_equal(loop_close(&l), 0);
    assert_string_equal(written, "ab");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        NOTE_TEST(deferred_tasks_run_in_order_after_the_callback),
        NOTE_TEST(a_task_may_defer_itself),
        NOTE_TEST(a_task_frees_itself_and_cancels_its_neighbour),
        NOTE_TEST(posts_of_a_thread_keep_their_order),
        NOTE_TEST(timers_fire_by_deadline_and_never_early),
        NOTE_TEST(a_stopped_timer_does_not_fire),
        NOTE_TEST(a_timer_frees_itself_and_a_due_neighbour),
        NOTE_TEST(a_timer_may_arm_itself_again),
        NOTE_TEST(what_lies_there_comes_before_a_deadline_that_passed),
        NOTE_TEST(many_timers_keep_order),
        NOTE_TEST(a_stop_before_the_run_counts),
        cmocka_unit_test(closing_runs_what_was_posted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
