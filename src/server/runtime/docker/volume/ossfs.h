// Buckets of Alibaba Cloud OSS, mounted on this host by the programs ossfs and ossfs2
// (docker-runtime.md 6.4, defects B10 and B11).
//
// Each volume of each sandbox is a mount of its own, <root>/<server>/<sandbox>/<volume>: no name
// that a client chooses but the volume's (a DNS label) is ever part of a path, and nobody is handed
// a mount that was made with another's keys. Workers.
#ifndef SERVER_RUNTIME_DOCKER_VOLUME_OSSFS_H
#define SERVER_RUNTIME_DOCKER_VOLUME_OSSFS_H

#include "server/runtime/docker/internal.h"

enum { OSSFS_PATH_SIZE = 4096 };

// source: the mount. At most 30 s. What a failure leaves is ossfs_release()'s. Errors:
// VOLUME::OSSFS_MOUNT_FAILED, ::UNSUPPORTED_BACKEND where the engine does not see our mounts.
int ossfs_mount(struct docker *d, const char *sandbox_id, const struct volume_spec *v,
                char source[OSSFS_PATH_SIZE], struct error *err);
// All mounts of a sandbox, known or not. Never removes a file: directories go when they are empty.
int ossfs_release(struct docker *d, const char *sandbox_id, struct error *err);

#endif
