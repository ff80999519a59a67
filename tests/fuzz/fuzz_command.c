// The body of POST /command.
#include "base/log.h"
#include "execd/command.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct execd e = {.cwd = "/"};
    struct command_spec spec;
    struct error err = {0};
    struct arena a;
    log_set_level(LOG_LEVEL_ERROR);
    json_t *body = json_loadb((const char *)data, size, JSON_DISABLE_EOF_CHECK, NULL);
    if (!json_is_object(body)) {
        json_decref(body);
        return 0;
    }
    arena_init(&a, 8 << 20);
    if (command_spec_read(&spec, &e, &a, body, &err) < 0) {
        CHECK(err.kind && *err.message);
    } else {
        CHECK(!spec.argv != !spec.script && spec.content && spec.envp && spec.cwd[0] == '/');
        CHECK(spec.time_out_ms >= 0 && (spec.gid < 0 || spec.uid >= 0));
    }
    arena_free(&a);
    json_decref(body);
    return 0;
}
