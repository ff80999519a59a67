#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "server/api/api.h"
#include "server/api/fields.h"
#include "server/api/handlers.h"

static const struct place place_path = {.name = "path"}, place_query = {.name = "query"};

struct question {
    int64_t port, expires;
    bool proxied, has_expires;
};

static void read_question(struct http_exchange *x, struct problems *p, struct question *q) {
    const struct place port = {.in = &place_path, .name = "port"};
    const struct place flag = {.in = &place_query, .name = "use_server_proxy"};
    const struct place expires = {.in = &place_query, .name = "expires"};
    struct url_pair *pairs = NULL;
    long count = url_query(x->arena, x->query, &pairs);
    const char *text = url_query_last(pairs, count > 0 ? count : 0, "use_server_proxy");
    if (!text_int(http_param(x, "port"), &q->port))
        problem_add(p, &port, "int_parsing",
                    "Input should be a valid integer, unable to parse string as an integer");
    if (text && !text_bool(text, &q->proxied))
        problem_add(p, &flag, "bool_parsing",
                    "Input should be a valid boolean, unable to interpret input");
    text = url_query_last(pairs, count > 0 ? count : 0, "expires");
    q->has_expires = text != NULL;
    if (text && !text_int(text, &q->expires))
        problem_add(p, &expires, "int_parsing",
                    "Input should be a valid integer, unable to parse string as an integer");
}

// host[:port] as RFC 3986 knows it: a name, IPv4 or [IPv6].
static bool is_authority(const char *text) {
    return *text &&
           !text[strspn(text,
                        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]%")];
}

// What comes before "/sandboxes/...": server.eip in place of host and mount, else the host that the
// client reached us by.
static const char *base_of(struct http_exchange *x) {
    const struct config *c = api_of(x)->config;
    const char *host = NULL;
    if (c->eip) {
        const char *eip = strstr(c->eip, "://") ? strstr(c->eip, "://") + 3 : c->eip;
        size_t len = strlen(eip);
        while (len && eip[len - 1] == '/')
            len--;
        return arena_strndup(x->arena, eip, len);
    }
    if (api_trusts_peer(x))
        host = http_header(x, "X-Forwarded-Host");
    if (!host || !is_authority(host))
        host = http_header(x, "Host");
    if (!host || !is_authority(host))
        host = arena_printf(x->arena, "%s:%lld", c->host, (long long)c->port);
    return arena_printf(x->arena, "%s%s", host ? host : "", x->mount);
}

static void reply_endpoint(struct http_exchange *x, const struct sandbox *sb, unsigned port) {
    char token[SANDBOX_TOKEN_SIZE];
    const char *base = base_of(x);
    const char *text =
        base ? arena_printf(x->arena, "%s/sandboxes/%s/proxy/%u", base, sb->id, port) : NULL;
    json_t *reply = json_object(), *headers = json_object();
    (void)json_object_set_new(reply, "endpoint", json_string(text));
    if (port == EXECD_PORT) {
        domain_token(api_of(x)->domain, "execd", sb->id, token);
        (void)json_object_set_new(headers, "X-EXECD-ACCESS-TOKEN", json_string(token));
    }
    if (port == EGRESS_PORT && sb->spec->network_policy) {
        domain_token(api_of(x)->domain, "egress", sb->id, token);
        (void)json_object_set_new(headers, "OPENSANDBOX-EGRESS-AUTH", json_string(token));
    }
    if (sb->spec->secure_access) {
        domain_token(api_of(x)->domain, "secure-access", sb->id, token);
        (void)json_object_set_new(headers, "OpenSandbox-Secure-Access", json_string(token));
    }
    if (json_object_size(headers))
        (void)json_object_set(reply, "headers", headers);
    json_decref(headers);
    http_reply_json(x, 200, reply);
}

// The endpoint and its token are known from the id on and never change (architecture.md section 6),
// so Pending answers too.
void handle_endpoint(struct http_exchange *x) {
    struct problems p = {0};
    struct question q = {0};
    read_question(x, &p, &q);
    if (problems_any(&p)) {
        problems_reply(x, &p);
        return;
    }
    if (q.has_expires && q.proxied) {
        api_refuse(x, ERR_INVALID_PARAMETER, "use_server_proxy and expires exclude each other");
        return;
    }
    if (q.has_expires) {
        api_refuse(x, ERR_API_NOT_SUPPORTED,
                   "expires: signed endpoints belong to the ingress gateway");
        return;
    }
    if (q.port < 1 || q.port > 65535) {
        api_refuse(x, ERR_R_INVALID_PORT, "port %lld: ports are 1 to 65535", (long long)q.port);
        return;
    }
    const struct sandbox *sb = api_sandbox(x);
    if (!sb)
        return;
    if (sb->state == SANDBOX_FAILED && sb->failure.kind)
        api_fail(x, &sb->failure);
    else
        reply_endpoint(x, sb, (unsigned)q.port);
}
