// Indexes, manifests and configs of images: what is accepted keeps its limits, our record of a
// config is read again.
#include "fuzz.h"
#include "server/runtime/oci/image/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct platform want = {"linux", "amd64", NULL};
    static struct manifest m;
    struct image_config c, again;
    struct error err;
    if (!manifest_parse((const char *)data, size, NULL, &want, &m, &err)) {
        CHECK(m.kind == MANIFEST_INDEX ? digest_valid(m.chosen.digest) : m.layers > 0);
        CHECK(m.layers <= MANIFEST_LAYERS_MAX && m.config.bytes <= MANIFEST_MAX);
        for (unsigned i = 0; i < m.layers; i++)
            CHECK(digest_valid(m.layer[i].digest));
    }
    if (!manifest_parse_config((const char *)data, size, &want, &c, &err)) {
        CHECK(!*c.workdir || (c.workdir[0] == '/' && !strstr(c.workdir, "/../")));
        json_t *j = image_config_to_json(&c);
        CHECK(j && !image_config_from_json(j, &again, &err));
        CHECK(!strcmp(c.workdir, again.workdir) && !strcmp(c.user, again.user));
        json_decref(j);
        image_config_clear(&c);
        image_config_clear(&again);
    }
    return 0;
}
