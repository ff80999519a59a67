#include "fmt/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static void cut(struct net *n) {
    for (unsigned bit = n->prefix; bit < n->size * 8u; bit++)
        n->bytes[bit / 8] &= (uint8_t) ~(0x80u >> bit % 8);
}

// ::ffff:a.b.c.d and prefixes inside are the IPv4 address: that is what is dialled.
static void unmap(struct net *n) {
    if (n->size != 16 || n->prefix < 96 || memcmp(n->bytes, mapped, sizeof mapped) != 0)
        return;
    uint8_t four[4];
    memcpy(four, n->bytes + 12, 4);
    memset(n->bytes, 0, sizeof n->bytes);
    memcpy(n->bytes, four, 4);
    n->size = 4;
    n->prefix = (uint8_t)(n->prefix - 96);
}

int net_parse(const char *text, struct net *ret) {
    char address[INET6_ADDRSTRLEN];
    struct net n = {0};
    size_t len = strcspn(text, "/");
    uint64_t prefix;
    if (len >= sizeof address)
        return -1;
    memcpy(address, text, len);
    address[len] = '\0';
    if (inet_pton(AF_INET, address, n.bytes) == 1)
        n.size = 4;
    else if (inet_pton(AF_INET6, address, n.bytes) == 1)
        n.size = 16;
    else
        return -1;
    prefix = n.size * 8u;
    if (text[len] && parse_u64(text + len + 1, 0, prefix, &prefix) < 0)
        return -1;
    n.prefix = (uint8_t)prefix;
    unmap(&n);
    cut(&n);
    *ret = n;
    return 0;
}

void net_from_bytes(const uint8_t *bytes, size_t size, struct net *ret) {
    *ret = (struct net){.size = (uint8_t)size, .prefix = (uint8_t)(size * 8)};
    memcpy(ret->bytes, bytes, size);
    unmap(ret);
}

void net_format(const struct net *n, char text[NET_TEXT_MAX]) {
    char address[INET6_ADDRSTRLEN] = "";
    (void)inet_ntop(n->size == 4 ? AF_INET : AF_INET6, n->bytes, address, sizeof address);
    if (net_is_address(n))
        (void)snprintf(text, NET_TEXT_MAX, "%s", address);
    else
        (void)snprintf(text, NET_TEXT_MAX, "%s/%u", address, n->prefix);
}

bool net_is_address(const struct net *n) {
    return n->prefix == n->size * 8u;
}

bool net_covers(const struct net *outer, const struct net *inner) {
    if (outer->size != inner->size || outer->prefix > inner->prefix)
        return false;
    unsigned whole = outer->prefix / 8, rest = outer->prefix % 8;
    if (memcmp(outer->bytes, inner->bytes, whole) != 0)
        return false;
    return !rest || ((outer->bytes[whole] ^ inner->bytes[whole]) >> (8 - rest)) == 0;
}

bool net_is_private(const struct net *address) {
    static const struct net prefixes[] = {
        {{0}, 4, 8},
        {{10}, 4, 8},
        {{100, 64}, 4, 10},
        {{127}, 4, 8},
        {{169, 254}, 4, 16},
        {{172, 16}, 4, 12},
        {{192, 0, 0}, 4, 24},
        {{192, 168}, 4, 16},
        {{198, 18}, 4, 15},
        {{168, 63, 129, 16}, 4, 32},
        {{100, 100, 100, 200}, 4, 32},
        {{224}, 4, 3},
        {{0}, 16, 96},
        {{0xfc}, 16, 7},
        {{0xfe, 0x80}, 16, 10},
        {{0xfe, 0xc0}, 16, 10},
        {{0xff}, 16, 8},
        {{0, 0x64, 0xff, 0x9b, 0, 1}, 16, 48}, // local NAT64
    };
    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (net_covers(&prefixes[i], address))
            return true;
    // an IPv4 address behind NAT64 or 6to4 is judged by itself
    struct net inside = {.size = 4, .prefix = 32};
    static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b};
    if (address->size == 16 && !memcmp(address->bytes, nat64, sizeof nat64))
        memcpy(inside.bytes, address->bytes + 12, 4);
    else if (address->size == 16 && address->bytes[0] == 0x20 && address->bytes[1] == 0x02)
        memcpy(inside.bytes, address->bytes + 2, 4);
    else
        return false;
    return net_is_private(&inside);
}

bool net_end(const struct net *n, uint8_t end[16]) {
    memcpy(end, n->bytes, 16);
    for (unsigned bit = n->prefix; bit-- > 0;) { // add one at the prefix's last bit
        uint8_t mask = (uint8_t)(0x80u >> bit % 8);
        end[bit / 8] ^= mask;
        if (end[bit / 8] & mask)
            return true; // no carry
    }
    return false;
}

socklen_t net_sockaddr(const struct net *n, unsigned port, struct sockaddr_storage *ret) {
    memset(ret, 0, sizeof *ret);
    if (n->size == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        memcpy(&v4->sin_addr, n->bytes, 4);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    memcpy(&v6->sin6_addr, n->bytes, 16);
    return sizeof *v6;
}

// ---- sets ----

int netset_add(struct netset *s, const struct net *n) {
    if ((s->count & (s->count - 1)) == 0) { // full at each power of two
        struct net *more = reallocarray(s->nets, s->count ? s->count * 2 : 1, sizeof *more);
        if (!more)
            return -1;
        s->nets = more;
    }
    s->nets[s->count++] = *n;
    return 0;
}

int net_compare(const struct net *a, const struct net *b) {
    int order = memcmp(a->bytes, b->bytes, sizeof a->bytes);
    return order ? order : (int)a->prefix - (int)b->prefix;
}

static int compare(const void *a, const void *b) {
    return net_compare(a, b);
}

void netset_seal(struct netset *s) {
    size_t kept = 0;
    if (s->count)
        qsort(s->nets, s->count, sizeof *s->nets, compare);
    for (size_t i = 0; i < s->count; i++)
        if (!kept || !net_covers(&s->nets[kept - 1], &s->nets[i]))
            s->nets[kept++] = s->nets[i];
    // netset_add() counts on powers of two: a sealed set takes no more
    s->count = kept;
}

// The first one that begins behind the beginning of n.
static size_t behind(const struct netset *s, const struct net *n) {
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memcmp(s->nets[middle].bytes, n->bytes, sizeof n->bytes) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool netset_has(const struct netset *s, const struct net *address) {
    size_t i = behind(s, address);
    return i && net_covers(&s->nets[i - 1], address);
}

bool netset_meets(const struct netset *s, const struct net *n) {
    size_t i = behind(s, n);
    return (i && (net_covers(&s->nets[i - 1], n) || net_covers(n, &s->nets[i - 1]))) ||
           (i < s->count && net_covers(n, &s->nets[i]));
}

void netset_clear(struct netset *s) {
    free(s->nets);
    *s = (struct netset){0};
}
