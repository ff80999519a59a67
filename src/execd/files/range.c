#include "execd/files/range.h"

#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/parse.h"
#include "http/url.h"

// Spaces and tabs around a range of the list are allowed (RFC 9110 5.6.1).
static void trim(const char **text, size_t *len) {
    while (*len && (**text == ' ' || **text == '\t')) {
        ++*text;
        --*len;
    }
    while (*len && ((*text)[*len - 1] == ' ' || (*text)[*len - 1] == '\t'))
        --*len;
}

// A number that is too large for us is larger than any file, too.
static bool number(const char *text, size_t len, uint64_t *ret) {
    for (size_t i = 0; i < len; i++)
        if (text[i] < '0' || text[i] > '9')
            return false;
    if (len && parse_u64n(text, len, 0, UINT64_MAX, ret) < 0)
        *ret = UINT64_MAX;
    return len > 0;
}

static enum files_range one_range(const char *text, size_t len, uint64_t size, uint64_t *ret_start,
                                  uint64_t *ret_len) {
    const char *dash = memchr(text, '-', len);
    uint64_t first = 0, last = UINT64_MAX;
    if (!dash)
        return FILES_RANGE_MALFORMED;
    size_t head = (size_t)(dash - text), tail = len - head - 1;
    if (head == 0) {
        if (!number(dash + 1, tail, &last))
            return FILES_RANGE_MALFORMED;
        if (!size && last)
            return FILES_RANGE_OUTSIDE; // there is no byte that a Content-Range could name
        *ret_len = last < size ? last : size;
        *ret_start = size - *ret_len;
        return FILES_RANGE_PART;
    }
    if (!number(text, head, &first) || (tail && !number(dash + 1, tail, &last)) || last < first)
        return FILES_RANGE_MALFORMED;
    if (first >= size)
        return FILES_RANGE_OUTSIDE;
    *ret_start = first;
    *ret_len = (last < size ? last + 1 : size) - first;
    return FILES_RANGE_PART;
}

enum files_range files_range_parse(const char *value, uint64_t size, uint64_t *ret_start,
                                   uint64_t *ret_len) {
    enum files_range found = FILES_RANGE_WHOLE;
    if (!value)
        return FILES_RANGE_WHOLE;
    if (strncmp(value, "bytes=", 6) != 0)
        return FILES_RANGE_MALFORMED;
    for (const char *at = value + 6; *at;) {
        const char *text = at;
        size_t len = strcspn(at, ",");
        uint64_t start = 0, bytes = 0;
        at += len + (at[len] == ',');
        trim(&text, &len);
        if (!len)
            continue;
        enum files_range this = one_range(text, len, size, &start, &bytes);
        if (this == FILES_RANGE_MALFORMED)
            return this;
        if (this == FILES_RANGE_PART && found != FILES_RANGE_PART) {
            *ret_start = start;
            *ret_len = bytes;
        }
        if (found != FILES_RANGE_PART)
            found = this;
    }
    return found;
}

bool files_date_parse(const char *text, int64_t *ret_sec) {
    struct tm tm = {0};
    if (!text)
        return false;
    const char *end = strptime(text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    if (!end || *end)
        return false;
    *ret_sec = (int64_t)timegm(&tm);
    return true;
}

static bool is_plain(const char *name) {
    for (; *name; name++)
        if (*name < ' ' || *name > '~')
            return false;
    return true;
}

int files_disposition(struct strbuf *sb, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    strbuf_adds(sb, "attachment; filename=\"");
    if (is_plain(name)) {
        for (; *name; name++) {
            if (*name == '"' || *name == '\\')
                strbuf_addc(sb, '\\');
            strbuf_addc(sb, *name);
        }
        return strbuf_addc(sb, '"');
    }
    static const char keep[] = "$&+"; // attr-char of RFC 8187
    url_encode(sb, name, strlen(name), keep);
    strbuf_adds(sb, "\"; filename*=UTF-8''");
    return url_encode(sb, name, strlen(name), keep);
}

// ---- lines ----

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
