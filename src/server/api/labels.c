#include <string.h>

#include "server/api/api.h"

static bool is_alnum(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}
static bool is_lower_alnum(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_label_part(const char *text, size_t len, const char *inner, bool (*outer)(char)) {
    if (!len || !outer(text[0]) || !outer(text[len - 1]))
        return false;
    for (size_t i = 0; i < len; i++)
        if (!outer(text[i]) && !strchr(inner, text[i]))
            return false;
    return true;
}

bool is_dns_label(const char *text, size_t max) {
    size_t len = strlen(text);
    return len <= max && is_label_part(text, len, "-", is_lower_alnum);
}

static bool is_dns_name(const char *text, size_t len) {
    if (!len || len > 253)
        return false;
    for (const char *end = text + len; text <= end;) {
        const char *dot = memchr(text, '.', (size_t)(end - text));
        size_t n = (size_t)((dot ? dot : end) - text);
        if (!is_label_part(text, n, "-", is_lower_alnum))
            return false;
        text += n + 1;
    }
    return true;
}

static bool is_name(const char *text) {
    size_t len = strlen(text);
    return len <= 63 && is_label_part(text, len, "-_.", is_alnum);
}

bool label_is_reserved(const char *key) {
    return strncmp(key, "opensandbox.io/", 15) == 0;
}

int label_check(const char *key, const char *value, struct error *err) {
    const char *slash = strchr(key, '/');
    if (label_is_reserved(key))
        return error_server(err, ERR_INVALID_METADATA_LABEL,
                            "metadata key \"%.80s\": keys beginning opensandbox.io/ are reserved",
                            key);
    if (slash && !is_dns_name(key, (size_t)(slash - key)))
        return error_server(err, ERR_INVALID_METADATA_LABEL,
                            "metadata key \"%.80s\": what stands before the '/' must be a DNS name "
                            "of at most 253 characters",
                            key);
    if (!is_name(slash ? slash + 1 : key))
        return error_server(err, ERR_INVALID_METADATA_LABEL,
                            "metadata key \"%.80s\": a name has 1 to 63 letters, digits, '-', '_' "
                            "or '.', and begins and ends "
                            "with a letter or digit",
                            key);
    if (*value && !is_name(value))
        return error_server(err, ERR_INVALID_METADATA_LABEL,
                            "metadata value of \"%.80s\": a value has at most 63 letters, digits, "
                            "'-', '_' or '.', and begins and "
                            "ends with a letter or digit",
                            key);
    return 0;
}
