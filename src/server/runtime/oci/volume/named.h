// Named volumes of the built-in runtime: directories that outlive sandboxes (oci-runtime.md 5.4).
//
//   volumes/<name>/data       what sandboxes see
//   volumes/<name>/users/<id> an empty file: that sandbox uses it
//   volumes/<name>/temporary  an empty file: it goes with its last user
//
// One that a create makes with deleteOnSandboxTermination is temporary; one that was there before
// never becomes it. Files are the truth, also after a crash. Blocking: workers.
#ifndef SERVER_RUNTIME_OCI_VOLUME_NAMED_H
#define SERVER_RUNTIME_OCI_VOLUME_NAMED_H

#include <sys/types.h>

#include "base/error.h"
#include "server/runtime/spec.h"

struct oci;
int named_start(struct oci *o, struct error *err); // makes the directory
// Whether the spec has any.
bool named_any(const struct sandbox_spec *spec);
// Makes what is missing, owned by the sandbox's user, and holds all of them until named_release();
// idempotent. VOLUME:: codes.
int named_hold(struct oci *o, const char *id, const struct sandbox_spec *spec, uid_t uid, gid_t gid,
               struct error *err);
void named_release(struct oci *o, const char *id); // idempotent

#endif
