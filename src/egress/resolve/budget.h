// How much a sandbox may tell the owner of a domain by asking for names below it (decision 5).
// Counted per parent domain (the last two labels) and minute, only what really goes upstream. Loop
// thread.
#ifndef EGRESS_RESOLVE_BUDGET_H
#define EGRESS_RESOLVE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

enum { BUDGET_PARENTS = 128, BUDGET_BITS = 16384 };

struct budget_limits { // a minute; 0: none
    uint64_t names, bytes, queries;
};
struct budget_parent {
    uint64_t hash;
    int64_t since_ms;
    uint64_t names, bytes, queries;
    uint8_t *seen; // BUDGET_BITS bits, by hash of the name: a few names are taken for others
};
struct budget {
    struct budget_limits limits;
    uint64_t seed;
    struct budget_parent parents[BUDGET_PARENTS];
    uint64_t refused;
};
void budget_init(struct budget *b, const struct budget_limits *limits);
void budget_clear(struct budget *b);
bool budget_spend(struct budget *b, const char *name, int64_t now_ms); // false: over the limit
const char *budget_parent(const char *name);                           // the last two labels

#endif
