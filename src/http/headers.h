// Header fields in order of arrival, repeated ones kept. Names are compared without case (RFC
// 9110 5.1). Texts live in the arena given at init. Loop thread of their connection.
#ifndef HTTP_HEADERS_H
#define HTTP_HEADERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/strbuf.h"

struct http_field {
    const char *name, *value; // NUL-terminated, no CR or LF
    size_t name_len, value_len;
};

struct http_headers {
    struct http_field *fields;
    size_t count, capacity;
    struct arena *arena;
};

void http_headers_init(struct http_headers *h, struct arena *arena);
// -1: no memory, or an empty name, or a byte that would end the name or the line (nothing is
// added).
int http_headers_add(struct http_headers *h, const char *name, size_t name_len, const char *value,
                     size_t value_len);
int http_headers_set(struct http_headers *h, const char *name,
                     const char *value); // replaces all of that name
const char *http_headers_get(const struct http_headers *h,
                             const char *name); // first, NULL when absent
size_t http_headers_count(const struct http_headers *h, const char *name);
// Whether a comma-separated list field holds `token` (Connection, Upgrade), over all fields of that
// name.
bool http_headers_has_token(const struct http_headers *h, const char *name, const char *token);
int http_headers_write(const struct http_headers *h, struct strbuf *sb); // "name: value\r\n" each

#endif
