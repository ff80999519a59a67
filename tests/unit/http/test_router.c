// The pattern table: parameters, rests, mounts, methods, and what is answered where nothing
// matches.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "http/router.h"

static const struct http_route routes[] = {
    {.method = "GET", .pattern = "/health", .flags = HTTP_ROUTE_ROOT_ONLY},
    {.method = "GET", .pattern = "/inner", .flags = HTTP_ROUTE_MOUNT_ONLY},
    {.method = "GET", .pattern = "/boxes"},
    {.method = "POST", .pattern = "/boxes"},
    {.method = "GET", .pattern = "/boxes/special"},
    {.method = "GET", .pattern = "/boxes/{id}"},
    {.method = "DELETE", .pattern = "/boxes/{id}"},
    {.method = "GET", .pattern = "/boxes/{id}/ends/{port}"},
    {.method = "*", .pattern = "/boxes/{id}/proxy/{port}/*"},
    {.method = "GET", .pattern = "/", .flags = HTTP_ROUTE_ROOT_ONLY},
    {.method = "GET", .pattern = "/files/*"},
};
static const char *const mounts[] = {"/v1", "/api/v2", NULL};
static const struct http_server_settings settings = {
    .routes = routes, .route_count = ARRAY_SIZE(routes), .mounts = mounts};

static struct arena arena;
static struct http_match m;

static int setup(void **state) {
    (void)state;
    arena_init(&arena, 1 << 16);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_free(&arena);
    return 0;
}

static void match(const char *method, const char *path) {
    assert_int_equal(http_router_match(&settings, &arena, method, path, &m), 0);
}

static void assert_route(const char *method, const char *path, size_t index, const char *mount) {
    match(method, path);
    if (m.route != &routes[index] || m.allowed)
        fail_msg("%s %s went to %s", method, path, m.route ? m.route->pattern : "nothing");
    assert_string_equal(m.mount, mount);
}

static void assert_none(const char *method, const char *path, const char *allowed) {
    match(method, path);
    if (m.route)
        fail_msg("%s %s went to %s", method, path, m.route->pattern);
    assert_string_equal(m.mount, "");
    assert_string_equal(m.rest, "");
    assert_int_equal(m.param_count, 0);
    if (allowed)
        assert_string_equal(m.allowed, allowed);
    else
        assert_null(m.allowed);
}

static void test_literals(void **state) {
    (void)state;
    assert_route("GET", "/boxes", 2, "");
    assert_route("POST", "/boxes", 3, "");
    assert_route("GET", "/", 9, "");
    assert_route("GET", "/b%6fxes", 2, ""); // the same path (RFC 3986 6.2.2.2)
    assert_none("GET", "/Boxes", NULL);
    assert_none("GET", "/boxe", NULL);
    assert_none("GET", "/boxes/", NULL);
    assert_none("GET", "//boxes", NULL);
    assert_none("GET", "boxes", NULL);
    assert_none("GET", "", NULL);
    assert_none("GET", "*", NULL);
    assert_none("GET", "http://a/boxes", NULL);
    assert_none("GET", "/b%006fxes", NULL);
    assert_none("GET", "/%62%6f%78%65%73%73", NULL);
}

static void test_parameters(void **state) {
    (void)state;
    assert_route("GET", "/boxes/a%20b", 5, "");
    assert_int_equal(m.param_count, 1);
    assert_string_equal(m.params[0].name, "id");
    assert_string_equal(m.params[0].value, "a b");
    assert_route("GET", "/boxes/a+b/ends/80", 7, "");
    assert_int_equal(m.param_count, 2);
    assert_string_equal(m.params[0].value, "a+b");
    assert_string_equal(m.params[1].name, "port");
    assert_string_equal(m.params[1].value, "80");
    assert_route("GET", "/boxes/special", 4, ""); // table order
    assert_route("DELETE", "/boxes/special", 6, "");
    assert_route("GET", "/boxes/%ff%61", 5, "");
    assert_string_equal(m.params[0].value, "\xef\xbf\xbd"
                                           "a");
    assert_route("GET", "/boxes/%4", 5, "");
    assert_string_equal(m.params[0].value, "%4");
    assert_none("GET", "/boxes/a%2fb", NULL);
    assert_none("GET", "/boxes/%2F", NULL);
    assert_none("GET", "/boxes/a%00", NULL);
    assert_none("GET", "/boxes//ends/80", NULL);
    assert_none("GET", "/boxes/a/ends/", NULL);
    assert_none("GET", "/boxes/a/ends/80/", NULL);
}

static void test_rest(void **state) {
    (void)state;
    assert_route("GET", "/boxes/a/proxy/80", 8, "");
    assert_string_equal(m.rest, "");
    assert_route("PURGE", "/boxes/a/proxy/80/", 8, "");
    assert_string_equal(m.rest, "/");
    assert_route("HEAD", "/v1/boxes/a/proxy/80/x%2fy//z/", 8, "/v1");
    assert_string_equal(m.rest, "/x%2fy//z/");
    assert_string_equal(m.params[1].value, "80");
    assert_none("GET", "/boxes/a/proxy/", NULL);
    assert_none("GET", "/boxes/a/proxy", NULL);
    assert_route("GET", "/files", 10, "");
    assert_none("GET", "/filesystem", NULL);
}

static void test_mounts(void **state) {
    (void)state;
    assert_route("GET", "/v1/boxes", 2, "/v1");
    assert_route("GET", "/api/v2/boxes/x", 5, "/api/v2");
    assert_route("GET", "/v1/inner", 1, "/v1");
    assert_none("GET", "/inner", NULL);
    assert_route("GET", "/health", 0, "");
    assert_none("GET", "/v1/health", NULL);
    assert_none("GET", "/v1", NULL);
    assert_none("GET", "/v1/", NULL);
    assert_none("GET", "/v1boxes", NULL);
    assert_none("GET", "/v1/v1/boxes", NULL);
    assert_none("GET", "/V1/boxes", NULL);
    struct http_server_settings bare = settings;
    bare.mounts = NULL;
    assert_int_equal(http_router_match(&bare, &arena, "GET", "/v1/boxes", &m), 0);
    assert_null(m.route);
}

static void test_methods(void **state) {
    (void)state;
    assert_none("PUT", "/boxes", "GET, POST");
    assert_none("HEAD", "/health", "GET"); // not implied by GET
    assert_none("get", "/health", "GET");
    assert_none("PATCH", "/v1/boxes/special", "GET, DELETE"); // each once
    assert_none("OPTIONS", "/v1/boxes/x/ends/1", "GET");
    assert_none("POST", "/nothing", NULL);
}

static void test_no_memory(void **state) {
    (void)state;
    arena.max = 8;
    assert_int_equal(http_router_match(&settings, &arena, "GET", "/boxes/abcdefghij", &m), -1);
    assert_int_equal(http_router_match(&settings, &arena, "PUT", "/boxes", &m), -1);
    assert_route("GET", "/boxes", 2, ""); // needs none
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_literals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parameters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mounts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_methods, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
