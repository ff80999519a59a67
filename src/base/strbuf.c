#include "base/strbuf.h"

#include <stdarg.h>

static char empty[1]; // `data` of a buffer without memory; never written but with 0

void strbuf_init(struct strbuf *sb, size_t max) {
    *sb = (struct strbuf){.data = empty, .max = max};
}

void strbuf_free(struct strbuf *sb) {
    if (sb->data != empty)
        free(sb->data);
    strbuf_init(sb, sb->max);
}

void strbuf_clear(struct strbuf *sb) {
    sb->len = 0;
    sb->failed = false;
    if (sb->capacity)
        sb->data[0] = 0;
}

char *strbuf_reserve(struct strbuf *sb, size_t len) {
    if (sb->failed || len > sb->max || sb->len > sb->max - len) {
        sb->failed = true;
        return NULL;
    }
    size_t need = sb->len + len + 1;
    if (need > sb->capacity) {
        size_t size = sb->capacity ? sb->capacity : 64;
        while (size < need)
            size *= 2;
        if (size > sb->max + 1)
            size = sb->max + 1;
        char *grown = realloc(sb->data == empty ? NULL : sb->data, size);
        if (!grown) {
            sb->failed = true;
            return NULL;
        }
        sb->data = grown;
        sb->capacity = size;
        sb->data[sb->len] = 0;
    }
    return sb->data + sb->len;
}

int strbuf_add(struct strbuf *sb, const void *data, size_t len) {
    if (!len)
        return sb->failed ? -1 : 0;
    char *at = strbuf_reserve(sb, len);
    if (!at)
        return -1;
    memcpy(at, data, len);
    sb->len += len;
    sb->data[sb->len] = 0;
    return 0;
}

int strbuf_adds(struct strbuf *sb, const char *text) {
    return strbuf_add(sb, text, strlen(text));
}

int strbuf_addc(struct strbuf *sb, char c) {
    return strbuf_add(sb, &c, 1);
}

int strbuf_addf(struct strbuf *sb, const char *format, ...) {
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    char *at = n < 0 ? NULL : strbuf_reserve(sb, (size_t)n);
    if (at) {
        (void)vsnprintf(at, (size_t)n + 1, format, again);
        sb->len += (size_t)n;
    } else
        sb->failed = true;
    va_end(again);
    return at ? 0 : -1;
}

void strbuf_consume(struct strbuf *sb, size_t len) {
    if (len >= sb->len) {
        sb->len = 0;
    } else {
        memmove(sb->data, sb->data + len, sb->len - len);
        sb->len -= len;
    }
    if (sb->capacity)
        sb->data[sb->len] = 0;
}

char *strbuf_detach(struct strbuf *sb) {
    char *text = NULL;
    if (!sb->failed && (sb->capacity || strbuf_reserve(sb, 0))) {
        text = sb->data;
        sb->data = empty;
    }
    strbuf_free(sb);
    return text;
}
