// Network namespaces of sandboxes, held as descriptors: no name, no mount, no process stays. With
// user namespaces an entry is a nested pair: the outer one carries the limits (inotify) for the sum
// of all its users, the inner one is the sandbox's and owns the network namespace (oci-runtime.md
// 0.10, 2.5, 4.1). Blocking: about 1.5 ms each. Any thread.
#ifndef SERVER_RUNTIME_OCI_NET_NETNS_H
#define SERVER_RUNTIME_OCI_NET_NETNS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct netns {
    int net_fd, user_fd; // user_fd -1: the server's user namespace
};
// id_base 0: no user namespace.
int netns_make(uint32_t id_base, struct netns *ret, struct error *err);

// The link of one sandbox, both halves: routed /32, permanent neighbours, no IPv6.
struct netns_link {
    const char *name, *alias;
    uint32_t address, gateway; // network byte order
    uint32_t mtu, group;
    uint32_t ping_first, ping_last; // group ids (of the host) that may send echo requests
};
int netns_connect(int net_fd, const struct netns_link *l, unsigned *ret_index, struct error *err);
int netns_rename(unsigned index, const char *alias, struct error *err); // another alias
void netns_disconnect(unsigned index);

// Links of this host.
struct netns_found {
    unsigned index;
    const char *name, *alias; // valid for the call; alias "" when none
};
// each() may be told of a link twice. Its non-zero return ends the walk and is returned.
int netns_each(int (*each)(const struct netns_found *l, void *arg), void *arg, struct error *err);
// Makes the device that carries the gateway address, unless it is there.
int netns_gateway(const char *name, const char *alias, uint32_t address, struct error *err);
uint32_t netns_mtu(void); // of the default route's device; 1500 when there is none

#endif
