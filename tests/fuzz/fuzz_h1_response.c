// HTTP/1 responses, one or many.
#include "fuzz_h1.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return h1_fuzz(H1_RESPONSE, data, size);
}
