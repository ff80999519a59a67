// What all routes have in common: the server's settings, and the query of a request.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "execd/execd.h"
#include "execd/handlers.h"
#include "execd/routes.h"

// A client that takes nothing stops its command, as a terminal would; nobody cuts it.
static void clients_may_take_their_time(void **state) {
    struct execd e = {0};
    struct http_server_settings s;
    (void)state;
    routes_serve(&e, &s);
    assert_int_equal(s.write_ms, 0);
    assert_int_equal(s.body_ms, 0);
    assert_true(s.head_ms > 0 && s.idle_ms > 0);
}

static void check(const char *query, const char *want) {
    struct arena a;
    arena_init(&a, 1 << 16);
    struct http_exchange x = {.arena = &a, .query = query};
    char got[256] = "";
    const char **values = execd_query_all(&x, "path");
    for (; *values; values++)
        (void)snprintf(got + strlen(got), sizeof got - strlen(got), "[%s]", *values);
    assert_string_equal(got, want);
    arena_free(&a);
}

static void queries_are_read_as_the_reference_does(void **state) {
    (void)state;
    check("", "");
    check("path=a&path=b&x=c&path", "[a][b][]");
    check("path=a+b%20c&p%61th=%C3%BC", "[a b c][\xc3\xbc]");
    check("path=a;b&path=c", "[c]"); // dropped, silently
    check("path=%&path=%4&path=%zz&path=%41", "[A]");
    check("&&=x&path=", "[]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clients_may_take_their_time),
        cmocka_unit_test(queries_are_read_as_the_reference_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
