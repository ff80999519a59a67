// How long creates take, and what is under way: for the metrics page. Loop thread.
#ifndef SERVER_SANDBOX_MEASURE_MEASURE_H
#define SERVER_SANDBOX_MEASURE_MEASURE_H

#include <stddef.h>
#include <stdint.h>

#include "server/sandbox/sandbox.h"

enum { MEASURE_PHASES_MAX = 16, MEASURE_BUCKETS = 12 };
extern const double measure_bounds[MEASURE_BUCKETS]; // seconds

struct measure_phase { // of provisioning, as the runtime names it
    char name[24];
    uint64_t count;
    int64_t ns;
};
struct measures {
    struct measure_phase phases[MEASURE_PHASES_MAX];
    unsigned phase_count;
    uint64_t
        buckets[MEASURE_BUCKETS + 1]; // creates that took at most so long; the last: all others
    int64_t create_us;                // of all of them
};

struct measure_load {
    size_t operations;              // under way or waiting for their sandbox
    unsigned creates, provisioning; // accepted; of those, the ones that have their turn
    uint64_t store_commits;         // transactions
};

struct domain;
const struct measures *domain_measures(const struct domain *d);
struct measure_load domain_load(const struct domain *d);
void measure_create(struct measures *m, const struct sandbox *sb); // it has just become Running

#endif
