// Control groups of sandboxes: v1, v2 and hybrid behind one interface. The OCI runtime makes the
// directories and writes the limits; freezing, counting, killing and removing are ours. A sandbox
// is <parent>/<id> in every hierarchy. The trees are found below a root given at open, so that a
// fake tree of plain files can stand in (test_cgroup.c). After cgroups_open() nothing in the struct
// changes: any thread. All calls block for microseconds unless said otherwise. Source:
// oci-runtime.md 2.6, 3.2 to 3.4.
#ifndef SERVER_RUNTIME_OCI_CGROUP_H
#define SERVER_RUNTIME_OCI_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

enum { CGROUP_TREES_MAX = 24, CGROUP_NAME_MAX = 64 };

struct cgroup_tree {
    char name[CGROUP_NAME_MAX]; // directory below the root, e.g. "cpu,cpuacct"; "" on v2 alone
    int fd;                     // O_PATH
    bool plain;                 // no hierarchy is mounted there: only what a runtime littered
    bool hidden; // a v1 hierarchy that is mounted nowhere: fd is our detached mount, launchers must
                 // mount it too
};

struct cgroups {
    char root[256], parent[CGROUP_NAME_MAX];
    struct cgroup_tree trees[CGROUP_TREES_MAX];
    unsigned count;
    bool v2;            // v2 alone
    bool cover_unified; // hybrid, and the v2 half has controllers: crun refuses to run unless it is
                        // covered
    bool swap_limit;    // memory and swap can be limited together
    int memory, pids, freezer; // index into trees, -1 when there is none
    int self_procs; // cgroup.procs of our own group, for the early attach (8.1); -1: none
};

// self: "/proc/self/cgroup" or a file of that form. parent: "<prefix>-<instance>".
int cgroups_open(struct cgroups *c, const char *root, const char *self, const char *parent,
                 struct error *err);
void cgroups_close(struct cgroups *c); // removes the parent directories when they are empty
const char *cgroups_layout(const struct cgroups *c); // "v1", "v2", "hybrid", for doctor
bool cgroups_have(const struct cgroups *c, const char *controller); // v1 name

// Groups of another kind beside: the same hierarchies, the parent's name with `suffix`. It borrows
// c's descriptors; only cgroups_drop() is for it, which removes its empty parent directories.
void cgroups_beside(const struct cgroups *c, const char *suffix, struct cgroups *ret);
void cgroups_drop(const struct cgroups *c);

// Ids of which any hierarchy has a directory; an id may be told several times.
int cgroups_each(const struct cgroups *c, int (*each)(const char *id, void *arg), void *arg);
bool cgroup_exists(const struct cgroups *c, const char *id);
// Whether the process is in the sandbox's group, by /proc/<pid>/cgroup.
bool cgroup_holds(const struct cgroups *c, const char *id, pid_t pid);
// Makes a group that limits memory and processes (as far as the kernel can here), for one of ours
// that no OCI runtime starts. ret_procs: its cgroup.procs, open for writing; -1 where the two
// hierarchies are one. Who writes "0" is in it.
int cgroup_make(const struct cgroups *c, const char *id, uint64_t memory_bytes, unsigned processes,
                int ret_procs[2], struct error *err);
// What cgroup_make() made for `from` becomes the group of `to`, with its processes.
int cgroup_rename(const struct cgroups *c, const char *from, const char *to, struct error *err);
// v1: tries of 10 ms with a thaw between, because a task inside vfork() can keep the group FREEZING
// for ever; gives up after 2 s, thawed. Blocking.
int cgroup_freeze(const struct cgroups *c, const char *id, struct error *err);
int cgroup_thaw(const struct cgroups *c, const char *id, struct error *err);
bool cgroup_frozen(const struct cgroups *c, const char *id);
// Times that the kernel killed for want of memory. The event of v1 also fires on rmdir, so only the
// counter is read.
int cgroup_oom_kills(const struct cgroups *c, const char *id, uint64_t *ret);
// Bytes in use, and processes. -1: not known.
int cgroup_memory(const struct cgroups *c, const char *id, uint64_t *ret);
int cgroup_processes(const struct cgroups *c, const char *id, uint64_t *ret);
// SIGKILL to every process of the group, then a thaw. Returns how many were signalled, 0 for an
// unknown id.
int cgroup_kill(const struct cgroups *c, const char *id);
// Removes the directories of the id in every hierarchy, nested ones too; waits up to 2 s for the
// kernel to empty them, with repeated kills. An unknown id is success. Blocking.
int cgroup_remove(const struct cgroups *c, const char *id, struct error *err);

#endif
