// The thread that sleeps on descriptors: what wakes it, and that it is over after lookout_free().
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <semaphore.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "io/lookout.h"

struct seen {
    sem_t looked;
    int fd, again_ms;
    bool late;
};

static int look(bool late, void *arg) {
    struct seen *s = arg;
    eventfd_t ignored;
    (void)eventfd_read(s->fd, &ignored);
    s->late = late;
    (void)sem_post(&s->looked);
    return s->again_ms;
}

static void begin(struct seen *s, int again_ms) {
    *s = (struct seen){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .again_ms = again_ms};
    assert_int_equal(sem_init(&s->looked, 0, 0), 0);
}

static void end(struct seen *s) {
    (void)close(s->fd);
    (void)sem_destroy(&s->looked);
}

static void wakes_for_descriptors_and_for_the_owner(void **state) {
    struct seen s;
    struct error err;
    (void)state;
    begin(&s, -1);
    struct lookout *l = lookout_new("test", -1, look, &s, &err);
    assert_non_null(l);
    assert_int_equal(lookout_add(l, s.fd), 0);
    assert_int_equal(lookout_add(l, s.fd), -1); // EEXIST
    assert_int_equal(eventfd_write(s.fd, 1), 0);
    assert_int_equal(sem_wait(&s.looked), 0);
    assert_false(s.late);
    lookout_remove(l, s.fd);
    assert_int_equal(eventfd_write(s.fd, 1), 0); // nobody looks
    lookout_wake(l);
    assert_int_equal(sem_wait(&s.looked), 0);
    assert_false(s.late);
    lookout_free(l);
    assert_int_equal(sem_trywait(&s.looked), -1);
    end(&s);
}

static void looks_when_its_time_is_up(void **state) {
    struct seen s;
    struct error err;
    (void)state;
    begin(&s, 20);
    int64_t before = clock_boot_ms();
    struct lookout *l = lookout_new("test", 20, look, &s, &err);
    assert_non_null(l);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sem_wait(&s.looked), 0);
    assert_in_range(clock_boot_ms() - before, 60, 10000);
    assert_true(s.late);
    lookout_free(l);
    end(&s);
}

static void ends_at_once(void **state) {
    struct seen s;
    struct error err;
    (void)state;
    begin(&s, -1);
    lookout_free(lookout_new("test", -1, look, &s, &err));
    assert_int_equal(sem_trywait(&s.looked), -1);
    lookout_free(NULL);
    end(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wakes_for_descriptors_and_for_the_owner),
        cmocka_unit_test(looks_when_its_time_is_up),
        cmocka_unit_test(ends_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
