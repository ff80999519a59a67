// Bodies of POST /sandboxes: every fault is named, none is fatal.
#include "fmt/json.h"
#include "fuzz.h"
#include "server/api/create.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error err;
    json_t *body = json_parse((const char *)data, size, NULL, &err);
    if (json_is_object(body)) {
        struct create_form f = {0};
        struct problems p = {0};
        CHECK(!create_read(&f, body, &p));
        if (!problems_any(&p))
            create_relate(&f, &p);
        size_t i;
        json_t *problem;
        json_array_foreach(p.items, i, problem) {
            CHECK(json_is_string(json_object_get(problem, "msg")));
            CHECK(json_is_array(json_object_get(problem, "loc")));
        }
        problems_clear(&p);
        create_form_clear(&f);
    }
    json_decref(body);
    return 0;
}
