// Manifests, indexes and configs of images, all from strangers.
#include "fuzz.h"
#include "server/runtime/oci/image/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct platform want = {.os = "linux", .arch = "amd64"};
    static struct manifest m;
    struct image_config c = {0}, again = {0};
    struct error err;
    if (!manifest_parse((const char *)data, size, NULL, &want, &m, &err)) {
        CHECK(digest_valid(m.digest) && m.layers <= MANIFEST_LAYERS_MAX);
        CHECK(digest_valid(m.kind == MANIFEST_INDEX ? m.chosen.digest : m.config.digest));
    }
    if (!manifest_parse_config((const char *)data, size, &want, &c, &err)) {
        json_t *j = image_config_to_json(&c);
        CHECK(j && !image_config_from_json(j, &again, &err));
        CHECK(!strcmp(c.user, again.user) && !strcmp(c.workdir, again.workdir));
        image_config_clear(&again);
        image_config_clear(&c);
        json_decref(j);
    }
    return 0;
}
