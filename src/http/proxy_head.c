#include "http/proxy_head.h"

#include <strings.h>

#include "base/strbuf.h"
#include "http/headers.h"

struct name {
    const char *text;
    size_t len;
};
#define NAME(s)                                                                                    \
    { s, sizeof(s) - 1 }

// RFC 9110 7.6.1, and Content-Length, which goes with the framing that each hop has of its own.
static const struct name hop_by_hop[] = {NAME("Connection"),
                                         NAME("Keep-Alive"),
                                         NAME("Proxy-Connection"),
                                         NAME("Proxy-Authenticate"),
                                         NAME("Proxy-Authorization"),
                                         NAME("TE"),
                                         NAME("Trailer"),
                                         NAME("Transfer-Encoding"),
                                         NAME("Upgrade"),
                                         NAME("Content-Length"),
                                         {NULL, 0}};
// Rewritten or answered by this hop.
static const struct name ours_in_request[] = {NAME("Host"), NAME("Expect"), {NULL, 0}};

static bool is_named(const struct http_field *f, const char *name, size_t len) {
    return f->name_len == len && strncasecmp(f->name, name, len) == 0;
}

static bool is_one_of(const struct http_field *f, const struct name *names) {
    for (; names->text; names++)
        if (is_named(f, names->text, names->len))
            return true;
    return false;
}

// Whether the field goes beyond this hop.
static bool passes(const struct http_headers *all, bool has_connection,
                   const struct http_field *f) {
    return !is_one_of(f, hop_by_hop) &&
           !(has_connection && http_headers_has_token(all, "Connection", f->name));
}

static void add_field(struct strbuf *sb, const char *name, size_t name_len, const char *value,
                      size_t value_len) {
    (void)strbuf_add(sb, name, name_len); // failure is sticky
    (void)strbuf_add(sb, ": ", 2);
    (void)strbuf_add(sb, value, value_len);
    (void)strbuf_add(sb, "\r\n", 2);
}

int proxy_head_write(const struct http_exchange *x, const struct http_proxy_policy *policy,
                     struct strbuf *sb) {
    const struct http_head *q = x->request;
    const struct http_headers *h = &q->headers;
    const char *host = policy->host ? policy->host : http_headers_get(h, "Host");
    bool has_connection = http_headers_get(h, "Connection");
    (void)strbuf_addf(sb, "%s %s HTTP/1.1\r\nHost: %s\r\n", q->method, policy->target,
                      host ? host : "localhost"); // HTTP/1.0 needs none, HTTP/1.1 does
    for (size_t i = 0; i < h->count; i++) {
        const struct http_field *f = &h->fields[i];
        if (q->upgrade && is_named(f, "Upgrade", 7))
            add_field(sb, f->name, f->name_len, f->value, f->value_len);
        else if (passes(h, has_connection, f) && !is_one_of(f, ours_in_request) &&
                 !(policy->drop_request && policy->drop_request(f, policy->arg)))
            add_field(sb, f->name, f->name_len, f->value, f->value_len);
    }
    for (size_t i = 0; i < policy->add_count; i++)
        add_field(sb, policy->add[i].name, policy->add[i].name_len, policy->add[i].value,
                  policy->add[i].value_len);
    if (q->upgrade)
        (void)strbuf_adds(sb, "Connection: Upgrade\r\n");
    if (q->chunked)
        (void)strbuf_adds(sb, "Transfer-Encoding: chunked\r\n");
    else if (q->content_length >= 0)
        (void)strbuf_addf(sb, "Content-Length: %lld\r\n", (long long)q->content_length);
    return strbuf_add(sb, "\r\n", 2);
}

// A cookie of one service must not reach the others that share our origin.
static const char *rewrite_cookie(struct arena *a, const char *value, const char *path) {
    struct strbuf sb;
    size_t len = strcspn(value, ";");
    strbuf_init(&sb, strlen(value) + strlen(path) + 16);
    (void)strbuf_add(&sb, value, len); // failure is sticky
    while (value[len]) {
        value += len + 1;
        len = strcspn(value, ";");
        size_t skip = strspn(value, " \t"), name = strcspn(value + skip, "=; \t");
        if (!(name == 4 && *path && strncasecmp(value + skip, "Path", name) == 0) &&
            !(name == 6 && strncasecmp(value + skip, "Domain", name) == 0)) {
            (void)strbuf_addc(&sb, ';');
            (void)strbuf_add(&sb, value, len);
        }
    }
    if (*path)
        (void)strbuf_addf(&sb, "; Path=%s", path);
    const char *text = sb.failed ? NULL : arena_strdup(a, sb.data);
    strbuf_free(&sb);
    return text;
}

// The value as the client gets it; NULL: no memory.
static const char *rewritten(const struct http_exchange *x, const struct http_proxy_policy *policy,
                             const struct http_field *f) {
    if (policy->cookie_path && is_named(f, "Set-Cookie", 10))
        return rewrite_cookie(x->arena, f->value, policy->cookie_path);
    if (policy->location_prefix && is_named(f, "Location", 8) && f->value[0] == '/' &&
        f->value[1] != '/')
        return arena_printf(x->arena, "%s%s", policy->location_prefix, f->value);
    return f->value;
}

int proxy_head_pass(struct http_exchange *x, const struct http_proxy_policy *policy,
                    const struct http_headers *h) {
    bool has_connection = http_headers_get(h, "Connection");
    for (size_t i = 0; i < h->count; i++) {
        const struct http_field *f = &h->fields[i];
        if (!passes(h, has_connection, f) ||
            (policy->drop_response && policy->drop_response(f, policy->arg)))
            continue;
        const char *value = rewritten(x, policy, f);
        if (!value || http_reply_header(x, f->name, value) < 0)
            return -1;
    }
    return 0;
}
