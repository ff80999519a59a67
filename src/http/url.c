#include "http/url.h"

enum { PAIRS_MAX = 4096 };

static int hex(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// The byte at *at, decoded; *at moves behind it. -1 at the end.
static int next_byte(const char **at, const char *end) {
    const char *p = *at;
    if (p == end)
        return -1;
    if (*p == '%' && end - p > 2 && hex(p[1]) >= 0 && hex(p[2]) >= 0) {
        *at = p + 3;
        return hex(p[1]) << 4 | hex(p[2]);
    }
    *at = p + 1;
    return (unsigned char)*p;
}

char *url_decode(struct arena *a, const char *text, size_t len, bool plus_is_space,
                 size_t *ret_len) {
    char *out = arena_alloc(a, len + 1);
    if (!out)
        return NULL;
    size_t n = 0;
    const char *end = text + len;
    while (text < end) {
        bool plus = plus_is_space && *text == '+';
        int c = next_byte(&text, end);
        if (!c)
            return NULL;
        out[n++] = plus ? ' ' : (char)c;
    }
    if (ret_len)
        *ret_len = n;
    return out;
}

static bool is_unreserved(char c) {
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

int url_encode(struct strbuf *sb, const char *text, size_t len, const char *keep) {
    for (size_t i = 0; i < len; i++) {
        if (is_unreserved(text[i]) || (text[i] && strchr(keep, text[i])))
            (void)strbuf_addc(sb, text[i]); // failure is sticky
        else
            (void)strbuf_addf(sb, "%%%02X", (unsigned char)text[i]);
    }
    return sb->failed ? -1 : 0;
}

static int decode_pair(struct arena *a, const char *text, size_t len, struct url_pair *p) {
    const char *equals = memchr(text, '=', len);
    size_t name_len = equals ? (size_t)(equals - text) : len;
    p->has_value = equals;
    p->name = url_decode(a, text, name_len, true, NULL);
    p->value = equals ? url_decode(a, equals + 1, len - name_len - 1, true, NULL) : "";
    return p->name && p->value ? 0 : -1;
}

long url_query(struct arena *a, const char *query, struct url_pair **ret_pairs) {
    long count = 0, most = *query != 0;
    for (const char *p = query; (p = strchr(p, '&')); p++)
        if (++most > PAIRS_MAX)
            return -1;
    struct url_pair *pairs = arena_alloc(a, (size_t)most * sizeof *pairs);
    if (!pairs)
        return -1;
    for (size_t len; *query; query += len + (query[len] == '&')) {
        len = strcspn(query, "&");
        if (len && decode_pair(a, query, len, &pairs[count++]))
            return -1;
    }
    *ret_pairs = pairs;
    return count;
}

const char *url_query_last(const struct url_pair *pairs, long count, const char *name) {
    while (count-- > 0)
        if (!strcmp(pairs[count].name, name))
            return pairs[count].value;
    return NULL;
}

bool url_has_dot_segment(const char *raw_path) {
    const char *at = raw_path, *end = raw_path + strlen(raw_path);
    unsigned dots = 0;
    bool other = false; // the segment holds something besides dots
    int c;
    do {
        c = next_byte(&at, end);
        if (c == '.') {
            dots++;
        } else if (c == '/' || c == '\\' || c < 0) {
            if (!other && (dots == 1 || dots == 2))
                return true;
            dots = 0;
            other = false;
        } else {
            other = true;
        }
    } while (c >= 0);
    return false;
}
