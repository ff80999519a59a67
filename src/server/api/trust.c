#include <errno.h>
#include <stdlib.h>

#include "server/api/api.h"
#include "server/api/resources/traffic.h"

bool api_trusts_peer(const struct http_exchange *x) {
    const struct api *a = api_of(x);
    struct net address;
    if (!a->trusted_count || net_parse(x->peer, &address) < 0)
        return false;
    for (size_t i = 0; i < a->trusted_count; i++)
        if (net_covers(&a->trusted[i], &address))
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
