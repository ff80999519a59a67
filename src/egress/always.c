#include "egress/always.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

static int take_line(struct policy *p, bool allow, const char *line, size_t len,
                     struct error *err) {
    char text[POLICY_TARGET_MAX + 8];
    while (len && isspace((unsigned char)*line)) {
        line++;
        len--;
    }
    while (len && isspace((unsigned char)line[len - 1]))
        len--;
    if (!len || *line == '#')
        return 0;
    if (len >= sizeof text || memchr(line, '\0', len))
        return error_set(err, EINVAL, "no target");
    memcpy(text, line, len);
    text[len] = '\0';
    return policy_add(p, allow, text, err) < 0 ? error_wrap(err, "\"%.80s\"", text) : 0;
}

int always_parse(struct policy *p, bool allow, const char *path, const char *text, size_t len,
                 struct error *err) {
    size_t number = 1;
    for (size_t at = 0; at < len; number++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t line = end ? (size_t)(end - text) - at : len - at;
        if (line > ALWAYS_LINE_MAX)
            return error_set(err, EINVAL, "%s:%zu: line longer than %d bytes", path, number,
                             ALWAYS_LINE_MAX);
        if (take_line(p, allow, text + at, line, err) < 0)
            return error_wrap(err, "%s:%zu", path, number);
        at += line + 1;
    }
    return 0;
}

static bool same(const struct always_file *f, const struct stat *st) {
    return f->present && f->size == st->st_size && f->changed.tv_sec == st->st_mtim.tv_sec &&
           f->changed.tv_nsec == st->st_mtim.tv_nsec;
}

int always_reload(struct always_file *f, struct error *err) {
    struct stat st;
    struct policy rules = {0};
    cleanup_strbuf struct strbuf sb;
    strbuf_init(&sb, ALWAYS_FILE_MAX);
    if (stat(f->path, &st) < 0) {
        if (errno != ENOENT && errno != ENOTDIR)
            return error_errno(err, errno, "%s", f->path);
        int changed = f->present;
        f->present = false;
        policy_clear(&f->rules);
        return changed;
    }
    if (same(f, &st))
        return 0;
    if (fd_read_file(AT_FDCWD, f->path, &sb, err) < 0 ||
        always_parse(&rules, f->allow, f->path, sb.data, sb.len, err) < 0) {
        policy_clear(&rules);
        return -1;
    }
    policy_clear(&f->rules);
    f->rules = rules;
    f->present = true;
    f->size = st.st_size;
    f->changed = st.st_mtim;
    return 1;
}
