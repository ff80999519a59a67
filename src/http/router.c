#include "http/router.h"

#include "base/utf8.h"
#include "http/url.h"

enum { ALLOWED_MAX = 256 };

// What a pattern took from the path, before anything is decoded: a table has many patterns, a
// request one.
struct capture {
    const char *name[HTTP_PARAMS_MAX], *value[HTTP_PARAMS_MAX];
    size_t name_len[HTTP_PARAMS_MAX], value_len[HTTP_PARAMS_MAX];
    unsigned count;
    const char *rest;
};

// Whether a raw segment is still one when it is decoded.
static bool is_one_segment(const char *text, size_t len) {
    const char *end = text + len;
    for (const char *p = text; (p = memchr(p, '%', (size_t)(end - p))); p++)
        if (end - p > 2 && ((p[1] == '2' && (p[2] | 0x20) == 'f') || (p[1] == '0' && p[2] == '0')))
            return false;
    return len > 0;
}

static bool is_literal(struct arena *a, const char *text, size_t len, const char *literal,
                       size_t literal_len) {
    if (len == literal_len)
        return !memcmp(text, literal, len);
    if (len < literal_len || len > literal_len * 3 || !memchr(text, '%', len))
        return false;
    size_t decoded_len = 0;
    const char *decoded = url_decode(a, text, len, false, &decoded_len);
    return decoded && decoded_len == literal_len && !memcmp(decoded, literal, literal_len);
}

static bool match_segment(struct arena *a, const char *text, size_t len, const char *pattern,
                          size_t pattern_len, struct capture *c) {
    if (*pattern != '{')
        return is_literal(a, text, len, pattern, pattern_len);
    if (c->count == HTTP_PARAMS_MAX || !is_one_segment(text, len))
        return false;
    c->name[c->count] = pattern + 1;
    c->name_len[c->count] = pattern_len - 2; // without the braces
    c->value[c->count] = text;
    c->value_len[c->count++] = len;
    return true;
}

static bool match_path(struct arena *a, const char *path, const char *pattern, struct capture *c) {
    c->count = 0;
    c->rest = "";
    while (*pattern && strcmp(pattern, "/*") != 0) {
        if (*path++ != '/')
            return false;
        pattern++;
        size_t len = strcspn(path, "/"), pattern_len = strcspn(pattern, "/");
        if (!match_segment(a, path, len, pattern, pattern_len, c))
            return false;
        path += len;
        pattern += pattern_len;
    }
    if (*pattern)
        c->rest = path;
    return *pattern ? !*path || *path == '/' : !*path;
}

// The path below the mount, NULL when it is not below it or the route does not live there.
static const char *below(const struct http_route *r, const char *mount, const char *path) {
    size_t len = strlen(mount);
    if (r->flags & (unsigned)(len ? HTTP_ROUTE_ROOT_ONLY : HTTP_ROUTE_MOUNT_ONLY))
        return NULL;
    bool is_below = !strncmp(path, mount, len) && (path[len] == '/' || !path[len]);
    return is_below ? path + len : NULL;
}

// The mount under which the path matches, NULL when under none.
static const char *find_mount(const struct http_server_settings *s, struct arena *a,
                              const struct http_route *r, const char *path, struct capture *c) {
    static const char *const none[] = {NULL};
    const char *const *next = s->mounts ? s->mounts : none;
    for (const char *mount = ""; mount; mount = *next++) {
        const char *rest = below(r, mount, path);
        if (rest && match_path(a, rest, r->pattern, c))
            return mount;
    }
    return NULL;
}

static const char *decode_value(struct arena *a, const char *text, size_t len) {
    size_t n = 0;
    const char *decoded = url_decode(a, text, len, false, &n);
    if (!decoded || utf8_valid(decoded, n))
        return decoded;
    struct strbuf sb;
    strbuf_init(&sb, n * 3); // U+FFFD has three bytes
    const char *lossy = utf8_add_lossy(&sb, decoded, n) ? NULL : arena_strndup(a, sb.data, sb.len);
    strbuf_free(&sb);
    return lossy;
}

static int take_params(struct arena *a, const struct capture *c, struct http_match *m) {
    for (unsigned i = 0; i < c->count; i++) {
        m->params[i].name = arena_strndup(a, c->name[i], c->name_len[i]);
        m->params[i].value = decode_value(a, c->value[i], c->value_len[i]);
        if (!m->params[i].name || !m->params[i].value)
            return -1;
    }
    m->param_count = c->count;
    m->rest = c->rest;
    return 0;
}

static void add_method(char *list, size_t size, const char *method) {
    size_t len = strlen(list);
    for (const char *p = list; (p = strstr(p, method)); p++)
        if ((p == list || p[-1] == ' ') && (p[strlen(method)] == ',' || !p[strlen(method)]))
            return;
    (void)snprintf(list + len, size - len, "%s%s", len ? ", " : "", method);
}

int http_router_match(const struct http_server_settings *s, struct arena *a, const char *method,
                      const char *path, struct http_match *ret_match) {
    char allowed[ALLOWED_MAX] = "";
    struct http_match m = {.mount = "", .rest = ""};
    struct capture c;
    for (size_t i = 0; i < s->route_count; i++) {
        const struct http_route *r = &s->routes[i];
        const char *mount = find_mount(s, a, r, path, &c);
        if (!mount)
            continue;
        if (strcmp(r->method, "*") != 0 && strcmp(r->method, method) != 0) {
            add_method(allowed, sizeof allowed, r->method);
            continue;
        }
        m.route = r;
        m.mount = mount;
        if (take_params(a, &c, &m))
            return -1;
        *ret_match = m;
        return 0;
    }
    if (*allowed && !(m.allowed = arena_strdup(a, allowed)))
        return -1;
    *ret_match = m;
    return 0;
}
