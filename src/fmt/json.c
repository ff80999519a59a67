#include "fmt/json.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/utf8.h"

void json_init(void) {
    json_object_seed(0);
}

json_t *json_parse(const char *text, size_t len, size_t *ret_offset, struct error *err) {
    json_error_t why;
    json_t *value = json_loadb(text, len, JSON_DECODE_ANY, &why);
    if (value)
        return value;
    if (ret_offset)
        *ret_offset = why.position > 0 ? (size_t)why.position : 0;
    (void)error_set(err, EINVAL, "line %d column %d: %s", why.line, why.column, why.text);
    return NULL;
}

static int add(const char *data, size_t len, void *sb) {
    return strbuf_add(sb, data, len);
}

int json_write(const json_t *value, struct strbuf *sb) {
    return json_dump_callback(value, add, sb, JSON_COMPACT | JSON_ENCODE_ANY) < 0 || sb->failed ? -1
                                                                                                : 0;
}

// Bytes that stand for themselves inside a JSON string.
static size_t plain(const unsigned char *p, size_t len) {
    size_t n = 0;
    while (n < len && p[n] >= 0x20 && p[n] < 0x7f && p[n] != '"' && p[n] != '\\')
        n++;
    return n;
}

// One character that is not plain, of `n` bytes of valid UTF-8.
static int add_special(struct strbuf *sb, const unsigned char *p, size_t n) {
    static const char named[] = "b\bf\fn\nr\rt\t\"\"\\\\";
    static const char hex[] = "0123456789abcdef";
    for (const char *e = named; *e; e += 2)
        if (n == 1 && p[0] == (unsigned char)e[1])
            return strbuf_add(sb, (const char[]){'\\', e[0]}, 2);
    if (n == 1)
        return strbuf_add(sb, (const char[]){'\\', 'u', '0', '0', hex[p[0] >> 4], hex[p[0] & 15]},
                          6);
    if (n == 2 && p[0] == 0xc2 && p[1] == 0x85)
        return strbuf_adds(sb, "\\u0085");
    if (n == 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
        return strbuf_adds(sb, p[2] == 0xa8 ? "\\u2028" : "\\u2029");
    return strbuf_add(sb, p, n);
}

int json_write_escaped(struct strbuf *sb, const char *text, size_t len) {
    if (plain((const unsigned char *)text, len) == len)
        return strbuf_add(sb, text, len);
    cleanup_strbuf struct strbuf valid = {0};
    strbuf_init(&valid, SIZE_MAX / 8);
    if (!utf8_valid(text, len)) {
        if (utf8_add_lossy(&valid, text, len) < 0)
            return -1;
        text = valid.data;
        len = valid.len;
    }
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; i < len;) {
        size_t n = plain(p + i, len - i);
        if (n) {
            (void)strbuf_add(sb, p + i, n);
        } else {
            n = p[i] < 0x80 ? 1 : p[i] >= 0xf0 ? 4 : p[i] >= 0xe0 ? 3 : 2;
            (void)add_special(sb, p + i, n);
        }
        i += n;
    }
    return sb->failed ? -1 : 0;
}

int json_write_text(struct strbuf *sb, const char *text, size_t len) {
    (void)strbuf_addc(sb, '"');
    if (json_write_escaped(sb, text, len) < 0)
        return -1;
    return strbuf_addc(sb, '"');
}

void json_write_comma(struct strbuf *sb) {
    char last = sb->len ? sb->data[sb->len - 1] : '[';
    if (last != '{' && last != '[' && last != ':')
        (void)strbuf_addc(sb, ',');
}

void json_write_name(struct strbuf *sb, const char *name) {
    json_write_comma(sb);
    (void)json_write_text(sb, name, strlen(name));
    (void)strbuf_addc(sb, ':');
}

void json_write_member(struct strbuf *sb, const char *name, const char *text) {
    json_write_name(sb, name);
    (void)json_write_text(sb, text, strlen(text));
}
