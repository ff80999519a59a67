// Percent-coding, query strings and request targets (RFC 3986). Any thread.
#ifndef HTTP_URL_H
#define HTTP_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/strbuf.h"

// Decodes into a new arena text; bad escapes are kept as they are (lenient, paths). NULL: no
// memory, or a NUL byte.
char *url_decode(struct arena *a, const char *text, size_t len, bool plus_is_space,
                 size_t *ret_len);
int url_encode(struct strbuf *sb, const char *text, size_t len,
               const char *keep); // unreserved and `keep` stay

struct url_pair {
    const char *name, *value; // decoded
    bool has_value;           // there was an '='
};
// Splits "a=1&b=2". Returns the number of pairs, or -1 (no memory, a NUL, more than 4096). Repeated
// names are kept in order.
long url_query(struct arena *a, const char *query, struct url_pair **ret_pairs);
const char *url_query_last(const struct url_pair *pairs, long count,
                           const char *name); // NULL when absent

// Whether a raw path holds a dot segment in any disguise: ".", "..", "%2e" forms, also behind "%2f"
// or a backslash.
bool url_has_dot_segment(const char *raw_path);

#endif
