// TOML texts; what comes out is JSON that can be written.
#include "fmt/json.h"
#include "fmt/toml.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size);
    struct error err;
    struct strbuf sb;
    json_t *lines = NULL, *j = toml_parse_text(text, "fuzz", &lines, &err);
    strbuf_init(&sb, 16 << 20);
    if (j)
        CHECK(json_is_object(j) && json_is_object(lines) && !json_write(j, &sb));
    else
        CHECK(err.kind && !strncmp(err.message, "fuzz:", 5));
    strbuf_free(&sb);
    json_decref(j);
    json_decref(lines);
    free(text);
    return 0;
}
