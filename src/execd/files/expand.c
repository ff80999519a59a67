#include "execd/files/expand.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/strbuf.h"

enum { EXPANDED_MAX = 64 * 1024 };

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_word(char c) {
    return is_letter(c) || (c >= '0' && c <= '9');
}

static size_t word_length(const char *p) {
    size_t n = 0;
    while (is_word(p[n]))
        n++;
    return n;
}

static const char *look_up(const struct files_base *base, const char *name, size_t len) {
    char text[256];
    if (len >= sizeof text)
        return NULL;
    memcpy(text, name, len);
    text[len] = 0;
    return base->lookup ? base->lookup(base->arg, text) : NULL;
}

// Every "$NAME" and "${NAME}" of the text must be defined, also where the expansion would read it
// in another way ("$$b").
static int check_names(const char *path, const struct files_base *base, struct error *err) {
    cleanup_strbuf struct strbuf missing;
    strbuf_init(&missing, ERROR_MESSAGE_MAX / 2);
    for (const char *p = path; (p = strchr(p, '$')); p++) {
        const char *name = p + 1 + (p[1] == '{');
        size_t len = word_length(name);
        if (!is_letter(*name) || (p[1] == '{' && name[len] != '}') || look_up(base, name, len))
            continue;
        if (missing.len)
            strbuf_addc(&missing, ',');
        strbuf_add(&missing, name, len);
    }
    if (missing.failed)
        return error_set(err, EINVAL, "path references too many undefined environment variables");
    if (missing.len)
        return error_set(err, EINVAL, "path references undefined environment variables: %s",
                         missing.data);
    return 0;
}

// `p` is behind a '$'. Appends what the variable stands for; returns the bytes of the text that it
// takes.
static size_t expand_one(struct strbuf *sb, const char *p, const struct files_base *base) {
    const char *name = p;
    size_t len = 0, taken;
    if (*p == '{') {
        const char *end = strchr(p, '}');
        if (!end)
            return 1; // "${" without an end: both go
        name = p + 1;
        len = (size_t)(end - name);
        taken = len + 2;
    } else if (*p && strchr("*#$@!?-0123456789", *p)) {
        return 1;
    } else {
        taken = len = word_length(p);
    }
    const char *value = len ? look_up(base, name, len) : NULL;
    if (value)
        strbuf_adds(sb, value);
    else if (!taken)
        strbuf_addc(sb, '$');
    return taken;
}

static void add_home(struct strbuf *sb, const char **path, const struct files_base *base) {
    const char *p = *path;
    if (p[0] == '~' && (!p[1] || p[1] == '/' || p[1] == '\\') && base->home) {
        strbuf_adds(sb, base->home);
        *path = p + 1;
    }
}

// Takes "." and ".." and empty components out of an absolute path, in place.
static void clean(char *path) {
    char *out = path;
    for (const char *p = path; *p;) {
        p += strspn(p, "/");
        size_t len = strcspn(p, "/");
        if (len == 2 && p[0] == '.' && p[1] == '.') {
            while (out > path && *--out != '/')
                ;
        } else if (len && !(len == 1 && p[0] == '.')) {
            *out++ = '/';
            memmove(out, p, len);
            out += len;
        }
        p += len;
    }
    if (out == path)
        *out++ = '/';
    *out = 0;
}

void files_expand_text(struct strbuf *sb, const char *text, const struct files_base *base) {
    while (*text) {
        if (*text != '$' || !text[1])
            strbuf_addc(sb, *text++);
        else
            text += 1 + expand_one(sb, text + 1, base);
    }
}

int files_expand(struct arena *a, const char *path, const struct files_base *base, char **ret,
                 struct error *err) {
    cleanup_strbuf struct strbuf named, full;
    strbuf_init(&named, EXPANDED_MAX);
    strbuf_init(&full, EXPANDED_MAX);
    if (check_names(path, base, err) < 0)
        return -1;
    files_expand_text(&named, path, base);
    const char *rest = named.data;
    add_home(&full, &rest, base);
    if (!full.len && *rest != '/') {
        strbuf_adds(&full, base->cwd);
        strbuf_addc(&full, '/');
    }
    strbuf_adds(&full, rest);
    if (named.failed || full.failed)
        return error_set(err, EINVAL, "the path is too long");
    if (!full.len || full.data[0] != '/') // a relative $HOME
        return error_set(err, EINVAL, "the path is not absolute: %s", full.data);
    clean(full.data);
    if (!(*ret = arena_strdup(a, full.data)))
        return error_errno(err, ENOMEM, "path");
    return 0;
}

const char *files_environ(const void *arg, const char *name) {
    (void)arg; // one environment
    return getenv(name);
}

int files_mode_parse(long long digits, mode_t *ret) {
    mode_t mode = 0;
    unsigned shift = 0;
    if (digits < 0) {
        errno = EINVAL;
        return -1;
    }
    for (; digits; digits /= 10, shift += 3) {
        if (digits % 10 > 7) {
            errno = EINVAL;
            return -1;
        }
        if (shift < 9)
            mode |= (mode_t)(digits % 10) << shift;
    }
    *ret = mode;
    return 0;
}

long long files_mode_show(mode_t mode) {
    return (mode >> 6 & 7) * 100 + (mode >> 3 & 7) * 10 + (mode & 7);
}
