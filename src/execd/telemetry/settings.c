#include "execd/telemetry/settings.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/utf8.h"
#include "http/url.h"

enum {
    TEXTS_MAX = 512 * 1024,
    HEADERS_MAX = 8 * 1024,
    URL_MAX = 4 * 1024,
    HOSTINFO_MAX = 4096,
    KEY_MAX = 128,
    VALUE_MAX = 1024,
    DAY_MS = 24 * 3600 * 1000,
    INTERVAL_MS = 60 * 1000,
    TIME_OUT_MS = 30 * 1000
};

// An empty variable is none (OpenTelemetry, "Parsing empty value").
static const char *value_of(char *(*get)(const char *name), const char *name) {
    const char *value = get(name);
    return value && *value ? value : NULL;
}

static const char *either(char *(*get)(const char *name), const char *first, const char *second) {
    const char *value = value_of(get, first);
    return value ? value : value_of(get, second);
}

static int64_t number(char *(*get)(const char *name), const char *name, uint64_t min,
                      int64_t otherwise) {
    const char *text = value_of(get, name);
    uint64_t n;
    if (!text)
        return otherwise;
    if (!parse_u64(text, min, DAY_MS, &n))
        return (int64_t)n;
    log_warning("telemetry: %s must be a number of milliseconds from %llu to %d; %lld is taken",
                name, (unsigned long long)min, DAY_MS, (long long)otherwise);
    return otherwise;
}

// ---- the endpoint ----

static int take_host(struct telemetry_settings *s, const char *host, size_t len,
                     struct error *err) {
    char text[NET_TEXT_MAX];
    if (len == 9 && !strncasecmp(host, "localhost", len)) { // RFC 6761 6.3: needs no looking up
        host = "127.0.0.1";
        len = strlen(host);
    }
    (void)snprintf(text, sizeof text, "%.*s", (int)len, host);
    if (len < sizeof text && !net_parse(text, &s->address))
        return 0;
    return error_set(err, ENOTSUP,
                     "not supported: name in endpoint. Nothing here looks names up; "
                     "write the collector's IP address");
}

// "host", "host:port", "[v6]" or "[v6]:port".
static int take_authority(struct telemetry_settings *s, const char *text, size_t len,
                          struct error *err) {
    uint64_t port = 80;
    bool bracket = len && *text == '[';
    const char *host = text + bracket, *end = memchr(text, bracket ? ']' : ':', len);
    size_t host_len = end ? (size_t)(end - host) : len, rest = len - bracket - host_len;
    if (bracket && end) {
        end++;
        rest--;
    }
    if ((bracket && !end) || memchr(text, '@', len) || !host_len)
        return error_set(err, EINVAL, "the endpoint must be http://ADDRESS[:PORT][/PATH]");
    if (rest && (*end != ':' || parse_u64n(end + 1, rest - 1, 1, 65535, &port) < 0))
        return error_set(err, EINVAL, "the endpoint's port must be a number from 1 to 65535");
    s->port = (unsigned)port;
    s->authority = arena_strndup(&s->arena, text, len);
    if (!s->authority)
        return error_errno(err, ENOMEM, "endpoint");
    return take_host(s, host, host_len, err);
}

// below: what is put behind the path, "" for an endpoint that is used as it is.
static int take_endpoint(struct telemetry_settings *s, const char *url, const char *below,
                         struct error *err) {
    if (!strncasecmp(url, "https://", 8))
        return error_set(err, ENOTSUP, "not supported: https:// endpoint. Use http://");
    if (strncasecmp(url, "http://", 7) != 0)
        return error_set(err, EINVAL, "the endpoint must begin with http://");
    if (strlen(url) > URL_MAX)
        return error_set(err, EINVAL, "the endpoint is longer than %d bytes", URL_MAX);
    for (const char *p = url; *p; p++)
        if (*p <= ' ' || *p > '~' || *p == '#')
            return error_set(err, EINVAL, "the endpoint holds a character that no URL may hold");
    url += 7;
    size_t len = strcspn(url, "/?");
    const char *path = url + len;
    size_t path_len = strcspn(path, "?");
    while (*below && path_len && path[path_len - 1] == '/')
        path_len--;
    s->target = arena_printf(&s->arena, "%s%.*s%s%s", path_len || *below ? "" : "/", (int)path_len,
                             path, below, path + strcspn(path, "?"));
    if (!s->target)
        return error_errno(err, ENOMEM, "endpoint");
    return take_authority(s, url, len, err);
}

// An address alone, without prefix or port, on the port of OTLP.
static bool take_address(struct telemetry_settings *s, const char *text, size_t len) {
    struct error ignored; // what is no address asks for nothing
    struct net n;
    char address[NET_TEXT_MAX], url[NET_TEXT_MAX + 32];
    if (!len || len >= sizeof address || memchr(text, '/', len))
        return false;
    (void)snprintf(address, sizeof address, "%.*s", (int)len, text);
    if (net_parse(address, &n) < 0)
        return false;
    (void)snprintf(url, sizeof url, n.size == 16 ? "http://[%s]:%d" : "http://%s:%d", address,
                   TELEMETRY_PORT);
    return take_endpoint(s, url, "/v1/metrics", &ignored) == 0;
}

static bool take_hostinfo(struct telemetry_settings *s, const char *path) {
    char text[HOSTINFO_MAX + 1];
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, HOSTINFO_MAX);
    text[n > 0 ? n : 0] = '\0';
    for (const char *line = text; *line;) {
        line += strspn(line, " \t\r\n");
        size_t len = strcspn(line, "\r\n");
        const char *next = line + len;
        while (len && isblank((unsigned char)line[len - 1]))
            len--;
        if (take_address(s, line, len))
            return true;
        line = next;
    }
    return false;
}

// As telemetry_settings_read().
static int find_endpoint(struct telemetry_settings *s, char *(*get)(const char *name),
                         const char *hostinfo, struct error *err) {
    static const struct {
        const char *name, *below;
    } variables[] = {{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", ""},
                     {"OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/metrics"}};
    for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
        const char *url = value_of(get, variables[i].name);
        if (url)
            return take_endpoint(s, url, variables[i].below, err) < 0
                       ? error_wrap(err, "%s", variables[i].name)
                       : 1;
    }
    const char *ip = value_of(get, "HOST_IP");
    return (ip && take_address(s, ip, strlen(ip))) || take_hostinfo(s, hostinfo);
}

static int check_protocol(char *(*get)(const char *name), struct error *err) {
    const char *p =
        either(get, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
    if (!p || !strcmp(p, "http/json"))
        return 0;
    if (strcmp(p, "http/protobuf") != 0)
        return error_set(err, ENOTSUP, "not supported: OTLP protocol %.16s. Use http/json", p);
    log_info("telemetry: http/json is spoken instead of http/protobuf, on the same port and path");
    return 0;
}

// ---- lists: k=v,k2=v2 ----

// NULL: taken; else why not.
typedef const char *pair_fn(struct telemetry_settings *s, const char *key, const char *value);

static void trim(const char **text, size_t *len) {
    for (; *len && isblank((unsigned char)**text); (*text)++)
        --*len;
    while (*len && isblank((unsigned char)(*text)[*len - 1]))
        --*len;
}

static const char *take_pair(struct telemetry_settings *s, const char *item, size_t len,
                             pair_fn *take) {
    const char *equals = memchr(item, '=', len);
    const char *key = item, *value = equals ? equals + 1 : NULL;
    if (!equals)
        return "it has no '='";
    size_t key_len = (size_t)(equals - item), value_len = len - key_len - 1;
    trim(&key, &key_len);
    trim(&value, &value_len);
    key = arena_strndup(&s->arena, key, key_len);
    value = arena_strndup(&s->arena, value, value_len);
    return key && value ? take(s, key, value) : "there is no memory for it";
}

static void each_pair(struct telemetry_settings *s, const char *name, const char *list,
                      pair_fn *take) {
    unsigned position = 0;
    while (list && *list) {
        size_t len = strcspn(list, ",");
        const char *item = list, *why;
        position++;
        list += len + (list[len] == ',');
        trim(&item, &len);
        if (len && (why = take_pair(s, item, len, take)))
            log_warning("telemetry: entry %u of %s is left out: %s", position, name, why);
    }
}

static bool only(const char *text, const char *others) {
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr(others, *text))
            return false;
    return true;
}

static bool has_control(const char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            return true;
    return false;
}

static const char *add_attribute(struct telemetry_settings *s, const char *key, const char *value) {
    if (!*key || strlen(key) > KEY_MAX || !only(key, "_.-/"))
        return "a key has 1 to 128 letters, digits, '_', '.', '-' or '/'";
    if (strlen(value) > VALUE_MAX || !utf8_valid(value, strlen(value)) || has_control(value))
        return "a value has at most 1024 bytes of UTF-8 and no control character";
    for (unsigned i = 0; i < s->attribute_count; i++)
        if (!strcmp(s->attributes[i].key, key))
            return "its key is there already";
    if (s->attribute_count == TELEMETRY_ATTRIBUTES_MAX)
        return "there are 64 attributes already";
    s->attributes[s->attribute_count++] = (struct telemetry_attribute){key, value};
    return NULL;
}

// Values are percent-encoded (OpenTelemetry, OTLP exporter).
static const char *add_header(struct telemetry_settings *s, const char *name, const char *value) {
    static const char *const ours[] = {
        "Host",       "Content-Type",     "Content-Length", "User-Agent", "Transfer-Encoding",
        "Connection", "Content-Encoding", "Expect"};
    size_t len;
    const char *plain = url_decode(&s->arena, value, strlen(value), false, &len);
    if (!*name || !only(name, "!#$%&'*+-.^_`|~"))
        return "its name is no name of a header field";
    if (!plain || has_control(plain))
        return "its value holds a control character";
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
        if (!strcasecmp(name, ours[i]))
            return "this field is ours";
    if (!strbuf_addf(&s->headers, "%s: %s\r\n", name, plain))
        return NULL;
    s->headers.failed = false; // shorter ones may fit
    return "all of them are longer than 8 KiB";
}

static void read_lists(struct telemetry_settings *s, char *(*get)(const char *name)) {
    static const char *const headers[] = {"OTEL_EXPORTER_OTLP_METRICS_HEADERS",
                                          "OTEL_EXPORTER_OTLP_HEADERS"};
    static const char extra[] = "OPENSANDBOX_EXECD_METRICS_EXTRA_ATTRS";
    const char *id = value_of(get, "OPENSANDBOX_ID");
    const char *copy = id ? arena_strdup(&s->arena, id) : NULL;
    (void)add_attribute(s, "service.name", "opensandbox-execd-" OPENSANDBOX_VERSION);
    (void)add_attribute(s, "service.version", OPENSANDBOX_VERSION);
    if (copy && add_attribute(s, "sandbox_id", copy))
        log_warning("telemetry: OPENSANDBOX_ID is no text: left out");
    each_pair(s, extra, value_of(get, extra), add_attribute);
    for (size_t i = 0; i < ARRAY_SIZE(headers); i++) // the first that is there
        if (value_of(get, headers[i])) {
            each_pair(s, headers[i], value_of(get, headers[i]), add_header);
            return;
        }
}

int telemetry_settings_read(struct telemetry_settings *s, char *(*get)(const char *name),
                            const char *hostinfo, struct error *err) {
    const char *disabled = value_of(get, "OTEL_SDK_DISABLED"),
               *exporter = value_of(get, "OTEL_METRICS_EXPORTER");
    *s = (struct telemetry_settings){0};
    arena_init(&s->arena, TEXTS_MAX);
    strbuf_init(&s->headers, HEADERS_MAX);
    if ((disabled && !strcasecmp(disabled, "true")) || (exporter && !strcmp(exporter, "none")))
        return 0;
    int r = find_endpoint(s, get, hostinfo, err);
    if (r <= 0)
        return r;
    if (check_protocol(get, err) < 0)
        return -1;
    s->interval_ms =
        number(get, "OTEL_METRIC_EXPORT_INTERVAL", TELEMETRY_INTERVAL_MIN, INTERVAL_MS);
    s->time_out_ms = number(get, "OTEL_METRIC_EXPORT_TIMEOUT", 1, TIME_OUT_MS);
    read_lists(s, get);
    return 1;
}

void telemetry_settings_clear(struct telemetry_settings *s) {
    arena_free(&s->arena);
    strbuf_free(&s->headers);
}
