// UTF-8 (RFC 3629). Any thread.
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#include "base/strbuf.h"

bool utf8_valid(const char *data, size_t len);
// Appends data with every byte that is not part of a valid sequence replaced by U+FFFD (one each,
// execd.md 2.1).
int utf8_add_lossy(struct strbuf *sb, const char *data, size_t len);

#endif
