#include "egress/options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/encode.h"
#include "base/log.h"
#include "base/parse.h"

#define PREFIX "OPENSANDBOX_EGRESS_"

static const char *get(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static bool truthy(const char *name) {
    static const char *const words[] = {"1", "true", "yes", "y", "on"};
    const char *value = get(name);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (!strcasecmp(value, words[i]))
            return true;
    return false;
}

// Blank or unreadable: the default (as documented); beyond a bound: the bound.
static uint64_t number(const char *name, uint64_t fallback, uint64_t least, uint64_t most) {
    uint64_t value;
    if (parse_u64(get(name), 0, UINT64_MAX, &value) < 0 || value < least)
        return fallback;
    return value > most ? most : value;
}

// Cuts the next piece of a list with commas into `text`; false at the end.
static bool next_piece(const char **list, char *text, size_t size) {
    *list += strspn(*list, ", \t");
    size_t len = strcspn(*list, ",");
    if (!**list)
        return false;
    (void)snprintf(text, size, "%.*s", (int)len, *list);
    *list += len;
    for (len = strlen(text); len && strchr(" \t", text[len - 1]); len--)
        text[len - 1] = '\0';
    return true;
}

// A digest that is none would let nobody in, and be noticed late.
static int take_token(struct options *o, struct error *err) {
    uint8_t digest[SHA256_SIZE];
    o->token = get(PREFIX "TOKEN");
    o->token_sha256 = get(PREFIX "TOKEN_SHA256");
    if (*o->token_sha256 && (strspn(o->token_sha256, "0123456789abcdef") != 2 * sizeof digest ||
                             decode_hex(o->token_sha256, digest, sizeof digest) < 0))
        return error_set(err, EINVAL, PREFIX "TOKEN_SHA256 is 64 lower-case hex digits");
    return 0;
}

static int take_mode(struct options *o, struct error *err) {
    const char *mode = get(PREFIX "MODE");
    if (!*mode || !strcasecmp(mode, "dns+nft") || !strcasecmp(mode, "nft+dns"))
        o->nft = true;
    else if (strcasecmp(mode, "dns") != 0)
        return error_set(err, EINVAL, PREFIX "MODE is dns or dns+nft, not \"%.40s\"", mode);
    return 0;
}

static int take_address(struct options *o, struct error *err) {
    const char *text = get(PREFIX "HTTP_ADDR"), *colon;
    uint64_t value = OPTIONS_API_PORT;
    o->listen_fd = -1;
    text = *text ? text : ":18080";
    if (!strncmp(text, "fd:", 3)) {
        if (parse_u64(text + 3, 3, 1023, &value) < 0)
            return error_set(err, EINVAL, PREFIX "HTTP_ADDR: no descriptor: %s", text);
        o->listen_fd = (int)value;
        return 0;
    }
    colon = strrchr(text, ':');
    struct net n;
    if (!colon || parse_u64(colon + 1, 0, 65535, &value) < 0)
        return error_set(err, EINVAL, PREFIX "HTTP_ADDR is host:port, not \"%.60s\"", text);
    size_t len = (size_t)(colon - text);
    if (len > 1 && *text == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    (void)snprintf(o->host, sizeof o->host, "%.*s", (int)len, text);
    o->port = (unsigned)value;
    if (!*o->host) // all addresses: IPv4 ones too
        (void)snprintf(o->host, sizeof o->host, "0.0.0.0");
    else if (!strcmp(o->host, "localhost"))
        (void)snprintf(o->host, sizeof o->host, "127.0.0.1");
    if (net_parse(o->host, &n) < 0 || !net_is_address(&n))
        return error_set(err, EINVAL, PREFIX "HTTP_ADDR: no literal address: %s", o->host);
    bool loopback = n.size == 4 ? n.bytes[0] == 127 : !strcmp(o->host, "::1");
    if (!loopback && !*o->token && !*o->token_sha256)
        return error_set(err, EINVAL,
                         PREFIX "TOKEN is needed to listen on %s: anybody could open the sandbox",
                         o->host);
    return 0;
}

static int take_attributes(struct options *o, struct error *err) {
    const char *list = get(PREFIX "METRICS_EXTRA_ATTRS");
    char piece[256];
    o->attributes = json_object();
    if (!o->attributes)
        return error_set(err, ENOMEM, "out of memory");
    if (*o->sandbox_id)
        (void)json_object_set_new(o->attributes, "sandbox_id", json_string(o->sandbox_id));
    while (next_piece(&list, piece, sizeof piece)) {
        char *equals = strchr(piece, '=');
        if (!equals || equals == piece || !equals[1])
            continue;
        *equals = '\0'; // values that are no UTF-8 are dropped by jansson
        (void)json_object_set_new(o->attributes, piece, json_string(equals + 1));
    }
    return 0;
}

static int take_exempt(struct options *o, struct error *err) {
    const char *list = get(PREFIX "NAMESERVER_EXEMPT");
    char piece[80];
    while (next_piece(&list, piece, sizeof piece)) {
        struct net n;
        if (net_parse(piece, &n) < 0 || !net_is_address(&n))
            return error_set(err, EINVAL, PREFIX "NAMESERVER_EXEMPT: no address: %s", piece);
        if (o->exempt_count == OPTIONS_EXEMPT_MAX)
            return error_set(err, EINVAL, PREFIX "NAMESERVER_EXEMPT: more than %d",
                             OPTIONS_EXEMPT_MAX);
        o->exempt[o->exempt_count++] = n;
    }
    return 0;
}

static int take_doh(struct options *o, struct error *err) {
    const char *list = get(PREFIX "DOH_BLOCKLIST");
    char piece[80];
    o->block_doh = truthy(PREFIX "BLOCK_DOH_443");
    while (o->block_doh && next_piece(&list, piece, sizeof piece)) {
        struct net n;
        if (net_parse(piece, &n) < 0)
            log_warning(PREFIX "DOH_BLOCKLIST: neither address nor prefix: %s", piece);
        else if (netset_add(&o->doh[n.size == 16], &n) < 0)
            return error_set(err, ENOMEM, "out of memory");
    }
    netset_seal(&o->doh[0]);
    netset_seal(&o->doh[1]);
    return 0;
}

static int take_upstreams(struct options *o, struct error *err) {
    const char *probe = get(PREFIX "DNS_UPSTREAM_PROBE");
    size_t len = strlen(probe);
    o->time_out_ms = (int64_t)number(PREFIX "DNS_UPSTREAM_TIMEOUT", 5, 1, 120) * 1000;
    o->probe_every_ms =
        (int64_t)number(PREFIX "DNS_UPSTREAM_PROBE_INTERVAL_SEC", 30, 1, 3600) * 1000;
    if (len && probe[len - 1] == '.')
        len--;
    struct dns_query q;
    (void)snprintf(o->probe_name, sizeof o->probe_name, "%.*s", (int)len, probe);
    if (dns_make_query(&q, o->probe_name, DNS_A) < 0)
        return error_set(err, EINVAL, PREFIX "DNS_UPSTREAM_PROBE: no name: %.80s", probe);
    return forward_parse(o->upstreams, &o->upstream_count, get(PREFIX "DNS_UPSTREAM"),
                         OPTIONS_DNS_PORT, err) < 0
               ? error_wrap(err, PREFIX "DNS_UPSTREAM")
               : 0;
}

// One output: stdout, stderr or the path of a file. Nobody rotates it here.
static int take_log(struct options *o, struct error *err) {
    const char *output = get("OPENSANDBOX_LOG_OUTPUT");
    o->log_fd = strcmp(output, "stderr") ? 1 : 2;
    if (!*output || !strcmp(output, "stdout") || !strcmp(output, "stderr"))
        return 0;
    if (strchr(output, ','))
        return error_set(err, ENOTSUP, "OPENSANDBOX_LOG_OUTPUT: several outputs are not built");
    o->log_fd = open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    return o->log_fd < 0 ? error_errno(err, errno, "OPENSANDBOX_LOG_OUTPUT: %s", output) : 0;
}

// What is asked for and not built must not be forgotten silently.
static int check_unbuilt(struct error *err) {
    static const char *const names[] = {PREFIX "UPSTREAM_PROXY", PREFIX "MITMPROXY_SCRIPT"};
    if (truthy(PREFIX "MITMPROXY_TRANSPARENT"))
        return error_set(err, ENOTSUP, PREFIX "MITMPROXY_TRANSPARENT: interception is not built");
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (*get(names[i]))
            return error_set(err, ENOTSUP, "%s: not built", names[i]);
    if (*get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") || *get("OTEL_EXPORTER_OTLP_ENDPOINT"))
        log_warning("OTLP is not built: metrics are at /metrics only");
    if (!strncasecmp(get(PREFIX "DENY_WEBHOOK"), "https:", 6))
        return error_set(err, ENOTSUP, PREFIX "DENY_WEBHOOK: only http:// is built");
    return 0;
}

int options_read(struct options *o, struct error *err) {
    *o = (struct options){
        .rules = get(PREFIX "RULES"),
        .policy_file = get(PREFIX "POLICY_FILE"),
        .sandbox_id = get(PREFIX "SANDBOX_ID"),
        .webhook = get(PREFIX "DENY_WEBHOOK"),
        .resolv_conf = "/etc/resolv.conf",
        .rules_dir = "/var/egress/rules",
        .budget = {.names = number(PREFIX "BUDGET_NAMES", 2000, 0, UINT64_MAX),
                   .bytes = number(PREFIX "BUDGET_BYTES", 128 << 10, 0, UINT64_MAX),
                   .queries = number(PREFIX "BUDGET_QUERIES", 12000, 0, UINT64_MAX)},
    };
    uint64_t netfilter = number(PREFIX "NETFILTER", 0, 3, 1023); // of join.h
    o->netfilter_fd = netfilter ? (int)netfilter : -1;
    uint64_t rules_max = number(PREFIX "MAX_RULES", POLICY_RULES_MAX, 0, 1 << 20);
    o->rules_max = rules_max ? (size_t)rules_max : SIZE_MAX;
    if (check_unbuilt(err) < 0 || take_log(o, err) < 0 || take_mode(o, err) < 0 ||
        take_token(o, err) < 0 || take_address(o, err) < 0 || take_attributes(o, err) < 0 ||
        take_exempt(o, err) < 0 || take_doh(o, err) < 0)
        return -1;
    return take_upstreams(o, err);
}

int options_read_address(struct options *o, struct error *err) {
    *o = (struct options){0};
    return take_token(o, err) < 0 || take_address(o, err) < 0 ? -1 : 0;
}

void options_clear(struct options *o) {
    json_decref(o->attributes);
    netset_clear(&o->doh[0]);
    netset_clear(&o->doh[1]);
}
