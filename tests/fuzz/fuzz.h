// What the fuzz targets share. A target is one function over outside bytes: libFuzzer calls it
// (-Dfuzz=true), and corpus_main.c, which runs its corpus as a unit test.
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A broken invariant ends the run, also without assertions.
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

// The bytes as a text, cut at a NUL; malloc'd.
static inline char *fuzz_text(const uint8_t *data, size_t size) {
    char *text = strndup((const char *)data, size);
    CHECK(text);
    return text;
}

#endif
