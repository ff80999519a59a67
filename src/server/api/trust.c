#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "server/api/api.h"
#include "server/api/resources/traffic.h"

static int net_parse(const char *text, struct net *ret) {
    char address[64];
    uint64_t prefix = 0;
    size_t len = strcspn(text, "/");
    struct net n = {0};
    if (len >= sizeof address)
        return -1;
    memcpy(address, text, len);
    address[len] = 0;
    n.family = strchr(address, ':') ? AF_INET6 : AF_INET;
    unsigned bits = n.family == AF_INET6 ? 128 : 32;
    if (inet_pton((int)n.family, address, n.bytes) != 1)
        return -1;
    if (text[len] && parse_u64(text + len + 1, 0, bits, &prefix) < 0)
        return -1;
    n.prefix = text[len] ? (unsigned)prefix : bits;
    *ret = n;
    return 0;
}

static bool net_holds(const struct net *n, const struct net *address) {
    unsigned whole = n->prefix / 8, rest = n->prefix % 8;
    if (n->family != address->family || memcmp(n->bytes, address->bytes, whole) != 0)
        return false;
    return !rest || !((n->bytes[whole] ^ address->bytes[whole]) >> (8 - rest));
}

bool api_trusts_peer(const struct http_exchange *x) {
    const struct api *a = api_of(x);
    const char *peer =
        strncmp(x->peer, "::ffff:", 7) == 0 && strchr(x->peer, '.') ? x->peer + 7 : x->peer;
    struct net address;
    if (!a->trusted_count || net_parse(peer, &address) < 0)
        return false;
    for (size_t i = 0; i < a->trusted_count; i++)
        if (net_holds(&a->trusted[i], &address))
            return true;
    return false;
}

int api_init(struct api *a, const struct config *c, struct domain *d, unsigned features,
             struct error *err) {
    size_t count = 0;
    while (c->trusted_proxies[count])
        count++;
    *a = (struct api){.config = c, .keys = c, .domain = d, .features = features};
    list_init(&a->held);
    a->trusted = calloc(count + 1, sizeof *a->trusted);
    a->traffic = traffic_new();
    if (!a->trusted || !a->traffic) {
        api_clear(a);
        return error_set(err, ENOMEM, "out of memory");
    }
    for (; a->trusted_count < count; a->trusted_count++) {
        if (net_parse(c->trusted_proxies[a->trusted_count], &a->trusted[a->trusted_count]) == 0)
            continue;
        (void)error_set(err, EINVAL,
                        "server.trusted_proxies: \"%s\" is neither an address nor a CIDR",
                        c->trusted_proxies[a->trusted_count]);
        api_clear(a);
        return -1;
    }
    registry_on_release(domain_registry(d), api_release, a);
    return 0;
}

void api_clear(struct api *a) {
    free(a->trusted);
    traffic_free(a->traffic);
    *a = (struct api){0};
}
