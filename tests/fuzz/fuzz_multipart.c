// The first line is the Content-Type, the rest the body, fed whole and in pieces.
#include "base/strbuf.h"
#include "fuzz.h"
#include "http/multipart.h"

static int begin(void *arg, const struct multipart_part *part) {
    return strbuf_addf(arg, "[%s|%s|%s:", part->name, part->filename ? part->filename : "",
                       part->content_type ? part->content_type : "");
}
static int data_of(void *arg, const char *data, size_t len) {
    return strbuf_add(arg, data, len);
}
static int end(void *arg) {
    return strbuf_addc(arg, ']');
}

static void parse(const char *type, const char *data, size_t size, size_t step, struct strbuf *sb) {
    static const struct multipart_callbacks callbacks = {begin, data_of, end};
    struct error err;
    struct multipart *m = multipart_new(type, &callbacks, sb, &err);
    int failed = !m;
    for (size_t at = 0, n; !failed && at < size; at += n) {
        n = size - at < step ? size - at : step;
        failed = multipart_feed(m, data + at, n, &err) < 0;
    }
    failed = failed || multipart_finish(m, &err) < 0;
    multipart_free(m);
    (void)strbuf_addc(sb, failed ? '-' : '+');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *line = size ? memchr(data, '\n', size) : NULL;
    if (!line)
        return 0;
    size_t type_len = (size_t)(line - (const char *)data);
    char *type = fuzz_text(data, type_len);
    struct strbuf whole, pieces;
    strbuf_init(&whole, 4 << 20);
    strbuf_init(&pieces, 4 << 20);
    parse(type, line + 1, size - type_len - 1, SIZE_MAX, &whole);
    parse(type, line + 1, size - type_len - 1, size % 5 + 1, &pieces);
    CHECK(whole.len == pieces.len && !memcmp(whole.data, pieces.data, whole.len));
    strbuf_free(&whole);
    strbuf_free(&pieces);
    free(type);
    return 0;
}
