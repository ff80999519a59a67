#include "server/runtime/docker/inspect/examine.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "fmt/json.h"
#include "server/runtime/docker/adopt/adopt.h"

// Podman without root on control groups v1 says that it can, takes limits, and drops them.
static bool drops_limits(const json_t *info) {
    const char *version = json_string_value(json_object_get(info, "CgroupVersion"));
    return json_is_true(json_object_get(info, "Rootless")) && version && strcmp(version, "1") == 0;
}

bool engine_can_limit(const json_t *info) {
    static const char *const members[] = {"MemoryLimit", "CpuCfsQuota", "PidsLimit"};
    if (drops_limits(info))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        if (json_is_false(json_object_get(info, members[i])))
            return false;
    return true;
}

void engine_describe(const struct engine *e, const json_t *info, char *text, size_t size) {
    const char *version = json_string_value(json_object_get(info, "ServerVersion"));
    (void)snprintf(text, size, "%s %.60s, API 1.%u", engine_is_podman(e) ? "Podman" : "engine",
                   version ? version : "?", engine_api(e));
}

static int ask(struct engine *e, struct engine_examination *ret, struct error *err) {
    cleanup_json json_t *info = NULL;
    if (engine_negotiate(e, err) || engine_get(e, &info, err, "/info") ||
        foreign_count(e, &ret->foreign, err))
        return -1;
    ret->limits = engine_can_limit(info);
    engine_describe(e, info, ret->name, sizeof ret->name);
    return 0;
}

int engine_examine(const struct engine_settings *s, struct engine_examination *ret,
                   struct error *err) {
    struct engine *e = engine_new(s, err);
    int r = e ? ask(e, ret, err) : -1;
    engine_free(e);
    return r;
}
