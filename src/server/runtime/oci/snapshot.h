// Snapshots of the built-in runtime (oci-runtime.md 5.3): the upper of a sandbox, copied while the
// sandbox is frozen, becomes a layer that others stand on. Nothing is copied at a restore.
//
//   layers/<snapshot id>/rootfs      with overlay's own whiteouts and opaque marks
//   layers/<snapshot id>/layer.json  the artifact
//   layers/.tmp-<snapshot id>        half made; removed at start
//   layer-refs/<user>:<snapshot id>  an empty file: that sandbox or snapshot stands on it
//
// What a sandbox stands on is told by its base, a JSON text: {"image": id, "layers": [oldest ...],
// "ids": first id of its users on the host}.
// A snapshot's artifact is the base of the sandbox that it was taken of, with itself as last layer;
// it is the base of what is restored from it. Files are the truth, also after a crash. Blocking:
// workers.
#ifndef SERVER_RUNTIME_OCI_SNAPSHOT_H
#define SERVER_RUNTIME_OCI_SNAPSHOT_H

#include <jansson.h>

#include "base/error.h"

// In a sandbox's directory while it is frozen for a copy: a server that finds it thaws the sandbox.
#define SNAPSHOT_FROZEN_FILE "frozen"
enum { SNAPSHOT_LAYERS_MAX = 32 }; // above one image; one more is refused

struct oci;
int snapshots_open(struct oci *o, struct error *err); // makes the directories, removes ruins

int snapshot_make(struct oci *o, const char *id, const char *snapshot_id, char *ret_artifact,
                  struct error *err);
int snapshot_look(struct oci *o, const char *snapshot_id, char *ret_artifact, struct error *err);
int snapshot_destroy(struct oci *o, const char *snapshot_id, struct error *err);

json_t *base_of_image(const struct oci *o, const char *image_id); // NULL: no memory
// Reads a base. NULL with err when it is none of ours.
json_t *base_read(const char *text, struct error *err);
const char *base_image(const json_t *base);
size_t base_layers(const json_t *base);
// From here to base_release() its image and layers are not removed, also over restarts. Idempotent.
int base_hold(struct oci *o, const json_t *base, const char *user, struct error *err);
void base_release(struct oci *o, const char *user); // idempotent
// Links l0 (oldest), l1 ... in a sandbox's directory: the relative names of its overlay's lowers.
int base_link(const json_t *base, int dir, struct error *err);

#endif
