// Starts the OCI runtime from a mount namespace of its own (oci-runtime.md 3.2): there the overlay
// and the volumes are mounted, so the server's mount table never knows them and they vanish with
// their last process.
#ifndef SERVER_RUNTIME_OCI_LAUNCH_H
#define SERVER_RUNTIME_OCI_LAUNCH_H

#include <sys/types.h>

#include "base/error.h"
#include "base/handoff.h"
#include "server/runtime/oci/cgroup.h"
#include "server/runtime/oci/volume/volume.h"

struct launcher { // the same for all sandboxes
    const struct cgroups *cgroups;
    const char *runtime; // absolute path
    int runtime_fd;      // sealed copy of crun; -1: executed by path
    bool runc;
    const char *state_path; // --root
    const char *root_path;  // the one mount point of all roots: searchable for everybody, empty
};

struct launch {
    const char *id, *path;   // directory of the sandbox
    const char *bundle_path; // with config.json; only needed until launch_run() returns
    int dir, bundle;         // the same, open
    size_t layers;           // links l0, l1 ... in the directory, oldest first, above lower
    int lower;               // detached mount of the image's root (launch_lower)
    const struct volumes *volumes;
    int pass[HANDOFF_FDS];
    int64_t time_out_ms;
};

// A read-only clone of the image's root, its ids mapped when user_namespace >= 0. Detached: no
// mount table shows it.
int launch_lower(const char *image_root, int user_namespace, int *ret_fd, struct error *err);
// Runs the runtime to its end. On success the sandbox's first process has been started and *ret_pid
// is what the runtime wrote; on failure err has its own words. The calling thread must outlive the
// runtime (it waits). Blocking: workers. ret_spawn_ns: when the runtime program began to run.
int launch_run(const struct launcher *l, const struct launch *q, pid_t *ret_pid,
               int64_t *ret_spawn_ns, struct error *err);
// A copy of the program that nothing can change: crun recognises the seals and skips its own copy
// and second exec.
int launch_seal(const char *path, struct error *err);

#endif
