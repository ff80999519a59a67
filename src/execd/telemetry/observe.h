// What the sandbox is like at this moment, beside what execd/metrics/cgroup.h reads: processes,
// network, connections. Reads kernel files only, as many processes take a while: for workers. Any
// thread.
#ifndef EXECD_TELEMETRY_OBSERVE_H
#define EXECD_TELEMETRY_OBSERVE_H

#include "execd/metrics/cgroup.h"

struct observation { // -1: the kernel does not say
    int64_t processes;
    int64_t received, sent; // bytes of all links but the loopback since they exist
    int64_t tcp;            // established connections
    int64_t udp;            // sockets
    double cpu_percent;     // of what we may use, since the observation before
    int64_t memory;         // bytes
    struct usage usage;
};
// root as for usage_read(); before: of the last observation.
void observe(const char *root, const struct usage *before, struct observation *ret);

#endif
