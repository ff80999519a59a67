// Worker threads: order, bounds, priority, end.
#include <linux/ioprio.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "io/workers.h"
#include "io_test.h"

struct sum {
    struct job job;
    pthread_t ran_on, done_on;
    int nice, io_class;
    bool blocked; // all signals
    unsigned *done;
    struct gate *gate;
    struct workers *again;
};

struct gate { // holds workers inside run()
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool open;
    unsigned inside;
};

static void pass(struct gate *g) {
    pthread_mutex_lock(&g->lock);
    g->inside++;
    pthread_cond_broadcast(&g->change);
    while (!g->open)
        pthread_cond_wait(&g->change, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void run(struct job *job) {
    struct sum *s = CONTAINER_OF(job, struct sum, job);
    sigset_t mask;
    s->ran_on = pthread_self();
    s->nice = getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid));
    s->io_class = IOPRIO_PRIO_CLASS((int)syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0));
    s->blocked = pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0 && sigismember(&mask, SIGTERM);
    if (s->gate)
        pass(s->gate);
}

static void done(struct job *job) {
    struct sum *s = CONTAINER_OF(job, struct sum, job);
    s->done_on = pthread_self();
    ++*s->done;
}

static void done_and_free(struct job *job) {
    done(job);
    free(CONTAINER_OF(job, struct sum, job));
}

static struct workers *start(struct loop *l, unsigned threads, size_t queue, int level) {
    struct error err;
    struct workers *w = workers_new(l, threads, queue, level, &err);
    assert_non_null(w);
    return w;
}

static void a_job_runs_there_and_ends_here(void **state) {
    struct loop *l = *state;
    struct workers *w = start(l, 2, 8, 0);
    unsigned n = 0;
    struct sum s = {.job = {.run = run, .done = done}, .done = &n};
    assert_int_equal(workers_submit(w, &s.job), 0);
    UNTIL(l, n == 1);
    assert_false(pthread_equal(s.ran_on, pthread_self()));
    assert_true(pthread_equal(s.done_on, pthread_self()));
    assert_int_equal(s.nice, getpriority(PRIO_PROCESS, 0));
    assert_true(s.blocked);
    workers_free(w);
    workers_free(NULL);
}

static void low_priority_is_per_pool(void **state) {
    struct loop *l = *state;
    const int before = getpriority(PRIO_PROCESS, 0);
    struct workers *w = start(l, 1, 8, 10);
    unsigned n = 0;
    struct sum s = {.job = {.run = run, .done = done}, .done = &n};
    assert_int_equal(workers_submit(w, &s.job), 0);
    UNTIL(l, n == 1);
    assert_int_equal(s.nice, 10);
    assert_int_equal(s.io_class, IOPRIO_CLASS_IDLE);
    assert_int_equal(getpriority(PRIO_PROCESS, 0), before);
    workers_free(w);
}

static void a_full_queue_says_so(void **state) {
    struct loop *l = *state;
    struct gate g = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};
    struct workers *w = start(l, 1, 2, 0);
    unsigned n = 0;
    struct sum s[4];
    for (int i = 0; i < 4; i++)
        s[i] = (struct sum){.job = {.run = run, .done = done}, .done = &n, .gate = &g};
    assert_int_equal(workers_submit(w, &s[0].job), 0);
    pthread_mutex_lock(&g.lock);
    while (!g.inside) // now the worker is busy
        pthread_cond_wait(&g.change, &g.lock);
    pthread_mutex_unlock(&g.lock);
    assert_int_equal(workers_submit(w, &s[1].job), 0);
    assert_int_equal(workers_submit(w, &s[2].job), 0);
    assert_int_equal(workers_waiting(w), 2);
    assert_int_equal(workers_submit(w, &s[3].job), -1);
    assert_int_equal(errno, EAGAIN);
    pthread_mutex_lock(&g.lock);
    g.open = true;
    pthread_cond_broadcast(&g.change);
    pthread_mutex_unlock(&g.lock);
    UNTIL(l, n == 3);
    assert_int_equal(workers_submit(w, &s[3].job), 0);
    UNTIL(l, n == 4);
    workers_free(w);
}

static void done_may_free_the_job(void **state) {
    struct loop *l = *state;
    struct workers *w = start(l, 4, 1000, 0);
    unsigned n = 0;
    for (int i = 0; i < 500; i++) {
        struct sum *s = calloc(1, sizeof *s);
        assert_non_null(s);
        *s = (struct sum){.job = {.run = run, .done = done_and_free}, .done = &n};
        assert_int_equal(workers_submit(w, &s->job), 0);
    }
    UNTIL(l, n == 500);
    workers_free(w);
}

static void done_again(struct job *job) {
    struct sum *s = CONTAINER_OF(job, struct sum, job);
    ++*s->done;
    assert_int_equal(workers_submit(s->again, job), -1); // nobody would run it
}

static void the_end_waits_for_every_job(void **state) {
    struct loop *l = *state;
    struct workers *w = start(l, 2, 100, 0);
    unsigned n = 0;
    struct sum s[50];
    for (int i = 0; i < 50; i++) {
        s[i] = (struct sum){.job = {.run = run, .done = done_again}, .done = &n, .again = w};
        assert_int_equal(workers_submit(w, &s[i].job), 0);
    }
    workers_free(w);
    assert_int_equal(n, 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOOP_TEST(a_job_runs_there_and_ends_here), LOOP_TEST(low_priority_is_per_pool),
        LOOP_TEST(a_full_queue_says_so),           LOOP_TEST(done_may_free_the_job),
        LOOP_TEST(the_end_waits_for_every_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
