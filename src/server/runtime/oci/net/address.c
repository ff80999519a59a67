#include "server/runtime/oci/net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"

int address_parse(const char *text, uint32_t *ret) {
    struct in_addr a;
    if (inet_pton(AF_INET, text, &a) != 1)
        return -1;
    *ret = a.s_addr;
    return 0;
}

void address_format(uint32_t address, char text[ADDRESS_TEXT_SIZE]) {
    struct in_addr a = {.s_addr = address};
    (void)inet_ntop(AF_INET, &a, text, ADDRESS_TEXT_SIZE); // large enough for every address
}

int address_parse_cidr(const char *text, uint32_t *ret_network, uint8_t *ret_prefix) {
    char address[ADDRESS_TEXT_SIZE];
    uint64_t prefix;
    uint32_t network;
    size_t len = strcspn(text, "/");
    if (text[len] != '/' || len >= sizeof address || parse_u64(text + len + 1, 0, 32, &prefix))
        return -1;
    (void)snprintf(address, sizeof address, "%.*s", (int)len, text);
    if (address_parse(address, &network))
        return -1;
    uint32_t host_bits = prefix ? (uint32_t)((1ULL << (32 - prefix)) - 1) : UINT32_MAX;
    if (ntohl(network) & host_bits)
        return -1;
    *ret_network = network;
    *ret_prefix = (uint8_t)prefix;
    return 0;
}

int address_pool_init(struct address_pool *p, const char *cidr, struct error *err) {
    uint32_t network;
    *p = (struct address_pool){.prefix = 0};
    if (address_parse_cidr(cidr, &network, &p->prefix) || p->prefix < ADDRESS_PREFIX_MIN ||
        p->prefix > ADDRESS_PREFIX_MAX)
        return error_set(err, EINVAL,
                         "oci.network \"%s\" is not a network such as \"10.200.0.0/16\" with a "
                         "prefix of %d to %d",
                         cidr, ADDRESS_PREFIX_MIN, ADDRESS_PREFIX_MAX);
    p->first = ntohl(network);
    p->size = 1U << (32 - p->prefix);
    p->used = calloc(p->size / 8, 1);
    if (!p->used)
        return error_set(err, ENOMEM, "out of memory");
    p->cursor = 2; // 0 is the network, 1 the gateway
    return 0;
}

void address_pool_clear(struct address_pool *p) {
    free(p->used);
    p->used = NULL;
}

uint32_t address_pool_gateway(const struct address_pool *p) {
    return htonl(p->first + 1);
}

bool address_pool_holds(const struct address_pool *p, uint32_t address) {
    return ntohl(address) - p->first < p->size;
}

static bool is_used(const struct address_pool *p, uint32_t i) {
    return p->used[i / 8] >> (i % 8) & 1;
}

int address_pool_take(struct address_pool *p, uint32_t *ret, struct error *err) {
    uint32_t last = p->size - 2; // the one after it is the broadcast address
    for (uint32_t tried = 2; tried <= last; tried++) {
        uint32_t i = p->cursor;
        p->cursor = i >= last ? 2 : i + 1;
        if (is_used(p, i))
            continue;
        p->used[i / 8] |= (uint8_t)(1U << (i % 8));
        *ret = htonl(p->first + i);
        return 0;
    }
    return error_set(err, EADDRNOTAVAIL, "all %u addresses of oci.network are in use", last - 1);
}

bool address_pool_claim(struct address_pool *p, uint32_t address) {
    uint32_t i = ntohl(address) - p->first;
    if (i < 2 || i >= p->size - 1 || is_used(p, i))
        return false;
    p->used[i / 8] |= (uint8_t)(1U << (i % 8));
    return true;
}

void address_pool_give(struct address_pool *p, uint32_t address) {
    uint32_t i = ntohl(address) - p->first;
    if (i >= 2 && i < p->size - 1)
        p->used[i / 8] &= (uint8_t) ~(1U << (i % 8));
}
