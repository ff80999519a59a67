// Image references: the canonical text of one is one, and the same.
#include "fuzz.h"
#include "server/runtime/oci/image/reference.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = fuzz_text(data, size);
    struct reference r, again;
    struct error err;
    if (!reference_parse(text, &r, &err)) {
        CHECK(*r.registry && *r.repository && (*r.tag || *r.digest));
        CHECK(!strchr(r.text, ' ') && r.text[0] != '-'); // it becomes a word of a command line
        CHECK(!reference_parse(r.text, &again, &err) && !strcmp(r.text, again.text));
    }
    free(text);
    return 0;
}
