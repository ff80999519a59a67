// The stored form of a sandbox: what is accepted is written and read again to the same.
#include "fuzz.h"
#include "server/runtime/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size);
    struct error err;
    struct sandbox_spec *s = spec_from_text(text, &err);
    if (s) {
        char *written = spec_to_text(s);
        struct sandbox_spec *again = written ? spec_from_text(written, &err) : NULL;
        uint8_t a[SHA256_SIZE], b[SHA256_SIZE];
        CHECK(again && !spec_hash(s, a) && !spec_hash(again, b) && !memcmp(a, b, sizeof a));
        spec_unref(again);
        free(written);
    }
    spec_unref(s);
    free(text);
    return 0;
}
