// Addresses that were admitted because an allowed name led to them: for how long, and by which
// names, so that they survive a policy under which the names are still allowed (decision 7). A
// sandbox reaches an address at least as long as its resolver may keep the answer. Bounded: what
// would end first gives way. Loop thread.
#ifndef EGRESS_NET_LEARNED_H
#define EGRESS_NET_LEARNED_H

#include "base/heap.h"
#include "base/map.h"
#include "egress/dns.h"
#include "egress/net/firewall.h"

enum {
    LEARNED_MAX = 8192,
    LEARNED_NAMES = 4,
    LEARNED_GRACE_S = 60,
    LEARNED_TTL_MAX = 300,
    LEARNED_GONE_MAX = 256 // evicted in one transaction
};

struct learned {
    struct firewall *firewall;
    struct map addresses;
    struct heap by_end;
    struct list touched;               // admitted by the next learned_commit()
    struct net gone[LEARNED_GONE_MAX]; // taken out by it
    size_t gone_count;
    bool unsure; // a transaction failed: the kernel may hold what is not known here
    size_t count;
    uint64_t admitted, evicted, failures;
};
void learned_init(struct learned *l, struct firewall *f);
void learned_clear(struct learned *l);
// Remembers the address, and admits it with the next learned_commit(), which is one transaction for
// any number of answers. None of these answers may leave before it. -1: not admitted.
int learned_add(struct learned *l, const struct dns_chain *chain, const struct net *address,
                uint32_t ttl);
int learned_commit(struct learned *l);
// Inside a transaction of firewall_enforce(), with nothing left to commit: takes out of the sets
// what `ix` no longer allows, or writes them anew (`all`, or when one is so near its end that it
// may be gone). Returns whether it did. learned_settle() afterwards forgets what was taken out.
bool learned_judge(struct learned *l, const struct index *ix, bool all);
void learned_settle(struct learned *l);
bool learned_has(const struct learned *l, const struct net *address);

#endif
