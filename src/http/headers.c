#include "http/headers.h"

#include <strings.h>

enum { FIRST_CAPACITY = 16 };

void http_headers_init(struct http_headers *h, struct arena *arena) {
    *h = (struct http_headers){.arena = arena};
}

static bool is_named(const struct http_field *f, const char *name, size_t len) {
    return f->name_len == len && !strncasecmp(f->name, name, len);
}

// What would end the line early, or the name: response splitting stops here, whoever calls.
static bool is_clean(const char *text, size_t len, bool is_name) {
    for (size_t i = 0; i < len; i++)
        if (text[i] == '\r' || text[i] == '\n' || !text[i] ||
            (is_name && (text[i] == ':' || text[i] == ' ')))
            return false;
    return true;
}

static int grow(struct http_headers *h) {
    size_t capacity = h->capacity ? h->capacity * 2 : FIRST_CAPACITY;
    struct http_field *fields = arena_alloc(h->arena, capacity * sizeof *fields);
    if (!fields)
        return -1;
    if (h->count)
        memcpy(fields, h->fields, h->count * sizeof *fields);
    h->fields = fields;
    h->capacity = capacity;
    return 0;
}

int http_headers_add(struct http_headers *h, const char *name, size_t name_len, const char *value,
                     size_t value_len) {
    if (!name_len || !is_clean(name, name_len, true) || !is_clean(value, value_len, false))
        return -1;
    if (h->count == h->capacity && grow(h))
        return -1;
    char *text = arena_alloc(h->arena, name_len + value_len + 2); // zeroed: both end in NUL
    if (!text)
        return -1;
    memcpy(text, name, name_len);
    if (value_len)
        memcpy(text + name_len + 1, value, value_len);
    h->fields[h->count++] = (struct http_field){text, text + name_len + 1, name_len, value_len};
    return 0;
}

int http_headers_set(struct http_headers *h, const char *name, const char *value) {
    size_t len = strlen(name), kept = 0;
    if (http_headers_add(h, name, len, value, strlen(value)))
        return -1;
    struct http_field added = h->fields[--h->count];
    bool placed = false; // where the first of that name stood
    for (size_t i = 0; i < h->count; i++) {
        bool same = is_named(&h->fields[i], name, len);
        if (same && placed)
            continue;
        placed |= same;
        h->fields[kept++] = same ? added : h->fields[i];
    }
    if (!placed)
        h->fields[kept++] = added;
    h->count = kept;
    return 0;
}

const char *http_headers_get(const struct http_headers *h, const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i < h->count; i++)
        if (is_named(&h->fields[i], name, len))
            return h->fields[i].value;
    return NULL;
}

size_t http_headers_count(const struct http_headers *h, const char *name) {
    size_t len = strlen(name), n = 0;
    for (size_t i = 0; i < h->count; i++)
        n += is_named(&h->fields[i], name, len);
    return n;
}

static bool list_has(const char *list, const char *token, size_t len) {
    while (*list) {
        list += strspn(list, ", \t");
        size_t n = strcspn(list, ",");
        const char *next = list + n;
        while (n && (list[n - 1] == ' ' || list[n - 1] == '\t'))
            n--;
        if (n == len && !strncasecmp(list, token, len))
            return true;
        list = next;
    }
    return false;
}

bool http_headers_has_token(const struct http_headers *h, const char *name, const char *token) {
    size_t name_len = strlen(name), len = strlen(token);
    for (size_t i = 0; i < h->count; i++)
        if (is_named(&h->fields[i], name, name_len) && list_has(h->fields[i].value, token, len))
            return true;
    return false;
}

int http_headers_write(const struct http_headers *h, struct strbuf *sb) {
    for (size_t i = 0; i < h->count; i++) {
        const struct http_field *f = &h->fields[i];
        (void)strbuf_add(sb, f->name, f->name_len); // failure is sticky
        (void)strbuf_adds(sb, ": ");
        (void)strbuf_add(sb, f->value, f->value_len);
        (void)strbuf_adds(sb, "\r\n");
    }
    return sb->failed ? -1 : 0;
}
