// Addresses and prefixes of rules and answers, and sets of them without nesting (nft refuses nested
// intervals). IPv4 mapped into IPv6 is IPv4. Any thread.
#ifndef FMT_ADDRESS_H
#define FMT_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { NET_TEXT_MAX = 64 };

struct net {
    uint8_t bytes[16]; // network order, bits behind the prefix are zero
    uint8_t size;      // 4 or 16
    uint8_t prefix;    // 8 * size for one address
};

// "192.0.2.1", "192.0.2.0/24" (host bits are cut), "2001:db8::/32"; no zone, no port. 0, or -1.
int net_parse(const char *text, struct net *ret);
void net_from_bytes(const uint8_t *bytes, size_t size, struct net *ret); // 4 or 16 bytes
void net_format(const struct net *n, char text[NET_TEXT_MAX]); // without prefix for one address
bool net_covers(const struct net *outer, const struct net *inner);
bool net_is_address(const struct net *n);
// Addresses that a name from outside has no business to point to: this host, private and shared
// networks, link-local, metadata services, multicast, reserved (decision 5, DNS rebinding).
bool net_is_private(const struct net *address);
// Last address of the prefix plus one. False: there is none (the prefix ends the address space).
bool net_end(const struct net *n, uint8_t end[16]);
socklen_t net_sockaddr(const struct net *n, unsigned port, struct sockaddr_storage *ret);

struct netset {
    struct net *nets; // sorted, of one family, none inside another
    size_t count;
};
int net_compare(const struct net *a, const struct net *b); // the order of a sealed set
int netset_add(struct netset *s, const struct net *n);     // -1: no memory
void netset_seal(struct netset *s);                        // sorts, drops what is covered
bool netset_has(const struct netset *s, const struct net *address);
bool netset_meets(const struct netset *s, const struct net *n); // they have an address in common
void netset_clear(struct netset *s);

#endif
