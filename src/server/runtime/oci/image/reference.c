#include "server/runtime/oci/image/reference.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "server/errors.h"
#include "server/runtime/oci/image/manifest.h"

#define LOWER  "abcdefghijklmnopqrstuvwxyz"
#define UPPER  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

// ---- grammar (github.com/distribution/reference, as the registries enforce it) ----

static int malformed(const char *text, const char *why, struct error *err) {
    return error_server(err, ERR_R_IMAGE_NOT_FOUND, "image \"%.300s\" is no reference: %s", text,
                        why);
}

// Lower case and digits, joined by one of ". _ __" or any number of dashes.
static bool good_component(const char *p, size_t len) {
    size_t i = 0;
    while (i < len) {
        size_t n = strspn(p + i, LOWER DIGITS);
        if (!n)
            return false;
        i += n;
        if (i >= len)
            break;
        n = strspn(p + i, "-");
        if (!n)
            n = p[i] == '.' ? 1 : p[i] == '_' ? 1 + (p[i + 1] == '_') : 0;
        if (!n || i + n >= len)
            return false;
        i += n;
    }
    return i == len && len > 0;
}

static bool good_repository(const char *p) {
    for (;;) {
        size_t n = strcspn(p, "/");
        if (!good_component(p, n))
            return false;
        if (!p[n])
            return true;
        p += n + 1;
    }
}

static bool good_registry(const char *p) {
    size_t host =
        *p == '[' ? strspn(p + 1, DIGITS "abcdefABCDEF:") + 1 : strspn(p, LOWER UPPER DIGITS ".-");
    if (*p == '[' && p[host++] != ']')
        return false;
    if (!host || *p == '-' || *p == '.')
        return false;
    if (!p[host])
        return true;
    size_t port = strspn(p + host + 1, DIGITS);
    return p[host] == ':' && port >= 1 && port <= 5 && !p[host + 1 + port];
}

static bool good_tag(const char *p) {
    size_t n = strspn(p, LOWER UPPER DIGITS "_.-");
    return n >= 1 && n <= 128 && !p[n] && *p != '.' && *p != '-';
}

// The first component is a registry when it cannot be the first of a repository on docker.io.
static bool names_registry(const char *first, size_t len) {
    return memchr(first, '.', len) || memchr(first, ':', len) ||
           (len == 9 && !strncmp(first, "localhost", 9)) || strcspn(first, UPPER) < len;
}

static int take_suffix(char *name, struct reference *r, const char *text, struct error *err) {
    char *at = strchr(name, '@');
    if (at) {
        *at++ = '\0';
        if (!digest_valid(at))
            return malformed(text, "the digest is not sha256: and 64 lower-case hex digits", err);
        memcpy(r->digest, at, sizeof r->digest);
    }
    char *slash = strrchr(name, '/'), *colon = strrchr(slash ? slash : name, ':');
    if (colon) {
        *colon++ = '\0';
        if (!good_tag(colon))
            return malformed(text, "the tag has other characters than letters, digits, _ . -", err);
    }
    if (!at) // with a digest the tag says nothing
        (void)snprintf(r->tag, sizeof r->tag, "%s", colon ? colon : "latest");
    return 0;
}

int reference_parse(const char *text, struct reference *ret, struct error *err) {
    char name[REFERENCE_MAX + 1];
    struct reference r = {.tag = ""};
    if (strlen(text) >= sizeof name)
        return malformed(text, "it is too long", err);
    memcpy(name, text, strlen(text) + 1);
    if (take_suffix(name, &r, text, err))
        return -1;
    char *slash = strchr(name, '/'), *repository = name;
    const char *registry = "docker.io", *prefix = "";
    if (slash && names_registry(name, (size_t)(slash - name))) {
        *slash = '\0';
        registry = strcmp(name, "index.docker.io") != 0 ? name : registry;
        repository = slash + 1;
    }
    if (!strcmp(registry, "docker.io") && !strchr(repository, '/'))
        prefix = "library/";
    if (strlen(repository) + strlen(prefix) + strlen(registry) > 254)
        return malformed(text, "it is too long", err);
    if (!good_registry(registry))
        return malformed(text, "the registry is not host or host:port", err);
    if (!good_repository(repository))
        return malformed(text, "the name is not lower-case letters, digits, . _ - and /", err);
    (void)snprintf(r.registry, sizeof r.registry, "%s", registry);
    (void)snprintf(r.repository, sizeof r.repository, "%s%s", prefix, repository);
    (void)snprintf(r.text, sizeof r.text, "%s/%s%s%s", r.registry, r.repository,
                   *r.digest ? "@" : ":", *r.digest ? r.digest : r.tag);
    *ret = r;
    return 0;
}

// ---- who may be asked ----

static void split(const struct reference *r, char host[REGISTRY_MAX + 1]) {
    (void)snprintf(host, REGISTRY_MAX + 1, "%s",
                   *r->registry == '[' ? r->registry + 1 : r->registry);
    char *end = *r->registry == '[' ? strchr(host, ']') : strrchr(host, ':');
    if (end)
        *end = '\0';
}

bool reference_listed(const struct reference *r, oci_list list) {
    char host[REGISTRY_MAX + 1];
    split(r, host);
    for (; list && *list; list++)
        if (!strcasecmp(*list, r->registry) || !strcasecmp(*list, host))
            return true;
    return false;
}

// Special-purpose blocks (RFC 6890 and successors): nothing public answers there.
static const struct {
    uint32_t net;
    unsigned bits;
} closed4[] = {{0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},
               {0xa9fe0000, 16}, {0xac100000, 12}, {0xc0000000, 24}, {0xc0a80000, 16},
               {0xc6120000, 15}, {0xe0000000, 4},  {0xf0000000, 4}};

static bool is_public4(uint32_t a) {
    for (size_t i = 0; i < ARRAY_SIZE(closed4); i++)
        if (a >> (32 - closed4[i].bits) == closed4[i].net >> (32 - closed4[i].bits))
            return false;
    return true;
}

static bool is_public6(const uint8_t *b) {
    static const uint8_t zero[12] = {0}, mapped[12] = {[10] = 0xff, [11] = 0xff},
                         nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    uint32_t last = (uint32_t)b[12] << 24 | (uint32_t)b[13] << 16 | (uint32_t)b[14] << 8 | b[15];
    if (!memcmp(b, mapped, 12) || !memcmp(b, nat64, 12) || !memcmp(b, zero, 12))
        return is_public4(last);
    if (b[0] == 0x20 && b[1] == 0x02) // 6to4 carries an IPv4 address
        return is_public4((uint32_t)b[2] << 24 | (uint32_t)b[3] << 16 | (uint32_t)b[4] << 8 | b[5]);
    return (b[0] & 0xe0) == 0x20; // 2000::/3 is all that is routed
}

static bool is_public(const struct sockaddr *a) {
    if (a->sa_family == AF_INET)
        return is_public4(ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr));
    return a->sa_family == AF_INET6 &&
           is_public6(((const struct sockaddr_in6 *)(const void *)a)->sin6_addr.s6_addr);
}

int reference_allowed(const struct reference *r, const struct oci_settings *s, struct error *err) {
    char host[REGISTRY_MAX + 1];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (reference_listed(r, s->registries) || reference_listed(r, s->insecure_registries))
        return 0;
    split(r, host);
    int why = getaddrinfo(!strcmp(host, "docker.io") ? "registry-1.docker.io" : host, NULL, &hints,
                          &list);
    if (why)
        return error_server(err, ERR_R_IMAGE_PULL_FAILED,
                            "image \"%.300s\" is not here, and its registry cannot be found: %s",
                            r->text, gai_strerror(why));
    bool open = true;
    for (const struct addrinfo *a = list; a; a = a->ai_next)
        open = open && is_public(a->ai_addr);
    freeaddrinfo(list);
    if (open)
        return 0;
    return error_server(err, ERR_INVALID_PARAMETER,
                        "image.uri: registry %s has a private, loopback or link-local address; "
                        "the operator may allow it in oci.registries",
                        r->registry);
}
