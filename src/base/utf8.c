#include "base/utf8.h"

#include <stdint.h>

// Length of the valid sequence at data, 0 when there is none (RFC 3629 section 4: no overlong
// forms, no surrogates).
static size_t sequence(const unsigned char *p, size_t len) {
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

bool utf8_valid(const char *data, size_t len) {
    const unsigned char *p = (const unsigned char *)data;
    for (size_t i = 0, n; i < len; i += n)
        if (!(n = sequence(p + i, len - i)))
            return false;
    return true;
}

int utf8_add_lossy(struct strbuf *sb, const char *data, size_t len) {
    const unsigned char *p = (const unsigned char *)data;
    size_t begin = 0, i = 0;
    while (i < len) {
        size_t n = sequence(p + i, len - i);
        if (n) {
            i += n;
            continue;
        }
        if (strbuf_add(sb, data + begin, i - begin) < 0 || strbuf_add(sb, "\xef\xbf\xbd", 3) < 0)
            return -1;
        begin = ++i;
    }
    return strbuf_add(sb, data + begin, len - begin);
}
