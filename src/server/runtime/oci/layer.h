// The directory of a sandbox and its writable layer, before anything runs:
//
//   upper work lower  of the overlay; upper holds /etc/{hosts,hostname,resolv.conf} as plain files,
//                     so nothing is mounted there
//   vol/<n>           mount points of volumes
//   exit log          handed to execd (exit.h); end: our verdict afterwards
//   s                 execd's listening socket
//
// As few files as can be: making one is half of what the runtime program leaves us to do.
// Modes are explicit, whatever the umask. Directories in upper take mode and owner from the
// image's, or the merged root would show ours. Source: oci-runtime.md 2.2, 2.5, 5.1. Blocking:
// workers.
#ifndef SERVER_RUNTIME_OCI_LAYER_H
#define SERVER_RUNTIME_OCI_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "server/runtime/oci/volume/volume.h"

struct layer {
    int lower;        // directory descriptor of the image's root
    bool restored;    // layers of a snapshot, which may hide what the image has, are above it
    uint32_t id_base; // host id of the sandbox's root; 0 without a user namespace
    const char *hostname, *address; // address "": none
    const char *resolv_conf;        // text of the file
    const char *workdir;            // made when the image lacks it; "" or "/": nothing to do
    uint32_t uid, gid; // the image's user, as the sandbox sees it: owner of /opt/opensandbox/.env
    const struct volumes *volumes;
};

// Makes <at>/<id>. EEXIST when it is there. On failure the half-made directory is the caller's to
// remove.
int layer_make(int at, const char *id, const struct layer *l, int *ret_dir, struct error *err);

#endif
