// What the sandbox may use and what it uses, as its cgroup counts (v1, v2 and both side by side);
// where no cgroup says it, the machine's own figures. Reads kernel files only. Any thread.
#ifndef EXECD_METRICS_CGROUP_H
#define EXECD_METRICS_CGROUP_H

#include <stdint.h>

struct usage {
    int64_t at_ns;       // boot clock
    uint64_t cpu_ns;     // processor time since the cgroup (or the machine) began
    double cpus;         // quota, at most the processors we may run on; > 0
    uint64_t memory;     // bytes in use, without the file pages that can go at once
    uint64_t memory_max; // limit, at most the machine's memory; >= memory
};
// root: "" or a directory that holds proc/ and sys/, for tests.
void usage_read(const char *root, struct usage *ret);
// The part of their cpus that was used between two readings, 0 to 100.
double usage_percent(const struct usage *before, const struct usage *now);

#endif
