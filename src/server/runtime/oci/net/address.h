// The addresses of sandboxes: a pool of IPv4 addresses, each given out again only after all others
// were (late packets and connection tracking remember it for a while). The first is the gateway.
// Not for threads to share: network.c locks.
#ifndef SERVER_RUNTIME_OCI_NET_ADDRESS_H
#define SERVER_RUNTIME_OCI_NET_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { ADDRESS_TEXT_SIZE = 16, ADDRESS_PREFIX_MIN = 8, ADDRESS_PREFIX_MAX = 29 };

struct address_pool {
    uint32_t first; // network address, host byte order
    uint32_t size;  // with network and broadcast address, which nobody gets
    uint8_t prefix;
    uint32_t cursor; // where the search goes on
    uint8_t *used;   // a bit each
};

// "10.200.0.0/16": a network address with a prefix of 8 to 29.
int address_pool_init(struct address_pool *p, const char *cidr, struct error *err);
void address_pool_clear(struct address_pool *p);
uint32_t address_pool_gateway(const struct address_pool *p); // all addresses in network byte order
// The next free one; EADDRNOTAVAIL when all are in use.
int address_pool_take(struct address_pool *p, uint32_t *ret, struct error *err);
bool address_pool_claim(struct address_pool *p,
                        uint32_t address); // false: outside the pool, or in use
void address_pool_give(struct address_pool *p, uint32_t address);
bool address_pool_holds(const struct address_pool *p, uint32_t address);

int address_parse(const char *text, uint32_t *ret); // dotted quad
void address_format(uint32_t address, char text[ADDRESS_TEXT_SIZE]);
int address_parse_cidr(const char *text, uint32_t *ret_network,
                       uint8_t *ret_prefix); // host bits must be 0

#endif
