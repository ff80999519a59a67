// The few netlink(7) messages that we need, as batches: several requests in one
// datagram, one acknowledgement each; the kernel handles them in order and goes on after a failure,
// the first failure is returned. A batch's socket belongs to the network namespace it was opened
// in. Blocking (microseconds); workers.
#ifndef IO_NETLINK_H
#define IO_NETLINK_H

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stddef.h>
#include <stdint.h>

struct netlink {
    int fd;
    unsigned sequence, waiting;
    size_t used, size;
    char *out;             // `buffer`, or a larger one
    struct nlmsghdr *head; // message being built
    _Alignas(8) char buffer[8192];
};

int netlink_open(struct netlink *nl,
                 int protocol);                // NETLINK_ROUTE, NETLINK_NETFILTER; 0 or -errno
void netlink_take(struct netlink *nl, int fd); // a socket that somebody else opened; takes it
// Batches of up to `size` bytes from now on (needs CAP_NET_ADMIN of the host, or a socket that was
// enlarged before); 0 or -errno.
int netlink_grow(struct netlink *nl, size_t size);
void netlink_close(struct netlink *nl);
void netlink_request(struct netlink *nl, int type, int flags, const void *body, size_t size);
struct nlattr *netlink_attr(struct netlink *nl, int type, const void *value, size_t size);
void netlink_attr_u32(struct netlink *nl, int type, uint32_t value);
void netlink_attr_text(struct netlink *nl, int type, const char *text);
struct nlattr *netlink_nest(struct netlink *nl, int type);
void netlink_nest_end(struct netlink *nl, struct nlattr *nest);
int netlink_commit(struct netlink *nl); // 0 or the first -errno
// Sends what was built; answers are read by the caller (io/nftables.c). 0 or -errno.
int netlink_send(struct netlink *nl);
// Dump request: calls each() for every message of the answer; its non-zero return ends it and is
// returned. -EINTR: something changed meanwhile, so entries may be missing or told twice; ask
// again.
int netlink_dump(struct netlink *nl, int (*each)(const struct nlmsghdr *h, void *arg), void *arg);

// Routed sandbox link, see oci-runtime.md 4.1. Addresses are in network byte order.
void netlink_veth(struct netlink *nl, const char *name, const uint8_t mac[6], int peer_netns,
                  const char *peer_name, const uint8_t peer_mac[6], uint32_t mtu, uint32_t group);
void netlink_dummy(struct netlink *nl, const char *name,
                   const char *kind); // kind "dummy" or "bridge"
void netlink_up(struct netlink *nl, unsigned link, const char *alias);
void netlink_no_ipv6_address(struct netlink *nl, unsigned link); // before netlink_up()
void netlink_address4(struct netlink *nl, unsigned link, uint32_t address, uint8_t prefix);
void netlink_route4(struct netlink *nl, unsigned link, uint32_t to, uint8_t prefix, uint32_t via,
                    uint32_t source);
void netlink_neighbour4(struct netlink *nl, unsigned link, uint32_t address, const uint8_t mac[6]);
void netlink_delete_link(struct netlink *nl, unsigned link);

#endif
