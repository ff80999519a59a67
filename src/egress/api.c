// The HTTP API (egress.md section 3): the policy, why something was refused, health, metrics.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/log.h"
#include "base/parse.h"
#include "egress/egress.h"
#include "fmt/json.h"
#include "http/url.h"
#include "io/stream.h"

enum { ANSWER_MAX = 64 << 20, BACKLOG = 128, CONNECTIONS_MAX = 256, LOG_RULES_MAX = 100 };

// ---- replies ----

__attribute__((format(printf, 3, 4))) static void fail(struct http_exchange *x, unsigned status,
                                                       const char *format, ...) {
    char text[ERROR_MESSAGE_MAX + 64];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text - 1, format, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof text - 2 ? (size_t)n : sizeof text - 2;
    text[len++] = '\n';
    (void)http_reply_header(x, "X-Content-Type-Options", "nosniff");
    http_reply(x, status, "text/plain; charset=utf-8", text, len);
}

// Compact, '<', '>' and '&' escaped, a newline at the end: as clients have seen it so far.
static void reply_json(struct http_exchange *x, unsigned status, json_t *owned) {
    cleanup_json json_t *j = owned;
    cleanup_strbuf struct strbuf plain, out;
    strbuf_init(&plain, ANSWER_MAX);
    strbuf_init(&out, ANSWER_MAX);
    if (!j || json_write(j, &plain) < 0) {
        fail(x, 500, "internal error: out of memory");
        return;
    }
    for (const char *p = plain.data; *p;) {
        size_t len = strcspn(p, "<>&");
        (void)strbuf_add(&out, p, len);
        p += len;
        if (*p)
            (void)strbuf_addf(&out, "\\u%04x", (unsigned)*p++);
    }
    (void)strbuf_addc(&out, '\n');
    if (out.failed)
        fail(x, 500, "internal error: out of memory");
    else
        http_reply(x, status, "application/json", out.data, out.len);
}

// ---- policy ----

// What the owner should know about rules that do not do what they seem to.
static const char *reason(const struct egress *e) {
    bool any = false, shadowed = false;
    for (size_t i = 0; i < e->policy.count; i++) {
        const struct rule *r = &e->policy.rules[i];
        any |= r->kind == RULE_NET;
        shadowed |= r->kind == RULE_NET && r->allow &&
                    netset_meets(&e->index.nets[0][r->net.size == 16], &r->net);
    }
    if (any && !e->options.nft)
        return "address rules have no effect in mode dns";
    return shadowed ? "of address rules a deny beats an allow, in any order" : NULL;
}

static json_t *status_json(const struct egress *e, const char *why) {
    json_t *j = json_pack("{s:s,s:s,s:s}", "status", "ok", "mode", policy_mode(&e->policy),
                          "enforcementMode", e->options.nft ? "dns+nft" : "dns");
    why = why ? why : reason(e);
    if (j && why)
        (void)json_object_set_new(j, "reason", json_string(why));
    return j;
}

static void handle_get(struct http_exchange *x) {
    const struct egress *e = egress_of(x);
    json_t *j = status_json(e, NULL), *policy = policy_json(&e->policy);
    if (j && policy)
        (void)json_object_set_new(j, "policy", policy);
    reply_json(x, 200, j);
}

static bool over_limit(struct http_exchange *x, const struct policy *p) {
    const struct egress *e = egress_of(x);
    if (p->count <= e->options.rules_max)
        return false;
    fail(x, 413, "egress rule total count %zu exceeds limit %zu", p->count, e->options.rules_max);
    return true;
}

static void log_update(struct egress *e, const char *why, const struct policy *delta) {
    enum log_level level = why ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO;
    if (!log_enabled(level))
        return;
    json_t *fields =
        json_pack("{s:s}", "opensandbox.event", why ? "egress.update_failed" : "egress.updated");
    if (fields && why)
        (void)json_object_set_new(fields, "error", json_string(why));
    if (fields && delta && delta->count <= LOG_RULES_MAX)
        (void)json_object_set_new(fields, "rules", policy_rules_json(delta));
    else if (fields && delta)
        (void)json_object_set_new(fields, "rule_count", json_integer((json_int_t)delta->count));
    events_log(&e->events, level, "policy", fields);
}

// In force first, kept second; what cannot be kept is taken back. *p becomes the policy before.
// `delta`: for the log; NULL: all of it. False: answered.
static bool change(struct http_exchange *x, struct policy *p, const struct policy *delta) {
    struct egress *e = egress_of(x);
    struct error err, worse;
    const char *prefix = "failed to apply nftables policy: ";
    if (!egress_enforce(e, p, &err)) {
        if (!egress_save_policy(e, &e->policy, &err)) {
            log_update(e, NULL, delta ? delta : &e->policy);
            return true;
        }
        prefix = "failed to persist policy: ";
        if (egress_enforce(e, p, &worse) < 0)
            log_error("the policy before could not be restored: %s", worse.message);
    }
    log_update(e, err.message, delta ? delta : p);
    fail(x, 500, "%s%s", prefix, err.message);
    return false;
}

static bool is_blank(const struct http_exchange *x) {
    return !x->body[strspn(x->body, " \t\r\n")] && strlen(x->body) == x->body_len;
}

static void handle_replace(struct http_exchange *x) {
    struct egress *e = egress_of(x);
    struct policy p = {0};
    struct error err;
    if (policy_parse(&p, x->body, x->body_len, &err) < 0)
        fail(x, 400, "invalid policy: %s", err.message);
    else if (!over_limit(x, &p) && change(x, &p, NULL))
        reply_json(x, 200,
                   is_blank(x)
                       ? json_pack("{s:s,s:s,s:s}", "status", "ok", "mode", policy_mode(&e->policy),
                                   "reason", "policy reset to default deny-all")
                       : status_json(e, NULL));
    policy_clear(&p);
}

// The body as an array with at least one entry; else answered.
static json_t *take_array(struct http_exchange *x, const char *what) {
    struct error err;
    if (is_blank(x)) {
        fail(x, 400, "empty body");
        return NULL;
    }
    json_t *j = json_parse(x->body, x->body_len, NULL, &err);
    if (json_is_array(j) && json_array_size(j))
        return j;
    fail(x, 400, "invalid %s: %s", what,
         !j                 ? err.message
         : json_is_array(j) ? "empty array"
                            : "an array is expected");
    json_decref(j);
    return NULL;
}

static void handle_patch(struct http_exchange *x) {
    struct egress *e = egress_of(x);
    struct policy patch = {0}, merged = {0};
    struct error err;
    cleanup_json json_t *j = take_array(x, "patch rules");
    if (!j)
        return;
    if (policy_parse_rules(&patch, j, &err) < 0)
        fail(x, 400, "invalid patch rules: %s", err.message);
    else if (policy_merge(&merged, &patch, &e->policy, &err) < 0)
        fail(x, 500, "internal error: %s", err.message);
    else if (!over_limit(x, &merged) && change(x, &merged, &patch))
        reply_json(x, 200, status_json(e, NULL));
    policy_clear(&merged);
    policy_clear(&patch);
}

static void handle_remove(struct http_exchange *x) {
    struct egress *e = egress_of(x);
    struct policy rest = {0};
    struct error err;
    cleanup_json json_t *j = take_array(x, "delete targets");
    if (!j)
        return;
    if (policy_without(&rest, &e->policy, j, &err) < 0)
        fail(x, err.kind == ENOMEM ? 500 : 400, "invalid delete targets: %s", err.message);
    else if (rest.count == e->policy.count)
        reply_json(x, 200, status_json(e, "no matching targets found"));
    else if (change(x, &rest, NULL))
        reply_json(x, 200, status_json(e, NULL));
    policy_clear(&rest);
}

// ---- why ----

static const char *query(struct http_exchange *x, const char *name) {
    struct url_pair *pairs;
    long n = url_query(x->arena, x->query, &pairs);
    return n > 0 ? url_query_last(pairs, n, name) : NULL;
}

static void handle_explain(struct http_exchange *x) {
    const struct egress *e = egress_of(x);
    const char *asked = query(x, "target");
    char target[POLICY_TARGET_MAX + 1];
    enum rule_kind kind;
    struct net net;
    struct error err;
    if (!asked || policy_target(asked, target, &kind, &net, &err) < 0) {
        fail(x, 400, "invalid target: %s", asked ? err.message : "a name or an address is needed");
        return;
    }
    if (kind == RULE_WILDCARD || (kind == RULE_NET && !net_is_address(&net))) {
        fail(x, 400, "invalid target: one name or one address, no pattern");
        return;
    }
    bool learned = kind == RULE_NET && learned_has(&e->learned, &net);
    struct verdict v =
        kind == RULE_NET ? index_address(&e->index, &net) : index_name(&e->index, target);
    bool inert = kind == RULE_NET && !e->options.nft;
    bool allow = inert || v.allow || (learned && !v.rule);
    json_t *j = json_pack("{s:s,s:s,s:s,s:s}", "target", target, "kind",
                          kind == RULE_NET ? "address" : "name", "verdict",
                          allow ? "allow" : "deny", "by", index_source_name(v.source));
    if (j && v.rule)
        (void)json_object_set_new(j, "rule",
                                  json_pack("{s:s,s:s,s:I}", "action",
                                            v.rule->allow ? "allow" : "deny", "target",
                                            v.rule->target, "index", (json_int_t)v.position));
    const char *why = inert ? "mode dns does not look at addresses"
                      : learned && !v.rule
                          ? "an allowed name led to this address; it stays reachable for a while"
                      : !v.rule          ? "no rule names it: the default decides"
                      : kind == RULE_NET ? "of address rules a deny beats an allow, in any order"
                                         : "the first rule that matches decides";
    if (j)
        (void)json_object_set_new(j, "reason", json_string(why));
    reply_json(x, 200, j);
}

static void handle_events(struct http_exchange *x) {
    const char *text = query(x, "since");
    uint64_t since = 0;
    if (text && parse_u64(text, 0, UINT64_MAX, &since) < 0)
        fail(x, 400, "invalid since: a number is needed");
    else
        reply_json(x, 200, events_json(&egress_of(x)->events, since));
}

// ---- health, metrics, what is not built ----

static void handle_health(struct http_exchange *x) {
    struct egress *e = egress_of(x);
    if (!firewall_is_intact(&e->firewall) || e->stale)
        http_reply(x, 503, "text/plain; charset=utf-8", "packet filter not ready\n", 24);
    else if (!proxy_is_listening(e))
        http_reply(x, 503, "text/plain; charset=utf-8", "resolver not ready\n", 19);
    else
        http_reply(x, 200, "text/plain; charset=utf-8", "ok", 2);
}

static void handle_metrics(struct http_exchange *x) {
    struct egress *e = egress_of(x);
    uint64_t deny = 0, dropped = 0, forged = 0;
    if (e->options.nft) {
        (void)nft_counter(&e->firewall.nft, "dropped_deny", &deny);
        (void)nft_counter(&e->firewall.nft, "dropped_default", &dropped);
    }
    (void)nft_counter(&e->firewall.nft, "forged", &forged);
    const struct {
        const char *name, *type;
        uint64_t value;
    } rows[] = {
        {"egress_dns_answered_total", "counter", e->proxy.answered},
        {"egress_policy_denied_total", "counter", e->proxy.denied},
        {"egress_dns_failed_total", "counter", e->proxy.failed},
        {"egress_dns_truncated_total", "counter", e->proxy.truncated},
        {"egress_dns_rebinding_total", "counter", e->proxy.rebinding},
        {"egress_dns_budget_refused_total", "counter", e->proxy.budget.refused},
        {"egress_dns_cache_hits_total", "counter", e->proxy.cache.hits},
        {"egress_dns_cache_misses_total", "counter", e->proxy.cache.misses},
        {"egress_dns_cache_entries", "gauge", e->proxy.cache.count},
        {"egress_dns_in_flight", "gauge", e->forwarder.flights},
        {"egress_learned_addresses", "gauge", e->learned.count},
        {"egress_learned_total", "counter", e->learned.admitted},
        {"egress_learned_evicted_total", "counter", e->learned.evicted},
        {"egress_nftables_loads_total", "counter", e->firewall.loads},
        {"egress_nftables_updates_total", "counter", e->firewall.batches},
        {"egress_nftables_failures_total", "counter", e->firewall.failures},
        {"egress_packets_denied_total", "counter", deny},
        {"egress_packets_refused_total", "counter", dropped},
        {"egress_packets_forged_total", "counter", forged},
        {"egress_policy_rules", "gauge", e->policy.count},
        {"egress_policy_changes_total", "counter", e->changes},
        {"egress_log_lines_dropped", "gauge", e->events.dropped},
        {"egress_webhook_sent_total", "counter", e->webhook.sent},
        {"egress_webhook_dropped_total", "counter", e->webhook.dropped + e->webhook.failed},
    };
    cleanup_strbuf struct strbuf out;
    strbuf_init(&out, 64 * 1024);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        (void)strbuf_addf(&out, "# TYPE %s %s\n%s %llu\n", rows[i].name, rows[i].type, rows[i].name,
                          (unsigned long long)rows[i].value);
    for (unsigned i = 0; i < e->forwarder.count; i++) {
        char text[NET_TEXT_MAX];
        const struct upstream *u = &e->forwarder.upstreams[i];
        net_format(&u->address, text);
        (void)strbuf_addf(&out, "egress_upstream_healthy{server=\"%s:%u\"} %d\n", text, u->port,
                          !u->sick);
    }
    http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
}

static void handle_vault(struct http_exchange *x) {
    fail(x, 501, "the credential vault is not built");
}

static void handle_vault_active(struct http_exchange *x) {
    fail(x, 403, "forbidden");
}

#define BUFFERED HTTP_BODY_BUFFERED
static const struct http_route routes[] = {
    {"*", "/healthz", handle_health, BUFFERED, HTTP_ROUTE_OPEN, ""},
    {"GET", "/policy", handle_get, BUFFERED, 0, ""},
    {"POST", "/policy", handle_replace, BUFFERED, 0, ""},
    {"PUT", "/policy", handle_replace, BUFFERED, 0, ""},
    {"PATCH", "/policy", handle_patch, BUFFERED, 0, ""},
    {"DELETE", "/policy", handle_remove, BUFFERED, 0, ""},
    {"GET", "/policy/explain", handle_explain, BUFFERED, 0, ""},
    {"GET", "/events", handle_events, BUFFERED, 0, ""},
    {"GET", "/metrics", handle_metrics, BUFFERED, 0, ""},
    {"GET", "/credential-vault/_active", handle_vault_active, BUFFERED, HTTP_ROUTE_OPEN, ""},
    {"*", "/credential-vault", handle_vault, BUFFERED, 0, ""},
    {"*", "/credential-vault/*", handle_vault, BUFFERED, 0, ""},
};

static void no_route(struct http_exchange *x, const char *allowed) {
    if (allowed)
        (void)http_reply_header(x, "Allow", allowed);
    fail(x, allowed ? 405 : 404, "%s", allowed ? "method not allowed" : "404 page not found");
}

static bool equal(const char *given, const char *wanted) {
    size_t len = strlen(wanted);
    return strlen(given) == len && constant_time_equal(given, wanted, len);
}

static bool check_token(struct http_exchange *x) {
    const struct options *o = &egress_of(x)->options;
    const char *given = http_header(x, "OPENSANDBOX-EGRESS-AUTH");
    char digest[SHA256_HEX_SIZE];
    if ((!*o->token && !*o->token_sha256) || !x->route || x->route->flags & HTTP_ROUTE_OPEN)
        return false;
    if (given && *o->token_sha256) {
        sha256_hex(given, strlen(given), digest);
        if (equal(digest, o->token_sha256))
            return false;
    } else if (given && equal(given, o->token)) {
        return false;
    }
    fail(x, 401, "unauthorized");
    return true;
}

int api_hold(struct error *err) {
    struct options o;
    char text[16];
    if (options_read_address(&o, err) < 0)
        return -1;
    if (o.listen_fd >= 0)
        return 0; // we were given one
    int fd = listen_tcp(o.host, o.port, BACKLOG, err);
    if (fd < 0)
        return -1;
    (void)snprintf(text, sizeof text, "fd:%d", fd);
    return setenv("OPENSANDBOX_EGRESS_HTTP_ADDR", text, 1) < 0
               ? error_errno(err, errno, "OPENSANDBOX_EGRESS_HTTP_ADDR")
               : 0;
}

int api_start(struct egress *e, struct error *err) {
    struct http_server_settings s;
    http_server_defaults(&s);
    s.routes = routes;
    s.route_count = ARRAY_SIZE(routes);
    s.user = e;
    s.default_code = "EGRESS";
    s.before = check_token;
    s.no_route = no_route;
    s.body_max = POLICY_BODY_MAX;
    s.connections_max = CONNECTIONS_MAX;
    e->http = http_server_new(&e->loop, &s, err);
    if (!e->http)
        return -1;
    int fd = e->options.listen_fd;
    if (fd < 0)
        fd = listen_tcp(e->options.host, e->options.port, BACKLOG, err);
    return fd < 0 ? -1 : http_server_listen(e->http, fd, err);
}
