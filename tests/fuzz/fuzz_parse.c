// The parsers of small texts: times, sizes, shares, durations, numbers, encodings.
#include "base/clock.h"
#include "base/encode.h"
#include "base/parse.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size), again[CLOCK_TEXT_MAX];
    int64_t us, same, ns;
    uint64_t n;
    if (!clock_parse(text, &us) && us >= 0) {
        clock_format(us, again);
        CHECK(!clock_parse(again, &same) && same == us);
    }
    CHECK(parse_memory(text, &n) || n > 0);
    CHECK(parse_cpu(text, &n) || n > 0);
    CHECK(parse_duration(text, &ns) || *text == '-' || ns >= 0);
    CHECK(parse_u64n((const char *)data, size, 5, 70000, &n) || (n >= 5 && n <= 70000));
    CHECK(parse_i64(text, -7, 70000, &us) || (us >= -7 && us <= 70000));
    CHECK(parse_hex64((const char *)data, size, &n) || size <= 16);
    char *raw = malloc(size + 1), *encoded = malloc(2 * size + 8);
    encode_base64(data, size, encoded);
    CHECK(decode_base64(encoded, strlen(encoded), raw, size) == (long)size);
    CHECK(!memcmp(raw, data, size));
    CHECK(decode_base64(text, strlen(text), raw, size) <= (long)size);
    free(raw);
    free(encoded);
    free(text);
    return 0;
}
