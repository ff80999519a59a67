// The image store below <state_dir>/oci: unpacked images, published by one rename each, never
// changed afterwards.
//
// - version: "1"; a server holds a lock on it, so there is one server per store
// - images/<id>/rootfs: only ever the lower of an overlay; id is "sha256-<hex>" of the manifest (or
//   of the root tarball); the time of images/<id> is that of its last use
// - images/<id>/image.json: the record: config, size, source
// - images/.tmp-<uuid>/: a pull or import in progress, locked by its owner; an unlocked one is
//   deleted at open
// - image-names/<hex>.json: reference and platform -> image id, with the time of the last answer of
//   the registry
// - image-refs/<user>: a symbolic link whose text is the image id: that sandbox or snapshot needs
// it
// - trash/: renamed first, deleted then
//
// The command line uses the same store beside a running server: files are the truth, the index in
// memory is a copy of them that notices changes. Any thread, except where stated; everything but
// image_store_ready() and _get() blocks (workers).
#ifndef SERVER_RUNTIME_OCI_IMAGE_H
#define SERVER_RUNTIME_OCI_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "server/runtime/oci/image/manifest.h"
#include "server/runtime/oci/oci.h"
#include "server/runtime/runtime.h"

enum { IMAGE_ID_MAX = 96 }; // of image_info

// One published image. Immutable and counted.
struct image {
    unsigned refs; // private
    char id[IMAGE_ID_MAX];
    char *root; // absolute path of its rootfs
    uint64_t bytes, entries;
    struct image_config config;
    int64_t created_us; // when it was published here
};
void image_put(struct image *i); // NULL is fine

struct image_store;

enum image_store_mode {
    IMAGE_STORE_SERVER, // takes the lock of the store; EBUSY names the other server
    IMAGE_STORE_TOOL    // command line, beside a server or alone
};
// Creates what is missing, deletes what an interrupted pull left, loads the index. Settings are
// borrowed.
struct image_store *image_store_open(const struct oci_settings *s, enum image_store_mode mode,
                                     struct error *err);
void image_store_close(struct image_store *s); // NULL is fine

// Pulls and unpacks unless it is there. Errors carry codes of errors.def: IMAGE_NOT_FOUND,
// _UNAUTHORIZED, _INVALID, _PULL_FAILED, DISK_FULL, INVALID_PARAMETER (a registry that is not
// allowed); nothing is left behind by a failure. Two
// callers with one reference share one pull.
int image_store_ensure(struct image_store *s, const struct image_request *q, struct image_info *ret,
                       struct error *err);
// Whether ensure() would do nothing. Loop thread allowed: no file is read.
bool image_store_ready(struct image_store *s, const struct image_request *q,
                       struct image_info *ret);
// Imports a file or directory: root tarball (plain, gzip, xz, zstd), docker-archive, OCI layout
// directory or archive. `name` is the reference under which it will be found, without a registry it
// means docker.io/library as everywhere. For the host's platform.
int image_store_import(struct image_store *s, const char *path, const char *name,
                       struct image_info *ret, struct error *err);

// The image for its config and root. NULL when it is not there (removed meanwhile). The caller puts
// it.
struct image *image_store_get(struct image_store *s, const char *image_id);
// From here to unref the image is not removed, by anybody, also over restarts of the server.
// Idempotent; for provision (before the root is used) and adopt. `user` is a sandbox or snapshot
// id: a reference whose sandboxes/<user> and layers/<user> are both gone is dropped at the next
// start of the server. IMAGE_NOT_FOUND when the image has just been removed.
int image_store_ref(struct image_store *s, const char *image_id, const char *user,
                    struct error *err);
void image_store_unref(struct image_store *s, const char *user); // idempotent; for destroy

struct image_listing {
    char id[IMAGE_ID_MAX];
    uint64_t bytes;
    unsigned used_by;    // sandboxes and snapshots
    int64_t last_use_us; // wall clock
    char *names;         // references, separated by one space; "" when none
};
int image_store_list(struct image_store *s, struct image_listing **ret_items, size_t *ret_count,
                     struct error *err);
void image_listing_free(struct image_listing *items, size_t count);
// By reference, image id or an id prefix of at least 8 hex digits. EBUSY while a sandbox uses it.
int image_store_remove(struct image_store *s, const char *which, struct error *err);
// Applies oci.image_max_age_days and oci.image_store_max_bytes: unused images, least recently used
// first. Called after each pull and import by the store itself; call it once a day besides.
int image_store_prune(struct image_store *s, struct error *err);

#endif
