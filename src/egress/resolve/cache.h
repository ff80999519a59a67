// Answers of upstreams for as long as their TTL says, at most DNS_TTL_MAX. What is kept is the
// message as it came: verdicts, CNAMEs and addresses are judged again at every use, so no answer
// outlives a policy. Bounded in entries and bytes; the oldest give way. Loop thread.
#ifndef EGRESS_RESOLVE_CACHE_H
#define EGRESS_RESOLVE_CACHE_H

#include "base/list.h"
#include "base/map.h"
#include "egress/dns.h"

enum {
    CACHE_ENTRIES_MAX = 2048,
    CACHE_BYTES_MAX = 1 << 20,
    CACHE_MESSAGE_MAX = 8192,
    CACHE_NEGATIVE_S = 30
};

struct cache {
    struct map entries;
    struct list order; // oldest first
    size_t count, bytes;
    uint64_t hits, misses;
};
void cache_init(struct cache *c);
void cache_clear(struct cache *c);
// The length, and the message copied to `out` (DNS_MESSAGE_MAX bytes); 0: not there.
size_t cache_get(struct cache *c, const struct dns_query *q, uint8_t *out, uint32_t *ret_age);
void cache_put(struct cache *c, const struct dns_query *q, const uint8_t *message, size_t len,
               uint32_t ttl);

#endif
