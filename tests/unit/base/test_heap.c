// Heaps of embedded nodes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/heap.h"

enum { MANY = 1000 };

static void nodes_come_out_in_order(void **state) {
    static struct heap_node nodes[MANY];
    struct heap h;
    struct heap_node *n;
    int64_t last = INT64_MIN;
    size_t out = 0;
    (void)state;
    heap_init(&h);
    assert_null(heap_peek(&h));
    for (int i = 0; i < MANY; i++)
        assert_int_equal(heap_push(&h, &nodes[i], (i * 7919) % 1009 - 500), 0);
    for (int i = 0; i < MANY; i += 3) // later, sooner
        assert_int_equal(heap_push(&h, &nodes[i], i % 2 ? 2000 + i : -2000 - i), 0);
    for (int i = 0; i < MANY; i += 5) {
        heap_remove(&h, &nodes[i]);
        assert_false(heap_contains(&nodes[i]));
        heap_remove(&h, &nodes[i]); // in none: nothing
    }
    assert_int_equal(h.count, MANY - MANY / 5);
    for (; (n = heap_peek(&h)); out++) {
        assert_true(n->key >= last);
        last = n->key;
        heap_remove(&h, n);
    }
    assert_int_equal(out, MANY - MANY / 5);
    heap_clear(&h);
}

static void clearing_forgets_the_nodes(void **state) {
    struct heap_node a = {0}, b = {0};
    struct heap h;
    (void)state;
    heap_init(&h);
    assert_int_equal(heap_push(&h, &a, 1), 0);
    assert_int_equal(heap_push(&h, &b, 1), 0);
    heap_clear(&h);
    assert_false(heap_contains(&a) || heap_contains(&b));
    assert_int_equal(heap_push(&h, &b, 1), 0);
    assert_ptr_equal(heap_peek(&h), &b);
    heap_clear(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_come_out_in_order),
        cmocka_unit_test(clearing_forgets_the_nodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
