// Volumes by descriptor: the source is opened beneath an allowed directory without following links,
// turned into a detached mount bound to that inode (read-only and nosuid, nodev there, ids mapped),
// and moved into place by the launcher. What happens to the path afterwards changes nothing.
// Source: oci-runtime.md 5.4. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_VOLUME_H
#define SERVER_RUNTIME_OCI_VOLUME_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "server/runtime/oci/oci.h"

enum { VOLUMES_MAX = 32 };

struct volume {
    int fd;            // detached mount
    bool is_directory; // else a regular file
    bool read_only;
    const char *mount_path; // the spec's
};
struct volumes {
    struct volume items[VOLUMES_MAX]; // by depth of mount_path, so that none hides another
    size_t count;
};

// Checks paths alone, touches nothing: mountPath absolute and clean, not the sandbox's own mounts
// or above them, no duplicates; host paths below an allowed directory. VOLUME:: codes.
// named: the directory of named volumes (named.h), -1: there are none.
int volumes_check(const struct sandbox_spec *spec, oci_list allowed, int named, struct error *err);
// user_namespace: -1, or the one whose ids the volumes are shown in. Missing directories are made
// (0755, root), but for a named volume's own.
int volumes_open(const struct sandbox_spec *spec, oci_list allowed, int named, int user_namespace,
                 struct volumes *ret, struct error *err);
void volumes_close(struct volumes *v); // zero-initialised is fine

#endif
