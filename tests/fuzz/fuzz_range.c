// The first byte is the size of a file, the rest a Range field, a date, a file name and a text with
// lines: a part lies in the file, a disposition is one line, lines come out the same in pieces.
#include "execd/files/range.h"
#include "fuzz.h"

static void window(const char *text, size_t len, size_t step, struct strbuf *out) {
    struct files_lines w;
    strbuf_init(out, 4 << 20);
    files_lines_init(&w, 2, 3);
    for (size_t at = 0; at < len && !files_lines_over(&w); at += step)
        CHECK(!files_lines_feed(&w, text + at, len - at < step ? len - at : step, out));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t bytes = size ? data[0] : 0, start, len;
    int64_t sec;
    char *text = fuzz_text(data + !!size, size - !!size);
    if (files_range_parse(text, bytes, &start, &len) == FILES_RANGE_PART)
        CHECK(start <= bytes && len <= bytes - start);
    (void)files_date_parse(text, &sec);
    struct strbuf name, whole, pieces;
    strbuf_init(&name, 4 << 20);
    CHECK(!files_disposition(&name, text) && !strpbrk(name.data, "\r\n"));
    window(text, strlen(text), SIZE_MAX / 2, &whole);
    window(text, strlen(text), bytes % 5 + 1, &pieces);
    CHECK(whole.len == pieces.len && !memcmp(whole.data, pieces.data, whole.len));
    strbuf_free(&name);
    strbuf_free(&whole);
    strbuf_free(&pieces);
    free(text);
    return 0;
}
