#include "execd/files/lines.h"

#include <string.h>

void files_lines_init(struct files_lines *w, uint64_t offset, uint64_t limit) {
    *w = (struct files_lines){.skip = offset - 1, .left = limit};
}

// Bytes of the current line without LF: CRs at the end are held back, they may be its end.
static void give(struct files_lines *w, const char *data, size_t len, struct strbuf *out) {
    size_t kept = len;
    while (kept && data[kept - 1] == '\r')
        kept--;
    if (kept) {
        for (; w->returns; w->returns--)
            strbuf_addc(out, '\r');
        strbuf_add(out, data, kept);
    }
    w->returns += len - kept;
}

int files_lines_feed(struct files_lines *w, const char *data, size_t len, struct strbuf *out) {
    while (len && w->left) {
        const char *end = memchr(data, '\n', len);
        size_t line = end ? (size_t)(end - data) : len, taken = line + (end != NULL);
        if (w->skip) {
            w->skip -= end != NULL;
        } else {
            if (!w->started && w->joined)
                strbuf_addc(out, '\n');
            w->started = w->joined = true;
            give(w, data, line, out);
            if (end) {
                w->returns = 0;
                w->started = false;
                w->left--;
            }
        }
        data += taken;
        len -= taken;
    }
    return out->failed ? -1 : 0;
}
