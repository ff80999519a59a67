// DNS servers of this host, for sandboxes that ask them. Blocking (small files); any thread.
#ifndef SERVER_RUNTIME_RESOLVERS_H
#define SERVER_RUNTIME_RESOLVERS_H

#include <stdbool.h>

// Those of resolv.conf in their order; when none of them is taken (systemd-resolved listens on the
// loopback), its own upstream servers. take() says whether it can use the address.
void resolvers_of_host(bool (*take)(const char *address, void *arg), void *arg);

#endif
