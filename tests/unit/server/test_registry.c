#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/sandbox/registry.h"

static bool append(struct sandbox *sb, void *arg) {
    char *text = arg;
    (void)snprintf(text + strlen(text), 32 - strlen(text), "%s", sb->id);
    return strlen(text) < 3;
}

static void released(struct sandbox *sb, void *arg) {
    (void)sb;
    ++*(int *)arg;
}

static void test_registry(void **state) {
    (void)state;
    struct registry *r = registry_new();
    int releases = 0;
    char order[32] = "";
    registry_on_release(r, released, &releases);
    (void)registry_add(r, "b", spec_new(), 10);
    (void)registry_add(r, "a", spec_new(), 10); // same age: by id, descending
    (void)registry_add(r, "d", spec_new(), 30);
    struct sandbox *c = registry_add(r, "c", spec_new(), 20); // the clock went back
    registry_each(r, append, order);
    assert_string_equal(order, "dcb"); // newest first, and stopped when asked to
    assert_int_equal(registry_count(r), 4);
    assert_int_equal(registry_count_state(r, SANDBOX_PENDING), 4);
    assert_ptr_equal(registry_get(r, "c"), c);
    c->deleting = true;
    assert_null(registry_visible(r, "c"));
    assert_ptr_equal(registry_get(r, "c"), c);
    registry_remove(r, c);
    assert_null(registry_get(r, "c"));
    assert_int_equal(releases, 1);
    assert_int_equal(registry_count_state(r, SANDBOX_PENDING), 3);
    registry_free(r);
    assert_int_equal(releases, 4);
    registry_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_registry)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
