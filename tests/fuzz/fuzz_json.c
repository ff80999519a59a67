// What was parsed is written and parsed again to the same; any bytes become a JSON string.
#include "fmt/json.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error err;
    struct strbuf sb;
    size_t offset = 0;
    strbuf_init(&sb, 16 << 20);
    json_t *j = json_parse((const char *)data, size, &offset, &err);
    CHECK(j || (err.kind && offset <= size));
    if (j && !json_write(j, &sb)) {
        json_t *again = json_parse(sb.data, sb.len, NULL, &err);
        CHECK(json_equal(j, again));
        json_decref(again);
    }
    json_decref(j);
    strbuf_clear(&sb);
    CHECK(!json_write_text(&sb, (const char *)data, size));
    j = json_parse(sb.data, sb.len, NULL, &err);
    CHECK(json_is_string(j) || memchr(data, 0, size)); // jansson refuses NUL in a string
    json_decref(j);
    strbuf_free(&sb);
    return 0;
}
