// Configuration files: loaded or refused with a reason, never half.
#include "fuzz.h"
#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size);
    struct error err;
    struct config *c = config_parse(text, "fuzz", &err);
    if (c)
        CHECK(c->host && c->runtime && c->port > 0 && c->port < 65536);
    else
        CHECK(err.kind && *err.message);
    config_free(c);
    free(text);
    return 0;
}
