// Paths against a table like the server's.
#include "base/utf8.h"
#include "fuzz.h"
#include "http/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct http_route routes[] = {
        {.method = "GET", .pattern = "/health", .flags = HTTP_ROUTE_ROOT_ONLY},
        {.method = "GET", .pattern = "/a/{id}"},
        {.method = "DELETE", .pattern = "/a/{id}"},
        {.method = "*", .pattern = "/a/{id}/proxy/{port}/*"},
    };
    static const char *const mounts[] = {"/v1", NULL};
    const struct http_server_settings s = {.routes = routes, .route_count = 4, .mounts = mounts};
    char *path = fuzz_text(data, size);
    struct http_match m;
    struct arena a;
    arena_init(&a, 4 << 20);
    CHECK(!http_router_match(&s, &a, "GET", path, &m));
    for (unsigned i = 0; i < m.param_count; i++) {
        CHECK(*m.params[i].value && !strchr(m.params[i].value, '/'));
        CHECK(utf8_valid(m.params[i].value, strlen(m.params[i].value)));
    }
    arena_free(&a);
    free(path);
    return 0;
}
