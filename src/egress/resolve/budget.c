#include "egress/resolve/budget.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"

enum { MINUTE_MS = 60000 };

void budget_init(struct budget *b, const struct budget_limits *limits) {
    *b = (struct budget){.limits = *limits};
    random_bytes(&b->seed, sizeof b->seed); // nobody outside can aim at a bit
}

void budget_clear(struct budget *b) {
    for (int i = 0; i < BUDGET_PARENTS; i++)
        free(b->parents[i].seen);
    *b = (struct budget){0};
}

static uint64_t hash(const struct budget *b, const char *text) {
    uint64_t h = b->seed ^ 0xcbf29ce484222325u;
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return h ^ h >> 32;
}

const char *budget_parent(const char *name) {
    const char *last = strrchr(name, '.'), *p = last;
    while (p && p > name && p[-1] != '.')
        p--;
    return last ? p : name;
}

// Its row, else one that is not of this minute, else the one with the fewest queries.
static struct budget_parent *find(struct budget *b, uint64_t h, int64_t now_ms) {
    struct budget_parent *free_one = NULL, *least = &b->parents[0];
    for (int i = 0; i < BUDGET_PARENTS; i++) {
        struct budget_parent *p = &b->parents[i];
        bool over = now_ms - p->since_ms >= MINUTE_MS || !p->since_ms;
        if (!over && p->hash == h)
            return p;
        free_one = over && (!free_one || p->hash == h) ? p : free_one;
        least = p->queries < least->queries ? p : least;
    }
    struct budget_parent *p = free_one ? free_one : least;
    uint8_t *seen = p->seen;
    *p = (struct budget_parent){.hash = h, .since_ms = now_ms ? now_ms : 1, .seen = seen};
    if (seen)
        memset(seen, 0, BUDGET_BITS / 8);
    return p;
}

bool budget_spend(struct budget *b, const char *name, int64_t now_ms) {
    const struct budget_limits *l = &b->limits;
    if (!l->names && !l->bytes && !l->queries)
        return true;
    struct budget_parent *p = find(b, hash(b, budget_parent(name)), now_ms);
    uint64_t bit = hash(b, name) % BUDGET_BITS;
    if (!p->seen && !(p->seen = calloc(BUDGET_BITS / 8, 1)))
        return false; // what cannot be counted is not sent
    bool new_name = !(p->seen[bit / 8] & 1u << bit % 8);
    size_t bytes = new_name ? strlen(name) : 0;
    if ((l->queries && p->queries >= l->queries) ||
        (l->names && new_name && p->names >= l->names) ||
        (l->bytes && bytes && p->bytes + bytes > l->bytes)) {
        b->refused++;
        return false;
    }
    p->seen[bit / 8] |= (uint8_t)(1u << bit % 8);
    p->names += new_name;
    p->bytes += bytes;
    p->queries++;
    return true;
}
