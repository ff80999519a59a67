// Percent-coding and queries; what was encoded decodes to itself.
#include "fuzz.h"
#include "http/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size);
    size_t len = strlen(text), decoded_len = 0;
    struct url_pair *pairs = NULL;
    struct strbuf sb;
    struct arena a;
    arena_init(&a, 4 << 20);
    strbuf_init(&sb, 4 << 20);
    CHECK(!url_encode(&sb, text, len, "/:"));
    const char *decoded = url_decode(&a, sb.data, sb.len, true, &decoded_len);
    CHECK(decoded && decoded_len == len && !memcmp(decoded, text, len));
    decoded = url_decode(&a, text, len, false, &decoded_len);
    CHECK(!decoded || (decoded_len <= len && strlen(decoded) == decoded_len));
    if (decoded && url_has_dot_segment(decoded) && !strchr(decoded, '%'))
        CHECK(url_has_dot_segment(text)); // no disguise hides it
    long count = url_query(&a, text, &pairs);
    for (long i = 0; i < count; i++)
        CHECK(url_query_last(pairs, count, pairs[i].name));
    strbuf_free(&sb);
    arena_free(&a);
    free(text);
    return 0;
}
