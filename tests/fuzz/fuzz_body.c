// Request bytes -> domain objects: the first byte tells the route, the rest is its body.
#include "base/log.h"
#include "fmt/json.h"
#include "fuzz.h"
#include "server/api/resources/bodies.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    log_set_level(LOG_LEVEL_ERROR);
    const struct config c = {.allowed_host_paths = (char *[]){"/srv", NULL}};
    const struct api a = {.config = &c, .features = ~0U};
    struct error err = {0};
    struct problems p = {0};
    struct create_form f = {0};
    struct pool_form pool = {0};
    struct pairs patch = {0};
    json_t *body = size ? json_parse((const char *)data + 1, size - 1, NULL, &err) : NULL;
    const char route = json_is_object(body) ? (char)*data : 0;
    if (route == 'c' && create_read(&f, body, &p) == 0 && !problems_any(&p)) {
        create_relate(&f, &p);
        CHECK(problems_any(&p) || create_check(&a, &f, &err) == 0 || *err.message);
    } else if (route == 'p' || route == 'u') {
        pool_read(&a, body, route == 'p', &pool, &p, &err);
        CHECK(problems_any(&p) || *err.message || pool.spec || route == 'u');
    } else if (route == 'r')
        renewal_read(body, &p, &(int64_t){0});
    else if (route == 'm')
        CHECK(patch_read(body, &p, &patch) == 0);
    else if (route == 's')
        (void)snapshot_name_read(body, &p);
    return problems_clear(&p), create_form_clear(&f), spec_unref(pool.spec), pairs_clear(&patch),
           json_decref(body), 0;
}
