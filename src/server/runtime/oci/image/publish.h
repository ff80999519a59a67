// The check of a fresh tree before anything runs in it (oci-runtime.md 1.3), and the one rename
// that makes an image. Private to image/. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_IMAGE_PUBLISH_H
#define SERVER_RUNTIME_OCI_IMAGE_PUBLISH_H

#include <stdint.h>

#include "base/error.h"
#include "server/runtime/oci/image/image.h"
#include "server/runtime/oci/image/work.h"

struct publish_report {
    uint64_t bytes, entries;
    unsigned devices;  // nodes deleted
    unsigned replaced; // what was no directory or file where one must be
};
// Deletes device nodes, makes /dev /proc /sys /etc /run /tmp real directories (the first three
// empty), /etc/passwd and /etc/group regular files, adds the mount point of execd and the image
// user's (image_config.user) file of variables; counts. EFBIG past the limits, ELOOP for a tree
// deeper than 256.
int publish_check(int rootfs, const char *user, uint64_t max_bytes, uint64_t max_entries,
                  struct publish_report *ret, struct error *err);

// Checks <work>/rootfs, writes the record beside it and gives both their name. When somebody else
// was faster theirs stays and ours goes.
int publish(struct work *w, const char *image_id, const struct image_config *config,
            struct error *err);

// An image that was published in an earlier boot is counted again, once: if power was lost before
// its files were on the disk they are not what the record says. -1: it is not usable.
int publish_confirm(int images, const char *image_id, struct error *err);

#endif
