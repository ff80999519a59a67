// The network of sandboxes as one thing: namespaces from stock, addresses, links, rules. A thin
// layer over netns.h, firewall.h and address.h that knows the order in which they are used. Private
// to runtime/oci.
#ifndef SERVER_RUNTIME_OCI_NET_NETWORK_H
#define SERVER_RUNTIME_OCI_NET_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "server/runtime/oci/oci.h"

enum { NETWORK_ADDRESS_SIZE = 64 };

// A network namespace, the user namespace that owns it (-1: the server's own), the address of its
// end of the link.
struct network_entry {
    int net_fd, user_fd;
    unsigned link;    // index of the host's end; 0 unknown (adopted)
    uint32_t address; // IPv4, network byte order
    char address_text[NETWORK_ADDRESS_SIZE];
};

struct network;
// Loads the rules and makes the gateway. user_namespaces: whether entries have one of their own.
// Addresses of links that are there already are kept for network_adopt(). Blocking, start-up.
struct network *network_new(const struct oci_settings *s, bool user_namespaces, struct error *err);
// NULL is fine. Takes the stock down; with `last` (no sandbox lives) gateway and rules too.
enum network_end { NETWORK_KEEP, NETWORK_LAST };
void network_free(struct network *n, enum network_end end);

// Around each create, in pairs: the stock is refilled between creates, because a refill forks the
// server and takes the kernel's network lock. Any thread.
enum network_load { NETWORK_CREATE_BEGINS, NETWORK_CREATE_ENDS };
void network_busy(struct network *n, enum network_load load);
// Any thread. An entry from stock, or a new one; the link's alias gets the sandbox's id.
int network_take(struct network *n, const char *id, struct network_entry *ret, struct error *err);
// The same in two parts, for who prepares more than a namespace: one that is nobody's yet, then its
// name. Until then no server counts it as a sandbox's.
int network_reserve(struct network *n, struct network_entry *ret, struct error *err);
int network_name(struct network *n, const char *id, const struct network_entry *e,
                 struct error *err);
// A sandbox of an earlier server: its address is taken again. net_fd of the entry is the caller's
// to fill before.
int network_adopt(struct network *n, const char *id, const char *address, struct network_entry *e,
                  struct error *err);
// Closes the descriptors and gives the address back. The link dies with the namespace's last
// process.
void network_release(struct network *n, const char *id, struct network_entry *e);
// Ids that links name.
int network_each(struct network *n, int (*each)(const char *id, void *arg), void *arg);
// After all adoptions: removes links for which live() is false, frees their addresses, begins to
// fill the stock.
int network_sweep(struct network *n, bool (*live)(const char *id, void *arg), void *arg,
                  struct error *err);
const char *network_resolv_conf(const struct network *n);
const char *network_resolvers(const struct network *n); // the same ones: "192.0.2.1, 192.0.2.2"

#endif
