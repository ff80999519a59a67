#include "server/sandbox/measure/measure.h"

#include <string.h>

#include "base/clock.h"
#include "server/sandbox/domain.h"

const double measure_bounds[MEASURE_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                0.5,   1,    2.5,   5,    10,  30};

static void add_phase(struct measures *m, const struct runtime_phase *p) {
    unsigned i = 0;
    while (i < m->phase_count && strcmp(m->phases[i].name, p->name) != 0)
        i++;
    if (i == MEASURE_PHASES_MAX) // no runtime has as many
        return;
    if (i == m->phase_count) {
        m->phase_count++;
        memcpy(m->phases[i].name, p->name, sizeof m->phases[i].name);
    }
    m->phases[i].count++;
    m->phases[i].ns += p->ns;
}

void measure_create(struct measures *m, const struct sandbox *sb) {
    int64_t us = clock_wall_us() - sb->created_us;
    unsigned at = 0;
    if (us < 0) // the clock was set back
        us = 0;
    while (at < MEASURE_BUCKETS && (double)us / 1e6 > measure_bounds[at])
        at++;
    m->buckets[at]++;
    m->create_us += us;
    for (unsigned i = 0; i < sb->phase_count; i++)
        add_phase(m, &sb->phases[i]);
}

const struct measures *domain_measures(const struct domain *d) {
    return &d->measures;
}

struct measure_load domain_load(const struct domain *d) {
    struct measure_load l = {.creates = d->creates,
                             .provisioning = d->slots_used,
                             .store_commits = store_commits(d->settings.store)};
    LIST_EACH(&d->operations, node)
    l.operations++;
    return l;
}
