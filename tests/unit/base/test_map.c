// Maps from strings.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/map.h"

enum { MANY = 5000 };

static void entries_are_found_replaced_and_removed(void **state) {
    struct map m;
    char key[32];
    static int values[MANY], other;
    (void)state;
    map_init(&m);
    assert_null(map_get(&m, "x"));
    assert_null(map_remove(&m, "x"));
    for (int i = 0; i < MANY; i++) {
        (void)snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(map_put(&m, key, &values[i]), 0);
    }
    assert_int_equal(m.count, MANY);
    assert_int_equal(map_put(&m, "key-7", &other), 0);
    assert_int_equal(m.count, MANY);
    assert_ptr_equal(map_get(&m, "key-7"), &other);
    for (int i = 0; i < MANY; i += 2) {
        (void)snprintf(key, sizeof key, "key-%d", i);
        assert_ptr_equal(map_remove(&m, key), &values[i]);
        assert_null(map_get(&m, key));
    }
    assert_int_equal(m.count, MANY / 2);
    assert_ptr_equal(map_get(&m, "key-9"), &values[9]);
    assert_int_equal(map_put(&m, "", &other), 0);
    assert_ptr_equal(map_get(&m, ""), &other);
    map_clear(&m);
    assert_int_equal(m.count, 0);
    assert_null(map_get(&m, "key-9"));
}

struct visit {
    struct map *map;
    int seen, stop_at;
};

static bool remove_it(const char *key, void *value, void *arg) {
    struct visit *v = arg;
    assert_ptr_equal(map_remove(v->map, key), value);
    return ++v->seen != v->stop_at;
}

static void the_entry_being_visited_may_go(void **state) {
    struct map m;
    struct visit v = {.map = &m, .stop_at = 40};
    char key[32];
    static int value;
    (void)state;
    map_init(&m);
    map_each(&m, remove_it, &v);
    assert_int_equal(v.seen, 0);
    for (int i = 0; i < 100; i++) {
        (void)snprintf(key, sizeof key, "%d", i);
        assert_int_equal(map_put(&m, key, &value), 0);
    }
    map_each(&m, remove_it, &v);
    assert_int_equal(v.seen, 40); // stopped when told to
    map_each(&m, remove_it, &v);
    assert_int_equal(v.seen, 100);
    assert_int_equal(m.count, 0);
    map_clear(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_found_replaced_and_removed),
        cmocka_unit_test(the_entry_being_visited_may_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
