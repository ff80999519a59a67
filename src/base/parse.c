#include "base/parse.h"

#include <stdbool.h>
#include <strings.h>

int parse_u64n(const char *text, size_t len, uint64_t min, uint64_t max, uint64_t *ret) {
    uint64_t v = 0;
    if (!len)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v))
            return -1;
    }
    if (v < min || v > max)
        return -1;
    *ret = v;
    return 0;
}

int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret) {
    return parse_u64n(text, strlen(text), min, max, ret);
}

int parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret) {
    bool negative = text[0] == '-';
    uint64_t v;
    if (parse_u64(text + negative, 0, (uint64_t)INT64_MAX + negative, &v) < 0)
        return -1;
    int64_t value = negative ? (int64_t)(0 - v) : (int64_t)v;
    if (value < min || value > max)
        return -1;
    *ret = value;
    return 0;
}

int parse_hex64(const char *text, size_t len, uint64_t *ret) {
    uint64_t v = 0;
    if (!len || len > 16)
        return -1;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        unsigned d = c >= '0' && c <= '9'   ? c - (unsigned)'0'
                     : c >= 'a' && c <= 'f' ? c - 'a' + 10u
                     : c >= 'A' && c <= 'F' ? c - 'A' + 10u
                                            : 16;
        if (d > 15)
            return -1;
        v = v << 4 | d;
    }
    *ret = v;
    return 0;
}

// Text without surrounding white space.
static void trim(const char **text, size_t *len) {
    static const char space[] = " \t\r\n\v\f";
    *text += strspn(*text, space);
    *len = strlen(*text);
    while (*len && strchr(space, (*text)[*len - 1]))
        (*len)--;
}

int parse_memory(const char *text, uint64_t *ret_bytes) {
    static const struct {
        const char *name;
        uint64_t factor;
    } units[] = {{"", 1},
                 {"b", 1},
                 {"k", 1000},
                 {"kb", 1000},
                 {"ki", 1ULL << 10},
                 {"m", 1000000},
                 {"mb", 1000000},
                 {"mi", 1ULL << 20},
                 {"g", 1000000000},
                 {"gb", 1000000000},
                 {"gi", 1ULL << 30},
                 {"t", 1000000000000},
                 {"tb", 1000000000000},
                 {"ti", 1ULL << 40}};
    size_t len, n = 0;
    uint64_t v;
    trim(&text, &len);
    while (n < len && text[n] >= '0' && text[n] <= '9')
        n++;
    if (parse_u64n(text, n, 1, UINT64_MAX, &v) < 0)
        return -1;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strlen(units[i].name) == len - n && !strncasecmp(units[i].name, text + n, len - n)) {
            if (__builtin_mul_overflow(v, units[i].factor, &v) || v > INT64_MAX)
                return -1;
            *ret_bytes = v;
            return 0;
        }
    return -1;
}

// Decimal number with up to 9 fraction digits that count, in billionths. -1 when it is none.
static int parse_decimal(const char *text, size_t len, uint64_t *ret_nano) {
    size_t dot = 0;
    uint64_t whole = 0, nano = 0, scale = 1000000000;
    while (dot < len && text[dot] != '.')
        dot++;
    if (len == 0 || (dot == 0 && len == 1) ||
        (dot && parse_u64n(text, dot, 0, 9000000000ULL, &whole) < 0))
        return -1;
    for (size_t i = dot + 1; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        scale /= 10;
        nano += scale * (uint64_t)(text[i] - '0');
    }
    *ret_nano = whole * 1000000000 + nano;
    return 0;
}

int parse_cpu(const char *text, uint64_t *ret_millis) {
    size_t len;
    uint64_t nano;
    trim(&text, &len);
    bool milli = len && (text[len - 1] == 'm' || text[len - 1] == 'M');
    if (parse_decimal(text, len - milli, &nano) < 0)
        return -1;
    uint64_t millis = milli ? nano / 1000000000 : nano / 1000000;
    if (millis < 1)
        return -1;
    *ret_millis = millis;
    return 0;
}

int parse_duration(const char *text, int64_t *ret_ns) {
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {{"ns", 1},         {"us", 1000},       {"\xc2\xb5s", 1000}, {"ms", 1000000},
                 {"s", 1000000000}, {"m", 60000000000}, {"h", 3600000000000}};
    int64_t sum = 0;
    bool negative = *text == '-';
    text += negative || *text == '+';
    if (!strcmp(text, "0")) {
        *ret_ns = 0;
        return 0;
    }
    if (!*text)
        return -1;
    while (*text) {
        size_t n = strspn(text, "0123456789."), u = strcspn(text + n, "0123456789.");
        uint64_t nano;
        int64_t unit = 0, part;
        if (parse_decimal(text, n, &nano) < 0)
            return -1;
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (strlen(units[i].name) == u && !strncmp(units[i].name, text + n, u))
                unit = units[i].ns;
        __int128 product = (__int128)nano * unit / 1000000000;
        if (!unit || product > INT64_MAX)
            return -1;
        part = (int64_t)product;
        if (__builtin_add_overflow(sum, part, &sum))
            return -1;
        text += n + u;
    }
    *ret_ns = negative ? -sum : sum;
    return 0;
}
