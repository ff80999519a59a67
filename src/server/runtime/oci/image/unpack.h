// From layouts and tarballs to a directory tree, by umoci and tar in a mount namespace of their
// own. Private to image/. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_IMAGE_UNPACK_H
#define SERVER_RUNTIME_OCI_IMAGE_UNPACK_H

#include <stdbool.h>

#include "base/error.h"
#include "server/runtime/oci/image/manifest.h"
#include "server/runtime/oci/image/work.h"

// <work>/layout -> <work>/rootfs. Reads and checks the layout first; only the image that was
// checked is unpacked, and the layout is gone then.
int unpack_layout(struct work *w, const struct platform *want, struct manifest *ret,
                  struct image_config *ret_config, struct error *err);
// A tarball, plain or compressed (gzip, xz, zstd), -> <work>/rootfs.
int unpack_tar(struct work *w, int file, struct error *err);
// A directory -> <work>/layout.
int unpack_copy(struct work *w, int dir, struct error *err);

enum unpack_found { UNPACK_ROOT, UNPACK_LAYOUT, UNPACK_DOCKER };
// What <work>/rootfs is: a root, or the inside of an OCI archive or docker-archive.
enum unpack_found unpack_look(const struct work *w);
// The docker-archive `file`, which unpack_tar() has read -> <work>/layout, by skopeo.
int unpack_docker_archive(struct work *w, int file, struct error *err);

#endif
