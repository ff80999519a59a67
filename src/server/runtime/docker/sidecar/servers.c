#include "server/runtime/docker/sidecar/servers.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "server/runtime/resolvers.h"

static void add(char text[SERVERS_TEXT_MAX], const char *address) {
    size_t used = strlen(text);
    (void)snprintf(text + used, SERVERS_TEXT_MAX - used, "%s%s", used ? "," : "", address);
}

// The loopback is the container's own.
static bool take(const char *address, void *text) {
    struct in_addr v4;
    struct in6_addr v6;
    bool usable = inet_pton(AF_INET, address, &v4) == 1
                      ? ntohl(v4.s_addr) >> 24 != IN_LOOPBACKNET
                      : inet_pton(AF_INET6, address, &v6) == 1 && !IN6_IS_ADDR_LOOPBACK(&v6);
    if (usable)
        add(text, address);
    return usable;
}

void servers_of(const struct docker *d, char text[SERVERS_TEXT_MAX]) {
    text[0] = '\0';
    for (docker_list p = d->settings.egress_dns; p && *p; p++)
        add(text, *p);
    if (!*text && d->near)
        resolvers_of_host(take, text);
}
