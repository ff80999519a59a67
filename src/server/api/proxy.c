#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/parse.h"
#include "http/proxy.h"
#include "http/url.h"
#include "server/api/api.h"
#include "server/api/handlers.h"
#include "server/sandbox/renew/renew.h"

enum {
    UPSTREAMS_MAX = 64, // ports of a sandbox that are in use at the same time
    UPSTREAM_WAITING_MAX = 1024,
    UPSTREAM_IDLE_MAX = 16,
    UPSTREAM_IDLE_MS = 30000
};
enum { CONNECT_MS = 10000, FIRST_BYTE_MS = 180000 };
enum { FIELDS_ADDED_MAX = 4 };

#define EXECD_TOKEN "X-EXECD-ACCESS-TOKEN"

// ---- connections of one sandbox ----

struct reach { // sandbox.upstreams
    struct http_upstreams *ports;
    struct api *api;
    char id[SANDBOX_ID_SIZE];
};

static void dialled(int fd, const struct error *err, void *arg) {
    http_dial_done(arg, fd, err);
}

static void dial(struct http_dial *d, void *arg) {
    const struct reach *r = arg;
    lifecycle_dial(r->api->domain, r->id, http_dial_port(d), dialled, d);
}

void api_release(struct sandbox *sb, void *api) {
    struct reach *r = sb->upstreams;
    (void)api;
    if (!r)
        return;
    sb->upstreams = NULL;
    http_upstreams_free(r->ports); // dials no more: r may go
    r->api->upstreams--;
    free(r);
}

static struct reach *reach_of(struct http_exchange *x, struct sandbox *sb) {
    struct api *a = api_of(x);
    struct reach *r = sb->upstreams;
    if (r)
        return r;
    r = calloc(1, sizeof *r);
    const struct http_upstream_settings s = {.dial = dial,
                                             .arg = r,
                                             .connections_max =
                                                 (unsigned)a->config->upstream_per_sandbox,
                                             .waiting_max = UPSTREAM_WAITING_MAX,
                                             .idle_ms = UPSTREAM_IDLE_MS,
                                             .idle_max = UPSTREAM_IDLE_MAX};
    if (!r || !(r->ports = http_upstreams_new(x->loop, &s, UPSTREAMS_MAX))) {
        free(r);
        return NULL;
    }
    r->api = a;
    memcpy(r->id, sb->id, sizeof r->id);
    sb->upstreams = r;
    a->upstreams++;
    return r;
}

// ---- which fields pass ----

struct passage { // lives in the exchange's arena
    const struct api *api;
    unsigned port;
    bool trusted;
    bool own_origin; // the request came to the sandbox's own host name
};

static bool is_one_of(const char *name, const char *const *names) {
    for (; *names; names++)
        if (strcasecmp(name, *names) == 0)
            return true;
    return false;
}

// A scheme before it ("Bearer") does not make a key less of a key.
static bool holds_key(const struct api *a, const struct http_field *f) {
    const char *last = strrchr(f->value, ' ');
    return api_is_key(a, f->value, f->value_len) ||
           (last && api_is_key(a, last + 1, strlen(last + 1)));
}

static bool drop_request(const struct http_field *f, void *arg) {
    // Rebuilt by us, so that no client can name its own address.
    static const char *const rebuilt[] = {"X-Forwarded-For", "X-Forwarded-Host",
                                          "X-Forwarded-Proto", NULL};
    static const char *const claims[] = {"Forwarded", "X-Real-IP", NULL};
    static const char *const ours[] = {"OPEN-SANDBOX-API-KEY", "OpenSandbox-Secure-Access",
                                       "OpenSandbox-Access-Renew", NULL};
    const struct passage *p = arg;
    if (is_one_of(f->name, rebuilt) || is_one_of(f->name, ours))
        return true;
    if (!p->trusted &&
        (is_one_of(f->name, claims) || strncasecmp(f->name, "X-Forwarded-", 12) == 0))
        return true;
    if (p->port != EXECD_PORT && strcasecmp(f->name, EXECD_TOKEN) == 0)
        return true;
    return holds_key(p->api, f);
}

// All path-form pages share our origin: none may speak for it.
static bool drop_response(const struct http_field *f, void *arg) {
    static const char *const shared[] = {"Service-Worker-Allowed", "Clear-Site-Data",
                                         "Strict-Transport-Security", NULL};
    const struct passage *p = arg;
    return strcasecmp(f->name, "X-Request-ID") == 0 ||
           (!p->own_origin && is_one_of(f->name, shared));
}

// What trusted proxies before us said, and who speaks to us.
static const char *forwarded_for(struct http_exchange *x, bool trusted) {
    const struct http_headers *h = &x->request->headers;
    const char *chain = "";
    for (size_t i = 0; chain && trusted && i < h->count; i++)
        if (strcasecmp(h->fields[i].name, "X-Forwarded-For") == 0)
            chain = arena_printf(x->arena, "%s%s%s", chain, *chain ? ", " : "", h->fields[i].value);
    if (!chain || !*x->peer)
        return chain;
    return arena_printf(x->arena, "%s%s%s", chain, *chain ? ", " : "", x->peer);
}

static size_t forwarded_fields(struct http_exchange *x, bool trusted,
                               struct http_field add[FIELDS_ADDED_MAX]) {
    const char *chain = forwarded_for(x, trusted);
    const char *host = trusted ? http_header(x, "X-Forwarded-Host") : NULL;
    const char *proto = trusted ? http_header(x, "X-Forwarded-Proto") : NULL;
    size_t n = 0;
    if (!host)
        host = http_header(x, "Host");
    if (chain && *chain)
        add[n++] = (struct http_field){.name = "X-Forwarded-For", .value = chain};
    if (host)
        add[n++] = (struct http_field){.name = "X-Forwarded-Host", .value = host};
    add[n++] = (struct http_field){.name = "X-Forwarded-Proto", .value = proto ? proto : "http"};
    for (size_t i = 0; i < n; i++) {
        add[i].name_len = strlen(add[i].name);
        add[i].value_len = strlen(add[i].value);
    }
    return n;
}

// ---- the walk ----

struct call { // lives in the exchange's arena while held
    struct http_exchange *x;
    unsigned port;
    struct hold *hold;
};

static bool token_matches(struct http_exchange *x, const struct sandbox *sb, const char *purpose,
                          const char *field) {
    char token[SANDBOX_TOKEN_SIZE];
    const char *given = http_header(x, field);
    domain_token(api_of(x)->domain, purpose, sb->id, token);
    return given && strlen(given) == strlen(token) &&
           constant_time_equal(given, token, strlen(token));
}

static bool is_ping(const struct http_exchange *x, unsigned port) {
    return port == EXECD_PORT && strcmp(x->request->method, "GET") == 0 &&
           strcmp(x->rest, "/ping") == 0;
}

// A ping without token is no access, and `OpenSandbox-Access-Renew: skip` (compat-1.1.1.md L27) is
// for whoever looks without using.
static void count_access(struct http_exchange *x, struct sandbox *sb, unsigned port) {
    const char *wish = http_header(x, "OpenSandbox-Access-Renew");
    if ((wish && strcasecmp(wish, "skip") == 0) ||
        (is_ping(x, port) && !token_matches(x, sb, "execd", EXECD_TOKEN)))
        return;
    renew_access(api_of(x)->domain, sb, "server_proxy");
}

// Where a service is found: at its own port, or behind execd, which asks for its own token.
struct way {
    unsigned port;
    const char *target;
    struct http_field add[FIELDS_ADDED_MAX];
    size_t add_count;
};

static int find_way(struct http_exchange *x, const struct sandbox *sb, unsigned port, bool trusted,
                    struct way *ret) {
    const struct domain *d = api_of(x)->domain;
    bool relay = port != EXECD_PORT && port != EGRESS_PORT && lifecycle_relays(d, sb, port);
    const char *behind = relay ? arena_printf(x->arena, "/proxy/%u", port) : "";
    ret->port = relay ? EXECD_PORT : port;
    ret->target = arena_printf(x->arena, "%s%s%s%s", behind ? behind : "", *x->rest ? x->rest : "/",
                               strchr(x->request->target, '?') ? "?" : "", x->query);
    ret->add_count = forwarded_fields(x, trusted, ret->add);
    if (!relay)
        return ret->target ? 0 : -1;
    char *token = arena_alloc(x->arena, SANDBOX_TOKEN_SIZE);
    if (!token || !behind || !ret->target)
        return -1;
    domain_token(d, "execd", sb->id, token);
    ret->add[ret->add_count++] = (struct http_field){.name = EXECD_TOKEN,
                                                     .value = token,
                                                     .name_len = strlen(EXECD_TOKEN),
                                                     .value_len = strlen(token)};
    return 0;
}

static void forward(struct http_exchange *x, struct sandbox *sb, unsigned port) {
    struct way way;
    struct passage *p = arena_alloc(x->arena, sizeof *p);
    struct reach *r = reach_of(x, sb);
    // The path before the rest: where the sandbox's root is for the client.
    const char *prefix = arena_strndup(x->arena, x->path, strlen(x->path) - strlen(x->rest));
    bool trusted = api_trusts_peer(x);
    if (!p || !r || !prefix || find_way(x, sb, port, trusted, &way)) {
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
        return;
    }
    struct http_upstream *u = http_upstreams_at(r->ports, way.port);
    if (!u) {
        api_refuse(x, ERR_OVERLOADED, "%d ports of this sandbox are in use already", UPSTREAMS_MAX);
        return;
    }
    *p = (struct passage){
        .api = api_of(x), .port = port, .trusted = trusted, .own_origin = x->route == &proxy_route};
    const struct http_proxy_policy policy = {
        .target = way.target,
        .drop_request = drop_request,
        .drop_response = drop_response,
        .arg = p,
        .add = way.add,
        .add_count = way.add_count,
        .cookie_path = prefix,
        .location_prefix = prefix,
        .connect_ms = CONNECT_MS,
        .first_byte_ms = FIRST_BYTE_MS,
        .code_connect = error_code(ERR_BACKEND_CONNECTION_FAILED),
        .code_response = error_code(ERR_BACKEND_RESPONSE_FAILED),
        .code_time_out = error_code(ERR_BACKEND_TIMEOUT),
        .code_busy = error_code(ERR_OVERLOADED),
    };
    count_access(x, sb, port);
    http_proxy_run(x, u, &policy);
}

static void refuse_state(struct http_exchange *x, const struct sandbox *sb) {
    switch (sb->state) {
    case SANDBOX_PENDING:
        api_refuse(x, ERR_PENDING, "sandbox %s is still being created", sb->id);
        return;
    case SANDBOX_PAUSING:
    case SANDBOX_PAUSED:
    case SANDBOX_RESUMING:
        api_refuse(x, ERR_PAUSED, "sandbox %s is paused; resume it first", sb->id);
        return;
    case SANDBOX_RUNNING:
    case SANDBOX_STOPPING:
    case SANDBOX_TERMINATED:
    case SANDBOX_FAILED:
    case SANDBOX_STATE_COUNT: break;
    }
    api_refuse(x, ERR_NOT_RUNNING, "sandbox %s has ended (%s)", sb->id,
               sandbox_state_name(sb->state));
}

static void held(const struct sandbox *sb, void *arg) {
    struct call *c = arg;
    struct http_exchange *x = c->x;
    c->hold = NULL;
    x->on_gone = NULL;
    struct sandbox *now = api_sandbox(x); // answers 404 when it is gone
    if (!now)
        return;
    if (now->state == SANDBOX_RUNNING)
        forward(x, now, c->port);
    else
        refuse_state(x, now);
}

static void held_gone(struct http_exchange *x) {
    struct call *c = x->user;
    if (c->hold)
        lifecycle_hold_cancel(c->hold);
    http_reply_empty(x, 499);
}

static void hold(struct http_exchange *x, const struct sandbox *sb, unsigned port) {
    struct call *c = arena_alloc(x->arena, sizeof *c);
    if (!c) {
        api_refuse(x, ERR_INTERNAL_ERROR, "out of memory");
        return;
    }
    *c = (struct call){.x = x, .port = port};
    x->user = c;
    x->on_gone = held_gone;
    struct hold *h = lifecycle_hold(api_of(x)->domain, sb->id, held, c);
    if (h) // else held() was called, and the arena may be gone
        c->hold = h;
}

// Ends the exchange and returns false when a token is missing.
static bool authorised(struct http_exchange *x, const struct sandbox *sb, unsigned port) {
    if (is_ping(x, port)) // says nothing but alive; clients take a 401 from it for final
        return true;
    if (sb->spec->secure_access &&
        !token_matches(x, sb, "secure-access", "OpenSandbox-Secure-Access")) {
        api_refuse(x, ERR_SECURE_ACCESS,
                   "this sandbox demands the OpenSandbox-Secure-Access header of its endpoint");
        return false;
    }
    if (port == EXECD_PORT && !token_matches(x, sb, "execd", EXECD_TOKEN)) {
        api_refuse(x, ERR_EXECD_TOKEN,
                   "port %d demands the X-EXECD-ACCESS-TOKEN header of its endpoint", EXECD_PORT);
        return false;
    }
    return true;
}

void handle_proxy(struct http_exchange *x) {
    uint64_t port = 0;
    const char *text = http_param(x, "port");
    if (parse_u64(text ? text : "", 1, 65535, &port) < 0) {
        api_refuse(x, ERR_R_INVALID_PORT, "port %.20s: ports are 1 to 65535", text ? text : "");
        return;
    }
    if (url_has_dot_segment(x->path)) {
        api_refuse(x, ERR_INVALID_PARAMETER, "the path holds a dot segment");
        return;
    }
    struct sandbox *sb = api_sandbox(x);
    if (!sb || !authorised(x, sb, (unsigned)port))
        return;
    if (port == EGRESS_PORT && !sb->spec->network_policy)
        api_refuse(x, ERR_BACKEND_CONNECTION_FAILED,
                   "sandbox %s was created without networkPolicy: it has no egress", sb->id);
    else if (sb->state == SANDBOX_RUNNING)
        forward(x, sb, (unsigned)port);
    else if (sb->state == SANDBOX_PENDING)
        hold(x, sb, (unsigned)port);
    else
        refuse_state(x, sb);
}
